"""The MIT-BIH Polysomnographic Database as PhysioNet hands it out: WFDB records of sleepers.

    slp01a.hea    rate, length, start
    slp01a.st     stages and apnoeas of each 30 s
    slp01a.ecg    heartbeats, checked by hand
    slp01a.dat    ECG, breathing and others; may be left out

https://doi.org/10.13026/C23K5S, ODC-BY 1.0; Ichimaru & Moody, Psychiatry Clin Neurosci 1999;53:175.
Stages are those of Rechtschaffen & Kales. `slp01a` and `slp01b` are one person, as are `slp02a` and
`slp02b`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import DatasetError, RecordingError
from kd_sleep.recordings import files
from kd_sleep.recordings.files import FETCH_AGAIN, read_bytes
from kd_sleep.recordings.night_files import Listing, NightFiles
from kd_sleep.recordings.recording import LONGEST_S, Recording, RPoints, Signal
from kd_sleep.recordings.scored_windows import WINDOW_MS, Run, Scoring, labels_of_night, scoring_of
from kd_sleep.schema import WINDOW_S

NAME = "slpdb"  # of the database at PhysioNet, and the nights' cohort
FETCH = "Fetch it: kd-sleep fetch_slpdb --out=DIR."
_SUFFIXES = (".hea", ".st", ".ecg", ".dat")
_PERSON = re.compile(r"(.*\d)[a-z]?")  # a letter after the number tells a person's records apart
_RK_CODES = {"W": 0, "1": 1, "2": 2, "3": 3, "4": 4, "R": 5, "M": 6, "MT": 6}
_BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")  # WFDB's symbols of beats
_NORMAL = frozenset("NLRBejn/")  # from the sinus node, or paced, or escaping at its rate
# As `datasets.splits` has it for the people's bare numbers; by their names one split were empty.
_SPLITS = {
    "train": ("slp04", "slp41", "slp45", "slp59", "slp60", "slp67"),
    "validation": ("slp01", "slp14", "slp48", "slp61"),
    "test": ("slp02", "slp03", "slp16", "slp32", "slp37", "slp66"),
}
_END = b"\0\0"  # of a file of annotations
_MIN_COVERED = 0.8  # of the record by its beats, or the detector does better


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlpdbFiles(NightFiles):
    """The files of one record, by its path without a suffix."""

    stem: Path

    @property
    def parts(self) -> dict[str, Path | None]:
        there = {suffix: self.stem.with_suffix(suffix) for suffix in _SUFFIXES}
        has_signals, has_beats = there[".dat"].exists(), there[".ecg"].exists()
        return {
            "ecg": there[".dat"] if has_signals else None,
            "beats": there[".ecg"] if has_beats or not has_signals else None,
            "stages": there[".st"],
            "header": there[".hea"],
        }

    def read(self, *, signals: bool = True) -> Recording:
        header = _header(self.stem)
        duration_s = header.sig_len / header.fs
        windows = int(duration_s / WINDOW_S + 1e-9)
        stages = self.stem.with_suffix(".st")
        labels = labels_of_night(stages, _scoring(stages, header.fs), windows)
        there = signals and self.parts["ecg"] is not None
        ecg, effort = _signals(self.stem, header) if there else (None, ())
        return Recording(
            recording_id=self.recording_id,
            subject_id=self.subject_id,
            visit=self.visit,
            cohort=NAME,
            start=header.base_datetime,
            duration_s=duration_s,
            ecg=ecg,
            effort=effort,
            labels=labels,
            rpoints=_beats(self.stem.with_suffix(".ecg"), header.fs, duration_s, ecg is not None),
        )


def find_nights(folder: str | os.PathLike) -> Listing[SlpdbFiles]:
    """All records of which a header, stages or beats are there; reading says what is missing.

    Raises:
      DatasetError: where there is none, or the folder cannot be listed.
    """
    try:
        found = list(Path(folder).iterdir())
    except OSError as error:
        raise DatasetError(f"{os.fspath(folder)}: {error.strerror}.", FETCH) from error
    names = sorted({path.stem for path in found if path.suffix in _SUFFIXES and path.is_file()})
    if not names:
        raise DatasetError(f"{os.fspath(folder)}: no record of {NAME} here.", FETCH)
    people = [match[1] if (match := _PERSON.fullmatch(name)) else name for name in names]
    nights = [
        SlpdbFiles(
            recording_id=name,
            subject_id=person,
            visit=people[: n + 1].count(person),
            stem=Path(folder, name),
        )
        for n, (name, person) in enumerate(zip(names, people, strict=True))
    ]
    splits = {person: split for split, people in _SPLITS.items() for person in people}
    return Listing(folder, nights, splits=splits)


def fetch(folder: Path) -> None:
    """Downloads the database's records with their stages and beats; what is there is kept.

    Raises:
      DatasetError: no way to PhysioNet, or none to the folder.
    """
    import wfdb

    folder.mkdir(parents=True, exist_ok=True)
    try:
        wfdb.dl_database(NAME, str(folder), annotators=["st", "ecg"])
    except Exception as error:  # of urllib, aiohttp, fsspec or the disk
        raise DatasetError(
            f"{folder}: {NAME} cannot be fetched from PhysioNet ({error}).",
            "Is there a way to https://physionet.org from here? Give the same command again, or"
            f" copy the files from https://physionet.org/content/{NAME}/1.0.0/.",
        ) from error


@contextlib.contextmanager
def _wfdb(path: Path) -> Iterator[Any]:
    """The package, to read one file; whatever it makes of a damaged one names the file."""
    import wfdb  # brings pandas, which takes its time

    with files.opened(path):
        pass
    try:
        yield wfdb
    except RecordingError:
        raise
    except Exception as error:
        raise RecordingError(path, f"is no readable WFDB file ({error}).", FETCH_AGAIN) from error


def _header(stem: Path) -> Any:
    path = stem.with_suffix(".hea")
    with _wfdb(path) as wfdb:
        header = wfdb.rdheader(os.fspath(stem))
        if not (header.fs and header.sig_len and 0 < header.sig_len / header.fs <= LONGEST_S):
            raise RecordingError(
                path, f"tells {header.sig_len} samples at {header.fs} Hz, no night.", FETCH_AGAIN
            )
    return header


def _annotations(path: Path, rate_hz: float) -> tuple[NDArray[np.float64], Any]:
    """Times in s, and the annotations as `wfdb` has them."""
    if not read_bytes(path).endswith(_END):
        raise RecordingError(path, "is cut short: it has no end mark.", FETCH_AGAIN)
    with _wfdb(path) as wfdb:
        found = wfdb.rdann(os.fspath(path.with_suffix("")), path.suffix[1:])
        if not len(found.sample):
            raise RecordingError(path, "holds no annotations.", FETCH_AGAIN)
        if found.fs and abs(found.fs - rate_hz) > 1e-6 * rate_hz:
            raise RecordingError(
                path,
                f"counts {found.fs:g} samples a second, its header {rate_hz:g}.",
                "Fetch both files of this record again.",
            )
        return found.sample / rate_hz, found


def _scoring(path: Path, rate_hz: float) -> Scoring:
    """Stages: the first token of each note, of the 30 s that follow; further ones are apnoeas."""
    times_s, found = _annotations(path, rate_hz)
    runs = []
    for time_s, note in zip(times_s, found.aux_note, strict=True):
        token = (note.replace("\0", " ").split() or [""])[0]
        if token not in _RK_CODES:
            raise RecordingError(
                path, f"has the unknown stage {token[:20]!r} at {time_s:g} s.", FETCH_AGAIN
            )
        start_ms = round(1000 * time_s)
        runs.append(Run(start_ms, start_ms + WINDOW_MS, _RK_CODES[token], token))
    return scoring_of(path, [runs])


def _beats(path: Path, rate_hz: float, duration_s: float, detectable: bool) -> RPoints | None:
    """The record's beats; None where they are unusable and can be detected in its ECG."""
    try:
        times_s, found = _annotations(path, rate_hz)
        beat = np.array([symbol in _BEATS for symbol in found.symbol])
        normal = np.array([symbol in _NORMAL for symbol in found.symbol])
        times_s, first = np.unique(times_s[beat], return_index=True)
        covered = np.ptp(times_s) / duration_s if len(times_s) else 0.0
        if covered < _MIN_COVERED:
            raise RecordingError(
                path, f"its beats cover {100 * covered:.0f} % of the record.", FETCH_AGAIN
            )
        return RPoints(times_s, normal[beat][first])
    except RecordingError:
        if detectable:
            return None
        raise


def _signals(stem: Path, header: Any) -> tuple[Signal, tuple[Signal, ...]]:
    """The record's ECG, and its breathing from the chest or abdomen before that from the nose."""
    path = stem.with_suffix(".dat")
    names = header.sig_name or []
    efforts = sorted(
        (n for n in names if n.startswith("Resp")), key=lambda name: ("nasal" in name, name)
    )
    if "ECG" not in names:
        raise RecordingError(path, f"has no ECG among {', '.join(names)}.", FETCH_AGAIN)
    with _wfdb(path) as wfdb:
        record = wfdb.rdrecord(os.fspath(stem), channel_names=["ECG", *efforts])
        signals = {
            name: Signal(record.p_signal[:, k].astype(np.float32), record.fs, unit, name)
            for k, (name, unit) in enumerate(zip(record.sig_name, record.units, strict=True))
        }
    return signals["ECG"], tuple(signals[name] for name in efforts)
