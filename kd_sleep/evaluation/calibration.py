"""Whether a system's probabilities mean what they say, before and after one temperature.

With p the probabilities of W scored windows and y their stages,

    NLL   = mean of -log p(y), in nats
    Brier = mean of sum_k (p_k - [y = k])^2, from 0 to 2 (Brier 1950, several classes)
    ECE   = sum over bins of |hits - sum of confidence| / W

A window's confidence is its highest probability, a hit is that its most probable stage is right,
and the bins are 15 of equal width on (0, 1], open on the left (Guo et al. 2017,
https://arxiv.org/abs/1706.04599). With few windows ECE is too high, because chance alone parts hits
from confidence, and a bootstrap's draws repeat that: its interval leans upward.

The temperature divides a system's logits and is fitted on the validation nights by NLL, one for
each system. It changes no prediction. Validation chose each network's best step, too, so the fit
may be a little too sure of itself; the nights that are judged had no say in either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.bootstrap import Bootstrap, ScoredNights
from kd_sleep.evaluation.results import Bin, Calibration, CalibrationScores, SystemCalibration
from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS
from kd_sleep.metrics import COLDEST, HOTTEST, best_temperature
from kd_sleep.stages import NUM_STAGES

BINS = 15
_EDGES = np.linspace(0.0, 1.0, BINS + 1)
_SCORES = ("nll", "brier", "ece")  # the first of what `_scores` returns

Logits = Sequence[NDArray[np.floating]]  # [N_r, K] of each night; log-probabilities will do
Validation = tuple[ScoredNights, Mapping[str, Logits]]


def calibration(
    nights: ScoredNights,
    logits: Mapping[str, Logits],
    config: EvaluationConfig,
    validation: Validation | None,
) -> Calibration:
    """Calibration of every system on the same nights, before and after its temperature.

    Args:
      nights: R nights with their labels, which judge and fit nothing.
      logits: system -> logits, or log-probabilities, [N_r, K] for each of the R nights.
      config: draws, coverage and seed of the bootstrap over subjects.
      validation: nights and logits of the same systems to fit temperatures on; None fits none.

    Raises:
      ValueError: where logits do not fit the nights or are not finite; it names the system and the
        recording.
      DatasetError: if no window of any night is scored.
    """
    labels = np.concatenate(nights.labels)
    scored = labels >= 0
    if not scored.any():
        raise DatasetError("These nights have no scored window, so there is nothing to score.")
    subjects = np.repeat(nights.subject_ids, [len(night) for night in nights.labels])
    _, subject, bootstrap = Bootstrap.of_windows(subjects[scored], config)
    systems: dict[str, SystemCalibration] = {}
    drawn: dict[str, tuple[NDArray, NDArray]] = {}  # of the last of before and after
    for name, system_logits in logits.items():
        logits_KW = _scored_windows(name, nights, system_logits)
        temperature, note = _temperature(validation, name)
        found = []
        for at in [1.0] if temperature is None else [1.0, temperature]:
            columns_WX, bins = _columns(logits_KW / at, labels[scored].astype(np.intp))
            sums_UX = np.stack(
                [np.bincount(subject, c, bootstrap.subjects) for c in columns_WX], axis=1
            )
            cells = subject * BINS + bins
            by_bin_U = [
                np.bincount(cells, c, bootstrap.subjects * BINS).reshape(-1, BINS)
                for c in (None, *columns_WX[3:])
            ]
            sums_U = np.hstack([sums_UX[:, :3], *by_bin_U])
            drawn[name] = _scores(sums_U.sum(0)), _scores(bootstrap.draw(sums_U))
            found.append(_calibration_scores(bootstrap, sums_U.sum(0), *drawn[name]))
        after = None if temperature is None else found[1]
        systems[name] = SystemCalibration(temperature, note, found[0], after)
    changes = None
    if {DISTILLED, HARD_LABELS} <= set(drawn):
        ours, theirs = drawn[DISTILLED], drawn[HARD_LABELS]
        changes = {
            name: bootstrap.interval(
                ours[0][place] - theirs[0][place], ours[1][:, place] - theirs[1][:, place]
            )
            for place, name in enumerate(_SCORES)
        }
    fitted_on = [] if validation is None else validation[0].labels
    windows = sum(int((night >= 0).sum()) for night in fitted_on)
    return Calibration(BINS, len(fitted_on), windows, systems, changes)


def _scored_windows(system: str, nights: ScoredNights, logits: Logits) -> NDArray[np.float64]:
    """[K, W] of all scored windows; sums over a few long rows are quicker than over many short."""
    if len(logits) != len(nights.labels):
        raise ValueError(f"{system}: {len(logits)} nights, expected {len(nights.labels)}")
    for recording, labels, night in zip(nights.recording_ids, nights.labels, logits, strict=True):
        if night.shape != (shape := (len(labels), NUM_STAGES)):
            raise ValueError(f"{system}, {recording}: expected logits {shape}, got {night.shape}")
        if broken := np.count_nonzero(~np.isfinite(night)):
            raise ValueError(f"{system}, {recording}: {broken} logits are not finite")
    scored = np.concatenate(nights.labels) >= 0
    return np.concatenate(logits)[scored].T.astype(np.float64, order="C")


def _temperature(validation: Validation | None, system: str) -> tuple[float | None, str | None]:
    """A system's temperature, and what there is to say about it."""
    if validation is None:
        return None, "No validation nights to fit a temperature on."
    logits_KW = _scored_windows(system, validation[0], validation[1][system])
    if not logits_KW.size:
        return None, "No window of the validation nights is scored."
    labels = np.concatenate(validation[0].labels)
    value = best_temperature(logits_KW, labels[labels >= 0].astype(np.intp))
    if value in (COLDEST, HOTTEST):
        return value, f"At the end of what is tried, {COLDEST:g} to {HOTTEST:g}."
    return value, None


def _columns(logits_KW: NDArray, stage_W: NDArray) -> tuple[list[NDArray], NDArray[np.intp]]:
    """Of each window: 1, NLL, Brier score, confidence and hit; and its bin."""
    logits_KW = logits_KW - logits_KW.max(0)
    probs_KW = np.exp(logits_KW)
    total = probs_KW.sum(0)
    probs_KW /= total
    window = np.arange(stage_W.size)
    nll = np.log(total) - logits_KW[stage_W, window]
    # sum_k (p_k - [y = k])^2, multiplied out.
    brier = (probs_KW * probs_KW).sum(0) - 2 * probs_KW[stage_W, window] + 1
    confidence, hit = probs_KW.max(0), probs_KW.argmax(0) == stage_W
    bins = np.clip(np.searchsorted(_EDGES, confidence, side="left") - 1, 0, BINS - 1)
    return [np.ones(stage_W.size), nll, brier, confidence, hit], bins


def _scores(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """NLL, Brier, ECE, then the accuracy of each bin, [..., 3 + BINS]; NaN without windows."""
    total = sums[..., :1]
    count, confidence, hits = np.split(sums[..., 3:], 3, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is NaN here
        ece = np.abs(hits - confidence).sum(-1, keepdims=True) / total
        return np.concatenate([sums[..., 1:3] / total, ece, hits / count], -1)


def _calibration_scores(
    bootstrap: Bootstrap, sums: NDArray, values_M: NDArray, draws_DM: NDArray
) -> CalibrationScores:
    nll, brier, ece, *accuracies = (
        bootstrap.interval(*pair) for pair in zip(values_M, draws_DM.T, strict=True)
    )
    count, confidence, _ = np.split(sums[3:], 3)
    filled = np.flatnonzero(count)
    bins = [Bin(int(count[n]), float(confidence[n] / count[n]), accuracies[n]) for n in filled]
    return CalibrationScores(nll, brier, ece, bins)
