"""Scores of staging systems over nights, and the gain of distillation, with their intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kd_sleep import metrics
from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.bootstrap import Bootstrap, ScoredNights, number
from kd_sleep.evaluation.results import (
    Gain,
    Interval,
    NightScore,
    Recovered,
    Results,
    RunScore,
    Scores,
    SystemScores,
)
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES

TEACHER = "teacher"
DISTILLED = "student_distilled"
HARD_LABELS = "student_hard_labels"
TIME_OF_NIGHT = "time_of_night"
MAJORITY = "majority"

RARELY = 0.01  # a recall below says that a student never learned the stage
BIN_WINDOWS = 20  # 10 minutes of the night share one estimate of the time-of-night floor
_ANY_TIME = np.iinfo(np.int64).max  # one bin that takes the whole night

_KAPPA = 1  # of `all_metrics`
Drawn = tuple[NDArray[np.float64], NDArray[np.float64]]  # metrics [X], and in each draw [D, X]


@dataclasses.dataclass(frozen=True)
class Runs:
    """The training runs of one system on R nights.

    Attributes:
      counts_LSRKK: confusion counts, [draws of labelled nights, seeds, R, K, K].
      scores: of each run, in the order of the first two axes.
    """

    counts_LSRKK: NDArray[np.int64]
    scores: list[RunScore]

    @classmethod
    def of(cls, counts_LSRKK: NDArray, pairs: Sequence[tuple[int, int]]) -> Runs:
        """Of counts and the (label seed, seed) of each run."""
        counts_LSKK = counts_LSRKK.sum(2)
        values = zip(
            pairs,
            metrics.accuracy(counts_LSKK).ravel(),
            metrics.kappa(counts_LSKK).ravel(),
            strict=True,
        )
        return cls(
            counts_LSRKK, [RunScore(s, label, number(a), number(k)) for (label, s), a, k in values]
        )

    def drawn(self, bootstrap: Bootstrap) -> Drawn:
        """Metrics as means over runs, in draws of subjects and runs.

        Returns:
          [X] and [D, X] as `all_metrics` has them. What is not defined for a run, such as the
          precision of a stage that it never predicts, is left out of the mean.
        """
        sums_ULSKK = bootstrap.by_subject(np.moveaxis(self.counts_LSRKK, 2, 0))
        values_LSX = all_metrics(sums_ULSKK.sum(0))
        draws_DLSX = all_metrics(bootstrap.draw(sums_ULSKK))
        mean_DX = _known_mean(draws_DLSX, (1, 2))
        found_DX = mean_DX.copy()
        for kind in (0, 1):
            of_kind_DMX = _known_mean(draws_DLSX, 2 - kind)
            apart = np.nan_to_num(of_kind_DMX - mean_DX[:, None])
            weights_DM = bootstrap.run_weights(apart.shape[1], kind)
            found_DX += np.einsum("dm,dmx->dx", weights_DM, apart)
        return _known_mean(values_LSX, (0, 1)), found_DX


def _known_mean(values: NDArray, axes: int | tuple[int, ...]) -> NDArray[np.float64]:
    """Mean over axes of what is not NaN."""
    known = np.isfinite(values)
    total = known.sum(axes)
    summed = np.where(known, values, 0.0).sum(axes)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)


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
    runs: Mapping[str, Runs] | None = None,
) -> Results:
    """Scores every system on the same nights; the prediction is the most probable stage.

    The gain of distillation is measured between `DISTILLED` and `HARD_LABELS`, where both are.

    Args:
      nights: R nights with their labels.
      systems: name -> probabilities [N_r, K] for each of the R nights, by its first run.
      config: draws, coverage and seed of the bootstrap.
      runs: name -> all its runs, where there are several.

    Raises:
      ValueError: where probabilities do not fit the nights or are not finite; it names the system
        and the recording.
      DatasetError: if no window of any night is scored.
    """
    counts = {name: confusions(name, probs, nights) for name, probs in systems.items()}
    bootstrap = Bootstrap.of(nights, config)
    of_system = {name: Runs(each[None, None], []) for name, each in counts.items()} | dict(
        runs or {}
    )
    drawn = {name: each.drawn(bootstrap) for name, each in of_system.items()}
    dark = zip(nights.recording_ids, ~bootstrap.scored, strict=True)
    return Results(
        bootstrap=bootstrap.sampling(config),
        unscored_recordings=[recording for recording, unscored in dark if unscored],
        systems={
            name: SystemScores(
                scores_of(bootstrap, drawn[name]),
                counts_RKK.sum(0).tolist(),
                _per_recording(nights, counts_RKK),
                of_system[name].scores,
            )
            for name, counts_RKK in counts.items()
        },
        distillation=gain(bootstrap, drawn[DISTILLED], drawn[HARD_LABELS], drawn.get(TEACHER))
        if {DISTILLED, HARD_LABELS} <= set(drawn)
        else None,
    )


def verdict(difference: Interval) -> str:
    """A difference in words, by rule: a gain or a loss only if its interval excludes 0.

    Values are shares and are written in points (hundredths): "gain 3.1 [1.9, 4.4] points".
    """
    points = difference.scaled(100)
    if points.value is None:
        return "not defined"
    if points.low is None or points.high is None:
        text = f"no gain shown ({points.value:.1f} points, no interval)"
    elif points.low > 0:
        text = f"gain {points.value:.1f} [{points.low:.1f}, {points.high:.1f}] points"
    elif points.high < 0:
        text = f"loss {-points.value:.1f} [{-points.high:.1f}, {-points.low:.1f}] points"
    else:
        text = f"no gain shown ({points.value:.1f} [{points.low:.1f}, {points.high:.1f}] points)"
    return text.replace("-", "−")


def percent(interval: Interval, digits: int = 1) -> str:
    """A share in words: "71.3 [69.1, 73.4] %"."""
    if interval.value is None:
        return "not defined"
    between = ""
    if interval.low is not None and interval.high is not None:
        between = f" [{100 * interval.low:.{digits}f}, {100 * interval.high:.{digits}f}]"
    return f"{100 * interval.value:.{digits}f}{between} %".replace("-", "−")


def missed_stages(scores: Scores) -> str:
    """The end of a sentence on a system that hardly ever finds a stage; "" where it finds all."""
    missed = [
        stage
        for stage, recall in scores.recall.items()
        if recall.value is not None and recall.value < RARELY
    ]
    return f", but misses {' and '.join(missed)} (recall below 1 %)" if missed else ""


def below_floor(baseline: Scores, majority: Scores) -> str:
    """A sentence where the baseline is no better than the most common stage, else ""."""
    ours, floor = baseline.accuracy, majority.accuracy
    if ours.value is None or floor.value is None or ours.value > floor.value:
        return ""
    return (
        f"Hard labels alone ({percent(ours)}) are no better than the majority stage"
        f" ({percent(floor)}): what is gained over them is not yet skill."
    )


def clear_changes(differences: Scores) -> str:
    """Stages whose recall changed clearly, in words."""
    clear = [f"{s} {verdict(each)}" for s, each in differences.recall.items() if each.is_clear]
    return "; ".join(clear) or "none"


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


def all_metrics(counts: NDArray) -> NDArray[np.float64]:
    """Scores of counts [..., K, K] on one axis [..., 3 + 3 K], in the order of `Scores`."""
    overall = [metrics.accuracy(counts), metrics.kappa(counts), metrics.macro_f1(counts)]
    by_stage = [metrics.recall(counts), metrics.precision(counts), metrics.f1(counts)]
    return np.concatenate([np.stack(overall, -1), *by_stage], -1)


def scores_of(bootstrap: Bootstrap, drawn: Drawn) -> Scores:
    """Intervals of a system's metrics, none beyond what the metric can be."""
    values_X, draws_DX = drawn
    lowest_X = np.where(np.arange(len(values_X)) == _KAPPA, -1.0, 0.0)
    return _named(bootstrap, values_X, np.clip(draws_DX, lowest_X, 1.0))


def difference_of(bootstrap: Bootstrap, ours: Drawn, theirs: Drawn) -> Scores:
    """Intervals of the differences between two systems' metrics."""
    return _named(bootstrap, ours[0] - theirs[0], ours[1] - theirs[1])


def _named(bootstrap: Bootstrap, values_X: NDArray, draws_DX: NDArray) -> Scores:
    pairs = zip(values_X, draws_DX.T, strict=True)
    found = [bootstrap.interval(value, draws_D) for value, draws_D in pairs]
    recall, precision, f1 = (
        dict(zip(STAGE_NAMES, found[first : first + NUM_STAGES], strict=True))
        for first in range(3, len(found), NUM_STAGES)
    )
    return Scores(found[0], found[1], found[2], recall, precision, f1)


def _per_recording(nights: ScoredNights, counts_RKK: NDArray[np.int64]) -> list[NightScore]:
    values = (metrics.accuracy(counts_RKK), metrics.kappa(counts_RKK))
    rows = zip(nights.recording_ids, nights.subject_ids, *values, counts_RKK, strict=True)
    return [
        NightScore(night, subject, int(counts.sum()), number(a), number(k), counts.tolist())
        for night, subject, a, k, counts in rows
    ]


def gain(bootstrap: Bootstrap, distilled: Drawn, baseline: Drawn, teacher: Drawn | None) -> Gain:
    """What distillation changed, and how much of the teacher's lead it recovered.

    Args:
      bootstrap: that all were drawn with.
      distilled, baseline, teacher: each all of `all_metrics`: values [X], and draws [D, X].
    """
    differences = difference_of(bootstrap, distilled, baseline)
    if teacher is None:
        recovered = Recovered(reason="The teacher was not scored.")
    else:
        lead, leads_D = teacher[0][0] - baseline[0][0], teacher[1][:, 0] - baseline[1][:, 0]
        interval = bootstrap.interval(lead, leads_D)
        if interval.low is None or interval.low <= 0:  # a share of nothing has no meaning
            recovered = Recovered(
                reason="The teacher's own lead over the baseline is not clear:"
                f" {verdict(interval)}."
            )
        else:
            gains_D = distilled[1][:, 0] - baseline[1][:, 0]
            shares_D = np.divide(
                gains_D, leads_D, out=np.full_like(leads_D, np.nan), where=leads_D != 0
            )
            share = bootstrap.interval((distilled[0][0] - baseline[0][0]) / lead, shares_D)
            recovered = Recovered(share.value, share.low, share.high)
    return Gain(differences, verdict(differences.accuracy), recovered)
