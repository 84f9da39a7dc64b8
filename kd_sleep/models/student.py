"""The student: BCG windows to sleep stages. It never sees an ECG."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_sleep.config import StudentConfig
from kd_sleep.models.frontends import FRONT_ENDS
from kd_sleep.models.sequence import Context
from kd_sleep.stages import NUM_STAGES

COLUMNS = ("bcg",)  # of a batch, that the student is shown; `bcg_scale` comes with it


class Student(nn.Module):
    """bcg_BLS -> logits_BLK, int16 counts with a scale per sequence.

    With `context_windows` = 0 a window's logits depend on its own 30 s alone.
    """

    config: StudentConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> jax.Array:
        valid_BL = batch["valid_BL"]
        bcg = batch["bcg"].astype(jnp.float32) * batch["bcg_scale"][:, None, None]
        x = FRONT_ENDS[self.config.front_end](self.config.width)(bcg.reshape(-1, bcg.shape[-1]))
        x = x.reshape(*valid_BL.shape, -1)
        x = nn.Dropout(self.config.dropout, deterministic=not train)(x)
        x = Context(self.config.width, self.config.context_windows)(x, valid_BL)
        return nn.Dense(NUM_STAGES)(x)
