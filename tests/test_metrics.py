"""kd_sleep.metrics against scikit-learn, and its defined edges."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from kd_sleep import metrics

K = 4


def _pair(seed, windows=400):
    """Labels and predictions that agree in about half of the windows, every class in both."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(K, size=windows, p=[0.2, 0.2, 0.45, 0.15])
    guesses = rng.integers(0, K, size=windows)
    return labels, np.where(rng.random(windows) < 0.4, labels, guesses)


@pytest.mark.parametrize("seed", range(3))
def test_every_score_equals_scikit_learn(seed):
    labels, predictions = _pair(seed)
    counts = metrics.confusion_counts(labels, predictions, K)
    np.testing.assert_array_equal(counts, sklearn_metrics.confusion_matrix(labels, predictions))
    for ours, theirs in [
        (metrics.accuracy, sklearn_metrics.accuracy_score(labels, predictions)),
        (metrics.kappa, sklearn_metrics.cohen_kappa_score(labels, predictions)),
        (metrics.macro_f1, sklearn_metrics.f1_score(labels, predictions, average="macro")),
        (metrics.f1, sklearn_metrics.f1_score(labels, predictions, average=None)),
        (metrics.recall, sklearn_metrics.recall_score(labels, predictions, average=None)),
        (metrics.precision, sklearn_metrics.precision_score(labels, predictions, average=None)),
    ]:
        np.testing.assert_allclose(ours(counts), theirs, rtol=1e-12)


def test_macro_f1_covers_the_classes_that_occur_as_scikit_learn_does():
    labels, predictions = np.array([0, 0, 2, 2, 2]), np.array([0, 2, 2, 2, 0])
    with warnings.catch_warnings(action="ignore"):
        expected = sklearn_metrics.f1_score(labels, predictions, average="macro")
    counts = metrics.confusion_counts(labels, predictions, K)
    assert metrics.macro_f1(counts) == pytest.approx(expected)


def test_unscored_windows_count_nowhere():
    labels, predictions = _pair(0)
    unscored = labels.copy()
    unscored[100:] = -1
    np.testing.assert_array_equal(
        metrics.confusion_counts(unscored, predictions, K),
        metrics.confusion_counts(labels[:100], predictions[:100], K),
    )


@pytest.mark.parametrize("name", ["accuracy", "kappa", "macro_f1", "f1", "recall", "precision"])
def test_leading_axes_are_a_loop(name):
    function = getattr(metrics, name)
    counts = np.stack([metrics.confusion_counts(*_pair(seed), K) for seed in range(6)])
    one_by_one = np.stack([function(matrix) for matrix in counts])
    np.testing.assert_array_equal(function(counts), one_by_one)
    shaped = function(counts.reshape(2, 3, K, K))
    np.testing.assert_array_equal(shaped, one_by_one.reshape(2, 3, *one_by_one.shape[1:]))


def test_kappa_has_known_values():
    assert metrics.kappa([[10, 0], [0, 5]]) == 1.0
    assert metrics.kappa([[5, 5], [5, 5]]) == 0.0
    assert metrics.kappa([[0, 5], [5, 0]]) == -1.0
    assert metrics.kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)  # Cohen's textbook example


def test_what_is_not_defined_is_nan_without_a_warning():
    empty = np.zeros((K, K))
    for function in (metrics.accuracy, metrics.kappa, metrics.macro_f1):
        assert np.isnan(function(empty))
    one_class = np.diag([7, 0, 0, 0])
    assert np.isnan(metrics.kappa(one_class))
    np.testing.assert_array_equal(metrics.recall(one_class), [1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(metrics.precision(one_class), [1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(metrics.f1(one_class), [1, np.nan, np.nan, np.nan])
    assert metrics.macro_f1(one_class) == 1.0


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 4], [0, 0], "classes 0..3"),
        ([0, 0], [0, 4], "classes 0..3"),
        ([0, 1], [0, -1], "classes 0..3"),
        ([0], [0, 0], "differ in size"),
    ],
)
def test_classes_out_of_range_and_unequal_sizes_are_refused(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion_counts(labels, predictions, K)
