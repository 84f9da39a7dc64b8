"""A BCG of one night -> a stage for each of its windows, and how far it can be relied on.

    student = kd_sleep.load_student("student.kdsleep")
    night = student.stage(bcg, rate_hz=100.0)
    night.stages, night.probs, night.flagged, night.warnings

Any rate from `schema.LOWEST_BCG_HZ` on, gain, offset and polarity will do. A window of which half
or more is missing gets no stage. What is no BCG of a sleeper is refused (`StagingError`) rather
than staged, and what is unlike the BCG that the student was trained on is staged with a warning;
`staged_night.REASONS` names both.

A student's inputs are made by the functions that made the training data's (`features.series`,
`features.inputs`, `features.bcg`). A causal student is shown a BCG as a stream would show it
(`features.running_series`), so that a stream gives the same stages. Any other sees the whole night.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from kd_sleep.features.bcg import MOST_MISSING, NoHeartbeatBand, PreparedBcg, on_windows, prepared
from kd_sleep.features.inputs import BcgWindows
from kd_sleep.features.running_series import RunningSeries, joined
from kd_sleep.features.series import bcg_series
from kd_sleep.inference.export import export_student, read_student
from kd_sleep.inference.program import Program
from kd_sleep.inference.staged_night import (
    Stager,
    Staging,
    StagingError,
    Warned,
    outside_training,
)
from kd_sleep.inference.streaming import Stream, series_of
from kd_sleep.models.kept_share import KeptShare, window_features
from kd_sleep.recordings.recording import LONGEST_S, SHORTEST_S
from kd_sleep.schema import BCG_HZ, BCG_SAMPLES, LOWEST_BCG_HZ, SERIES_HZ
from kd_sleep.signals.quality import snr_db
from kd_sleep.signals.rates import breathing_rate, heart_rate
from kd_sleep.signals.sqi import signal_sqi
from kd_sleep.signals.timeseries import Series
from kd_sleep.training.mesh import default_platform

if TYPE_CHECKING:  # flax is for students in training alone
    from kd_sleep.training.trained import Trained

# Nights are filled up to one of these numbers of windows: each is compiled once.
LENGTHS = (32, 128, 512, 1024, 1536, 2048, 2880)
FEW_HEARTBEATS = 0.25  # share of the windows with a heart rate
MOST_GAPS = 0.5  # of a night


class StagingStudent(Stager):
    """A student at use. `kd_sleep.fit_student` and `load_student` make one.

    Attributes:
      program: the network with its card.
      kept_share: its SQI; None where it has none.
      temperature: its logits over this are calibrated.
      inputs: names of what it is shown.
      causal: whether it sees the past alone.
      before, after: how many windows before and after one its stage depends on.
    """

    def __init__(self, program: Program, trained: Trained | None = None):
        super().__init__(program.card, trained)
        self.program = program
        self.kept_share = KeptShare.from_json(self.card["sqi"]) if self.card["sqi"] else None
        self.temperature = self.kept_share.temperature if self.kept_share else 1.0
        self.inputs = tuple(self.card["inputs"])
        self.causal: bool = self.card["model"]["causal"]
        self.before, self.after = self.card["reach"]["before"], self.card["reach"]["after"]

    @functools.cached_property
    def trained(self) -> Trained:
        """The network with its training; of an exported file it is made when first asked for."""
        if self._trained is None:
            from kd_sleep.inference.saved import (
                trained_student,  # flax, which staging does not need
            )

            return trained_student(self.program)
        return self._trained

    @classmethod
    def of(cls, trained: Trained) -> StagingStudent:
        """A student that was trained, or read from its work folder."""
        return cls(Program.of_trained(trained), trained)

    def stage(self, bcg: ArrayLike, rate_hz: float, *, causal: bool | None = None) -> Staging:
        """Stages a night.

        Args:
          bcg: [n] samples in any unit, of 5 minutes to 24 hours; NaN, infinite or masked where
            missing. What is left behind the last whole window gets no stage.
          rate_hz: samples per second, at least 40.
          causal: whether the BCG is prepared from the past alone, as a stream does; None does so
            for a causal student.

        Raises:
          StagingError: a BCG whose stages would be noise.
        """
        samples = _checked(bcg, rate_hz)
        windows = samples.samples_at(BCG_HZ) // BCG_SAMPLES
        uniform = on_windows(samples.without_flat(), windows)
        ready = _prepared(uniform)
        night = bcg_series(uniform, windows)
        if not len(night.beats.times_s):
            raise _no_heartbeat("no beat comes after another as a heart's do")
        ratio_db = np.where(ready.usable_N, snr_db(ready.values_NS, BCG_HZ), np.nan)
        shown = BcgWindows(night.fields(), ready.missing_N, ratio_db, ready.values_NS)
        if self.causal if causal is None else causal:
            running = RunningSeries(rate_hz, samples="bcg" in self.inputs)
            found = running.push(samples) + running.finish()
            shown = joined(window.own for window in found[:windows])
        probs, sqi = self.judged(self.network(shown.inputs(self.inputs)), shown)
        signal = signal_sqi(uniform, night.beats).by_window(windows)
        doubtful, why = self.doubtful(sqi, signal.reliable())
        heart_bpm = heart_rate(night.beats.times_s, windows)
        unlike = [
            *_unlike(samples, ready, heart_bpm),
            *outside_training(self.card, "snr_db", ratio_db, "SNR", "dB"),
        ]
        return Staging.of(
            probs,
            shown.missing_N,
            heart_bpm,
            self.card,
            doubtful=doubtful,
            flagged_by=why,
            warnings=unlike,
            sqi=sqi,
            signal_sqi=signal.score,
            amplitude=ready.heart_N,
            breaths_per_min=breathing_rate(night.breath.astype(np.float32), SERIES_HZ),
            snr_db=ratio_db,
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes the student as one .kdsleep file: see `export.export_student`."""
        export_student(Program.of_trained(self.trained), Path(path))

    def stream(self, rate_hz: float) -> Stream:
        """Stages a night while it is recorded: see `streaming.Stream`.

        Args:
          rate_hz: samples per second, at least 40.

        Raises:
          StagingError: too slow a rate; later, samples that are none.
          KdSleepError: a student that was trained to look ahead.
        """
        _check_rate(rate_hz)
        return Stream(self, rate_hz)

    def network(self, inputs: Mapping[str, NDArray]) -> NDArray[np.float64]:
        """Logits [N, K] of one night's windows, filled up to one of `LENGTHS`.

        Args:
          inputs: [N, …] by the names of `inputs`.
        """
        windows = len(next(iter(inputs.values())))
        length = next((length for length in LENGTHS if length >= windows), windows)
        filled = {}
        for name, values in inputs.items():
            filled[name] = np.zeros((1, length, *values.shape[1:]), np.float32)
            filled[name][0, :windows] = values
        valid_BL = (np.arange(length) < windows)[None]
        return self.program.call(filled, valid_BL)[0, :windows].astype(np.float64)

    def judged(
        self, logits_NK: NDArray, shown: BcgWindows
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Calibrated probabilities [N, K] and SQI [N] of the network's logits; NaN without one."""
        log_probs = log_softmax(logits_NK / self.temperature, axis=-1)
        if self.kept_share is None:
            return np.exp(log_probs), np.full(len(log_probs), np.nan)
        series = shown.series
        features = window_features(
            log_probs, series["jj"], series["beat_confidence"], shown.missing_N, shown.snr_db_N
        )
        return np.exp(log_probs), self.kept_share(features)

    def doubtful(self, sqi: NDArray, reliable: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], str]:
        """Which stages are not to be relied on, and by what.

        Args:
          sqi: [N] the student's own SQI.
          reliable: [N] windows that the signal SQI calls so.
        """
        if self.kept_share is None:
            return ~reliable, "by the BCG alone, their heartbeats are not to be relied on"
        below = self.kept_share.flag_below
        return sqi < below, f"the student's own SQI of them is below {below:.2f}"


def load_student(path: str | os.PathLike) -> StagingStudent:
    """A student from the work folder that it was trained in, or from an exported file.

    Raises:
      ExportError: nothing there, or a file that cannot be used.
      TrainingError: a folder without a trained student, or an SQI that is not its own.
      ConfigError: JAX_PLATFORMS names what is absent.
    """
    default_platform()
    if not Path(path).is_dir():
        return StagingStudent(read_student(path))
    from kd_sleep.training.trained import load_trained

    return StagingStudent.of(load_trained(path, "student"))


def _check_rate(rate_hz: float) -> None:
    if not LOWEST_BCG_HZ <= rate_hz < math.inf:
        raise StagingError(
            "rate",
            f"The BCG has {rate_hz:g} Hz; heartbeats, and the noise beside them, need"
            f" {LOWEST_BCG_HZ:g} Hz or more, a finite number.",
            "Record faster, or export the samples as they were recorded.",
        )


def _checked(bcg: ArrayLike, rate_hz: float) -> Series:
    """The samples, where they can be a night's BCG."""
    _check_rate(rate_hz)
    samples = series_of(bcg, rate_hz)
    if not SHORTEST_S <= samples.duration_s <= LONGEST_S:
        raise StagingError(
            "length",
            f"The BCG lasts {samples.duration_s / 60:.4g} minutes at {rate_hz:g} Hz.",
            "Between 5 minutes and 24 hours can be staged; is the rate right?",
        )
    if samples.missing.all():
        raise StagingError("gaps", "The BCG has no samples, only gaps.", "Look at the recording.")
    if samples.constant:
        raise StagingError("constant", "The BCG never changes.", "Check the sensor.")
    return samples


def _no_heartbeat(why: str) -> StagingError:
    return StagingError(
        "no_heartbeat",
        f"The BCG shows no heartbeat: {why}.",
        "Was the bed empty? Is this the BCG, and its rate right?",
    )


def _prepared(uniform: Series) -> PreparedBcg:
    try:
        return prepared(uniform)
    except NoHeartbeatBand as error:
        if (uniform.missing.reshape(-1, BCG_SAMPLES).mean(1) < MOST_MISSING).any():
            raise _no_heartbeat(str(error).rstrip(".")) from error
        raise StagingError(
            "gaps",
            "No window of the BCG is more than half there.",
            "Look at the recording; there is nothing to stage.",
        ) from error


def _unlike(samples: Series, ready: PreparedBcg, heart_bpm: NDArray) -> Iterator[Warned]:
    """How a recording is unlike any sleeper's BCG."""
    usable = ready.usable_N
    if not usable.mean() >= MOST_GAPS:
        yield Warned("gaps", f"{1 - usable.mean():.0%} of its windows are missing")
    share = np.isfinite(heart_bpm)[usable].mean()
    if share < FEW_HEARTBEATS:
        text = f"only {share:.0%} of the windows show a heartbeat; is there a sleeper?"
        yield Warned("few_heartbeats", text)
    first = samples[: 1 << 16]
    step = float(np.min(np.diff(np.unique(first.values[~first.missing])), initial=np.inf))
    if np.isfinite(step) and step > ready.unit:
        yield Warned(
            "coarse",
            f"a heartbeat is {ready.unit / step:.2g} of the smallest step between its numbers;"
            " are these the sensor's own units?",
        )
