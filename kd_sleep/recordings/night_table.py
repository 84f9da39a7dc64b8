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
Time counts from the ECG's first sample. Where there is no ECG it counts from the 0 of the beats'
times, and where there are no beats either from the BCG's first sample.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kd_sleep.config import DatasetConfig
from kd_sleep.errors import DatasetError, RecordingError
from kd_sleep.recordings import shhs
from kd_sleep.recordings.beat_files import read_beats
from kd_sleep.recordings.night_files import Listing, NightFiles
from kd_sleep.recordings.paired_bcg import RATE_TOLERANCE, BcgRecording, read_bcg
from kd_sleep.recordings.recording import Recording, Signal
from kd_sleep.recordings.scored_windows import labels_of_night
from kd_sleep.recordings.stage_files import read_scoring
from kd_sleep.recordings.text_table import number, read_table
from kd_sleep.schema import RECORDED, SIMULATOR, SPLITS, WINDOW_S
from kd_sleep.stages import UNSCORED

_FILES = ("ecg", "beats", "stages", "bcg")
_COLUMNS = (
    "id", "subject", *_FILES, "visit", "split", "cohort", "start", "ecg_channel", "ecg_rate_hz",
    "bcg_channel", "bcg_rate_hz",
)  # fmt: skip
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)  # it names files


@dataclasses.dataclass(frozen=True)
class _Heart:
    """What sets a night's time: ECG and effort where read, start, duration in s, an EDF's text."""

    ecg: Signal | None
    effort: tuple[Signal, ...]
    start: datetime.datetime | None
    duration_s: float
    text: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeparateFiles(NightFiles):
    """The files of one night; at least one of ECG, beats and BCG.

    Attributes:
      ecg: EDF, whose breathing effort is read, too; or any format that a BCG may have.
      beats: as `beat_files.read_beats` takes them; preferred to those of the ECG.
      stages: as `stage_files.read_scoring` takes them; None leaves the night unscored.
      ecg_channel: empty takes the channel with an ECG's usual name, or the only one.
      ecg_rate_hz: for a file that does not tell; 0 for one that does.
      start: local clock at the first sample, in place of the header's.
      cohort: the dataset's name; a simulator that a file names goes first.
    """

    ecg: Path | None = None
    beats: Path | None = None
    stages: Path | None = None
    ecg_channel: str = ""
    ecg_rate_hz: float = 0.0
    start: datetime.datetime | None = None
    cohort: str = RECORDED

    bcg_spelt: ClassVar = ("column bcg_channel", "column bcg_rate_hz")
    ecg_spelt: ClassVar = ("column ecg_channel", "column ecg_rate_hz")

    @property
    def parts(self) -> dict[str, Path | None]:
        return {"ecg": self.ecg, "beats": self.beats, "stages": self.stages}

    def options(self) -> str:
        night = (self.recording_id, self.subject_id, self.visit, self.cohort, self.start)
        read = (self.ecg_channel, self.ecg_rate_hz, self.bcg_channel, self.bcg_rate_hz)
        return repr((night, read))

    def read(self, *, signals: bool = True) -> Recording:
        rpoints = None if self.beats is None else read_beats(self.beats)
        if self.ecg is not None and signals:
            heart = self._read_ecg(self.ecg)
        elif rpoints is not None:  # which tell no length: the last beat's, or the stages', below
            heart = _Heart(None, (), None, float(rpoints.times_s[-1]))
        elif self.bcg is not None:
            found = read_bcg(self.bcg, self.bcg_channel, self.bcg_rate_hz, spelt=self.bcg_spelt)
            heart = _clock_of(found)
        else:
            raise RecordingError(
                self.part("ecg"),
                "the night has no heartbeats beside its ECG.",
                "Give a file of beats, or build with --recordings=edf.",
            )
        start, duration_s, software = self.start or heart.start, heart.duration_s, ""
        scoring = None
        if self.stages is not None:
            scoring = read_scoring(self.stages, start)
            software = scoring.software
            if heart.ecg is None and rpoints is not None:
                duration_s = max(duration_s, len(scoring.labels) * WINDOW_S)
        windows = int(duration_s / WINDOW_S + 1e-9)
        if windows == 0:
            raise RecordingError(
                self.part(), f"lasts {duration_s:g} s, less than one window.", "Leave it out."
            )
        labels = np.full(windows, UNSCORED, np.int8)
        if self.stages is not None and scoring is not None:
            labels = labels_of_night(self.stages, scoring, windows)
        simulator = (t for t in (heart.text, software, self.cohort) if t.startswith(SIMULATOR))
        return Recording(
            recording_id=self.recording_id,
            subject_id=self.subject_id,
            visit=self.visit,
            cohort=next(simulator, self.cohort),
            start=start,
            duration_s=duration_s,
            ecg=heart.ecg,
            effort=heart.effort,
            labels=labels,
            rpoints=rpoints,
        )

    def _read_ecg(self, path: Path) -> _Heart:
        if path.suffix.lower() == ".edf":
            labels = (self.ecg_channel,) if self.ecg_channel else shhs.ECG_LABELS
            edf = shhs.read_polysomnogram(path, labels)
            ecg, given = edf.signals["ecg"], self.ecg_rate_hz
            if given and abs(ecg.rate_hz / given - 1.0) > RATE_TOLERANCE:
                raise RecordingError(
                    path,
                    f"its ECG has {ecg.rate_hz:g} Hz, not the {given:g} Hz that were given.",
                    "Give no rate, or correct it.",
                )
            return _Heart(ecg, shhs.effort_of(edf), edf.start, edf.duration_s, edf.recording_text)
        found = read_bcg(path, self.ecg_channel, self.ecg_rate_hz, spelt=self.ecg_spelt)
        if found.other_channels and not self.ecg_channel:
            raise RecordingError(
                path,
                f"has several channels: {', '.join((found.signal.label, *found.other_channels))}.",
                f"Say which one is the ECG ({self.ecg_spelt[0]}).",
            )
        return dataclasses.replace(_clock_of(found), ecg=found.signal)


def _clock_of(found: BcgRecording) -> _Heart:
    start = None if found.start is None else found.start.replace(tzinfo=None)
    return _Heart(None, (), start, len(found.signal.values) / found.signal.rate_hz)


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
    nights: list[SeparateFiles] = []
    first_row: dict[Any, int] = {}  # where an id, or a file, stands first
    split_of_subject: dict[str, tuple[str, int]] = {}
    for row in _rows(table):
        night, split = row.night(config), row.split()
        nights.append(night)
        used = [("id", night.recording_id.lower())] + [
            (name, (path, row.cell(f"{name}_channel")))
            for name, path in (*night.parts.items(), ("bcg", night.bcg))
            if path is not None
        ]
        for column, value in used:
            if (before := first_row.setdefault((column, value), row.number)) != row.number:
                raise row.error(column, f"{row.cell(column)!r} stands in row {before}, too.")
        other, before = split_of_subject.setdefault(night.subject_id, (split, row.number))
        if split != other:
            raise row.error(
                "split",
                f"subject {night.subject_id} is in {split or 'no named split'} here, in"
                f" {other or 'no named split'} in row {before}.",
            )
    _check_bcg(table, nights, config.bcg_source)
    splits = {subject: split for subject, (split, _) in split_of_subject.items() if split}
    return Listing(table, sorted(nights, key=lambda night: night.recording_id), splits=splits)


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row of a table; its cells by column."""

    table: str | os.PathLike
    number: int
    cells: dict[str, str]

    def cell(self, column: str) -> str:
        return self.cells.get(column, "")

    def error(self, column: str, problem: str, remedy: str = "") -> DatasetError:
        where = f"{os.fspath(self.table)}: row {self.number}, column {column}"
        return DatasetError(f"{where}: {problem}", remedy)

    def night(self, config: DatasetConfig) -> SeparateFiles:
        if not _ID.fullmatch(name := self.cell("id")):
            raise self.error(
                "id", f"{name[:40]!r} is no id.", "Take letters, digits, '.', '_' and '-'."
            )
        if not self.cell("subject"):
            raise self.error("subject", "is empty.", "Splits go by subject: name the person.")
        paths: dict[str, Any] = {column: self._path(column) for column in _FILES}
        if not (paths["ecg"] or paths["beats"] or paths["bcg"]):
            raise self.error("ecg", "the night has no ECG, no beats and no BCG.", "Name one file.")
        visit = self.cell("visit") or "1"
        if not (visit.isascii() and visit.isdigit() and 1 <= int(visit) < 10_000):
            raise self.error("visit", f"{visit[:20]!r} is no number of a night, such as 1.")
        return SeparateFiles(
            recording_id=name,
            subject_id=self.cell("subject"),
            visit=int(visit),
            cohort=self.cell("cohort") or RECORDED,
            start=self._start(),
            ecg_channel=self.cell("ecg_channel"),
            ecg_rate_hz=self._rate("ecg_rate_hz"),
            bcg_channel=self.cell("bcg_channel") or config.bcg_channel,
            bcg_rate_hz=self._rate("bcg_rate_hz") or config.bcg_rate_hz,
            **paths,
        )

    def split(self) -> str:
        split = self.cell("split").lower()
        if split and split not in SPLITS:
            raise self.error("split", f"{split[:20]!r} is none of {', '.join(SPLITS)}.")
        return split

    def _path(self, column: str) -> Path | None:
        if not (cell := self.cell(column)):
            return None
        path = Path(self.table).parent / Path(cell).expanduser()
        if not path.is_file():
            raise self.error(column, f"no file {path}.", "Paths count from the table's folder.")
        return path

    def _rate(self, column: str) -> float:
        cell = self.cell(column)
        rate_hz = number(cell) if cell else 0.0
        if not 0.0 <= rate_hz <= 100_000.0 or (cell and rate_hz == 0.0):
            raise self.error(column, f"{cell[:20]!r} is no sampling rate in Hz, such as 100.")
        return rate_hz

    def _start(self) -> datetime.datetime | None:
        if not (cell := self.cell("start")):
            return None
        try:
            start = datetime.datetime.fromisoformat(cell)
        except ValueError:
            start = None
        if start is None or start.tzinfo is not None:
            raise self.error(
                "start", f"{cell[:40]!r} is no local time, such as 2024-03-07 22:30:00."
            )
        return start


def _rows(table: str | os.PathLike) -> list[_Row]:
    try:
        found = read_table(table)
        if missing := [name for name in ("id", "subject") if name not in found.names]:
            problem = f"has no column {missing[0]} among {', '.join(found.names)[:200]}."
            raise RecordingError(table, problem, "The first line names the columns.")
        if unknown := [name for name in found.names if name not in _COLUMNS]:
            problem = f"has an unknown column {unknown[0][:40]}."
            remedy = f"Known are {', '.join(_COLUMNS)}; remove or rename it."
            raise RecordingError(table, problem, remedy)
    except RecordingError as error:
        raise DatasetError(str(error), "See docs/adding_a_dataset.md.") from error
    cells = zip(*found.columns.values(), strict=True)
    return [
        _Row(table, row, dict(zip(found.columns, values, strict=True)))
        for row, values in zip(found.rows, cells, strict=True)
    ]


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
