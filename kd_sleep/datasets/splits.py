"""Train, validation and test by subject, decided by the subject's id alone.

An id's place on the unit interval is its multiple of the golden ratio, modulo 1. Such points fill
the interval evenly however few there are, so that a cohort of ten has its three splits like one of
five thousand; and a new download moves nobody, because no other id has a say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from kd_sleep.errors import DatasetError

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.60, "validation": 0.15, "test": 0.25}
_GOLDEN = (5**0.5 - 1) / 2


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
