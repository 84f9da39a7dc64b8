"""The student: BCG windows to sleep stages. It never sees an ECG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_sleep.config import StudentConfig
from kd_sleep.features.inputs import FEATURES, JJ_LEVEL, MOVEMENT_LEVEL
from kd_sleep.models.frontends import FRONT_ENDS
from kd_sleep.models.sequence import Context
from kd_sleep.models.series_network import SeriesNetwork
from kd_sleep.schema import SERIES_SAMPLES
from kd_sleep.stages import NUM_STAGES

SERIES = ("jj", "beat_confidence", "breath", "movement")
BEATS = "beats"  # the front end that reads series


class Series(NamedTuple):
    """What the front end `beats` reads of B sequences of L windows; NaN where missing.

    Attributes:
      jj: [B, L, 120] s, intervals between J peaks at 4 Hz.
      beat_confidence: [B, L, 120] correlation of the beat at hand with its template.
      breath: [B, L, 120] chest movement in its local RMS.
      movement: [B, L, 30] log level of each second.
      summary: [B, L, F] `features.inputs.summary`, of the student's `scope`.
    """

    jj: jax.Array
    beat_confidence: jax.Array
    breath: jax.Array
    movement: jax.Array
    summary: jax.Array


class Samples(NamedTuple):
    """What other front ends read: bcg [B, L, S], times scale [B, L] in heartbeat amplitudes."""

    bcg: jax.Array
    scale: jax.Array


def columns(config: StudentConfig) -> tuple[str, ...]:
    """Of a batch, what `Series` or `Samples` hold, in order: see `datasets.nights.Nights`."""
    if config.front_end == BEATS:
        return (*SERIES, f"summary_{scope(config)}")
    return ("bcg", "bcg_scale")


def scope(config: StudentConfig) -> str:
    """Which windows a window's references come from: of `features.inputs.SCOPES`."""
    if config.context_windows == 0:
        return "window"
    return "past" if config.causal else "night"


def reach(config: StudentConfig) -> tuple[int, int]:
    """How many windows before and after a window its logits depend on."""
    side = config.context_windows
    # A causal dilated convolution has both of its outer taps in the past.
    return (2 * side, 0) if config.causal else (side, side)


class Student(nn.Module):
    """A BCG's series, or its samples -> logits_BLK.

    With `context_windows` = 0 a window's logits depend on its own 30 s alone, and with `causal` on
    nothing that comes after it. Computes in `dtype`; parameters and logits are float32.
    """

    config: StudentConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: Series | Samples, valid_BL: jax.Array, *, train: bool = False
    ) -> jax.Array:
        if self.config.front_end == BEATS:
            return self._series(Series(*inputs), valid_BL, train)
        return self._samples(Samples(*inputs), valid_BL, train)

    def inputs(self, batch: Mapping[str, Any]) -> tuple[Series | Samples, Any]:
        """What the student is called with, out of a batch's columns."""
        kind = Series if self.config.front_end == BEATS else Samples
        return kind(*(batch[name] for name in columns(self.config))), batch["valid_BL"]

    def _series(self, series: Series, valid_BL: jax.Array, train: bool) -> jax.Array:
        config = self.config
        network = SeriesNetwork(
            config.width,
            config.context_windows,
            config.dropout,
            config.causal,
            self.dtype,
            name="network",
        )
        features_BLF = series.summary[..., FEATURES]
        return network(series_channels(series), features_BLF, valid_BL, train=train)

    def _samples(self, samples: Samples, valid_BL: jax.Array, train: bool) -> jax.Array:
        width = self.config.width
        bcg = samples.bcg.astype(jnp.float32) * samples.scale[..., None]
        x = FRONT_ENDS[self.config.front_end](width, self.dtype)(bcg.reshape(-1, bcg.shape[-1]))
        x = x.reshape(*valid_BL.shape, -1)
        x = nn.Dropout(self.config.dropout, deterministic=not train)(x)
        context = Context(width, self.config.context_windows, self.dtype, self.config.causal)
        x = context(x, valid_BL).astype(jnp.float32)
        return nn.Dense(NUM_STAGES)(x)


def series_channels(series: Series) -> jax.Array:
    """[B, L, T, 5]: JJ relative to its reference in tenths, whether it is there, the beats'
    confidence, breath, movement relative to its reference. The first two are the teacher's.
    """
    jj = series.jj.astype(jnp.float32)
    there = jnp.isfinite(jj)
    level = series.summary[..., JJ_LEVEL, None]
    relative = jnp.clip(jnp.where(there, (jj / level - 1.0) * 10.0, 0.0), -10.0, 10.0)
    movement = series.movement.astype(jnp.float32) - series.summary[..., MOVEMENT_LEVEL, None]
    movement = jnp.repeat(movement, SERIES_SAMPLES // movement.shape[-1], axis=-1)
    breath = series.breath.astype(jnp.float32)
    known = [jnp.where(jnp.isfinite(x), x, 0.0) for x in (breath, movement)]
    confidence = series.beat_confidence.astype(jnp.float32)
    return jnp.stack([relative, there.astype(jnp.float32), confidence, *known], axis=-1)
