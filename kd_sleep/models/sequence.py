"""Context: a window's embedding sees its neighbours through dilated convolutions over windows."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class Context(nn.Module):
    """Residual dilated convolutions 1, 2, 4, … over windows, reaching `context_windows` a side.

    Padding is put to 0 before each convolution, so that a night's logits do
    not depend on how far its batch was padded. With `context_windows` = 0 each window stands alone.
    """

    width: int
    context_windows: int

    @nn.compact
    def __call__(self, x_BLC: jax.Array, valid_BL: jax.Array) -> jax.Array:
        mask = valid_BL[..., None].astype(x_BLC.dtype)
        for layer in range((self.context_windows + 1).bit_length() - 1):
            y = nn.LayerNorm()(x_BLC) * mask
            y = nn.gelu(nn.Conv(self.width, (3,), kernel_dilation=2**layer)(y))
            x_BLC = x_BLC + nn.Dense(self.width, kernel_init=nn.initializers.zeros_init())(y)
        return nn.LayerNorm()(x_BLC)


def pool(x_NFC: jax.Array) -> jax.Array:
    """Mean and maximum over the frames of a window, [N, 2C]."""
    return jnp.concatenate([x_NFC.mean(1), x_NFC.max(1)], axis=-1)
