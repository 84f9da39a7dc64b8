"""A dataset of one's own: a table of nights, which says where each night's files lie.

    id,subject,ecg,stages,bcg
    anna-1,anna,ecg/anna-1.edf,stages/anna-1.csv,bcg/anna-1.npy

| column | what stands in it |
|---|---|
| `id` | the night's name: letters, digits, `.`, `_`, `-` |
| `subject` | the person: nights of one person are in one split |
| `ecg` | a file with an ECG; or |
| `beats` | a file with the times of heartbeats |
| `stages` | CSV, EDF+ annotations, XML of NSRR or Profusion; empty for a night that nobody scored |
| `bcg` | the bed sensor's file |
| `visit` | number of the person's night; 1 where empty |
| `split` | train, validation or test; decided by the subject's name where empty |
| `cohort` | the dataset's name |
| `start` | clock at the first sample (2024-03-07 22:30:00), for files that do not tell |
| `ecg_channel`, `ecg_rate_hz`, `bcg_channel`, `bcg_rate_hz` | for files that leave it open |

`id`, `subject` and one of `ecg`, `beats` and `bcg` are needed. Paths count from the table's folder.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
from pathlib import Path
from typing import Any

from kd_sleep.config import DatasetConfig
from kd_sleep.errors import DatasetError, RecordingError
from kd_sleep.recordings.night_files import Listing
from kd_sleep.recordings.separate_files import SeparateFiles
from kd_sleep.recordings.text_table import number, read_rows
from kd_sleep.schema import RECORDED, SPLITS

_FILES = ("ecg", "beats", "stages", "bcg")
_OPTIONS = (
    "visit", "split", "cohort", "start", "ecg_channel", "ecg_rate_hz", "bcg_channel", "bcg_rate_hz",
)  # fmt: skip
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)  # it names files


def find_nights(table: str | os.PathLike, config: DatasetConfig) -> Listing[SeparateFiles]:
    """The nights of a table.

    Args:
      table: CSV with the columns of the module's docstring.
      config: of the build; its BCG channel and rate are those of cells that are empty.

    Raises:
      DatasetError: a table that cannot be read, or a cell that cannot be, by its row and column,
        the first row below the header being number 2; BCG files that the build would not read, or
        none where it needs them.
    """
    try:
        rows = read_rows(table, ("id", "subject"), (*_FILES, *_OPTIONS))
    except RecordingError as error:
        raise DatasetError(str(error), "See docs/adding_a_dataset.md.") from error
    nights: list[SeparateFiles] = []
    first_row: dict[Any, int] = {}  # where an id, or a file, stands first
    split_of_subject: dict[str, tuple[str, int]] = {}
    for row, cells in rows:
        place = _Place(table, row, cells, config)
        night = place.night()
        nights.append(night)
        used = [("id", night.recording_id.lower())] + [
            (name, (path, cells.get(f"{name}_channel", "")))
            for name, path in (*night.parts.items(), ("bcg", night.bcg))
            if path is not None
        ]
        for column, value in used:
            if (before := first_row.setdefault((column, value), row)) != row:
                raise place.error(column, f"{cells[column]!r} stands in row {before}, too.")
        split, before = split_of_subject.setdefault(night.subject_id, (place.split(), row))
        if split != place.split():
            raise place.error(
                "split",
                f"subject {night.subject_id} is in {place.split() or 'no named split'} here, in"
                f" {split or 'no named split'} in row {before}.",
            )
    _check_bcg(table, nights, config.bcg_source)
    splits = {subject: split for subject, (split, _) in split_of_subject.items() if split}
    return Listing(table, sorted(nights, key=lambda night: night.recording_id), splits=splits)


@dataclasses.dataclass(frozen=True)
class _Place:
    """A row of a table."""

    table: str | os.PathLike
    row: int
    cells: dict[str, str]
    config: DatasetConfig

    def error(self, column: str, problem: str, remedy: str = "") -> DatasetError:
        where = f"{os.fspath(self.table)}: row {self.row}, column {column}"
        return DatasetError(f"{where}: {problem}", remedy)

    def night(self) -> SeparateFiles:
        if not _ID.fullmatch(name := self.cells["id"]):
            raise self.error(
                "id", f"{name[:40]!r} is no id.", "Take letters, digits, '.', '_' and '-'."
            )
        if not self.cells["subject"]:
            raise self.error("subject", "is empty.", "Splits go by subject: name the person.")
        paths = {column: self._path(column) for column in _FILES}
        if not (paths["ecg"] or paths["beats"] or paths["bcg"]):
            raise self.error("ecg", "the night has no ECG, no beats and no BCG.", "Name one file.")
        return SeparateFiles(
            recording_id=name,
            subject_id=self.cells["subject"],
            visit=self._visit(),
            cohort=self.cells.get("cohort") or RECORDED,
            start=self._start(),
            ecg_channel=self.cells.get("ecg_channel", ""),
            ecg_rate_hz=self._rate("ecg_rate_hz"),
            bcg_channel=self.cells.get("bcg_channel") or self.config.bcg_channel,
            bcg_rate_hz=self._rate("bcg_rate_hz") or self.config.bcg_rate_hz,
            ecg=paths["ecg"],
            beats=paths["beats"],
            stages=paths["stages"],
            bcg=paths["bcg"],
        )

    def split(self) -> str:
        split = self.cells.get("split", "").lower()
        if split and split not in SPLITS:
            raise self.error("split", f"{split[:20]!r} is none of {', '.join(SPLITS)}.")
        return split

    def _path(self, column: str) -> Path | None:
        if not (cell := self.cells.get(column, "")):
            return None
        path = Path(self.table).parent / Path(cell).expanduser()
        if not path.is_file():
            raise self.error(column, f"no file {path}.", "Paths count from the table's folder.")
        return path

    def _visit(self) -> int:
        cell = self.cells.get("visit") or "1"
        if not (cell.isascii() and cell.isdigit() and 1 <= int(cell) < 10_000):
            raise self.error("visit", f"{cell[:20]!r} is no number of a night, such as 1.")
        return int(cell)

    def _rate(self, column: str) -> float:
        cell = self.cells.get(column, "")
        rate_hz = number(cell) if cell else 0.0
        if not 0.0 <= rate_hz <= 100_000.0 or (cell and rate_hz == 0.0):
            raise self.error(column, f"{cell[:20]!r} is no sampling rate in Hz, such as 100.")
        return rate_hz

    def _start(self) -> datetime.datetime | None:
        if not (cell := self.cells.get("start", "")):
            return None
        try:
            start = datetime.datetime.fromisoformat(cell)
            local = start.tzinfo is None
        except ValueError:
            local = False
        if not local:
            raise self.error(
                "start", f"{cell[:40]!r} is no local time, such as 2024-03-07 22:30:00."
            )
        return start


def _check_bcg(table: str | os.PathLike, nights: list[SeparateFiles], bcg_source: str) -> None:
    have = sum(night.bcg is not None for night in nights)
    if have and bcg_source == "simulated":
        raise DatasetError(
            f"{os.fspath(table)}: column bcg names {have} BCG files, which --bcg_source=simulated"
            " does not read.",
            "Build with --bcg_source=paired, or empty the column.",
        )
    if not have and bcg_source == "paired":
        raise DatasetError(
            f"{os.fspath(table)}: column bcg names no BCG file for --bcg_source=paired.",
            "Name them, or build with --bcg_source=simulated or none.",
        )
