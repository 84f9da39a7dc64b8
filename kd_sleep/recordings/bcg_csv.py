"""BCG in CSV: a line of names, perhaps one of units, then a row of numbers and stamps per sample.

Blocks of lines are read cell by cell; a cell that is neither number nor time is named by its line.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import files, time_stamps
from kd_sleep.recordings.bcg_formats import RATE_NAMES, Column, Contents
from kd_sleep.recordings.edf import fold
from kd_sleep.recordings.files import FETCH_AGAIN
from kd_sleep.recordings.recording import LONGEST_S
from kd_sleep.recordings.time_stamps import Stamps

_BLOCK_BYTES = 2**22
_LONGEST_LINE = 2**16
_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "-"))
_COMMENTS = ("#", "%", "//")
_UNIT_WORD = re.compile(
    r"[\[(]?([munpkµμ]?(v|volts?|g|n|pa|s|sec|seconds|hz|a|m/s\^?2|bpm)|adu?|adc|counts?|a\.?u\.?|%|-|)[\])]?",
    re.IGNORECASE,
)
_CLOCK_LIKE = re.compile(r"\d:\d\d")
_CLOCK_WIDTH = 40
_JUDGED_ROWS = 10
_EXPECTED = (
    "Expected one line with the columns' names, and at most one with their units, above the rows."
)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How the cells lie.

    Attributes:
      path: the file.
      delimiter: between cells; None for blanks.
      names: of the columns, with units.
      header_bytes: where the first row of data begins.
      first_line: its number, counted from 1.
      rows: cells of the first rows.
    """

    path: str
    delimiter: str | None
    names: tuple[str, ...]
    header_bytes: int
    first_line: int
    rows: list[list[str]]


def csv_contents(path: str | os.PathLike) -> Contents:
    """Columns of numbers and of time stamps in a CSV.

    Raises:
      RecordingError: a file that is missing, no text, or without names or rows. Cells are looked at
        when columns are loaded, which raises for text among the numbers, naming the line.
    """
    layout = _layout(path)
    columns, refused, rate, start = [], {}, None, None
    stamped_once: list[int] = []
    for number, name in enumerate(layout.names):
        cells = [row[number].strip() if number < len(row) else "" for row in layout.rows]
        values = [_number(cell) for cell in cells]
        base, per_s = time_stamps.time_name(name)
        if fold(name) in RATE_NAMES:
            rate = cells[0]
        elif base in time_stamps.TIME_NAMES and not any(cells[1:]) and len(cells) > 1:
            # In the first row alone it is the recording's start, as in the dataset of Li 2024.
            start = time_stamps.start_of(cells[0], per_s)
            stamped_once.append(number)
        elif None not in values[:_JUDGED_ROWS]:
            columns.append(Column(name, np.array(values, np.float64), number))
        elif all(not cell or _CLOCK_LIKE.search(cell) for cell in cells[:_JUDGED_ROWS]):
            width = min(max(map(len, cells)) + 10, _CLOCK_WIDTH)  # room to see longer ones
            texts = np.array([cell.encode("latin-1", "replace") for cell in cells], f"S{width}")
            columns.append(Column(name, texts, number))
        else:
            refused[name] = f"column {name!r} holds text such as {cells[values.index(None)][:40]!r}"
    return Contents(
        tuple(columns),
        lambda wanted: _load(layout, wanted, stamped_once),
        refused,
        rate,
        start,
        lambda row: f"line {layout.first_line + row}",
    )


def _layout(path: str | os.PathLike) -> _Layout:
    with files.opened(path) as file:
        head = file.read(_LONGEST_LINE)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise RecordingError(path, "is text in UTF-16.", "Save it as UTF-8.")
    skipped = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    raw = io.BytesIO(head[skipped:]).readlines()  # at \n alone: some exports end lines in \r\r\n
    if len(raw) > 2 and not raw[-1].endswith(b"\n"):
        raw.pop()
    lines = [line.decode("utf-8", "replace").strip("\r\n") for line in raw]
    separator = re.fullmatch(r'"?sep=(.)"?', lines[0], re.IGNORECASE) if lines else None
    comments: list[int] = []  # numbers of lines
    text: list[int] = []
    rows: list[int] = []
    for number, line in enumerate(lines[1:] if separator else lines, start=1 if separator else 0):
        if line.startswith(_COMMENTS) or (line.startswith(";") and line.count(";") == 1):
            comments.append(number)
        elif line.strip():
            (rows if _has_number(line) else text).append(number)
        if len(text) + len(rows) == _JUDGED_ROWS + 2:
            break
    rows = [number for number in rows if not text or number > text[-1]]
    if b"\0" in head or not rows:
        raise RecordingError(
            path,
            "is no text of a header line and rows of numbers.",
            "Expected a CSV with the columns' names in its first line.",
        )
    first = rows[0]
    named = [*text, *comments[-1:]][0] if text or comments else first
    header = lines[named].lstrip("#%/ ") if named != first else ""
    delimiter = separator[1] if separator else _delimiter(header if text else "", lines[first])

    def cells(line: str) -> list[str]:
        if delimiter is None:
            return [cell.strip('"') for cell in line.split()]
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]

    table: list[list[str]] = []
    try:
        for line in lines[first:]:
            table += [cells(line if delimiter == "," else line.replace(",", "."))]
    except csv.Error as error:  # a later one is named when its line is read
        if not table:
            raise RecordingError(path, f"is no readable CSV ({error}).", FETCH_AGAIN) from error
    names = cells(header) if header else []
    if len(names) == len(table[0]) - 1 and lines[first].startswith('"'):
        names.insert(0, "")  # R's row names
    if not names or (not text and (len(names), named + 1) != (len(table[0]), first)):
        raise RecordingError(
            path, f"has no header line: line {first + 1} begins with numbers.", _EXPECTED
        )
    units = cells(lines[text[-1]]) if len(text) > 1 else []
    if len(text) > 2 or not all(map(_UNIT_WORD.fullmatch, units)):
        raise RecordingError(
            path,
            f"holds text in lines {', '.join(str(number + 1) for number in text[:6])} above the"
            f" numbers of line {first + 1}.",
            _EXPECTED,
        )
    if len(units) == len(names):
        units = [unit.strip("[()]") for unit in units]
        names = [
            f"{name} [{unit}]" if unit else name for name, unit in zip(names, units, strict=True)
        ]
    for number, row in enumerate(table, start=first + 1):
        if any(row[len(names) :]):
            raise RecordingError(
                path,
                f"line {number} has {len(row)} cells under {len(names)} names.",
                "Is the decimal comma also the delimiter? Save it with ';' between cells.",
            )
    at = skipped + sum(map(len, raw[:first]))
    return _Layout(os.fspath(path), delimiter, tuple(names), at, first + 1, table)


def _has_number(line: str) -> bool:
    """Whether a line is a row: of words between blanks, all are numbers, else one cell is."""
    apart = re.split(r"[\t;,]", line.replace('"', ""))
    judge = any
    if len(apart) == 1:
        apart, judge = apart[0].split(), all
    return judge(
        _number(cell) is not None or bool(_CLOCK_LIKE.search(cell))
        for cell in apart
        if cell.strip()
    )


def _delimiter(header: str, row: str) -> str | None:
    """Between cells, by the names if there are any; None for blanks."""
    mark = next((mark for mark in "\t;," if mark in (header or row)), None)
    names, cells = len(header.split()), len(row.split())
    blanks = cells > 1 and (names == cells or (names == cells - 1 and row.startswith('"')))
    return mark if mark or blanks else ","


def _number(cell: str) -> float | None:
    """A cell's number, NaN for an empty one, None for text."""
    cell = cell.strip()
    if cell.lower() in _MISSING:
        return np.nan
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


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


def _load(
    layout: _Layout, wanted: Sequence[Column], stamped_once: Sequence[int]
) -> list[NDArray | Stamps]:
    """Columns in one pass: [rows] numbers, NaN for empty cells, or time stamps."""
    parts: list[list[Any]] = [[] for _ in wanted]
    rows = 0
    for line, text in _blocks(layout):
        table = _cells(text, line, layout)
        rows += len(table)
        for number in stamped_once:
            _check_stamped_once(layout, number, line, table)
        for part, column in zip(parts, wanted, strict=True):
            cells = _column(layout, column, line, table)
            if cells.dtype.kind == "S":
                try:
                    cells = np.array(time_stamps.clock_times(cells))
                except time_stamps.NoTime as error:
                    cell = cells[error.args[0]].decode("latin-1")
                    raise _bad_cell(
                        layout,
                        line + error.args[0],
                        column,
                        cell,
                        "a time such as 2023-11-03 22:39:15",
                    ) from None
            part.append(cells)
        if rows > LONGEST_S * time_stamps.HIGHEST_HZ:
            raise RecordingError(
                layout.path,
                "has more rows than 24 h have samples at 1000 Hz.",
                "Cut it to the night.",
            )
    if not rows:
        raise RecordingError(layout.path, "holds no rows, only a header.", FETCH_AGAIN)
    joined = [np.concatenate(part, axis=-1) for part in parts]
    return [
        time_stamps.text_stamps(values[0], values[1], column.peek[0]) if values.ndim > 1 else values
        for values, column in zip(joined, wanted, strict=True)
    ]


def _cells(text: str, line: int, layout: _Layout) -> list[list[str]]:
    """The rows of a block, cell by cell."""
    if layout.delimiter is None:
        return [row.replace('"', "").split() for row in text.split("\n")]
    reader = csv.reader(text.split("\n"), delimiter=layout.delimiter)
    table = []
    try:
        for row in reader:
            table.append(row)
            if reader.line_num != len(table):
                raise RecordingError(
                    layout.path,
                    f"line {line + len(table) - 1} has an open quotation.",
                    FETCH_AGAIN,
                )
    except csv.Error as error:
        where = f"line {line + reader.line_num - 1}"
        raise RecordingError(layout.path, f"{where} is no CSV ({error}).", FETCH_AGAIN) from error
    return table


def _column(layout: _Layout, column: Column, line: int, table: list[list[str]]) -> NDArray:
    """One column of a block, [rows] numbers or texts; blank for a row without it."""
    at = column.place
    cells = [row[at] if at < len(row) else "" for row in table]
    if column.peek.dtype.kind == "S":
        return np.array([c.strip().encode("latin-1", "replace") for c in cells], column.peek.dtype)
    try:
        if not any("_" in cell for cell in cells):  # Python's own way to part digits
            return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        pass
    values = [_number(cell) for cell in cells]
    if None in values:
        row = values.index(None)
        raise _bad_cell(layout, line + row, column, cells[row], "a number")
    return np.array(values, np.float64)


def _bad_cell(
    layout: _Layout, line: int, column: Column, cell: str, expected: str
) -> RecordingError:
    return RecordingError(
        layout.path,
        f"line {line} has {cell[:40]!r} in column {column.label!r}.",
        f"Expected {expected}; correct the line, or leave the night out.",
    )


def _check_stamped_once(layout: _Layout, number: int, line: int, table: list[list[str]]) -> None:
    """Refuses stamps on some rows beside the first: they would tell of gaps, and be overlooked."""
    for row, cells in enumerate(table, start=line):
        if row != layout.first_line and number < len(cells) and cells[number].strip():
            raise RecordingError(
                layout.path,
                f"line {row} has a time stamp, and most lines have none.",
                "Stamp each row, or the first alone.",
            )
