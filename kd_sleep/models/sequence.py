"""Context: a window's embedding sees its neighbours through dilated shifts over windows."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Norm(nn.RMSNorm):
    """Root mean square 1 over channels, no parameters (Zhang & Sennrich 2019, arXiv 1910.07467).

    The gradients of a LayerNorm's scale and bias are sums over all windows, slow on a CPU.
    """

    use_scale: bool = False

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        with jax.numpy_dtype_promotion("standard"):  # Flax takes the mean of bfloat16 in float32
            return super().__call__(x, mask=mask)


class Context(nn.Module):
    """Residual shifts by 1, 2, 4, … windows, reaching `context_windows` a side.

    Padding is put to 0 before each shift, so that a night's logits do not depend on how far its
    batch was padded. With `context_windows` = 0 each window stands alone; `causal`
    reaches into the past alone.
    """

    width: int
    context_windows: int
    dtype: Any = jnp.float32
    causal: bool = False

    @nn.compact
    def __call__(self, x_BLC: jax.Array, valid_BL: jax.Array) -> jax.Array:
        mask = valid_BL[..., None].astype(x_BLC.dtype)
        for layer in range((self.context_windows + 1).bit_length() - 1):
            y = Norm(dtype=self.dtype)(x_BLC) * mask
            y = nn.relu(Dilated(self.width, 2**layer, self.dtype, self.causal)(y))
            zeros = nn.initializers.zeros_init()
            x_BLC = x_BLC + nn.Dense(self.width, dtype=self.dtype, kernel_init=zeros)(y)
        return Norm(dtype=self.dtype)(x_BLC)


class Dilated(nn.Module):
    """A dilated convolution of width 3, [N, F, C] -> [N, F, width], as one matrix product.

    Each place sees itself and the places `reach` before and after; a `causal` one those before.
    """

    width: int
    reach: int = 1
    dtype: Any = jnp.float32
    causal: bool = False

    @nn.compact
    def __call__(self, x_NFC: jax.Array) -> jax.Array:
        places, reach = x_NFC.shape[1], self.reach
        before = (2 if self.causal else 1) * reach
        padded = jnp.pad(x_NFC, ((0, 0), (before, 2 * reach - before), (0, 0)))
        taps = [padded[:, k * reach : k * reach + places] for k in range(3)]
        return nn.Dense(self.width, dtype=self.dtype)(jnp.concatenate(taps, axis=-1))


class Shift(nn.Module):
    """[N, F, C] -> [N, F, width]: each place sees itself and the places `reach` before and after.

    A `causal` one sees itself and the place before.

    A third of the channels is moved each way, then one matrix product mixes them (temporal shift,
    Lin et al. ICCV 2019, https://arxiv.org/abs/1811.08383): a third of the arithmetic of a
    convolution, and a matrix product it stays when a sweep maps it over members or a loop scans
    it, where gradients of convolutions are up to 70 times slower on a CPU.
    """

    width: int
    reach: int = 1
    dtype: Any = jnp.float32
    causal: bool = False

    @nn.compact
    def __call__(self, x_NFC: jax.Array) -> jax.Array:
        places, third = x_NFC.shape[1], x_NFC.shape[2] // 3
        padded = jnp.pad(x_NFC, ((0, 0), (self.reach, self.reach), (0, 0)))
        before = padded[:, :places, :third]
        if self.causal:
            x_NFC = jnp.concatenate([before, x_NFC[..., third:]], axis=-1)
        else:
            here = x_NFC[..., third : 2 * third]
            after = padded[:, 2 * self.reach :, 2 * third :]
            x_NFC = jnp.concatenate([before, here, after], axis=-1)
        return nn.Dense(self.width, dtype=self.dtype)(x_NFC)


def pool(x_NFC: jax.Array) -> jax.Array:
    """Mean and maximum over the frames of a window, [N, 2C]."""
    return jnp.concatenate([x_NFC.mean(1), x_NFC.max(1)], axis=-1)
