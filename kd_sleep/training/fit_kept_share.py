"""Fits a student's learned SQI (`models.kept_share`) on the validation nights.

Neither student nor teacher was trained on them, so what the student loses there is what it loses on
other nights. The flag's threshold comes from out-of-fold predictions: the validation subjects are
dealt into folds, and each fold is predicted by weights that were fitted on the others. The weights
that stay are fitted on all of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, xlogy

from kd_sleep.datasets.nights import Nights
from kd_sleep.datasets.splits import folds_of
from kd_sleep.errors import TrainingError
from kd_sleep.features.bcg import MOST_MISSING
from kd_sleep.metrics import best_temperature
from kd_sleep.models.kept_share import FEATURES, KeptShare, standardised, window_features

FOLDS = 5
FLAGGED = 0.2  # share of the validation windows that lie below the flag
RIDGE = 1e-3  # weight of half the squared norm of the weights beside the mean cross-entropy
FILE = "sqi.json"


def load_kept_share(workdir: Path, student: str) -> KeptShare | None:
    """The SQI in the folder of the student with this fingerprint; None where there is none.

    Raises:
      TrainingError: the SQI of another student, or one that this kd_sleep cannot read.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    try:
        found = KeptShare.from_json(json.loads(path.read_text()))
        if found.student != student:
            raise ValueError("the SQI of another student")
    except ValueError as error:
        remedy = "Give the command that trained the student again: it fits the SQI anew."
        raise TrainingError(f"{path}: {error}.", remedy) from error
    return found


def fit_kept_share(
    nights: Nights, logits_WK: NDArray, teacher_logits_WK: NDArray, student: str, teacher: str
) -> KeptShare:
    """Fits temperatures, weights and flag on nights that neither network was trained on.

    Each window is weighted by its share that both networks could read.

    Args:
      nights: R nights with W windows.
      logits_WK: of the student.
      teacher_logits_WK: of the teacher.
      student, teacher: fingerprints.

    Raises:
      TrainingError: no window is scored, or none was seen by both.
    """
    weight_W = seen_weights(nights)
    scored, seen = nights.label >= 0, weight_W > 0
    if not scored.any() or not seen.any():
        raise TrainingError(
            "No validation window is scored and seen by both student and teacher, so the SQI has"
            " nothing to be fitted on.",
            "Look at the dataset's exclusions.",
        )
    temperature, teacher_temperature = (
        best_temperature(logits[scored].T, nights.label[scored])
        for logits in (logits_WK, teacher_logits_WK)
    )
    log_probs_WK = log_softmax(logits_WK.astype(np.float64) / temperature, -1)
    gap_W = gap_bits(teacher_logits_WK / teacher_temperature, log_probs_WK)
    features_WF = features_of(nights, log_probs_WK)
    mean_F = np.average(features_WF, axis=0, weights=weight_W)
    spread_F = np.sqrt(np.average((features_WF - mean_F) ** 2, axis=0, weights=weight_W))
    scale_F = np.where(spread_F > 1e-6, spread_F, 1.0)
    z_WF, share_W = standardised(features_WF, mean_F, scale_F), np.exp2(-gap_W)

    folds = min(FOLDS, len(set(nights.subject_ids)))  # one subject alone is predicted in-sample
    fold_W = np.repeat(folds_of(nights.subject_ids, folds), nights.windows)
    out_of_fold_W = np.empty(len(z_WF))
    for fold in range(folds):
        inside = fold_W == fold
        others = ~inside if folds > 1 else inside
        weights, bias = logistic_regression(z_WF[others], share_W[others], weight_W[others])
        out_of_fold_W[inside] = expit(z_WF[inside] @ weights + bias)
    weights, bias = logistic_regression(z_WF, share_W, weight_W)

    risks = {
        (name, sign): augrc(gap_W[seen], sign * features_WF[seen, column])
        for column, name in enumerate(FEATURES)
        for sign in (1.0, -1.0)
    }
    best_feature, best_sign = min(risks, key=lambda key: risks[key])
    return KeptShare(
        weights=tuple(weights.tolist()),
        bias=bias,
        mean=tuple(mean_F.tolist()),
        scale=tuple(scale_F.tolist()),
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        flag_below=float(np.quantile(out_of_fold_W[seen], FLAGGED)),
        flagged=FLAGGED,
        best_feature=best_feature,
        best_sign=best_sign,
        student=student,
        teacher=teacher,
    )


def logistic_regression(
    z_NF: NDArray, share_N: NDArray, weight_N: NDArray
) -> tuple[NDArray[np.float64], float]:
    """Weights [F] and bias of the least cross-entropy to shares, with a ridge.

    loss = mean of weight * (log(1 + exp(a)) - share * a) + RIDGE / 2 * |weights|^2, a = z.w + b.
    Its best answer is the expected share (a proper score), so it needs no further calibration.

    Args:
      z_NF: [N, F] standardised features.
      share_N: [N] in [0, 1].
      weight_N: [N] of the windows, not all 0.
    """
    rows = weight_N > 0
    z, share, weight = z_NF[rows], share_N[rows], weight_N[rows] / weight_N.sum()

    def loss(x: NDArray) -> tuple[float, NDArray]:
        a = z @ x[:-1] + x[-1]
        error = weight * (expit(a) - share)
        value = weight @ (np.logaddexp(0.0, a) - share * a) + 0.5 * RIDGE * (x[:-1] @ x[:-1])
        return float(value), np.append(error @ z + RIDGE * x[:-1], error.sum())

    found = minimize(loss, np.zeros(z.shape[1] + 1), jac=True, method="L-BFGS-B")
    return found.x[:-1], float(found.x[-1])


def features_of(nights: Nights, log_probs_WK: NDArray) -> NDArray[np.float64]:
    """[W, F] `window_features` of all windows of a split."""
    return window_features(
        log_probs_WK, nights.jj, nights.beat_confidence, nights.bcg_missing, nights.bcg_snr_db
    )


def seen_weights(nights: Nights) -> NDArray[np.float64]:
    """[W] how much of each window both networks saw; 0 where the student gives no stage."""
    weight_W = (1.0 - nights.bcg_missing) * (1.0 - nights.rr_missing)
    return np.where(nights.bcg_missing < MOST_MISSING, weight_W, 0.0).astype(np.float64)


def gap_bits(teacher_logits_NK: NDArray, student_logits_NK: NDArray) -> NDArray[np.float64]:
    """[N] KL(teacher || student) in bits."""
    p = np.exp(log_softmax(np.asarray(teacher_logits_NK, np.float64), -1))
    log_q = log_softmax(np.asarray(student_logits_NK, np.float64), -1)
    nats = (xlogy(p, p) - p * log_q).sum(-1)
    return np.maximum(nats, 0.0) / np.log(2.0)


def augrc(loss_N: NDArray, confidence_N: NDArray) -> float:
    """Area under the generalised risk, as `evaluation.selective` has it, ties in their order."""
    risk_N = np.cumsum(loss_N[np.argsort(-confidence_N, kind="stable")]) / len(loss_N)
    return float(risk_N.mean() - 0.5 * risk_N[-1] / len(loss_N))
