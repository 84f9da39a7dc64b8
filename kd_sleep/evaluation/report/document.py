"""The report: one HTML file that a sleep researcher can read, mail and print.

It needs no network and no other file. Its words follow from the numbers by the rule of
`scores.verdict`; figures that others published stand apart from ours; where the data was simulated
every section says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from kd_sleep.evaluation.plain_json import to_json
from kd_sleep.evaluation.report import study_sections as study
from kd_sleep.evaluation.report import system_sections as systems
from kd_sleep.evaluation.report.night_gallery import ReportNight, nights_section
from kd_sleep.evaluation.report.opening import opening
from kd_sleep.evaluation.report.sqi_section import sqi_section
from kd_sleep.evaluation.report.wording import small_print
from kd_sleep.evaluation.results import Results
from kd_sleep.pages import contents, details, page, section, table_of

TITLE = "Sleep stages from the ballistocardiogram"
PUBLISHED_TITLE = "Published by others"
# System, sensor, test data, accuracy and kappa, as their authors give them, and DOI; four stages.
PUBLISHED = (
    ("Jones 2024, whole night", "ECG", "five NSRR cohorts", "84.2", "0.77",
     "10.1016/j.compbiomed.2024.108545"),
    ("Sridhar 2020, whole night", "heart rate from ECG", "SHHS", "77", "0.66",
     "10.1038/s41746-020-0291-x"),
    ("SleepPPG-Net", "PPG", "MESA, CFS", "–", "0.75", "10.1109/JBHI.2022.3225363"),
    ("SleepNetZero", "heart rate, breath, movement", "PSG", "80.3", "0.72", "10.1145/3699743"),
    ("SleepNetZero", "BCG pads", "265 users", "69.7", "0.59", "10.1145/3699743"),
    ("Claim of the article: teacher", "ECG", "SHHS", "85", "–", ""),
    ("Claim of the article: BCG alone", "BCG", "not stated", "71", "–", ""),
    ("Claim of the article: distilled", "BCG", "not stated", "79", "–", ""),
)  # fmt: skip


def write_report(
    path: Path,
    results: Results,
    nights: Sequence[ReportNight],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Writes the report as one HTML file; a section without its results is left out.

    Args:
      path: where to write it.
      results: with `data`.
      nights: the nights to draw; `night_gallery.report_nights` chooses fair ones.
      curves: system -> rows with "step" and any of "loss", "validation_kappa" and
        "validation_accuracy".
    """
    assert results.data is not None
    found = results.study
    parts = {
        "The article’s claims": study.claims_section(found),
        "Nights": nights_section(nights),
        "Sleep measures": systems.sleep_section(results),
        "What distillation changed": study.gains_section(results),
        "How many nights need labels": study.amounts_section(found),
        "What each part of the loss is worth": study.ablations_section(found),
        "What is lost from ECG to BCG": study.ladder_section(results.ladder),
        "Each stage": systems.stages_section(results),
        "From subject to subject": systems.subjects_section(results),
        "Which windows to trust": sqi_section(results.sqi),
        "Calibration": systems.calibration_section(results),
        "Training": systems.training_section(curves),
        "How it was made": _provenance(results),
    }
    tag = "simulated" if results.data.simulated else ""
    sections = {title: section(title, html, tag=tag) for title, html in parts.items() if html}
    last = sections.popitem()
    sections |= {PUBLISHED_TITLE: _published(), last[0]: last[1]}
    body = [opening(TITLE, results), contents(sections), *sections.values()]
    path.write_text(page(TITLE, "\n".join(body)), encoding="utf-8")


def _published() -> str:
    """A section of its own: figures that nobody computed here."""
    note = (
        "None of this was computed here: other people, sensors, scorers and splits. Do not read it"
        " against the tables of this report. The article's three figures are its claims, not"
        " reproduced here."
    )
    rows = [
        [*texts, f'<a href="https://doi.org/{doi}">{doi}</a>' if doi else "–"]
        for *texts, doi in PUBLISHED
    ]
    heads = ["System", "Sensor", "Tested on", "Accuracy, %", "Kappa", "DOI"]
    return section(PUBLISHED_TITLE, small_print(note), table_of(heads, rows, "published"))


def _provenance(results: Results) -> str:
    blocks = {key: getattr(results, key) for key in ("data", "bootstrap", "provenance")}
    text = escape(json.dumps(to_json(blocks), indent=2, ensure_ascii=False, default=str))
    return details("Data, settings and versions", f"<pre>{text}</pre>")
