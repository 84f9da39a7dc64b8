"""How training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from kd_sleep.evaluation.report.systems import colour_of, label
from kd_sleep.pages import NARROW, drawing, figure_of

CURVE_LABELS = {
    "loss": "Training loss",
    "validation_kappa": "Kappa on validation",
    "validation_accuracy": "Accuracy on validation",
}


def training_section(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Loss and validation scores against steps; nothing where nothing was logged."""
    if not any(set(row) & set(CURVE_LABELS) for rows in curves.values() for row in rows):
        return ""
    caption = "Losses of two systems are not comparable: each has terms of its own."
    return figure_of(training_curves(curves), caption)


@drawing
def training_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Figure, str]:
    """Loss and validation scores against steps, one panel for each that any row has."""
    points = {
        (key, name): [
            (row["step"], row[key])
            for row in rows
            if row.get("step") is not None and row.get(key) is not None
        ]
        for key in CURVE_LABELS
        for name, rows in curves.items()
    }
    shown = [key for key in CURVE_LABELS if any(points[key, name] for name in curves)]
    figure = Figure((NARROW, 1.2 + 1.6 * len(shown)), layout="constrained")
    lines, spoken = {}, []
    panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    for axes, key in zip(panels, shown, strict=True):
        for name in curves:
            if track := points[key, name]:
                colour = colour_of(name)
                lines[name] = axes.plot(*zip(*track, strict=True), "o-", color=colour, ms=3)[0]
                spoken.append(f"{CURVE_LABELS[key]}, {label(name)}: last {track[-1][1]:.3g}")
        axes.set_title(CURVE_LABELS[key])
    panels[-1].set_xlabel("Step")
    figure.legend(lines.values(), map(label, lines), loc="outside upper left")
    return figure, f"Training curves. {'; '.join(spoken)}."
