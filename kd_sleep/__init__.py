"""kd_sleep: sleep staging from a ballistocardiogram, taught by an ECG.

Arrays in, a student out:

    nights = kd_sleep.Nights.from_arrays(...)
    teacher = kd_sleep.fit_teacher(nights, validation=...)
    student = kd_sleep.fit_student(paired, teacher=teacher, validation=...)
    scores = kd_sleep.evaluate(student, test)
    night = student.stage(bcg, rate_hz=100.0)

The loss costs nothing but jax to import:

    from kd_sleep import distillation_loss
    loss, aux = distillation_loss(student_logits, teacher_logits, labels, alpha=0.3)

`python -m kd_sleep` lists the commands.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kd_sleep.version import __version__

if TYPE_CHECKING:
    from kd_sleep.datasets.nights import Nights
    from kd_sleep.inference.ecg_staging import load_teacher
    from kd_sleep.inference.staging import load_student
    from kd_sleep.library import evaluate, fit_student, fit_teacher
    from kd_sleep.losses import distillation_loss
    from kd_sleep.recordings.paired_bcg import read_bcg

__all__ = [
    "Nights",
    "__version__",
    "distillation_loss",
    "evaluate",
    "fit_student",
    "fit_teacher",
    "load_student",
    "load_teacher",
    "read_bcg",
]

# Imported when asked for: who wants the loss alone need not pay for the rest.
_MODULES = {
    "Nights": "kd_sleep.datasets.nights",
    "distillation_loss": "kd_sleep.losses",
    "evaluate": "kd_sleep.library",
    "fit_student": "kd_sleep.library",
    "fit_teacher": "kd_sleep.library",
    "load_student": "kd_sleep.inference.staging",
    "load_teacher": "kd_sleep.inference.ecg_staging",
    "read_bcg": "kd_sleep.recordings.paired_bcg",
}


def __getattr__(name: str) -> Any:
    """A public name, imported from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kd_sleep.extras import optional_packages

    with optional_packages():
        return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
