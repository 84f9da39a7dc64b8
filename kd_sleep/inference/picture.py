"""A staged night on one page: hypnograms, hypnodensity, SQI, BCG, heart and breathing rate."""

from __future__ import annotations

import datetime
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator, NullFormatter
from numpy.typing import NDArray

from kd_sleep.inference.staged_night import Staging
from kd_sleep.pages import STAGE_COLOURS
from kd_sleep.schema import WINDOW_S
from kd_sleep.signals.timeseries import runs
from kd_sleep.stages import STAGE_NAMES, UNSCORED, Stage

# Dark on white, to be printed.
INK, MUTED, ALARM, GAP = "#1b2026", "#5c6670", "#D55E00", "#e3e6e9"
SCORED = "#0072B2"  # a scorer's hypnogram
SIZE = (11.0, 9.2)  # inches: a sheet on its side, a little taller
DPI = 110
LINE = 0.17  # inches of a title's line
_UPWARDS = (Stage.DEEP, Stage.LIGHT, Stage.REM, Stage.WAKE)
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,  # a name with a dollar sign is a name
    "svg.fonttype": "none",
    "svg.hashsalt": "night",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.0,
}


def write_picture(path: Path, staging: Staging, name: str, start: datetime.datetime | None) -> None:
    """Writes a PNG or an SVG, by the path's suffix.

    Args:
      path: where.
      staging: the night.
      name: of the night, for the title.
      start: at the first sample, for the clock below; None counts from 0.
    """
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    with matplotlib.rc_context(_STYLE):
        _night(staging, name, start).savefig(path, dpi=DPI, metadata=metadata)


def _night(staging: Staging, name: str, start: datetime.datetime | None) -> Figure:
    figure = Figure(figsize=SIZE)
    edges = np.arange(len(staging) + 1) * WINDOW_S / 3600.0
    drawn = [  # height, and what draws it; tracks that nothing is known of are left out
        (1.7, _hypnogram),
        (1.5, _density),
        *(
            (1.0, draw)
            for draw, values in (
                (_sqi, staging.signal_sqi),
                (_amplitude, staging.amplitude),
                (_heart, staging.heart_bpm),
                (_breath, staging.breaths_per_min),
            )
            if np.isfinite(values).any()
        ),
    ]
    panels = figure.subplots(
        len(drawn), 1, sharex=True, height_ratios=[height for height, _ in drawn]
    )
    for axes, (_, draw) in zip(panels, drawn, strict=True):
        draw(axes, staging, edges)
        _shade(axes, ~staging.staged, edges, GAP)
    panels[-1].set_xlim(edges[0], edges[-1])
    _clock(panels[-1], start, edges[-1])
    figure.align_ylabels(panels)
    title = _title(staging, name)
    figure.text(0.01, 0.99, title, ha="left", va="top", fontsize=10)
    # By hand: Matplotlib's own layouts draw everything twice.
    top = 0.97 - LINE * (title.count("\n") + 1) / SIZE[1]
    figure.subplots_adjust(left=0.085, right=0.985, bottom=0.055, top=top, hspace=0.3)
    return figure


def _amplitude(axes: Axes, staging: Staging, edges: NDArray) -> None:
    axes.stairs(staging.amplitude, edges, baseline=None, color=INK)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("BCG, heartbeats")


def _heart(axes: Axes, staging: Staging, edges: NDArray) -> None:
    axes.stairs(staging.heart_bpm, edges, baseline=None, color=INK)
    axes.set_ylabel("heart,\nbeats/min")


def _breath(axes: Axes, staging: Staging, edges: NDArray) -> None:
    axes.stairs(staging.breaths_per_min, edges, baseline=None, color=INK)
    axes.set_ylabel("breathing,\nbreaths/min")


def _title(staging: Staging, name: str) -> str:
    """The night's name, what was read off it, and how far it can be relied on."""
    found = staging.summary()
    parts = [f"{name}   {len(staging) * WINDOW_S / 3600:.1f} h"]
    for label, key, unit in (
        ("asleep", "tst_min", "min"),
        ("efficiency", "se_percent", "%"),
        ("to fall asleep", "sol_min", "min"),
        ("awake after that", "waso_min", "min"),
        ("heart", "heart_bpm", "/min"),
        ("breath", "breaths_per_min", "/min"),
    ):
        if found[key] is not None:
            parts.append(f"{label} {found[key]:.0f} {unit}".replace(" %", "%").replace(" /", "/"))
    lines = [", ".join(parts), _wrapped(staging.reliability())]
    if staging.agreement:
        lines.append(staging.agreement.sentence())
    lines += [_wrapped(f"WARNING: {warned.text}.") for warned in staging.warnings]
    if (staging.card.get("data") or {}).get("simulated"):
        lines.append(
            f"The {staging.kind} was trained on simulated nights. This is no medical device."
        )
    else:
        lines.append("This is no medical device.")
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 150))


def _hypnogram(axes: Axes, staging: Staging, edges: NDArray) -> None:
    if staging.agreement:  # below the staged line, and a little off it
        scored = _heights(staging.agreement.labels)
        axes.stairs(scored + 0.12, edges, baseline=None, color=SCORED, lw=1.4, label="scored")
    height = _heights(staging.stages)
    axes.stairs(height, edges, baseline=None, color=INK, label="staged")
    rem = np.where(staging.stages == Stage.REM, height, np.nan)
    axes.stairs(rem, edges, baseline=None, color=STAGE_COLOURS["REM"], lw=3)
    _shade(axes, staging.flagged, edges, ALARM, top=0.05)
    axes.set_yticks(range(len(_UPWARDS)), [STAGE_NAMES[k] for k in _UPWARDS])
    axes.set_ylim(-0.5, len(_UPWARDS) - 0.7)
    axes.set_ylabel("stage")
    axes.text(
        1.0, 1.02, "orange below: doubtful; grey: missing", transform=axes.transAxes, ha="right",
        fontsize=8, color=MUTED,
    )  # fmt: skip
    if staging.agreement:
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.0)


def _heights(stages: NDArray) -> NDArray[np.float64]:
    """Where stages stand on the axis; NaN where there is none."""
    level = np.array([_UPWARDS.index(Stage(k)) for k in range(len(Stage))], float)
    return np.where(stages != UNSCORED, level[stages], np.nan)


def _density(axes: Axes, staging: Staging, edges: NDArray) -> None:
    below = np.zeros(len(staging))
    for stage in _UPWARDS:
        top = below + staging.probs[:, stage]
        axes.stairs(
            top, edges, baseline=below, fill=True, color=STAGE_COLOURS[STAGE_NAMES[stage]],
            label=STAGE_NAMES[stage], lw=0,
        )  # fmt: skip
        below = top
    axes.set(ylabel="probability", ylim=(0, 1))
    axes.legend(
        ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0, reverse=True
    )


def _sqi(axes: Axes, staging: Staging, edges: NDArray) -> None:
    known = np.isfinite(staging.sqi).any()
    of_signal = np.where(staging.staged, staging.signal_sqi, np.nan)
    axes.stairs(
        of_signal, edges, baseline=None, color=MUTED if known else INK, label="of the BCG",
        lw=0.7 if known else 1.0,
    )  # fmt: skip
    if known:
        axes.stairs(staging.sqi, edges, baseline=None, color=INK, label="the student's own")
        below = staging.card["sqi"]["flag_below"]
        axes.axhline(below, color=ALARM, lw=0.8, ls="--", label="flag below")
    axes.set(ylabel="SQI", ylim=(0, 1))
    axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)


def _shade(
    axes: Axes, which: NDArray[np.bool_], edges: NDArray, colour: str, top: float = 1.0
) -> None:
    """Spans of windows, up to a share of the panel's height."""
    start, stop = runs(which)
    first, last = edges[start], edges[stop]
    axes.broken_barh(
        list(zip(first, last - first, strict=True)), (0, top), color=colour, lw=0, zorder=0,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def _clock(axes: Axes, start: datetime.datetime | None, hours: float) -> None:
    """Ticks at round times of the clock, where it is known."""
    step = next(step for step in (1 / 6, 0.5, 1.0, 2.0, 3.0) if hours / step <= 14 or step == 3.0)
    if start is None:
        axes.xaxis.set_major_locator(MultipleLocator(step))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
        axes.set_xlabel("hours since the recording began")
        return
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    began = (start - midnight).total_seconds() / 3600.0
    ticks = np.arange(np.ceil(began / step) * step, began + hours, step)
    labels = [
        (midnight + datetime.timedelta(hours=float(tick))).strftime("%H:%M") for tick in ticks
    ]
    axes.set_xticks(ticks - began, labels)
    axes.set_xlabel("time" if start.tzinfo is None else "time, UTC")
