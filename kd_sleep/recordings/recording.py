"""A night as it was recorded: signals in physical units, beats, and one stage per 30-s window."""

from __future__ import annotations

import dataclasses
import datetime
import functools

import numpy as np
from numpy.typing import NDArray

from kd_sleep.signals.timeseries import Series

SHORTEST_S, LONGEST_S = 300.0, 24 * 3600.0  # of a BCG: one segment of its clock's alignment; a day


@dataclasses.dataclass(frozen=True)
class Signal:
    """One uniformly sampled channel.

    Attributes:
      values: float32 [n], in `unit`; NaN where the file has a gap.
      rate_hz: samples per second, from the file's header; need not be a whole number.
      unit: as the file spells it; blank where the file says none.
      label: the channel's name as the file spells it.
    """

    values: NDArray[np.float32]
    rate_hz: float
    unit: str
    label: str

    @functools.cached_property
    def series(self) -> Series:
        """The samples with their gaps, as signal processing takes them."""
        return Series.of(self.values, self.rate_hz)


@dataclasses.dataclass(frozen=True)
class RPoints:
    """Heartbeats that somebody already detected and typed.

    Attributes:
      times_s: float64 [M], seconds since the recording's start, strictly increasing.
      normal: bool [M], True for a normal sinus beat; False for an artifact or an ectopic beat.
    """

    times_s: NDArray[np.float64]
    normal: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Recording:
    """One subject's one night.

    Attributes:
      recording_id: file stem of the night, such as `shhs1-200001`.
      subject_id: one per person; both visits share it.
      visit: 1 or 2.
      cohort: `recorded`, or the simulator that made the files, such as `kd_sleep simulator 1.1`.
      start: local wall clock at the first sample; None where the header's date or time is unusable.
      duration_s: length of the signals in seconds.
      ecg: one lead; None where the night was read from R points alone.
      effort: breathing effort of thorax and abdomen, in this order; empty where not recorded.
      labels: int8 [N], the class of each whole 30-s window; `stages.UNSCORED` where nobody scored.
      rpoints: None where the night has no R-point file.
    """

    recording_id: str
    subject_id: str
    visit: int
    cohort: str
    start: datetime.datetime | None
    duration_s: float
    ecg: Signal | None
    effort: tuple[Signal, ...]
    labels: NDArray[np.int8]
    rpoints: RPoints | None
