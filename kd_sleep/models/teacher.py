"""The teacher: RR intervals to sleep stages, by a 1-D CNN."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_sleep.config import TeacherConfig
from kd_sleep.models.sequence import Context, Norm, pool
from kd_sleep.stages import NUM_STAGES

COLUMNS = ("tachogram", "tachogram_valid", "hrv")  # of a batch, that the teacher is shown


class Teacher(nn.Module):
    """[B, L] windows of tachogram and HRV -> logits_BLK.

    A strided 1-D CNN reads each window's 30-s tachogram; its embedding joins the window's HRV;
    dilated shifts over windows add context. Computes in `dtype`; the logits are float32.
    """

    config: TeacherConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> jax.Array:
        width, valid_BL = self.config.width, batch["valid_BL"]
        tachogram = jnp.stack(
            [batch["tachogram"], batch["tachogram_valid"].astype(jnp.float32)], axis=-1
        )
        x = tachogram.reshape(-1, *tachogram.shape[2:])  # [B * L, T, 2]
        for size, stride in ((9, 2), (5, 2), (5, 2)):
            x = nn.relu(nn.Conv(width, (size,), strides=stride, dtype=self.dtype)(x))
        x = Norm(dtype=self.dtype)(pool(x)).reshape(*valid_BL.shape, -1)
        x = nn.Dense(width, dtype=self.dtype)(jnp.concatenate([x, batch["hrv"]], axis=-1))
        x = nn.Dropout(self.config.dropout, deterministic=not train)(x)
        x = Context(width, self.config.context_windows, self.dtype)(x, valid_BL)
        return nn.Dense(NUM_STAGES)(x.astype(jnp.float32))
