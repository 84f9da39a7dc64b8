"""Is an SQI any good? Risk against coverage, and what is lost with the windows that it flags.

Windows are kept in order of confidence. At coverage c, the share kept, the risk is the mean loss of
the kept windows (Geifman & El-Yaniv 2017, https://arxiv.org/abs/1705.08500); the generalised risk
is their loss per window of the whole set (Traub et al. 2024, https://arxiv.org/abs/2407.01032).

  AURC  = mean over k = 1..N of the risk of the k most confident windows
  AUGRC = area under the generalised risk, straight lines from 0 at coverage 0

Less is better. AURC leans on the first few windows, which every one of its terms holds; AUGRC
weighs all windows alike, and for a 0/1 loss it is (1 - AUROC) a (1 - a) + (1 - a)^2 / 2 at accuracy
a. Confidence that knows nothing has AURC = mean loss and AUGRC = half of it. The oracle knows each
window's loss: what a score has above it is its excess.

Windows of equal confidence come in no order: every figure here is its mean over all their orders,
in closed form. Within a group of ties the loss kept grows in a straight line, so that a loss may
stand as its group's mean.

Intervals are by bootstrap over subjects, all scores and stages on the same draws. In the draws
windows next to each other in confidence are taken for ties, in `BINS` groups at most, so that a
draw is a weighted sum of the subjects' counts; the values themselves are exact.

A score over what is kept can look better while the night got worse: flags fall on Wake and movement
first. `rejection` tells what went with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.scores import Bootstrap, Interval, ScoredNights
from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES, UNSCORED, Stage

BINS = 512  # of confidence, in the draws
RANDOM, ORACLE = "random", "oracle"
AREAS = ("aurc", "augrc")


@dataclasses.dataclass(frozen=True)
class JudgedWindows:
    """Windows whose loss is known. All arrays are [N]; those with stage -1 enter nothing.

    Attributes:
      loss: what a kept window costs: 1 for an error and 0 otherwise, or a loss of information in
        bits; any finite number.
      subject: whose window it is.
      stage: the scored stage, -1 where nobody scored it; None where stages are not asked for.
      night: the recording that it is of; None where every subject has one.
    """

    loss: NDArray[np.floating]
    subject: NDArray
    stage: NDArray[np.integer] | None = None
    night: NDArray | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            values = getattr(self, field.name)
            if values is not None and np.shape(values) != (len(self.loss),):
                raise ValueError(
                    f"{field.name}: expected [{len(self.loss)}] as the losses, got"
                    f" {list(np.shape(values))}"
                )
        if self.stage is not None:
            stage = np.asarray(self.stage)
            if stage.dtype.kind not in "iu":
                raise ValueError(f"stage: expected integers, got {stage.dtype}")
            if stage.size and (stage.min() < UNSCORED or stage.max() >= NUM_STAGES):
                raise ValueError(f"stage: outside {UNSCORED}..{NUM_STAGES - 1}")
        if not self.scored.any():
            raise DatasetError("No window of these nights is scored: there is no risk to measure.")
        _assert_finite("loss", np.asarray(self.loss)[self.scored])

    @property
    def scored(self) -> NDArray[np.bool_]:
        """[N] windows that enter the figures."""
        if self.stage is None:
            return np.ones(len(self.loss), bool)
        return np.asarray(self.stage) != UNSCORED


@dataclasses.dataclass(frozen=True)
class RiskCoverage:
    """Risk as ever more windows are kept, the most confident first; all [N].

    Attributes:
      coverage: share of the windows that are kept, 1/N to 1.
      risk: mean loss of those.
      generalised_risk: their loss per window of all.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    generalised_risk: NDArray[np.float64]


def risk_coverage(loss_N: ArrayLike, confidence_N: ArrayLike) -> RiskCoverage:
    """The curve, in the mean over all orders of windows that tie.

    Args:
      loss_N: [N] finite.
      confidence_N: [N] higher is better; infinity is allowed, NaN is not.

    Raises:
      ValueError: unequal sizes, no window, or NaN.
    """
    loss, order, group = _in_order(loss_N, confidence_N)
    mean = np.bincount(group, loss[order]) / np.bincount(group)
    kept = np.cumsum(mean[group])
    number = np.arange(1, len(loss) + 1)
    return RiskCoverage(number / len(loss), kept / number, kept / len(loss))


def aurc(loss_N: ArrayLike, confidence_N: ArrayLike) -> float:
    """Area under the risk-coverage curve: mean risk of the k most confident, k = 1..N."""
    return _exact_areas(loss_N, confidence_N)[0]


def augrc(loss_N: ArrayLike, confidence_N: ArrayLike) -> float:
    """Area under the generalised risk-coverage curve, by straight lines from (0, 0)."""
    return _exact_areas(loss_N, confidence_N)[1]


def judge(
    windows: JudgedWindows,
    scores: Mapping[str, ArrayLike],
    config: EvaluationConfig,
    *,
    baseline: str = RANDOM,
) -> dict[str, Any]:
    """How well each score tells windows of high loss from others: overall, and within each stage.

    Args:
      windows: N windows and their loss.
      scores: name -> [N], higher is better; NaN is allowed where nobody scored the window.
        `RANDOM` and `ORACLE` are put beside them.
      config: draws, coverage and seed of the bootstrap.
      baseline: the score, or `RANDOM`, that differences are taken from.

    Returns:
      Plain JSON, None where a number is not defined; an interval is {"value", "low", "high"}:
        "windows", "unscored", "baseline", "bootstrap": {"subjects", "draws", "confidence", "seed"}
        "pooled" and "by_stage": stage -> {"windows", "mean_loss",
          "scores": name -> {"aurc", "augrc": each {"area", "excess" over the oracle,
            "against_baseline" (score - baseline; less is better), "way_to_oracle": share of the
            way from the baseline to the oracle; None where there is no way to go}}}

    Raises:
      ValueError: a score that does not fit, is NaN at a scored window, or has a reserved name; an
        unknown baseline.
    """
    if reserved := {RANDOM, ORACLE} & set(scores):
        raise ValueError(f"{sorted(reserved)}: these scores are made here; use another name")
    if baseline not in {RANDOM, *scores}:
        raise ValueError(f"baseline {baseline!r}: none of {[RANDOM, *scores]}")
    scored = windows.scored
    loss = np.asarray(windows.loss, np.float64)[scored]
    _, subject, bootstrap = subject_bootstrap(np.asarray(windows.subject)[scored], config)
    confidences = {}
    for name, values in scores.items():
        values = np.asarray(values, np.float64)
        if values.shape != (len(scored),):
            raise ValueError(f"{name}: expected [{len(scored)}], got {list(values.shape)}")
        confidences[name] = values[scored]
        _assert_finite(name, confidences[name], infinite=True)

    def within(which: NDArray[np.bool_]) -> dict[str, Any]:
        if not which.any():
            return {"windows": 0, "mean_loss": None, "scores": {}}
        here = {name: values[which] for name, values in confidences.items()}
        here |= {RANDOM: np.zeros(int(which.sum())), ORACLE: -loss[which]}
        return {
            "windows": int(which.sum()),
            "mean_loss": float(loss[which].mean()),
            "scores": _compared(bootstrap, loss[which], subject[which], here, baseline),
        }

    by_stage = {}
    if windows.stage is not None:
        stage = np.asarray(windows.stage)[scored]
        by_stage = {name: within(stage == number) for number, name in enumerate(STAGE_NAMES)}
    return {
        "windows": int(scored.sum()),
        "unscored": int((~scored).sum()),
        "baseline": baseline,
        "bootstrap": told(bootstrap, config),
        "pooled": within(np.ones(len(loss), bool)),
        "by_stage": by_stage,
    }


def rejection(
    windows: JudgedWindows, confidence_N: ArrayLike, threshold: float, config: EvaluationConfig
) -> dict[str, Any]:
    """What is lost when the windows of a smaller confidence than `threshold` are dropped.

    Total sleep time is that of the scored stages, so what it is off by comes from dropping windows
    alone, not from staging: a perfect stager would have it, too.

    Args:
      windows: N windows with stages.
      confidence_N: [N] higher is better; NaN is allowed where nobody scored the window.
      threshold: chosen on other nights than these.
      config: draws, coverage and seed of the bootstrap.

    Returns:
      Plain JSON, None where a number is not defined:
        "threshold", "windows", "unscored", "bootstrap"
        "flagged": share of all scored windows that is dropped
        "risk": {"all", "kept", "change"}: mean loss
        "flagged_by_stage": stage -> share of the stage's windows that is dropped
        "stage_share": stage -> {"all", "kept", "change"}: share of the stage in the windows
        "tst_min": means over nights, in minutes: {"all", "left_out" (kept windows alone are
          counted, less the truth), "scaled_up" (sleep's share of the kept windows times the scored
          time, less the truth)}; "nights", and "nights_without_kept", which the last leaves out

    Raises:
      ValueError: no stages, sizes that do not fit, NaN at a scored window, a night of two
        subjects.
    """
    if windows.stage is None:
        raise ValueError("stage: needed to tell what is lost")
    scored = windows.scored
    confidence = np.asarray(confidence_N, np.float64)
    if confidence.shape != scored.shape:
        raise ValueError(f"confidence: expected [{len(scored)}], got {list(confidence.shape)}")
    _assert_finite("confidence", confidence[scored], infinite=True)
    kept = (confidence[scored] >= threshold).astype(np.float64)
    loss = np.asarray(windows.loss, np.float64)[scored]
    stage = np.asarray(windows.stage)[scored]
    _, subject, bootstrap = subject_bootstrap(np.asarray(windows.subject)[scored], config)
    subjects = bootstrap.subjects

    def of_subject(weight_N: NDArray) -> NDArray:
        """[U, K] sums over each subject's windows of each stage."""
        at = subject * NUM_STAGES + stage
        return np.bincount(at, weight_N, subjects * NUM_STAGES).reshape(subjects, NUM_STAGES)

    night_of = windows.subject if windows.night is None else windows.night
    night_names, night = _numbered(np.asarray(night_of)[scored])
    whose = np.zeros(len(night_names), np.int64)
    whose[night] = subject
    if (whose[night] != subject).any():
        raise ValueError("night: a recording is of two subjects; its name has to be unique")
    asleep = stage != Stage.WAKE
    time, sleep, kept_time, kept_sleep = (
        np.bincount(night, weight, len(night_names)) * (WINDOW_S / 60.0)
        for weight in (np.ones(len(night)), asleep, kept, kept * asleep)
    )
    any_kept = kept_time > 0
    scaled = np.divide(kept_sleep * time, kept_time, out=sleep.copy(), where=any_kept)
    parts_UX = np.concatenate(
        [
            of_subject(np.ones(len(stage))),
            of_subject(kept),
            np.stack([np.bincount(subject, w, subjects) for w in (loss, kept * loss)], 1),
            np.stack(
                [
                    np.bincount(whose, weight, subjects)
                    for weight in (np.ones(len(night_names)), sleep, kept_sleep - sleep,
                                   any_kept, scaled - sleep)
                ],
                1,
            ),
        ],
        axis=1,
    )  # fmt: skip

    def figures(parts_X: NDArray) -> dict[str, NDArray[np.float64]]:
        """Name -> values [...] of sums [..., X]."""
        all_K, kept_K = parts_X[..., :NUM_STAGES], parts_X[..., NUM_STAGES : 2 * NUM_STAGES]
        loss_all, loss_kept, nights, tst, left_out, usable, scaled_up = np.moveaxis(
            parts_X[..., 2 * NUM_STAGES :], -1, 0
        )
        found = {"flagged": 1.0 - _ratio(kept_K.sum(-1), all_K.sum(-1))}
        found["risk all"] = _ratio(loss_all, all_K.sum(-1))
        found["risk kept"] = _ratio(loss_kept, kept_K.sum(-1))
        found["risk change"] = found["risk kept"] - found["risk all"]
        for number, name in enumerate(STAGE_NAMES):
            found[f"flagged {name}"] = 1.0 - _ratio(kept_K[..., number], all_K[..., number])
            before = _ratio(all_K[..., number], all_K.sum(-1))
            after = _ratio(kept_K[..., number], kept_K.sum(-1))
            found |= {
                f"{name} all": before,
                f"{name} kept": after,
                f"{name} change": after - before,
            }
        found["tst all"] = _ratio(tst, nights)
        found["tst left_out"] = _ratio(left_out, nights)
        found["tst scaled_up"] = _ratio(scaled_up, usable)
        return found

    values = figures(parts_UX.sum(0))
    draws = figures(bootstrap.draw(parts_UX))

    def interval(name: str) -> Interval:
        return bootstrap.interval(float(values[name]), draws[name])

    def compared(name: str) -> dict[str, Interval]:
        return {part: interval(f"{name} {part}") for part in ("all", "kept", "change")}

    return {
        "threshold": threshold,
        "windows": len(loss),
        "unscored": int((~scored).sum()),
        "bootstrap": told(bootstrap, config),
        "flagged": interval("flagged"),
        "risk": compared("risk"),
        "flagged_by_stage": {name: interval(f"flagged {name}") for name in STAGE_NAMES},
        "stage_share": {name: compared(name) for name in STAGE_NAMES},
        "tst_min": {part: interval(f"tst {part}") for part in ("all", "left_out", "scaled_up")},
        "nights": len(night_names),
        "nights_without_kept": int((~any_kept).sum()),
    }


def _assert_finite(name: str, values: NDArray, infinite: bool = False) -> None:
    """Refuses NaN, and infinity too unless that is allowed."""
    broken, what = (np.isnan(values), "NaN") if infinite else (~np.isfinite(values), "not finite")
    if count := np.count_nonzero(broken):
        raise ValueError(f"{name}: {count} of {len(values)} scored windows are {what}")


def subject_bootstrap(
    subjects_N: ArrayLike, config: EvaluationConfig
) -> tuple[list[str], NDArray[np.int64], Bootstrap]:
    """Draws of subjects for figures of windows, the same as for scores of the same subjects.

    Args:
      subjects_N: [N] whose window it is, N > 0.
      config: draws, coverage and seed.

    Returns:
      Names of the U subjects, the number of each window's subject [N], and the draws.
    """
    names, subject = _numbered(np.asarray(subjects_N))
    # A subject stands for one night of one window: all that is asked for is the draws.
    nights = ScoredNights(names, names, [np.zeros(1, np.int8)] * len(names))
    return names, subject, Bootstrap.of(nights, config)


def told(bootstrap: Bootstrap, config: EvaluationConfig) -> dict[str, Any]:
    """What was drawn, for the results."""
    return {
        "subjects": bootstrap.subjects,
        "draws": config.bootstrap_draws,
        "confidence": config.confidence,
        "seed": config.bootstrap_seed,
    }


def _numbered(ids_N: NDArray) -> tuple[list[str], NDArray[np.int64]]:
    """The ids as text, in order, and which of them each window has."""
    # Windows of a night lie together, and sorting a million texts is slow.
    starts = np.flatnonzero(np.append(True, ids_N[1:] != ids_N[:-1]))
    names, of_run = np.unique(ids_N[starts].astype(str), return_inverse=True)
    return names.tolist(), np.repeat(of_run, np.diff(starts, append=len(ids_N)))


def _ratio(numerator: NDArray, denominator: NDArray) -> NDArray[np.float64]:
    """numerator / denominator, NaN where that is 0."""
    denominator = np.asarray(denominator, np.float64)
    return np.divide(
        numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0
    )


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


def _exact_areas(loss_N: ArrayLike, confidence_N: ArrayLike) -> tuple[float, float]:
    loss, order, group = _in_order(loss_N, confidence_N)
    counts, sums = np.bincount(group), np.bincount(group, loss[order])
    areas = _areas(counts[None], sums[None])
    return float(areas[0][0]), float(areas[1][0])


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
    subject: NDArray[np.int64],
    confidences: Mapping[str, NDArray[np.float64]],
    baseline: str,
) -> dict[str, Any]:
    """Areas of each score, its excess over the oracle, and its way from the baseline to it."""
    values = {name: _exact_areas(loss, each) for name, each in confidences.items()}
    draws = {
        name: _drawn_areas(bootstrap, loss, each, subject) for name, each in confidences.items()
    }
    result: dict[str, Any] = {}
    for name in confidences:
        result[name] = {}
        for number, area in enumerate(AREAS):
            mine, base, best = (values[key][number] for key in (name, baseline, ORACLE))
            mine_D, base_D, best_D = (draws[key][number] for key in (name, baseline, ORACLE))
            # Where baseline and oracle are one, what separates them is rounding.
            way, way_D = base - best, base_D - best_D
            least = 1e-12 * max(abs(base), 1e-300)
            share = (base - mine) / way if way > least else float("nan")
            shares_D = _ratio(base_D - mine_D, np.where(way_D > least, way_D, 0.0))
            result[name][area] = {
                "area": bootstrap.interval(mine, mine_D),
                "excess": bootstrap.interval(mine - best, mine_D - best_D),
                "against_baseline": bootstrap.interval(mine - base, mine_D - base_D),
                "way_to_oracle": bootstrap.interval(share, shares_D),
            }
    return result
