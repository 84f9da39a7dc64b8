"""What a student first makes of a raw BCG window.

`Autocorrelation`: short-time autocorrelation of the heartbeat band. The IJK complex changes with
sleeper, posture and sensor, but whatever its shape it comes again after one beat interval: the lag
of the first peak is the interval, its height the clarity, its wandering from frame to frame the
variability. It learned faster and further here than strided convolutions on the samples
(BUILD_NOTES.md).

By Wiener-Khinchin the autocorrelation is the inverse transform of the power spectrum, so band-pass
and autocorrelation are two constant matrix products, which suit a TPU better than an FFT of 250
samples.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_sleep.models.sequence import pool
from kd_sleep.schema import BCG_HZ, BCG_SAMPLES

FRAME_S, HOP_S = 5.0, 1.0
LAGS_S = (0.36, 1.70)  # 35 to 167 beats a minute
HEART_BAND_HZ = (1.0, 10.0)
BREATH_DEGREE = 8  # a polynomial over 5 s that follows four extrema: up to about 0.5 Hz
BREATH_BAND_HZ = (0.1, 0.6)
BREATH_BINS = 31


@functools.cache
def _heart_matrices() -> tuple[np.ndarray, np.ndarray]:
    """[frame, 2 * bins] windowed cosines and sines of the band, and [bins, lags] back to lags.

    Breathing is ten to a hundred times the heartbeat, more than a Hann window's side lobes hold off.
    So the first matrix also takes out of a frame whatever polynomials of `BREATH_DEGREE` explain.
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


@functools.cache
def _breath_matrix() -> np.ndarray:
    """[S, 2 * BREATH_BINS] Hann-windowed cosines and sines of the breathing band."""
    frequency = np.linspace(*BREATH_BAND_HZ, BREATH_BINS)
    angle = 2 * np.pi * np.outer(np.arange(BCG_SAMPLES) / BCG_HZ, frequency)
    taper = np.hanning(BCG_SAMPLES)[:, None]
    return (taper * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)


def _power(x: jax.Array, matrix: jax.Array) -> jax.Array:
    cosine, sine = jnp.split(x @ matrix, 2, axis=-1)
    return cosine**2 + sine**2


def frames_of(bcg_NS: jax.Array) -> jax.Array:
    """[N, frames, frame samples]: frames of 5 s, one a second, within each window."""
    frame, hop = round(FRAME_S * BCG_HZ), round(HOP_S * BCG_HZ)
    count = (bcg_NS.shape[-1] - frame) // hop + 1
    index = np.arange(count)[:, None] * hop + np.arange(frame)
    return bcg_NS[:, index]


def autocorrelation(bcg_NS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Short-time autocorrelation of the heartbeat band, and its log energy.

    Args:
      bcg_NS: [N, S] at `BCG_HZ`, any gain and polarity.

    Returns:
      [N, frames, lags] in about -1..1, and [N, frames] natural log of the band's energy.
    """
    forward, back = _heart_matrices()
    power = _power(frames_of(bcg_NS), jnp.asarray(forward))
    energy = power.sum(-1)
    return power @ back / (energy[..., None] + 1e-3), jnp.log(energy + 1e-3)


def breath_spectrum(bcg_NS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Spectrum of the breathing band, [N, bins] summing to 1, and its log energy [N]."""
    centred = bcg_NS - bcg_NS.mean(-1, keepdims=True)
    power = _power(centred, jnp.asarray(_breath_matrix()))
    energy = power.sum(-1)
    return power / (energy[..., None] + 1e-3), jnp.log(energy + 1e-3)


class Autocorrelation(nn.Module):
    """Heart and breath of each window to one embedding, [N, S] -> [N, width]."""

    width: int

    @nn.compact
    def __call__(self, bcg_NS: jax.Array) -> jax.Array:
        correlation, heart_energy = autocorrelation(bcg_NS)
        breath, breath_energy = breath_spectrum(bcg_NS)
        heart_energy = 0.3 * (heart_energy - 8.0)[..., None]  # about -1..1 at rest
        x = nn.Dense(self.width)(jnp.concatenate([2.0 * correlation, heart_energy], axis=-1))
        for _ in range(2):
            x = x + nn.Conv(self.width, (3,))(nn.gelu(nn.LayerNorm()(x)))
        breath_energy = 0.1 * (breath_energy - 10.0)[..., None]
        slow = nn.gelu(
            nn.Dense(self.width)(jnp.concatenate([10.0 * breath, breath_energy], axis=-1))
        )
        return nn.Dense(self.width)(jnp.concatenate([pool(nn.gelu(x)), slow], axis=-1))


class Convolution(nn.Module):
    """Strided convolutions on the samples, [N, S] -> [N, width]: the plain alternative."""

    width: int

    @nn.compact
    def __call__(self, bcg_NS: jax.Array) -> jax.Array:
        slope = jnp.diff(
            bcg_NS, axis=-1, prepend=bcg_NS[:, :1]
        )  # brings heart to the size of breath
        x = jnp.stack([jnp.arcsinh(bcg_NS) / 3.0, jnp.arcsinh(slope)], axis=-1)
        for width, size, stride in (
            (self.width // 2, 15, 3),
            (self.width, 11, 5),
            (self.width, 7, 3),
        ):
            x = nn.gelu(nn.LayerNorm()(nn.Conv(width, (size,), strides=stride)(x)))
        x = x + nn.Conv(self.width, (5,))(x)
        return nn.Dense(self.width)(pool(nn.gelu(x)))


FRONT_ENDS = {"autocorrelation": Autocorrelation, "convolution": Convolution}
