"""Calibration against scikit-learn, temperatures that are known, and defined edges."""

import json

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.calibration import (
    BINS,
    COLDEST,
    HOTTEST,
    calibration,
    fit_temperature,
)

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
    nights = scores.ScoredNights(names, [f"s{n // 2}" for n in range(subjects)], labels)
    return nights, [heat * night for night in logits]


def flat(nights, logits):
    labels = np.concatenate(nights.labels)
    return labels[labels >= 0], softmax(np.concatenate(logits), axis=-1)[labels >= 0]


@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
def test_every_score_is_scikit_learns(heat):
    nights, logits = study(heat=heat)
    found = calibration(nights, {"x": logits}, CONFIG, None)["systems"]["x"]["before"]
    labels, probs = flat(nights, logits)
    names = range(4)
    assert found["nll"]["value"] == pytest.approx(
        sklearn_metrics.log_loss(labels, probs, labels=names)
    )
    assert found["brier"]["value"] == pytest.approx(
        sklearn_metrics.brier_score_loss(labels, probs, labels=names)
    )
    accuracy, confidence = calibration_curve(
        probs.argmax(-1) == labels, probs.max(-1), n_bins=BINS, strategy="uniform"
    )
    filled = [row for row in found["reliability"] if row["windows"]]
    assert [row["accuracy"]["value"] for row in filled] == pytest.approx(accuracy)
    assert [row["confidence"] for row in filled] == pytest.approx(confidence)
    count = np.array([row["windows"] for row in filled])
    assert count.sum() == labels.size
    expected = (count * np.abs(accuracy - confidence)).sum() / count.sum()
    assert found["ece"]["value"] == pytest.approx(expected)


def test_a_confidence_on_an_edge_is_in_the_lower_bin():
    edge = 1 / 3  # of 15 bins, the fifth's end
    probs = np.array([[edge, edge, edge, 0.0], [1.0, 0.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(probs), -800.0)
    nights = scores.ScoredNights(["a"], ["a"], [np.array([0, 0])])
    rows = calibration(nights, {"x": [logits]}, CONFIG, None)["systems"]["x"]["before"]
    assert [n for n, row in enumerate(rows["reliability"]) if row["windows"]] == [4, 14]


@pytest.mark.parametrize("heat", [0.3, 1.0, 2.5, 6.0])
def test_a_known_temperature_is_found(heat):
    nights, logits = study(seed=3, subjects=30, windows=400, heat=heat)
    assert fit_temperature(nights, logits) == pytest.approx(heat, rel=0.05)


def test_the_temperature_is_the_least_of_scikit_learns_log_loss():
    nights, logits = study(heat=1.7)
    labels = np.concatenate(nights.labels)
    z = np.concatenate(logits)[labels >= 0]
    found = fit_temperature(nights, logits)

    def loss(temperature):
        probs = softmax(z / temperature, axis=-1)
        return sklearn_metrics.log_loss(labels[labels >= 0], probs, labels=range(4))

    assert all(loss(found) < loss(found * other) for other in (0.9, 0.99, 1.01, 1.1))


def test_a_constant_added_to_a_windows_logits_is_nothing():
    nights, logits = study(heat=2.0)
    normalised = [log_softmax(night, axis=-1) for night in logits]
    assert fit_temperature(nights, normalised) == pytest.approx(fit_temperature(nights, logits))
    a, b = (
        calibration(nights, {"x": z}, CONFIG, (nights, {"x": z}))["systems"]["x"]
        for z in (logits, normalised)
    )
    for key in ("nll", "brier", "ece"):
        assert list(a["after"][key].values()) == pytest.approx(list(b["after"][key].values()))


def test_after_is_before_of_divided_logits_and_the_cure_works():
    nights, logits = study(seed=1, heat=3.0)
    validation, for_fitting = study(seed=2, heat=3.0)
    found = calibration(nights, {"x": logits}, CONFIG, (validation, {"x": for_fitting}))
    found = found["systems"]["x"]
    cooled = [night / found["temperature"] for night in logits]
    again = calibration(nights, {"x": cooled}, CONFIG, None)["systems"]["x"]
    assert again["before"]["nll"]["value"] == pytest.approx(found["after"]["nll"]["value"])
    for key in ("nll", "brier", "ece"):
        assert found["after"][key]["value"] < found["before"][key]["value"]


def test_nights_that_are_judged_have_no_say_in_the_temperature():
    nights, logits = study(seed=1)
    other, other_logits = study(seed=5, heat=4.0)
    validation = study(seed=2, heat=3.0)
    fitted = (validation[0], {"x": validation[1]})
    a = calibration(nights, {"x": logits}, CONFIG, fitted)
    b = calibration(other, {"x": other_logits}, CONFIG, fitted)
    assert a["systems"]["x"]["temperature"] == b["systems"]["x"]["temperature"]
    assert a["validation"] == {
        "recordings": 8,
        "windows": sum((labels >= 0).sum() for labels in validation[0].labels),
    }


def test_draws_are_those_of_resampled_subjects():
    nights, logits = study(subjects=6)
    config = EvaluationConfig(bootstrap_draws=50)
    found = calibration(nights, {"x": logits}, config, None)["systems"]["x"]["before"]
    values = {"nll": [], "brier": [], "ece": []}
    for weights in scores.Bootstrap.of(nights, config).weights_DU.astype(int):
        rows = [row for u, w in enumerate(weights) for row in [2 * u, 2 * u + 1] * w]
        names = [f"n{n}" for n in range(len(rows))]
        drawn = scores.ScoredNights(names, names, [nights.labels[row] for row in rows])
        again = calibration(drawn, {"x": [logits[row] for row in rows]}, CONFIG, None)
        for key, list_ in values.items():
            list_.append(again["systems"]["x"]["before"][key]["value"])
    for key, list_ in values.items():
        expected = np.quantile(list_, [0.025, 0.975])
        assert [found[key]["low"], found[key]["high"]] == pytest.approx(expected)


def test_differences_are_paired_and_below_zero_for_the_better():
    nights, logits = study()
    systems = {"student_distilled": logits, "student_hard_labels": [4 * z for z in logits]}
    found = calibration(nights, systems, CONFIG, (nights, systems))["distillation"]
    assert found["before"]["nll"]["high"] < 0
    # The same logits but for a factor are the same system after its temperature.
    assert found["after"]["nll"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["after"]["nll"]["high"] == pytest.approx(0, abs=1e-6)
    without = calibration(nights, systems, CONFIG, None)
    assert without["distillation"]["after"] is None
    assert calibration(nights, {"x": logits}, CONFIG, None)["distillation"] is None


@pytest.mark.parametrize(
    ("validation", "word"),
    [(None, "No validation nights"), ("dark", "No window of the validation nights")],
)
def test_without_labels_to_fit_there_is_no_after(validation, word):
    nights, logits = study()
    if validation == "dark":
        dark = scores.ScoredNights(["a"], ["a"], [np.full(5, -1)])
        validation = (dark, {"x": [np.zeros((5, 4))]})
        with pytest.raises(ValueError, match="no scored window to fit"):
            fit_temperature(*[dark, validation[1]["x"]])
    found = calibration(nights, {"x": logits}, CONFIG, validation)["systems"]["x"]
    assert found["temperature"] is None
    assert word in found["note"]
    assert found["after"] is None
    assert found["before"]["nll"]["value"] > 0


def test_temperatures_that_labels_do_not_determine():
    labels = np.array([0, 1, 2, 3] * 10)
    nights = scores.ScoredNights(["a"], ["a"], [labels])
    right = 3.0 * np.eye(4)[labels]
    assert fit_temperature(nights, [right]) == COLDEST
    assert fit_temperature(nights, [-right]) == HOTTEST
    assert fit_temperature(nights, [np.ones((40, 4))]) == 1.0
    found = calibration(nights, {"x": [right]}, CONFIG, (nights, {"x": [right]}))
    assert "At the end of what is tried" in found["systems"]["x"]["note"]
    json.dumps(found, allow_nan=False)


def test_one_subject_one_class_and_an_absent_stage_are_defined():
    labels = np.array([0, 1, 2, 2, -1] * 8)  # Deep never occurs
    nights = scores.ScoredNights(["a"], ["a"], [labels])
    constant = [np.tile([0.0, 0.0, 3.0, 0.0], (40, 1))]
    found = calibration(nights, {"x": constant}, CONFIG, (nights, {"x": constant}))
    before, after = (found["systems"]["x"][when] for when in ("before", "after"))
    p = softmax([0, 0, 3, 0])
    assert before["nll"] == {
        "value": pytest.approx(-(np.log(p[2]) + np.log(p[0])) / 2),
        "low": None,
        "high": None,
    }
    assert before["ece"]["value"] == pytest.approx(p[2] - 0.5)
    assert after["ece"]["value"] == pytest.approx(0, abs=1e-4)
    empty = before["reliability"][0]
    assert (empty["windows"], empty["confidence"], empty["accuracy"]["value"]) == (0, None, None)
    json.dumps(found, allow_nan=False)


def test_enormous_logits_stay_finite():
    nights, logits = study()
    huge = [1e6 * night for night in logits]
    found = calibration(nights, {"x": huge}, CONFIG, (nights, {"x": huge}))
    assert found["systems"]["x"]["temperature"] == HOTTEST
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda z: np.where(np.arange(4) == 1, np.nan, z), "x, n3: 120 logits are not finite"),
        (lambda z: np.where(np.arange(4) == 1, -np.inf, z), "x, n3: 120 logits are not finite"),
        (lambda z: z[:-1], r"x, n3: expected logits \(120, 4\), got \(119, 4\)"),
    ],
)
def test_broken_logits_name_the_system_and_the_recording(spoil, message):
    nights, logits = study()
    logits[3] = spoil(logits[3])
    with pytest.raises(ValueError, match=message):
        calibration(nights, {"x": logits}, CONFIG, None)
    with pytest.raises(ValueError, match=message):
        fit_temperature(nights, logits, "x")


def test_missing_nights_and_no_labels_are_errors():
    nights, logits = study()
    with pytest.raises(ValueError, match="x: 7 nights, expected 8"):
        calibration(nights, {"x": logits[1:]}, CONFIG, None)
    dark = scores.ScoredNights(["a"], ["a"], [np.full(5, -1)])
    with pytest.raises(DatasetError, match="no scored window"):
        calibration(dark, {"x": [np.zeros((5, 4))]}, CONFIG, None)
