"""The teacher: RR intervals to sleep stages, by a 1-D CNN."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_sleep.config import TeacherConfig
from kd_sleep.models.sequence import Context, pool
from kd_sleep.stages import NUM_STAGES

COLUMNS = ("tachogram", "tachogram_valid", "hrv")  # of a batch, that the teacher is shown


class Teacher(nn.Module):
    """[B, L] windows of tachogram and HRV -> logits_BLK.

    A strided 1-D CNN reads each window's 30-s tachogram; its embedding joins the window's HRV;
    dilated convolutions over windows add context.
    """

    config: TeacherConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> jax.Array:
        width, valid_BL = self.config.width, batch["valid_BL"]
        tachogram = jnp.stack(
            [batch["tachogram"], batch["tachogram_valid"].astype(jnp.float32)], axis=-1
        )
        x = tachogram.reshape(-1, *tachogram.shape[2:])  # [B * L, T, 2]
        for size, stride in ((9, 2), (5, 2), (5, 2)):
            x = nn.gelu(nn.Conv(width, (size,), strides=stride)(x))
        x = nn.LayerNorm()(pool(x)).reshape(*valid_BL.shape, -1)
        x = nn.Dense(width)(jnp.concatenate([x, batch["hrv"]], axis=-1))
        x = nn.Dropout(self.config.dropout, deterministic=not train)(x)
        x = Context(width, self.config.context_windows)(x, valid_BL)
        return nn.Dense(NUM_STAGES)(x)
