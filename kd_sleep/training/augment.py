"""Augmentation: what a night's BCG might as well have looked like, drawn anew in every step.

Each kind has a setting in `AugmentConfig`; at 0 it is not traced at all. Each draws from a key of
its own, so that switching one off leaves the draws of the others as they were. The teacher's
columns are never touched. All five together take 8-11 ms for [8, 64, 1500] on two cores.

Figures are the simulator's, in the dataset's unit, the heartbeat band's RMS: a J wave is about 3.
  Movements: lengths and strengths of `simulation.physiology._movement`; what `simulation.sensors`
    makes of a strength of 1, measured on four simulated nights at 50 Hz: a sway below 0.4 Hz of
    SD 5-9, and shaking of SD 0.35-0.5 in 2-10 Hz.
  Dropouts: `sensors` draws 5-60 s; these are shorter, 5-15 s, so that many fit into a sequence.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from kd_sleep.config import AugmentConfig
from kd_sleep.schema import BCG_HZ

LARGEST = 500.0  # where the dataset's BCG saturates: `features.bcg.LARGEST`, tested to be equal
DROPOUT_S = (5.0, 15.0)  # uniform: 10 s in the mean
CELL_S = 0.2  # grid of dropouts: a running sum over samples would cost as much as all the rest
MOVEMENT_S = (3.0, 15.0)  # log-normal around 6 s, log SD 0.45, clipped
STRENGTH = (10.0, 50.0)  # log-uniform; the top of a burst
SWAY, SWAY_HZ = 6.0, 0.25  # SD at a strength of 1; its power falls to 1/e at this frequency
SHAKING, SHAKING_HZ = 0.5, 6.0  # 0.4 of it in 2-10 Hz

_SHIFT, _GAIN, _POLARITY, _MOVEMENTS, _DROPOUTS, _NOISE = _KEYS = range(6)


def augment(key: jax.Array, batch: dict[str, Any], config: AugmentConfig) -> dict[str, Any]:
    """The batch with another BCG: shifted, scaled, turned, moved and with gaps, in this order.

    A sample counts as lost with its window's `bcg_missing`, or wholly: where it was dropped, comes
    from outside the sequence, or from a window that is not valid. `bcg_missing` becomes the mean of
    that over the window's samples. A movement loses nothing: the heart is still under it.

    Args:
      key: all that is drawn depends on it alone.
      batch: with bcg [B, L, S] counts, bcg_scale [B, L], bcg_missing [B, L] and valid_BL [B, L].
      config: known at trace time; with all of it 0 the very same batch comes back.

    Returns:
      A batch with bcg float32 in heartbeat amplitudes within ±`LARGEST`, exactly 0 where lost, and
      bcg_scale 1; of windows that are not valid the BCG is 0 and bcg_missing as it was. All else
      is the same.
    """
    if not any(dataclasses.astuple(config)):
        return batch
    valid_BL, missing_BL = jnp.asarray(batch["valid_BL"]), jnp.asarray(batch["bcg_missing"])
    bcg_BLS = jnp.asarray(batch["bcg"], jnp.float32) * batch["bcg_scale"][..., None]
    rows, windows, samples = bcg_BLS.shape
    bcg = bcg_BLS.reshape(rows, -1)  # [B, L * S], as are the following
    lost = jnp.repeat(jnp.where(valid_BL, missing_BL, 1.0), samples, axis=1)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.array(_KEYS))

    if config.augment_shift_s > 0:
        most = int(config.augment_shift_s * BCG_HZ)
        by_B = _whole(jax.random.uniform(keys[_SHIFT], (rows,)), -most, most)
        bcg, lost = _shift(bcg, by_B, most, 0.0), _shift(lost, by_B, most, 1.0)
    if config.augment_gain > 0:
        bcg *= jnp.exp(config.augment_gain * jax.random.normal(keys[_GAIN], (rows, 1)))
    if config.augment_polarity > 0:
        turned = jax.random.bernoulli(keys[_POLARITY], config.augment_polarity, (rows, 1))
        bcg = jnp.where(turned, -bcg, bcg)
    if config.augment_movements > 0:
        bcg += _movements(keys[_MOVEMENTS], keys[_NOISE], bcg.shape, config.augment_movements)
    if config.augment_dropouts > 0:
        dropped = _dropouts(keys[_DROPOUTS], bcg.shape, config.augment_dropouts)
        lost = jnp.where(dropped, 1.0, lost)

    heard = (lost < 1.0) & jnp.repeat(valid_BL, samples, axis=1)
    bcg = jnp.where(heard, jnp.clip(bcg, -LARGEST, LARGEST), 0.0)
    if config.augment_shift_s > 0 or config.augment_dropouts > 0:
        mean_BL = lost.reshape(bcg_BLS.shape).mean(-1).clip(max=1.0)
        missing_BL = jnp.where(valid_BL, mean_BL, missing_BL)
    return batch | {
        "bcg": bcg.reshape(bcg_BLS.shape),
        "bcg_scale": jnp.ones((rows, windows), jnp.float32),
        "bcg_missing": missing_BL,
    }


def _shift(values: jax.Array, by_B: jax.Array, most: int, fill: float) -> jax.Array:
    """out[b, t] = values[b, t - by_B[b]], `fill` from outside; |by_B| <= most."""
    padded = jnp.pad(values, ((0, 0), (most, most)), constant_values=fill)
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=values.shape[1])
    return jax.vmap(cut)(padded, most - by_B)


def _whole(uniform: jax.Array, low: int, high: int) -> jax.Array:
    """From a uniform draw in 0..1 to whole numbers low..high, as evenly as float32 can."""
    return low + jnp.minimum((uniform * (high - low + 1)).astype(jnp.int32), high - low)


def _spans(
    key: jax.Array, rows: int, places: int, expected: float, count: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of `count` chances for a span: where, whether there is one, and two numbers for its shape.

    A shape must be known at trace time, a number of spans is not: it is binomial. One draw serves
    all, since XLA spends half a second on compiling each.

    Returns:
      place [B, count], uniform in 0..places - 1; there [B, count] bool, `expected` of them in the
      mean; and [2, B, count] uniform in 0..1.
    """
    place, there, *more = jax.random.uniform(key, (4, rows, count))
    return _whole(place, 0, places - 1), there * count < expected, jnp.stack(more)


def _dropouts(key: jax.Array, shape: tuple[int, int], share: float) -> jax.Array:
    """[B, T] bool: lost spans. Each sample is lost with a probability of `share`, overlaps counted.

    A span may begin before the sequence, so that any cell t is reached by the starts
    t - length + 1 ... t: by one span with p = mean length / places, by none of n that are there
    with probability q with (1 - q p)^n = 1 - share.
    """
    rows, total = shape
    cell = round(CELL_S * BCG_HZ)
    cells = -(-total // cell)
    low, high = (round(seconds / CELL_S) for seconds in DROPOUT_S)
    places = cells + high - 1
    reach = (low + high) / 2 / places
    count = math.ceil(-2.0 * math.log1p(-share) / reach)  # q near 1/2: their number varies
    expected = count * (1.0 - (1.0 - share) ** (1.0 / count)) / reach
    place, there, (draw, _) = _spans(key, rows, places, expected, count)
    begin = place - (high - 1)
    end = begin + _whole(draw, low, high)
    row, change = jnp.arange(rows)[:, None], there.astype(jnp.int32)
    steps = jnp.zeros((rows, cells + 1), jnp.int32)
    steps = steps.at[row, begin.clip(0)].add(change).at[row, end.clip(0, cells)].add(-change)
    return jnp.repeat(jnp.cumsum(steps, axis=1)[:, :-1] > 0, cell, axis=1)[:, :total]


def _movements(
    span_key: jax.Array, noise_key: jax.Array, shape: tuple[int, int], per_hour: float
) -> jax.Array:
    """[B, T] of bursts of sway and shaking under a Hann envelope, in heartbeat amplitudes.

    `per_hour` counts those that begin, in the mean; two may overlap and add up.
    """
    rows, total = shape
    most = round(MOVEMENT_S[1] * BCG_HZ)
    places = total + most - 1  # a burst may begin before the sequence
    expected = per_hour * places / BCG_HZ / 3600.0
    count = math.ceil(2.0 * expected)
    place, there, (long, strong) = _spans(span_key, rows, places, expected, count)
    length_s = jnp.exp(math.log(6.0) + 0.45 * ndtri(long)).clip(*MOVEMENT_S)
    low, high = map(math.log, STRENGTH)
    top = jnp.where(there, jnp.exp(low + (high - low) * strong), 0.0)
    phase = (jnp.arange(most, dtype=jnp.float32)[None, None] + 0.5) / (length_s[..., None] * BCG_HZ)
    envelope = jnp.where(phase < 1.0, jnp.sin(jnp.pi * phase) ** 2, 0.0)
    kernel = _kernel()
    noise = jax.random.normal(noise_key, (rows, count, len(kernel))) @ jnp.asarray(kernel)
    where = place[..., None] + jnp.arange(most)[None, None]
    out = jnp.zeros((rows, places + most - 1), jnp.float32)
    out = out.at[jnp.arange(rows)[:, None, None], where].add(top[..., None] * envelope * noise)
    return out[:, most - 1 : most - 1 + total]


@functools.cache
def _kernel() -> np.ndarray:
    """[knots, samples]: from white noise on knots to a burst's noise at a strength of 1.

    A Gaussian around each knot gives noise with power ~ exp(-(f / hz)^2): first sway, then shaking.
    """
    time = np.arange(round(MOVEMENT_S[1] * BCG_HZ))
    kernels = []
    for size, hz in ((SWAY, SWAY_HZ), (SHAKING, SHAKING_HZ)):
        sd = BCG_HZ / (2.0 * np.pi * hz)
        knots = np.arange(-4.0 * sd, len(time) + 4.0 * sd, 1.5 * sd)
        kernel = np.exp(-0.5 * ((time - knots[:, None]) / sd) ** 2)
        kernels.append(size * kernel / np.sqrt((kernel**2).sum(0)))
    return np.concatenate(kernels).astype(np.float32)
