"""Speed of scores: a million windows, and a bootstrap over a thousand subjects."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from kd_sleep import metrics
from kd_sleep.benchmark.timing import Row, compared, goal, in_turns
from kd_sleep.config import EvaluationConfig
from kd_sleep.evaluation import calibration, scores, sleep_measures
from kd_sleep.evaluation.bootstrap import Bootstrap, ScoredNights
from kd_sleep.stages import NUM_STAGES

DRAWS = 2_000
_FEWEST = EvaluationConfig(bootstrap_draws=10)


def scoring(repeats: int, subjects: int = 1_000, night_windows: int = 1_000) -> list[Row]:
    """Scores of noise that is right more often than not, a night to each subject.

    Args:
      repeats: turns that each peer takes.
      subjects: nights.
      night_windows: of each night.
    """
    rng = np.random.default_rng(0)
    names = [f"{number:06d}" for number in range(subjects)]
    labels = [rng.integers(0, NUM_STAGES, night_windows, np.int8) for _ in names]
    right = 2 * np.eye(NUM_STAGES, dtype=np.float32)
    logits = [
        rng.standard_normal((night_windows, NUM_STAGES), np.float32) + right[night]
        for night in labels
    ]
    nights = ScoredNights(names, names, labels)
    probs = [softmax(night, axis=-1) for night in logits]
    counts_RKK = np.stack(
        [
            metrics.confusion_counts(night, logits_NK.argmax(-1), NUM_STAGES)
            for night, logits_NK in zip(labels, logits, strict=True)
        ]
    )
    config = EvaluationConfig(bootstrap_draws=DRAWS)

    def shared() -> Any:
        return (
            scores.score(nights, {"x": probs}, _FEWEST),
            calibration.calibration(nights, {"x": logits}, _FEWEST, None),
        )

    def everything() -> Any:
        return shared(), sleep_measures.agreement(nights, {"x": probs}, _FEWEST)

    def drawn() -> Any:
        bootstrap = Bootstrap.of(nights, config)
        counts_DKK = bootstrap.draw(bootstrap.by_subject(counts_RKK))
        return np.quantile(scores.all_metrics(counts_DKK), (0.025, 0.975), axis=0)

    def drawn_one_by_one() -> Any:
        rng = np.random.default_rng(config.bootstrap_seed)
        draws = [
            scores.all_metrics(counts_RKK[rng.integers(0, subjects, subjects)].sum(0))
            for _ in range(DRAWS)
        ]
        return np.quantile(draws, (0.025, 0.975), axis=0)

    peers = {
        "everything": everything,
        "shared": shared,
        "draws": drawn,
        "draws in a loop": drawn_one_by_one,
    }
    if importlib.util.find_spec("sklearn"):
        pooled = np.concatenate(labels), np.concatenate(probs)
        peers["scikit-learn"] = functools.partial(_scikit_learn, *pooled)
    times = in_turns(peers, max(1, repeats // 2))
    what = f"{subjects * night_windows:,} windows of {subjects:,} nights"
    rows = [
        goal("scoring", f"all scores, {what}", float(np.median(times["everything"])), 2.0,
             f"scores, calibration, sleep measures, {_FEWEST.bootstrap_draws} draws"),
        compared(
            "scoring", f"bootstrap, {DRAWS:,} draws over {subjects:,} subjects",
            "a NumPy loop over draws", times["draws"], times["draws in a loop"], 1.0,
        ),
    ]  # fmt: skip
    what = f"scores and calibration, {what}"
    if "scikit-learn" not in peers:
        note = "scikit-learn is absent; pip install 'kd_sleep[test]'"
        return [*rows, Row("scoring", what, "scikit-learn", 1.0, note=note)]
    note = "theirs: pooled values alone; ours: every night's scores and intervals, too"
    ours, theirs = times["shared"], times["scikit-learn"]
    return [*rows, compared("scoring", what, "scikit-learn", ours, theirs, 1.0, note)]


def _scikit_learn(labels_W: NDArray, probs_WK: NDArray) -> list[Any]:
    from sklearn import calibration as sklearn_calibration  # type: ignore[import-untyped]
    from sklearn import metrics as sklearn_metrics

    stages_W, names = probs_WK.argmax(-1), range(NUM_STAGES)
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
