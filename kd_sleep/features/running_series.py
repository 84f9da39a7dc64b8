"""The series of a BCG while it is recorded: `features.series` and `features.bcg` of the past alone.

A window's series come from the minutes up to `DELAY_S` behind its end: its last tachogram samples
lie between two beats, and the second of them comes later. No sample after that plays a part.

Departures from `bcg_series` and `prepared` on the whole night, beside those of `RunningGrid`:

  - beats are looked for, and filters run, in the last `HELD_WINDOWS` windows, not in the night;
  - movement and breath depth are relative to the level of the first window that has one, which
    shifts them by a constant for the whole stream (networks subtract references);
  - one heartbeat amplitude is the median over the windows so far, this one included;
  - `jj_hrv` is over the 5.5 min that end with the window, where a night's record has the HRV of the
    5.5 min around it: `joined` moves one to the place of the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kd_sleep.features.bcg import MOST_MISSING, NoHeartbeatBand, prepared
from kd_sleep.features.inputs import BcgWindows
from kd_sleep.features.rr import HRV_SPAN_WINDOWS
from kd_sleep.features.series import bcg_series
from kd_sleep.schema import BCG_HZ, BCG_SAMPLES
from kd_sleep.signals.j_peaks import Beats
from kd_sleep.signals.quality import snr_db
from kd_sleep.signals.resampling import RunningGrid
from kd_sleep.signals.timeseries import Series

DELAY_S = 5.0  # a window's series are there this long after its end
HELD_WINDOWS = HRV_SPAN_WINDOWS + 1  # 6 min; HRV needs the beats of 5.5 min
_LATE = HRV_SPAN_WINDOWS // 2  # windows between the middle of that span and its last
_AHEAD = round(DELAY_S * BCG_HZ)


@dataclasses.dataclass(frozen=True)
class RunningWindow:
    """A window that has ended.

    Attributes:
      own: this window alone, N = 1; its `jj_hrv` is over the 5.5 min that end with it.
      minutes: at `BCG_HZ`, the windows held, this one the last, in the sensor's unit relative to
        the first sample of all.
      beats: J peaks in `minutes`, and up to `DELAY_S` behind them.
    """

    own: BcgWindows
    minutes: Series
    beats: Beats


class RunningSeries:
    """Samples of a BCG in, windows out, however the samples are split into pieces."""

    def __init__(self, rate_hz: float, *, samples: bool = False):
        """A stream that begins.

        Args:
          rate_hz: samples per second.
          samples: whether the windows need `bcg_NS`.
        """
        self._grid = RunningGrid(rate_hz, BCG_HZ)
        self._with_samples = samples
        self._values, self._missing = np.empty(0), np.empty(0, bool)  # from the first held on
        self._held = 0  # windows before the next one
        self._level: float | None = None  # of movement and breath depth
        self._rms: list[float] = []  # of all windows, in the heartbeat band; NaN if unusable

    def push(self, samples: Series) -> list[RunningWindow]:
        """The windows that are finished by these samples; often none.

        Args:
          samples: [n] the next ones, in any unit but always the same.
        """
        return self._windows(*self._grid.push(samples))

    def finish(self) -> list[RunningWindow]:
        """The windows that only waited for `DELAY_S` and what a change of rate looks ahead."""
        values, missing = self._grid.finish()
        return self._windows(
            np.append(values, np.zeros(_AHEAD)), np.append(missing, [True] * _AHEAD)
        )

    def _windows(self, values: NDArray, missing: NDArray[np.bool_]) -> list[RunningWindow]:
        self._values = np.append(self._values, values)
        self._missing = np.append(self._missing, missing)
        finished = []
        while len(self._values) >= (end := (self._held + 1) * BCG_SAMPLES) + _AHEAD:
            finished.append(self._window(end))
            if self._held + 1 < HELD_WINDOWS:
                self._held += 1
            else:
                self._values = self._values[BCG_SAMPLES:]
                self._missing = self._missing[BCG_SAMPLES:]
        # A copy, since a view would keep the samples before it in memory.
        self._values, self._missing = self._values.copy(), self._missing.copy()
        return finished

    def _window(self, end: int) -> RunningWindow:
        """The window that ends before sample `end` of those held."""
        windows = self._held + 1
        missing = self._missing[: end + _AHEAD]
        minutes = Series.of(self._values[: end + _AHEAD], BCG_HZ, missing)
        night = bcg_series(minutes, windows, self._level)
        self._level = night.unit or None
        series = {name: values[-1:] for name, values in night.fields().items()}
        hrv_NF = np.pad(night.jj_hrv, ((_LATE, 0), (0, 0)), constant_values=np.nan)
        series["jj_hrv"] = hrv_NF[windows - 1 : windows]
        own, gone = self._values[end - BCG_SAMPLES : end], missing[end - BCG_SAMPLES : end]
        share, ratio_db = gone.mean(), np.nan
        if share < MOST_MISSING:
            centred = np.where(gone, 0.0, own - np.median(own[~gone]))
            ratio_db = snr_db(centred[None], BCG_HZ)[0]
        samples = self._samples(minutes, windows) if self._with_samples else None
        shown = BcgWindows(series, np.array([share]), np.array([ratio_db]), samples)
        return RunningWindow(shown, minutes[:end], night.beats)

    def _samples(self, minutes: Series, windows: int) -> NDArray[np.float64]:
        """[1, S] the last window in heartbeat amplitudes."""
        earlier = np.array(self._rms[: len(self._rms) - self._held])
        self._rms.append(np.nan)
        try:
            ready = prepared(minutes, windows, earlier[np.isfinite(earlier)])
        except NoHeartbeatBand:
            return np.zeros((1, BCG_SAMPLES))
        if ready.usable_N[-1]:
            self._rms[-1] = float(ready.heart_N[-1] * ready.unit)
        return ready.values_NS[-1:]


def joined(windows: Iterable[BcgWindows]) -> BcgWindows:
    """Windows from the first on, with their series as a night's record has them.

    The HRV of the 5.5 min that end with a window is put to the window in their middle, where
    `features.inputs.summary` with the scope `past` takes it from; the last five windows have none.
    """
    parts = list(windows)
    series = {
        name: np.concatenate([part.series[name] for part in parts]) for name in parts[0].series
    }
    trailing = series["jj_hrv"]
    series["jj_hrv"] = np.full_like(trailing, np.nan)
    series["jj_hrv"][: max(len(parts) - _LATE, 0)] = trailing[_LATE:]
    samples = [part.bcg_NS for part in parts if part.bcg_NS is not None]
    return BcgWindows(
        series,
        np.concatenate([part.missing_N for part in parts]),
        np.concatenate([part.snr_db_N for part in parts]),
        np.concatenate(samples) if samples else None,
    )
