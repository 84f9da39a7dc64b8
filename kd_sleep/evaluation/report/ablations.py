"""What each part of the loss is worth: the distilled student with one thing changed at a time."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd_sleep.evaluation.report.marks import SMALL, rows_of, whisker
from kd_sleep.evaluation.report.systems import shape_label
from kd_sleep.evaluation.report.words import aloud, is_clear, points, show, two_lines
from kd_sleep.pages import INK, MUTED, NARROW, drawing, figure_of, table_of


def ablations(study: Mapping[str, Any] | None) -> str:
    """Forest and table; nothing where none were run."""
    found = study and study.get("ablations")
    if not found or not found["rows"]:
        return ""
    labels = f"{found['labelled_nights']:,} labelled nights ({escape(found['labelled'])})"
    caption = (
        f"The distilled student ({escape(shape_label(found['student'])).lower()}, {labels}, alpha"
        f" {found['alpha']:g}, T {found['temperature']:g}) with one thing changed, minus itself as"
        " it is. Right of 0 the change helps, left of it the student needs what was taken away. A"
        " difference is claimed only where a line stays clear of 0."
    )
    rows = [
        [
            f"{escape(row['name'])}<small>{escape(row['text'])}</small>",
            two_lines(show(row["scores"]["accuracy"])),
            two_lines(show(row["scores"]["kappa"], percent=False)),
            *(
                two_lines(points(row["difference"][key]), strong=is_clear(row["difference"][key]))
                for key in ("accuracy", "kappa")
            ),
            escape(row["conclusion"]),
        ]
        for row in found["rows"]
    ]
    heads = ["Changed", "Accuracy, %", "Kappa", "Accuracy<small>difference, points</small>"]
    heads += ["Kappa<small>difference, points</small>", "So"]
    return figure_of(ablation_forest(found["rows"]), caption) + table_of(
        heads, rows, "scores said wordy"
    )


@drawing
def ablation_forest(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """Accuracy and kappa of each ablation minus those of the default."""
    figure = Figure((NARROW, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=MUTED, linewidth=1)
    spoken = []
    for place, row in enumerate(rows):
        accuracy, kappa = row["difference"]["accuracy"], row["difference"]["kappa"]
        whisker(axes, place - 0.14, accuracy, INK)
        whisker(axes, place + 0.14, kappa, MUTED, hollow=True, marker="s")
        spoken.append(f"{row['name']}: accuracy {aloud(accuracy)}, kappa {aloud(kappa)}")
    rows_of(axes, [textwrap.fill(row["name"], 24) for row in rows])
    axes.set_xlabel("Points (hundredths), changed − as it is")
    marks = [
        Line2D([], [], color=INK, marker="o", ms=6, lw=2),
        Line2D([], [], color=MUTED, marker="s", ms=6, lw=2, markerfacecolor="none"),
    ]
    names = ["accuracy", "kappa"]
    figure.legend(marks, names, loc="outside upper left", ncols=2, fontsize=SMALL)
    return figure, f"Difference to the default student in points: {'; '.join(spoken)}."
