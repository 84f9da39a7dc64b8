"""Scores at scale: a million windows, and a bootstrap over a thousand subjects."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from kd_sleep import metrics
from kd_sleep.benchmark.timing import Row, compared, in_turns
from kd_sleep.config import EvaluationConfig
from kd_sleep.evaluation import calibration, scores, sleep_measures
from kd_sleep.stages import NUM_STAGES

PART = "scoring"
AIM_SCORES_S, AIM_BOOTSTRAP_S = 2.0, 5.0
DRAWS = 2_000
_FEWEST = EvaluationConfig(bootstrap_draws=10)


def measure(repeats: int, subjects: int = 1_000, night_windows: int = 1_000) -> list[Row]:
    """Rows of noise that is right more often than not, a night to each subject.

    Args:
      repeats: turns that each peer takes.
      subjects: nights.
      night_windows: of each night.
    """
    nights, logits = synthetic(subjects, night_windows)
    repeats = max(1, repeats // 2)
    return [
        *million(nights, logits, repeats),
        *bootstrap(nights, logits, repeats),
    ]


def synthetic(
    subjects: int, night_windows: int
) -> tuple[scores.ScoredNights, list[NDArray[np.float32]]]:
    """Nights and a system's logits for them."""
    rng = np.random.default_rng(0)
    names = [f"{number:06d}" for number in range(subjects)]
    labels = [rng.integers(0, NUM_STAGES, night_windows, np.int8) for _ in names]
    logits = [
        rng.standard_normal((night_windows, NUM_STAGES), np.float32)
        + 2 * np.eye(NUM_STAGES, dtype=np.float32)[night]
        for night in labels
    ]
    return scores.ScoredNights(names, names, labels), logits


def million(
    nights: scores.ScoredNights, logits: list[NDArray[np.float32]], repeats: int
) -> list[Row]:
    """All scores with next to no bootstrap, and those that scikit-learn has against it."""
    probs = [softmax(night, axis=-1) for night in logits]
    one, other = {"x": probs}, {"x": logits}

    def everything() -> Any:
        return (
            scores.score(nights, one, _FEWEST),
            sleep_measures.agreement(nights, one, _FEWEST),
            calibration.calibration(nights, other, _FEWEST, None),
        )

    def shared() -> Any:
        return (
            scores.score(nights, one, _FEWEST),
            calibration.calibration(nights, other, _FEWEST, None),
        )

    windows = sum(map(len, nights.labels))
    what = f"{windows:,} windows of {len(probs):,} nights"
    why = _why_no_scikit_learn()
    if why:
        times = in_turns({"everything": everything}, repeats)
    else:
        labels, flat = np.concatenate(nights.labels), np.concatenate(probs)
        peers = {
            "everything": everything,
            "ours": shared,
            "theirs": lambda: _scikit_learn(labels, flat),
        }
        times = in_turns(peers, repeats)
    seconds = float(np.median(times["everything"]))
    note = (
        "scores, calibration without a temperature, sleep measures; of every night;"
        f" {_FEWEST.bootstrap_draws} draws"
    )
    rows = [
        Row(
            PART, f"all scores, {what}", f"{AIM_SCORES_S:g} s", 1.0, AIM_SCORES_S / seconds, None,
            seconds, AIM_SCORES_S, "s", note,
        )
    ]  # fmt: skip
    what = f"scores and calibration, {what}"
    if why:
        return [*rows, Row(PART, what, "scikit-learn", 1.0, note=why)]
    note = "theirs: pooled values alone; ours: every night's scores and intervals, too"
    return [
        *rows,
        compared(PART, what, "scikit-learn", times["ours"], times["theirs"], 1.0, note),
    ]


def _why_no_scikit_learn() -> str:
    if importlib.util.find_spec("sklearn"):
        return ""
    return "scikit-learn is absent; pip install 'kd_sleep[test]'"


def _scikit_learn(labels_W: NDArray, probs_WK: NDArray) -> list[Any]:
    from sklearn import calibration as sklearn_calibration  # type: ignore[import-untyped]
    from sklearn import metrics as sklearn_metrics

    stages_W = probs_WK.argmax(-1)
    names = range(NUM_STAGES)
    return [
        sklearn_metrics.confusion_matrix(labels_W, stages_W, labels=names),
        sklearn_metrics.accuracy_score(labels_W, stages_W),
        sklearn_metrics.cohen_kappa_score(labels_W, stages_W, labels=names),
        sklearn_metrics.precision_recall_fscore_support(labels_W, stages_W, labels=names),
        sklearn_metrics.log_loss(labels_W, probs_WK, labels=names),
        sklearn_metrics.brier_score_loss(labels_W, probs_WK, labels=names),
        sklearn_calibration.calibration_curve(
            stages_W == labels_W, probs_WK.max(-1), n_bins=calibration.BINS
        ),
    ]


def bootstrap(
    nights: scores.ScoredNights, logits: list[NDArray[np.float32]], repeats: int
) -> list[Row]:
    """Draws over subjects from counts already made, against a loop over draws."""
    counts_RKK = np.stack(
        [
            metrics.confusion_counts(labels, logits_NK.argmax(-1), NUM_STAGES)
            for labels, logits_NK in zip(nights.labels, logits, strict=True)
        ]
    )
    config = EvaluationConfig(bootstrap_draws=DRAWS)

    def ours() -> Any:
        drawn = scores.Bootstrap.of(nights, config)
        counts_DKK = drawn.draw(drawn.by_subject(counts_RKK))
        return np.quantile(scores.all_metrics(counts_DKK), (0.025, 0.975), axis=0)

    def theirs() -> Any:
        rng = np.random.default_rng(config.bootstrap_seed)
        subjects = len(counts_RKK)
        drawn = [
            scores.all_metrics(counts_RKK[rng.integers(0, subjects, subjects)].sum(0))
            for _ in range(DRAWS)
        ]
        return np.quantile(drawn, (0.025, 0.975), axis=0)

    times = in_turns({"ours": ours, "theirs": theirs}, repeats)
    seconds = float(np.median(times["ours"]))
    what = f"bootstrap, {DRAWS:,} draws over {len(counts_RKK):,} subjects"
    return [
        Row(
            PART, what, f"{AIM_BOOTSTRAP_S:g} s", 1.0, AIM_BOOTSTRAP_S / seconds, None,
            seconds, AIM_BOOTSTRAP_S, "s", "15 scores of a system, with their intervals",
        ),
        compared(
            PART, what, "a NumPy loop over draws", times["ours"], times["theirs"], 1.0,
            "the loop draws subjects, too; one over windows would be slower still",
        ),
    ]  # fmt: skip
