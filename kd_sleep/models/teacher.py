"""The teacher: RR intervals to sleep stages, by a 1-D CNN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_sleep.config import TeacherConfig
from kd_sleep.models.series_network import SeriesNetwork

COLUMNS = ("tachogram", "tachogram_valid", "hrv")  # of a batch, that the teacher is shown


class Teacher(nn.Module):
    """[B, L] windows of tachogram and HRV -> logits_BLK. Computes in `dtype`."""

    config: TeacherConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool = False) -> jax.Array:
        valid = batch["tachogram_valid"].astype(jnp.float32)
        network = SeriesNetwork(
            self.config.width,
            self.config.context_windows,
            self.config.dropout,
            dtype=self.dtype,
            name="network",
        )
        series_BLTC = jnp.stack([batch["tachogram"], valid], axis=-1)
        return network(series_BLTC, batch["hrv"], batch["valid_BL"], train=train)
