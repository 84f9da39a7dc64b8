"""A BCG as a student is shown it: windows at 50 Hz in heartbeat amplitudes.

One piece of code for training and for use, and light to import: NumPy and SciPy alone.

`prepared` sees the whole night: its filters have no phase shift, and one heartbeat amplitude is the
night's median, over windows, of the RMS in the heartbeat band.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from kd_sleep.features.windows import to_windows
from kd_sleep.schema import BCG_HZ
from kd_sleep.signals.filters import bandpass, bridged, resample
from kd_sleep.signals.quality import runs_of_equals

FLAT_S = 1.0  # a BCG that does not change for this long has dropped out
HIGHPASS_HZ = 0.05  # keeps breathing, drops the mattress's creep
HEART_HZ = (2.0, 10.0)  # the band that tells a heartbeat's amplitude
LARGEST = 500.0  # in heartbeat amplitudes; larger movements saturate, and say as much
MOST_MISSING = 0.5  # of a window: with this much it tells nothing about amplitude or stage


class NoHeartbeatBand(ValueError):
    """A BCG that gives no heartbeat amplitude to measure it by."""


@dataclasses.dataclass(frozen=True)
class PreparedBcg:
    """A night's BCG, N windows.

    Attributes:
      values_NS: in heartbeat amplitudes at `BCG_HZ`; 0 where missing.
      missing_N: share of each window that is missing.
      heart_N: RMS of each window in the heartbeat band, in heartbeat amplitudes.
    """

    values_NS: NDArray[np.float64]
    missing_N: NDArray[np.float64]
    heart_N: NDArray[np.float64]

    @property
    def usable_N(self) -> NDArray[np.bool_]:
        """Windows of which more than half is there."""
        return self.missing_N < MOST_MISSING


def prepared(bcg: NDArray, windows: int) -> PreparedBcg:
    """A BCG at `BCG_HZ` as a student is shown it.

    Args:
      bcg: [n] samples in any unit; NaN where missing, and beyond its end.
      windows: how many there are, N.

    Raises:
      NoHeartbeatBand: all of it is missing, or it holds nothing between 2 and 10 Hz.
    """
    filled, missing = bridged(to_windows(bcg, BCG_HZ, windows).ravel())
    if missing.all():
        raise NoHeartbeatBand("no BCG lies within the night.")
    filled = bandpass(filled, BCG_HZ, HIGHPASS_HZ, None)
    heart_NS = bandpass(filled, BCG_HZ, *HEART_HZ).reshape(windows, -1)
    missing_N = missing.reshape(windows, -1).mean(1)
    usable = missing_N < MOST_MISSING
    rms_N = np.sqrt(np.mean(heart_NS**2, axis=1))
    unit = float(np.median(rms_N[usable])) if usable.any() else 0.0
    if unit <= 0:
        raise NoHeartbeatBand("the BCG shows no heartbeat band at all.")
    values = np.where(missing, 0.0, np.clip(filled / unit, -LARGEST, LARGEST))
    return PreparedBcg(values.reshape(windows, -1), missing_N, rms_N / unit)


def flat(values: NDArray, rate_hz: float) -> NDArray[np.bool_]:
    """Samples in a run of FLAT_S or more without any change: a dropout, or a saturated sensor."""
    _, lengths = runs_of_equals(values)
    return np.repeat(lengths >= max(2, round(FLAT_S * rate_hz)), lengths)


def at_bcg_rate(values: NDArray, rate_hz: float) -> NDArray[np.float64]:
    """A BCG at `BCG_HZ`, NaN where it is missing or flat; gaps do not grow by it.

    Args:
      values: [n] samples; NaN where missing.
      rate_hz: sampling rate.
    """
    filled, missing = bridged(np.where(flat(values, rate_hz), np.nan, values))
    out = resample(filled, rate_hz, BCG_HZ)
    if missing.any():
        place = np.arange(len(out)) * (rate_hz / BCG_HZ)
        below = place.astype(np.int64).clip(max=len(missing) - 1)
        out[missing[below] | missing[np.minimum(below + 1, len(missing) - 1)]] = np.nan
    return out
