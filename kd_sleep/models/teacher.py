"""The teacher: RR intervals to sleep stages, by a 1-D CNN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_sleep.config import TeacherConfig
from kd_sleep.models.series_network import SeriesNetwork

COLUMNS = ("tachogram", "tachogram_valid", "hrv")  # of a batch, that the teacher is shown


class Tachogram(NamedTuple):
    """What the teacher reads of B sequences of L windows: `features.inputs.teacher_inputs`.

    Attributes:
      values: [B, L, 120] NN intervals at 4 Hz relative to the night's median, in tenths.
      valid: [B, L, 120] whether each is there.
      hrv: [B, L, F] z-scores over the night, then the night's median NN.
    """

    values: jax.Array
    valid: jax.Array
    hrv: jax.Array


class Teacher(nn.Module):
    """[B, L] windows of tachogram and HRV -> logits_BLK. Computes in `dtype`."""

    config: TeacherConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Tachogram, valid_BL: jax.Array, *, train: bool = False) -> jax.Array:
        network = SeriesNetwork(
            self.config.width,
            self.config.context_windows,
            self.config.dropout,
            dtype=self.dtype,
            name="network",
        )
        series_BLTC = jnp.stack([inputs.values, inputs.valid.astype(jnp.float32)], axis=-1)
        return network(series_BLTC, inputs.hrv, valid_BL, train=train)

    def inputs(self, batch: Mapping[str, Any]) -> tuple[Tachogram, Any]:
        """What the teacher is called with, out of a batch's columns."""
        return Tachogram(*(batch[name] for name in COLUMNS)), batch["valid_BL"]
