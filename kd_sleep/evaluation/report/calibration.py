"""Whether probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd_sleep.evaluation.report.systems import colour_of, label, ordered, shown_two
from kd_sleep.evaluation.report.words import (
    coverage,
    real,
    real_interval,
    show,
    small_print,
    two_lines,
    with_interval,
)
from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS
from kd_sleep.pages import MUTED, NARROW, drawing, figure_of, table_of

FEWEST_WINDOWS = 10  # of a reliability diagram's bin: fewer say nothing about a share


def calibration_section(results: Mapping[str, Any]) -> str:
    """Scores before and after a temperature, and reliability; nothing where none was measured."""
    calibration = results.get("calibration")
    if calibration is None:
        return ""
    systems, fitted = ordered(calibration["systems"]), calibration["validation"]
    heads = ["System", "T"]
    for score in ("NLL", "Brier", "ECE, %"):
        heads += [f"{score}<small>before</small>", f"{score}<small>after</small>"]
    rows, notes = [], []
    for name, system in systems.items():
        row = [escape(label(name)), real(system["temperature"], 2)]
        for key in ("nll", "brier", "ece"):
            for when in ("before", "after"):
                found = system[when] and system[when][key]
                shown = show(found) if found and key == "ece" else real_interval(found, 3)
                row.append(two_lines(shown))
        rows.append(row)
        if system["note"]:
            notes.append(f"{label(name)}: {system['note']}")
    validation = (
        "No temperature was fitted."
        if fitted is None
        else f"One temperature T for each system divides its logits, fitted on"
        f" {fitted['windows']:,} windows of {fitted['recordings']:,} validation nights by NLL; it"
        " changes no prediction."
    )
    bins = calibration["bins"]["number"]
    note = (
        f"{validation} Lower is better. NLL: mean of −log p of the scored stage, in nats. Brier:"
        " squared distance between probabilities and truth, summed over stages, 0 to 2. ECE: mean"
        f" distance between confidence and accuracy over {bins} bins of equal width of the highest"
        f" probability; with few windows it is too high. {' '.join(notes)}"
    )
    caption = (
        "How often the most probable stage is right, against the probability it was given."
        " On the dotted diagonal they agree; below it a system is too sure of itself. Bins of fewer"
        f" than {FEWEST_WINDOWS} windows are left out. Lines: {coverage(results)}."
    )
    return "".join(
        [
            figure_of(reliability(calibration, shown_two(systems)), caption),
            table_of(heads, rows, "scores"),
            small_print(note),
            _calibration_change(calibration["distillation"]),
        ]
    )


def _calibration_change(differences: Mapping[str, Any] | None) -> str:
    """The two students' difference, after the temperature where there is one."""
    if differences is None:
        return ""
    when = "after" if differences["after"] else "before"
    found = differences[when]
    texts = [f"NLL {with_interval(found['nll'], 3)}", f"Brier {with_interval(found['brier'], 3)}"]
    ece = " ".join(show(found["ece"]))
    return (
        f"<p><b>{escape(label(DISTILLED))}</b> minus <b>{escape(label(HARD_LABELS))}</b>, {when}"
        f" the temperature: {escape(', '.join(texts))}, ECE {ece} points; below 0 is better.</p>"
    )


@drawing
def reliability(calibration: Mapping[str, Any], names: Sequence[str]) -> tuple[Figure, str]:
    """Accuracy against confidence, a panel for a system, before and after its temperature.

    Args:
      calibration: what `calibration.calibration` returns.
      names: of the systems to draw.
    """
    figure = Figure((NARROW, 3.2), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    lines: dict[str, Line2D] = {}
    spoken = []
    for axes, name in zip(panels, names, strict=True):
        axes.plot([0, 100], [0, 100], ":", color=MUTED, linewidth=1)
        eces = []
        for when, colour, marker in (
            ("before", MUTED, "s"),
            ("after", colour_of(name), "o"),
        ):
            found = calibration["systems"][name][when]
            if found is None:
                continue
            lines.setdefault(when, _draw_bins(axes, found["reliability"], colour, marker))
            if (ece := found["ece"]["value"]) is not None:
                eces.append(f"{100 * ece:.1f} {when}")
        axes.set(xlim=(20, 101), ylim=(0, 101), xticks=range(25, 101, 25), yticks=range(0, 101, 25))
        axes.set_title(label(name).replace(" (", "\n("))
        axes.set_xlabel("Confidence, %")
        spoken.append(f"{label(name)}: {' and '.join(eces) or 'not defined'}")
    panels[0].set_ylabel("Accuracy, %")
    texts = [f"{when} the temperature" for when in lines]
    figure.legend(list(lines.values()), texts, loc="outside lower left", ncols=2)
    errors = "; ".join(spoken)
    return figure, f"Accuracy against confidence. Expected calibration error, %: {errors}."


def _draw_bins(axes: Axes, bins: Sequence[Mapping[str, Any]], colour: str, marker: str) -> Line2D:
    """Bins with enough windows, the line through them, and their intervals."""
    filled = [row for row in bins if row["windows"] >= FEWEST_WINDOWS]
    for row in filled:
        if row["accuracy"]["low"] is not None:
            ends = [100 * row["accuracy"]["low"], 100 * row["accuracy"]["high"]]
            axes.plot([100 * row["confidence"]] * 2, ends, color=colour, linewidth=0.8)
    points = [(100 * row["confidence"], 100 * row["accuracy"]["value"]) for row in filled]
    return axes.plot(*np.reshape(points, (-1, 2)).T, marker + "-", color=colour, ms=4)[0]
