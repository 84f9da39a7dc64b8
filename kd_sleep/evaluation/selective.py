"""Risk against coverage of a confidence score, and what is lost with the windows that it flags.

Windows are kept in order of confidence. At coverage c, the share kept, the risk is the mean loss of
the kept windows (Geifman & El-Yaniv 2017, https://arxiv.org/abs/1705.08500); the generalised risk
is their loss per window of the whole set (Traub et al. 2024, https://arxiv.org/abs/2407.01032).

  AURC  = mean over k = 1..N of the risk of the k most confident windows
  AUGRC = area under the generalised risk, straight lines from 0 at coverage 0

Less is better. AURC leans on the first few windows, which every one of its terms holds; AUGRC
weighs all windows alike, and for a 0/1 loss it is (1 - AUROC) a (1 - a) + (1 - a)^2 / 2 at accuracy
a. A random order has AURC = mean loss and AUGRC = half of it. The oracle knows each window's loss.

Windows of equal confidence come in no order: every figure here is its mean over all their orders,
in closed form. In the draws of the bootstrap over subjects, windows next to each other in
confidence are taken for ties, in `BINS` groups at most; the values themselves are exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.config import EvaluationConfig
from kd_sleep.evaluation.bootstrap import Bootstrap
from kd_sleep.evaluation.results import Area, Flagged, Interval, Judged
from kd_sleep.stages import STAGE_NAMES

BINS = 512  # of confidence, in the draws
POINTS = 100  # of a curve
RANDOM, ORACLE = "random", "oracle"


def risk_coverage(
    loss_N: ArrayLike, confidence_N: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coverage and risk [N] as ever more windows are kept, the mean over all orders of ties.

    Args:
      loss_N: [N] finite.
      confidence_N: [N] higher is better; infinity is allowed, NaN is not.

    Raises:
      ValueError: unequal sizes, no window, or NaN.
    """
    loss, order, group = _in_order(loss_N, confidence_N)
    mean = np.bincount(group, loss[order]) / np.bincount(group)
    number = np.arange(1, len(loss) + 1)
    return number / len(loss), np.cumsum(mean[group]) / number


def aurc_and_augrc(loss_N: ArrayLike, confidence_N: ArrayLike) -> tuple[float, float]:
    """AURC and AUGRC; arguments and errors as of `risk_coverage`."""
    loss, order, group = _in_order(loss_N, confidence_N)
    aurc, augrc = _areas(np.bincount(group)[None], np.bincount(group, loss[order])[None])
    return float(aurc[0]), float(augrc[0])


def judge(
    loss_N: ArrayLike,
    subjects_N: ArrayLike,
    scores: Mapping[str, ArrayLike],
    config: EvaluationConfig,
    baseline: str,
) -> Judged:
    """How well each score tells windows of high loss from others.

    Args:
      loss_N: [N] what it costs to keep a window: 1 for an error and 0 otherwise, or bits.
      subjects_N: [N] whose window it is.
      scores: name -> [N], higher is better. `RANDOM` and `ORACLE` are put beside them.
      config: draws, coverage and seed of the bootstrap.
      baseline: the score that differences are taken from.

    Raises:
      ValueError: see `risk_coverage`.
    """
    loss = np.asarray(loss_N, np.float64)
    _, subject, bootstrap = Bootstrap.of_windows(subjects_N, config)
    confidences = {name: np.asarray(each, np.float64) for name, each in scores.items()}
    confidences |= {RANDOM: np.zeros(len(loss)), ORACLE: -loss}
    values = {name: aurc_and_augrc(loss, each) for name, each in confidences.items()}
    draws = {
        name: _drawn_areas(bootstrap, loss, each, subject) for name, each in confidences.items()
    }
    found: list[dict[str, Area]] = [{}, {}]
    for number, areas in enumerate(found):
        base, best = (values[key][number] for key in (baseline, ORACLE))
        base_D, best_D = (draws[key][number] for key in (baseline, ORACLE))
        # Where baseline and oracle are one, what separates them is rounding.
        least = 1e-12 * max(abs(base), 1e-300)
        way, way_D = base - best, np.where(base_D - best_D > least, base_D - best_D, 0.0)
        for name in confidences:
            mine, mine_D = values[name][number], draws[name][number]
            share = (base - mine) / way if way > least else float("nan")
            areas[name] = Area(
                bootstrap.interval(mine, mine_D),
                bootstrap.interval(mine - base, mine_D - base_D),
                bootstrap.interval(share, _ratio(base_D - mine_D, way_D)),
            )
    curves = {name: _curve(loss, each) for name, each in confidences.items()}
    return Judged(baseline, found[0], found[1], curves)


def flagged(
    flagged_N: NDArray[np.bool_],
    stage_N: NDArray[np.integer],
    error_N: ArrayLike,
    bits_N: ArrayLike,
    subjects_N: ArrayLike,
    config: EvaluationConfig,
) -> Flagged:
    """Which windows a flag falls on, and the risk of the others.

    Args:
      flagged_N: [N] by a threshold that was chosen on other nights.
      stage_N: [N] the scored stage.
      error_N, bits_N: [N] losses of the windows.
      subjects_N: [N] whose window it is.
      config: draws, coverage and seed of the bootstrap.
    """
    names, subject, bootstrap = Bootstrap.of_windows(subjects_N, config)

    def share(values_N: ArrayLike, within_N: NDArray) -> Interval:
        """Mean of a value over the windows `within`."""
        weights = np.stack([within_N, np.asarray(values_N, np.float64) * within_N])
        sums_U2 = np.stack([np.bincount(subject, w, len(names)) for w in weights], 1)
        drawn = bootstrap.draw(sums_U2)
        value = _ratio(sums_U2.sum(0)[1:], sums_U2.sum(0)[:1])
        return bootstrap.interval(float(value[0]), _ratio(drawn[:, 1], drawn[:, 0]))

    everything = np.ones(len(subject))
    return Flagged(
        share(flagged_N, everything),
        {name: share(flagged_N, stage_N == stage) for stage, name in enumerate(STAGE_NAMES)},
        share(error_N, everything),
        share(error_N, ~flagged_N),
        share(bits_N, everything),
        share(bits_N, ~flagged_N),
    )


def _ratio(numerator: NDArray, denominator: NDArray) -> NDArray[np.float64]:
    """numerator / denominator, NaN where that is 0."""
    shape = np.shape(denominator)
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0)


def _curve(loss_N: NDArray, confidence_N: NDArray) -> tuple[list[float], list[float]]:
    coverage, risk = risk_coverage(loss_N, confidence_N)
    # The first few windows are chance.
    first = min(len(loss_N) - 1, max(20, len(loss_N) // 100))
    at = np.unique(np.linspace(first, len(loss_N) - 1, POINTS).round().astype(np.int64))
    return coverage[at].tolist(), risk[at].tolist()


def _in_order(
    loss_N: ArrayLike, confidence_N: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Losses; the windows in order of falling confidence; and, in this order, their tie's number.

    Raises:
      ValueError: see `risk_coverage`.
    """
    loss, confidence = np.asarray(loss_N, np.float64), np.asarray(confidence_N, np.float64)
    if loss.ndim != 1 or loss.shape != confidence.shape or not loss.size:
        raise ValueError(
            f"expected as many losses as confidences, [N], N > 0; got {list(loss.shape)} and"
            f" {list(confidence.shape)}"
        )
    if broken := np.count_nonzero(~np.isfinite(loss)):
        raise ValueError(f"loss: {broken} of {len(loss)} windows are not finite")
    if broken := np.count_nonzero(np.isnan(confidence)):
        raise ValueError(f"confidence: {broken} of {len(loss)} windows are NaN")
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    return loss, order, np.cumsum(np.append(False, ranked[1:] != ranked[:-1]))


def _areas(
    counts_DB: NDArray[np.integer], sums_DB: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AURC and AUGRC [D] of B groups of ties, the most confident first; NaN without windows.

    Within a group of mean loss m that follows a windows of total loss S, the risk of the first k is
    (S + (k - a) m) / k, whose sum over the group's k needs nothing but harmonic numbers.

    Args:
      counts_DB: windows in each group.
      sums_DB: their total loss.
    """
    upto = np.cumsum(counts_DB, axis=1)
    before = upto - counts_DB
    loss_upto = np.cumsum(sums_DB, axis=1)
    loss_before = loss_upto - sums_DB
    total = upto[:, -1]
    harmonic = np.append(0.0, np.cumsum(1.0 / np.arange(1, int(total.max(initial=0)) + 1)))
    mean = np.divide(sums_DB, counts_DB, out=np.zeros(sums_DB.shape), where=counts_DB > 0)
    risks = sums_DB + (loss_before - before * mean) * (harmonic[upto] - harmonic[before])
    generalised = 0.5 * counts_DB * (loss_before + loss_upto)
    return _ratio(risks.sum(1), total), _ratio(generalised.sum(1), total.astype(np.float64) ** 2)


def _drawn_areas(
    bootstrap: Bootstrap, loss: NDArray, confidence: NDArray, subject: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AURC and AUGRC [D] of every draw."""
    _, order, group = _in_order(loss, confidence)
    if group[-1] >= BINS:  # by rank; a group of ties stays together
        first = np.searchsorted(group, np.arange(group[-1] + 1))
        _, group = np.unique((first * BINS // len(group))[group], return_inverse=True)
    bins, subjects = int(group[-1]) + 1, bootstrap.subjects
    at = subject[order] * bins + group
    counts_UB = np.bincount(at, minlength=subjects * bins).reshape(subjects, bins)
    sums_UB = np.bincount(at, loss[order], subjects * bins).reshape(subjects, bins)
    counts_DB = np.rint(bootstrap.draw(counts_UB)).astype(np.int64)
    return _areas(counts_DB, bootstrap.draw(sums_UB))
