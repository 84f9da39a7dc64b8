"""Trains a teacher on RR intervals, and a student on BCG, from arrays or datasets.

    teacher = fit_teacher(nights, validation=others)
    student = fit_student(paired, teacher=teacher, validation=others)

`kd_sleep.fit_teacher` and `kd_sleep.fit_student` are these functions; theirs also stage nights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from numpy.typing import NDArray

from kd_sleep.config import (
    CPU_TRAIN,
    DistillConfig,
    ExecutionConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
)
from kd_sleep.datasets.batches import whole_nights
from kd_sleep.datasets.nights import Nights, blank
from kd_sleep.datasets.splits import folds_of
from kd_sleep.errors import ConfigError, TrainingError
from kd_sleep.provenance import provenance, write_json
from kd_sleep.training import fit_kept_share
from kd_sleep.training.loop import fit
from kd_sleep.training.run import Run
from kd_sleep.training.soft_labels import mixed_log_probs, soft_labels
from kd_sleep.training.trained import Trained, fold_dirs
from kd_sleep.training.training_set import TrainingSet


class Network(Protocol):
    """A trained network: `Trained`, or a `StagingTeacher` or `StagingStudent`, which hold one."""

    @property
    def trained(self) -> Trained: ...


Networks = Network | Iterable[Network] | None


def fit_teacher(
    nights: Nights,
    *,
    validation: Nights,
    model: TeacherConfig = TeacherConfig(),  # noqa: B008 - frozen
    train: TrainConfig = CPU_TRAIN,
    folds: int = 0,
    start: Network | None = None,
    workdir: str | Path | None = None,
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
      start: a teacher or student to begin from; None draws parameters.
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
    begin, run = _one("start", start), Run(model, train)
    data = TrainingSet.of_teacher(nights, validation, begin, folds=folds)
    fold_R = folds_of(data.nights.subject_ids, max(folds, 1))  # are there enough subjects?
    folder = None if workdir is None else Path(workdir)
    teacher = _fitted(run, data, folder, execution, begin)
    of_folds = []
    for fold in range(folds):
        rest = data.nights.select(np.flatnonzero(fold_R != fold))
        others = TrainingSet.of_teacher(rest, data.validation, folds=folds, fold=fold)
        place = None if folder is None else fold_dirs(folder, folds)[fold]
        of_folds.append(_fitted(run, others, place, execution))
    return dataclasses.replace(teacher, folds=tuple(of_folds))


def fit_student(
    nights: Nights,
    *,
    teacher: Networks = None,
    validation: Nights,
    model: StudentConfig = StudentConfig(),  # noqa: B008 - frozen
    distill: DistillConfig = DistillConfig(),  # noqa: B008
    train: TrainConfig = CPU_TRAIN,
    start: Network | None = None,
    workdir: str | Path | None = None,
    execution: ExecutionConfig | None = None,
) -> Trained:
    """Trains a student from BCG, labels of some nights and the teachers' soft labels of all.

    At the end the student's SQI is fitted on the validation nights that have an ECG, too
    (`fit_kept_share`).

    Args:
      nights: to learn from, of any dataset; those without BCG are left out.
      teacher: trained on any nights; several are mixed, each with the same weight; None for
        `distill.alpha` = 1, which uses labels alone.
      validation: nights of subjects that neither student, teachers nor `start` know.
      model, distill, train: network, loss, training.
      start, workdir, execution: as for `fit_teacher`.

    Raises:
      DatasetError, TrainingError: as `TrainingSet.of_student`, `TrainingSet.hiding` and `loop.fit`.
    """
    teachers, begin = trained_teachers(teacher), _one("start", start)
    data = TrainingSet.of_student(nights, validation, teachers, begin)
    labelled = data.hiding(distill)
    target = sqi_target(teachers, data.validation)  # before any training: it may lack something
    folder = None if workdir is None else Path(workdir)
    student = _fitted(Run(model, train, distill), labelled, folder, execution, begin)
    return student if target is None else with_sqi(student, *target)


def trained_teachers(teacher: Networks) -> list[Trained]:
    """None, one or several teachers as a list.

    Raises:
      ConfigError: something else.
    """
    given: Any = [] if teacher is None else teacher
    several = [given] if hasattr(given, "trained") else list(given)
    found = [each for each in (_one("teacher", one) for one in several) if each]
    if wrong := [one for one in found if one.run.kind != "teacher"]:
        raise ConfigError(f"teacher: {wrong[0]} is a {wrong[0].run.kind}.")
    return found


def _one(argument: str, network: Network | None) -> Trained | None:
    found = network if network is None else getattr(network, "trained", network)
    if found is not None and not isinstance(found, Trained):
        raise ConfigError(f"{argument}: expected a trained network, got {type(network).__name__}.")
    return found


def _fitted(
    run: Run,
    data: TrainingSet,
    workdir: Path | None,
    execution: ExecutionConfig | None,
    start: Trained | None = None,
) -> Trained:
    """The network that `loop.fit` makes of all this."""
    begin = None if start is None else started_from(run, start)
    progress, rows = fit(run, data, workdir, execution, begin)
    record: dict[str, Any] = {"kind": run.kind, "settings": run.to_json() | data.about}
    return Trained(run, progress.best, record | provenance(), rows, workdir)


def started_from(run: Run, start: Trained) -> Any:
    """Parameters for a run to begin from, out of a trained network's.

    Those of a student or teacher of the same architecture are all taken. Between a teacher and a
    student those that both have are: the layers behind the first, which reads other inputs.

    Raises:
      TrainingError: an architecture that differs, or has nothing in common.
    """
    example = next(whole_nights(blank(), run.columns, batch_size=1))
    fresh = run.begin(example).best
    there = dict(jax.tree_util.tree_leaves_with_path(start.params))
    here = dict(jax.tree_util.tree_leaves_with_path(fresh))
    fits = {path for path in here if path in there and there[path].shape == here[path].shape}
    other = [jax.tree_util.keystr(path, simple=True, separator="/") for path in {*here} - fits]
    if not fits or (run.kind == start.run.kind and other):
        raise TrainingError(
            f"start_from: the architectures differ ({len(other)} of {len(here)} arrays,"
            f" {min(other)} the first).",
            "Start from a network of the same settings, such as width and context.",
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: there[path] if path in fits else leaf, fresh
    )


def sqi_target(teachers: Iterable[Trained], validation: Nights) -> tuple[Nights, NDArray] | None:
    """Validation nights with an ECG and the teachers' mixed log-probabilities on them, [W, K].

    None where there is no teacher or no such night: then a student has no SQI.
    """
    several = list(teachers)
    if not several or not validation.has_ecg.any():
        return None
    nights = validation.where(validation.has_ecg)
    return nights, mixed_log_probs(soft_labels(several, nights))


def with_sqi(student: Trained, validation: Nights, teacher_log_probs_WK: NDArray) -> Trained:
    """The student with its SQI, which is also written to its work folder."""
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
