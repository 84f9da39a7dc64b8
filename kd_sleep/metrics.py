"""Scores from mergeable confusion counts, and a temperature. No imports from the package.

A confusion matrix holds counts, rows the truth and columns the prediction. Counts of two sets add
up to the counts of both, so everything here works on any number of leading axes: per recording
[R, K, K], per bootstrap draw [D, K, K], or pooled [K, K].

Reference: Cohen 1960, https://doi.org/10.1177/001316446002000104 (kappa).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

COLDEST, HOTTEST = 0.05, 20.0  # temperatures beyond say that the labels do not determine one


def confusion_counts(labels: ArrayLike, predictions: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Counts [classes, classes] of (label, prediction); labels below 0 are left out.

    Raises:
      ValueError: where shapes differ or a class is out of range.
    """
    labels = np.asarray(labels).ravel()
    predictions = np.asarray(predictions).ravel()
    if labels.shape != predictions.shape:
        raise ValueError(
            f"labels {labels.shape} and predictions {predictions.shape} differ in size"
        )
    scored = labels >= 0
    labels, predictions = labels[scored].astype(np.int64), predictions[scored].astype(np.int64)
    if labels.size and (
        labels.max() >= classes or predictions.min() < 0 or predictions.max() >= classes
    ):
        raise ValueError(f"expected classes 0..{classes - 1}")
    counts = np.bincount(labels * classes + predictions, minlength=classes**2)
    return counts.reshape(classes, classes)


def _ratio(numerator: NDArray, denominator: NDArray) -> NDArray[np.float64]:
    """numerator / denominator, NaN where nothing was counted."""
    denominator = np.asarray(denominator, np.float64)
    return np.divide(
        numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator != 0
    )


def accuracy(counts: ArrayLike) -> NDArray[np.float64]:
    """Share of windows on the diagonal, [...]; NaN without windows."""
    counts = np.asarray(counts, np.float64)
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def kappa(counts: ArrayLike) -> NDArray[np.float64]:
    """Cohen's kappa, (p_o - p_e) / (1 - p_e), [...].

    NaN without windows, and where truth and prediction are one and the same single class.
    """
    counts = np.asarray(counts, np.float64)
    total = counts.sum((-2, -1))
    expected = (counts.sum(-1) * counts.sum(-2)).sum(-1)  # p_e * total^2
    observed = np.trace(counts, axis1=-2, axis2=-1) * total
    return _ratio(observed - expected, total**2 - expected)


def recall(counts: ArrayLike) -> NDArray[np.float64]:
    """Share of each true class that was found, [..., K]; NaN for a class that does not occur."""
    counts = np.asarray(counts, np.float64)
    return _ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1))


def precision(counts: ArrayLike) -> NDArray[np.float64]:
    """Share of each predicted class that is right, [..., K]; NaN for a class never predicted."""
    counts = np.asarray(counts, np.float64)
    return _ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-2))


def f1(counts: ArrayLike) -> NDArray[np.float64]:
    """F1 of each class, [..., K]; NaN for a class neither true nor predicted."""
    counts = np.asarray(counts, np.float64)
    return _ratio(2 * np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1) + counts.sum(-2))


def macro_f1(counts: ArrayLike) -> NDArray[np.float64]:
    """Mean F1 over the classes that occur in truth or prediction, [...]; NaN without windows."""
    values = f1(counts)
    present = ~np.isnan(values)
    return _ratio(np.where(present, values, 0.0).sum(-1), present.sum(-1))


def best_temperature(logits_KN: ArrayLike, labels_N: ArrayLike) -> float:
    """The temperature of the least NLL of softmax(logits / T) at the labels.

    NLL is convex in 1 / T, so the zero of its slope is the least. Where the slope has none between
    0.05 and 20, the better end is taken: the coldest where every window is right, the hottest where
    confidence tells nothing. Logits that are all alike leave NLL as it is: 1.

    Reference: Guo et al. 2017, https://arxiv.org/abs/1706.04599.

    Args:
      logits_KN: [K, N] finite, classes first: sums over long rows are quicker.
      labels_N: [N] classes, N > 0.
    """
    logits_KN, labels = np.asarray(logits_KN, np.float64), np.asarray(labels_N)
    centred = logits_KN - logits_KN.max(0)
    if not centred.any():
        return 1.0
    of_truth = centred[labels, np.arange(labels.size)].mean()

    def slope(log_coldness: float) -> float:
        """Of NLL in 1 / T: the logits expected less the logits of the truth."""
        weights = np.exp(np.exp(log_coldness) * centred)
        return float(((weights * centred).sum(0) / weights.sum(0)).mean() - of_truth)

    hottest, coldest = -np.log(HOTTEST), -np.log(COLDEST)
    if slope(coldest) <= 0:
        return COLDEST
    if slope(hottest) >= 0:
        return HOTTEST
    return float(np.exp(-brentq(slope, hottest, coldest, xtol=1e-6)))
