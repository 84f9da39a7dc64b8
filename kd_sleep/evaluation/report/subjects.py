"""From subject to subject, and night to night."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kd_sleep import metrics
from kd_sleep.evaluation.report.systems import colour_of, label, ordered
from kd_sleep.pages import INK, MUTED, NARROW, details, drawing, figure_of, table_of
from kd_sleep.stages import STAGE_NAMES


def subjects(results: Mapping[str, Any]) -> str:
    """How far subjects lie apart, and every recording by itself."""
    systems = ordered(results["systems"])
    spread = figure_of(
        subject_spread(systems),
        "A dot is a subject with all of their nights, a thin line follows one subject from system"
        " to system, the upright bar is the median subject.",
    )
    return spread + _recordings(systems)


def _recordings(systems: Mapping[str, Any]) -> str:
    rows = [
        [
            escape(first["recording_id"]),
            escape(first["subject_id"]),
            f"{first['windows']:,}",
            *("–" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}" for row in night),
        ]
        for night in zip(*(s["per_recording"] for s in systems.values()), strict=True)
        for first in night[:1]
    ]
    heads = ["Recording", "Subject", "Windows", *(escape(label(name)) for name in systems)]
    listing = table_of(heads, rows, "scores", "Accuracy, %")
    return details("Every recording", listing)


@drawing
def subject_spread(systems: Mapping[str, Any]) -> tuple[Figure, str]:
    """Accuracy of every subject under every system; a line follows a subject."""
    names = list(systems)
    by_subject = [_subject_accuracy(systems[name]["per_recording"]) for name in names]
    shares = np.array([[person[s] for s in sorted(person)] for person in by_subject])
    figure = Figure((NARROW, 0.8 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    axes.plot(100 * shares, rows, color=MUTED, linewidth=0.6, alpha=0.45)
    for row, name in enumerate(names):
        colour = colour_of(name)
        axes.plot(
            100 * shares[row], np.full(shares.shape[1], row), "o", color=colour, ms=4, alpha=0.7
        )
        axes.plot(100 * np.median(shares[row]), row, "|", color=INK, markersize=18, mew=2)
    axes.set_yticks(rows, [label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("Accuracy of a subject, %")
    spoken = ", ".join(
        f"{label(name)} {100 * row.min():.0f} to {100 * row.max():.0f}, median"
        f" {100 * np.median(row):.0f}"
        for name, row in zip(names, shares, strict=True)
    )
    return figure, f"Accuracy of {shares.shape[1]} subjects in percent: {spoken}."


def _subject_accuracy(per_recording: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    counts: dict[str, NDArray] = defaultdict(lambda: np.zeros((len(STAGE_NAMES),) * 2))
    for row in per_recording:
        if row["windows"]:
            counts[row["subject_id"]] += row["confusion"]
    return {subject: float(metrics.accuracy(total)) for subject, total in counts.items()}
