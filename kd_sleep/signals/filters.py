"""Zero-phase filters that the rest of the package shares. NumPy and SciPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal


def bandpass(
    values: NDArray, rate_hz: float, low_hz: float | None, high_hz: float | None, order: int = 2
) -> NDArray[np.float64]:
    """Butterworth filter run forwards and backwards: no phase shift, twice the order.

    Args:
      values: [n] samples, finite.
      rate_hz: sampling rate.
      low_hz: lower edge, None for a low-pass.
      high_hz: upper edge, None for a high-pass; an edge at or beyond Nyquist is none, too.
      order: order of one run.

    Raises:
      ValueError: where no edge is left.
    """
    if high_hz is not None and high_hz >= 0.5 * rate_hz:
        high_hz = None
    if low_hz is None and high_hz is None:
        raise ValueError(f"no edge below Nyquist ({0.5 * rate_hz} Hz)")
    if low_hz is None:
        sos = signal.butter(order, high_hz, "lowpass", fs=rate_hz, output="sos")
    elif high_hz is None:
        sos = signal.butter(order, low_hz, "highpass", fs=rate_hz, output="sos")
    else:
        sos = signal.butter(order, [low_hz, high_hz], "bandpass", fs=rate_hz, output="sos")
    pad = min(len(values) - 1, int(3 * rate_hz / (low_hz or high_hz or 1.0)))
    return signal.sosfiltfilt(sos, values, padlen=max(pad, 0))


def moving_sd(values: NDArray, rate_hz: float, seconds: float) -> NDArray[np.float64]:
    """Root mean square about the moving mean, over `seconds` around each sample."""
    size = max(1, round(seconds * rate_hz))
    mean = ndimage.uniform_filter1d(np.asarray(values, np.float64), size, mode="nearest")
    square = ndimage.uniform_filter1d(np.asarray(values, np.float64) ** 2, size, mode="nearest")
    return np.sqrt(np.maximum(square - mean**2, 0.0))


def parabola(left: NDArray, middle: NDArray, right: NDArray) -> tuple[NDArray, NDArray]:
    """Place, within half a sample of the middle one, and height of a parabola's maximum."""
    curvature = left - 2 * middle + right
    shift = np.divide(
        0.5 * (left - right), curvature, out=np.zeros_like(middle), where=curvature < 0
    ).clip(-0.5, 0.5)
    return shift, middle - 0.25 * (left - right) * shift
