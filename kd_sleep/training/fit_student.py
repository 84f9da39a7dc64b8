"""Trains a student: a BCG to sleep stages, from labels of some nights and teachers' of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from kd_sleep.config import (
    CPU_TRAIN,
    AugmentConfig,
    DistillConfig,
    ExecutionConfig,
    StudentConfig,
    TrainConfig,
)
from kd_sleep.datasets.nights import Nights
from kd_sleep.provenance import write_json
from kd_sleep.training import fit_kept_share
from kd_sleep.training.fit_teacher import fitted
from kd_sleep.training.run import Run
from kd_sleep.training.soft_labels import mixed_log_probs, opinions
from kd_sleep.training.trained import Trained
from kd_sleep.training.training_set import TrainingSet


def fit_student(
    nights: Nights,
    teachers: Sequence[Trained],
    validation: Nights,
    model: StudentConfig = StudentConfig(),  # noqa: B008 - frozen
    distill: DistillConfig = DistillConfig(),  # noqa: B008
    train: TrainConfig = CPU_TRAIN,
    augment: AugmentConfig = AugmentConfig(),  # noqa: B008
    *,
    start: Trained | None = None,
    workdir: Path | None = None,
    execution: ExecutionConfig | None = None,
) -> Trained:
    """Trains a student from BCG, labels of some nights and the teachers' soft labels of all.

    With alpha = 1 the teachers have no say in training, and none are needed. Several are mixed,
    each with the same weight. At the end the student's SQI is fitted on the validation nights that
    have an ECG, too (`fit_kept_share`).

    Args:
      nights: to learn from, of any dataset; those without BCG are left out.
      teachers: whatever nights they were trained on.
      validation: nights of subjects that neither student, teachers nor `start` know.
      model, distill, train, augment: network, loss, training, augmentation.
      start: a student or teacher to begin from.
      workdir: to save in, and to go on in; None keeps nothing on disk.
      execution: how to run.

    Raises:
      DatasetError, TrainingError: as `TrainingSet.of_student`, `TrainingSet.hiding` and `loop.fit`.
    """
    run = Run(model, train, distill, augment)
    data = TrainingSet.of_student(nights, validation, teachers, start)
    shown = data.hiding(distill)
    target = sqi_target(teachers, data.validation)  # before any training: it may lack something
    student = fitted(run, shown, workdir, execution, start)
    return student if target is None else with_sqi(student, *target)


def sqi_target(teachers: Sequence[Trained], validation: Nights) -> tuple[Nights, NDArray] | None:
    """Validation nights with an ECG and the teachers' mixed log-probabilities on them, [W, K].

    None where there is no teacher or no such night: then a student has no SQI.
    """
    if not teachers or not validation.has_ecg.any():
        return None
    nights = validation.where(validation.has_ecg)
    return nights, mixed_log_probs(opinions(teachers, nights))


def with_sqi(student: Trained, validation: Nights, teacher_log_probs_WK: NDArray) -> Trained:
    """The student with its SQI, which its work folder gets, too."""
    sqi = fit_kept_share.fit_kept_share(
        validation,
        np.concatenate(student.logits(validation)),
        teacher_log_probs_WK,
        student=student.name,
        teacher=student.settings["teacher"],
    )
    if student.workdir and jax.process_index() == 0:
        write_json(student.workdir / fit_kept_share.FILE, sqi.to_json())
    return dataclasses.replace(student, sqi=sqi)
