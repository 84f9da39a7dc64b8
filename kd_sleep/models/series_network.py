"""The network that teacher and student share: series at 4 Hz and features per window, to stages.

A strided 1-D CNN reads each window's 30 s; its embedding joins the window's features; dilated
shifts over windows add context.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_sleep.models.sequence import Context, Norm, pool
from kd_sleep.stages import NUM_STAGES


class StridedConv(nn.Module):
    """A 1-D convolution, [N, T, C] -> [N, T / stride, width], as one matrix product on patches.

    A sweep maps it over members, where gradients of `nn.Conv` are up to 70 times slower on a CPU.
    """

    width: int
    size: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_NTC: jax.Array) -> jax.Array:
        samples = x_NTC.shape[1]
        side = self.size // 2
        padded = jnp.pad(x_NTC, ((0, 0), (side, side), (0, 0)))
        taps = [padded[:, k : k + samples : self.stride] for k in range(self.size)]
        return nn.Dense(self.width, dtype=self.dtype)(jnp.concatenate(taps, axis=-1))


class SeriesNetwork(nn.Module):
    """series [B, L, T, C] and features [B, L, F] -> logits_BLK.

    Computes in `dtype`; parameters and logits are float32.
    """

    width: int
    context_windows: int
    dropout: float
    causal: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, series_BLTC: jax.Array, features_BLF: jax.Array, valid_BL: jax.Array, *, train: bool
    ) -> jax.Array:
        x = series_BLTC.reshape(-1, *series_BLTC.shape[2:])
        # Half the width where most of the samples are: a third of the arithmetic.
        half = self.width // 2
        for width, size in ((half, 9), (half, 5), (self.width, 5)):
            x = nn.relu(StridedConv(width, size, 2, self.dtype)(x))
        x = Norm(dtype=self.dtype)(pool(x)).reshape(*valid_BL.shape, -1)
        x = jnp.concatenate([x, features_BLF.astype(self.dtype)], axis=-1)
        x = nn.Dense(self.width, dtype=self.dtype)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = Context(self.width, self.context_windows, self.dtype, self.causal)(x, valid_BL)
        return nn.Dense(NUM_STAGES)(x.astype(jnp.float32))
