"""Small tables of people and programs: CSV with `,`, `;` or tab, in the encodings of both."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings.files import FETCH_AGAIN, read_bytes

_MAX_CELLS = 11_000_000  # 500,000 beats of NSRR's 22 columns: 350 a minute for 24 hours
_MAX_ROWS = 1_000_000
_EXPORT = "Save it again as CSV in UTF-8."


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows below a header line.

    Attributes:
      names: of all columns, in small letters.
      columns: stripped cells of the columns that were asked for, blank where a row is short.
      rows: the number of each row as a spreadsheet counts: the header is 1.
    """

    names: tuple[str, ...]
    columns: dict[str, list[str]]
    rows: list[int]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as [rows] numbers, NaN for a cell without one."""
        cells = self.columns[name]
        try:
            return np.fromiter(map(float, cells), np.float64, len(cells))
        except ValueError:
            return np.array([number(cell) for cell in cells])


def read_table(path: str | os.PathLike, wanted: Collection[str] = ()) -> Table:
    """Columns of a table; UTF-8 and UTF-16 by their marks, else UTF-8 or Windows-1252.

    Args:
      path: the table.
      wanted: columns that are read where they are there; empty reads all.

    Raises:
      RecordingError: a file that cannot be read, is no CSV, has no header or no row, one column
        twice, a row of more cells than names, or more cells than a night has.
    """
    text = _text(path)
    # The header's own separator, not one within a later cell.
    header = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((mark for mark in "\t;," if mark in header), ",")
    if text.count("\n") + text.count("\r") > 2 * _MAX_ROWS or text.count(delimiter) > _MAX_CELLS:
        raise RecordingError(path, "has too many cells for a night.", FETCH_AGAIN)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    kept: list[int] = []  # numbers of the columns that are read
    flat: list[str] = []  # one list: a tuple for each of a night's beats would cost twice the time
    rows: list[int] = []
    try:
        for cells in reader:
            if not any(map(str.strip, cells)):
                continue
            if not names:
                names = [name.strip().lower() for name in cells]
                kept = [
                    k for k, name in enumerate(names) if name and (name in wanted or not wanted)
                ]
                continue
            if any(map(str.strip, cells[len(names) :])):
                raise RecordingError(
                    path,
                    f"row {reader.line_num} has {len(cells)} cells under {len(names)} names.",
                    'Put cells that hold a separator into quotes ("…").',
                )
            cells += [""] * (len(names) - len(cells))
            flat.extend([cells[k] for k in kept])
            rows.append(reader.line_num)
    except csv.Error as error:
        raise RecordingError(path, f"row {reader.line_num} is no CSV ({error}).", _EXPORT) from None
    if not rows:
        raise RecordingError(path, "has no row below a header line.", "Give it one.")
    given = [name for name in names if name]
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise RecordingError(path, f"has the column {twice[0]} twice.", "Leave one.")
    columns = {names[k]: list(map(str.strip, flat[n :: len(kept)])) for n, k in enumerate(kept)}
    return Table(tuple(given), columns, rows)


def number(cell: str) -> float:
    """A number with a decimal point or comma; NaN where the cell holds none."""
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        return float("nan")


def _text(path: str | os.PathLike) -> str:
    data = read_bytes(path)
    encodings = ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8", "cp1252")
    for encoding in encodings:
        try:
            text = data.decode(encoding, "replace" if encoding == "cp1252" else "strict")
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text.removeprefix("\ufeff").removeprefix("ï»¿")  # the mark in either encoding
    raise RecordingError(path, "is no text in UTF-8, UTF-16 or Windows-1252.", _EXPORT)
