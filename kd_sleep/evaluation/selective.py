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

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.bootstrap import Bootstrap
from kd_sleep.evaluation.results import Area, Judged, Rejection
from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES, UNSCORED, Stage

BINS = 512  # of confidence, in the draws
POINTS = 100  # of a curve
RANDOM, ORACLE = "random", "oracle"


@dataclasses.dataclass(frozen=True)
class JudgedWindows:
    """Windows whose loss is known. All arrays are [N]; those with stage -1 enter nothing.

    Attributes:
      loss: cost of keeping a window: 1 for an error and 0 otherwise, or bits; any finite number.
      subject: whose window it is.
      stage: the scored stage, -1 where nobody scored it.
      night: the recording that it is of.
    """

    loss: NDArray[np.floating]
    subject: NDArray
    stage: NDArray[np.integer]
    night: NDArray

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            shape = np.shape(getattr(self, field.name))
            if shape != (len(self.loss),):
                raise ValueError(f"{field.name}: expected [{len(self.loss)}], got {list(shape)}")
        if self.stage.dtype.kind not in "iu" or not self.scored.any():
            raise DatasetError("No window of these nights is scored: there is no risk to measure.")
        if self.stage.min() < UNSCORED or self.stage.max() >= NUM_STAGES:
            raise ValueError(f"stage: outside {UNSCORED}..{NUM_STAGES - 1}")
        _assert_finite("loss", np.asarray(self.loss)[self.scored])

    @property
    def scored(self) -> NDArray[np.bool_]:
        """[N] windows that enter the figures."""
        return np.asarray(self.stage) != UNSCORED

    def confidence(self, name: str, values_N: ArrayLike) -> NDArray[np.float64]:
        """Values of the scored windows; NaN is allowed at the others only."""
        values = np.asarray(values_N, np.float64)
        if values.shape != self.scored.shape:
            raise ValueError(f"{name}: expected [{len(self.scored)}], got {list(values.shape)}")
        _assert_finite(name, values[self.scored], infinite=True)
        return values[self.scored]


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
    windows: JudgedWindows,
    scores: Mapping[str, ArrayLike],
    config: EvaluationConfig,
    *,
    baseline: str = RANDOM,
) -> Judged:
    """How well each score tells windows of high loss from others: overall, and within each stage.

    Args:
      windows: N windows and their loss.
      scores: name -> [N], higher is better; NaN is allowed where nobody scored the window.
        `RANDOM` and `ORACLE` are put beside them.
      config: draws, coverage and seed of the bootstrap.
      baseline: the score, or `RANDOM`, that differences are taken from.

    Raises:
      ValueError: a score that does not fit, is NaN at a scored window, or has a reserved name; an
        unknown baseline.
    """
    if reserved := {RANDOM, ORACLE} & set(scores):
        raise ValueError(f"{sorted(reserved)}: these scores are made here; use another name")
    if baseline not in {RANDOM, *scores}:
        raise ValueError(f"baseline {baseline!r}: none of {[RANDOM, *scores]}")
    loss = np.asarray(windows.loss, np.float64)[windows.scored]
    stage = windows.stage[windows.scored]
    _, subject, bootstrap = Bootstrap.of_windows(windows.subject[windows.scored], config)
    confidence = {name: windows.confidence(name, values) for name, values in scores.items()}
    confidence |= {RANDOM: np.zeros(len(loss)), ORACLE: -loss}

    def within(which: NDArray[np.bool_]) -> list[dict[str, Area]]:
        here = {name: values[which] for name, values in confidence.items()}
        return _compared(bootstrap, loss[which], subject[which], here, baseline)

    aurc, augrc = within(np.ones(len(loss), bool))
    return Judged(
        baseline,
        aurc,
        augrc,
        {
            name: within(stage == number)[1] if (stage == number).any() else {}
            for number, name in enumerate(STAGE_NAMES)
        },
        {name: _curve(loss, values) for name, values in confidence.items()},
    )


def rejection(
    windows: JudgedWindows, confidence_N: ArrayLike, threshold: float, config: EvaluationConfig
) -> Rejection:
    """What is lost when the windows of a smaller confidence than `threshold` are dropped.

    Args:
      windows: N windows.
      confidence_N: [N] higher is better; NaN is allowed where nobody scored the window.
      threshold: chosen on other nights than these.
      config: draws, coverage and seed of the bootstrap.

    Raises:
      ValueError: sizes that do not fit, or NaN at a scored window.
    """
    kept = (windows.confidence("confidence", confidence_N) >= threshold).astype(np.float64)
    loss = np.asarray(windows.loss, np.float64)[windows.scored]
    stage = windows.stage[windows.scored]
    names, subject, bootstrap = Bootstrap.of_windows(windows.subject[windows.scored], config)
    _, first = np.unique(windows.night[windows.scored].astype(str), return_index=True)

    def by_stage(weights: NDArray | None = None) -> NDArray:
        """[U, K] sums over each subject's windows of each stage."""
        cell = np.bincount(subject * NUM_STAGES + stage, weights, len(names) * NUM_STAGES)
        return cell.reshape(len(names), NUM_STAGES)

    sums_UX = np.concatenate(
        [
            by_stage(),
            by_stage(1.0 - kept),
            by_stage(loss).sum(1, keepdims=True),
            by_stage(kept * loss).sum(1, keepdims=True),
            np.bincount(subject[first], minlength=len(names))[:, None],
        ],
        axis=1,
    )

    def figures(sums_X: NDArray) -> list[NDArray[np.float64]]:
        all_K, dropped_K = sums_X[..., :NUM_STAGES], sums_X[..., NUM_STAGES : 2 * NUM_STAGES]
        loss_all, loss_kept, nights = np.moveaxis(sums_X[..., 2 * NUM_STAGES :], -1, 0)
        windows, dropped = all_K.sum(-1), dropped_K.sum(-1)
        asleep = dropped - dropped_K[..., Stage.WAKE]
        return [
            _ratio(dropped, windows),
            _ratio(loss_all, windows),
            _ratio(loss_kept, windows - dropped),
            -_ratio(asleep, nights) * (WINDOW_S / 60.0),
            *np.moveaxis(_ratio(dropped_K, all_K), -1, 0),
        ]

    pairs = zip(figures(sums_UX.sum(0)), figures(bootstrap.draw(sums_UX)), strict=True)
    flagged, risk_all, risk_kept, left_out, *stages = (bootstrap.interval(*pair) for pair in pairs)
    flagged_by_stage = dict(zip(STAGE_NAMES, stages, strict=True))
    return Rejection(threshold, flagged, flagged_by_stage, risk_all, risk_kept, left_out)


def _assert_finite(name: str, values: NDArray, infinite: bool = False) -> None:
    """Refuses NaN, and infinity too unless that is allowed."""
    broken, what = (np.isnan(values), "NaN") if infinite else (~np.isfinite(values), "not finite")
    if count := np.count_nonzero(broken):
        raise ValueError(f"{name}: {count} of {len(values)} scored windows are {what}")


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
    _assert_finite("loss", loss)
    _assert_finite("confidence", confidence, infinite=True)
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


def _compared(
    bootstrap: Bootstrap,
    loss: NDArray[np.float64],
    subject: NDArray[np.intp],
    confidences: Mapping[str, NDArray[np.float64]],
    baseline: str,
) -> list[dict[str, Area]]:
    """AURC and AUGRC of each score, with its way from the baseline to the oracle."""
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
    return found
