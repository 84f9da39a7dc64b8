"""The subjects that a model has seen in training, and the refusal to score it on them.

A run's settings keep them under `trained_on`: a list of {"cohort", "train", "validation"}, the last
two hashes of subject ids, separated by blanks. A student's list holds those of its teachers, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import TrainingError

TRAINED_ON = "trained_on"  # of settings: the data in words; that it is the same, digests tell
SEEN = "seen"


def seen(train: Nights, validation: Nights) -> dict[str, str]:
    """An entry of the list for a run on these nights."""
    return {
        "cohort": train.cohort,
        "train": " ".join(sorted(map(hashed, set(train.subject_ids)))),
        "validation": " ".join(sorted(map(hashed, set(validation.subject_ids)))),
    }


def assert_unseen(
    runs: Mapping[str, Mapping[str, Any]],
    splits: Mapping[str, Nights],
    data: Sequence[str] = (),
) -> None:
    """Refuses to score models on subjects that they, or their teachers, were trained on.

    Subjects are the same where their ids are, and their cohorts: one simulated cohort is told from
    another by its seed, and where a dataset does not name the seed, by nothing. Nights of the split
    "validation" may have chosen a model's best step; those of any other may not.

    Args:
      runs: name of each model -> its settings; of an exported file {"trained_on": card["data"]}.
      splits: name of each split -> the nights that are scored, or that calibration is fitted on.
      data: digests of the training and validation nights of the dataset at hand. A run of before,
        whose settings do not list its subjects, is known by them where it was trained there.

    Raises:
      TrainingError: seen subjects, or a run of before that was trained on other data.
    """
    for model, settings in runs.items():
        entries = settings.get(TRAINED_ON, {}).get(SEEN)
        if entries is None:
            if data and list(data) == settings.get("data"):
                continue
            raise TrainingError(
                f"{model}: its settings do not list the subjects that it was trained on.",
                "Give the command that trained it again: it adds the list and trains nothing anew.",
            )
        for split, nights in splits.items():
            kinds = ("train",) if split == "validation" else ("train", "validation")
            known = {
                name
                for entry in entries
                if may_be_one(entry["cohort"], nights.cohort)
                for kind in kinds
                for name in entry[kind].split()
            }
            subjects = sorted(set(nights.subject_ids))
            if found := [subject for subject in subjects if hashed(subject) in known]:
                raise TrainingError(
                    f"{model} was trained, or its best step chosen, on {len(found)} of the"
                    f" {len(subjects)} subjects of the {split} split: {_few(found)}.",
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


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
