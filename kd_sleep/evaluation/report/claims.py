"""What the article claims and others published, and what stands beside it here."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from kd_sleep.evaluation.report.words import small_print
from kd_sleep.pages import table_of

# System, sensor, test data, accuracy and kappa, as their authors give them; four stages each.
PUBLISHED = (
    ("Jones 2024, whole night", "ECG", "five NSRR cohorts", "84.2", "0.77"),
    ("Sridhar 2020, whole night", "heart rate from ECG", "SHHS", "77", "0.66"),
    ("SleepPPG-Net", "PPG", "MESA, CFS", "–", "0.75"),
    ("SleepNetZero", "heart rate, breath, movement", "PSG", "80.3", "0.72"),
    ("SleepNetZero", "BCG pads", "265 users", "69.7", "0.59"),
    ("Claim of the article: teacher", "ECG", "SHHS", "85", "–"),
    ("Claim of the article: BCG alone", "BCG", "not stated", "71", "–"),
    ("Claim of the article: distilled", "BCG", "not stated", "79", "–"),
)


def claims(study: Mapping[str, Any] | None, *, simulated: bool) -> str:
    """The article's sentences, each beside what was found; nothing without a study."""
    if not study or not study["article"]:
        return ""
    here = "Found here, simulated" if simulated else "Found here"
    rows = [
        [escape(row["claim"]), escape(row["here"]), escape(row["verdict"])]
        for row in study["article"]
    ]
    note = (
        "The article: “Knowledge distillation: teaching a BCG model with ECG labels”. Its figures"
        " are of other people, sensors and splits, which it does not describe: what can be compared"
        " is the direction and the rough size, not the last digit."
    )
    return table_of(["The article says", here, "So"], rows, "claims") + small_print(note)


def published() -> str:
    """A block of its own: figures that nobody computed here."""
    note = (
        "None of this was computed here: other people, sensors, scorers and splits. Do not read it"
        " against the tables of this report. The article's three figures are its claims, not"
        " reproduced here."
    )
    heads = ["System", "Sensor", "Tested on", "Accuracy, %", "Kappa"]
    return (
        f"<aside><h2>Published by others, for orientation</h2>{small_print(note)}"
        f"{table_of(heads, PUBLISHED, 'published')}</aside>"
    )
