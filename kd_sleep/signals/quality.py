"""How good a BCG window is, from the signal alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import signal


def snr_db(windows_NS: NDArray, rate_hz: float) -> NDArray[np.float64]:
    """10 log10(P[1-8 Hz] / P[10-20 Hz]) per window; 8-10 Hz is left out.

    By Welch's method with 4-s Hann segments. Powers are means over each band's frequencies, so
    white noise gives 0 dB.

    Args:
      windows_NS: [N, S] samples, each window at least 4 s.
      rate_hz: sampling rate, above 40 Hz.

    Returns:
      [N] dB; NaN for a constant window.
    """
    frequency, power = signal.welch(windows_NS, rate_hz, nperseg=round(4 * rate_hz), axis=-1)
    heart = power[:, (frequency >= 1.0) & (frequency <= 8.0)].mean(-1)
    noise = power[:, (frequency >= 10.0) & (frequency <= 20.0)].mean(-1)
    tiny = 1e-12 * (power.max(initial=0.0) + 1e-30)
    ratio = np.divide(heart, noise, out=np.full(len(heart), np.nan), where=noise > tiny)
    return 10.0 * np.log10(ratio)
