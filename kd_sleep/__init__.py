"""kd_sleep: sleep staging from a ballistocardiogram, taught by an ECG.

The loss costs nothing but jax to import:

    from kd_sleep import distillation_loss
    loss, aux = distillation_loss(student_logits, teacher_logits, labels, alpha=0.3)

A trained student stages a night's BCG:

    student = kd_sleep.load_student("student.kdsleep")
    night = student.stage(bcg, rate_hz=100.0)

`python -m kd_sleep` lists the commands.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kd_sleep.version import __version__

if TYPE_CHECKING:
    from kd_sleep.inference.staging import StagingStudent
    from kd_sleep.losses import distillation_loss

__all__ = ["__version__", "distillation_loss", "load_student"]


def load_student(path: str | os.PathLike) -> StagingStudent:
    """A trained student to stage nights with: `kd_sleep.inference.staging.load_student`."""
    from kd_sleep.inference import staging  # what it needs, who wants the loss need not pay for

    return staging.load_student(path)


def __getattr__(name: str) -> Any:
    """`distillation_loss`, imported when asked for: an ONNX model's inputs need no jax."""
    if name != "distillation_loss":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kd_sleep.losses import distillation_loss

    return distillation_loss
