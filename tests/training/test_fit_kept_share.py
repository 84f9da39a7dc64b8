"""The learned SQI: the gap in closed form, a calibrated fit, out-of-fold flags, its file."""

import dataclasses
import json

import folders
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, log_softmax, softmax

from kd_sleep.config import PRESETS
from kd_sleep.datasets.nights import read_split
from kd_sleep.errors import TrainingError
from kd_sleep.models.kept_share import FEATURES, KeptShare, window_features
from kd_sleep.training import fit
from kd_sleep.training import fit_kept_share as fitting
from kd_sleep.training.soft_labels import fingerprint
from kd_sleep.training.trained import load_trained

TINY = PRESETS["tiny"]


def test_the_gap_is_the_divergence_in_bits():
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 50, 4)) * 3
    expected = stats.entropy(softmax(teacher, -1), softmax(student, -1), base=2, axis=-1)
    np.testing.assert_allclose(fitting.gap_bits(teacher, student), expected, atol=1e-12)
    sure = np.array([[1000.0, 0.0, 0.0, 0.0], [-np.inf, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(fitting.gap_bits(sure, np.zeros((2, 4))), [2.0, np.log2(4 / 3)])


def test_the_regression_gives_expected_shares():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(8000, 3))
    expected = expit(1.5 * z[:, 0] - 0.5 * z[:, 1] + 0.4)
    share = rng.beta(8 * expected, 8 * (1 - expected))  # of this mean, and noisy
    weight = (np.arange(8000) % 2).astype(float)
    wrong = np.where(weight > 0, share, 1.0 - share)  # without weight: no part of the fit
    weights, bias = fitting.logistic_regression(z, wrong, weight)
    np.testing.assert_allclose([*weights, bias], [1.5, -0.5, 0.0, 0.4], atol=0.07)


def test_features_of_a_window_by_hand():
    log_probs = np.log([[0.5, 0.25, 0.25, 1e-9], [0.25] * 4])
    jj = np.full((2, 120), np.nan)
    jj[0, :30] = 0.9
    found = window_features(log_probs, jj, np.full((2, 120), 0.5), [0.0, 0.3], [90, np.nan])
    row = dict(zip(FEATURES, found[0], strict=True))
    assert row["entropy"] == pytest.approx(1.5, abs=1e-6)
    assert row["log2 p(Deep)"] == pytest.approx(np.log2(1e-3))
    assert (row["p(Wake)"], row["share with an interval"]) == pytest.approx((0.5, 0.25))
    assert row["SNR, dB"] == 25.0
    assert dict(zip(FEATURES, found[1], strict=True))["SNR, dB"] == 0.0
    assert np.isfinite(window_features([[0, -np.inf, -np.inf, -np.inf]], *([x[:1] for x in (
        jj, jj * 0, [0.0], [0.0])])))[0, 0]  # fmt: skip


@pytest.fixture(scope="module")
def made(data_dir):
    """Validation nights whose student is the worse, the lower its beat confidence."""
    nights = read_split(data_dir, "validation")
    rng = np.random.default_rng(2)
    count = len(nights.label)
    sure = rng.random(count)
    nights = dataclasses.replace(
        nights,
        beat_confidence=np.repeat(sure[:, None], 120, 1).astype(np.float16),
        bcg_missing=np.zeros(count, np.float32),
        rr_missing=np.zeros(count, np.float32),
    )
    teacher = 2.5 * np.eye(4)[np.maximum(nights.label, 0)] + rng.normal(size=(count, 4))
    student = sure[:, None] * teacher + (1 - sure[:, None]) * 2 * rng.normal(size=(count, 4))
    return nights, student, teacher


def test_it_is_calibrated_flags_a_fifth_out_of_fold_and_names_the_best_feature(made):
    nights, student, teacher = made
    sqi = fitting.fit_kept_share(*made, "s", "t")
    log_probs = log_softmax(student / sqi.temperature, -1)
    share = 2 ** -fitting.gap_bits(teacher / sqi.teacher_temperature, log_probs)
    score = sqi(fitting.features_of(nights, log_probs))
    assert score.mean() == pytest.approx(share.mean(), abs=5e-3)
    low = score < np.median(score)
    assert score[low].mean() == pytest.approx(share[low].mean(), abs=0.05)
    assert share[low].mean() < share[~low].mean() - 0.1
    assert (score < sqi.flag_below).mean() == pytest.approx(0.2, abs=0.05)
    assert (sqi.best_feature, sqi.best_sign) == ("beat confidence", 1.0)


def test_no_fold_is_predicted_by_weights_fitted_on_it(made, monkeypatch):
    """The regression never sees the z-scores of the windows that it predicts."""
    nights, fits = made[0], []
    original = fitting.logistic_regression
    monkeypatch.setattr(
        fitting, "logistic_regression", lambda z, *rest: fits.append(z) or original(z, *rest)
    )
    fitting.fit_kept_share(*made, "s", "t")
    folds = min(5, len(set(nights.subject_ids)))
    fold = np.repeat(fitting.folds_of(nights.subject_ids, folds), nights.windows)
    assert [len(z) for z in fits] == [*(np.sum(fold != n) for n in range(folds)), len(fold)]


def test_nothing_to_fit_on_is_an_error(made):
    nights, *rest = made
    for change in (
        {"label": np.full_like(nights.label, -1)},
        {"rr_missing": nights.rr_missing + 1},
    ):
        with pytest.raises(TrainingError, match="nothing to be fitted on"):
            fitting.fit_kept_share(dataclasses.replace(nights, **change), *rest, "s", "t")


def test_it_comes_back_from_json_as_it_was_and_others_are_refused(made):
    sqi = fitting.fit_kept_share(*made, "s", "t")
    plain = json.loads(json.dumps(sqi.to_json(), allow_nan=False))
    assert KeptShare.from_json(plain) == sqi
    for change, word in (
        ({"features": ["entropy"]}, "other features"),
        ({"weights": plain["weights"][1:]}, "weights: expected 12 finite"),
        ({"mean": [float("nan")] * len(FEATURES)}, "mean: expected 12 finite"),
        ({"bias": "0"}, "bias is '0'"),
        ({"temperature": 0.0}, "above 0"),
        ({"best_feature": "luck"}, "best_feature is 'luck'"),
        ({"more": 1}, "unknown or absent fields: more"),
    ):
        with pytest.raises(ValueError, match=word):
            KeptShare.from_json(plain | change)
    with pytest.raises(ValueError, match="absent fields: bias"):
        KeptShare.from_json({name: value for name, value in plain.items() if name != "bias"})


def test_training_writes_it_again_where_it_lacks_and_refuses_anothers(
    data_dir, teacher_dir, tmp_path, monkeypatch
):
    arguments = (
        data_dir, [teacher_dir], tmp_path, TINY.student, TINY.distill, TINY.student_train,
    )  # fmt: skip
    folders.train_student(*arguments)
    student = load_trained(tmp_path, "student")
    params, settings = student.params, student.settings
    sqi = fitting.load_kept_share(tmp_path, fingerprint(params))
    assert (sqi.teacher, sqi.student) == (settings["teacher"], fingerprint(params))

    (tmp_path / fitting.FILE).unlink()
    assert fitting.load_kept_share(tmp_path, sqi.student) is None
    folders.train_student(*arguments)
    assert fitting.load_kept_share(tmp_path, sqi.student) == sqi
    with pytest.raises(TrainingError, match="SQI of another student"):
        fitting.load_kept_share(tmp_path, "0" * 64)
    (tmp_path / fitting.FILE).write_text("{}")
    with pytest.raises(TrainingError, match="other features"):
        fitting.load_kept_share(tmp_path, sqi.student)

    def training(*_):
        raise AssertionError("trained before the soft labels were looked at")

    def lacking(*_):
        raise TrainingError("no soft labels")

    monkeypatch.setattr(fit, "_fitted", training)
    monkeypatch.setattr(fit, "soft_labels", lacking)
    with pytest.raises(TrainingError, match="no soft labels"):
        folders.train_student(*arguments)
