"""A trained network: in memory, or read from the work folder that it was trained in."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from kd_sleep.datasets.batches import whole_nights
from kd_sleep.datasets.nights import Nights, blank
from kd_sleep.errors import TrainingError
from kd_sleep.models.kept_share import KeptShare
from kd_sleep.schema import SCHEMA_VERSION
from kd_sleep.training.checkpoints import Checkpoints
from kd_sleep.training.fit_kept_share import load_kept_share
from kd_sleep.training.loop import KAPPA, predict
from kd_sleep.training.metrics_log import read_metrics
from kd_sleep.training.run import Run, record_of
from kd_sleep.training.seen_subjects import SEEN, TRAINED_ON, hashed, may_be_one
from kd_sleep.training.soft_labels import fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A teacher or a student with the parameters that validation chose.

    Attributes:
      run: its settings.
      params: of its network.
      record: of settings.json: "kind", "settings" with a description of the data, "versions".
      rows: its metrics, one row for each evaluation; none of one that was read from a file.
      place: its work folder or file; None if it has none.
      folds: of a teacher, those that were trained without a part of its subjects each.
      sqi: of a student; None where it has none.
    """

    run: Run
    params: Any
    record: Mapping[str, Any]
    rows: list[dict[str, Any]]
    place: Path | None = None
    folds: tuple[Trained, ...] = ()
    sqi: KeptShare | None = None

    def __str__(self) -> str:
        return str(self.place or f"this {self.record['kind']}")

    @property
    def trained(self) -> Trained:
        """This one, as `StagingStudent.trained` and `StagingTeacher.trained`."""
        return self

    @property
    def workdir(self) -> Path | None:
        """Its work folder; None if it has none."""
        return self.place if self.place and self.place.is_dir() else None

    @property
    def settings(self) -> Mapping[str, Any]:
        """All settings of the run as plain JSON."""
        return self.record["settings"]

    @functools.cached_property
    def name(self) -> str:
        """Fingerprint of the parameters."""
        return fingerprint(self.params)

    def for_subject(self, subject_id: str, cohort: str) -> Trained:
        """Who labels a subject's nights: of a training subject the fold that it was left out of."""
        if not self.folds:
            return self
        entry = self.settings[TRAINED_ON][SEEN][0]
        known = entry["train"].split()
        if hashed(subject_id) not in known or not may_be_one(entry["cohort"], cohort):
            return self
        # Folds are dealt in the order of these hashes: `splits.folds_of`.
        return self.folds[known.index(hashed(subject_id)) % len(self.folds)]

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
        """Whether fine-tuning improved validation, in a sentence; "" if it began anew."""
        if "start" not in self.settings or not self.rows:
            return ""
        kappas = [row[KAPPA] for row in self.rows]
        before, after = kappas[0], max(kappas[1:], default=-np.inf)
        if after > before:
            return f"Fine-tuning improved validation kappa from {before:.3f} to {after:.3f}."
        return (
            f"Fine-tuning did not improve validation kappa ({before:.3f} before, {after:.3f} at"
            " best after): the parameters are those that it started from."
        )


def fold_dirs(workdir: Path, folds: int) -> list[Path]:
    """Work folders of a teacher's folds."""
    return [workdir / "folds" / f"{folds}" / f"{fold}" for fold in range(folds)]


def load_trained(workdir: str | os.PathLike, *kinds: str) -> Trained:
    """A trained network from its work folder.

    Args:
      workdir: the folder.
      kinds: teacher, student or both: what it may be.

    Raises:
      TrainingError: no run of these kinds, one that has not ended or is damaged, or an SQI of
        another student.
    """
    workdir = Path(workdir)
    record = record_of(workdir, *kinds)
    kind, settings = record["kind"], record["settings"]
    run = Run.from_json(kind, settings)
    params, rows = _best_of(run, workdir), read_metrics(workdir)
    if kind == "student":
        sqi = load_kept_share(workdir, fingerprint(params))
        return Trained(run, params, record, rows, workdir, sqi=sqi)
    folders = fold_dirs(workdir, 0 if "fold" in settings else settings.get("folds", 0))
    folds = tuple(load_trained(folder, kind) for folder in folders)
    return Trained(run, params, record, rows, workdir, folds)


def _best_of(run: Run, workdir: Path) -> Any:
    """The best parameters in the folder of a run that has ended."""
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    example = next(whole_nights(blank(), run.columns, batch_size=1))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        found = checkpoints.latest(jax.eval_shape(lambda: run.begin(example)), here)
    finally:
        checkpoints.close()
    if found is None:
        raise TrainingError(f"{workdir}: no checkpoint here.", "Train first.")
    step, progress = found
    if step < run.train.steps:
        raise TrainingError(
            f"{workdir}: stopped at step {step} of {run.train.steps}{checkpoints.damage}.",
            "Give the command that started it again: it goes on from there.",
        )
    return progress.best
