"""The 30-s grid: how a night's series become windows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd_sleep.schema import WINDOW_S


def to_windows(values: NDArray, rate_hz: float, windows: int) -> NDArray:
    """[windows, WINDOW_S * rate_hz] of a night's series; NaN where it is too short."""
    size = round(WINDOW_S * rate_hz)
    out = np.full(windows * size, np.nan)
    length = min(len(values), len(out))
    out[:length] = values[:length]
    return out.reshape(windows, size)


def spans(windows_NT: NDArray, span_windows: int) -> NDArray:
    """[N, span_windows * T]: each window with its neighbours; NaN beyond the night's ends.

    Args:
      windows_NT: [N, T].
      span_windows: odd number of windows in a span.
    """
    side = span_windows // 2
    padded = np.pad(windows_NT, ((side, side), (0, 0)), constant_values=np.nan)
    view = np.lib.stride_tricks.sliding_window_view(padded, span_windows, axis=0)  # [N, T, span]
    return view.swapaxes(1, 2).reshape(len(windows_NT), -1)
