"""Students against how many nights carry labels: the curve, and every cell behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd_sleep.evaluation.report.marks import label_ends, upright
from kd_sleep.evaluation.report.systems import (
    LOSS_LABELS,
    SHAPE_LABELS,
    colour_of,
    label,
    plain,
    shape_label,
)
from kd_sleep.evaluation.report.words import (
    NOT_DEFINED,
    aloud,
    cells,
    real,
    show,
    small_print,
    two_lines,
)
from kd_sleep.evaluation.scores import MAJORITY, TIME_OF_NIGHT
from kd_sleep.pages import INK, MUTED, NARROW, details, drawing, figure_of, stage_chip, table_of
from kd_sleep.stages import STAGE_NAMES

DRAWN = {"accuracy": ("Accuracy, %", 100.0), "kappa": ("Kappa", 1.0)}  # axis, scale
_APART = 0.09  # of a step of the x axis, between the two losses
_FLOORS = {TIME_OF_NIGHT: ("time of night", ":"), MAJORITY: ("majority", "--")}

Amount = tuple[int, str]  # labelled nights, and what the study calls them


def amounts(study: Mapping[str, Any] | None) -> str:
    """The curve of accuracy and kappa, and a table of the cells; nothing without a study."""
    if not study or not study["cells"]:
        return ""
    seeds = study["seeds"]
    runs = f"{len(seeds)} training runs" if len(seeds) > 1 else "one training run"
    named = "; ".join(
        f"{nights:,}: {name}" for nights, name in amounts_of(study["cells"]) if str(nights) != name
    )
    caption = (
        "How good a student gets with the scored stages of so many training nights; steps along the"
        " axis are not to scale. A student with context sees neighbouring windows, too; the"
        " article's sees a single one. <b>Distilled</b>: the teacher's soft labels on all training"
        " nights besides; <b>hard labels</b>: those scored stages alone."
        f" Large dots and lines: {runs} of a cell and the 95 % interval over subjects; small dots:"
        " each training run. Above, the teacher, which sees the ECG; below, two floors that see no"
        f" signal at all. {escape(named)}."
    )
    return figure_of(amount_curves(study), caption) + details(
        "Every cell: scores, settings and training runs", _cells(study)
    )


def amounts_of(rows: Sequence[Mapping[str, Any]]) -> list[Amount]:
    """The amounts of labels that rows have, fewest first."""
    return sorted({(row["labelled_nights"], row["labelled"]) for row in rows})


def shapes_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The students that rows have, in the order of the house."""
    there = dict.fromkeys(row["student"] for row in rows)
    return [name for name in SHAPE_LABELS if name in there] + [
        name for name in there if name not in SHAPE_LABELS
    ]


@drawing
def amount_curves(study: Mapping[str, Any]) -> tuple[Figure, str]:
    """Accuracy and kappa against labelled nights: a row for a metric, a column for a student."""
    shapes, amounts = shapes_of(study["cells"]), amounts_of(study["cells"])
    figure = Figure((NARROW, 0.4 + 2.3 * len(DRAWN)), layout="constrained")
    panels = figure.subplots(len(DRAWN), len(shapes), sharex=True, sharey="row", squeeze=False)
    spoken = []
    for row, (metric, (title, _)) in zip(panels, DRAWN.items(), strict=True):
        ends: list[tuple[float, str, str]] = []
        for axes, shape in zip(row, shapes, strict=True):
            ends = _draw_levels(axes, study, metric)
            for place, loss in enumerate(LOSS_LABELS):
                track = {
                    (cell["labelled_nights"], cell["labelled"]): cell
                    for cell in study["cells"]
                    if (cell["student"], cell["loss"]) == (shape, loss)
                }
                last = _draw_track(
                    axes, track, amounts, metric, (place - 0.5) * _APART, colour_of(loss)
                )
                if last is not None:
                    ends.append((last, LOSS_LABELS[loss], colour_of(loss)))
                spoken += [
                    f"{shape_label(shape)}, {LOSS_LABELS[loss]}, {nights} nights:"
                    f" {aloud(cell['scores'][metric])}"
                    for (nights, _), cell in sorted(track.items())
                    if metric == "accuracy"
                ]
            axes.set_xlim(-0.4, len(amounts) - 0.6)
        row[0].set_ylabel(title)
        label_ends(row[-1], ends)
    for axes, shape in zip(panels[0], shapes, strict=True):
        axes.set_title(shape_label(shape), fontsize=9)
    for axes in panels[-1]:
        axes.set_xticks(range(len(amounts)), [f"{nights:,}" for nights, _ in amounts])
    figure.supxlabel("Training nights with labels", fontsize=10)
    levels = ", ".join(
        f"{label(name)} {aloud(scores['accuracy'])}" for name, scores in _levels(study).items()
    )
    return figure, f"Accuracy in percent by labelled nights. {'; '.join(spoken)}. {levels}."


def _levels(study: Mapping[str, Any]) -> dict[str, Any]:
    """What does not depend on the labels: the teacher where there is one, and the floors."""
    teacher = {"teacher": study["teacher"]} if study.get("teacher") else {}
    return teacher | {name: study["floors"][name] for name in _FLOORS if name in study["floors"]}


def _draw_levels(axes: Axes, study: Mapping[str, Any], metric: str) -> list[tuple[float, str, str]]:
    """Teacher and floors as level lines; returns where they are, for their names."""
    ends, (_, scale) = [], DRAWN[metric]
    for name, scores in _levels(study).items():
        value = scores[metric]["value"]
        if value is None:
            continue
        text, style = _FLOORS.get(name, ("teacher", "-"))
        colour = INK if name == "teacher" else MUTED
        axes.axhline(scale * value, color=colour, linestyle=style, linewidth=1.1)
        if name == "teacher" and scores[metric]["low"] is not None:
            band = (scale * scores[metric]["low"], scale * scores[metric]["high"])
            axes.axhspan(*band, color=MUTED, alpha=0.15, linewidth=0)
        ends.append((scale * value, text, colour))
    return ends


def _draw_track(
    axes: Axes,
    track: Mapping[Amount, Mapping[str, Any]],
    amounts: Sequence[Amount],
    metric: str,
    shift: float,
    colour: str,
) -> float | None:
    """One loss of one student over the amounts; returns where it ends."""
    _, scale = DRAWN[metric]
    drawn = [
        (amounts.index(amount) + shift, track[amount]) for amount in amounts if amount in track
    ]
    line = [
        (x, scale * cell["scores"][metric]["value"])
        for x, cell in drawn
        if cell["scores"][metric]["value"] is not None
    ]
    for x, cell in drawn:
        upright(axes, x, cell["scores"][metric], colour, scale=scale)
        seeds = [scale * run[metric] for run in cell["by_seed"] if run[metric] is not None]
        beside = x + (2.2 * _APART if shift > 0 else -2.2 * _APART)
        axes.plot([beside] * len(seeds), seeds, ".", color=colour, ms=3.5, alpha=0.75)
    if not line:
        return None
    axes.plot(*zip(*line, strict=True), color=colour, linewidth=1.4)
    return line[-1][1]


def _cells(study: Mapping[str, Any]) -> str:
    heads = ["Student", "Labelled nights", "Loss", "Accuracy, %", "Kappa", "Macro F1"]
    heads += [f"{stage_chip(stage)}<small>recall, %</small>" for stage in STAGE_NAMES]
    scores, settings = [], []
    for cell in sorted(study["cells"], key=lambda c: (c["student"], -c["labelled_nights"])):
        first = [
            escape(shape_label(cell["student"])),
            f"{cell['labelled_nights']:,}<small>{escape(cell['labelled'])}</small>",
            escape(LOSS_LABELS.get(cell["loss"], plain(cell["loss"]))),
        ]
        scores.append([*first, *map(two_lines, cells(cell["scores"]))])
        settings.append([*first, *_settings(cell)])
    levels = [
        [escape(label(name)), "", "", *map(two_lines, cells(level))]
        for name, level in _levels(study).items()
    ]
    chosen = ["Student", "Labelled nights", "Loss", "alpha", "T", "Learning rate"]
    chosen += ["Label smoothing", "Settings tried", "Kappa on validation"]
    runs = "Each run<small>accuracy, %; kappa; seed; step</small>"
    note = (
        "Settings were chosen by kappa on validation nights, for each cell by itself, among as many"
        " for hard labels as for distillation; no test night had a say. alpha: weight of the scored"
        " stages against the teacher's soft labels; T: the temperature both are compared at."
    )
    return (
        table_of(heads, scores + levels, "scores")
        + table_of([*chosen, runs], settings, "scores")
        + small_print(note)
    )


def _settings(cell: Mapping[str, Any]) -> list[str]:
    """What was chosen for a cell, and its runs."""
    runs = "".join(
        f"<small>{show(NOT_DEFINED | {'value': run['accuracy']})[0]}; {real(run['kappa'], 2)};"
        f" {run['seed']}; {run['step']:,}</small>"
        for run in cell["by_seed"]
    )
    settings = [cell[key] for key in ("alpha", "temperature", "learning_rate", "label_smoothing")]
    return [
        *("–" if value is None else f"{value:g}" for value in settings),
        f"{cell['tried']}",
        real(cell["validation_kappa"], 3),
        runs or "–",
    ]
