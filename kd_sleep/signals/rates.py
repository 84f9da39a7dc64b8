"""Heart rate and breathing rate of each 30-s window, from beats and from the chest's movement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd_sleep.schema import WINDOW_S

INTERVAL_S = (0.3, 2.0)  # between beats; longer, and one was missed
FEWEST_INTERVALS = 8  # of a window, for a heart rate
BREATH_HZ = (0.1, 0.5)
CLEAR_BREATH = 0.5  # share of the band's power within NEAR_HZ of its peak
NEAR_HZ = 0.04


def heart_rate(times_s: NDArray, windows: int) -> NDArray[np.float64]:
    """[N] beats per minute in each window; NaN where too few follow one another.

    Args:
      times_s: [M] heartbeats, increasing.
      windows: N.
    """
    interval_s = np.diff(times_s)
    window = (times_s[1:] // WINDOW_S).astype(np.int64)
    good = (interval_s >= INTERVAL_S[0]) & (interval_s <= INTERVAL_S[1]) & (window < windows)
    interval_s, window = interval_s[good], window[good]
    in_order = interval_s[np.lexsort((interval_s, window))]
    count = np.bincount(window, minlength=windows)
    # The median: an interval across a missed beat is one among thirty.
    middle = np.cumsum(count) - count + count // 2
    enough = count >= FEWEST_INTERVALS
    return np.where(
        enough, 60.0 / np.append(in_order, np.nan)[np.where(enough, middle, -1)], np.nan
    )


def breathing_rate(chest_NT: NDArray, rate_hz: float) -> NDArray[np.float64]:
    """[N] breaths per minute: the peak of the spectrum over a minute around each window.

    NaN where no peak stands out, or half or more of the window is missing.

    Args:
      chest_NT: [N, T] chest movement, such as a BCG's `breath`; NaN where missing.
      rate_hz: its sampling rate, above 1 Hz.
    """
    missing_NT = ~np.isfinite(chest_NT)
    half = chest_NT.shape[1] // 2
    padded = np.pad(np.where(missing_NT, 0.0, chest_NT).ravel(), half)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 4 * half)[:: 2 * half]
    # Movements would drown the breath: what is far beyond the minute's middle half is cut off.
    low, high = np.percentile(frames, (25, 75), axis=1, keepdims=True)
    frames = np.clip(frames, 2.5 * low - 1.5 * high, 2.5 * high - 1.5 * low)
    frames = frames - frames.mean(1, keepdims=True)
    points = 2048
    power = np.abs(np.fft.rfft(frames * np.hanning(4 * half), points, axis=1)) ** 2
    frequency = np.fft.rfftfreq(points, 1 / rate_hz)
    band = (frequency >= BREATH_HZ[0]) & (frequency <= BREATH_HZ[1])
    power, frequency = power[:, band], frequency[band]
    peak = frequency[power.argmax(1)]
    near = np.abs(frequency - peak[:, None]) <= NEAR_HZ
    clear = (power * near).sum(1) > CLEAR_BREATH * power.sum(1)
    return np.where(clear & (missing_NT.mean(1) < 0.5), 60.0 * peak, np.nan)
