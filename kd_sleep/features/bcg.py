"""A BCG as a student is shown it: windows at 50 Hz in heartbeat amplitudes.

One piece of code for training and for use, and light to import: NumPy and SciPy alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from kd_sleep.schema import BCG_HZ, BCG_SAMPLES
from kd_sleep.signals.filters import bandpass
from kd_sleep.signals.resampling import on_grid
from kd_sleep.signals.timeseries import Series

HIGHPASS_HZ = 0.05  # keeps breathing, drops the mattress's creep
HEART_HZ = (2.0, 10.0)  # the band that defines a heartbeat's amplitude
LARGEST = 500.0  # in heartbeat amplitudes; larger movements are clipped
MOST_MISSING = 0.5  # of a window: with this much it has no amplitude and no stage


class NoHeartbeatBand(ValueError):
    """A BCG that gives no heartbeat amplitude to measure it by."""


@dataclasses.dataclass(frozen=True)
class PreparedBcg:
    """A BCG of N windows.

    Attributes:
      values_NS: in heartbeat amplitudes at `BCG_HZ`; 0 where missing.
      missing_N: share of each window that is missing.
      heart_N: RMS of each window in the heartbeat band, in heartbeat amplitudes.
      unit: one heartbeat amplitude in the sensor's own unit.
    """

    values_NS: NDArray[np.float64]
    missing_N: NDArray[np.float64]
    heart_N: NDArray[np.float64]
    unit: float

    @property
    def usable_N(self) -> NDArray[np.bool_]:
        """Windows of which more than half is there."""
        return self.missing_N < MOST_MISSING


def on_windows(bcg: Series, windows: int) -> Series:
    """A BCG at `BCG_HZ` from 0 s of its clock on, [windows * BCG_SAMPLES].

    Args:
      bcg: at any rate, on the clock that the windows are of; `Series.without_flat`.
      windows: how many there are.
    """
    return on_grid(bcg, BCG_HZ, windows * BCG_SAMPLES)


def prepared(
    bcg: Series, windows: int | None = None, earlier: NDArray[np.float64] | None = None
) -> PreparedBcg:
    """A BCG as a student is shown it.

    One heartbeat amplitude is the median, over usable windows, of the RMS in the heartbeat band.
    The filters have no phase shift.

    Args:
      bcg: [N * BCG_SAMPLES], as `on_windows` has it; of a stream, samples behind them as well.
      windows: N; None takes all of `bcg`.
      earlier: of a stream, [m] RMS in the sensor's unit of usable windows before these.

    Raises:
      NoHeartbeatBand: all of it is missing, or it holds nothing between 2 and 10 Hz.
    """
    windows = len(bcg) // BCG_SAMPLES if windows is None else windows
    missing = bcg.missing[: windows * BCG_SAMPLES]
    if missing.all():
        raise NoHeartbeatBand("no BCG lies within the night.")
    filled = bandpass(bcg.values, BCG_HZ, HIGHPASS_HZ, None)
    heart_NS = bandpass(filled, BCG_HZ, *HEART_HZ)[: len(missing)].reshape(windows, -1)
    missing_N = missing.reshape(windows, -1).mean(1)
    rms_N = np.sqrt(np.einsum("ns,ns->n", heart_NS, heart_NS) / BCG_SAMPLES)
    measured = rms_N[missing_N < MOST_MISSING]
    if earlier is not None:
        measured = np.append(earlier, measured)
    unit = float(np.median(measured)) if len(measured) else 0.0
    if unit <= 0:
        raise NoHeartbeatBand("the BCG shows no heartbeat band at all.")
    values = np.clip(filled[: len(missing)] / unit, -LARGEST, LARGEST)
    values[missing] = 0.0
    return PreparedBcg(values.reshape(windows, -1), missing_N, rms_N / unit, unit)
