"""Trains a teacher: RR intervals of an ECG to sleep stages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from kd_sleep.config import CPU_TRAIN, ExecutionConfig, TeacherConfig, TrainConfig
from kd_sleep.datasets.nights import Nights
from kd_sleep.datasets.splits import folds_of
from kd_sleep.errors import ConfigError
from kd_sleep.provenance import provenance
from kd_sleep.training.loop import fit, started_from
from kd_sleep.training.run import Run
from kd_sleep.training.trained import Trained, fold_dirs
from kd_sleep.training.training_set import TrainingSet


def fit_teacher(
    nights: Nights,
    validation: Nights,
    model: TeacherConfig = TeacherConfig(),  # noqa: B008 - frozen
    train: TrainConfig = CPU_TRAIN,
    *,
    folds: int = 0,
    start: Trained | None = None,
    workdir: Path | None = None,
    execution: ExecutionConfig | None = None,
) -> Trained:
    """Trains a teacher on the stages of nights with an ECG.

    A teacher remembers the nights that it was trained on and is too sure of them. With K folds each
    training night is therefore labelled by a teacher that was trained on the other folds' subjects
    (cross-fitting: Chernozhukov et al., Econometrics Journal 2018). The K teachers stay in
    `workdir/folds/K/`; validation chooses the best step of each of them, too.

    Args:
      nights: to learn from; those without ECG or stages are left out.
      validation: nights of other subjects, whose kappa chooses the best step.
      model, train: its network and training.
      folds: K, 0 or 2 and more.
      start: a teacher or student to begin from.
      workdir: to save in, and to go on in; None keeps nothing on disk.
      execution: how to run.

    Raises:
      DatasetError: no usable night, fewer training subjects than folds, or a subject in both.
      TrainingError: as `loop.fit`.
    """
    if folds == 1 or (folds and start):
        raise ConfigError(
            f"folds={folds}: one fold leaves no other to train on; and what a teacher starts from"
            " knows the subjects of every fold.",
            "Take 0 folds, or 2 and more without a start.",
        )
    run = Run(model, train)
    data = TrainingSet.of_teacher(nights, validation, start, folds=folds)
    shown = data.nights
    fold_R = folds_of(shown.subject_ids, max(folds, 1))  # are there enough subjects?
    teacher = fitted(run, data, workdir, execution, start)
    of_folds = []
    for fold in range(folds):
        rest = shown.select(np.flatnonzero(fold_R != fold))
        others = TrainingSet.of_teacher(rest, data.validation, folds=folds, fold=fold)
        # A fold's teacher has no folds of its own.
        folder = fold_dirs(workdir, folds)[fold] if workdir else None
        of_folds.append(fitted(run, others, folder, execution))
    return dataclasses.replace(teacher, folds=tuple(of_folds))


def fitted(
    run: Run,
    data: TrainingSet,
    workdir: Path | None,
    execution: ExecutionConfig | None,
    start: Trained | None = None,
) -> Trained:
    """The network that `fit` makes of all this."""
    begin = None if start is None else started_from(run, start.run, start.params)
    progress, rows = fit(run, data, workdir, execution, begin)
    record: dict[str, Any] = {"kind": run.kind, "settings": run.to_json() | data.about}
    return Trained(run, progress.best, record | provenance(), rows, workdir)
