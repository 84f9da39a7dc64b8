"""Scores of staging systems over nights, with intervals from a bootstrap over subjects.

Windows of one person resemble each other, so what is resampled is the subject, with all of their
recordings (the cluster bootstrap of Field & Welsh 2007,
https://doi.org/10.1111/j.1467-9868.2007.00593.x). Confusion counts add up, so a draw is a weighted
sum of the subjects' counts, and all draws are one matrix product. Every system meets the same
draws: differences between systems are paired. Other sums add up as counts do, so sleep measures and
calibration draw with the same `Bootstrap`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from kd_sleep import metrics
from kd_sleep.config import EvaluationConfig
from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import DatasetError
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES, UNSCORED

TEACHER = "teacher"
DISTILLED = "student_distilled"
HARD_LABELS = "student_hard_labels"
TIME_OF_NIGHT = "time_of_night"
MAJORITY = "majority"

BIN_WINDOWS = 20  # 10 minutes of the night share one estimate of the time-of-night floor
FEW_SUBJECTS = 20  # below, percentile intervals are visibly too narrow
_ANY_TIME = np.iinfo(np.int64).max  # one bin that takes the whole night

Interval = dict[str, float | None]  # value, low, high; None is "not defined", JSON's null
Drawn = tuple[NDArray[np.float64], NDArray[np.float64]]  # metrics [X], and in each draw [D, X]


@dataclasses.dataclass(frozen=True)
class ScoredNights:
    """What was scored by hand: one entry per recording, in one order.

    Attributes:
      recording_ids: unique names.
      subject_ids: one per recording; visits of one person share it.
      labels: int arrays [N_r], the stage of each window, -1 where nobody scored it.
    """

    recording_ids: Sequence[str]
    subject_ids: Sequence[str]
    labels: Sequence[NDArray[np.integer]]

    def __post_init__(self) -> None:
        if not len(self.recording_ids) == len(self.subject_ids) == len(self.labels) > 0:
            raise ValueError(
                f"expected at least one night and equal lengths, got {len(self.recording_ids)}"
                f" recordings, {len(self.subject_ids)} subjects, {len(self.labels)} label arrays"
            )
        if len(set(self.recording_ids)) != len(self.recording_ids):
            raise ValueError("recording_ids: a recording occurs twice")
        for recording, labels in zip(self.recording_ids, self.labels, strict=True):
            if labels.ndim != 1 or not labels.size or labels.dtype.kind not in "iu":
                raise ValueError(
                    f"{recording}: expected integer labels [N], N > 0,"
                    f" got {labels.dtype}{list(labels.shape)}"
                )
            if labels.min() < UNSCORED or labels.max() >= NUM_STAGES:
                raise ValueError(f"{recording}: labels outside {UNSCORED}..{NUM_STAGES - 1}")

    @classmethod
    def of(cls, nights: Nights) -> ScoredNights:
        """Those of a split."""
        return cls(nights.recording_ids, nights.subject_ids, nights.labels())


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """The draws of subjects that every score, system and difference shares.

    Attributes:
      scored: [R] whether a night has any label. The other nights, and subjects who have no scored
        night, would add nothing but noise to the draws and are in none.
      subject: [number of scored nights] which of the U subjects each belongs to.
      weights_DU: how often each draw takes each subject; no draws (D = 0) from one subject.
      confidence: coverage of the intervals.
    """

    scored: NDArray[np.bool_]
    subject: NDArray[np.intp]
    weights_DU: NDArray[np.float64]
    confidence: float

    @classmethod
    def of(cls, nights: ScoredNights, config: EvaluationConfig) -> Bootstrap:
        """The draws for these nights: the same nights and seed give the same draws.

        Raises:
          DatasetError: if no window of any night is scored.
        """
        scored = np.array([bool((labels >= 0).any()) for labels in nights.labels])
        if not scored.any():
            raise DatasetError("These nights have no scored window, so there is nothing to score.")
        names, subject = np.unique(np.asarray(nights.subject_ids)[scored], return_inverse=True)
        subjects = len(names)
        draws = config.bootstrap_draws if subjects > 1 else 0
        rng = np.random.default_rng(config.bootstrap_seed)
        weights = rng.multinomial(subjects, np.full(subjects, 1 / subjects), size=draws)
        return cls(scored, subject, weights.astype(np.float64), config.confidence)

    @property
    def subjects(self) -> int:
        """How many there are to draw from."""
        return self.weights_DU.shape[1]

    def told(self, config: EvaluationConfig) -> dict[str, Any]:
        """What was drawn, for the results."""
        return {
            "subjects": self.subjects,
            "draws": config.bootstrap_draws,
            "confidence": config.confidence,
            "seed": config.bootstrap_seed,
            "note": _note(self.subjects),
        }

    def by_subject(self, sums_R: NDArray) -> NDArray[np.float64]:
        """Sums over each subject's scored nights, [R, ...] -> [U, ...]."""
        sums_U = np.zeros((self.subjects, *sums_R.shape[1:]))
        np.add.at(sums_U, self.subject, sums_R[self.scored])
        return sums_U

    def draw(self, sums_U: NDArray) -> NDArray[np.float64]:
        """Sums over the subjects of each draw, [U, ...] -> [D, ...]."""
        return np.tensordot(self.weights_DU, sums_U, axes=1)

    def interval(self, value: SupportsFloat, draws_D: NDArray[np.float64]) -> Interval:
        """Percentile interval; low and high are None where the percentiles are not known.

        That is so with one subject, and where too many draws lack what the value is made of.
        """
        defined = draws_D[np.isfinite(draws_D)]
        if not math.isfinite(value) or defined.size < max(1, self.confidence * draws_D.size):
            return {"value": number(value), "low": None, "high": None}
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        return {"value": float(value), "low": float(low), "high": float(high)}


def seed_weights(name: str, seeds: int, draws: int) -> NDArray[np.int64]:
    """[D, M] how often each bootstrap draw takes each of a system's training seeds; M in a row.

    Their luck is a system's own: its name begins the stream of draws.
    """
    rng = np.random.default_rng(list(name.encode()))
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)


def majority_probs(
    train_labels: Sequence[NDArray[np.integer]], nights: ScoredNights
) -> list[NDArray[np.float64]]:
    """The floor that knows no night: P(stage) over the training labels, [N_r, K] for each night."""
    return _share_by_time(train_labels, nights, _ANY_TIME)


def time_of_night_probs(
    train_labels: Sequence[NDArray[np.integer]], nights: ScoredNights
) -> list[NDArray[np.float64]]:
    """The floor that knows only the clock: P(stage | time since start), [N_r, K] for each night.

    (count of the stage in the 10-minute bin + 1) / (count of the bin + K) over the training labels.
    Windows later than any scored training window take the last bin.
    """
    return _share_by_time(train_labels, nights, BIN_WINDOWS)


def _share_by_time(
    train_labels: Sequence[NDArray[np.integer]], nights: ScoredNights, bin_windows: int
) -> list[NDArray[np.float64]]:
    times = [np.flatnonzero(labels >= 0) for labels in train_labels]
    if not any(time.size for time in times):
        raise DatasetError(
            "The training labels have no scored window, so no floor can be fitted.",
            "Evaluate with the labels of the training split.",
        )
    last_bin = max(time[-1] for time in times if time.size) // bin_windows
    counts = np.ones((last_bin + 1, NUM_STAGES))  # Laplace: no stage is ever impossible
    for time, labels in zip(times, train_labels, strict=True):
        np.add.at(counts, (time // bin_windows, labels[time]), 1)
    shares = counts / counts.sum(-1, keepdims=True)
    return [shares[np.minimum(np.arange(len(n)) // bin_windows, last_bin)] for n in nights.labels]


def score(
    nights: ScoredNights,
    systems: Mapping[str, Sequence[NDArray[np.floating]]],
    config: EvaluationConfig,
    *,
    teacher: str = TEACHER,
    distilled: str = DISTILLED,
    baseline: str = HARD_LABELS,
) -> dict[str, Any]:
    """Scores every system on the same nights; the prediction is the most probable stage.

    Args:
      nights: R nights with their labels.
      systems: name -> probabilities [N_r, K] for each of the R nights.
      config: draws, coverage and seed of the bootstrap.
      teacher, distilled, baseline: which systems, where present, the gain of distillation is
        measured between.

    Returns:
      Plain JSON, None where a number is not defined; an interval is {"value", "low", "high"}:
        "bootstrap": {"subjects", "draws", "confidence", "seed", "note"}
        "unscored_recordings": ids of nights without any label; they enter no score
        "systems": name -> {"pooled": {"accuracy", "kappa", "macro_f1", and by stage "recall",
          "precision" and "f1"}, "confusion" [K, K] (rows: truth), "per_recording": one row of
          counts and values each}
        "distillation": None without both students, else {"teacher", "distilled", "baseline",
          "differences" (as "pooled"; distilled - baseline), "conclusion",
          "teacher_lead_recovered": interval and "reason" where it is None}

    Raises:
      ValueError: where probabilities do not fit the nights or are not finite; it names the system
        and the recording.
      DatasetError: if no window of any night is scored.
    """
    counts = {name: confusions(name, probs, nights) for name, probs in systems.items()}
    bootstrap = Bootstrap.of(nights, config)

    drawn: dict[str, Drawn] = {}
    for name, counts_RKK in counts.items():
        counts_UKK = bootstrap.by_subject(counts_RKK)
        drawn[name] = all_metrics(counts_UKK.sum(0)), all_metrics(bootstrap.draw(counts_UKK))

    return {
        "bootstrap": bootstrap.told(config),
        "unscored_recordings": [
            recording
            for recording, scored in zip(nights.recording_ids, bootstrap.scored, strict=True)
            if not scored
        ],
        "systems": {
            name: {
                "pooled": named_intervals(bootstrap, drawn[name]),
                "confusion": counts_RKK.sum(0).tolist(),
                "per_recording": _per_recording(nights, counts_RKK),
            }
            for name, counts_RKK in counts.items()
        },
        "distillation": {
            "teacher": teacher if teacher in drawn else None,
            "distilled": distilled,
            "baseline": baseline,
            **gain(bootstrap, drawn[distilled], drawn[baseline], drawn.get(teacher)),
        }
        if {distilled, baseline} <= set(drawn)
        else None,
    }


def verdict(difference: Interval) -> str:
    """What a difference says, by rule: a gain or a loss only if its interval excludes 0.

    Values are shares and are written in points (hundredths): "gain 3.1 [1.9, 4.4] points".
    """
    value, low, high = (difference[key] for key in ("value", "low", "high"))
    if value is None:
        return "not defined"
    if low is None or high is None:
        text = f"no gain shown ({100 * value:.1f} points, no interval)"
    elif low > 0:
        text = f"gain {100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}] points"
    elif high < 0:
        text = f"loss {-100 * value:.1f} [{-100 * high:.1f}, {-100 * low:.1f}] points"
    else:
        text = f"no gain shown ({100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}] points)"
    return text.replace("-", "−")


def percent(interval: Interval, digits: int = 1) -> str:
    """A share in words: "71.3 [69.1, 73.4] %"."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None:
        return "not defined"
    between = (
        "" if low is None or high is None else f" [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"
    )
    return f"{100 * value:.{digits}f}{between} %".replace("-", "−")


def predicted_stages(
    system: str, probs: Sequence[NDArray[np.floating]], nights: ScoredNights
) -> list[NDArray[np.intp]]:
    """The most probable stage of every window, scored or not, [N_r] for each night.

    Raises:
      ValueError: where probabilities do not fit the nights or are not finite; it names the system
        and the recording.
    """
    if len(probs) != len(nights.labels):
        raise ValueError(f"{system}: {len(probs)} nights, expected {len(nights.labels)}")
    stages = []
    for recording, labels, probs_NK in zip(nights.recording_ids, nights.labels, probs, strict=True):
        where, shape = f"{system}, {recording}:", (len(labels), NUM_STAGES)
        if probs_NK.shape != shape:
            raise ValueError(f"{where} expected probabilities {shape}, got {probs_NK.shape}")
        if broken := np.count_nonzero(~np.isfinite(probs_NK)):
            raise ValueError(f"{where} {broken} probabilities are not finite")
        # Wide enough for bfloat16, narrow enough to notice logits.
        if probs_NK.min() < 0 or np.abs(probs_NK.sum(-1, dtype=np.float64) - 1).max() > 0.02:
            raise ValueError(f"{where} a window's probabilities are negative or do not sum to 1")
        stages.append(probs_NK.argmax(-1))
    return stages


def confusions(
    system: str, probs: Sequence[NDArray[np.floating]], nights: ScoredNights
) -> NDArray[np.int64]:
    """Confusion counts of every night, [R, K, K]."""
    pairs = zip(nights.labels, predicted_stages(system, probs, nights), strict=True)
    return np.stack([metrics.confusion_counts(*pair, NUM_STAGES) for pair in pairs])


def _note(subjects: int) -> str | None:
    if subjects == 1:
        return "One subject: there is nothing to resample, so no interval is given."
    if subjects < FEW_SUBJECTS:
        return (
            f"Only {subjects} subjects: the intervals are too narrow. A nominal 95 % interval of a"
            " mean covers about 84 % with 5 subjects and 90 % with 10."
        )
    return None


def all_metrics(counts: NDArray) -> NDArray[np.float64]:
    """Scores of counts [..., K, K] on one axis [..., 3 + 3 K], in the order of `by_name`."""
    overall = [metrics.accuracy(counts), metrics.kappa(counts), metrics.macro_f1(counts)]
    by_stage = [metrics.recall(counts), metrics.precision(counts), metrics.f1(counts)]
    return np.concatenate([np.stack(overall, -1), *by_stage], -1)


def by_name(items: Sequence[Any]) -> dict[str, Any]:
    """Names for the last axis of `all_metrics`."""
    named: dict[str, Any] = dict(zip(("accuracy", "kappa", "macro_f1"), items[:3], strict=True))
    for place, name in enumerate(("recall", "precision", "f1")):
        first = 3 + place * NUM_STAGES
        named[name] = dict(zip(STAGE_NAMES, items[first : first + NUM_STAGES], strict=True))
    return named


def number(value: SupportsFloat) -> float | None:
    """A number for JSON, None where it is not defined."""
    return float(value) if math.isfinite(value) else None


def named_intervals(bootstrap: Bootstrap, drawn: Drawn) -> dict[str, Any]:
    """Intervals of all that `all_metrics` has, by name."""
    values_X, draws_DX = drawn
    pairs = zip(values_X, draws_DX.T, strict=True)
    return by_name([bootstrap.interval(value, draws_D) for value, draws_D in pairs])


def _per_recording(nights: ScoredNights, counts_RKK: NDArray[np.int64]) -> list[dict[str, Any]]:
    values_RM = all_metrics(counts_RKK)
    rows = zip(nights.recording_ids, nights.subject_ids, counts_RKK, values_RM, strict=True)
    return [
        {
            "recording_id": recording,
            "subject_id": subject,
            "windows": int(counts.sum()),
            **by_name([number(value) for value in values_M]),
            "confusion": counts.tolist(),
        }
        for recording, subject, counts, values_M in rows
    ]


def gain(
    bootstrap: Bootstrap, distilled: Drawn, baseline: Drawn, teacher: Drawn | None
) -> dict[str, Any]:
    """What distillation changed, and how much of the teacher's lead it recovered.

    Args:
      bootstrap: that all were drawn with.
      distilled, baseline, teacher: each all of `all_metrics`: values [X], and draws [D, X].

    Returns:
      "differences", "conclusion" and "teacher_lead_recovered" as `score` has them.
    """
    gain_X, gains_DX = distilled[0] - baseline[0], distilled[1] - baseline[1]
    differences = named_intervals(bootstrap, (gain_X, gains_DX))
    recovered: dict[str, Any] = {"value": None, "low": None, "high": None, "reason": None}
    if teacher is None:
        recovered["reason"] = "The teacher was not scored."
    else:
        lead, leads_D = teacher[0][0] - baseline[0][0], teacher[1][:, 0] - baseline[1][:, 0]
        interval = bootstrap.interval(lead, leads_D)
        if interval["low"] is None or interval["low"] <= 0:  # a share of nothing has no meaning
            recovered["reason"] = (
                f"The teacher's own lead over the baseline is not clear: {verdict(interval)}."
            )
        else:
            shares_D = np.divide(
                gains_DX[:, 0], leads_D, out=np.full_like(leads_D, np.nan), where=leads_D != 0
            )
            recovered |= bootstrap.interval(gain_X[0] / lead, shares_D)
    return {
        "differences": differences,
        "conclusion": verdict(differences["accuracy"]),
        "teacher_lead_recovered": recovered,
    }
