"""An SQI judged: one that has the gap wins, noise does not, and flags come from validation."""

import dataclasses

import numpy as np
import pytest
from scipy.special import log_softmax

from kd_sleep.benchmark.synthetic import synthetic_nights
from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.sqi_judged import BEST_FEATURE, ENTROPY, LEARNED, judge_sqi
from kd_sleep.models.kept_share import FEATURES
from kd_sleep.stages import STAGE_NAMES
from kd_sleep.training.fit_kept_share import augrc, fit_kept_share, gap_bits

CONFIG = EvaluationConfig(bootstrap_draws=100)
CONFIDENCE = FEATURES.index("beat confidence")


@pytest.fixture(scope="module")
def nights():
    rng = np.random.default_rng(3)
    made = synthetic_nights(8, 60, 3)
    seen = {"bcg_missing": 0.2, "rr_missing": 0.1}
    seen = {name: np.full(480, share, np.float32) for name, share in seen.items()}
    label = rng.integers(0, 4, 480).astype(np.int8)
    return dataclasses.replace(made, label=label, bcg=None, **seen)


@pytest.fixture(scope="module")
def answers(nights):
    """Log probs of a student that often is less sure where it is wrong, and of the teacher."""
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(len(nights.label), 4)) * 2
    lost = rng.random(len(teacher)) < 0.3
    student = np.where(lost[:, None], 0.3 * np.roll(teacher, 1, axis=1), teacher)
    return log_softmax(student, -1), log_softmax(teacher, -1)


@pytest.fixture(scope="module")
def sqi(nights, answers):
    fitted = fit_kept_share(nights, *answers, "s", "t")
    weights = np.zeros(len(FEATURES))
    weights[CONFIDENCE] = 1.0  # by beat confidence alone, which the tests write
    return dataclasses.replace(
        fitted,
        weights=tuple(weights),
        bias=0.0,
        mean=(0.0,) * len(FEATURES),
        scale=(1.0,) * len(FEATURES),
        flag_below=0.5,
        best_feature="SNR, dB",
        best_sign=1.0,
    )


def features(answers, confidence):
    found = np.zeros((len(confidence), len(FEATURES)))
    log2 = answers[0] / np.log(2)
    found[:, 0] = -(np.exp(answers[0]) * log2).sum(-1)
    found[:, 1:5], found[:, CONFIDENCE] = log2, confidence
    found[:, FEATURES.index("SNR, dB")] = np.arange(len(confidence)) % 7
    return found


def judged(nights, answers, confidence, sqi):
    by_night = [nights.split(each) for each in answers]
    made = features(answers, confidence)
    return judge_sqi(nights, *by_night, made, sqi, CONFIG, "student_distilled")


def test_an_sqi_that_knows_the_gap_comes_all_the_way(nights, answers, sqi):
    gap = gap_bits(answers[1], answers[0])
    found = judged(nights, answers, -gap, sqi)
    learned = found.judged["gap"].augrc[LEARNED]
    assert learned.way_to_oracle.value == pytest.approx(1.0, abs=1e-2)  # clipped at 4
    assert learned.against_baseline.high < 0
    assert "better than the student's own entropy" in found.conclusions[0]
    alone = dataclasses.replace(sqi, best_feature=ENTROPY, best_sign=-1.0)
    assert BEST_FEATURE in found.judged["gap"].augrc
    assert BEST_FEATURE not in judged(nights, answers, -gap, alone).judged["gap"].augrc


def test_an_sqi_of_noise_comes_nowhere_and_the_text_has_it(nights, answers, sqi):
    confidence = np.random.default_rng(1).normal(size=480)
    found = judged(nights, answers, confidence, sqi)
    learned = found.judged["gap"].augrc[LEARNED]
    assert learned.way_to_oracle.high < 0
    text = " ".join(found.conclusions)
    assert "worse than the student's own entropy" in text
    assert "best single feature on validation, SNR, dB, comes" in text
    assert all(stage in text for stage in STAGE_NAMES)
    # The area that the fit computes by itself is the judge's.
    gap = gap_bits(answers[1], answers[0])
    assert augrc(gap, np.clip(confidence, -4, 4)) == pytest.approx(learned.area.value)


def test_the_flag_is_the_one_that_ships(nights, answers, sqi):
    confidence = np.where(np.arange(480) < 48, -1.0, 1.0)
    found = judged(nights, answers, confidence, sqi)
    gap = gap_bits(answers[1], answers[0])
    assert found.flag_below == 0.5
    assert found.flagged.share.value == pytest.approx(0.1)
    assert found.flagged.bits_kept.value == pytest.approx(gap[48:].mean())


def test_windows_that_are_missing_or_unscored_do_not_count(nights, answers, sqi):
    label, missing = nights.label.copy(), nights.bcg_missing.copy()
    label[:100] = -1
    missing[100:150] = 1.0
    some = dataclasses.replace(nights, label=label, bcg_missing=missing)
    confidence = np.random.default_rng(1).normal(size=480)
    found = judged(some, answers, confidence, sqi)
    here = np.arange(480) >= 150
    gap = gap_bits(answers[1], answers[0])
    assert found.flagged.bits_all.value == pytest.approx(gap[here].mean())
    confidence[:150] = 0.0  # their SQI changes nothing
    assert judged(some, answers, confidence, sqi) == found
    none = dataclasses.replace(nights, label=np.full_like(label, -1))
    with pytest.raises(DatasetError):
        judged(none, answers, confidence, sqi)
