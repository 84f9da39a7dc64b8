"""How much a system knows of the sleep stages, in bits, and where along a ladder it is lost.

The usable information of a window, given what a family of predictors makes of its input x, is

  log2 p(y | x) - log2 p(y)

at its scored stage y (pointwise: Ethayarajh et al. 2022, https://arxiv.org/abs/2110.08420); its
mean over held-out windows is the V-information of the input (Xu et al. 2020,
https://arxiv.org/abs/2002.10689). Both probabilities have to be calibrated and held out: an
overconfident predictor is charged for it, and no predictor has more than the mutual information but
by chance. A window's value is below 0 where the input misled.

What separates two systems in accuracy mixes sensor, detector, capacity and training. A ladder of
inputs from best to worst, with predictors of one family on every rung, takes the gap apart: each
step is what one change of the input costs, and the steps add up to the gap.

Usable information may rise down the ladder. Shannon's cannot: processing adds nothing to it. But
V-information is relative to the family of predictors, and the data-processing inequality does not
hold for it (Xu et al., section 3): a step that throws information away can leave the rest in a form
that the family uses better, as noise that regularises, or a detector that does work the network
would have to learn. Finite training and chance do the same. Such steps are marked, not mended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.bootstrap import Bootstrap
from kd_sleep.evaluation.results import ByStage, Interval, LadderResult, Rung
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES, UNSCORED

SUM_TOLERANCE = 0.02  # of a window's probabilities: wide enough for bfloat16, not for logits
RISE = (
    "Usable information rises here although the input got no better. It is relative to the family"
    " of predictors, and the data-processing inequality does not hold for it: what is left can be"
    " in a form that the family uses better."
)
FALL = (
    "This rung knows more than the one before, and its predictor makes less of it: it is"
    " overconfident, or has learned too little."
)
BY_CHANCE = " The interval of this step includes 0: it may be chance."


def pointwise_information(
    log_probs_NK: ArrayLike, labels_N: ArrayLike, log_prior: ArrayLike
) -> NDArray[np.float64]:
    """log2 p(y | x) - log2 p(y) of each window, in bits.

    Args:
      log_probs_NK: [N, K] natural logarithms of calibrated, held-out probabilities.
      labels_N: [N] the scored stage, -1 where nobody scored the window.
      log_prior: [K] of the training labels, or [N, K] of a predictor that knows less of each
        window, such as the time of night.

    Returns:
      [N] bits, NaN where the label is -1.

    Raises:
      ValueError: shapes that do not fit, labels out of range, values that are NaN, do not sum to 1,
        or give a window's own stage no chance at all; it says how many.
    """
    labels = np.asarray(labels_N)
    log_probs_NK = np.asarray(log_probs_NK, np.float64)
    if log_probs_NK.ndim != 2 or len(log_probs_NK) != len(labels):
        raise ValueError(
            f"log-probabilities: expected [{len(labels)}, K], got {list(log_probs_NK.shape)}"
        )
    classes = log_probs_NK.shape[1]
    _assert_labels(labels, classes)
    prior_NK = np.asarray(log_prior, np.float64)
    if prior_NK.shape not in ((classes,), log_probs_NK.shape):
        raise ValueError(
            f"prior: expected [{classes}] or {list(log_probs_NK.shape)}, got {list(prior_NK.shape)}"
        )
    _assert_log_probs("log-probabilities", log_probs_NK)
    _assert_log_probs("prior", np.atleast_2d(prior_NK))
    scored = labels != UNSCORED
    window, own = np.flatnonzero(scored), labels[scored]
    posterior = log_probs_NK[window, own]
    prior = prior_NK[own] if prior_NK.ndim == 1 else prior_NK[window, own]
    for name, values in (("log-probabilities", posterior), ("prior", prior)):
        if count := np.count_nonzero(np.isneginf(values)):
            raise ValueError(
                f"{name}: {count} windows give their own stage no chance at all, which is"
                " infinitely bad; calibrate, or smooth the counts"
            )
    bits = np.full(len(labels), np.nan)
    bits[window] = (posterior - prior) / np.log(2.0)
    return bits


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Predictors of one family on inputs from best to worst, judged on the same windows.

    The first rungs may be floors that know less than the best input, such as the time of night:
    up to `top` information should rise, behind it fall, but for the rungs that `gains` names.

    Attributes:
      labels: [N] the scored stage, -1 where nobody scored the window.
      subjects: [N] whose window it is.
      log_prior: [K] natural logarithms of the stages' shares in training, the foot at 0 bits; or
        [N, K].
      rungs: name -> [N, K] natural logarithms of held-out, calibrated probabilities, in order; of
        predictors trained from M seeds [M, N, K], whose mean information counts.
      top: the rung with the best input; the first one where None.
      gains: rungs behind the top that are shown more than the rung before.
    """

    labels: NDArray[np.integer]
    subjects: NDArray
    log_prior: NDArray[np.floating]
    rungs: Mapping[str, NDArray[np.floating]]
    top: str | None = None
    gains: Collection[str] = ()

    def __post_init__(self) -> None:
        if not self.rungs:
            raise ValueError("rungs: a ladder needs at least one")
        if self.top is not None and self.top not in self.rungs:
            raise ValueError(f"top {self.top!r}: none of {list(self.rungs)}")
        if unknown := set(self.gains) - set(self.rungs):
            raise ValueError(f"gains {sorted(unknown)}: none of {list(self.rungs)}")

    def measure(self, config: EvaluationConfig) -> LadderResult:
        """Information on every rung, and the steps between neighbours, which add up to the last.

        Intervals are over subjects and seeds, drawn alike for all rungs: see `bootstrap`.

        Raises:
          ValueError: see `pointwise_information`; the rung is named.
          DatasetError: no window is scored.
        """
        labels, subjects = np.asarray(self.labels), np.asarray(self.subjects)
        _assert_labels(labels, NUM_STAGES)
        if subjects.shape != labels.shape:
            raise ValueError(f"subjects: expected {list(labels.shape)}, got {list(subjects.shape)}")
        scored = labels != UNSCORED
        if not scored.any():
            raise DatasetError(
                "No window of these nights is scored: there is no information to measure."
            )
        names, subject, bootstrap = Bootstrap.of_windows(subjects[scored], config)
        cell = subject * NUM_STAGES + labels[scored]

        def by_subject(weights: NDArray | None = None) -> NDArray:
            """[U, S] sums over the windows of each subject and stage."""
            sums = np.bincount(cell, weights, len(names) * NUM_STAGES)
            return sums.reshape(len(names), NUM_STAGES)

        counts_DS = _with_draws(by_subject(), bootstrap)

        def intervals(sums_DS: NDArray) -> tuple[Interval, ByStage]:
            """Of the mean over all windows, and over each stage's."""
            means_DX = _ratio(_with_total(sums_DS), _with_total(counts_DS))
            overall, *of_stage = (bootstrap.interval(of[0], of[1:]) for of in means_DX.T)
            return overall, dict(zip(STAGE_NAMES, of_stage, strict=True))

        sums_RDS = [np.zeros(counts_DS.shape)]  # the prior's
        for name, log_probs in self.rungs.items():
            try:
                bits_MN = [
                    pointwise_information(of_seed, labels, self.log_prior)
                    for of_seed in np.reshape(log_probs, (-1, *log_probs.shape[-2:]))
                ]
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            of_seed_MDS = np.stack(
                [_with_draws(by_subject(bits[scored]), bootstrap) for bits in bits_MN]
            )
            mean_DS = of_seed_MDS.mean(0)
            weights_DM = bootstrap.run_weights(len(bits_MN), 1)
            mean_DS[1:] += np.einsum("dm,mds->ds", weights_DM, (of_seed_MDS - mean_DS)[:, 1:])
            sums_RDS.append(mean_DS)

        top = list(self.rungs).index(self.top) if self.top is not None else 0
        rungs = []
        for number, name in enumerate(self.rungs):
            change, by_stage = intervals(sums_RDS[number + 1] - sums_RDS[number])
            assert change.value is not None
            expected = "gain" if number <= top or name in self.gains else "loss"
            contrary = change.value < 0 if expected == "gain" else change.value > 0
            note = (RISE if expected == "loss" else FALL) + ("" if change.is_clear else BY_CHANCE)
            rungs.append(
                Rung(
                    name,
                    *intervals(sums_RDS[number + 1]),
                    change,
                    by_stage,
                    expected,
                    contrary,
                    note if contrary else None,
                )
            )
        gap, _ = intervals(sums_RDS[-1] - sums_RDS[top + 1])
        return LadderResult(rungs[top].name, rungs, gap)


def _with_draws(sums_US: NDArray, bootstrap: Bootstrap) -> NDArray[np.float64]:
    """[1 + D, S] sums over subjects: as they are, then in each draw."""
    return np.concatenate([sums_US.sum(0)[None], bootstrap.draw(sums_US)])


def _with_total(sums_DS: NDArray) -> NDArray:
    """[D, 1 + S] the sum over stages before them."""
    return np.concatenate([sums_DS.sum(-1, keepdims=True), sums_DS], -1)


def _ratio(sums: NDArray, counts: NDArray) -> NDArray[np.float64]:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _assert_labels(labels: NDArray, classes: int) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels: expected integers [N], got {labels.dtype}{list(labels.shape)}")
    if labels.size and (labels.min() < UNSCORED or labels.max() >= classes):
        raise ValueError(f"labels: outside {UNSCORED}..{classes - 1}")


def _assert_log_probs(name: str, log_probs_NK: NDArray[np.float64]) -> None:
    broken = (np.isnan(log_probs_NK) | np.isposinf(log_probs_NK)).any(axis=1)
    if count := np.count_nonzero(broken):
        raise ValueError(
            f"{name}: {count} of {broken.size} windows have NaN or infinity, the first is window"
            f" {np.flatnonzero(broken)[0]}"
        )
    # Huge logits are a sum that is not 1, no overflow.
    total = np.exp(np.minimum(log_probs_NK, 1.0)).sum(1)
    if len(total) and np.abs(total - 1).max() > SUM_TOLERANCE:
        raise ValueError(
            f"{name}: a window's probabilities sum to {total[np.abs(total - 1).argmax()]:.3g}, not"
            " 1; these may be logits"
        )
