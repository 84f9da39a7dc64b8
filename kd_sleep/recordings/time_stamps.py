"""Columns of time stamps in text or numbers: to seconds, and to a start.

A clock is a column whose values only rise; its name may give the unit.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
FAR_ROWS, SAMPLED, _RAMP_POINTS = 1000, 100_000, 300
_SLOWEST_ROWS_HZ = 5.0  # of a column that is a clock by its name: its rows may be a packet each


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
        known = re.search(rb"(Z|UTC|GMT)\s*$", match[0]) or match[8]
        sign = -1 if match[8] == b"-" else 1
        zone_min[rows] = sign * (zone_h * 60 + zone_m) if known else NO_ZONE
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
    stamps: NDArray, label: str, stated_hz: float, row_name: Callable[[int], str]
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
    if not per_s and stated_hz and step > 0:
        units = (1.0, 1e3, 1e6, 1e9, 1 / 86400, stated_hz)
        per_s = next((u for u in units if abs(step / u * stated_hz - 1.0) < _SAME_RATE), 0.0)
    if not per_s and step > 0:
        usual = row_step(stamps, 1)
        if usual == 1.0 and start_of(stamps[0], 1e3) is None:
            return "it counts by ones: rows, or milliseconds?"
        lowest_hz = _SLOWEST_ROWS_HZ if named else LOWEST_BCG_HZ
        even = named or (
            usual > 0 and np.mean(np.abs(np.diff(stamps[:SAMPLED]) / usual - 1.0) < 0.5) > 0.5
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


def row_step(stamps: NDArray, far: int = FAR_ROWS) -> float:
    """What a row takes, roughly: the median of what `far` rows take, over their number."""
    far = max(1, min(far, len(stamps) // 3))
    at = np.random.default_rng(0).integers(0, len(stamps) - far, min(len(stamps), SAMPLED))
    return float(np.median(stamps[at + far] - stamps[at])) / far
