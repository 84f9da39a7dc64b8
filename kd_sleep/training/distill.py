"""The mission: train a teacher on ECG, let it label every night softly, train a student on BCG."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep.config import (
    DistillConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    from_dict,
    to_dict,
)
from kd_sleep.datasets.batches import Nights, read_split, whole_nights
from kd_sleep.datasets.splits import SPLITS
from kd_sleep.errors import TrainingError
from kd_sleep.models import student as student_model
from kd_sleep.models import teacher as teacher_model
from kd_sleep.models.student import Student
from kd_sleep.models.teacher import Teacher
from kd_sleep.stages import UNSCORED
from kd_sleep.training import soft_labels
from kd_sleep.training.loop import Run, fit, load_params, predict, settings_of
from kd_sleep.training.steps import hard_label_loss, make_distillation_loss

TEACHER_COLUMNS = (*teacher_model.COLUMNS, "rr_missing")
STUDENT_COLUMNS = (*student_model.COLUMNS, "bcg_missing", "rr_missing")


def train_teacher(data_dir: Path, workdir: Path, model: TeacherConfig, train: TrainConfig) -> None:
    """Trains the teacher on the scored stages of the training nights and writes its soft labels."""
    splits = {split: read_split(data_dir, split) for split in SPLITS}
    module = Teacher(model)
    run = Run(
        kind="teacher",
        module=module,
        columns=TEACHER_COLUMNS,
        loss_of=hard_label_loss,
        train=train,
        settings={
            "model": to_dict(model),
            "train": to_dict(train),
            "data": [splits[split].digest() for split in ("train", "validation")],
        },
    )
    params = fit(run, splits["train"], splits["validation"], workdir)
    name = soft_labels.fingerprint(params)
    for split, nights in splits.items():
        logits = predict(module, params, nights, TEACHER_COLUMNS)
        soft_labels.save(workdir / "soft_labels", split, name, nights, logits)


def labelled_rows(nights: Nights, distill: DistillConfig) -> NDArray[np.int64]:
    """Rows of the nights whose labels the student may see: `labelled_nights` of the scored ones.

    Nights are ranked by a hash of seed and id: a larger number keeps the nights of a smaller one.

    Raises:
      TrainingError: fewer scored training nights than that, or none at all at alpha = 1.
    """
    scored = [row for row, label in enumerate(nights.labels()) if (label >= 0).any()]
    wanted = distill.labelled_nights or len(scored)
    if wanted > len(scored):
        raise TrainingError(
            f"--labelled_nights={wanted}: only {len(scored)} training nights are scored."
        )
    if wanted == 0 and distill.alpha == 1.0:
        raise TrainingError(
            "No training night is scored, and at alpha = 1 there is nothing else to learn from.",
            "Set --alpha below 1 to learn from the teacher.",
        )

    def rank(row: int) -> bytes:
        name = f"{distill.label_seed}:{nights.recording_ids[row]}"
        return hashlib.sha256(name.encode()).digest()

    return np.array(sorted(sorted(scored, key=rank)[:wanted]), np.int64)


def train_student(
    data_dir: Path,
    teacher: Path,
    workdir: Path,
    model: StudentConfig,
    distill: DistillConfig,
    train: TrainConfig,
) -> None:
    """Trains a student from BCG, labels of some nights and the teacher's soft labels of all.

    With alpha = 1 the teacher has no say, and all batches come from labelled nights: the baseline
    gets as many labelled windows into its steps as the loss can use.
    """
    nights, validation = read_split(data_dir, "train"), read_split(data_dir, "validation")
    data = [nights.digest(), validation.digest()]
    rows = labelled_rows(nights, distill)
    hidden = np.setdiff1d(np.arange(len(nights)), rows)
    label = nights.label.copy()
    label[hidden] = UNSCORED
    nights = dataclasses.replace(nights, label=label)
    if distill.alpha == 1.0:
        nights = nights.select(rows)
    _, _, name = load_teacher(teacher, nights)
    soft = soft_labels.load(teacher / "soft_labels", "train", name, nights)
    run = Run(
        kind="student",
        module=Student(model),
        columns=STUDENT_COLUMNS,
        loss_of=make_distillation_loss(distill),
        train=train,
        settings={
            "model": to_dict(model),
            "distill": to_dict(distill),
            "train": to_dict(train),
            "teacher": name,
            "data": data,
            "labelled": len(rows),
        },
    )
    fit(
        run,
        nights,
        validation,
        workdir,
        extra_of=lambda rows, starts: soft.crop(rows, starts, train.sequence_windows),
    )


def load_teacher(workdir: Path, nights: Nights) -> tuple[Teacher, Any, str]:
    """A trained teacher, its best parameters and their fingerprint."""
    settings = settings_of(workdir, "teacher")
    module = Teacher(from_dict(TeacherConfig, settings["model"]))
    train = from_dict(TrainConfig, settings["train"])
    params = load_params(module, train, _example(nights, TEACHER_COLUMNS), workdir)
    return module, params, soft_labels.fingerprint(params)


def load_student(workdir: Path, nights: Nights) -> tuple[Student, Any, dict[str, Any]]:
    """A trained student, its best parameters and the settings it was trained with."""
    settings = settings_of(workdir, "student")
    module = Student(from_dict(StudentConfig, settings["model"]))
    train = from_dict(TrainConfig, settings["train"])
    params = load_params(module, train, _example(nights, STUDENT_COLUMNS), workdir)
    return module, params, settings


def _example(nights: Nights, columns: tuple[str, ...]) -> dict[str, NDArray]:
    return next(whole_nights(nights, columns, batch_size=1))
