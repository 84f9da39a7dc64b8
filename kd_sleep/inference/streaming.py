"""Staging while a night is recorded: samples in as they come, a stage out as a window ends.

    stream = student.stream(rate_hz=100.0)
    for samples in sensor:
        for window in stream.push(samples):
            print(window.start_s, window.name, window.flagged)
    stream.close()

For students that see the past alone (`--causal`), or no other window. Stages, probabilities and the
student's own SQI are those of `StagingStudent.stage` with `causal`, to float tolerance; the flag of
a student without an SQI is by the BCG of the last minutes, where `stage` sees the whole night's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.errors import KdSleepError
from kd_sleep.features.bcg import PreparedBcg, RunningBcg
from kd_sleep.schema import BCG_SAMPLES, WINDOW_S
from kd_sleep.signals.sqi import signal_sqi
from kd_sleep.stages import STAGE_NAMES, UNSCORED

if TYPE_CHECKING:
    from kd_sleep.inference.staging import StagingStudent

JUDGED_WINDOWS = 5  # of the past that the signal SQI of a window is told from
_PIECE_S = 10.0  # samples are taken in pieces, so that no two windows end in one


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
    """A night under way; holds minutes of samples and the student's context, however long it is."""

    def __init__(self, student: StagingStudent, rate_hz: float):
        if student.context_windows and not student.causal:
            raise KdSleepError(
                f"This student sees {student.context_windows} windows of the future, which a stream"
                " does not have.",
                "Train one with --causal, or with --student=single_window.",
            )
        self._student, self._rate_hz = student, rate_hz
        self._running = RunningBcg(rate_hz)
        self._seen = student.context_windows + 1  # windows that a stage depends on
        self._windows = np.zeros((0, BCG_SAMPLES))
        self._usable = np.zeros(0, bool)
        self._count = 0
        self._samples = np.empty(0)  # the last minutes, as they came
        self._first = 0  # number of the first of these

    def push(self, samples: ArrayLike) -> list[StagedWindow]:
        """The windows that have ended by these samples; often none.

        Args:
          samples: [n] the next ones, in any unit but always the same; NaN where missing.
        """
        values = np.asarray(samples, np.float64).ravel()
        size = max(1, round(_PIECE_S * self._rate_hz))
        return [
            window
            for start in range(0, len(values), size)
            for window in self._take(values[start : start + size])
        ]

    def close(self) -> list[StagedWindow]:
        """The last window, where the stream ended within 0.2 s of its end."""
        return self._staged(self._running.finish())

    def _take(self, values: NDArray) -> list[StagedWindow]:
        self._samples = np.concatenate([self._samples, values])
        kept = round((JUDGED_WINDOWS * WINDOW_S + 2 * _PIECE_S) * self._rate_hz)
        self._first += max(0, len(self._samples) - kept)
        self._samples = self._samples[-kept:]
        return self._staged(self._running.push(values))

    def _staged(self, ready: PreparedBcg) -> list[StagedWindow]:
        return [
            self._next(values, bool(usable))
            for values, usable in zip(ready.values_NS, ready.usable_N, strict=True)
        ]

    def _next(self, values: NDArray, usable: bool) -> StagedWindow:
        self._windows = np.concatenate([self._windows, values[None]])[-self._seen :]
        self._usable = np.append(self._usable, usable)[-self._seen :]
        number, self._count = self._count, self._count + 1
        probs_NK, sqi_N = self._student.run(self._windows, self._usable)
        reliable = np.array([usable and self._reliable(number)])
        doubtful, _ = self._student.doubtful(sqi_N[-1:], reliable)
        return StagedWindow(
            number=number,
            stage=int(probs_NK[-1].argmax()) if usable else UNSCORED,
            probs=probs_NK[-1],
            sqi=float(sqi_N[-1]),
            flagged=bool(doubtful[0]) and usable,
        )

    def _reliable(self, number: int) -> bool:
        """Whether the signal SQI calls a window so; only asked where the student has none."""
        if self._student.program.card["flag_below"] is not None:
            return True
        windows = min(JUDGED_WINDOWS, number + 1)
        first = round((number + 1 - windows) * WINDOW_S * self._rate_hz)
        last = round((number + 1) * WINDOW_S * self._rate_hz)
        minutes = self._samples[max(0, first - self._first) : last - self._first]
        return bool(signal_sqi(minutes, self._rate_hz).by_window(windows).reliable()[-1])
