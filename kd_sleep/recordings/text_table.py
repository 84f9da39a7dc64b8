"""Small tables of people and programs: CSV with `,`, `;` or tab, in the encodings of both."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Sequence

from kd_sleep.errors import RecordingError
from kd_sleep.recordings.annotation_files import read_bytes

_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_EXPORT = "Save it again as CSV in UTF-8."


def read_rows(
    path: str | os.PathLike, required: Collection[str], known: Collection[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """Rows below a header line, each with its number as a spreadsheet counts: the header is 1.

    Cells and names are stripped, and names in small letters. UTF-8 and UTF-16 are told apart by
    their byte order mark, what is neither is taken for Windows-1252. With `;` or a tab between
    cells, numbers may have a decimal comma: `number` reads both.

    Args:
      path: the table.
      required: columns that have to be there.
      known: columns that may be there besides; empty allows any.

    Raises:
      RecordingError: a file that cannot be read, is no CSV, has no header or no row, lacks a
        required column, has an unknown one or one twice, or a row of more cells than names.
    """
    lines = _text(path)
    # The header's own separator, not one within a later cell.
    header = next((line for line in lines.splitlines() if line.strip()), "")
    delimiter = next((mark for mark in "\t;," if mark in header), ",")
    reader = csv.reader(io.StringIO(lines, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    rows = []
    try:
        for cells in reader:
            if not any(map(str.strip, cells)):
                continue
            if not names:
                names = [name.strip().lower() for name in cells]
                _check_names(path, names, required, known)
                continue
            if any(cell.strip() for cell in cells[len(names) :]):
                raise RecordingError(
                    path,
                    f"row {reader.line_num} has {len(cells)} cells under {len(names)} names.",
                    'Put cells that hold a separator into quotes ("…").',
                )
            cells += [""] * (len(names) - len(cells))
            rows.append((reader.line_num, dict(zip(names, map(str.strip, cells), strict=False))))
    except csv.Error as error:
        raise RecordingError(path, f"row {reader.line_num} is no CSV ({error}).", _EXPORT) from None
    if not rows:
        raise RecordingError(path, "has no row below a header line.", "Give it one.")
    return rows


def number(cell: str) -> float:
    """A number with a decimal point or comma; NaN where the cell holds none."""
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        return float("nan")


def _text(path: str | os.PathLike) -> str:
    data = read_bytes(path)
    encodings = [name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)]
    for encoding in encodings or ("utf-8", "windows-1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise RecordingError(path, "is no text in UTF-8, UTF-16 or Windows-1252.", _EXPORT)


def _check_names(
    path: str | os.PathLike,
    names: Sequence[str],
    required: Collection[str],
    known: Collection[str],
) -> None:
    given = [name for name in names if name]
    if missing := [name for name in required if name not in given]:
        raise RecordingError(
            path,
            f"has no column {' and no column '.join(missing)} among {', '.join(given)[:200]}.",
            "The first line names the columns.",
        )
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise RecordingError(path, f"has the column {twice[0]} twice.", "Leave one.")
    if known and (unknown := [name for name in given if name not in {*required, *known}]):
        raise RecordingError(
            path,
            f"has an unknown column {unknown[0][:40]}.",
            f"Known are {', '.join([*required, *known])}; remove or rename it.",
        )
