"""The series of a BCG while it is recorded: what `features.series` does, from the past alone.

A window's series come from the minutes up to `DELAY_S` behind its end: its last tachogram samples
lie between two beats, and the second of them comes later. No sample after that plays a part.

Departures from `bcg_series` on the whole night, beside those of `RunningGrid`:

  - beats are looked for in the last `HELD_WINDOWS` windows, not in the night;
  - movement and breath depth are relative to the level of the first window that has one, which
    shifts them by a constant for the whole stream (networks subtract references);
  - `jj_hrv` is over the 5.5 min that end with the window, where the record of a night has the HRV
    of the 5.5 min around it: `as_record` moves one to the place of the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kd_sleep.features.bcg import MOST_MISSING, RunningBcg
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
      series: its row of `series.RECORD_FIELDS`, but `jj_hrv` over the 5.5 min that end with it.
      missing: share of it that is missing.
      snr_db: power in 1-8 Hz over power in 10-20 Hz, in dB; NaN where half or more is missing.
      minutes: at `BCG_HZ`, the windows held, this one the last, in the sensor's unit relative to
        the first sample of all.
      beats: J peaks in `minutes`, and up to `DELAY_S` behind them.
      bcg: [S] samples in heartbeat amplitudes, as `RunningBcg` has them; None if not asked for.
    """

    series: dict[str, NDArray]
    missing: float
    snr_db: float
    minutes: Series
    beats: Beats
    bcg: NDArray[np.float64] | None


class RunningSeries:
    """Samples of a BCG in, windows' series out, however the samples are cut into pieces."""

    def __init__(self, rate_hz: float, *, prepared: bool = False):
        """A stream that begins.

        Args:
          rate_hz: samples per second.
          prepared: whether the windows need `bcg`.
        """
        self._rate = RunningGrid(rate_hz, BCG_HZ)
        self._prepared = RunningBcg() if prepared else None
        self._bcg_NS = np.empty((0, BCG_SAMPLES))  # of windows that wait for DELAY_S
        self._samples, self._missing = np.empty(0), np.empty(0, bool)  # from the first held on
        self._held = 0  # windows before the next one
        self._unit: float | None = None

    def push(self, samples: Series) -> list[RunningWindow]:
        """The windows that are finished by these samples; often none.

        Args:
          samples: [n] the next ones, in any unit but always the same.
        """
        return self._windows(*self._rate.push(samples))

    def finish(self) -> list[RunningWindow]:
        """The windows that only waited for `DELAY_S` and what a change of rate looks ahead."""
        values, missing = self._rate.finish()
        return self._windows(
            np.append(values, np.zeros(_AHEAD)), np.append(missing, [True] * _AHEAD)
        )

    def _windows(self, values: NDArray, missing: NDArray[np.bool_]) -> list[RunningWindow]:
        self._samples = np.append(self._samples, values)
        self._missing = np.append(self._missing, missing)
        if self._prepared:
            ready = self._prepared.push(values, missing)
            self._bcg_NS = np.concatenate([self._bcg_NS, ready.values_NS])
        finished = []
        while len(self._samples) >= (end := (self._held + 1) * BCG_SAMPLES) + _AHEAD:
            finished.append(self._window(end))
            self._bcg_NS = self._bcg_NS[1:]
            if self._held + 1 < HELD_WINDOWS:
                self._held += 1
            else:
                self._samples = self._samples[BCG_SAMPLES:]
                self._missing = self._missing[BCG_SAMPLES:]
        # Lets go of what lies before.
        self._samples, self._missing = self._samples.copy(), self._missing.copy()
        return finished

    def _window(self, end: int) -> RunningWindow:
        """The window that ends before sample `end` of those held."""
        windows = self._held + 1
        missing = self._missing[: end + _AHEAD]
        minutes = Series.of(self._samples[: end + _AHEAD], BCG_HZ, missing)
        series = bcg_series(minutes, windows, self._unit)
        self._unit = series.unit or None
        row = {name: values[-1] for name, values in series.fields().items()}
        hrv_NF = np.pad(series.jj_hrv, ((_LATE, 0), (0, 0)), constant_values=np.nan)
        own, missing = self._samples[end - BCG_SAMPLES : end], missing[end - BCG_SAMPLES : end]
        usable = missing.mean() < MOST_MISSING
        centred = np.where(missing, 0.0, own - np.median(own[~missing])) if usable else own
        return RunningWindow(
            series=row | {"jj_hrv": hrv_NF[windows - 1]},
            missing=float(missing.mean()),
            snr_db=float(snr_db(centred[None], BCG_HZ)[0]) if usable else np.nan,
            minutes=minutes[:end],
            beats=series.beats,
            bcg=self._bcg_NS[0] if self._prepared else None,
        )


def as_record(rows: Sequence[Mapping[str, NDArray]]) -> dict[str, NDArray]:
    """The `series` of windows from the first on, [N, …] each, as a night's record has them.

    The HRV of the 5.5 min that end with a window is put to the window in their middle, where
    `features.inputs.summary` with the scope `past` takes it from; the last five windows have none.
    """
    series = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    trailing = series["jj_hrv"]
    hrv = np.full_like(trailing, np.nan)
    hrv[: max(len(rows) - _LATE, 0)] = trailing[_LATE:]
    return series | {"jj_hrv": hrv}
