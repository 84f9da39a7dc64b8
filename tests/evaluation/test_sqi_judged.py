"""An SQI judged: one that knows the gap wins, one that knows nothing does not, in words, too."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import log_softmax

from kd_sleep.config import EvaluationConfig
from kd_sleep.datasets.nights import read_split
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.sqi import ENTROPY, LEARNED, SIGNAL, judge_sqi
from kd_sleep.stages import STAGE_NAMES
from kd_sleep.training.quality import gap_bits

CONFIG = EvaluationConfig(bootstrap_draws=200)


@pytest.fixture(scope="module")
def nights(data_dir):
    return read_split(data_dir, "train")


@pytest.fixture(scope="module")
def said(nights):
    """A student that mostly is less sure where it is wrong: entropy tells something, not all."""
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(len(nights.label), 4)) * 2
    lost = rng.random(len(teacher)) < 0.3
    student = np.where(lost[:, None], 0.3 * np.roll(teacher, 1, axis=1), teacher)
    return nights.split(log_softmax(student, -1)), nights.split(log_softmax(teacher, -1))


def judged(nights, said, learned):
    return judge_sqi(nights, *said, nights.split(learned), 0.5, CONFIG, "student_distilled")


def test_an_sqi_that_knows_the_gap_comes_all_the_way(nights, said):
    gap = gap_bits(np.concatenate(said[1]), np.concatenate(said[0]))
    found = judged(nights, said, 2.0**-gap)
    learned = found["judged"]["gap"]["pooled"]["scores"][LEARNED]["augrc"]
    assert learned["way_to_oracle"]["value"] == pytest.approx(1.0)
    assert learned["against_baseline"]["high"] < 0
    assert "100" in found["conclusions"][0]
    assert "better than the student's own entropy" in found["conclusions"][0]
    assert not any("less than half" in sentence for sentence in found["conclusions"])
    assert all(row["kept"]["value"] == pytest.approx(row["sqi"]) for row in found["reliability"])
    json.dumps(found, allow_nan=False)


def test_an_sqi_of_noise_comes_nowhere_and_is_told_so(nights, said):
    found = judged(nights, said, np.random.default_rng(1).random(len(nights.label)))
    way = found["judged"]["gap"]["pooled"]["scores"][LEARNED]["augrc"]["way_to_oracle"]
    assert way["high"] < 0
    assert "worse than the student's own entropy" in found["conclusions"][0]
    assert set(found["rejection"]) == {LEARNED, SIGNAL, ENTROPY}
    assert "less than half of the way" in found["conclusions"][2]
    assert all(stage in found["conclusions"][3] for stage in STAGE_NAMES)


def test_windows_that_are_missing_or_unscored_do_not_count(nights, said):
    label = nights.label.copy()
    label[:100] = -1
    missing = nights.bcg_missing.copy()
    missing[100:150] = 1.0
    some = dataclasses.replace(nights, label=label, bcg_missing=missing)
    learned = np.random.default_rng(1).random(len(label))
    found = judged(some, said, learned)
    before = (nights.bcg_missing < 0.5) & (nights.label >= 0) & (nights.rr_missing < 1)
    assert found["windows"] == before[150:].sum()
    # What they would have been given changes nothing.
    learned[:150] = 0.0
    assert judged(some, said, learned)["judged"] == found["judged"]
    none = dataclasses.replace(nights, label=np.full_like(label, -1))
    with pytest.raises(DatasetError):
        judged(none, said, learned)


def test_the_curves_end_at_the_mean_loss(nights, said):
    found = judged(nights, said, np.random.default_rng(1).random(len(nights.label)))
    for kind, curves in found["curves"].items():
        mean = found["judged"][kind]["pooled"]["mean_loss"]
        for curve in curves.values():
            assert curve["coverage"][-1] == 1.0
            assert curve["risk"][-1] == pytest.approx(mean)
            assert len(curve["risk"]) == len(curve["coverage"]) <= 100
