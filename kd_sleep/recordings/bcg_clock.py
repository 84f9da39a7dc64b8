"""Time stamps to rows on a uniform grid: the rate, and the gaps.

Stamps may be coarse, shared by a packet's rows, or late by up to a second or so; they are not
early: their lower envelope is the sensor's own time.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kd_sleep.errors import RecordingError
from kd_sleep.recordings.recording import LONGEST_S
from kd_sleep.recordings.time_stamps import FAR_ROWS, HIGHEST_HZ, SAMPLED, row_step

_UNIFORM = "If its samples are uniform all the same, remove the time column and give the rate."
_COARSEST_S = 1.5
_LATEST_S = 1.5  # that a stamp may be late where no later one can tell
_STRAY_S = 0.5  # that the envelope may lie off a clock of one rate
_STRAY_NOTED_S = 0.05
_CHUNKS = 64
_WIDEST = 4096  # groups of stamps, of which one at least is on time
_LASTING_FALLS = 3  # as where a row is there twice
_FEW, _MANY = 1e-3, 0.125  # shares of the groups of rows that gaps come before
_WARY = 0.6  # of a gap's least length: falls are looked for that are smaller
_GAP_COST_S = 1e-5  # a clock so much straighter is worth one more gap


@dataclasses.dataclass(frozen=True)
class Clock:
    """Where rows lie in time: `index` is their place among the samples; None: side by side."""

    rate_hz: float
    index: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()

    def spread(self, values: NDArray) -> NDArray:
        """Rows at their places, NaN in the gaps."""
        if self.index is None:
            return values
        placed = np.full(int(self.index[-1]) + 1, np.nan)
        placed[self.index] = values
        return placed


def uniform_clock(
    path: str | os.PathLike, seconds: NDArray[np.float64], row_name: Callable[[int], str]
) -> Clock:
    """The rate that rows' time stamps tell, [n] s, and where gaps are between them.

    Rows are put into groups, which end where the stamp moves on. By how much the earliest of the
    groups after a row comes later than the earliest before it, beyond its number, is lost in a gap.
    As many groups are taken together as keep stamps from falling behind: late packets do
    so as often as they run ahead, and gaps never. Period and gaps are estimated in turns.

    Raises:
      RecordingError: stamps that run backwards, never change, are too coarse or keep to no rate.
    """
    span_s = float(np.max(seconds))
    if not span_s <= 10 * LONGEST_S:  # nor is what damage makes of it a number
        raise _too_long(path, span_s)
    steps = np.diff(seconds)
    if not steps.any():
        raise RecordingError(path, "its time stamps never change.", "Remove them; give the rate.")
    back = int(np.argmin(steps))
    if steps[back] < -_LATEST_S:
        raise RecordingError(
            path,
            f"its time stamps run back by {-steps[back]:.6g} s at {row_name(back + 1)}.",
            "Is it the end of summer time, or two recordings in one file? Split it, or use UTC.",
        )
    resolution = float(np.median(steps[steps > 0][:SAMPLED]))
    period = row_step(seconds)
    if resolution > _COARSEST_S and np.median(steps) == 0:
        raise RecordingError(
            path,
            f"its time stamps are too coarse: they resolve {resolution:g} s.",
            "Remove the time column and give the rate.",
        )
    if period <= 0:
        raise _no_rate(path, f"{FAR_ROWS} rows take no time")
    last = np.append(np.flatnonzero(steps > 0.5 * period), len(steps))  # of each group of rows
    stamps, sizes = seconds[last], np.diff(last, prepend=-1)
    rows = int(np.median(sizes[:SAMPLED]))
    grouped = rows > 1
    distinct = np.unique(np.rint(steps[:SAMPLED] * 1e9)) / 1e9
    quantum = float(np.diff(distinct[distinct > 0], prepend=0.0).min(initial=period))
    lost = np.zeros(len(last), np.int64)
    whole = slice(None, -1 if grouped and len(last) > 2 else None)  # the last may be incomplete
    straight, stray_s = _envelope(last[whole], stamps[whole], period)
    if np.ptp((stamps - straight * last)[whole]) > 1.05 * quantum:
        blurs = (period,) if grouped else (quantum, 0.0) if quantum > 0.5 * period else (0.0,)
        # Rough periods: many rows' is off where gaps are dense, and few rows' where stamps jitter.
        guesses = [period, *(row_step(seconds, rows * far) for far in (1, 10, 100, 10_000))]
        best_s = np.inf
        unit = int(np.gcd.reduce(sizes[whole]))  # packets of one size are lost whole
        tries = list(itertools.product([1], [guess for guess in guesses if guess > 0], blurs))
        if unit > 1:
            tries.append((unit, _period_of_packets(stamps, unit), 0.0))
        for u, guess, blur in tries:
            threshold = 0.5 * u * guess + 0.6 * blur * (u == 1)
            candidate = _with_gaps(last, stamps, guess, threshold, rows * grouped, u, whole)
            gaps = np.count_nonzero(candidate[0])
            if candidate[2] + _GAP_COST_S * gaps < best_s:
                best_s, (lost, straight, stray_s) = candidate[2] + _GAP_COST_S * gaps, candidate
            if candidate[2] < 2 * period and gaps <= _FEW * len(last):
                break
        gaps = np.count_nonzero(lost)
        if gaps > _MANY * len(last) or (gaps > _FEW * len(last) and stray_s > 5 * period):
            raise _no_rate(path, f"{gaps} gaps would not explain them")
    length, rate_hz = int(last[-1] + lost.sum()) + 1, 1.0 / straight
    if length * straight > LONGEST_S or length > LONGEST_S * HIGHEST_HZ:
        raise _too_long(path, length * straight)
    if stray_s > _STRAY_S:
        raise _no_rate(path, f"at {rate_hz:.6g} Hz they are up to {stray_s:.3g} s off")
    if round(rate_hz) and abs(rate_hz - round(rate_hz)) * length * straight < 1.0:
        rate_hz = float(round(rate_hz))  # which moves no sample by one
    notes = []
    if grouped:
        resolution = float(np.median(np.diff(stamps)))
        notes += [
            f"Its time stamps resolve {resolution:.3g} s: the rate is a mean, and samples after a"
            f" gap lie within {resolution:.3g} s."
        ]
    if stray_s > max(_STRAY_NOTED_S, 2 / rate_hz):
        notes += [f"Its time stamps come up to {stray_s:.2g} s late: so much may its rate be off."]
    if not lost.any():
        return Clock(rate_hz, notes=tuple(notes))
    gaps_s = lost.sum() * straight
    notes += [f"It has {np.count_nonzero(lost)} gaps of {gaps_s:.4g} s in all."]
    index = np.arange(len(seconds)) + np.repeat(np.cumsum(lost), sizes)
    return Clock(rate_hz, index, notes=tuple(notes))


def _period_of_packets(stamps: NDArray, unit: int) -> float:
    """The period where whole packets are lost: the median over ever wider pairs of packets."""
    period, apart = float(np.median(np.diff(stamps))) / unit, 1
    while apart <= len(stamps) // 3:
        took_s = stamps[apart:] - stamps[:-apart]
        packets = np.maximum(1, np.rint(took_s / (unit * period)))
        period = float(np.median(took_s / (unit * packets)))
        apart *= 2
    return period


def _with_gaps(
    last: NDArray[np.int64],
    stamps: NDArray,
    period: float,
    threshold: float,
    rows: int,
    unit: int,
    whole: slice,
) -> tuple[NDArray[np.int64], float, float]:
    """Samples lost before each group, period, and how far the stamps' envelope strays off it."""
    lost, stray_s = np.zeros(len(last), np.int64), np.inf
    for turn in range(6):
        lost_now = _lost(stamps - period * last, period, threshold, rows, unit)
        if np.array_equal(lost_now, lost) and np.isfinite(stray_s):
            break
        lost, index = lost_now, last + np.cumsum(lost_now)
        if turn < 2 and np.count_nonzero(lost_now) > _FEW * len(last):
            # From the stretches between gaps: whose lengths are not sure before the period is.
            period = _common_slope(np.cumsum(lost_now > 0), last, stamps) or period
        else:
            period, stray_s = _envelope(index[whole], stamps[whole], period)
    return lost, period, stray_s


def _too_long(path: str | os.PathLike, span_s: float) -> RecordingError:
    return RecordingError(
        path,
        f"its time stamps span {span_s / 3600:.4g} h.",
        "At most 24 h are read; correct the stamps or cut the file.",
    )


def _no_rate(path: str | os.PathLike, why: str) -> RecordingError:
    return RecordingError(path, f"its time stamps keep to no uniform rate: {why}.", _UNIFORM)


def _envelope(index: NDArray[np.int64], stamps: NDArray, period: float) -> tuple[float, float]:
    """The period along the lower envelope (Theil and Sen's slope), and how far that strays."""
    edges = np.linspace(0, len(index), min(_CHUNKS, len(index)), endpoint=False).astype(np.int64)
    first, second = np.triu_indices(len(edges), max(1, len(edges) // 3))
    for _ in range(2):
        lag = stamps - period * index
        lowest = [
            a + int(np.argmin(lag[a:b])) for a, b in zip(edges, (*edges[1:], None), strict=True)
        ]
        x, y = index[lowest], lag[lowest]
        if first.size:
            slope = float(np.median((y[second] - y[first]) / (x[second] - x[first])))
            period, y = period + slope, y - slope * x
    return period, float(np.abs(y - np.median(y)).max())


def _common_slope(stretch: NDArray[np.int64], index: NDArray, stamps: NDArray) -> float:
    """Least squares over stretches that each have an offset of their own; 0 where it is none."""
    rows = np.bincount(stretch)
    x = index - (np.bincount(stretch, index) / rows)[stretch]
    y = stamps - (np.bincount(stretch, stamps) / rows)[stretch]
    return max(0.0, float((x * y).sum() / max((x * x).sum(), 1e-9)))


def _lost(lag: NDArray, period: float, threshold: float, rows: int, unit: int) -> NDArray[np.int64]:
    """How many samples are lost before each group of rows, [g]; `lag` is its stamp less its rows'.

    Args:
      threshold: seconds by which a gap has to come later, at least.
      rows: of a group, where rows share stamps, else 0. Fewer lost ones belong to the gap that
        follows soon: the groups between were late, or not complete.
    """
    groups, widest = len(lag), max(1, min(_WIDEST, len(lag) // 8))
    fewest, chosen, deepest, slope_s, width = np.inf, 1, 0.0, 0.0, 1
    while width <= widest and fewest > 0:
        after = _earliest(lag, width)
        change = after[width:] - after[:-width]
        falling_s = min(0.0, float(np.median(change)))  # by a period that is still too long
        falls = np.count_nonzero(change < falling_s - _WARY * threshold) / width
        if falls < fewest:
            fewest, chosen, slope_s = falls, width, falling_s
            deepest = falling_s - float(change.min(initial=0.0))
        width *= 2
    if fewest > _LASTING_FALLS:  # no width is enough: as late as it may be early, it is no gap
        threshold = max(threshold, 1.5 * deepest)
    if (
        chosen == 1 and fewest
    ):  # of a clock that is else exact, a stamp that is early alone is damage
        beside = np.minimum(np.append(lag[:1], lag[:-1]), np.append(lag[1:], lag[-1:]))
        lag = np.maximum(lag, beside)
    width, after = chosen, _earliest(lag, chosen)
    before = np.concatenate([np.minimum.accumulate(lag[:width]), after[1 : groups - width]])
    limit = np.full(groups - 1, threshold + slope_s)
    if width > 1 or rows:
        limit[groups - width - 1 :] = max(threshold, _LATEST_S)
    lost = np.zeros(groups, np.int64)
    previous, waiting_s = 0, 0.0
    rising = np.diff(after) >= (limit if unit == 1 else 0.2 * limit)  # the last may come late
    found = np.flatnonzero((after[1:] - before >= limit) & rising) + 1
    for at in found.tolist():
        gap_s = after[at] - lag[max(previous, at - width) : at].min() - slope_s
        if waiting_s and at - previous <= width:
            gap_s, lost[previous] = gap_s + waiting_s, 0
        each = unit if gap_s < 10 * unit * period else 1
        lost[at] = each * max(
            0, int(min(gap_s / (each * period), 1e12) + (0.5 if each == 1 else 0.4))
        )
        waiting_s = gap_s if lost[at] < rows else 0.0
        previous = at
    return lost


def _earliest(lag: NDArray, width: int) -> NDArray:
    """The smallest of each and the `width` - 1 that follow."""
    if width == 1:
        return lag
    return ndimage.minimum_filter1d(lag, width, mode="nearest", origin=-(width // 2))
