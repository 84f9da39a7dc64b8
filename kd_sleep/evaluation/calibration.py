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

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kd_sleep.config import EvaluationConfig
from kd_sleep.evaluation.bootstrap import Bootstrap, ScoredNights
from kd_sleep.evaluation.results import (
    Bin,
    Calibration,
    CalibrationScores,
    Interval,
    SystemCalibration,
)
from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS
from kd_sleep.metrics import COLDEST, HOTTEST, best_temperature
from kd_sleep.stages import NUM_STAGES

BINS = 15
_EDGES = np.linspace(0.0, 1.0, BINS + 1)
_SCORES = ("nll", "brier", "ece")  # the first of what `_scores` returns

Logits = Sequence[NDArray[np.floating]]  # [N_r, K] of each night; log-probabilities will do
Validation = tuple[ScoredNights, Mapping[str, Logits]]


@dataclasses.dataclass(frozen=True)
class _Windows:
    """The scored windows of all nights end to end: S logits (K, S), stages and nights of each."""

    logits_KS: NDArray[np.float64]
    stage: NDArray[np.intp]
    recording: NDArray[np.intp]

    @classmethod
    def of(cls, system: str, nights: ScoredNights, logits: Logits) -> _Windows:
        if len(logits) != len(nights.labels):
            raise ValueError(f"{system}: {len(logits)} nights, expected {len(nights.labels)}")
        for recording, labels, logits_NK in zip(
            nights.recording_ids, nights.labels, logits, strict=True
        ):
            shape = (len(labels), NUM_STAGES)
            if logits_NK.shape != shape:
                raise ValueError(
                    f"{system}, {recording}: expected logits {shape}, got {logits_NK.shape}"
                )
            if broken := np.count_nonzero(~np.isfinite(logits_NK)):
                raise ValueError(f"{system}, {recording}: {broken} logits are not finite")
        labels_W = np.concatenate(nights.labels)
        recording_W = np.repeat(np.arange(len(nights.labels)), list(map(len, nights.labels)))
        scored = labels_W >= 0
        # Stages first: sums over four long rows are quicker than over many rows of four.
        logits_KS = np.concatenate(logits)[scored].T.astype(np.float64, order="C")
        return cls(logits_KS, labels_W[scored].astype(np.intp), recording_W[scored])


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
    bootstrap = Bootstrap.of(nights, config)
    systems: dict[str, SystemCalibration] = {}
    drawn: dict[str, tuple[NDArray, NDArray]] = {}  # of the last of before and after
    for name, system_logits in logits.items():
        windows = _Windows.of(name, nights, system_logits)
        temperature, note = _temperature(validation, name)
        found = []
        for at in [1.0] if temperature is None else [1.0, temperature]:
            sums_U = bootstrap.by_subject(_sums(windows, at, len(nights.labels)))
            drawn[name] = _scores(sums_U.sum(0)), _scores(bootstrap.draw(sums_U))
            found.append(_calibration_scores(bootstrap, sums_U.sum(0), *drawn[name]))
        systems[name] = SystemCalibration(
            temperature, note, found[0], None if temperature is None else found[1]
        )
    changes = None
    if {DISTILLED, HARD_LABELS} <= set(drawn):
        ours, theirs = drawn[DISTILLED], drawn[HARD_LABELS]
        changes = {
            name: bootstrap.interval(
                ours[0][place] - theirs[0][place], ours[1][:, place] - theirs[1][:, place]
            )
            for place, name in enumerate(_SCORES)
        }
    labels = [] if validation is None else validation[0].labels
    scored = sum(int((night >= 0).sum()) for night in labels)
    return Calibration(BINS, len(labels), scored, systems, changes)


def _temperature(validation: Validation | None, system: str) -> tuple[float | None, str | None]:
    """A system's temperature, and what there is to say about it."""
    if validation is None:
        return None, "No validation nights to fit a temperature on."
    windows = _Windows.of(system, validation[0], validation[1][system])
    if not windows.stage.size:
        return None, "No window of the validation nights is scored."
    value = best_temperature(windows.logits_KS, windows.stage)
    if value in (COLDEST, HOTTEST):
        return value, f"At the end of what is tried, {COLDEST:g} to {HOTTEST:g}."
    return value, None


def _sums(windows: _Windows, temperature: float, recordings: int) -> NDArray[np.float64]:
    """What adds up over windows, [R, 3 + 3 BINS].

    Windows, NLL and Brier score; then windows, confidence and hits of each bin.
    """
    logits_KS = windows.logits_KS / temperature
    logits_KS -= logits_KS.max(0)
    probs_KS = np.exp(logits_KS)
    total = probs_KS.sum(0)
    probs_KS /= total
    window = np.arange(windows.stage.size)
    nll = np.log(total) - logits_KS[windows.stage, window]
    # sum_k (p_k - [y = k])^2, multiplied out.
    brier = (probs_KS * probs_KS).sum(0) - 2 * probs_KS[windows.stage, window] + 1
    confidence, hit = probs_KS.max(0), probs_KS.argmax(0) == windows.stage
    place = np.clip(np.searchsorted(_EDGES, confidence, side="left") - 1, 0, BINS - 1)

    def per_recording(weights: NDArray | None = None) -> NDArray:
        return np.bincount(windows.recording, weights, recordings)[:, np.newaxis]

    def per_bin(weights: NDArray | None = None) -> NDArray:
        cell = windows.recording * BINS + place
        return np.bincount(cell, weights, recordings * BINS).reshape(recordings, BINS)

    overall = [per_recording(), per_recording(nll), per_recording(brier)]
    return np.hstack([*overall, per_bin(), per_bin(confidence), per_bin(hit)])


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
    intervals: list[Interval] = [
        bootstrap.interval(*pair) for pair in zip(values_M, draws_DM.T, strict=True)
    ]
    count, confidence, _ = np.split(sums[3:], 3)
    filled = np.flatnonzero(count)
    nll, brier, ece, *accuracies = intervals
    bins = [Bin(int(count[n]), float(confidence[n] / count[n]), accuracies[n]) for n in filled]
    return CalibrationScores(nll, brier, ece, bins)
