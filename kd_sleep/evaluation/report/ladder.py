"""The information ladder: bits per window on every rung, and what each step loses or gives back."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from kd_sleep.evaluation.information import RISE_BY_CHANCE
from kd_sleep.evaluation.report.marks import SMALL, rows_of
from kd_sleep.evaluation.report.words import (
    findings,
    is_clear,
    real,
    real_interval,
    small_print,
    two_lines,
    with_interval,
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
_WRAP, _STEP_WRAP = 26, 20  # characters on a line of a rung's name, and of its step's


def ladder_section(ladder: Mapping[str, Any] | None) -> str:
    """The waterfall, what each step stands for, and the rungs; nothing without a ladder."""
    if not ladder:
        return ""
    seeds = ladder.get("seeds", [])
    trained = f" and seeds; every rung is {len(seeds)} training runs" if len(seeds) > 1 else ""
    gap, parts = ladder["gap"], ladder.get("parts")
    sensor = (
        f", of which up to the beats found in the BCG {_bits(parts['sensor'])}" if parts else ""
    )
    caption = (
        "Usable information: by how much a system of one and the same kind raises the probability"
        " of the scored stage, in bits per 30-s window; 0 is knowing how common each stage is. Grey"
        " is what a rung has, colour what it loses or gains against the one above it; the thin line"
        f" is the 95 % interval of that step over subjects{trained}. Hatched steps go against"
        f" expectation. From <b>{escape(gap['from'])}</b> to <b>{escape(gap['to'])}</b>:"
        f" {_bits(gap['change'])} bits{sensor}."
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


def _bits(change: Mapping[str, Any]) -> str:
    return with_interval(change, 3, sign=True)


def _losses(losses: Sequence[Mapping[str, Any]]) -> str:
    """What each named step loses or gives back."""
    rows = [
        [
            f"{escape(loss['name'])}<small>{escape(loss['text'])}</small>",
            two_lines(real_interval(loss["change"], 3, sign=True), strong=is_clear(loss["change"])),
            *_by_stage(loss["by_stage"], sign=True),
        ]
        for loss in losses
    ]
    heads = ["Changed by", "Bits per window", *map(stage_chip, STAGE_NAMES)]
    return table_of(heads, rows, "scores wordy") if rows else ""


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
    """Bits per window on every rung, each with its step from the rung above and its interval.

    Steps up to the top are grey. A step that goes the other way than its rung suggests is hatched.

    Args:
      ladder: what `information.Ladder.measure` returns; its last "losses", where it has any, name
        the last steps.
    """
    steps, rungs = ladder["steps"], ladder["rungs"]
    losses = [loss["name"] for loss in ladder.get("losses", [])]
    names = [""] * (len(steps) - len(losses)) + losses
    top = [rung["name"] for rung in rungs].index(ladder["top"])
    figure = Figure((NARROW, 0.9 + 0.5 * len(steps)), layout="constrained")
    axes = figure.subplots()
    start, spoken = 0.0, []
    reach = [0.0]
    for row, (step, rung, name) in enumerate(zip(steps, rungs, names, strict=True)):
        change, end = step["change"], rung["bits"]["value"]
        colour = MUTED if row <= top else GAIN if change["value"] >= 0 else LOSS
        if start * end > 0:
            held = min(start, end, key=abs)
            axes.barh(row, held, height=0.6, color=MUTED, alpha=0.3)
        axes.barh(
            row,
            change["value"],
            left=start,
            height=0.6,
            color=colour,
            hatch="////" if step["contrary"] else None,
            edgecolor=INK if step["contrary"] else "none",
            linewidth=0.6 if step["contrary"] else 0.0,
        )
        sides = [start, end]
        if change["low"] is not None:
            sides += [start + change["low"], start + change["high"]]
            axes.plot(sides[2:], [row, row], color=INK, linewidth=1.4)
        axes.annotate(
            "\n".join([real(change["value"], 3, sign=True), *textwrap.wrap(name, _STEP_WRAP)]),
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
            f"{step['to']} {real(end, 3)} ({f'{name} ' if name else ''}{_aloud(change)}"
            f"{', against expectation' if step['contrary'] else ''})"
        )
        start = end
    axes.axvline(0, color=MUTED, linewidth=1)
    rows_of(axes, [textwrap.fill(rung["name"], _WRAP) for rung in rungs])
    room = max(max(reach) - min(reach), 1e-3)
    axes.set_xlim(min(reach) - 0.03 * room, max(reach) + (0.5 if losses else 0.22) * room)
    axes.set_xlabel("Usable information, bits per window")
    gap = ladder["gap"]
    text = (
        "Usable information in bits per window, with the step from the rung above:"
        f" {'; '.join(spoken)}. From {gap['from']} to {gap['to']}: {_aloud(gap['change'])}."
    )
    return figure, text


def _aloud(change: Mapping[str, Any]) -> str:
    if change["value"] is None:
        return "not defined"
    value = real(change["value"], 3, sign=True)
    if change["low"] is None:
        return value
    return f"{value}, {real(change['low'], 3, sign=True)} to {real(change['high'], 3, sign=True)}"
