"""BCG in CSV: one header line, one row per sample, one or several columns of numbers.

Where rows bear time stamps, these give the rate, and rows that are missing leave a gap on the right
clock. NumPy parses blocks of lines; a block that it cannot take (quotes, empty cells, words) is
read again cell by cell, which is slow and can name the line.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import itertools
import os
import re
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import files
from kd_sleep.recordings.bcg_formats import (
    HIGHEST_HZ,
    LONGEST_S,
    RATE_NAMES,
    Channel,
    Contents,
    Samples,
    clock_time,
    fold,
    start_of,
)
from kd_sleep.recordings.files import FETCH_AGAIN

_BLOCK_BYTES = 2**24
_LONGEST_LINE = 2**16
_PEEKED_ROWS = 10
_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "-"))
_TIME_NAMES = frozenset(
    ("t", "ts", "time", "times", "timestamp", "timestamps", "time_stamp", "datetime", "date_time",
     "unixtime", "epoch")
)  # fmt: skip
_PER_S = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e3, "us": 1e6, "µs": 1e6, "ns": 1e9}
_UNIT = re.compile(r"(.*?)\s*[\[(](.*?)[\])]\s*")
_TIME_UNIT = re.compile(r"(.*?)_(s|sec|seconds|ms|us|ns)")
_UNIFORM_CLOCK = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:?\d\d)?")
_CLOCK_WIDTH = 40
_UNIX_ZERO = datetime.datetime(1970, 1, 1)
_MICROSECOND = datetime.timedelta(microseconds=1)
_MOST_DAYS = 10
_COARSE_SHARE = 0.1  # of the stamps repeat: they are coarse; fewer is damage
_STRAY = 0.55  # of the usual step; half of it, and stamps of whole ms round
_STRAY_SHARE = 0.1  # of the steps may lie off the usual one by more
_COARSEST_S = 1.5
_EARLIEST_UNIX = 1e8  # a stamp below counts from the recording's start, not from 1970
_STRAY_S = 0.5  # a stamp may lie this far off a clock of one rate


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How the cells lie.

    Attributes:
      path: the file.
      delimiter: between cells.
      names: of the columns, with units.
      header_bytes: where the first row of data begins.
      first_line: its number, counted from 1.
      rows: cells of the first few rows.
    """

    path: str
    delimiter: str
    names: tuple[str, ...]
    header_bytes: int
    first_line: int
    rows: tuple[tuple[str, ...], ...]

    def cell(self, row: int, column: int) -> str:
        cells = self.rows[row]
        return cells[column] if column < len(cells) else ""


@dataclasses.dataclass(frozen=True)
class _Clock:
    """Where rows lie in time: `index` is their place among `length` samples; None: side by side."""

    rate_hz: float
    index: NDArray[np.int64] | None = None
    length: int = 0
    notes: tuple[str, ...] = ()


def csv_contents(path: str | os.PathLike) -> Contents:
    """Columns of numbers in a CSV, with the clock that time stamps or a rate column give them.

    Raises:
      RecordingError: for a file that is missing, no text, or without a header or rows. Cells are
        looked at when a channel is loaded, which raises for text among the numbers and for time
        stamps that run backwards, repeat or tell no uniform rate, naming the line.
    """
    layout = _layout(path)
    times = [k for k, name in enumerate(layout.names) if _time_name(name)[0] in _TIME_NAMES]
    rates = [k for k, name in enumerate(layout.names) if fold(name) in RATE_NAMES]
    if len(times) > 1:
        raise RecordingError(
            path,
            f"has several time columns: {', '.join(layout.names[k] for k in times)}.",
            "Leave one of them in the file.",
        )
    start = start_of(layout.cell(0, times[0])) if times else None
    rate_hz = _rate_cell(layout, rates[0]) if rates else 0.0

    # A stamp in the first row alone is the recording's start, as in the dataset of Li 2024.
    stamped = times and any(layout.cell(row, times[0]) for row in range(1, len(layout.rows)))
    numeric = stamped and _number(layout.cell(0, times[0])) is not None
    clocks: list[_Clock] = []

    def clock(stamps: NDArray | None) -> _Clock:
        if not stamped:
            for column in times:
                _check_stamped_once(layout, column)
            return _Clock(rate_hz)
        if stamps is None:
            told = _clock(layout, _clock_seconds(layout, times[0]))
        else:
            told = _clock(layout, _number_seconds(layout, times[0], stamps))
        if rate_hz and abs(told.rate_hz / rate_hz - 1.0) > 0.01:
            raise RecordingError(
                path,
                f"its time stamps tell {told.rate_hz:.6g} Hz, its column"
                f" {layout.names[rates[0]]!r} {rate_hz:g} Hz.",
                "Remove the wrong one of them.",
            )
        return told

    def load(column: int, unit: str) -> Callable[[], Samples]:
        def samples() -> Samples:
            with_stamps = numeric and not clocks  # one pass reads both
            table = _numbers(layout, (column, times[0]) if with_stamps else (column,))
            if not clocks:
                clocks.append(clock(table[:, 1] if with_stamps else None))
            placed, values = clocks[0], table[:, 0]
            if placed.index is not None:
                spread = np.full(placed.length, np.nan)
                spread[placed.index] = values
                values = spread
            return Samples(values, placed.rate_hz, unit, placed.notes)

        return samples

    channels = []
    for k, name in enumerate(layout.names):
        text = any(_number(layout.cell(row, k)) is None for row in range(len(layout.rows)))
        if k not in times and k not in rates and not text:
            unit = _UNIT.fullmatch(name)
            channels.append(Channel(name, load(k, unit.group(2) if unit else "")))
    return Contents(tuple(channels), start)


def _layout(path: str | os.PathLike) -> _Layout:
    with files.opened(path) as file:
        head = file.read(_LONGEST_LINE)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise RecordingError(path, "is text in UTF-16.", "Save it as UTF-8.")
    skipped = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    body = head[skipped:]
    lines = io.BytesIO(body).readlines()  # at \n alone: some exports end lines in \r\r\n
    at = next((k for k, line in enumerate(lines) if line.strip()), len(lines))
    if b"\0" in head or at + 1 >= len(lines):
        raise RecordingError(
            path,
            "is no text of a header line and rows of numbers.",
            "Expected a CSV with the columns' names in its first line.",
        )
    header = lines[at].decode("utf-8", "replace").strip("\r\n")
    delimiter = next((mark for mark in "\t;," if mark in header), ",")
    try:
        names = tuple(name.strip() for name in next(csv.reader([header], delimiter=delimiter)))
        peeked = [line for line in lines[at + 1 :] if line.endswith(b"\n")] or lines[-1:]
        text = [line.decode("latin-1").strip("\r\n") for line in peeked[:_PEEKED_ROWS]]
        if delimiter != ",":  # then it is a decimal comma
            text = [line.replace(",", ".") for line in text]
        rows = tuple(tuple(row) for row in csv.reader(text, delimiter=delimiter))
    except csv.Error as error:
        raise RecordingError(path, f"is no readable CSV ({error}).", FETCH_AGAIN) from error
    if any(map(str.isdigit, "".join(names))) and all(_number(name) is not None for name in names):
        raise RecordingError(
            path, "has no header line.", "Put the columns' names into its first line."
        )
    for number, row in enumerate(rows, start=at + 2):
        if any(cell.strip() for cell in row[len(names) :]):
            raise RecordingError(
                path,
                f"line {number} has {len(row)} cells under {len(names)} names.",
                "Is the decimal comma also the delimiter? Save it with ';' between cells.",
            )
    return _Layout(
        os.fspath(path),
        delimiter,
        names,
        skipped + sum(map(len, lines[: at + 1])),
        at + 2,
        rows or ((),),
    )


def _time_name(name: str) -> tuple[str, float]:
    """A column's folded name without its unit, and that unit's parts in a second; 0: not told."""
    for pattern in (_UNIT, _TIME_UNIT):
        match = pattern.fullmatch(name.strip())
        if match:
            return fold(match.group(1)), _PER_S.get(fold(match.group(2)), 0.0)
    return fold(name), 0.0


def _number(cell: str) -> float | None:
    """A cell's number, NaN for an empty one, None for text."""
    cell = cell.strip()
    if cell.lower() in _MISSING:
        return np.nan
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _rate_cell(layout: _Layout, column: int) -> float:
    rate_hz = _number(layout.cell(0, column))
    if rate_hz is None or not 0 < rate_hz < np.inf:
        raise RecordingError(
            layout.path,
            f"has {layout.cell(0, column)[:40]!r} as {layout.names[column]!r} in its first row.",
            "Expected the sampling rate in Hz there.",
        )
    return rate_hz


def _blocks(layout: _Layout) -> Iterator[tuple[int, str]]:
    """Whole lines with the number of the first of them; the file's last blank lines left out."""
    line = layout.first_line
    with files.opened(layout.path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(layout.header_bytes)
        while data := file.read(_BLOCK_BYTES):
            data += file.readline(_LONGEST_LINE)
            last = file.tell() >= size
            if not last and not data.endswith(b"\n"):
                raise RecordingError(layout.path, f"a line after {line} never ends.", FETCH_AGAIN)
            if b"\0" in data:
                raise RecordingError(
                    layout.path, f"holds bytes that are no text after line {line}.", FETCH_AGAIN
                )
            if b"\r" in data:
                data = data.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n")
            if layout.delimiter != ",":
                data = data.replace(b",", b".")
            if last:
                data = data.rstrip()
            elif data.endswith(b"\n"):
                data = data[:-1]
            if data:
                yield line, data.decode("latin-1")
            line += data.count(b"\n") + 1


def _parsed(
    text: str, layout: _Layout, columns: tuple[int, ...], dtype: type | str
) -> NDArray | None:
    """Columns of a block by NumPy's parser, [rows, columns]; None where a line is not as it is."""
    if '"' in text or "\n\n" in text or text.startswith("\n"):
        return None
    try:
        cells = np.loadtxt(
            io.StringIO(text),
            dtype=dtype,
            comments=None,
            delimiter=layout.delimiter,
            usecols=columns,
            ndmin=2,
        )
    except ValueError:
        return None
    return cells if len(cells) == text.count("\n") + 1 else None


def _cells(text: str, line: int, layout: _Layout, column: int) -> Iterator[tuple[int, str]]:
    """One column of a block cell by cell, with its line's number; blank for a row without it."""
    reader = csv.reader(text.split("\n"), delimiter=layout.delimiter)
    try:
        for rows, row in enumerate(reader, start=1):
            if reader.line_num != rows:
                raise RecordingError(
                    layout.path, f"line {line + rows - 1} has an open quotation.", FETCH_AGAIN
                )
            yield line + rows - 1, row[column].strip() if column < len(row) else ""
    except csv.Error as error:
        where = f"line {line + reader.line_num - 1}"
        raise RecordingError(layout.path, f"{where} is no CSV ({error}).", FETCH_AGAIN) from error


def _refuse_cell(layout: _Layout, line: int, column: int, cell: str, expected: str) -> None:
    raise RecordingError(
        layout.path,
        f"line {line} has {cell[:40]!r} in column {layout.names[column]!r}.",
        f"Expected {expected}; correct the line, or leave the night out.",
    )


def _joined(layout: _Layout, parts: list[NDArray]) -> NDArray:
    if not parts:
        raise RecordingError(layout.path, "holds no rows, only a header.", FETCH_AGAIN)
    if sum(map(len, parts)) > LONGEST_S * HIGHEST_HZ:
        raise RecordingError(
            layout.path,
            "has more rows than 24 h have samples at 1000 Hz.",
            "Cut it to the night.",
        )
    return np.concatenate(parts)


def _check_stamped_once(layout: _Layout, column: int) -> None:
    """Refuses stamps on some rows beside the first: they would tell of gaps, and be overlooked."""
    for line, text in _blocks(layout):
        if line == layout.first_line:
            line, text = line + 1, text.partition("\n")[2]
        if layout.delimiter not in text:
            continue
        cells = _parsed(text, layout, (column,), f"S{_CLOCK_WIDTH}")
        if cells is not None and not (cells != b"").any():
            continue
        for number, cell in _cells(text, line, layout, column):
            if cell:
                raise RecordingError(
                    layout.path,
                    f"line {number} has a time stamp, and most lines have none.",
                    "Stamp each row, or the first alone.",
                )


def _numbers(layout: _Layout, columns: tuple[int, ...]) -> NDArray[np.float64]:
    """Columns of numbers, [rows, columns]; NaN for empty cells."""
    parts = []
    for line, text in _blocks(layout):
        block = _parsed(text, layout, columns, np.float64)
        if block is None:
            by_cell = []
            for column in columns:
                values = []
                for number, cell in _cells(text, line, layout, column):
                    value = _number(cell)
                    if value is None:
                        _refuse_cell(layout, number, column, cell, "a number")
                    values.append(value)
                by_cell.append(values)
            block = np.array(by_cell, np.float64).T
        parts.append(block)
    return _joined(layout, parts)


def _uniform_clock(cells: NDArray[np.bytes_]) -> NDArray[np.int64] | None:
    """Microseconds of clock texts that are all spelt alike; None for others.

    By hand, because NumPy's own cast from bytes crashes on text that is no time.
    """
    first = cells[0].decode("latin-1")
    clock = clock_time(first) if _UNIFORM_CLOCK.fullmatch(first) else None
    raw = np.ascontiguousarray(cells.view(np.uint8).reshape(len(cells), -1).T)
    if clock is None:
        return None
    changes = np.zeros(len(cells) - 1, bool)
    for k, column in enumerate(raw):
        varies = 48 <= column[0] <= 57 and k < 26  # a zone stays the same
        if varies and (column.min() < 48 or column.max() > 57):
            return None
        if not varies and (column != column[0]).any():
            return None
        if k < 10:
            changes |= column[1:] != column[:-1]
    days = np.flatnonzero(changes) + 1
    if len(days) > _MOST_DAYS:
        return None

    def number(start: int, stop: int) -> NDArray[np.int64]:
        value = np.zeros(len(cells), np.int64)
        for column in raw[start:stop]:
            value *= 10
            value += column - 48
        return value

    fraction = re.match(r"\.\d+", first[19:])
    stop = 19 + len(fraction.group()) if fraction else 19
    hour, minute, second = number(11, 13), number(14, 16), number(17, 19)
    if hour.max() > 23 or minute.max() > 59 or second.max() > 59:
        return None
    micro = number(20, stop) * 10 ** (26 - stop) if fraction else 0
    of_day = ((hour * 60 + minute) * 60 + second) * 1_000_000 + micro
    away = round(clock[1].total_seconds() * 1e6) if clock[1] is not None else 0
    edges = [0, *days, len(cells)]
    for start, end in itertools.pairwise(edges):
        day = clock_time(cells[start].decode("latin-1"))
        if day is None:
            return None
        midnight = day[0].replace(hour=0, minute=0, second=0, microsecond=0)
        of_day[start:end] += (midnight - _UNIX_ZERO) // _MICROSECOND - away
    return of_day


def _clock_seconds(layout: _Layout, column: int) -> NDArray[np.float64]:
    """A column of clock texts as seconds since the first, [rows]."""
    parts = []
    # Room for one letter more than the first has shows those that are longer.
    dtype = f"S{min(len(layout.cell(0, column)) + 10, _CLOCK_WIDTH)}"
    for line, text in _blocks(layout):
        table = _parsed(text, layout, (column,), dtype)
        cells = None if table is None else table[:, 0]
        block = None if cells is None else _uniform_clock(cells)
        if block is not None:
            parts.append(block)
            continue
        if cells is None:
            lines, distinct = zip(*_cells(text, line, layout, column), strict=True)
            counts = np.ones(len(lines), np.int64)
        else:  # stamps of whole seconds repeat
            first = np.concatenate([[0], np.flatnonzero(cells[1:] != cells[:-1]) + 1])
            lines, counts = tuple(line + first), np.diff(first, append=len(cells))
            distinct = tuple(cell.decode("latin-1") for cell in cells[first])
        values = np.zeros(len(lines), np.int64)
        for k, cell in enumerate(distinct):
            clock = clock_time(cell)
            if clock is None:
                _refuse_cell(layout, lines[k], column, cell, "a time such as 2023-11-03 22:39:15")
            else:
                away_s = clock[1].total_seconds() if clock[1] is not None else 0.0
                values[k] = (clock[0] - _UNIX_ZERO) // _MICROSECOND - round(away_s * 1e6)
        parts.append(np.repeat(values, counts))
    stamps = _joined(layout, parts)
    return (stamps - stamps[0]) / 1e6


def _number_seconds(layout: _Layout, column: int, stamps: NDArray) -> NDArray[np.float64]:
    """A column's numeric stamps as seconds since the first, [rows].

    The unit is the one that the column's name has, such as `time_ms`, or else the one by which the
    rate is nearest to a sensor's: those of seconds, ms, µs and ns lie a thousand-fold apart.
    """
    missing = np.flatnonzero(~np.isfinite(stamps))
    if missing.size:
        _refuse_cell(layout, layout.first_line + int(missing[0]), column, "", "a time stamp")
    per_s = _time_name(layout.names[column])[1]
    elapsed = stamps - stamps[0]
    if not per_s and len(stamps) > 1:
        steps = np.diff(stamps)
        step = np.median(steps) or steps.mean()  # coarse stamps repeat
        if stamps[0] < _EARLIEST_UNIX and np.all(steps == 1.0):
            raise RecordingError(
                layout.path,
                f"column {layout.names[column]!r} counts by ones: rows, or milliseconds?",
                "Name it time_ms, or remove it and give the rate.",
            )
        per_s = next((u for most, u in ((0.2, 1.0), (200.0, 1e3), (2e5, 1e6)) if step < most), 1e9)
    return elapsed / (per_s or 1.0)


def _clock(layout: _Layout, seconds: NDArray) -> _Clock:
    """The rate that time stamps tell, [rows], and where its gaps are.

    Raises:
      RecordingError: for stamps that run backwards, repeat now and then, or keep to no rate.
    """
    path, first = layout.path, layout.first_line
    steps = np.diff(seconds)
    if not steps.any():
        raise RecordingError(path, "its time stamps never change.", "Remove them; give the rate.")
    if (steps < 0).any():
        at = int(np.argmax(steps < 0))
        raise RecordingError(
            path,
            f"its time stamps run back by {-steps[at]:.6g} s at line {first + at + 1}.",
            "Is it the end of summer time, or two recordings in one file? Split it, or use UTC.",
        )
    repeats = steps == 0
    if repeats.mean() > _COARSE_SHARE:
        return _coarse_clock(layout, seconds)
    if repeats.any():
        at = int(np.argmax(repeats))
        raise RecordingError(
            path,
            f"line {first + at + 1} repeats the time stamp of the line before.",
            "Remove the double row, or leave the night out.",
        )
    usual = np.median(steps)
    ordinary = steps[np.abs(steps / usual - 1.0) < _STRAY]
    if ordinary.size < (1.0 - _STRAY_SHARE) * steps.size:
        raise RecordingError(
            path,
            f"its time stamps keep to no uniform rate: {steps.size - ordinary.size} of"
            f" {steps.size} steps are more than half off {usual:.6g} s.",
            "If its samples are uniform all the same, remove the time column and give the rate.",
        )
    period = float(ordinary.mean())
    gaps = np.flatnonzero(steps > 1.5 * period)
    if not (steps < 0.5 * period).any():
        lost = np.rint(steps[gaps] / period) - 1.0
        return _placed(layout, seconds, gaps, lost, period, 1.0, _STRAY_S)
    # Stamps jitter: a row that came late is no gap, so the levels around the step count.
    rows, near = np.arange(len(seconds)), np.arange(11)
    before, after = np.maximum(gaps[:, None] - near, 0), gaps[:, None] + 1 + near
    after = np.minimum(after, len(seconds) - 1)
    for _ in range(2):  # the mean of the ordinary steps is a first guess
        lag = seconds - rows * period
        jump = np.median(lag[after], axis=1) - np.median(lag[before], axis=1)
        lost = np.maximum(np.rint(jump / period), 0.0)
        index = rows + np.cumsum(np.bincount(gaps + 1, lost, len(rows)))
        period = float(np.polyfit(index, seconds, 1)[0])
    return _placed(layout, seconds, gaps, lost, period, 1.0, _STRAY_S)


def _coarse_clock(layout: _Layout, seconds: NDArray) -> _Clock:
    """As `_clock`, of stamps that many rows share: the rate is their mean number per stamp."""
    first = np.concatenate([[0], np.flatnonzero(np.diff(seconds)) + 1])
    spans, rows = np.diff(seconds[first]), np.diff(first)
    resolution = float(np.median(spans))
    gap = spans > 1.5 * resolution
    # Stamps beside a gap, and the first, need not have all their rows.
    whole = ~gap & ~np.concatenate([[True], gap[:-1]])
    if resolution > _COARSEST_S or not whole.any():
        raise RecordingError(
            layout.path,
            f"its time stamps are too coarse: they resolve {resolution:g} s.",
            "Remove the time column and give the rate.",
        )
    period = float(spans[whole].sum() / rows[whole].sum())
    # A stamp's first row is due where the second stamp, which has all its rows, says.
    known = 0 if gap[0] else 1
    due = first[known] + (seconds[first] - seconds[first[known]]) / period
    # The first stamp after a gap may lack its first rows; the last one may lack its last.
    at = np.flatnonzero(gap) + 1
    full = resolution / period
    due[at] += np.maximum(full - np.append(rows, full)[at], 0.0)
    lost = np.diff(np.maximum.accumulate(np.rint(due[at] - first[at])), prepend=0.0)
    note = (
        f"Its time stamps resolve {resolution:g} s: the rate is a mean, and samples after a gap lie"
        f" within {resolution:g} s."
    )
    return _placed(
        layout, seconds, first[at] - 1, np.maximum(lost, 0.0), period, full, 2 * resolution, note
    )


def _placed(
    layout: _Layout,
    seconds: NDArray,
    gaps: NDArray,
    lost: NDArray,
    period: float,
    doubt: float,
    stray_s: float,
    *notes: str,
) -> _Clock:
    """Rows on a uniform grid, with `lost` samples after each row of `gaps`.

    A whole number of Hz is taken where that moves no sample by more than `doubt` samples.
    """
    rate_hz = 1.0 / period
    length = len(seconds) + float(lost.sum())
    if length * period > LONGEST_S or length > LONGEST_S * HIGHEST_HZ:
        raise RecordingError(
            layout.path,
            f"its time stamps span {length * period / 3600:.4g} h.",
            "At most 24 h are read; correct the stamps or cut the file.",
        )
    if abs(rate_hz - round(rate_hz)) * length * period < doubt and round(rate_hz):
        rate_hz = float(round(rate_hz))
    shift = np.cumsum(np.bincount(gaps + 1, lost, len(seconds)))
    index = np.arange(len(seconds)) + np.rint(shift).astype(np.int64)
    stray = seconds - index / rate_hz
    stray -= np.median(stray)
    if np.abs(stray).max() > stray_s:
        at = int(np.argmax(np.abs(stray)))
        raise RecordingError(
            layout.path,
            f"its rows do not keep to {rate_hz:.6g} Hz: by line {layout.first_line + at} the stamps"
            f" are {abs(stray[at]):.3g} s off.",
            "If its samples are uniform all the same, remove the time column and give the rate.",
        )
    if not lost.any():
        return _Clock(rate_hz, notes=notes)
    told = f"It has {np.count_nonzero(lost)} gaps of {lost.sum() * period:.4g} s in all."
    return _Clock(rate_hz, index, int(index[-1]) + 1, (*notes, told))
