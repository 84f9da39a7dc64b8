"""The information ladder as a picture: a waterfall from the prior to the BCG as it was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from kd_sleep.pages import INK, MUTED, NARROW, drawing

# From Okabe & Ito's palette, as the stages' and systems' colours are, but none of the stages'.
GAIN, LOSS = "#009E73", "#D55E00"


@drawing
def waterfall(ladder: Mapping[str, Any]) -> tuple[Figure, str]:
    """Bits per window on every rung, each bar the step from the rung above.

    A step that goes the other way than its rung suggests is hatched. The line at a bar's end is the
    interval of the step.

    Args:
      ladder: what `information.Ladder.measure` returns.
    """
    steps, rungs = ladder["steps"], ladder["rungs"]
    figure = Figure((NARROW, 1.1 + 0.5 * len(steps)), layout="constrained")
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
            _signed(change["value"]),
            (max(sides), row),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        if row + 1 < len(steps):
            axes.plot([end, end], [row + 0.3, row + 0.7], color=MUTED, linewidth=0.8)
        reach += sides
        spoken.append(
            f"{step['to']} {end:.3f} ({_spoken(change)}"
            f"{', against expectation' if step['contrary'] else ''})"
        )
        start = end
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_yticks(range(len(steps)), [rung["name"] for rung in rungs])
    axes.set_ylim(len(steps) - 0.4, -0.6)
    room = max(max(reach) - min(reach), 1e-3)
    axes.set_xlim(min(reach) - 0.03 * room, max(reach) + 0.22 * room)
    axes.set_xlabel("Usable information, bits per window")
    axes.tick_params(axis="y", length=0)
    gap = ladder["gap"]
    text = (
        "Usable information in bits per window, with the step from the rung above:"
        f" {'; '.join(spoken)}. From {gap['from']} to {gap['to']}: {_spoken(gap['change'])}."
    )
    return figure, text


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _spoken(change: Mapping[str, Any]) -> str:
    if change["low"] is None:
        return _signed(change["value"])
    return f"{_signed(change['value'])}, {_signed(change['low'])} to {_signed(change['high'])}"
