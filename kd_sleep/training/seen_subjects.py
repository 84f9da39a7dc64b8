"""The subjects that a network has seen in training, and the refusal to score it on them.

A run's settings keep them under `trained_on`: a list of {"cohort", "train", "validation"}, the last
two hashes of subject ids, separated by blanks. The list has the entries of the teachers and of the
start, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import TrainingError

TRAINED_ON = "trained_on"  # of settings: a description of the data
SEEN = "seen"


def seen(train: Nights, validation: Nights) -> dict[str, str]:
    """An entry of the list for a run on these nights."""
    return {
        "cohort": train.cohort,
        "train": " ".join(sorted(map(hashed, set(train.subject_ids)))),
        "validation": " ".join(sorted(map(hashed, set(validation.subject_ids)))),
    }


def assert_unseen(runs: Mapping[str, Mapping[str, Any]], splits: Mapping[str, Nights]) -> None:
    """Refuses to score networks on subjects that they, or their teachers, were trained on.

    Two subjects are the same if their ids and their cohorts are. Cohorts of unequal seeds differ;
    one without a seed may be any. Nights of the split "validation" may have chosen a network's best
    step; those of any other may not.

    Args:
      runs: name of each network -> its settings; of an exported file {"trained_on": card["data"]}.
      splits: name of each split -> the nights that are scored, or that calibration is fitted on.

    Raises:
      TrainingError: subjects that were seen, or settings without the list.
    """
    for name, settings in runs.items():
        entries = settings.get(TRAINED_ON, {}).get(SEEN)
        if entries is None:
            raise TrainingError(
                f"{name}: its settings do not list the subjects that it was trained on.",
                "Train it again with this version of kd_sleep.",
            )
        for split, nights in splits.items():
            kinds = ("train",) if split == "validation" else ("train", "validation")
            known = {
                one
                for entry in entries
                if may_be_one(entry["cohort"], nights.cohort)
                for kind in kinds
                for one in entry[kind].split()
            }
            subjects = sorted(set(nights.subject_ids))
            if found := [subject for subject in subjects if hashed(subject) in known]:
                few = ", ".join(found[:5]) + ", …" * (len(found) > 5)
                raise TrainingError(
                    f"{name} was trained, or its best step chosen, on {len(found)} of the"
                    f" {len(subjects)} subjects of the {split} split: {few}.",
                    "Score it on a dataset whose test and validation subjects it has never seen:"
                    " build one with the --splits that it was trained with.",
                )


def hashed(subject: str) -> str:
    """A subject's id as the list has it."""
    return hashlib.sha256(subject.encode()).hexdigest()[:12]


def may_be_one(one: str, other: str) -> bool:
    """Whether two names of cohorts may be of one: the same, or the same but for a seed."""
    return any(
        a == b or a.startswith(f"{b},") or b.startswith(f"{a},")
        for a in one.split(" and ")
        for b in other.split(" and ")
    )
