"""Train, validation and test by subject, decided by the subject's id alone, or by a file; folds.

An id's place on the unit interval is its multiple of the golden ratio, modulo 1. Such points fill
the interval evenly however few there are, so that a cohort of ten has its three splits like one of
five thousand; and a new download moves nobody, because no other id has a say.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import DatasetError, RecordingError
from kd_sleep.recordings import files
from kd_sleep.schema import SPLITS

SHARES = {"train": 0.60, "validation": 0.15, "test": 0.25}
_GOLDEN = (5**0.5 - 1) / 2
_MOST_BYTES = 10_000_000  # half a million subjects
_COLUMNS = ["subject_id", "split"]


def split_of(subject_id: str) -> str:
    """The split of a subject: `train`, `validation` or `test`."""
    if subject_id.isdecimal():
        number = int(subject_id)
    else:
        number = int.from_bytes(hashlib.sha256(subject_id.encode()).digest()[:4], "big")
    place, edge = number * _GOLDEN % 1.0, 0.0
    for name in SPLITS[:-1]:
        edge += SHARES[name]
        if place < edge:
            return name
    return SPLITS[-1]


def folds_of(subject_ids: Sequence[str], folds: int) -> NDArray[np.int64]:
    """[R] the fold, 0 to `folds` - 1, of each of R nights; all nights of a subject are in one.

    Subjects are put in the order of a hash of their ids and dealt out in turn: folds differ by one
    subject at most.

    Args:
      subject_ids: [R] of the nights.
      folds: at least 1.

    Raises:
      DatasetError: fewer subjects than folds.
    """
    subjects = sorted(set(subject_ids), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(subjects) < folds:
        raise DatasetError(f"{len(subjects)} subjects do not make {folds} folds.", "Take fewer.")
    fold = {name: number % folds for number, name in enumerate(subjects)}
    return np.array([fold[name] for name in subject_ids])


def read_splits(path: str | Path) -> dict[str, str]:
    """Subject -> split from a CSV with the columns `subject_id` and `split`.

    Raises:
      DatasetError: for a file that cannot be read, has other columns or no row, names an unknown
        split, or a subject twice and differently.
    """
    expected = "Expected CSV with a header subject_id,split and rows such as 200001,train."
    try:
        with files.opened(path) as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise RecordingError(path, f"has more than {_MOST_BYTES / 1e6:g} MB.")
        text = data.decode("utf-8-sig")
        rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    except (RecordingError, UnicodeDecodeError, csv.Error) as error:
        why = error.problem if isinstance(error, RecordingError) else f"cannot be read ({error})."
        raise DatasetError(f"{path}: {why}", expected) from error
    if len(rows) < 2 or [cell.strip().lower() for cell in rows[0]] != _COLUMNS:
        raise DatasetError(f"{path}: holds no splits.", expected)
    splits: dict[str, str] = {}
    for row in rows[1:]:
        subject, split = (*(cell.strip() for cell in row), "", "")[:2]
        if not subject or len(row) != 2 or split not in SPLITS:
            raise DatasetError(
                f"{path}: {','.join(row)[:80]!r} gives no subject one of {', '.join(SPLITS)}.",
                expected,
            )
        if splits.setdefault(subject, split) != split:
            raise DatasetError(
                f"{path}: subject {subject} is in both {splits[subject]} and {split}.",
                "Both visits of a person belong in one split.",
            )
    return splits


def assert_disjoint(subjects: Mapping[str, Iterable[str]]) -> None:
    """Raises DatasetError where a subject is in two splits; `subjects` is split -> ids."""
    seen: dict[str, str] = {}
    for split, ids in subjects.items():
        for subject in set(ids):
            if seen.setdefault(subject, split) != split:
                raise DatasetError(
                    f"subject {subject} is in both {seen[subject]} and {split}.",
                    "Results on this dataset would be too good; build it again.",
                )
