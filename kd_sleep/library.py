"""Arrays in, a student out: what `import kd_sleep` offers, and what the launchers call.

    nights = kd_sleep.Nights.from_arrays(...)
    teacher = kd_sleep.fit_teacher(nights, validation=...)
    student = kd_sleep.fit_student(paired, teacher=teacher, validation=...)
    scores = kd_sleep.evaluate(student, test)
    night = student.stage(bcg, rate_hz)

Nothing needs a folder; with `workdir` a run saves, logs, and goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kd_sleep.config import (
    CPU_TRAIN,
    AugmentConfig,
    DistillConfig,
    EvaluationConfig,
    ExecutionConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
)
from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import ConfigError, TrainingError
from kd_sleep.evaluation import held_out
from kd_sleep.evaluation.results import Results
from kd_sleep.inference.ecg_staging import StagingTeacher
from kd_sleep.inference.staging import StagingStudent
from kd_sleep.training import fit_student as students
from kd_sleep.training import fit_teacher as teachers
from kd_sleep.training.trained import Trained

Teachers = StagingTeacher | Sequence[StagingTeacher] | None
Start = StagingStudent | StagingTeacher | Trained | None


def fit_teacher(
    nights: Nights,
    *,
    validation: Nights,
    model: TeacherConfig = TeacherConfig(),  # noqa: B008 - frozen
    train: TrainConfig = CPU_TRAIN,
    folds: int = 0,
    start: Start = None,
    workdir: str | Path | None = None,
    execution: ExecutionConfig | None = None,
) -> StagingTeacher:
    """Trains a teacher on nights with an ECG and stages: see `training.fit_teacher`.

    Args:
      nights: to learn from.
      validation: nights of other subjects, that choose the best step.
      model, train: its network and training.
      folds: of the training subjects, each labelled by a teacher that does not know it; 0 for none.
      start: what to begin from; None draws parameters.
      workdir: folder to save in and to go on in; None keeps all in memory.
      execution: how to run.
    """
    return StagingTeacher(
        teachers.fit_teacher(
            nights,
            validation,
            model,
            train,
            folds=folds,
            start=_trained("start", start),
            workdir=None if workdir is None else Path(workdir),
            execution=execution,
        )
    )


def fit_student(
    nights: Nights,
    *,
    teacher: Teachers = None,
    validation: Nights,
    model: StudentConfig = StudentConfig(),  # noqa: B008 - frozen
    distill: DistillConfig = DistillConfig(),  # noqa: B008
    train: TrainConfig = CPU_TRAIN,
    augment: AugmentConfig = AugmentConfig(),  # noqa: B008
    start: Start = None,
    workdir: str | Path | None = None,
    execution: ExecutionConfig | None = None,
) -> StagingStudent:
    """Trains a student on nights with a BCG: see `training.fit_student`.

    Args:
      nights: to learn from; those with an ECG hear the teacher, those with stages teach theirs.
      teacher: of whatever nights; several are mixed; None for `distill.alpha` = 1.
      validation: nights of other subjects, that choose the best step.
      model, distill, train, augment: its network, loss, training and augmentation.
      start, workdir, execution: as for `fit_teacher`.
    """
    return StagingStudent.of(
        students.fit_student(
            nights,
            _teachers(teacher),
            validation,
            model,
            distill,
            train,
            augment,
            start=_trained("start", start),
            workdir=None if workdir is None else Path(workdir),
            execution=execution,
        )
    )


def evaluate(
    student: StagingStudent | StagingTeacher | Mapping[str, StagingStudent],
    nights: Nights,
    *,
    teacher: Teachers = None,
    train: Nights | None = None,
    validation: Nights | None = None,
    config: EvaluationConfig = EvaluationConfig(),  # noqa: B008 - frozen
    out: str | Path | None = None,
) -> Results:
    """Scores on nights of subjects that nothing was trained on: see `held_out.evaluate`.

    Args:
      student: one, several by name, or a teacher alone.
      nights: to score on.
      teacher: to compare with.
      train: training nights, whose labels make the floors: time of night and majority.
      validation: nights that temperatures are fitted on.
      config: of the bootstrap.
      out: folder for results.json and report.html.

    Returns:
      Results; `systems` has the scores with intervals of "student", or the names given, "teacher",
      "time_of_night" and "majority".
    """
    if isinstance(student, StagingTeacher):
        named, teacher = {}, student
    else:
        named = {"student": student} if isinstance(student, StagingStudent) else dict(student)
    return held_out.evaluate(
        nights,
        _teachers(teacher),
        {name: _known(name, one) for name, one in named.items()},
        config,
        train=train,
        validation=validation,
        out=None if out is None else Path(out),
    )


def _teachers(teacher: Teachers) -> list[Trained]:
    several = [] if teacher is None else teacher
    several = [several] if isinstance(several, StagingTeacher) else list(several)
    if wrong := [one for one in several if not isinstance(one, StagingTeacher)]:
        raise ConfigError(f"teacher: expected teachers, got {type(wrong[0]).__name__}.")
    return [one.trained for one in several]


def _trained(name: str, network: Start) -> Trained | None:
    if network is None or isinstance(network, Trained):
        return network
    return _known(name, network)


def _known(name: str, network: StagingStudent | StagingTeacher) -> Trained:
    if network.trained is None:
        raise TrainingError(
            f"{name}: this student was read from an exported file, without its training.",
            "Load it from the work folder that it was trained in.",
        )
    return network.trained
