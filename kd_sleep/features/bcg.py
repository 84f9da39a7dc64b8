"""A BCG as a student is shown it: windows at 50 Hz in heartbeat amplitudes.

One piece of code for training and for use, and light to import: NumPy and SciPy alone.

`on_windows` brings any BCG there. `prepared` sees the whole night, as a student is trained: its
filters have no phase shift, and one heartbeat amplitude is the night's median, over windows, of the
RMS in the heartbeat band. `RunningBcg` sees the past alone.
"""

from __future__ import annotations

import bisect
import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from kd_sleep.schema import BCG_HZ, BCG_SAMPLES
from kd_sleep.signals.filters import bandpass
from kd_sleep.signals.resampling import on_grid
from kd_sleep.signals.timeseries import Series

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
      unit: one heartbeat amplitude, of the last window if it changes, in the sensor's own unit.
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


def prepared(bcg: Series) -> PreparedBcg:
    """A BCG as a student is shown it.

    Args:
      bcg: [N * BCG_SAMPLES], as `on_windows` has it.

    Raises:
      NoHeartbeatBand: all of it is missing, or it holds nothing between 2 and 10 Hz.
    """
    missing, windows = bcg.missing, len(bcg) // BCG_SAMPLES
    if missing.all():
        raise NoHeartbeatBand("no BCG lies within the night.")
    filled = bandpass(bcg.values, BCG_HZ, HIGHPASS_HZ, None)
    heart_NS = bandpass(filled, BCG_HZ, *HEART_HZ).reshape(windows, -1)
    missing_N = missing.reshape(windows, -1).mean(1)
    usable = missing_N < MOST_MISSING
    rms_N = np.sqrt(np.mean(heart_NS**2, axis=1))
    unit = float(np.median(rms_N[usable])) if usable.any() else 0.0
    if unit <= 0:
        raise NoHeartbeatBand("the BCG shows no heartbeat band at all.")
    values = np.where(missing, 0.0, np.clip(filled / unit, -LARGEST, LARGEST))
    return PreparedBcg(values.reshape(windows, -1), missing_N, rms_N / unit, unit)


class RunningBcg:
    """A BCG prepared while it is recorded: what `prepared` does, from the past alone.

    Departures from `prepared`, which a student was trained on, beside those of
    `resampling.RunningGrid`:

      - the filters run forwards alone, twice: the same gain at every frequency, another phase;
      - one heartbeat amplitude is the median over the windows finished so far, this one included.

    The windows are the same however the samples are cut into pieces.
    """

    def __init__(self) -> None:
        highpass = signal.butter(2, HIGHPASS_HZ, "highpass", fs=BCG_HZ, output="sos")
        heart = signal.butter(2, HEART_HZ, "bandpass", fs=BCG_HZ, output="sos")
        self._highpass, self._heart = (np.tile(sos, (2, 1)) for sos in (highpass, heart))
        self._highpass_state = np.zeros((len(self._highpass), 2))
        self._heart_state = np.zeros((len(self._heart), 2))
        self._rest = np.empty((3, 0))  # of a window that is not finished
        self._rms: list[float] = []  # of the usable windows so far, in order of size

    def push(self, values: NDArray, missing: NDArray[np.bool_]) -> PreparedBcg:
        """The windows that these samples finish; often none.

        Args:
          values, missing: [n] the next ones, as `RunningGrid` has them.
        """
        if len(values):
            values, self._highpass_state = signal.sosfilt(
                self._highpass, values, zi=self._highpass_state
            )
            heart, self._heart_state = signal.sosfilt(self._heart, values, zi=self._heart_state)
            self._rest = np.concatenate([self._rest, np.stack([values, heart, missing])], axis=1)
        windows = self._rest.shape[1] // BCG_SAMPLES
        whole = self._rest[:, : windows * BCG_SAMPLES].reshape(3, windows, BCG_SAMPLES)
        self._rest = self._rest[:, windows * BCG_SAMPLES :]
        return self._measured(*whole)

    def _measured(self, values_NS: NDArray, heart_NS: NDArray, missing_NS: NDArray) -> PreparedBcg:
        """Windows in heartbeat amplitudes of their own time."""
        missing_N = missing_NS.mean(1)
        rms_N = np.sqrt(np.mean(heart_NS**2, axis=1))
        unit_N = np.empty(len(rms_N))
        for number, (rms, missing) in enumerate(zip(rms_N, missing_N, strict=True)):
            if missing < MOST_MISSING and rms > 0:
                bisect.insort(self._rms, float(rms))
            middle = len(self._rms) // 2
            around = self._rms[middle - (len(self._rms) % 2 == 0) : middle + 1]
            unit_N[number] = np.mean(around) if around else np.inf
        values_NS = np.clip(values_NS / unit_N[:, None], -LARGEST, LARGEST)
        return PreparedBcg(
            np.where(missing_NS, 0.0, values_NS),
            missing_N,
            rms_N / unit_N,
            float(unit_N[-1]) if len(unit_N) else np.inf,
        )
