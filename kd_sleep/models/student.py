"""The student: BCG windows to sleep stages. It never sees an ECG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_sleep.config import StudentConfig
from kd_sleep.models.frontends import FRONT_ENDS
from kd_sleep.models.sequence import Context
from kd_sleep.schema import TACHOGRAM_SAMPLES
from kd_sleep.stages import NUM_STAGES

COLUMNS = ("bcg", "bcg_scale")  # of a batch, that the student is shown


class Student(nn.Module):
    """bcg_BLS -> logits_BLK, int16 counts with a scale per window.

    With `context_windows` = 0 a window's logits depend on its own 30 s alone, and with `causal` on
    nothing that comes after it. Computes in `dtype`; parameters and logits are float32.

    With `hint`, training also sows `tachogram` [B, L, T] into the collection "sown": the ECG's
    resampled tachogram as the encoder of a window regresses it. At use `embedding` [B, L, C] is
    sown there, what the logits are read from, for the SQI (`models.quality`).
    """

    config: StudentConfig
    dtype: Any = jnp.float32
    hint: bool = False

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool = False) -> jax.Array:
        width, valid_BL = self.config.width, batch["valid_BL"]
        bcg = batch["bcg"].astype(jnp.float32) * batch["bcg_scale"][..., None]
        x = FRONT_ENDS[self.config.front_end](width, self.dtype)(bcg.reshape(-1, bcg.shape[-1]))
        x = x.reshape(*valid_BL.shape, -1)
        if self.hint and (train or self.is_initializing()):
            hidden = nn.relu(nn.Dense(width, dtype=self.dtype, name="hint_hidden")(x))
            regressed = nn.Dense(TACHOGRAM_SAMPLES, name="hint")(hidden.astype(jnp.float32))
            self.sow("sown", "tachogram", regressed)
        x = nn.Dropout(self.config.dropout, deterministic=not train)(x)
        context = Context(width, self.config.context_windows, self.dtype, self.config.causal)
        x = context(x, valid_BL).astype(jnp.float32)
        if not train:
            self.sow("sown", "embedding", x)
        return nn.Dense(NUM_STAGES)(x)
