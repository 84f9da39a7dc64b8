"""What distillation changed: against hard labels, by stage, and of the teacher's lead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd_sleep.evaluation.report.amounts import amounts_of, shapes_of
from kd_sleep.evaluation.report.marks import SMALL, not_defined, rows_of, upright, whisker
from kd_sleep.evaluation.report.systems import METRIC_LABELS, label, shape_label
from kd_sleep.evaluation.report.words import (
    aloud,
    is_clear,
    points,
    show,
    small_print,
    two_lines,
)
from kd_sleep.pages import (
    INK,
    MUTED,
    NARROW,
    STAGE_COLOURS,
    details,
    drawing,
    figure_of,
    stage_chip,
    table_of,
)
from kd_sleep.stages import STAGE_NAMES


def gains(results: Mapping[str, Any]) -> str:
    """Of one pair of students, or of every pair of a study."""
    study = results.get("study")
    if study and study["gains"]:
        return _of_study(study["gains"])
    return _of_pair(results["distillation"])


def _of_pair(distillation: Mapping[str, Any] | None) -> str:
    if distillation is None:
        return "<p>Only one kind of student was scored, so there is no difference to show.</p>"
    recovered = distillation["teacher_lead_recovered"]
    share = "{} % {} of the teacher's lead in accuracy is recovered.".format(*show(recovered))
    return figure_of(
        gain_forest(distillation),
        f"{escape(label(distillation['distilled']))} minus"
        f" {escape(label(distillation['baseline']))}, on the same subjects and draws. A change"
        " is claimed only where a line stays clear of 0."
        f" {escape(recovered['reason'] or share)}",
    )


def _of_study(rows: Sequence[Mapping[str, Any]]) -> str:
    by_stage = (
        "Distilled minus hard labels in the recall of each stage, the same student and the same"
        " labelled nights, with 95 % intervals over subjects. A change is claimed only where a line"
        " stays clear of 0. The article says that REM gains most."
    )
    lead = (
        "How much of what the teacher has over hard labels, in accuracy, distillation gives the"
        " student: 0 % is hard labels, 100 % the teacher. Where the teacher's own lead is not"
        " clear, a share of it has no meaning and none is given."
    )
    reasons = dict.fromkeys(
        reason for row in rows if (reason := row["teacher_lead_recovered"].get("reason"))
    )
    return (
        figure_of(stage_gains(rows), by_stage)
        + figure_of(recovered_lead(rows), f"{lead} {escape(' '.join(reasons))}")
        + _tables(rows)
    )


def _tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Overall, with the conclusion; and stage by stage."""
    overall, by_stage = [], []
    for row in rows:
        changes = row["differences"]
        first = [
            escape(shape_label(row["student"])),
            f"{row['labelled_nights']:,}<small>{escape(row['labelled'])}</small>",
        ]
        overall.append(
            [
                *first,
                *(_change(changes[key]) for key in METRIC_LABELS),
                two_lines(show(row["teacher_lead_recovered"])),
                escape(row["conclusion"]),
            ]
        )
        for key, name in (("recall", "recall"), ("f1", "F1")):
            by_stage.append([*first, name, *(_change(changes[key][s]) for s in STAGE_NAMES)])
    heads = ["Student", "Labelled nights", *METRIC_LABELS.values()]
    heads += ["Teacher’s lead recovered, %", "So, in accuracy"]
    stage_heads = ["Student", "Labelled nights", "Change of", *map(stage_chip, STAGE_NAMES)]
    caption = "Distilled minus hard labels, points (hundredths of accuracy, kappa, F1 and recall)"
    return (
        table_of(heads, overall, "scores said", caption)
        + small_print("Bold: the 95 % interval excludes 0.")
        + details("Stage by stage", table_of(stage_heads, by_stage, "scores", caption))
    )


def _change(interval: Mapping[str, Any]) -> str:
    return two_lines(points(interval), strong=is_clear(interval))


@drawing
def gain_forest(distillation: Mapping[str, Any]) -> tuple[Figure, str]:
    """Distilled minus baseline, every metric with its interval, in points."""
    differences = distillation["differences"]
    rows = [(text, differences[key], INK) for key, text in METRIC_LABELS.items()]
    for stage, colour in STAGE_COLOURS.items():
        rows.append((f"{stage} recall", differences["recall"][stage], colour))
    figure = Figure((NARROW, 2.9), layout="constrained")
    axes = figure.subplots()
    for row, (_, interval, colour) in enumerate(rows):
        whisker(axes, row, interval, colour)
        if interval["value"] is None:
            not_defined(axes, row, 0)
    axes.axvline(0, color=MUTED, linewidth=1)
    rows_of(axes, [text for text, _, _ in rows])
    axes.set_xlabel("Points (hundredths), distilled − hard labels")
    spoken = ", ".join(f"{text} {aloud(interval)}" for text, interval, _ in rows)
    return figure, f"Distilled minus hard labels, in points: {spoken}."


@drawing
def stage_gains(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """Change of each stage's recall against labelled nights, a panel for a stage."""
    shapes, amounts = shapes_of(rows), amounts_of(rows)
    figure = Figure((NARROW, 4.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    spoken = []
    for axes, (stage, colour) in zip(panels, STAGE_COLOURS.items(), strict=True):
        axes.axhline(0, color=MUTED, linewidth=1)
        for row in rows:
            gain = row["differences"]["recall"][stage]
            number = shapes.index(row["student"])
            place = amounts.index((row["labelled_nights"], row["labelled"]))
            shift = (number - (len(shapes) - 1) / 2) * 0.24
            upright(axes, place + shift, gain, colour, hollow=number > 0)
            spoken.append(
                f"{stage}, {shape_label(row['student'])}, {row['labelled_nights']} nights"
                f" {aloud(gain)}"
            )
        axes.set_title(stage)
        axes.set_xlim(-0.5, len(amounts) - 0.5)
        axes.set_xticks(range(len(amounts)), [f"{nights:,}" for nights, _ in amounts])
    figure.supylabel("Points of recall", fontsize=10)
    figure.supxlabel("Training nights with labels", fontsize=10)
    _shape_legend(figure, shapes)
    return figure, f"Change of recall by distillation, in points: {'; '.join(spoken)}."


def _shape_legend(figure: Figure, shapes: Sequence[str]) -> None:
    """Full dots for the first student, hollow ones for the others."""
    if len(shapes) < 2:
        return
    dots = [
        Line2D([], [], color=INK, marker="o", ms=5, linestyle="none",
               markerfacecolor=INK if number == 0 else "none")
        for number in range(len(shapes))
    ]  # fmt: skip
    names = [shape_label(shape) for shape in shapes]
    figure.legend(dots, names, loc="outside upper left", ncols=2, fontsize=SMALL)


@drawing
def recovered_lead(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """Share of the teacher's lead recovered, a row for a student with so many labels."""
    names = [f"{shape_label(r['student'])}, {r['labelled_nights']:,}" for r in rows]
    figure = Figure((NARROW, 0.8 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for at, style in ((0, "-"), (100, ":")):
        axes.axvline(at, color=MUTED, linestyle=style, linewidth=1)
    spoken = []
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        share = row["teacher_lead_recovered"]
        whisker(axes, place, share, INK)
        if share["value"] is None:
            not_defined(axes, place, 0)
        spoken.append(f"{name} labelled nights {aloud(share)}")
    rows_of(axes, names)
    axes.set_xlabel("Teacher's lead recovered, %")
    return figure, f"Share of the teacher's lead in accuracy recovered, %: {'; '.join(spoken)}."
