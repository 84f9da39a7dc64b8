"""Building blocks of a sensor's signal: pulses at given times, coloured noise, upsampling."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import scipy.fft
from numpy.typing import NDArray

PHASES = 16  # tabulated positions of a pulse between two samples; linear interpolation in between
UPSAMPLE_TAPS = 12


def normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Standard normal float32 numbers."""
    return rng.standard_normal(shape, dtype=np.float32)


def coloured_noise(
    rng: np.random.Generator, length: int, rate_hz: float, density: Callable[[NDArray], NDArray]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray]:
    """Gaussian noise of a given power density, drawn in the frequency domain.

    Returns:
      values: [length], mean square equal to the sum of `power` in expectation.
      frequency: [bands] Hz, where the density was evaluated: it is constant within a band.
      power: [bands] the density there, 0 beyond Nyquist.
    """
    size = scipy.fft.next_fast_len(length, real=True)
    bins = size // 2 + 1
    bands = min(4096, bins)
    each = -(-bins // bands)
    frequency = (np.arange(bands, dtype=np.float32) + 0.5) * each * rate_hz / size
    power = density(frequency) * (frequency < rate_hz / 2)
    gain = np.sqrt(power)[:, None, None].astype(np.float32)
    pairs = (normal(rng, bands, each, 2) * gain).reshape(bands * each, 2)[:bins]
    spectrum = pairs.view(np.complex64)[:, 0]
    # Each bin adds |X|² 2 / size² to the mean square, and E|X|² is twice its power.
    scale = np.float32(size / math.sqrt(4.0 * each))
    return scipy.fft.irfft(spectrum, size)[:length] * scale, frequency, power


@functools.lru_cache(maxsize=16)
def _upsampler(ratio: Fraction) -> NDArray[np.float32]:
    """[taps + q - 1, p]: from q samples and their neighbours to p, by a windowed sinc."""
    p, q = ratio.numerator, ratio.denominator
    at = np.arange(p) * (q / p)
    offset = np.arange(UPSAMPLE_TAPS + q - 1)[:, None] - (UPSAMPLE_TAPS // 2 - 1) - at
    window = np.where(
        np.abs(offset) < UPSAMPLE_TAPS / 2,
        np.i0(6.0 * np.sqrt(np.maximum(1 - (2 * offset / UPSAMPLE_TAPS) ** 2, 0.0))),
        0.0,
    )
    kernel = np.sinc(offset) * window
    return (kernel / kernel.sum(0)).astype(np.float32)  # a constant stays one


def upsampled(values: NDArray, ratio: Fraction) -> NDArray:
    """[n] -> [ceil(n / q) * p] for ratio p / q: band-limited, the first sample stays the first."""
    kernel, stride = _upsampler(ratio), ratio.denominator
    blocks = -(-len(values) // stride)
    before = UPSAMPLE_TAPS // 2 - 1
    after = blocks * stride - len(values) + UPSAMPLE_TAPS - 1 - before
    padded = np.pad(values, (before, after), mode="edge")
    near = [padded[k : k + (blocks - 1) * stride + 1 : stride] for k in range(len(kernel))]
    return np.matmul(np.stack(near).T, kernel).reshape(-1)


def pulse_clock(before_s: float, after_s: float, rate_hz: float) -> tuple[int, NDArray[np.float32]]:
    """Samples before a pulse's origin; [PHASES + 1, L] times from it in seconds."""
    before = math.ceil(before_s * rate_hz)
    sample = np.arange(before + math.ceil(after_s * rate_hz) + 1) - before
    phase = np.arange(PHASES + 1) / PHASES
    return before, ((sample - phase[:, None]) / rate_hz).astype(np.float32)


def sum_of_pulses(
    size: int,
    sample: NDArray[np.int32],
    fraction: NDArray,
    heights: NDArray,
    kind: NDArray,
    tables: NDArray,
) -> NDArray[np.float32]:
    """Sum of pulses of given kinds at given times.

    Args:
      size: number of samples.
      sample: [M] whole samples at which the pulses' tables begin.
      fraction: [M] in [0, 1), the rest of a sample.
      heights: [M].
      kind: [M] int, row of `tables`.
      tables: [K, PHASES + 1, L]: each pulse at the times of `pulse_clock`.

    Returns:
      [size]; what lies outside is left out.
    """
    length = tables.shape[-1]
    scaled = fraction * PHASES
    phase = np.clip(np.floor(scaled), 0, PHASES - 1).astype(np.int32)
    part = (scaled - phase)[:, None]
    rows = tables.reshape(-1, length)
    first = kind * (PHASES + 1) + phase
    values = rows[first] * (heights[:, None] * (1.0 - part))
    values += rows[first + 1] * (heights[:, None] * part)
    # Pulses that start too early or too late land in a margin that is dropped.
    start = np.clip(sample, -length, size) + length
    index = start[:, None] + np.arange(length, dtype=np.int32)
    total = np.bincount(index.ravel(), values.ravel(), size + 2 * length)
    return total.astype(np.float32)[length : length + size]
