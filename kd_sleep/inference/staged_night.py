"""A staged night: a stage for each window, how far it can be relied on, and warnings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep import metrics
from kd_sleep.errors import KdSleepError
from kd_sleep.evaluation.sleep_measures import sleep_measures
from kd_sleep.extras import optional_packages
from kd_sleep.features.bcg import MOST_MISSING
from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES, UNSCORED

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]

    from kd_sleep.training.trained import Trained

NO_STAGE = "Unscored"
HEART_BPM = (40.0, 100.0)  # a sleeper's median; outside, the rate in Hz is more likely to be wrong
FEWEST_FOR_ABSENT = 480  # staged windows, 4 h: a shorter sleep may well lack a stage
FEWEST_FOR_SINGLE = 60

# Names of what may be wrong with a recording. The first six are refused, the others are warned of.
REASONS = {
    "samples": "no array of one channel's real numbers",
    "rate": "sampled too slowly to see a heartbeat",
    "length": "shorter than 5 minutes or longer than 24 hours",
    "constant": "it never changes",
    "gaps": "nothing, or less than half of it, is there",
    "no_heartbeat": "no beat comes after another",
    "few_heartbeats": "heartbeats show in a small part of it",
    "heart_rate": "a heart rate that a sleeper hardly has",
    "heart_rate_range": "a heart rate unlike that of the training data",
    "coarse": "heartbeats are smaller than the steps of its numbers",
    "snr": "noise unlike that of the training data",
    "single_stage": "all windows have one stage",
    "absent_stage": "a stage that never occurs in a long night",
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
    """Why a night should not be relied on: a name of `REASONS`, and a sentence without its stop."""

    reason: str
    text: str


class Stager:
    """A trained network at use.

    Attributes:
      card: what it is and what it was trained on, as plain JSON.
    """

    def __init__(self, card: Mapping[str, Any], trained: Trained | None):
        self.card, self._trained = card, trained

    @property
    def trained(self) -> Trained:
        """The network with its training."""
        assert self._trained is not None
        return self._trained

    def started(self) -> str:
        """Whether fine-tuning improved validation, in a sentence; "" if it was trained anew."""
        return self.card.get("start", {}).get("outcome", "")


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A staged night against a scorer's hypnogram, over the windows that have a stage in both.

    Attributes:
      labels: [N] the scorer's stages; `UNSCORED` where there is none.
      confusion: [K, K] windows, rows scored and columns staged.
    """

    labels: NDArray[np.int8]
    confusion: NDArray[np.int64]

    def summary(self) -> dict[str, Any]:
        """Plain JSON; kappa is None where both are one and the same stage throughout."""
        kappa = float(metrics.kappa(self.confusion))
        return {
            "windows": int(self.confusion.sum()),
            "accuracy": float(metrics.accuracy(self.confusion)),
            "kappa": kappa if np.isfinite(kappa) else None,
            "stages": list(STAGE_NAMES),
            "confusion": self.confusion.tolist(),
        }

    def sentence(self) -> str:
        """Accuracy and kappa in words."""
        found = self.summary()
        kappa = "undefined" if found["kappa"] is None else f"{found['kappa']:.2f}"
        return (
            f"Against the given stages: accuracy {found['accuracy']:.1%}, kappa {kappa}, over"
            f" {found['windows']} windows."
        )

    def table(self) -> str:
        """The confusion matrix as lines of text."""
        lines = ["  scored \\ staged" + "".join(f"{name:>8}" for name in STAGE_NAMES)]
        for name, row in zip(STAGE_NAMES, self.confusion, strict=True):
            lines.append(f"  {name:15}" + "".join(f"{count:8}" for count in row))
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, repr=False)
class Staging:
    """A staged night of N windows of 30 s, K = 4 stages.

    Attributes:
      stages: [N] int8, Wake 0, REM 1, Light 2, Deep 3, none -1 where half or more is missing.
      probs: [N, K] calibrated probabilities; NaN where there is no stage.
      sqi: [N] the student's own, in [0, 1], higher is better; NaN without a stage, or where the
        network has none.
      signal_sqi: [N] of the BCG alone (`signals.sqi`), in [0, 1]; NaN of an ECG.
      flagged: [N] windows whose stage is not to be relied on.
      flagged_by: how they were found, as a sentence about those windows.
      missing: [N] share of each window that is missing.
      amplitude: [N] RMS between 2 and 10 Hz, in the night's heartbeats; NaN without a stage, and of
        an ECG.
      heart_bpm, breaths_per_min: [N] NaN where none was found.
      snr_db: [N] power in 1-8 over power in 10-20 Hz; NaN without a stage, and of an ECG.
      warnings: why the night should not be relied on.
      card: of the network.
      agreement: with a scorer's stages; None where none were given.
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
    agreement: Agreement | None = None

    @classmethod
    def of(
        cls,
        probs: NDArray,
        missing: NDArray,
        heart_bpm: NDArray,
        card: Mapping[str, Any],
        *,
        doubtful: NDArray[np.bool_] | None = None,
        flagged_by: str = "of an ECG none is",
        warnings: Iterable[Warned] = (),
        **known: NDArray,
    ) -> Staging:
        """A night from its probabilities; arguments as the attributes.

        Args:
          doubtful: [N] whether a stage, if there is one, is not to be relied on.
          warnings: those of the recording; those that stages and heart rate give are added.
          **known: [N] `sqi`, `signal_sqi`, `amplitude`, `breaths_per_min` and `snr_db`, if known.
        """
        usable = missing < MOST_MISSING
        unknown = np.full(len(usable), np.nan)
        stages = np.where(usable, probs.argmax(-1), UNSCORED).astype(np.int8)

        def of_staged(name: str) -> NDArray:
            return np.where(usable, known.get(name, unknown), np.nan)

        return cls(
            stages=stages,
            probs=np.where(usable[:, None], probs, np.nan).astype(np.float32),
            sqi=of_staged("sqi").astype(np.float32),
            signal_sqi=known.get("signal_sqi", unknown),
            flagged=np.zeros(len(usable), bool) if doubtful is None else doubtful & usable,
            flagged_by=flagged_by,
            missing=missing.astype(np.float64),
            amplitude=of_staged("amplitude"),
            heart_bpm=heart_bpm,
            breaths_per_min=known.get("breaths_per_min", unknown),
            snr_db=of_staged("snr_db"),
            warnings=(*warnings, *_doubts(stages, heart_bpm, card)),
            card=card,
        )

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
        """Share of the staged windows that are flagged; NaN where none is staged."""
        return float(self.flagged[self.staged].mean()) if self.staged.any() else np.nan

    @property
    def kind(self) -> str:
        """Who staged it: student or teacher."""
        return "student" if "student" in self.card else "teacher"

    def against(self, labels: ArrayLike) -> Staging:
        """The same night with its agreement with a scorer's stages.

        Args:
          labels: [N] classes; `UNSCORED` where there is none.

        Raises:
          KdSleepError: labels of another length, or of no window that has a stage.
        """
        labels = np.asarray(labels, np.int8)
        if labels.shape != self.stages.shape:
            raise KdSleepError(f"{len(labels)} stages for a night of {len(self)} windows.")
        both = self.staged & (labels != UNSCORED)
        if not both.any():
            raise KdSleepError("No window that was staged has a scored stage.")
        confusion = metrics.confusion_counts(labels[both], self.stages[both], NUM_STAGES)
        return dataclasses.replace(self, agreement=Agreement(labels, confusion))

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

    def reliability(self) -> str:
        """One sentence about how far the night can be relied on."""
        staged, unstaged = int(self.staged.sum()), int((~self.staged).sum())
        share = f" ({self.flagged_share:.0%})" if staged else ""
        return (
            f"{self.flagged.sum()} of {staged} staged windows{share} are flagged as doubtful:"
            f" {self.flagged_by}"
        ) + (f"; {unstaged} have no stage, half or more is missing." if unstaged else ".")

    def summary(self) -> dict[str, Any]:
        """What a sleep laboratory reads off it, as plain JSON; None where a night lacks it."""
        measures = {name: float(value) for name, value in sleep_measures(self.stages).items()}
        measures["flagged_share"] = self.flagged_share
        return {
            "windows": len(self),
            "staged_windows": int(self.staged.sum()),
            **{name: value if np.isfinite(value) else None for name, value in measures.items()},
            "flag": self.reliability(),
            "warnings": [warned._asdict() for warned in self.warnings],
            "heart_bpm": median(self.heart_bpm),
            "breaths_per_min": median(self.breaths_per_min),
            "snr_db": median(self.snr_db),
            "agreement": self.agreement.summary() if self.agreement else None,
            self.kind: {
                name: self.card.get(name) for name in ("student", "teacher", "model", "sqi")
            },
            "trained_on": self.card.get("data"),
            "trained_with": self.card.get("versions"),
        }


def median(values: NDArray) -> float | None:
    """Of what is finite; None where nothing is."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def outside_training(
    card: Mapping[str, Any], name: str, values: NDArray, what: str, unit: str
) -> list[Warned]:
    """A warning where a night's median lies beyond 98 % of the training windows.

    Args:
      card: whose data's `name` has the percentiles p01 and p99; without them nothing is known.
      name: `snr_db` or `heart_bpm`.
      values: [N] of the night's windows.
      what, unit: of the sentence.
    """
    known, middle = (card.get("data") or {}).get(name), median(values)
    if not known or middle is None or known["p01"] <= middle <= known["p99"]:
        return []
    text = (
        f"its median {what} is {middle:.1f} {unit}; 98 % of the windows that the network was"
        f" trained on lie between {known['p01']:.1f} and {known['p99']:.1f} {unit}"
    )
    return [Warned("snr" if name == "snr_db" else "heart_rate_range", text)]


def _doubts(stages: NDArray, heart_bpm: NDArray, card: Mapping[str, Any]) -> list[Warned]:
    """What of a night's stages and heart rate gives reason not to rely on them."""
    found, rate = [], median(heart_bpm)
    if rate is not None and not HEART_BPM[0] <= rate <= HEART_BPM[1]:
        text = f"the heart would beat {rate:.0f} times a minute; is the sampling rate right?"
        found.append(Warned("heart_rate", text))
    found += outside_training(card, "heart_bpm", heart_bpm, "heart rate", "beats/min")
    counts = np.bincount(stages[stages != UNSCORED], minlength=NUM_STAGES)
    hours, absent = counts.sum() * WINDOW_S / 3600.0, np.flatnonzero(counts == 0)
    if len(absent) == NUM_STAGES - 1 and counts.sum() >= FEWEST_FOR_SINGLE:
        text = f"all of its {counts.sum()} stages are {STAGE_NAMES[counts.argmax()]}"
        found.append(Warned("single_stage", text))
    elif len(absent) and counts.sum() >= FEWEST_FOR_ABSENT:
        names = " or ".join(STAGE_NAMES[stage] for stage in absent)
        text = f"no window of {hours:.1f} h is {names}; the network may not be able to find it"
        found.append(Warned("absent_stage", text))
    return found
