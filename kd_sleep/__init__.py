"""kd_sleep: sleep staging from a ballistocardiogram, taught by an ECG.

The loss costs nothing but jax to import:

    from kd_sleep import distillation_loss
    loss, aux = distillation_loss(student_logits, teacher_logits, labels, alpha=0.3)

`python -m kd_sleep` lists the commands.
"""

from kd_sleep.losses import distillation_loss
from kd_sleep.version import __version__

__all__ = ["__version__", "distillation_loss"]
