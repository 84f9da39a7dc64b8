"""Marks that several of the report's pictures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kd_sleep.pages import MUTED

SMALL = 9  # points; the smallest text in a picture
_LINE = 1.25 * SMALL  # points from one label's line to the next


def whisker(
    axes: Axes,
    row: float,
    interval: Mapping[str, Any],
    colour: str,
    *,
    hollow: bool = False,
    marker: str = "o",
    scale: float = 100.0,
) -> None:
    """A value and its interval on a row; nothing where there is no value."""
    if interval["value"] is None:
        return
    if interval["low"] is not None:
        ends = [scale * interval["low"], scale * interval["high"]]
        axes.plot(ends, [row, row], color=colour, lw=2)
    axes.plot(scale * interval["value"], row, marker, color=colour, ms=6, **_fill(hollow))


def upright(
    axes: Axes,
    place: float,
    interval: Mapping[str, Any],
    colour: str,
    *,
    hollow: bool = False,
    scale: float = 100.0,
) -> None:
    """The same in a column."""
    if interval["value"] is None:
        return
    if interval["low"] is not None:
        ends = [scale * interval["low"], scale * interval["high"]]
        axes.plot([place, place], ends, color=colour, lw=1.4)
    axes.plot(place, scale * interval["value"], "o", color=colour, ms=5, **_fill(hollow))


def _fill(hollow: bool) -> dict[str, Any]:
    # The stand-in for paper would hide the whisker behind it: hollow marks show it through.
    return {"markerfacecolor": "none", "markeredgewidth": 1.4} if hollow else {}


def rows_of(axes: Axes, names: Sequence[str]) -> None:
    """Names rows from the top down."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def not_defined(axes: Axes, row: float, at: float, text: str = "not defined") -> None:
    """Says so where a value would be."""
    axes.text(at, row, f" {text}", va="center", color=MUTED, fontsize=SMALL)


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names lines at the right edge, beside where they end, pushed apart where they would collide.

    Call it once the axes have their limits.

    Args:
      axes: whose right edge.
      ends: (value on the y axis, name, colour) of each line.
    """
    if not ends:
        return
    low, high = axes.get_ylim()
    # Before its layout a panel is about as high as after it; drawing to know it costs a second.
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    apart = _LINE / height
    ranked = sorted(ends)
    wanted = [float(np.clip((value - low) / (high - low), 0, 1)) for value, _, _ in ranked]
    for place, (_, name, colour) in zip(spread(wanted, apart), ranked, strict=True):
        axes.annotate(
            name, (1, place), (4, 0), xycoords="axes fraction", textcoords="offset points",
            va="center", color=colour, fontsize=SMALL, annotation_clip=False,
        )  # fmt: skip


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Rising places moved as little as it takes to lie `apart`; neighbours that touch share it."""
    groups: list[tuple[float, int]] = []  # sum of the wanted places, and how many
    for place in places:
        groups.append((place, 1))
        while len(groups) > 1:
            (sum_a, count_a), (sum_b, count_b) = groups[-2:]
            end_a = sum_a / count_a + (count_a - 1) * apart / 2
            start_b = sum_b / count_b - (count_b - 1) * apart / 2
            if start_b - end_a >= apart - 1e-9:
                break
            groups[-2:] = [(sum_a + sum_b, count_a + count_b)]
    return [
        total / count + (member - (count - 1) / 2) * apart
        for total, count in groups
        for member in range(count)
    ]
