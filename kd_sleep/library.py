"""Arrays in, a student out: what `import kd_sleep` offers, and what the launchers call.

    nights = kd_sleep.Nights.from_arrays(...)
    teacher = kd_sleep.fit_teacher(nights, validation=...)
    student = kd_sleep.fit_student(paired, teacher=teacher, validation=...)
    scores = kd_sleep.evaluate(student, test)
    night = student.stage(bcg, rate_hz)

Nothing needs a folder; with `workdir` a run saves, logs, and goes on where it was stopped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

from kd_sleep.config import EvaluationConfig
from kd_sleep.datasets.nights import Nights
from kd_sleep.evaluation import held_out
from kd_sleep.evaluation.results import Results
from kd_sleep.inference.ecg_staging import StagingTeacher
from kd_sleep.inference.staging import StagingStudent
from kd_sleep.training import fit
from kd_sleep.training.trained import Trained

P = ParamSpec("P")
At = TypeVar("At")


def _at_use(function: Callable[P, Trained], at_use: Callable[[Trained], At]) -> Callable[P, At]:
    """The function, for a network that stages nights."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> At:
        return at_use(function(*args, **kwargs))

    return wrapped


fit_teacher = _at_use(fit.fit_teacher, StagingTeacher)
fit_student = _at_use(fit.fit_student, StagingStudent.of)


def evaluate(
    student: fit.Network | Mapping[str, fit.Network],
    nights: Nights,
    *,
    teacher: fit.Networks = None,
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
    named = dict(student) if isinstance(student, Mapping) else {"student": student}
    if isinstance(student, StagingTeacher):
        named, teacher = {}, student
    return held_out.evaluate(
        nights,
        fit.trained_teachers(teacher),
        {name: one.trained for name, one in named.items()},
        config,
        train=train,
        validation=validation,
        out=None if out is None else Path(out),
    )
