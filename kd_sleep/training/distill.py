"""The mission: train a teacher on ECG, let it label every night softly, train a student on BCG."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from numpy.typing import NDArray

from kd_sleep.config import (
    AugmentConfig,
    DistillConfig,
    ExecutionConfig,
    SoftLabelConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    from_dict,
    to_dict,
)
from kd_sleep.datasets.nights import Nights, read_split
from kd_sleep.datasets.splits import SPLITS, folds_of
from kd_sleep.errors import ConfigError, TrainingError
from kd_sleep.models import student as student_model
from kd_sleep.models import teacher as teacher_model
from kd_sleep.models.student import Student
from kd_sleep.models.teacher import Teacher
from kd_sleep.stages import NUM_STAGES, UNSCORED
from kd_sleep.training import soft_labels
from kd_sleep.training.checkpoints import Progress
from kd_sleep.training.fit_kept_share import teacher_on, write_kept_share
from kd_sleep.training.loop import Run, fit, load_best, predict, settings_of
from kd_sleep.training.seen_subjects import SEEN, TRAINED_ON, seen
from kd_sleep.training.steps import (
    distillation_objective,
    hard_label_objective,
    loss_settings,
)

TEACHER_COLUMNS = (*teacher_model.COLUMNS, "rr_missing")
SIGNAL_COLUMNS = ("tachogram", "tachogram_valid", "hrv")  # what the signal stage is taught from
_SNR_PERCENTILES = {"p01": 1, "p50": 50, "p99": 99}


def train_teacher(
    data_dir: Path,
    workdir: Path,
    model: TeacherConfig,
    train: TrainConfig,
    execution: ExecutionConfig | None = None,
    labels: SoftLabelConfig | None = None,
) -> None:
    """Trains the teacher on the scored stages of the training nights and writes its soft labels.

    A teacher remembers the nights that it was trained on and is too sure of them. With K folds each
    training night is therefore labelled by a teacher that was trained on the other folds' subjects
    (cross-fitting: Chernozhukov et al., Econometrics Journal 2018). The K teachers stay in
    `workdir/folds/K/`; validation chooses the best step of each of them, too.

    Raises:
      DatasetError: no dataset there, or fewer training subjects than folds.
      TrainingError: as `fit`.
    """
    execution, folds = execution or ExecutionConfig(), (labels or SoftLabelConfig()).folds
    splits = {split: read_split(data_dir, split, bcg=False) for split in SPLITS}
    nights, validation = splits["train"], splits["validation"]
    fold_R = folds_of(nights.subject_ids, max(folds, 1))
    settings = {"model": to_dict(model), "train": to_dict(train), "folds": folds}

    def trained(folder: Path, nights: Nights, **more: Any) -> Any:
        data = {
            "data": [nights.digest(), validation.digest()],
            TRAINED_ON: nights.origin() | {SEEN: [seen(nights, validation)]},
        }
        run = teacher_run(settings | data | more)
        return fit(run, nights, validation, folder, execution).best

    teacher = trained(workdir, nights)
    of_folds = [
        trained(folder, nights.select(np.flatnonzero(fold_R != fold)), fold=fold)
        for fold, folder in enumerate(_fold_dirs(workdir, folds))
    ]
    if jax.process_index() == 0:
        say = functools.partial(predict, teacher_run(settings).module, columns=TEACHER_COLUMNS)
        said = {split: say(teacher, nights) for split, nights in splits.items()}
        for fold, params in enumerate(of_folds):
            rows = np.flatnonzero(fold_R == fold)
            for row, logits in zip(rows, say(params, nights.select(rows)), strict=True):
                said["train"][row] = logits
        name, *names = map(soft_labels.fingerprint, [teacher, *of_folds])
        by = {"train": _by_night(names, nights)}
        for split, asked in splits.items():
            soft_labels.save(
                workdir / "soft_labels", split, name, asked, said[split], by.get(split, ())
            )
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("soft labels are written")


def _fold_dirs(workdir: Path, folds: int) -> list[Path]:
    """Work folders of a teacher's folds."""
    return [workdir / "folds" / f"{folds}" / f"{fold}" for fold in range(folds)]


def _folds_of_teacher(workdir: Path) -> int:
    """How many folds label its training nights; teachers of before say nothing and have none."""
    return settings_of(workdir, "teacher").get("folds", 0)


def _by_night(of_folds: Sequence[str], nights: Nights) -> list[str]:
    """[R] fingerprint of the teacher of each night's fold; empty without folds."""
    if not of_folds:
        return []
    return [of_folds[fold] for fold in folds_of(nights.subject_ids, len(of_folds))]


def teacher_run(settings: dict[str, Any]) -> Run:
    """The run that these settings describe."""
    train = from_dict(TrainConfig, settings["train"])
    return Run(
        kind="teacher",
        module=Teacher(from_dict(TeacherConfig, settings["model"]), dtype_of(train)),
        columns=TEACHER_COLUMNS,
        objective=hard_label_objective(),
        train=train,
        settings=settings,
    )


def dtype_of(train: TrainConfig) -> Any:
    """What a network computes in."""
    return jnp.dtype(train.compute_dtype)


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


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What a student is to learn from: the same for a lone student and for a sweep.

    Attributes:
      nights, validation: training nights, the labels that the student may not see hidden, and the
        nights that choose the best step.
      columns: [W, ...] beside the student's own: `teacher_logits` [W, M, K] of M teachers.
      stage_weights: [K] what a label of each stage weighs.
      settings: what of all this a run's settings record.
    """

    nights: Nights
    validation: Nights
    columns: dict[str, NDArray]
    stage_weights: NDArray | None
    settings: dict[str, Any]

    def teach(self, run: Run, workdir: Path, execution: ExecutionConfig) -> Progress:
        """`fit` on all this, and on the ECG's tachogram where the run has a signal stage."""
        columns = self.columns | self.nights.columns(signal_columns(run))
        return fit(run, self.nights, self.validation, workdir, execution, columns)


@dataclasses.dataclass(frozen=True)
class Material:
    """What lessons are made of: nights as they were read, and what the teachers say of them.

    Attributes:
      nights, validation: training and validation nights, with all their labels.
      teacher: fingerprints of the M teachers.
      folds: of each of them; 0 where it labelled its training nights itself.
      teacher_logits: [W, M, K].
      data: digests of both splits.
      seen: `seen_subjects.seen` of the teachers.
    """

    nights: Nights
    validation: Nights
    teacher: str
    folds: list[int]
    teacher_logits: NDArray[np.float32]
    data: tuple[str, str]
    seen: list[dict[str, str]]

    def select(self, rows: NDArray[np.int64]) -> Material:
        """These training nights alone."""
        logits = self.nights.split(self.teacher_logits)
        return dataclasses.replace(
            self,
            nights=self.nights.select(rows),
            teacher_logits=np.concatenate([logits[row] for row in rows]),
        )

    def lesson(self, distill: DistillConfig) -> Lesson:
        """Hides the labels that the student may not see.

        With alpha = 1 all batches come from labelled nights: the baseline gets as many labelled
        windows into its steps as the loss can use.
        """
        rows = labelled_rows(self.nights, distill)
        labels = self.nights.labels()
        for row in np.setdiff1d(np.arange(len(self.nights)), rows):
            labels[row] = np.full_like(labels[row], UNSCORED)
        shown = dataclasses.replace(
            self, nights=dataclasses.replace(self.nights, label=np.concatenate(labels))
        )
        if distill.alpha == 1.0 and len(rows) < len(self.nights):
            shown = shown.select(rows)
        nights = shown.nights
        columns = {"teacher_logits": shown.teacher_logits}
        return Lesson(
            nights,
            self.validation,
            columns,
            _stage_weights(nights.label, distill.balance),
            {
                "teacher": self.teacher,
                "folds": self.folds,
                "data": list(self.data),
                "labelled": len(rows),
                TRAINED_ON: {
                    **nights.origin(),
                    "nights": len(nights),
                    "subjects": len(set(nights.subject_ids)),
                    "validation_nights": len(self.validation),
                    "snr_db": _snr_db(nights),
                    SEEN: _unique([seen(nights, self.validation), *self.seen]),
                },
            },
        )


def _unique(entries: list[dict[str, str]]) -> list[dict[str, str]]:
    return [entry for n, entry in enumerate(entries) if entry not in entries[:n]]


def _snr_db(nights: Nights) -> dict[str, float] | None:
    """The range of the windows' SNR, for staging to know an unlike night by; None if unknown."""
    known = nights.bcg_snr_db[np.isfinite(nights.bcg_snr_db)]
    if not known.size:
        return None
    return {name: round(float(np.percentile(known, p)), 2) for name, p in _SNR_PERCENTILES.items()}


def reads_samples(model: StudentConfig) -> bool:
    """Whether a student reads the BCG's samples, and not its series."""
    return "bcg" in student_model.columns(model)


def read_material(
    data_dir: Path,
    teachers: Sequence[Path],
    execution: ExecutionConfig,
    samples: bool,
) -> Material:
    """Reads training and validation nights, and the teachers' soft labels of the former.

    Args:
      data_dir: folder of the dataset.
      teachers: work folders.
      execution: whether samples stay on disk.
      samples: whether the students read the BCG's samples.
    """
    in_memory = samples and execution.dataset_in != "disk"
    nights = read_split(data_dir, "train", samples=in_memory)
    validation = read_split(data_dir, "validation", samples=samples)
    names, logits = [], []
    for teacher in teachers:
        _, _, name = load_teacher(teacher, nights)
        names.append(name)
        fold_dirs = _fold_dirs(teacher, _folds_of_teacher(teacher))
        by = _by_night([load_teacher(path, nights)[2] for path in fold_dirs], nights)
        logits.append(soft_labels.load(teacher / "soft_labels", "train", name, nights, by))
    return Material(
        nights,
        validation,
        "+".join(names),
        [_folds_of_teacher(teacher) for teacher in teachers],
        np.stack(logits, axis=1),
        (nights.digest(), validation.digest()),
        [entry for teacher in teachers for entry in _seen_by(teacher)],
    )


def _seen_by(teacher: Path) -> list[dict[str, str]]:
    return settings_of(teacher, "teacher").get(TRAINED_ON, {}).get(SEEN, [])


def _stage_weights(labels: NDArray, balance: float) -> NDArray[np.float64] | None:
    """[K] share ** -balance, scaled so that labels weigh 1 on average; 0 for a stage without."""
    if balance == 0.0 or (labels < 0).all():
        return None
    counts = np.bincount(labels[labels >= 0], minlength=NUM_STAGES)
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** -balance, 0.0)
    return weights * counts.sum() / (weights @ counts)


def train_student(
    data_dir: Path,
    teachers: Sequence[Path],
    workdir: Path,
    model: StudentConfig,
    distill: DistillConfig,
    train: TrainConfig,
    augmentation: AugmentConfig | None = None,
    execution: ExecutionConfig | None = None,
) -> None:
    """Trains a student from BCG, labels of some nights and the teachers' soft labels of all.

    With alpha = 1 the teachers have no say. Several teachers are mixed, each with the same weight.
    At the end its SQI is fitted (`fit_kept_share`) and written beside it.
    """
    execution = execution or ExecutionConfig()
    material = read_material(data_dir, teachers, execution, reads_samples(model))
    lesson = material.lesson(distill)
    settings = student_settings(
        lesson.settings, model, distill, train, augmentation or AugmentConfig()
    )
    run = student_run(settings, lesson.stage_weights)
    validation, teacher = material.validation, material.teacher
    labels = teacher_on(validation, teachers, teacher)  # where they lack, before any training
    best = lesson.teach(run, workdir, execution).best
    write_kept_share(workdir, run.module, best, run.columns, validation, labels, teacher)


def student_settings(
    about: dict[str, Any],
    model: StudentConfig,
    distill: DistillConfig,
    train: TrainConfig,
    augmentation: AugmentConfig,
) -> dict[str, Any]:
    """What settings.json of a student holds; `about` is its lesson's settings."""
    return {
        "model": to_dict(model),
        "distill": to_dict(distill),
        "train": to_dict(train),
        "augment": to_dict(augmentation),
        **about,
    }


def signal_columns(run: Run) -> tuple[str, ...]:
    """Fields of `Nights` that the loss of a signal stage reads; none for a student without it."""
    settings = run.settings
    learns = settings["model"]["signal_width"] and settings["distill"]["signal_weight"]
    return SIGNAL_COLUMNS if learns else ()


def student_columns(model: StudentConfig) -> tuple[str, ...]:
    """Fields of `Nights` that a student and its loss read."""
    return (*student_model.columns(model), "bcg_missing", "rr_missing")


def student_run(settings: dict[str, Any], stage_weights: NDArray | None = None) -> Run:
    """The run that these settings describe.

    Raises:
      ConfigError: augmentation, which changes samples, of a student that reads series.
    """
    model = from_dict(StudentConfig, settings["model"])
    distill = from_dict(DistillConfig, settings["distill"])
    train = from_dict(TrainConfig, settings["train"])
    augmentation = from_dict(AugmentConfig, settings["augment"])
    if augmentation != AugmentConfig() and not reads_samples(model):
        raise ConfigError(
            f"--front_end={model.front_end}: augmentation changes the BCG's samples, and this front"
            " end reads series.",
            "Leave the --augment flags out, or take --front_end=autocorrelation.",
        )
    return Run(
        kind="student",
        module=Student(model, dtype_of(train)),
        columns=student_columns(model),
        objective=distillation_objective(distill, stage_weights),
        train=train,
        settings=settings,
        loss_settings=loss_settings(distill),
        augmentation=augmentation,
    )


def load_teacher(workdir: Path, nights: Nights) -> tuple[nn.Module, Any, str]:
    """A trained teacher, its best parameters and their fingerprint."""
    run = teacher_run(settings_of(workdir, "teacher"))
    params = load_best(run, nights, workdir)
    return run.module, params, soft_labels.fingerprint(params)


def load_student(workdir: Path, nights: Nights) -> tuple[Student, Any, dict[str, Any]]:
    """A trained student, its best parameters and the settings it was trained with."""
    settings = settings_of(workdir, "student")
    run = student_run(settings)
    assert isinstance(run.module, Student)
    return run.module, load_best(run, nights, workdir), settings
