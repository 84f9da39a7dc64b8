"""Clocks of bed sensors: time stamps to seconds, to a start, and to rows on a uniform grid.

A clock is a column whose values only rise. Its stamps may be coarse, shared by a packet's rows, or
late by up to a second or so; they are not early: their lower envelope is the sensor's own time.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kd_sleep.errors import RecordingError
from kd_sleep.recordings.recording import LONGEST_S
from kd_sleep.schema import LOWEST_BCG_HZ

HIGHEST_HZ = 1000.0
PER_S = {
    "d": 1 / 86400, "day": 1 / 86400, "days": 1 / 86400,
    "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0,
    "ms": 1e3, "msec": 1e3, "millis": 1e3, "milliseconds": 1e3,
    "us": 1e6, "µs": 1e6, "usec": 1e6, "micros": 1e6, "microseconds": 1e6,
    "ns": 1e9, "nsec": 1e9, "nanos": 1e9, "nanoseconds": 1e9,
}  # fmt: skip
TIME_NAMES = frozenset(
    ("t", "ts", "time", "times", "timestamp", "timestamps", "time_stamp", "datetime", "date_time",
     "date/time", "unixtime", "epoch", "elapsed", "clock")
)  # fmt: skip
UNIFORM = "If its samples are uniform all the same, remove the time column and give the rate."
NO_ZONE = -9999

_DAY_US = 86_400_000_000
_UNIT = (re.compile(r"(.*?)\s*[\[(](.*?)[\])]"), re.compile(r"(?:(.*?)[_ ])?([a-zµμ]+)"))
_CLOCK_TEXT = re.compile(
    rb"\s*(?:(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:T| +))?(\d{1,2}):(\d{1,2})"
    rb"(?::(\d{1,2})(?:[.,](\d{1,9}))?)?\s*(?:Z|UTC|GMT|([+-])(\d\d)(?::?(\d\d))?)?\s*"
)  # the year leads: day first and month first look alike
_MOST_SPELLINGS = 200  # of a block's stamps; a night's have some ten
_UNIX_S = (946_684_800.0, 2_524_608_000.0)  # from 2000 to 2049; what counts from elsewhere is rare
_SAME_RATE = 0.02  # two rates, of which one is rough
_FAR_ROWS, _SAMPLED, _RAMP_POINTS = 1000, 100_000, 300
_COARSEST_S = 1.5
_SLOWEST_ROWS_HZ = 5.0  # of a column that is a clock by its name: its rows may be a packet each
_LATEST_S = 1.5  # that a stamp may be late where no later one can tell
_STRAY_S = 0.5  # that the envelope may lie off a clock of one rate
_CHUNKS = 64
_WIDEST = 4096  # groups of stamps, of which one at least is on time
_LASTING_FALLS = 3  # as where a row is there twice
_FEW, _MANY = 1e-3, 0.125  # shares of the groups of rows that gaps come before
_WARY = 0.6  # of a gap's least length: falls are looked for that are smaller
_GAP_COST_S = 1e-4  # a clock so much straighter is worth one more gap


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


@dataclasses.dataclass(frozen=True)
class Stamps:
    """A column of time stamps in text: seconds since the first, [rows]."""

    seconds: NDArray[np.float64]
    start: datetime.datetime | None
    notes: tuple[str, ...] = ()


class NoTime(ValueError):
    """A cell that holds no time; its one argument is the row."""


def clock_times(cells: NDArray[np.bytes_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Wall clocks as written, year first or without a date, one spelling after the other.

    Returns:
      [n] µs since 1970 on that clock, less than a day without a date; [n] minutes east of UTC,
      `NO_ZONE` where none is written.

    Raises:
      NoTime: for a cell that is no such time.
    """
    raw = np.ascontiguousarray(cells).view(np.uint8).reshape(len(cells), -1)
    spelling = np.where((raw >= 48) & (raw <= 57), np.uint8(48), raw)
    raw = np.ascontiguousarray(raw.T)
    wall_us, zone_min = np.zeros((2, len(cells)), np.int64)
    todo, dated = np.arange(len(cells)), bool(re.match(rb"\s*\d{4}[-/.]", cells[0]))
    for _ in range(_MOST_SPELLINGS):
        match = _CLOCK_TEXT.fullmatch(cells[todo[0]])
        if match is None or bool(match[1]) != dated or not (match[1] or match[6]):
            break
        alike = (spelling[todo] == spelling[todo[0]]).all(1)
        rows: Any = slice(None) if alike.all() and len(todo) == len(cells) else todo[alike]
        parts = [np.full(len(cells[rows]), default) for default in (0, 1970, 1, 1, *[0] * 7)]
        for group in (1, 2, 3, 4, 5, 6, 7, 9, 10):
            if match[group]:
                parts[group][:] = 0
                for column in raw[slice(*match.span(group))]:
                    parts[group] *= 10
                    parts[group] += column[rows].astype(np.int64) - 48
        _, year, month, day, hour, minute, second, fraction, _, zone_h, zone_m = parts
        months = (12 * (year - 1970) + month - 1).astype("M8[M]")
        first, end = (at.astype("M8[D]").astype(np.int64) for at in (months, months + 1))
        days = first + day - 1
        right = (month >= 1) & (month <= 12) & (day >= 1) & (days < end) & (hour < 24)
        right &= (minute < 60) & (second < 60) & (zone_h < 24) & (zone_m < 60) & (year > 0)
        if not right.all():
            raise NoTime(int(np.arange(len(cells))[rows][np.argmin(right)]))
        fraction = fraction * 10**9 // 10 ** (3 + len(match[7] or b""))
        wall_us[rows] = ((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 10**6 + fraction
        told = re.search(rb"(Z|UTC|GMT)\s*$", match[0]) or match[8]
        sign = -1 if match[8] == b"-" else 1
        zone_min[rows] = sign * (zone_h * 60 + zone_m) if told else NO_ZONE
        todo = todo[~alike]
        if not todo.size:
            return wall_us, zone_min
    raise NoTime(int(todo[0]))


def start_of(stamp: Any, per_s: float = 0.0) -> datetime.datetime | None:
    """Clock of a first stamp: local and naive, or aware where it is known in UTC alone.

    Stamps that count from 1970, and text in UTC, do not tell the sleeper's clock. Other counts,
    such as those since a sensor was switched on, tell none.

    Args:
      stamp: text, or a number.
      per_s: parts in a second of a number whose unit is known.
    """
    text = stamp if isinstance(stamp, bytes) else str(stamp).encode("latin-1", "replace")
    try:
        number = float(text)
    except ValueError:
        try:
            wall_us, zone_min = clock_times(np.array([text[:99].strip() or b"-"]))
        except NoTime:
            return None
        if wall_us[0] < _DAY_US:
            return None
        wall = _date(wall_us[0] / 1e6)
        return wall if zone_min[0] else wall.replace(tzinfo=datetime.UTC)
    for unit in (per_s,) if per_s else (1.0, 1e3, 1e6, 1e9):
        if _UNIX_S[0] <= number / unit < _UNIX_S[1]:
            return _date(number / unit).replace(tzinfo=datetime.UTC)
    return None


def _date(unix_s: float) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=round(unix_s * 1e6))


def ramp(values: NDArray) -> bool:
    """Whether values only rise or only fall, or count and begin again: a clock, and no signal.

    Single steps back do not matter, since stamps of packets may have them.
    """
    values = values[np.isfinite(values)].astype(np.float64)
    if len(values) < 2 or values[0] == values[-1] == values[len(values) // 2]:
        return False
    steps = np.diff(values)
    for way in (1.0, -1.0):
        coarse = np.diff(way * values[:: max(1, len(values) // _RAMP_POINTS)])
        if np.mean(way * steps < 0) < 0.1 and (coarse >= 0).all() and coarse.any():
            return True
    usual = np.median(steps)
    return bool(usual and np.mean(np.abs(steps - usual) <= 0.01 * abs(usual)) > 0.9)


def time_name(label: str) -> tuple[str, float]:
    """A column's name in lower case without its unit, and that unit's parts in a second, or 0."""
    name = "".join(label.lower().replace("μ", "µ").split())
    for pattern in _UNIT:
        match = pattern.fullmatch(name)
        if match and match[2] in PER_S and (match[1] or name != "d"):
            return match[1] or "", PER_S[match[2]]
        if match and pattern is _UNIT[0]:
            return match[1], 0.0
    return name, 0.0


def text_stamps(wall_us: NDArray, zone_min: NDArray, first: bytes) -> Stamps:
    """Stamps of a clock in text, as `clock_times` has them.

    Those with a zone are exact. Those without one jump by an hour on the hour when clocks are
    changed; those without a date jump by a day at midnight.
    """
    zoned = zone_min != NO_ZONE
    seconds = (wall_us - wall_us[0] - np.where(zoned, zone_min - zone_min[0], 0) * 60_000_000) / 1e6
    steps = np.diff(seconds)
    if wall_us.max() < _DAY_US:
        seconds[1:] += 86_400.0 * np.cumsum(steps < -43_200)
        steps = np.diff(seconds)
    hour = np.flatnonzero(np.abs(np.abs(steps) - 3600.0) <= 2.0)
    start, notes = start_of(first), tuple[str, ...]()
    if not zoned.any() and len(hour) == 1:
        at, past_s = hour[0], wall_us[hour[0] : hour[0] + 2] // 1_000_000 % 3600
        if past_s[0] >= 3598 and past_s[1] <= 2:
            seconds[at + 1 :] -= np.copysign(3600.0, steps[at])
            notes = ("Its clock jumps by an hour on the hour: summer time, and no gap.",)
    return Stamps(seconds, start, notes)


def stamps_of(
    stamps: NDArray, label: str, told_hz: float, row_name: Callable[[int], str]
) -> Stamps | str:
    """Stamps of a clock in numbers, or why the column is none.

    The unit is the one that its name has; else the one that agrees with a rate told elsewhere, by
    which a count of rows is a clock, too; else the one by which the rate is a sensor's: those of
    seconds, ms, µs and ns lie a thousand-fold apart.
    """
    if stamps.dtype.kind == "M":
        wall_us = stamps.astype("M8[us]").astype(np.int64)
        return text_stamps(wall_us, np.full(len(stamps), NO_ZONE), str(stamps[0]).encode())
    base, per_s = time_name(label)
    named = base in TIME_NAMES
    if not np.isfinite(stamps).all():
        return f"{row_name(int(np.argmin(np.isfinite(stamps))))} has '' in it, and no time stamp"
    step = row_step(stamps)
    if not per_s and told_hz and step > 0:
        units = (1.0, 1e3, 1e6, 1e9, 1 / 86400, told_hz)
        per_s = next((u for u in units if abs(step / u * told_hz - 1.0) < _SAME_RATE), 0.0)
    if not per_s and step > 0:
        usual = row_step(stamps, 1)
        if usual == 1.0 and start_of(stamps[0], 1e3) is None:
            return "it counts by ones: rows, or milliseconds?"
        lowest_hz = _SLOWEST_ROWS_HZ if named else LOWEST_BCG_HZ
        even = named or (
            usual > 0 and np.mean(np.abs(np.diff(stamps[:_SAMPLED]) / usual - 1.0) < 0.5) > 0.5
        )
        fits = (
            [u for u in (1.0, 1e3, 1e6, 1e9, 1 / 86400) if lowest_hz <= u / step <= 5 * HIGHEST_HZ]
            if even
            else []
        )
        if len(fits) != 1:
            return "its steps are no sensor's in s, ms, µs, ns or days"
        per_s = fits[0]
    return Stamps((stamps - stamps[0]) / (per_s or 1.0), start_of(stamps[0], per_s))


def row_step(stamps: NDArray, far: int = _FAR_ROWS) -> float:
    """What a row takes, roughly: the median of what `far` rows take, over their number."""
    far = max(1, min(far, len(stamps) // 3))
    at = np.random.default_rng(0).integers(0, len(stamps) - far, min(len(stamps), _SAMPLED))
    return float(np.median(stamps[at + far] - stamps[at])) / far


def uniform_clock(
    path: str | os.PathLike, seconds: NDArray[np.float64], row_name: Callable[[int], str]
) -> Clock:
    """The rate that rows' time stamps tell, [n] s, and where gaps are between them.

    Rows are put into groups, which end where the stamp moves on. By how much the earliest of the
    groups after a row comes later than the earliest before it, beyond its number, is lost in a gap.
    As many groups are taken together as keep stamps from falling behind: late packets do
    so as often as they run ahead, and gaps never. Period and gaps are told in turns.

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
    resolution = float(np.median(steps[steps > 0][:_SAMPLED]))
    period = row_step(seconds)
    if resolution > _COARSEST_S and np.median(steps) == 0:
        raise RecordingError(
            path,
            f"its time stamps are too coarse: they resolve {resolution:g} s.",
            "Remove the time column and give the rate.",
        )
    if period <= 0:
        raise _no_rate(path, f"{_FAR_ROWS} rows take no time")
    last = np.append(np.flatnonzero(steps > 0.5 * period), len(steps))  # of each group of rows
    stamps, sizes = seconds[last], np.diff(last, prepend=-1)
    rows = int(np.median(sizes[:_SAMPLED]))
    grouped = rows > 1
    distinct = np.unique(np.rint(steps[:_SAMPLED] * 1e9)) / 1e9
    quantum = float(np.diff(distinct[distinct > 0], prepend=0.0).min(initial=period))
    lost = np.zeros(len(last), np.int64)
    whole = slice(None, -1 if grouped and len(last) > 2 else None)  # the last may be incomplete
    straight, stray_s = _envelope(last[whole], stamps[whole], period)
    if np.ptp((stamps - straight * last)[whole]) > 1.05 * quantum:
        blurs = (period,) if grouped else (quantum, 0.0) if quantum > 0.5 * period else (0.0,)
        # Rough periods: many rows' is off where gaps are dense, and few rows' where stamps jitter.
        guesses = [period, *(row_step(seconds, rows * far) for far in (1, 10, 100, 10_000))]
        best_s = np.inf
        for guess, blur in itertools.product([guess for guess in guesses if guess > 0], blurs):
            told = _with_gaps(last, stamps, guess, 0.5 * guess + 0.6 * blur, rows * grouped, whole)
            gaps = np.count_nonzero(told[0])
            if told[2] + _GAP_COST_S * gaps < best_s:
                best_s, (lost, straight, stray_s) = told[2] + _GAP_COST_S * gaps, told
            if told[2] < 2 * period and gaps <= _FEW * len(last):
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
    if not lost.any():
        return Clock(rate_hz, notes=tuple(notes))
    gaps_s = lost.sum() * straight
    notes += [f"It has {np.count_nonzero(lost)} gaps of {gaps_s:.4g} s in all."]
    index = np.arange(len(seconds)) + np.repeat(np.cumsum(lost), sizes)
    return Clock(rate_hz, index, notes=tuple(notes))


def _with_gaps(
    last: NDArray[np.int64],
    stamps: NDArray,
    period: float,
    threshold: float,
    rows: int,
    whole: slice,
) -> tuple[NDArray[np.int64], float, float]:
    """Samples lost before each group, period, and how far the stamps' envelope strays off it."""
    lost, stray_s = np.zeros(len(last), np.int64), np.inf
    for turn in range(6):
        told = _lost(stamps - period * last, period, threshold, rows)
        if np.array_equal(told, lost) and np.isfinite(stray_s):
            break
        lost, index = told, last + np.cumsum(told)
        if turn < 2 and np.count_nonzero(told) > _FEW * len(last):
            # From the stretches between gaps: whose lengths are not sure before the period is.
            period = _common_slope(np.cumsum(told > 0), last, stamps) or period
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
    return RecordingError(path, f"its time stamps keep to no uniform rate: {why}.", UNIFORM)


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


def _lost(lag: NDArray, period: float, threshold: float, rows: int) -> NDArray[np.int64]:
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
    found = np.flatnonzero((after[1:] - before >= limit) & (np.diff(after) >= limit)) + 1
    for at in found.tolist():
        gap_s = after[at] - lag[max(previous, at - width) : at].min() - slope_s
        if waiting_s and at - previous <= width:
            gap_s, lost[previous] = gap_s + waiting_s, 0
        lost[at] = max(0, round(min(gap_s / period, 1e12)))
        waiting_s = gap_s if lost[at] < rows else 0.0
        previous = at
    return lost


def _earliest(lag: NDArray, width: int) -> NDArray:
    """The smallest of each and the `width` - 1 that follow."""
    if width == 1:
        return lag
    return ndimage.minimum_filter1d(lag, width, mode="nearest", origin=-(width // 2))
