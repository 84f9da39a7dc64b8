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
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.scores import Interval, seed_weights
from kd_sleep.evaluation.selective import subject_bootstrap, told
from kd_sleep.stages import STAGE_NAMES, UNSCORED

SUM_TOLERANCE = 0.02  # of a window's probabilities: wide enough for bfloat16, not for logits
RISE = (
    "Usable information rises here although the input got no better. Usable information is relative"
    " to the family of predictors, and the data-processing inequality does not hold for it: what is"
    " left can be in a form that the family uses better."
)
RISE_BY_CHANCE = " The interval of this step includes 0: it may be chance."


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
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels: expected integers [N], got {labels.dtype}{list(labels.shape)}")
    log_probs_NK = np.asarray(log_probs_NK, np.float64)
    if log_probs_NK.ndim != 2 or len(log_probs_NK) != len(labels):
        raise ValueError(
            f"log-probabilities: expected [{len(labels)}, K], got {list(log_probs_NK.shape)}"
        )
    classes = log_probs_NK.shape[1]
    if labels.size and (labels.min() < UNSCORED or labels.max() >= classes):
        raise ValueError(f"labels: outside {UNSCORED}..{classes - 1}")
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


def summarise(
    bits_N: ArrayLike, labels_N: ArrayLike, subjects_N: ArrayLike, config: EvaluationConfig
) -> dict[str, Any]:
    """Means of pointwise information: over all windows, per stage and per subject.

    Args:
      bits_N: [N] as `pointwise_information` has it.
      labels_N: [N] the scored stage, -1 where nobody scored the window.
      subjects_N: [N] whose window it is.
      config: draws, coverage and seed of the bootstrap over subjects.

    Returns:
      Plain JSON, None where a number is not defined; an interval is {"value", "low", "high"}:
        "windows", "unscored", "bootstrap": {"subjects", "draws", "confidence", "seed"}
        "bits": interval of the mean over windows
        "by_stage": stage -> interval of the mean over the stage's windows
        "by_subject": subject -> {"windows", "bits"}
        "subject_mean": interval of the mean over subjects, each of whom weighs the same

    Raises:
      ValueError: shapes that do not fit, NaN at a scored window.
      DatasetError: no window is scored.
    """
    means = _Means(labels_N, subjects_N, config)
    sums_US = means.sums("bits", bits_N)
    windows_U = means.counts_US.sum(1)
    of_subject = sums_US.sum(1) / windows_U
    drawn = means.bootstrap.draw(of_subject) / len(means.names)
    return {
        "windows": int(windows_U.sum()),
        "unscored": means.unscored,
        "bootstrap": told(means.bootstrap, config),
        **means.intervals(means.draws("bits", sums_US[None])),
        "subject_mean": means.bootstrap.interval(float(of_subject.mean()), drawn),
        "by_subject": {
            name: {"windows": int(count), "bits": float(bits)}
            for name, count, bits in zip(means.names, windows_U, of_subject, strict=True)
        },
    }


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

    def measure(self, config: EvaluationConfig) -> dict[str, Any]:
        """Information on every rung, and the steps between neighbours.

        Intervals are over subjects, drawn alike for all rungs, and over seeds, drawn for each rung
        by itself: see `scores.seed_weights`.

        Returns:
          Plain JSON, None where a number is not defined; an interval is {"value", "low", "high"}:
            "windows", "unscored", "bootstrap", "top"
            "rungs": list of {"name", "bits", "by_stage"}
            "steps": list of {"from" (None is the prior), "to", "change" (bits, to - from),
              "by_stage", "expected": "gain" up to the top and at `gains`, "loss" elsewhere,
              "contrary": whether it goes the other way, "note": what that means, or None}; the
              first step is from the prior, and the changes add up to the last rung's bits
            "gap": {"from": top, "to": last, "change", "by_stage"}: the sum of the steps behind the
              top

        Raises:
          ValueError: see `pointwise_information`; the rung is named.
          DatasetError: no window is scored.
        """
        means = _Means(self.labels, self.subjects, config)
        names = list(self.rungs)
        draws_RDS = [means.draws("prior", np.zeros((1, *means.counts_US.shape)))]
        for name, log_probs_NK in self.rungs.items():
            try:
                sums_MUS = [
                    means.sums(name, pointwise_information(of_seed, self.labels, self.log_prior))
                    for of_seed in np.reshape(log_probs_NK, (-1, *log_probs_NK.shape[-2:]))
                ]
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            draws_RDS.append(means.draws(name, np.stack(sums_MUS)))
        top = names.index(self.top) if self.top is not None else 0
        steps = []
        for number, name in enumerate(names):
            intervals = means.intervals(draws_RDS[number + 1] - draws_RDS[number])
            change = intervals["bits"]
            expected = "gain" if number <= top or name in self.gains else "loss"
            contrary = change["value"] < 0 if expected == "gain" else change["value"] > 0
            steps.append(
                {
                    "from": names[number - 1] if number else None,
                    "to": name,
                    "change": change,
                    "by_stage": intervals["by_stage"],
                    "expected": expected,
                    "contrary": contrary,
                    "note": _note_of(change, expected) if contrary else None,
                }
            )
        of_gap = means.intervals(draws_RDS[-1] - draws_RDS[top + 1])
        return {
            "windows": int(means.counts_US.sum()),
            "unscored": means.unscored,
            "bootstrap": told(means.bootstrap, config),
            "top": names[top],
            "rungs": [
                {"name": name, **means.intervals(draws_DS)}
                for name, draws_DS in zip(names, draws_RDS[1:], strict=True)
            ],
            "steps": steps,
            "gap": {
                "from": names[top],
                "to": names[-1],
                "change": of_gap["bits"],
                "by_stage": of_gap["by_stage"],
            },
        }


def _note_of(change: Interval, expected: str) -> str:
    """Why a step that goes the other way is no bug."""
    text = RISE if expected == "loss" else (
        "This rung knows more than the one before, and its predictor makes less of it: it is"
        " overconfident, or has learned too little."
    )  # fmt: skip
    low, high = change["low"], change["high"]
    if low is None or high is None or low <= 0 <= high:
        return text + RISE_BY_CHANCE
    return text


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


class _Means:
    """Means over windows, per stage and overall, on one set of draws over subjects.

    Attributes:
      names: [U] subjects with a scored window.
      counts_US: [U, S] windows of each subject and stage.
      bootstrap: the draws of them.
      unscored: windows that nobody scored.
    """

    def __init__(self, labels: ArrayLike, subjects: ArrayLike, config: EvaluationConfig) -> None:
        labels, subjects = np.asarray(labels), np.asarray(subjects)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or subjects.shape != labels.shape:
            raise ValueError(
                f"expected integer labels and subjects [N], got {labels.dtype}"
                f"{list(labels.shape)} and {list(subjects.shape)}"
            )
        if labels.size and (labels.min() < UNSCORED or labels.max() >= len(STAGE_NAMES)):
            raise ValueError(f"labels: outside {UNSCORED}..{len(STAGE_NAMES) - 1}")
        self._scored = labels != UNSCORED
        if not self._scored.any():
            raise DatasetError(
                "No window of these nights is scored: there is no information to measure."
            )
        self.unscored = int((~self._scored).sum())
        self.names, subject, self.bootstrap = subject_bootstrap(subjects[self._scored], config)
        self._shape = (len(self.names), len(STAGE_NAMES))
        self._at = subject * len(STAGE_NAMES) + labels[self._scored]
        self.counts_US = np.bincount(self._at, minlength=int(np.prod(self._shape))).reshape(
            self._shape
        )

    def sums(self, name: str, values_N: ArrayLike) -> NDArray:
        """[U, S] sums of a value over the windows of each subject and stage."""
        values = np.asarray(values_N, np.float64)
        if values.shape != self._scored.shape:
            raise ValueError(f"{name}: expected [{len(self._scored)}], got {list(values.shape)}")
        values = values[self._scored]
        if count := np.count_nonzero(~np.isfinite(values)):
            raise ValueError(f"{name}: {count} of {len(values)} scored windows are not finite")
        return np.bincount(self._at, values, int(np.prod(self._shape))).reshape(self._shape)

    def draws(self, name: str, sums_MUS: NDArray[np.float64]) -> NDArray[np.float64]:
        """[1 + D, S] sums over subjects, the mean of M seeds: as they are, then in each draw.

        Args:
          name: of the system, whose seeds are drawn.
          sums_MUS: of each seed, as `sums` has them.
        """
        drawn_MDS = np.stack([self.bootstrap.draw(sums_US) for sums_US in sums_MUS])
        weights_DM = seed_weights(name, *drawn_MDS.shape[:2])
        drawn_DS = np.einsum("dm,mds->ds", weights_DM, drawn_MDS) / len(sums_MUS)
        return np.concatenate([sums_MUS.sum(1).mean(0)[None], drawn_DS])

    def intervals(self, draws_DS: NDArray[np.float64]) -> dict[str, Any]:
        """{"bits", "by_stage"} of sums as `draws` has them."""
        counts_DS = np.concatenate(
            [self.counts_US.sum(0)[None], self.bootstrap.draw(self.counts_US)]
        )

        def total(of_stage_DS: NDArray) -> NDArray:
            return np.concatenate([of_stage_DS.sum(-1, keepdims=True), of_stage_DS], -1)

        sums, counts = total(draws_DS), total(counts_DS)
        means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
        overall, *of_stage = (self.bootstrap.interval(of[0], of[1:]) for of in means.T)
        return {"bits": overall, "by_stage": dict(zip(STAGE_NAMES, of_stage, strict=True))}
