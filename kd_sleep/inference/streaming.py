"""Staging while a night is recorded: samples in as they come, a stage out as a window ends.

    stream = student.stream(rate_hz=100.0)
    for samples in sensor:
        for window in stream.push(samples):
            print(window.start_s, window.name, window.flagged)
    last = stream.close()

For students that see the past alone (`--causal`), or no other window. A window's stage is there
`features.running_series.DELAY_S` = 5 s after its end: a tachogram lies between two beats, and the
one behind the window's last sample must have come.

Stages, probabilities and the student's own SQI are those of `StagingStudent.stage` with `causal`,
to float tolerance; the flag of a student without an SQI is by the BCG of the last minutes, where
`stage` sees the whole night's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.errors import KdSleepError, SamplesError
from kd_sleep.features.inputs import SUMMARISED, BcgWindows, median_by_window
from kd_sleep.features.running_series import RunningSeries, RunningWindow, joined
from kd_sleep.inference.staged_night import StagingError
from kd_sleep.schema import BCG_SAMPLES, WINDOW_S
from kd_sleep.signals.sqi import signal_sqi
from kd_sleep.signals.timeseries import Series
from kd_sleep.stages import STAGE_NAMES, UNSCORED

if TYPE_CHECKING:
    from kd_sleep.inference.staging import StagingStudent


@dataclasses.dataclass(frozen=True)
class StagedWindow:
    """A window that has ended.

    Attributes:
      number: from 0.
      stage: Wake 0, REM 1, Light 2, Deep 3; -1 where half of it or more is missing.
      probs: [K] calibrated; NaN without a stage.
      sqi: the student's own; NaN without one, or without a stage.
      flagged: whether the stage is not to be relied on.
    """

    number: int
    stage: int
    probs: NDArray[np.float32]
    sqi: float
    flagged: bool

    @property
    def start_s(self) -> float:
        """Seconds from the stream's first sample to the window's."""
        return self.number * WINDOW_S

    @property
    def name(self) -> str:
        """The stage in words; empty where there is none."""
        return STAGE_NAMES[self.stage] if self.stage != UNSCORED else ""


class Stream:
    """A night under way.

    Holds minutes of samples, the student's context, and some numbers of each window so far.
    """

    def __init__(self, student: StagingStudent, rate_hz: float):
        if student.after:
            raise KdSleepError(
                f"This student sees {student.after} windows of the future, which a stream does not"
                " have.",
                "Train one with --causal, or with --student=single_window.",
            )
        self._student, self._rate_hz, self._closed = student, rate_hz, False
        self._running = RunningSeries(rate_hz, samples="bcg" in student.inputs)
        self._past: list[BcgWindows] = []  # of all windows: what `summary` reads of them
        self._inputs: list[dict[str, NDArray]] = []  # of the windows that a stage depends on

    def push(self, samples: ArrayLike) -> list[StagedWindow]:
        """The windows that have ended `DELAY_S` before the last of these samples; often none.

        Args:
          samples: [n] the next ones, in any unit but always the same; NaN, infinite or masked
            where missing.

        Raises:
          StagingError: several channels, or something else than real numbers; the stream goes on.
          KdSleepError: the stream is closed.
        """
        if self._closed:
            raise KdSleepError(
                "The stream is closed.", "Begin another with student.stream(rate_hz)."
            )
        windows = self._running.push(series_of(samples, self._rate_hz))
        return list(map(self._staged, windows))

    def close(self) -> list[StagedWindow]:
        """The windows that waited for `DELAY_S`. Nothing can be pushed after."""
        if self._closed:
            return []
        self._closed = True
        return list(map(self._staged, self._running.finish()))

    def _staged(self, window: RunningWindow) -> StagedWindow:
        student = self._student
        self._inputs.append(self._inputs_of(window.own))
        self._inputs = self._inputs[-student.before - 1 :]
        logits_NK = student.network(
            {name: np.concatenate([row[name] for row in self._inputs]) for name in student.inputs}
        )
        probs_NK, sqi_N = student.judged(logits_NK[-1:], window.own)
        usable = bool(window.own.usable_N[0])
        doubtful, _ = student.doubtful(sqi_N, np.array([usable and self._reliable(window)]))
        return StagedWindow(
            number=len(self._past) - 1,
            stage=int(probs_NK[0].argmax()) if usable else UNSCORED,
            probs=(probs_NK[0] if usable else np.full_like(probs_NK[0], np.nan)).astype(np.float32),
            sqi=float(sqi_N[0]) if usable else np.nan,
            flagged=bool(doubtful[0]) and usable,
        )

    def _inputs_of(self, own: BcgWindows) -> dict[str, NDArray]:
        """A window's row [1, …] of every input; its summary is by all windows so far."""
        levels = {name: median_by_window(own.series[name])[:, None] for name in ("jj", "movement")}
        read = {name: (dict(own.series) | levels)[name] for name in SUMMARISED}
        self._past.append(BcgWindows(read, own.missing_N, own.snr_db_N))
        summaries = [name for name in self._student.inputs if name.startswith("summary_")]
        past = joined(self._past).inputs(summaries)
        others = [name for name in self._student.inputs if name not in summaries]
        return own.inputs(others) | {name: values[-1:] for name, values in past.items()}

    def _reliable(self, window: RunningWindow) -> bool:
        """Whether the signal SQI calls a window so; only asked where the student has none."""
        if self._student.kept_share is not None:
            return True
        minutes = signal_sqi(window.minutes, window.beats)
        return bool(minutes.by_window(len(window.minutes) // BCG_SAMPLES).reliable()[-1])


def series_of(samples: ArrayLike, rate_hz: float) -> Series:
    """Samples of a caller's array.

    Raises:
      StagingError: several channels, or something else than real numbers.
    """
    try:
        return Series.of(samples, rate_hz)
    except SamplesError as error:
        raise StagingError("samples", error.problem, error.remedy) from error
