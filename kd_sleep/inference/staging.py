"""A BCG of one night -> a stage for each of its windows, and how far it can be relied on.

    student = kd_sleep.load_student("student.kdsleep")
    night = student.stage(bcg, rate_hz=100.0)
    night.stages, night.probs, night.flagged, night.warnings

Any rate from `schema.LOWEST_BCG_HZ` on, gain, offset and polarity will do. A window of which half
or more is missing gets no stage. What is no BCG of a sleeper is refused (`StagingError`) rather
than staged, and what is unlike the BCG that the student was trained on is staged with a warning;
`REASONS` names both.

A student's inputs are made by the functions that made the training data's (`features.series`,
`features.inputs`, `features.bcg`). A causal student is shown a BCG as a stream would show it
(`features.running_series`), so that a stream gives the same stages. Any other sees the whole night.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from kd_sleep.errors import ExportError, KdSleepError, SamplesError
from kd_sleep.evaluation.sleep_measures import sleep_measures
from kd_sleep.extras import optional_packages
from kd_sleep.features.bcg import MOST_MISSING, NoHeartbeatBand, PreparedBcg, on_windows, prepared
from kd_sleep.features.inputs import student_inputs
from kd_sleep.features.running_series import RunningSeries, RunningWindow, as_record
from kd_sleep.features.series import bcg_series
from kd_sleep.inference.program import Program, load_program, pure_student, trained
from kd_sleep.models.kept_share import KeptShare, window_features
from kd_sleep.recordings.recording import LONGEST_S, SHORTEST_S
from kd_sleep.schema import BCG_HZ, BCG_SAMPLES, LOWEST_BCG_HZ, SERIES_HZ, WINDOW_S
from kd_sleep.signals.quality import snr_db
from kd_sleep.signals.rates import breathing_rate, heart_rate
from kd_sleep.signals.sqi import signal_sqi
from kd_sleep.signals.timeseries import Series
from kd_sleep.stages import STAGE_NAMES, UNSCORED

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]

    from kd_sleep.inference.streaming import Stream
    from kd_sleep.training.trained import Trained

# Nights are filled up to one of these numbers of windows: each is compiled once.
LENGTHS = (32, 128, 512, 1024, 1536, 2048, 2880)
NO_STAGE = "Unscored"
HEART_BPM = (40.0, 100.0)  # a sleeper's median; outside, the rate in Hz is more likely to be wrong
FEW_HEARTBEATS = 0.25  # share of the windows with a heart rate
MOST_GAPS = 0.5  # of a night

# Names of what may be wrong with a BCG. The first six are refused, the others are warned of.
REASONS = {
    "samples": "no array of one channel's real numbers",
    "rate": "sampled too slowly to see a heartbeat",
    "length": "shorter than 5 minutes or longer than 24 hours",
    "constant": "it never changes",
    "gaps": "nothing, or less than half of it, is there",
    "no_heartbeat": "no beat comes after another",
    "few_heartbeats": "heartbeats show in a small part of it",
    "heart_rate": "a heart rate that a sleeper hardly has",
    "coarse": "heartbeats are smaller than the steps of its numbers",
    "snr": "noise unlike that of the training data",
}


class StagingError(KdSleepError):
    """A BCG whose stages would be noise.

    Attributes:
      reason: of `REASONS`.
    """

    def __init__(self, reason: str, problem: str, remedy: str = ""):
        super().__init__(problem, remedy)
        self.reason = reason


class Warned(NamedTuple):
    """How a BCG is unlike what the student was trained on: a name of `REASONS`, and a sentence."""

    reason: str
    text: str


@dataclasses.dataclass(frozen=True, repr=False)
class Staging:
    """A staged night of N windows of 30 s, K = 4 stages.

    Attributes:
      stages: [N] int8, Wake 0, REM 1, Light 2, Deep 3, none -1 where half or more is missing.
      probs: [N, K] calibrated probabilities; NaN where there is no stage.
      sqi: [N] the student's own, in [0, 1], higher is better; NaN without a stage, or where the
        student has none.
      signal_sqi: [N] of the BCG alone (`signals.sqi`), in [0, 1].
      flagged: [N] windows whose stage is not to be relied on.
      flagged_by: what told so, as a sentence about those windows.
      missing: [N] share of each window that is missing.
      amplitude: [N] RMS between 2 and 10 Hz, in the night's heartbeats; NaN without a stage.
      heart_bpm, breaths_per_min: [N] NaN where none was found.
      snr_db: [N] power in 1-8 over power in 10-20 Hz; NaN without a stage.
      warnings: how the night is unlike the training data.
      card: of the student, as `program.Program` has it.
    """

    stages: NDArray[np.int8]
    probs: NDArray[np.float32]
    sqi: NDArray[np.float32]
    signal_sqi: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    flagged_by: str
    missing: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    heart_bpm: NDArray[np.float64]
    breaths_per_min: NDArray[np.float64]
    snr_db: NDArray[np.float64]
    warnings: tuple[Warned, ...]
    card: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.stages)

    def __repr__(self) -> str:
        shares = [f"{name} {(self.stages == k).mean():.0%}" for k, name in enumerate(STAGE_NAMES)]
        return (
            f"<Staging: {len(self)} windows, {', '.join(shares)}; {self.flagged_share:.0%} flagged,"
            f" {len(self.warnings)} warnings>"
        )

    @property
    def staged(self) -> NDArray[np.bool_]:
        """[N] windows that have a stage."""
        return self.stages != UNSCORED

    @property
    def flagged_share(self) -> float:
        """Share of the staged windows that are flagged."""
        return float(self.flagged[self.staged].mean())

    def stage_names(self) -> list[str]:
        """Each window's stage in words; `NO_STAGE` where there is none."""
        return [(*STAGE_NAMES, NO_STAGE)[stage] for stage in self.stages]

    def flags(self) -> list[str]:
        """Each window's flag in words: empty where its stage can be relied on."""
        words = np.where(self.flagged, "doubtful", np.where(self.staged, "", "missing"))
        return words.tolist()

    def columns(self) -> dict[str, Any]:
        """A table of the windows by columns, as the CSV and `to_frame` have it."""
        return {
            "start_s": np.arange(len(self)) * WINDOW_S,
            "stage": self.stage_names(),
            **{f"p_{name.lower()}": self.probs[:, k] for k, name in enumerate(STAGE_NAMES)},
            "sqi": self.sqi,
            "signal_sqi": self.signal_sqi,
            "flag": self.flags(),
            "heart_bpm": self.heart_bpm,
            "breaths_per_min": self.breaths_per_min,
            "missing": self.missing,
            "warnings": [" ".join(warned.reason for warned in self.warnings)] * len(self),
        }

    def to_frame(self) -> pandas.DataFrame:
        """`columns` as a data frame, one row a window. Needs `kd_sleep[frame]`."""
        with optional_packages():
            import pandas

        return pandas.DataFrame(self.columns())

    def said(self) -> str:
        """One sentence about how far the night can be relied on."""
        staged, flagged = int(self.staged.sum()), int((self.flagged & self.staged).sum())
        said = (
            f"{flagged} of {staged} staged windows ({self.flagged_share:.0%}) are flagged as"
            f" doubtful: {self.flagged_by}"
        )
        unstaged = len(self) - staged
        return said + (f"; {unstaged} have no stage, half or more is missing." if unstaged else ".")

    def summary(self) -> dict[str, Any]:
        """What a sleep laboratory reads off it, as plain JSON; None where a night lacks it."""
        measures = {
            name: float(value) if np.isfinite(value) else None
            for name, value in sleep_measures(self.stages).items()
        }
        return {
            "windows": len(self),
            "staged_windows": int(self.staged.sum()),
            **measures,
            "flagged_share": self.flagged_share,
            "flag": self.said(),
            "warnings": [warned._asdict() for warned in self.warnings],
            "heart_bpm": _median(self.heart_bpm),
            "breaths_per_min": _median(self.breaths_per_min),
            "snr_db": _median(self.snr_db),
            "student": {
                name: self.card.get(name) for name in ("student", "teacher", "model", "sqi")
            },
            "trained_on": self.card.get("data"),
            "trained_with": self.card.get("versions"),
        }


@dataclasses.dataclass(frozen=True)
class Shown:
    """What is known of N windows before they are staged.

    Attributes:
      series: [N, …] as a night's record has them: `features.series.RECORD_FIELDS`.
      missing_N: missing share of each.
      snr_db_N: power in 1-8 Hz over power in 10-20 Hz; NaN where half or more is missing.
      bcg_NS: samples at 50 Hz in heartbeat amplitudes, 0 where missing; None if no student asks.
    """

    series: Mapping[str, NDArray]
    missing_N: NDArray[np.float64]
    snr_db_N: NDArray[np.float64]
    bcg_NS: NDArray[np.float64] | None

    @classmethod
    def of(cls, windows: Sequence[RunningWindow]) -> Shown:
        """Of windows from a stream's first on."""
        bcg = [window.bcg for window in windows if window.bcg is not None]
        return cls(
            as_record([window.series for window in windows]),
            np.array([window.missing for window in windows]),
            np.array([window.snr_db for window in windows]),
            np.stack(bcg) if bcg else None,
        )

    @property
    def usable_N(self) -> NDArray[np.bool_]:
        """Windows of which more than half is there."""
        return self.missing_N < MOST_MISSING

    def inputs(self, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """`features.inputs.student_inputs` of them."""
        return student_inputs(names, self.series, self.missing_N, self.bcg_NS)


class StagingStudent:
    """A student at use. `kd_sleep.fit_student` and `load_student` make one.

    Attributes:
      program: the network with its card.
      trained: the network with its training; None of an exported file's.
      kept_share: its SQI; None where it has none.
      temperature: its logits over this are calibrated.
      inputs: names of what it is shown.
      causal: whether it sees the past alone.
      before, after: how many windows before and after one its stage depends on.
    """

    def __init__(self, program: Program, trained: Trained | None = None):
        card = program.card
        self.program, self.trained = program, trained
        self.kept_share = KeptShare.from_json(card["sqi"]) if card["sqi"] else None
        self.temperature = self.kept_share.temperature if self.kept_share else 1.0
        self.inputs = tuple(card["inputs"])
        self.causal: bool = card["model"]["causal"]
        self.before, self.after = card["reach"]["before"], card["reach"]["after"]

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
        ratio_db = np.where(ready.usable_N, snr_db(ready.values_NS, uniform.rate_hz), np.nan)
        shown = Shown(night.fields(), ready.missing_N, ratio_db, ready.values_NS)
        if self.causal if causal is None else causal:
            shown = _shown_running(samples, windows, "bcg" in self.inputs)
        usable = shown.usable_N
        probs, sqi = self.judged(self.network(shown.inputs(self.inputs)), shown)
        signal = signal_sqi(uniform, night.beats).by_window(windows)
        doubtful, why = self.doubtful(sqi, signal.reliable())
        heart_bpm = heart_rate(night.beats.times_s, windows)
        return Staging(
            stages=np.where(usable, probs.argmax(-1), UNSCORED).astype(np.int8),
            probs=probs,
            sqi=sqi,
            signal_sqi=signal.score,
            flagged=doubtful & usable,
            flagged_by=why,
            missing=shown.missing_N,
            amplitude=np.where(usable, ready.heart_N, np.nan),
            heart_bpm=heart_bpm,
            breaths_per_min=breathing_rate(night.breath.astype(np.float32), SERIES_HZ),
            snr_db=np.where(usable, ratio_db, np.nan),
            warnings=_unlike(self.program.card, samples, ready, heart_bpm, ratio_db),
            card=self.program.card,
        )

    @classmethod
    def of(cls, trained: Trained) -> StagingStudent:
        """A student that was trained, or read from its work folder."""
        return cls(pure_student(trained).program(), trained)

    def started(self) -> str:
        """Whether fine-tuning improved validation, in a sentence; "" of a student trained anew."""
        return self.program.card.get("start", {}).get("outcome", "")

    def save(self, path: str | os.PathLike) -> None:
        """Writes the student as one .kdsleep file: see `export.export_student`.

        Raises:
          ExportError: a student that was read from such a file.
        """
        from kd_sleep.inference.export import export_student

        if self.trained is None:
            raise ExportError(path, "this student was read from a file.", "Copy that file.")
        export_student(self.trained, Path(path))

    def stream(self, rate_hz: float) -> Stream:
        """Stages a night while it is recorded: see `streaming.Stream`.

        Args:
          rate_hz: samples per second, at least 40.

        Raises:
          StagingError: too slow a rate.
          KdSleepError: a student that was trained to look ahead.
        """
        from kd_sleep.inference.streaming import Stream

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
        self, logits_NK: NDArray, shown: Shown
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Calibrated probabilities [N, K] and SQI [N] of what the network gave.

        NaN where half or more is missing; the SQI, too, where the student has none.
        """
        usable = shown.usable_N
        log_probs = log_softmax(logits_NK / self.temperature, axis=-1)
        sqi = np.full(len(usable), np.nan)
        if self.kept_share is not None:
            features = window_features(
                log_probs,
                shown.series["jj"],
                shown.series["beat_confidence"],
                shown.missing_N,
                shown.snr_db_N,
            )
            sqi = self.kept_share(features)
        probs = np.where(usable[:, None], np.exp(log_probs), np.nan)
        return probs.astype(np.float32), np.where(usable, sqi, np.nan).astype(np.float32)

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
      TrainingError: a folder without a trained student.
    """
    if Path(path).is_dir():
        return StagingStudent.of(trained(path))
    return StagingStudent(load_program(path))


def _check_rate(rate_hz: float) -> None:
    if not rate_hz >= LOWEST_BCG_HZ:
        raise StagingError(
            "rate",
            f"The BCG has {rate_hz:g} Hz; heartbeats, and the noise beside them, need"
            f" {LOWEST_BCG_HZ:g} Hz or more.",
            "Record faster, or export the samples as they were recorded.",
        )


def series_of(samples: ArrayLike, rate_hz: float) -> Series:
    """Samples of a caller's array.

    Raises:
      StagingError: several channels, or something else than real numbers.
    """
    try:
        return Series.of(samples, rate_hz)
    except SamplesError as error:
        raise StagingError("samples", error.problem, error.remedy) from error


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


def _shown_running(samples: Series, windows: int, prepared: bool) -> Shown:
    """What a stream shows of the first N windows."""
    running = RunningSeries(samples.rate_hz, prepared=prepared)
    return Shown.of((running.push(samples) + running.finish())[:windows])


def _unlike(
    card: Mapping[str, Any],
    samples: Series,
    ready: PreparedBcg,
    heart_bpm: NDArray,
    ratio_db: NDArray,
) -> tuple[Warned, ...]:
    """What of the night is unlike the training data, or any sleeper's BCG."""
    found = []
    usable, beating = ready.usable_N, np.isfinite(heart_bpm)
    if not usable.mean() >= MOST_GAPS:
        text = f"{1 - usable.mean():.0%} of its windows are missing"
        found.append(Warned("gaps", text))
    share = beating[usable].mean()
    if share < FEW_HEARTBEATS:
        text = f"only {share:.0%} of the windows show a heartbeat; is there a sleeper?"
        found.append(Warned("few_heartbeats", text))
    rate = _median(heart_bpm)
    if rate is not None and not HEART_BPM[0] <= rate <= HEART_BPM[1]:
        text = f"the heart would beat {rate:.0f} times a minute; is the sampling rate right?"
        found.append(Warned("heart_rate", text))
    first = samples[: 1 << 16]
    step = float(np.min(np.diff(np.unique(first.values[~first.missing])), initial=np.inf))
    if np.isfinite(step) and step > ready.unit:
        text = (
            f"a heartbeat is {ready.unit / step:.2g} of the smallest step between its numbers;"
            " are these the sensor's own units?"
        )
        found.append(Warned("coarse", text))
    known, middle_db = (card.get("data") or {}).get("snr_db"), _median(ratio_db)
    if known and middle_db is not None and not known["p01"] <= middle_db <= known["p99"]:
        text = (
            f"its median SNR is {middle_db:.1f} dB; 98 % of the windows that the student was"
            f" trained on lie between {known['p01']:.1f} and {known['p99']:.1f} dB"
        )
        found.append(Warned("snr", text))
    return tuple(found)


def _median(values: NDArray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
