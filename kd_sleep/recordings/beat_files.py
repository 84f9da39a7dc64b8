"""Heartbeats in files of their own: NSRR's R points, or times in seconds as CSV or NPY.

R points: https://github.com/nsrr/shhs-documentation, pages/13-hrv-analysis.md.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import files
from kd_sleep.recordings.files import FETCH_AGAIN
from kd_sleep.recordings.recording import LONGEST_S, RPoints
from kd_sleep.recordings.text_table import Table, read_table
from kd_sleep.schema import WINDOW_S

TIME_COLUMN = "time_s"
_USUAL_S = (0.3, 2.5)  # between two beats of a sleeper
_LONGEST_HEADER = 10_000
_MAX_NPY_BYTES = 8_000_000  # 500,000 beats in float64, and more
_EXPECTED = (
    f"Expected seconds from the recording's start: a CSV with a column {TIME_COLUMN}, an NPY array"
    " [beats], or NSRR's R points (columns seconds and Type)."
)
_RPOINT_COLUMNS = (
    "RPoint,Start,End,STLevel1,STSlope1,STLevel2,STSlope2,Manual,Type,Class,"
    "PPoint,PStart,PEnd,TPoint,TStart,TEnd,TemplateID,nsrrid,samplingrate,seconds,epoch,rpointadj"
)
_SOMTE_HZ = 256.0  # the rate that Somté assumes in every file, whatever the ECG's own
_NORMAL = 1
_BEAT_TYPES = (0, _NORMAL, 2, 3)  # artifact, normal sinus, ventricular, supraventricular ectopic
_ROUNDING_S = 1 / 128


def read_beats(path: str | os.PathLike) -> RPoints:
    """Beats in order of time; all are normal where the file does not type them.

    Of several R points at one time one stays, and it is normal only if all are. Where NSRR's
    columns are there, a beat's time has to agree with its `RPoint` (of Somté's 256 a second) and
    its `epoch`: NSRR does not say whether these count from 0 or 1, so both may be.

    Raises:
      RecordingError: a file that is missing, of no known format or holds no beats; a row that is
        no beat within 24 hours or contradicts itself (names the row); or times without types that
        are no seconds by the usual interval between them.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        times_s = _from_npy(path)
    elif suffix in (".csv", ".tsv", ".txt"):
        table = read_table(path, ("seconds", "type", "rpoint", "epoch", TIME_COLUMN))
        if {"seconds", "type"} <= set(table.columns):
            return _rpoints(path, table)
        if TIME_COLUMN not in table.columns:
            raise RecordingError(
                path, f"has no column {TIME_COLUMN}, nor seconds and Type.", _EXPECTED
            )
        times_s = table.numbers(TIME_COLUMN)
    else:
        raise RecordingError(path, f"has the unknown suffix {suffix!r}.", _EXPECTED)
    wrong = np.flatnonzero(~((times_s >= 0) & (times_s <= LONGEST_S)))
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


def _rpoints(path: str | os.PathLike, table: Table) -> RPoints:
    times_s, types = table.numbers("seconds"), table.numbers("type")
    # Cells that hold no number compare as false: no beat without a time, no contradiction either.
    is_beat = (times_s >= 0) & (times_s <= LONGEST_S) & np.isin(types, _BEAT_TYPES)
    contradicts = np.zeros(len(times_s), bool)
    if "rpoint" in table.columns:
        contradicts |= np.abs(table.numbers("rpoint") / _SOMTE_HZ - times_s) > _ROUNDING_S
    if "epoch" in table.columns:
        contradicts |= np.abs(table.numbers("epoch") - times_s / WINDOW_S) > 1.001
    for at_fault, problem in ((~is_beat, "is no beat"), (contradicts, "contradicts itself")):
        if at_fault.any():
            at = int(np.argmax(at_fault))
            cells = ", ".join(f"{name} {cells[at][:20]!r}" for name, cells in table.columns.items())
            raise RecordingError(path, f"row {table.rows[at]} {problem}: {cells}.", FETCH_AGAIN)
    normal = types == _NORMAL
    order = np.lexsort((normal, times_s))  # by time; of equal times, normal beats last
    unique, first = np.unique(times_s[order], return_index=True)
    return RPoints(times_s=unique, normal=normal[order][first])


def holds_beats(path: str | os.PathLike) -> bool:
    """Whether a file that may be an ECG's lists beats: by its columns, or an NPY of rising times.

    Raises:
      RecordingError: a file that is missing.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        try:
            times_s = _from_npy(path)
        except RecordingError:
            return False  # a two-dimensional array, which a reader of signals may know
        return len(times_s) > 1 and bool((np.diff(times_s) > 0).all())
    if suffix not in (".csv", ".tsv", ".txt"):
        return False
    with files.opened(path) as file:
        header = file.readline(_LONGEST_HEADER).decode("utf-8-sig", "replace").lower()
    names = {name.strip(" \"'") for name in re.split(r"[,;\t]", header.strip())}
    return {"seconds", "type"} <= names or names == {TIME_COLUMN}


def _from_npy(path: str | os.PathLike) -> NDArray[np.float64]:
    with files.opened(path) as file:
        if os.fstat(file.fileno()).st_size > _MAX_NPY_BYTES:
            raise RecordingError(path, "is too large for a night's heartbeats.", _EXPECTED)
        try:
            array = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, MemoryError, OverflowError) as error:
            raise RecordingError(path, f"is no readable NPY ({error}).", _EXPECTED) from error
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iuf":
        raise RecordingError(path, "holds no list of numbers.", _EXPECTED)
    return array.astype(np.float64)


def write_rpoints(
    path: str | os.PathLike, times_s: ArrayLike, types: ArrayLike, nsrr_id: str, ecg_rate_hz: int
) -> None:
    """Writes heartbeats with all of NSRR's columns; what nobody measured is -1 or 0.

    Args:
      path: replaced whole or not at all; its folder is made.
      times_s: [M] seconds since the recording's start; they land on Somté's grid of 1/256 s.
      types: [M] 0 artifact, 1 normal sinus, 2 ventricular, 3 supraventricular ectopic beat.
      nsrr_id: the subject's, such as `200001`.
      ecg_rate_hz: the ECG's own rate.

    Raises:
      ValueError: for arrays of different lengths, a time below 0, or an unknown type.
    """
    points = np.rint(np.asarray(times_s, np.float64) * _SOMTE_HZ).astype(np.int64).tolist()
    kinds = np.asarray(types).tolist()
    if not set(kinds) <= set(_BEAT_TYPES) or min(points, default=0) < 0:
        raise ValueError(f"expected times from 0 on, and types among {_BEAT_TYPES}")
    rows = [_RPOINT_COLUMNS]
    for point, kind in zip(points, kinds, strict=True):
        seconds = point / _SOMTE_HZ  # a multiple of 2**-8: eight decimals are exact
        rows.append(
            f"{point},-1,-1,0,0,0,0,0,{kind},0,-1,-1,-1,-1,-1,-1,-1,{nsrr_id},{ecg_rate_hz},"
            f"{seconds:.8f},{int(seconds // WINDOW_S) + 1},{point * ecg_rate_hz / _SOMTE_HZ:.8f}"
        )
    files.write_bytes(path, "\n".join([*rows, ""]).encode("ascii"))
