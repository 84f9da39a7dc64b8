"""The information ladder: bits per window from the prior to the BCG as it was recorded."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from kd_sleep.evaluation.information import RISE_BY_CHANCE
from kd_sleep.evaluation.report.marks import SMALL, not_defined, rows_of, whisker
from kd_sleep.evaluation.report.words import (
    findings,
    is_clear,
    real,
    real_interval,
    small_print,
    two_lines,
)
from kd_sleep.pages import (
    INK,
    MUTED,
    NARROW,
    details,
    drawing,
    figure_of,
    stage_chip,
    table_of,
)
from kd_sleep.stages import STAGE_NAMES

# From Okabe & Ito's palette, as the stages' and systems' colours are, but none of the stages'.
GAIN, LOSS = "#009E73", "#D55E00"
_WRAP = 26  # characters of a rung's name on a line


def ladder_section(ladder: Mapping[str, Any] | None) -> str:
    """Waterfall, named losses and the rungs; nothing where no ladder was climbed."""
    if not ladder:
        return ""
    seeds = ladder.get("seeds", [])
    trained = f" Every rung is {len(seeds)} training runs." if len(seeds) > 1 else ""
    gap = ladder["gap"]
    caption = (
        "Usable information: by how much a system of one and the same kind raises the probability"
        " of the scored stage, in bits per 30-s window, when it is shown ever less; 0 is knowing"
        " how common each stage is. A bar is what a rung adds or loses against the one above it,"
        " the thin line the 95 % interval of that step over subjects; hatched bars go against"
        f" expectation. From <b>{escape(gap['from'])}</b> to <b>{escape(gap['to'])}</b>:"
        f" {' '.join(real_interval(gap['change'], 3, sign=True))} bits.{trained}"
    )
    noted = {step["to"]: step["note"] for step in ladder["steps"] if step["note"]}
    notes = list(dict.fromkeys(note.removesuffix(RISE_BY_CHANCE) for note in noted.values()))
    if chance := [to for to, note in noted.items() if note.endswith(RISE_BY_CHANCE)]:
        notes.append(f"It may be chance at {' and '.join(chance)}: the interval includes 0.")
    return "".join(
        [
            findings(ladder.get("about", [])),
            figure_of(waterfall(ladder), caption),
            _losses(ladder.get("losses", [])),
            small_print(" ".join(notes)),
            details("Every rung, by stage", _rungs(ladder)),
        ]
    )


def _losses(losses: Sequence[Mapping[str, Any]]) -> str:
    """What each named part of the sensor costs."""
    if not losses:
        return ""
    rows = [
        [
            f"{escape(loss['name'])}<small>{escape(loss['text'])}</small>",
            two_lines(real_interval(loss["change"], 3, sign=True), strong=is_clear(loss["change"])),
            *_by_stage(loss["by_stage"], sign=True),
        ]
        for loss in losses
    ]
    heads = ["What is lost", "Bits per window", *map(stage_chip, STAGE_NAMES)]
    caption = (
        "What each part of the way from the ECG to the BCG changes, in bits per window. Below 0,"
        " information is lost."
    )
    return figure_of(loss_forest(losses), caption) + table_of(heads, rows, "scores wordy")


def _rungs(ladder: Mapping[str, Any]) -> str:
    rows = [
        [
            escape(rung["name"]),
            two_lines(real_interval(rung["bits"], 3)),
            two_lines(real_interval(step["change"], 3, sign=True)),
            *_by_stage(rung["by_stage"]),
        ]
        for rung, step in zip(ladder["rungs"], ladder["steps"], strict=True)
    ]
    heads = ["Shown", "Bits per window", "Step", *map(stage_chip, STAGE_NAMES)]
    return table_of(heads, rows, "scores wordy", "Usable information, and its mean in each stage")


def _by_stage(by_stage: Mapping[str, Any], *, sign: bool = False) -> list[str]:
    return [two_lines(real_interval(by_stage[stage], 3, sign=sign)) for stage in STAGE_NAMES]


@drawing
def waterfall(ladder: Mapping[str, Any]) -> tuple[Figure, str]:
    """Bits per window on every rung, each bar the step from the rung above.

    A step that goes the other way than its rung suggests is hatched. The line at a bar's end is the
    interval of the step.

    Args:
      ladder: what `information.Ladder.measure` returns.
    """
    steps, rungs = ladder["steps"], ladder["rungs"]
    figure = Figure((NARROW, 0.9 + 0.5 * len(steps)), layout="constrained")
    axes = figure.subplots()
    start, spoken = 0.0, []
    reach = [0.0]
    for row, (step, rung) in enumerate(zip(steps, rungs, strict=True)):
        change, end = step["change"], rung["bits"]["value"]
        axes.barh(
            row,
            change["value"],
            left=start,
            height=0.6,
            color=GAIN if change["value"] >= 0 else LOSS,
            hatch="////" if step["contrary"] else None,
            edgecolor=INK if step["contrary"] else "none",
            linewidth=0.6 if step["contrary"] else 0.0,
        )
        sides = [start, end]
        if change["low"] is not None:
            sides += [start + change["low"], start + change["high"]]
            axes.plot(sides[2:], [row, row], color=INK, linewidth=1.4)
        axes.annotate(
            real(change["value"], 3, sign=True),
            (max(sides), row),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
        )
        if row + 1 < len(steps):
            axes.plot([end, end], [row + 0.3, row + 0.7], color=MUTED, linewidth=0.8)
        reach += sides
        spoken.append(
            f"{step['to']} {real(end, 3)} ({_aloud(change)}"
            f"{', against expectation' if step['contrary'] else ''})"
        )
        start = end
    axes.axvline(0, color=MUTED, linewidth=1)
    rows_of(axes, [textwrap.fill(rung["name"], _WRAP) for rung in rungs])
    room = max(max(reach) - min(reach), 1e-3)
    axes.set_xlim(min(reach) - 0.03 * room, max(reach) + 0.22 * room)
    axes.set_xlabel("Usable information, bits per window")
    gap = ladder["gap"]
    text = (
        "Usable information in bits per window, with the step from the rung above:"
        f" {'; '.join(spoken)}. From {gap['from']} to {gap['to']}: {_aloud(gap['change'])}."
    )
    return figure, text


@drawing
def loss_forest(losses: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """The named losses, each with its interval, in bits."""
    figure = Figure((NARROW, 0.8 + 0.36 * len(losses)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=MUTED, linewidth=1)
    for row, loss in enumerate(losses):
        whisker(axes, row, loss["change"], INK, scale=1.0)
        if loss["change"]["value"] is None:
            not_defined(axes, row, 0)
    rows_of(axes, [textwrap.fill(loss["name"], _WRAP) for loss in losses])
    axes.set_xlabel("Change, bits per window")
    spoken = "; ".join(f"{loss['name']} {_aloud(loss['change'])}" for loss in losses)
    return figure, f"Named losses in bits per window: {spoken}."


def _aloud(change: Mapping[str, Any]) -> str:
    if change["value"] is None:
        return "not defined"
    value = real(change["value"], 3, sign=True)
    if change["low"] is None:
        return value
    return f"{value}, {real(change['low'], 3, sign=True)} to {real(change['high'], 3, sign=True)}"
