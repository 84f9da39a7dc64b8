"""A BCG of one night -> a stage for each of its windows, and how far it can be relied on.

    student = kd_sleep.load_student("student.kdsleep")
    night = student.stage(bcg, rate_hz=100.0)
    night.stages, night.probs, night.flagged, night.warnings

Any rate from 40 Hz, gain, offset and polarity will do. A window of which half or more is missing
gets no stage. What is no BCG of a sleeper is refused (`StagingError`) rather than staged, and what
is unlike the BCG that the student was trained on is staged with a warning; `REASONS` names both.

A causal student is shown a BCG as a stream would show it (`features.bcg.RunningBcg`), so that a
stream gives the same stages. Any other sees the whole night, as in training.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.errors import KdSleepError
from kd_sleep.evaluation.sleep_measures import sleep_measures
from kd_sleep.features import bcg as bcg_features
from kd_sleep.features.bcg import MOST_MISSING, NoHeartbeatBand, PreparedBcg, RunningBcg
from kd_sleep.features.windows import to_windows
from kd_sleep.inference.program import Program, load_program
from kd_sleep.recordings.paired_bcg import LONGEST_S, SHORTEST_S
from kd_sleep.schema import BCG_HZ, BCG_SAMPLES, WINDOW_S
from kd_sleep.signals.j_peaks import Beats, j_peaks
from kd_sleep.signals.quality import snr_db
from kd_sleep.signals.sqi import MIN_RATE_HZ, signal_sqi
from kd_sleep.stages import STAGE_NAMES, UNSCORED

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]

    from kd_sleep.inference.streaming import Stream

# Nights are filled up to one of these numbers of windows: each is compiled once.
LENGTHS = (32, 128, 512, 1024, 1536, 2048, 2880)
NO_STAGE = "Unscored"
HEART_BPM = (40.0, 100.0)  # a sleeper's median; outside, the rate in Hz is more likely to be wrong
FEW_HEARTBEATS = 0.25  # share of the windows with a heart rate
MOST_GAPS = 0.5  # of a night
PIECE_WINDOWS = 40  # 20 minutes and more: in noise of any colour, none shows a heartbeat
INTERVAL_S = (0.3, 2.0)  # between beats; longer, and one was missed
FEWEST_INTERVALS = 8  # of a window, for a heart rate
BREATH_HZ = (0.1, 0.5)
SLOW_HZ = 5.0  # breathing is looked for at this rate, in a window and half a window around
CLEAR_BREATH = 0.5  # share of the band's power within NEAR_HZ of its peak
NEAR_HZ = 0.04

# Names of what may be wrong with a BCG. The first five are refused, the others are warned of.
REASONS = {
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


@dataclasses.dataclass(frozen=True)
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
        """`columns` as a data frame, one row a window. Needs pandas."""
        try:
            import pandas
        except ImportError as error:
            raise KdSleepError(
                "to_frame needs pandas, which is not installed.",
                "`pip install pandas`, or take `columns()`.",
            ) from error
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
                name: self.card.get(name)
                for name in ("student", "teacher", "model", "temperature", "flag_below", "weights")
            },
            "trained_on": self.card.get("data"),
            "trained_with": self.card.get("versions"),
        }


class StagingStudent:
    """A student at use. `load_student` makes one.

    Attributes:
      program: the network with its SQI and card.
      causal: whether it sees the past alone.
      context_windows: how many windows it sees at each side, or of the past.
    """

    def __init__(self, program: Program):
        self.program = program
        model = program.card["model"]
        self.causal: bool = model["causal"]
        self.context_windows: int = model["context_windows"]

    def stage(self, bcg: ArrayLike, rate_hz: float, *, causal: bool | None = None) -> Staging:
        """Stages a night.

        Args:
          bcg: [n] samples in any unit, of 5 minutes to 24 hours; NaN where missing. What is left
            behind the last whole window gets no stage.
          rate_hz: samples per second, at least 40.
          causal: whether the BCG is prepared from the past alone, as a stream does; None does so
            for a causal student.

        Raises:
          StagingError: a BCG whose stages would be noise.
        """
        samples = _checked(bcg, rate_hz)
        windows = int(len(samples) / rate_hz / WINDOW_S + 1e-9)
        uniform = bcg_features.at_bcg_rate(samples, rate_hz)
        running = self.causal if causal is None else causal
        ready = (
            _prepared_running(samples, rate_hz, windows) if running else _prepared(uniform, windows)
        )
        usable = ready.usable_N
        if not usable.any():
            raise _no_window()
        beats = _beats(uniform, usable)
        if not len(beats.times_s):
            raise _no_heartbeat("no beat comes after another as a heart's do")
        signal = signal_sqi(uniform, BCG_HZ, beats).by_window(windows)
        probs, sqi = self.run(ready.values_NS, usable)
        heart_bpm = heart_rate(beats.times_s, windows)
        ratio_db = np.where(usable, snr_db(ready.values_NS, BCG_HZ), np.nan)
        doubtful, why = self.doubtful(sqi, signal.reliable())
        return Staging(
            stages=np.where(usable, probs.argmax(-1), UNSCORED).astype(np.int8),
            probs=probs,
            sqi=sqi,
            signal_sqi=signal.score,
            flagged=doubtful & usable,
            flagged_by=why,
            missing=ready.missing_N,
            amplitude=np.where(usable, ready.heart_N, np.nan),
            heart_bpm=heart_bpm,
            breaths_per_min=breathing_rate(ready.values_NS, usable),
            snr_db=ratio_db,
            warnings=_unlike(self.program.card, samples, ready, heart_bpm, ratio_db),
            card=self.program.card,
        )

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

    def run(
        self, values_NS: NDArray, usable: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The network on windows of one night, filled up to one of `LENGTHS`.

        Args:
          values_NS: in heartbeat amplitudes at 50 Hz, 0 where missing.
          usable: [N] windows that get a stage.

        Returns:
          Calibrated probabilities [N, K] and SQI [N]; NaN where `usable` is False.
        """
        windows = len(values_NS)
        length = next((length for length in LENGTHS if length >= windows), windows)
        bcg_BLS = np.zeros((1, length, BCG_SAMPLES), np.float32)
        bcg_BLS[0, :windows] = values_NS
        valid_BL = np.zeros((1, length), np.float32)
        valid_BL[0, :windows] = 1.0
        logits_BLK, sqi_BL = self.program.call(bcg_BLS, valid_BL)
        logits = logits_BLK[0, :windows] / np.float32(self.program.card["temperature"])
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        probs[~usable] = np.nan
        return probs, np.where(usable, sqi_BL[0, :windows], np.float32(np.nan))

    def doubtful(self, sqi: NDArray, reliable: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], str]:
        """Which stages are not to be relied on, and what tells so.

        Args:
          sqi: [N] the student's own SQI.
          reliable: [N] windows that the signal SQI calls so.
        """
        below = self.program.card["flag_below"]
        if below is None:
            return ~reliable, "by the BCG alone, their heartbeats are not to be relied on"
        return sqi < below, f"the student's own SQI of them is below {below:.2f}"


def load_student(path: str | os.PathLike) -> StagingStudent:
    """A student from the work folder that it was trained in, or from an exported file.

    Raises:
      ExportError: nothing there, or a file that cannot be used.
      TrainingError: a folder without a trained student.
    """
    return StagingStudent(load_program(path))


def _check_rate(rate_hz: float) -> None:
    if not rate_hz >= MIN_RATE_HZ:
        raise StagingError(
            "rate",
            f"The BCG has {rate_hz:g} Hz; heartbeats, and the noise beside them, need"
            f" {MIN_RATE_HZ:g} Hz or more.",
            "Record faster, or export the samples as they were recorded.",
        )


def _checked(bcg: ArrayLike, rate_hz: float) -> NDArray[np.float64]:
    """The samples as numbers, where they can be a night's BCG."""
    _check_rate(rate_hz)
    samples = np.asarray(bcg, np.float64)
    if samples.ndim != 1:
        raise StagingError(
            "length", f"Expected one channel [n], got an array {list(samples.shape)}."
        )
    seconds = len(samples) / rate_hz
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise StagingError(
            "length",
            f"The BCG lasts {seconds / 60:.4g} minutes at {rate_hz:g} Hz.",
            "Between 5 minutes and 24 hours can be staged; is the rate right?",
        )
    there = np.isfinite(samples)
    if not there.any():
        raise StagingError("gaps", "The BCG has no samples, only gaps.", "Look at the recording.")
    if np.ptp(samples[there]) == 0:
        raise StagingError("constant", "The BCG never changes.", "Check the sensor.")
    return np.where(there, samples, np.nan)


def _no_heartbeat(why: str) -> StagingError:
    return StagingError(
        "no_heartbeat",
        f"The BCG shows no heartbeat: {why}.",
        "Was the bed empty? Is this the BCG, and its rate right?",
    )


def _no_window() -> StagingError:
    return StagingError(
        "gaps",
        "No window of the BCG is more than half there.",
        "Look at the recording; there is nothing to stage.",
    )


def _prepared(uniform: NDArray, windows: int) -> PreparedBcg:
    try:
        return bcg_features.prepared(uniform, windows)
    except NoHeartbeatBand as error:
        there_NS = np.isfinite(to_windows(uniform, BCG_HZ, windows))
        if not (there_NS.mean(1) > 1 - MOST_MISSING).any():
            raise _no_window() from error
        raise _no_heartbeat(str(error).rstrip(".")) from error


def _prepared_running(samples: NDArray, rate_hz: float, windows: int) -> PreparedBcg:
    running = RunningBcg(rate_hz)
    # A second of nothing: what a change of rate looks ahead, and where the rate is no round number.
    parts = (running.push(samples), running.push(np.full(round(rate_hz), np.nan)))
    values_NS, missing_N, heart_N = (
        np.concatenate([getattr(part, name) for part in parts])[:windows]
        for name in ("values_NS", "missing_N", "heart_N")
    )
    return PreparedBcg(values_NS, missing_N, heart_N, min(part.unit for part in parts))


def _beats(uniform: NDArray, usable: NDArray[np.bool_]) -> Beats:
    """The heartbeats in usable windows.

    `j_peaks` finds none in a recording whose mean shows no heart, so it is not shown the gaps.
    Where it finds none, a heart may still show for a while: it looks into pieces.
    """
    there_NS = to_windows(uniform, BCG_HZ, len(usable))[usable]
    beats = j_peaks(there_NS.ravel(), BCG_HZ)
    if not len(beats.times_s):
        # None shorter: in less than that, chance alone may show one.
        cut = np.array_split(there_NS, max(1, len(there_NS) // PIECE_WINDOWS))
        starts = np.cumsum([0, *map(len, cut[:-1])])
        pieces = [j_peaks(piece.ravel(), BCG_HZ) for piece in cut]
        beats = Beats(
            np.concatenate(
                [
                    piece.times_s + WINDOW_S * start
                    for piece, start in zip(pieces, starts, strict=True)
                ]
            ),
            np.concatenate([piece.correlation for piece in pieces]),
            np.concatenate([piece.confidence for piece in pieces]),
        )
    window = np.minimum((beats.times_s // WINDOW_S).astype(np.int64), len(there_NS) - 1)
    moved_s = WINDOW_S * (np.flatnonzero(usable)[window] - window)
    return dataclasses.replace(beats, times_s=beats.times_s + moved_s)


def heart_rate(times_s: NDArray, windows: int) -> NDArray[np.float64]:
    """[N] beats a minute in each window; NaN where too few follow one another.

    Args:
      times_s: [M] heartbeats, increasing.
      windows: N.
    """
    interval_s = np.diff(times_s)
    window = (times_s[1:] // WINDOW_S).astype(np.int64)
    good = (interval_s >= INTERVAL_S[0]) & (interval_s <= INTERVAL_S[1]) & (window < windows)
    interval_s, window = interval_s[good], window[good]
    in_order = interval_s[np.lexsort((interval_s, window))]
    count = np.bincount(window, minlength=windows)
    # The median: an interval across a missed beat is one among thirty.
    middle = np.cumsum(count) - count + count // 2
    enough = count >= FEWEST_INTERVALS
    return np.where(
        enough, 60.0 / np.append(in_order, np.nan)[np.where(enough, middle, -1)], np.nan
    )


def breathing_rate(values_NS: NDArray, usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[N] breaths a minute: the peak of the spectrum over a minute around each window.

    NaN where no peak stands out, or the window is not usable.

    Args:
      values_NS: at 50 Hz.
      usable: [N].
    """
    windows = len(values_NS)
    slow_NT = values_NS.reshape(windows, -1, round(BCG_HZ / SLOW_HZ)).mean(-1)
    half = slow_NT.shape[1] // 2
    padded = np.pad(slow_NT.ravel(), half)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 4 * half)[:: 2 * half]
    # Movements would drown the breath: what is far beyond the minute's middle half is cut off.
    low, high = np.percentile(frames, (25, 75), axis=1, keepdims=True)
    frames = np.clip(frames, 2.5 * low - 1.5 * high, 2.5 * high - 1.5 * low)
    frames = frames - frames.mean(1, keepdims=True)
    points = 2048
    power = np.abs(np.fft.rfft(frames * np.hanning(4 * half), points, axis=1)) ** 2
    frequency = np.fft.rfftfreq(points, 1 / SLOW_HZ)
    band = (frequency >= BREATH_HZ[0]) & (frequency <= BREATH_HZ[1])
    power, frequency = power[:, band], frequency[band]
    peak = frequency[power.argmax(1)]
    near = np.abs(frequency - peak[:, None]) <= NEAR_HZ
    clear = (power * near).sum(1) > CLEAR_BREATH * power.sum(1)
    return np.where(clear & usable, 60.0 * peak, np.nan)


def _unlike(
    card: Mapping[str, Any],
    samples: NDArray,
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
    steps = np.diff(np.unique(samples[: 1 << 16]))  # NaN are last
    step = float(np.fmin.reduce(steps, initial=np.inf))
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
