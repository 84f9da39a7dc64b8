"""Calibration against scikit-learn, temperatures that are known, and defined edges."""

import json

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.bootstrap import Bootstrap, ScoredNights
from kd_sleep.evaluation.calibration import BINS, COLDEST, HOTTEST, calibration
from kd_sleep.evaluation.plain_json import to_json
from kd_sleep.evaluation.results import Interval

CONFIG = EvaluationConfig(bootstrap_draws=200)


def study(seed=0, subjects=8, windows=120, heat=1.0, unscored=True):
    """Nights whose stages are drawn from softmax(logits): calibrated, but for the heat."""
    rng = np.random.default_rng(seed)
    logits = [1.5 * rng.standard_normal((windows, 4)) for _ in range(subjects)]
    labels = [np.array([rng.choice(4, p=p) for p in softmax(night, axis=-1)]) for night in logits]
    if unscored:
        for night in labels:
            night[rng.random(windows) < 0.1] = -1
    names = [f"n{n}" for n in range(subjects)]
    nights = ScoredNights(names, [f"s{n // 2}" for n in range(subjects)], labels)
    return nights, [heat * night for night in logits]


def before(nights, logits):
    return calibration(nights, {"x": logits}, CONFIG, None).systems["x"].before


def temperature(nights, logits):
    fitted = (nights, {"x": logits})
    return calibration(nights, {"x": logits}, CONFIG, fitted).systems["x"].temperature


def flat(nights, logits):
    labels = np.concatenate(nights.labels)
    return labels[labels >= 0], softmax(np.concatenate(logits), axis=-1)[labels >= 0]


@pytest.mark.parametrize("heat", [0.5, 3.0])
def test_every_score_is_scikit_learns(heat):
    nights, logits = study(heat=heat)
    found = before(nights, logits)
    labels, probs = flat(nights, logits)
    names = range(4)
    log_loss = sklearn_metrics.log_loss(labels, probs, labels=names)
    assert found.nll.value == pytest.approx(log_loss)
    brier = sklearn_metrics.brier_score_loss(labels, probs, labels=names)
    assert found.brier.value == pytest.approx(brier)
    accuracy, confidence = calibration_curve(
        probs.argmax(-1) == labels, probs.max(-1), n_bins=BINS, strategy="uniform"
    )
    assert [row.observed.value for row in found.reliability] == pytest.approx(accuracy)
    assert [row.predicted for row in found.reliability] == pytest.approx(confidence)
    count = np.array([row.windows for row in found.reliability])
    assert count.sum() == labels.size
    expected = (count * np.abs(accuracy - confidence)).sum() / count.sum()
    assert found.ece.value == pytest.approx(expected)


@pytest.mark.parametrize("heat", [0.3, 1.0, 6.0])
def test_a_known_temperature_is_found(heat):
    nights, logits = study(seed=3, subjects=30, windows=400, heat=heat)
    assert temperature(nights, logits) == pytest.approx(heat, rel=0.05)


def test_the_temperature_is_the_least_of_scikit_learns_log_loss():
    nights, logits = study(heat=1.7)
    labels = np.concatenate(nights.labels)
    z = np.concatenate(logits)[labels >= 0]
    found = temperature(nights, logits)

    def loss(temperature):
        probs = softmax(z / temperature, axis=-1)
        return sklearn_metrics.log_loss(labels[labels >= 0], probs, labels=range(4))

    assert all(loss(found) < loss(found * other) for other in (0.9, 0.99, 1.01, 1.1))


def test_a_constant_added_to_a_windows_logits_is_nothing():
    nights, logits = study(heat=2.0)
    normalised = [log_softmax(night, axis=-1) for night in logits]
    assert temperature(nights, normalised) == pytest.approx(temperature(nights, logits))
    assert before(nights, normalised).nll.value == pytest.approx(before(nights, logits).nll.value)


def test_after_is_before_of_divided_logits_and_nights_that_are_judged_fit_nothing():
    nights, logits = study(seed=1, heat=3.0)
    other, other_logits = study(seed=5, heat=4.0)
    validation = study(seed=2, heat=3.0)
    fitted = (validation[0], {"x": validation[1]})
    results = calibration(nights, {"x": logits}, CONFIG, fitted)
    found = results.systems["x"]
    divided = [night / found.temperature for night in logits]
    assert before(nights, divided).nll.value == pytest.approx(found.after.nll.value)
    for key in ("nll", "brier", "ece"):
        assert getattr(found.after, key).value < getattr(found.before, key).value
    again = calibration(other, {"x": other_logits}, CONFIG, fitted)
    assert again.systems["x"].temperature == found.temperature
    assert results.validation_nights == 8
    scored = sum(int((labels >= 0).sum()) for labels in validation[0].labels)
    assert results.validation_windows == scored


def test_draws_are_those_of_resampled_subjects():
    nights, logits = study(subjects=6)
    config = EvaluationConfig(bootstrap_draws=50)
    found = calibration(nights, {"x": logits}, config, None).systems["x"].before
    values = {"nll": [], "brier": [], "ece": []}
    for weights in Bootstrap.of(nights, config).weights_DU.astype(int):
        rows = [row for u, w in enumerate(weights) for row in [2 * u, 2 * u + 1] * w]
        names = [f"n{n}" for n in range(len(rows))]
        drawn = ScoredNights(names, names, [nights.labels[row] for row in rows])
        again = before(drawn, [logits[row] for row in rows])
        for key, list_ in values.items():
            list_.append(getattr(again, key).value)
    for key, list_ in values.items():
        interval = getattr(found, key)
        expected = np.quantile(list_, [0.025, 0.975])
        assert [interval.low, interval.high] == pytest.approx(expected)


def test_differences_are_paired_and_below_zero_for_the_better():
    nights, logits = study()
    systems = {"student_distilled": logits, "student_hard_labels": [4 * z for z in logits]}
    assert calibration(nights, systems, CONFIG, None).distillation["nll"].high < 0
    # The same logits but for a factor are the same system after its temperature.
    after = calibration(nights, systems, CONFIG, (nights, systems)).distillation["nll"]
    assert [after.value, after.high] == pytest.approx([0, 0], abs=1e-6)
    assert calibration(nights, {"x": logits}, CONFIG, None).distillation is None


@pytest.mark.parametrize(
    ("dark", "word"),
    [(False, "No validation nights"), (True, "No window of the validation nights")],
)
def test_without_labels_to_fit_there_is_no_after(dark, word):
    nights, logits = study()
    unscored = (ScoredNights(["a"], ["a"], [np.full(5, -1)]), {"x": [np.zeros((5, 4))]})
    found = calibration(nights, {"x": logits}, CONFIG, unscored if dark else None).systems["x"]
    assert found.temperature is found.after is None
    assert word in found.note
    assert found.before.nll.value > 0


def test_temperatures_that_labels_do_not_determine():
    labels = np.array([0, 1, 2, 3] * 10)
    nights = ScoredNights(["a"], ["a"], [labels])
    right = 3.0 * np.eye(4)[labels]
    assert temperature(nights, [right]) == COLDEST
    assert temperature(nights, [-right]) == HOTTEST
    assert temperature(nights, [np.ones((40, 4))]) == 1.0
    found = calibration(nights, {"x": [right]}, CONFIG, (nights, {"x": [right]}))
    assert "At the end of what is tried" in found.systems["x"].note
    json.dumps(to_json(found), allow_nan=False)


def test_edges_are_defined():
    """One subject, one class, an absent stage, a confidence on a bin's edge, enormous logits."""
    labels = np.array([0, 1, 2, 2, -1] * 8)  # Deep never occurs
    nights = ScoredNights(["a"], ["a"], [labels])
    constant = [np.tile([0.0, 0.0, 3.0, 0.0], (40, 1))]
    found = calibration(nights, {"x": constant}, CONFIG, (nights, {"x": constant})).systems["x"]
    p = softmax([0, 0, 3, 0])
    assert found.before.nll == Interval(pytest.approx(-(np.log(p[2]) + np.log(p[0])) / 2))
    assert found.before.ece.value == pytest.approx(p[2] - 0.5)
    assert found.after.ece.value == pytest.approx(0, abs=1e-4)
    # A third is the upper edge of a bin, and belongs to it.
    probs = [[1 / 3, 1 / 3, 1 / 3, 0.0], [0.3, 0.3, 0.3, 0.1], [1.0, 0.0, 0.0, 0.0]]
    edge = ScoredNights(["a"], ["a"], [np.zeros(3, int)])
    rows = before(edge, [np.log(np.maximum(probs, 1e-300))]).reliability
    assert [row.windows for row in rows] == [2, 1]
    nights, logits = study()
    assert temperature(nights, [1e6 * night for night in logits]) == HOTTEST


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda z: np.where(np.arange(4) == 1, np.nan, z), "x, n3: 120 logits are not finite"),
        (lambda z: z[:-1], r"x, n3: expected logits \(120, 4\), got \(119, 4\)"),
    ],
)
def test_broken_logits_name_the_system_and_the_recording(spoil, message):
    nights, logits = study()
    logits[3] = spoil(logits[3])
    with pytest.raises(ValueError, match=message):
        calibration(nights, {"x": logits}, CONFIG, None)
    with pytest.raises(ValueError, match="x: 7 nights, expected 8"):
        calibration(nights, {"x": logits[1:]}, CONFIG, None)
    dark = ScoredNights(["a"], ["a"], [np.full(5, -1)])
    with pytest.raises(DatasetError, match="no scored window"):
        calibration(dark, {"x": [np.zeros((5, 4))]}, CONFIG, None)
