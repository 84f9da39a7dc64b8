"""A trained network: in memory, or read from the work folder that it was trained in."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import TrainingError
from kd_sleep.models.kept_share import KeptShare
from kd_sleep.schema import SCHEMA_VERSION
from kd_sleep.training.fit_kept_share import load_kept_share
from kd_sleep.training.loop import KAPPA, load_best, predict
from kd_sleep.training.metrics_log import read_metrics
from kd_sleep.training.run import Run, kind_of, record_of
from kd_sleep.training.seen_subjects import SEEN, TRAINED_ON, hashed, may_be_one
from kd_sleep.training.soft_labels import fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A teacher or a student with the parameters that validation chose.

    Attributes:
      run: its settings.
      params: of its network.
      record: what settings.json holds: "settings", with the data in words, and "versions".
      rows: its metrics, one row for each evaluation.
      workdir: its folder; None if it has none.
      folds: of a teacher, those that were trained without a part of its subjects each.
      sqi: of a student; None where it has none.
    """

    run: Run
    params: Any
    record: Mapping[str, Any]
    rows: list[dict[str, Any]]
    workdir: Path | None = None
    folds: tuple[Trained, ...] = ()
    sqi: KeptShare | None = None

    def __str__(self) -> str:
        return str(self.workdir or f"this {self.record['kind']}")

    @property
    def settings(self) -> Mapping[str, Any]:
        """All settings of the run as plain JSON."""
        return self.record["settings"]

    @functools.cached_property
    def name(self) -> str:
        """Fingerprint of the parameters."""
        return fingerprint(self.params)

    @functools.cached_property
    def _fold_of(self) -> dict[str, int]:
        """Hash of a training subject -> the fold that it was left out of."""
        entries = self.settings.get(TRAINED_ON, {}).get(SEEN)
        if not entries:
            raise TrainingError(
                f"{self}: its settings do not list the subjects that it was trained on.",
                "Give the command that trained it again: it adds the list and trains nothing anew.",
            )
        # Folds are dealt in the order of these hashes: `splits.folds_of`.
        names = enumerate(entries[0]["train"].split())
        return {name: number % len(self.folds) for number, name in names}

    def for_subject(self, subject_id: str, cohort: str) -> Trained:
        """Who labels a subject's nights: a fold's teacher those that this one was trained on."""
        if not self.folds:
            return self
        own = self._fold_of
        if not may_be_one(self.settings[TRAINED_ON][SEEN][0]["cohort"], cohort):
            return self
        fold = own.get(hashed(subject_id))
        return self if fold is None else self.folds[fold]

    def logits(self, nights: Nights) -> list[NDArray[np.float32]]:
        """Logits [N, K] of each night.

        Raises:
          TrainingError: a network that was trained on other inputs than these nights have, or
            logits that are not finite; it names the run and the night.
        """
        schema = self.settings.get(TRAINED_ON, {}).get("schema", SCHEMA_VERSION)
        if schema != SCHEMA_VERSION:
            raise TrainingError(
                f"{self}: it reads inputs of schema {schema}, these nights have those of"
                f" {SCHEMA_VERSION}.",
                "Train it with this version of kd_sleep.",
            )
        found = predict(self.run.module, self.params, nights, self.run.columns)
        for recording, night in zip(nights.recording_ids, found, strict=True):
            if broken := np.count_nonzero(~np.isfinite(night)):
                raise TrainingError(
                    f"{self}: {broken} of this network's logits for {recording} are not finite.",
                    "Train it again, with a smaller --learning_rate if its loss grew.",
                )
        return found

    def started(self) -> str:
        """Whether what it was started from is better on validation, in a sentence; "" if anew."""
        if "start" not in self.settings:
            return ""
        kappas = [row[KAPPA] for row in self.rows]
        before, after = kappas[0], max(kappas[1:], default=-np.inf)
        if after > before:
            return f"Fine-tuning improved validation kappa from {before:.3f} to {after:.3f}."
        return (
            f"Fine-tuning did not improve validation kappa ({before:.3f} before, {after:.3f} at"
            " best after): the parameters are those that it was started from."
        )


def fold_dirs(workdir: Path, folds: int) -> list[Path]:
    """Work folders of a teacher's folds."""
    return [workdir / "folds" / f"{folds}" / f"{fold}" for fold in range(folds)]


def load_any(workdir: str | os.PathLike) -> Trained:
    """A teacher or a student from its work folder, whichever it holds."""
    kind = "teacher" if kind_of(Path(workdir)) == "teacher" else "student"
    return load_trained(workdir, kind)


def load_trained(workdir: str | os.PathLike, kind: str) -> Trained:
    """A trained network from its work folder.

    Args:
      workdir: the folder.
      kind: teacher or student.

    Raises:
      TrainingError: no run of that kind, one that has not ended, or an SQI of another student.
    """
    workdir = Path(workdir)
    record = record_of(workdir, kind)
    run = Run.from_json(kind, record["settings"])
    params, rows = load_best(run, workdir), read_metrics(workdir)
    if kind == "student":
        sqi = load_kept_share(workdir, fingerprint(params))
        return Trained(run, params, record, rows, workdir, sqi=sqi)
    is_fold = "fold" in record["settings"]
    folders = fold_dirs(workdir, 0 if is_fold else record["settings"].get("folds", 0))
    folds = tuple(load_trained(folder, kind) for folder in folders)
    return Trained(run, params, record, rows, workdir, folds)
