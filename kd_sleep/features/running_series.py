"""The series of a BCG while it is recorded: what `features.series` does, from the past alone.

A window's series come from the minutes up to `DELAY_S` behind its end: its last tachogram samples
lie between two beats, and the second of them comes later. Before that no sample plays a part.

Departures from `bcg_series` on the whole night, beside those of `RunningRate`:

  - beats are looked for in the last `HELD_WINDOWS` windows, not in the night;
  - movement and breath depth are relative to the level of the first window that has one, which
    shifts them by a constant for the whole stream (networks subtract references);
  - `jj_hrv` is over the 5.5 min that end with the window, where the record of a night has the HRV
    of the 5.5 min around it: `as_record` moves one to the place of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kd_sleep.features.bcg import RunningRate
from kd_sleep.features.rr import HRV_SPAN_WINDOWS
from kd_sleep.features.series import RECORD_FIELDS, bcg_series
from kd_sleep.schema import BCG_HZ, BCG_SAMPLES

DELAY_S = 5.0  # a window's series are there this long after its end
HELD_WINDOWS = HRV_SPAN_WINDOWS + 1  # 6 min; HRV needs the beats of 5.5 min
_AHEAD = round(DELAY_S * BCG_HZ)

Row = dict[str, NDArray]  # of one window: see `RunningSeries`


class RunningSeries:
    """Samples of a BCG in, windows' series out.

    The rows are the same however the samples are cut into pieces. A row has `series.RECORD_FIELDS`
    of one window, and `missing`, its missing share, and `bcg` [S], its samples at `BCG_HZ` in the
    sensor's unit relative to the first sample of all, NaN where missing.
    """

    def __init__(self, rate_hz: float):
        self._rate = RunningRate(rate_hz)
        self._samples = np.empty(0)  # at BCG_HZ, from the first window held on; NaN where missing
        self._held = 0  # windows before the next one
        self._unit: float | None = None

    def push(self, samples: NDArray) -> list[Row]:
        """The windows that are finished by these samples; often none.

        Args:
          samples: [n] the next ones, in any unit but always the same; NaN where missing.
        """
        return self._rows(*self._rate.push(samples))

    def finish(self) -> list[Row]:
        """The windows that only waited for `DELAY_S` and what a change of rate looks ahead."""
        values, missing = self._rate.finish()
        nothing = np.zeros(_AHEAD)
        return self._rows(np.append(values, nothing), np.append(missing, nothing == 0))

    def _rows(self, values: NDArray, missing: NDArray[np.bool_]) -> list[Row]:
        self._samples = np.append(self._samples, np.where(missing, np.nan, values))
        rows = []
        while len(self._samples) >= (end := (self._held + 1) * BCG_SAMPLES) + _AHEAD:
            rows.append(self._row(self._samples[:end], self._samples[end : end + _AHEAD]))
            if self._held + 1 < HELD_WINDOWS:
                self._held += 1
            else:
                self._samples = self._samples[BCG_SAMPLES:]
        return rows

    def _row(self, samples: NDArray, ahead: NDArray) -> Row:
        windows = self._held + 1
        series = bcg_series(samples, windows, self._unit, ahead)
        self._unit = series.unit or None
        row = {name: values[-1] for name, values in series.fields().items()}
        centred = windows - 1 - HRV_SPAN_WINDOWS // 2
        row["jj_hrv"] = (
            series.jj_hrv[centred] if centred >= 0 else np.full_like(row["jj_hrv"], np.nan)
        )
        own = samples[-BCG_SAMPLES:]
        return row | {"missing": np.isnan(own).mean(), "bcg": own}


def as_record(rows: Sequence[Mapping[str, NDArray]]) -> dict[str, NDArray]:
    """The fields of rows, [N, …] each, as a night's record has them.

    The HRV of the 5.5 min that end with a window is put to the window in their middle; the last
    five windows have none. `features.inputs.summary` with the scope `past` takes it from there.
    """
    series = {name: np.stack([row[name] for row in rows]) for name in RECORD_FIELDS}
    late = HRV_SPAN_WINDOWS // 2
    hrv = np.full_like(series["jj_hrv"], np.nan)
    hrv[: max(len(rows) - late, 0)] = series["jj_hrv"][late:]
    return series | {"jj_hrv": hrv}
