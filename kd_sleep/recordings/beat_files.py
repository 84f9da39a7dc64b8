"""Heartbeats from a file of their own: NSRR's R points, or times in seconds as CSV or NPY."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import files, nsrr
from kd_sleep.recordings.recording import RPoints
from kd_sleep.recordings.text_table import number, read_rows

TIME_COLUMN = "time_s"
_LONGEST_NIGHT_S = 24 * 3600.0
_USUAL_S = (0.3, 2.5)  # between two beats of a sleeper
_MOST_BYTES = 8_000_000  # 500,000 beats in float64, and more
_EXPECTED = (
    f"Expected seconds from the recording's start: a CSV with a column {TIME_COLUMN}, an NPY array"
    " [beats], or NSRR's R points (columns seconds and Type)."
)


def read_beats(path: str | os.PathLike) -> RPoints:
    """Beats in order of time; all are taken for normal where the file does not type them.

    Raises:
      RecordingError: a file that is missing, of no known format or holds no beats; a time that is
        none within 24 hours; or times that are no seconds by the usual interval between them.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        times_s = _from_npy(path)
    elif suffix in (".csv", ".tsv", ".txt"):
        rows = read_rows(path, ())
        if {"seconds", "type"} <= set(rows[0][1]):
            return nsrr.read_rpoints(path)
        if TIME_COLUMN not in rows[0][1]:
            raise RecordingError(path, f"has no column {TIME_COLUMN}.", _EXPECTED)
        times_s = np.array([number(cells[TIME_COLUMN]) for _, cells in rows])
    else:
        raise RecordingError(path, f"has the unknown suffix {suffix!r}.", _EXPECTED)
    wrong = np.flatnonzero(~((times_s >= 0) & (times_s <= _LONGEST_NIGHT_S)))
    if len(wrong):
        raise RecordingError(
            path, f"beat {wrong[0] + 1} is at {times_s[wrong[0]]:g} s, in no night.", _EXPECTED
        )
    times_s = np.unique(times_s)
    usual_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    if not _USUAL_S[0] <= usual_s <= _USUAL_S[1]:
        raise RecordingError(
            path, f"its beats are {usual_s:g} apart: these are no seconds.", _EXPECTED
        )
    return RPoints(times_s, np.ones(len(times_s), bool))


def _from_npy(path: str | os.PathLike) -> NDArray[np.float64]:
    with files.opened(path) as file:
        if os.fstat(file.fileno()).st_size > _MOST_BYTES:
            raise RecordingError(path, "is too large for a night's heartbeats.", _EXPECTED)
        try:
            array = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, MemoryError, OverflowError) as error:
            raise RecordingError(path, f"is no readable NPY ({error}).", _EXPECTED) from error
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iuf":
        raise RecordingError(path, "holds no list of numbers.", _EXPECTED)
    return array.astype(np.float64)
