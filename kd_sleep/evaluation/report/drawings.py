"""The three drawings of the report: hypnogram strip, dot-and-interval plot, line chart."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from kd_sleep.evaluation.report.wording import aloud
from kd_sleep.evaluation.results import Interval
from kd_sleep.pages import INK, MUTED, NARROW, STAGE_COLOURS, drawing
from kd_sleep.stages import STAGE_NAMES

SMALL = 9  # points; the smallest text in a picture
_WRAP = 26  # characters on a line of a row's name


def hypnogram(axes: Axes, hours: NDArray, stages: NDArray, title: str) -> None:
    """Steps with a coloured bar for every window; gaps where nobody scored.

    Args:
      axes: to draw on.
      hours: [N + 1] edges of the windows.
      stages: [N], -1 where unscored.
      title: of the strip.
    """
    edges = np.repeat(hours, 2)[1:-1]
    levels = np.where(stages < 0, np.nan, stages)
    axes.plot(edges, np.repeat(levels, 2), color=MUTED, linewidth=0.8)
    for stage, colour in enumerate(STAGE_COLOURS.values()):
        level = np.repeat(np.where(stages == stage, float(stage), np.nan), 2)
        axes.plot(edges, level, color=colour, linewidth=3.5, solid_capstyle="butt")
    axes.set_yticks(range(len(STAGE_NAMES)), STAGE_NAMES)
    axes.set_ylim(len(STAGE_NAMES) - 0.5, -0.5)
    axes.set_title(title)


def stairs(axes: Axes, hours: NDArray, values: NDArray, title: str, unit: str) -> None:
    """A value for every window, below a hypnogram."""
    axes.stairs(values, hours, baseline=None, color=INK, linewidth=0.8)
    axes.set_title(title)
    axes.set_ylabel(unit)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of an interval plot: intervals by key, single dots, and a remark on the right."""

    name: str
    marks: Mapping[str, Interval]
    dots: Sequence[float] = ()
    remark: str = ""


Styles = Mapping[str, tuple[str, str]]  # key of a mark -> its name in the legend, and colour


@drawing
def interval_plot(
    panels: Mapping[str, Sequence[Row]],
    xlabel: str,
    styles: Styles,
    *,
    scale: float = 100.0,
    digits: int = 1,
    levels: Sequence[float] = (0.0,),
) -> tuple[Figure, str]:
    """Values with their intervals, a row each, from the top down.

    Args:
      panels: title -> rows; they share the x axis.
      xlabel: name and unit of the values.
      styles: key of a mark -> name and colour; the legend shows them where there are several.
      scale: from values to the unit of the axis.
      digits: behind the point, in the text alternative.
      levels: upright lines, in the unit of the axis; all but the first are dotted.
    """
    lines = {
        title: [textwrap.fill(row.name, _WRAP) for row in rows] for title, rows in panels.items()
    }
    heights = [
        sum(max(0.30 * len(styles), 0.2 * name.count("\n") + 0.3) for name in names) + 0.35
        for names in lines.values()
    ]
    figure = Figure((NARROW, 0.8 + sum(heights)), layout="constrained")
    axes_of = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    spoken = []
    for axes, (title, rows) in zip(axes_of, panels.items(), strict=True):
        for number, level in enumerate(levels):
            axes.axvline(level, color=MUTED, linestyle=":" if number else "-", linewidth=1)
        for place, row in enumerate(rows):
            axes.plot(row.dots, [place] * len(row.dots), "o", color=MUTED, ms=3, alpha=0.5)
            for number, (key, interval) in enumerate(row.marks.items()):
                shift = (number - (len(row.marks) - 1) / 2) * 0.7 / max(len(styles), 2)
                _mark(axes, place + shift, interval.scaled(scale), styles[key][1])
                name = f", {styles[key][0]}" if len(styles) > 1 else ""
                spoken.append(
                    f"{f'{title}, ' if title else ''}{row.name}{name}:"
                    f" {aloud(interval, digits, scale)}"
                )
            if row.remark:
                axes.annotate(
                    row.remark, (1, place), (4, 0), xycoords=("axes fraction", "data"),
                    textcoords="offset points", va="center", fontsize=SMALL, color=MUTED,
                )  # fmt: skip
        axes.set_yticks(range(len(rows)), lines[title])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_title(title)
    axes_of[-1].set_xlabel(xlabel)
    if len(styles) > 1:
        _legend(figure, {name: Line2D([], [], color=c, marker="o") for name, c in styles.values()})
    return figure, f"{xlabel}. {'; '.join(spoken)}."


def _mark(axes: Axes, place: float, interval: Interval, colour: str) -> None:
    if interval.value is None:
        axes.text(0.01, place, "not defined", va="center", color=MUTED, fontsize=SMALL,
                  transform=axes.get_yaxis_transform())  # fmt: skip
        return
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [place, place], color=colour, lw=2)
    axes.plot(interval.value, place, "o", color=colour, ms=6)


@dataclasses.dataclass(frozen=True)
class Line:
    """A line or a cloud of points of a chart.

    Attributes:
      name: in the legend; "" for none.
      points: (x, y) of each.
      colour, style, marker: as Matplotlib has them.
      bars: interval of each point, upright.
      spoken: for the text alternative; "" leaves it out.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str = INK
    style: str = "-"
    marker: str = ""
    bars: Sequence[Interval] = ()
    spoken: str = ""


@dataclasses.dataclass(frozen=True)
class Panel:
    """A panel of a line chart; `levels` are (height, colour, style) of level lines."""

    title: str
    lines: Sequence[Line]
    xlabel: str = ""
    ylabel: str = ""
    levels: Sequence[tuple[float, str, str]] = ()
    xlim: tuple[float, float] | None = None
    ylim: tuple[float, float] | None = None
    xticks: Mapping[float, str] | None = None
    upright: float | None = None


@drawing
def line_chart(
    about: str, panels: Sequence[Panel], columns: int = 1, height: float = 2.1
) -> tuple[Figure, str]:
    """Panels of lines in rows of `columns`, one legend above them all.

    Args:
      about: begins the text alternative.
      panels: row by row.
      columns: panels in a row.
      height: of a row, in inches.
    """
    rows = -(-len(panels) // columns)
    figure = Figure((NARROW, 0.7 + height * rows), layout="constrained")
    axes_of = list(figure.subplots(rows, columns, squeeze=False).flat)
    legend: dict[str, Line2D] = {}
    spoken = []
    for axes, panel in zip(axes_of, panels, strict=False):
        for level, colour, style in panel.levels:
            axes.axhline(level, color=colour, linestyle=style, linewidth=1)
        if panel.upright is not None:
            axes.axvline(panel.upright, color=MUTED, linewidth=0.8)
        for line in panel.lines:
            x, y = np.reshape(line.points, (-1, 2)).T
            drawn = axes.plot(x, y, color=line.colour, linestyle=line.style, marker=line.marker,
                              ms=4)[0]  # fmt: skip
            for place, bar in zip(x, line.bars, strict=False):
                if bar.low is not None and bar.high is not None:
                    axes.plot([place, place], [bar.low, bar.high], color=line.colour, lw=1)
            if line.name:
                legend.setdefault(line.name, drawn)
            if line.spoken:
                where = ", ".join(filter(None, [panel.title.replace("\n", " "), line.name]))
                spoken.append(f"{where}: {line.spoken}")
        axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, title=panel.title)
        axes.set(xlim=panel.xlim, ylim=panel.ylim)
        if panel.xticks is not None:
            axes.set_xticks(list(panel.xticks), list(panel.xticks.values()))
    for axes in axes_of[len(panels) :]:
        axes.remove()
    _legend(figure, legend)
    return figure, f"{about}. {'; '.join(spoken)}."


def _legend(figure: Figure, lines: Mapping[str, Line2D]) -> None:
    if lines:
        figure.legend(
            list(lines.values()), list(lines), loc="outside upper left", ncols=2, fontsize=SMALL
        )
