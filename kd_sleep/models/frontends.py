"""What a student that reads samples first makes of a BCG window.

`Autocorrelation`: short-time autocorrelation of the heartbeat band. The IJK complex changes with
sleeper, posture and sensor, but whatever its shape it comes again after one beat interval: the lag
of the first peak is the interval, its height the clarity, its wandering from frame to frame the
variability.

By Wiener-Khinchin the autocorrelation is the inverse transform of the power spectrum, so band-pass
and autocorrelation are two constant matrix products, which suit a TPU better than an FFT of 250
samples.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_sleep.models.sequence import Norm, Shift, pool
from kd_sleep.schema import BCG_HZ

FRAME_S, HOP_S = 5.0, 2.0
LAGS_S = (0.36, 1.70)  # 35 to 167 beats a minute
HEART_BAND_HZ = (1.0, 10.0)
BREATH_DEGREE = 8  # over 5 s: follows swings of up to about 0.5 Hz
SLOW_HZ = 5.0  # rate at which breath and movement are looked at
SLOW_FRAME, SLOW_HOP = 11, 6  # samples at that rate: frames of 2.2 s, one every 1.2 s


@functools.cache
def heart_matrices() -> tuple[np.ndarray, np.ndarray]:
    """[frame, 2 * bins] windowed cosines and sines of the band, and [bins, lags] back to lags.

    Breathing is ten to a hundred times the heartbeat, more than a Hann window's side lobes hold
    off. So the first matrix also takes out of a frame what polynomials of `BREATH_DEGREE` explain.
    """
    frame = round(FRAME_S * BCG_HZ)
    points = 2 * frame  # room for every lag without wrapping
    frequency = np.fft.rfftfreq(points, 1 / BCG_HZ)
    bins = np.flatnonzero((frequency >= HEART_BAND_HZ[0]) & (frequency <= HEART_BAND_HZ[1]))
    time = np.arange(frame)
    angle = 2 * np.pi * np.outer(time, bins) / points
    forward = np.hanning(frame)[:, None] * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    slow, _ = np.linalg.qr(
        np.polynomial.legendre.legvander(np.linspace(-1, 1, frame), BREATH_DEGREE)
    )
    forward -= slow @ (slow.T @ forward)
    lags = np.arange(round(LAGS_S[0] * BCG_HZ), round(LAGS_S[1] * BCG_HZ) + 1)
    back = np.cos(2 * np.pi * np.outer(bins, lags) / points)
    # What the Hann window alone leaves at each lag, divided out: a steady rhythm has peaks of 1.
    taper = np.correlate(np.hanning(frame), np.hanning(frame), mode="full")[frame - 1 + lags]
    return forward.astype(np.float32), (back / (taper / taper.max() + 0.1)).astype(np.float32)


def frames_of(bcg_NS: jax.Array) -> jax.Array:
    """[N, frames, frame samples]: frames of 5 s, one every 2 s, within each window."""
    frame, hop = round(FRAME_S * BCG_HZ), round(HOP_S * BCG_HZ)
    starts = range(0, bcg_NS.shape[-1] - frame + 1, hop)
    return jnp.stack([bcg_NS[:, start : start + frame] for start in starts], axis=1)


def autocorrelation(bcg_NS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Short-time autocorrelation of the heartbeat band, and its log energy.

    Args:
      bcg_NS: [N, S] at `BCG_HZ`, any gain and polarity.

    Returns:
      [N, frames, lags] in about -1..1, and [N, frames] natural log of the band's energy.
    """
    forward, back = heart_matrices()
    # In full precision: what is taken out is a hundred times what is looked for.
    spectrum = jnp.matmul(
        frames_of(bcg_NS), jnp.asarray(forward), precision=jax.lax.Precision.HIGHEST
    )
    cosine, sine = jnp.split(spectrum, 2, axis=-1)
    power = cosine**2 + sine**2
    energy = power.sum(-1)
    return power @ back / (energy[..., None] + 1e-3), jnp.log(energy + 1e-3)


def slow_wave(bcg_NS: jax.Array) -> jax.Array:
    """Breath and movement: means over 0.2 s, as shape (RMS 1) and as size, [N, samples, 2]."""
    wave = bcg_NS.reshape(bcg_NS.shape[0], -1, round(BCG_HZ / SLOW_HZ)).mean(-1)
    wave = wave - wave.mean(-1, keepdims=True)
    rms = jnp.sqrt((wave**2).mean(-1, keepdims=True) + 1e-3)
    return jnp.stack([wave / rms, jnp.arcsinh(wave) / 3.0], axis=-1)


class Autocorrelation(nn.Module):
    """Heart, breath and movement of each window to one embedding, [N, S] -> [N, width].

    The heart through the short-time autocorrelation; breath and movement, below `SLOW_HZ`, through
    filters on the samples, since their shape is plain to see.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, bcg_NS: jax.Array) -> jax.Array:
        norm = functools.partial(Norm, dtype=self.dtype)
        dense = functools.partial(nn.Dense, self.width, dtype=self.dtype)
        correlation, energy = autocorrelation(bcg_NS)
        energy = 0.3 * (energy - 8.0)[..., None]  # about -1..1 at rest
        heart = dense()(jnp.concatenate([2.0 * correlation, energy], axis=-1))
        for _ in range(2):
            heart = heart + Shift(self.width, dtype=self.dtype)(nn.relu(norm()(heart)))
        slow = nn.relu(norm()(dense()(_slow_frames(slow_wave(bcg_NS)))))
        slow = nn.relu(norm()(Shift(self.width, dtype=self.dtype)(slow)))
        return dense()(jnp.concatenate([pool(nn.relu(heart)), pool(slow)], axis=-1))


def _slow_frames(wave_NSC: jax.Array) -> jax.Array:
    """Frames of `SLOW_FRAME` samples, one every `SLOW_HOP`, around each: [N, frames, samples]."""
    side = SLOW_FRAME // 2
    padded = jnp.pad(wave_NSC, ((0, 0), (side, side), (0, 0)))
    taps = [padded[:, k : k + wave_NSC.shape[1] : SLOW_HOP] for k in range(SLOW_FRAME)]
    return jnp.concatenate(taps, axis=-1)


FRONT_ENDS = {"autocorrelation": Autocorrelation}
