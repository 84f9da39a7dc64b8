"""Usable information: cases known in closed form, ladders, and their picture."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import integrate, special, stats

from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.information import Ladder, pointwise_information
from kd_sleep.evaluation.plain_json import from_json, to_json
from kd_sleep.evaluation.report.study_sections import ladder_section
from kd_sleep.evaluation.results import LadderResult
from kd_sleep.stages import STAGE_NAMES

CONFIG = EvaluationConfig(bootstrap_draws=300)
PRIOR = np.array([0.2, 0.2, 0.45, 0.15])
MEANS = np.array([-2.0, 0.0, 1.0, 3.0])
WINDOWS = 40_000


def bayes(x_N, sd):
    """Log posterior [N, K] of Gaussian classes."""
    joint = np.log(PRIOR) + stats.norm.logpdf(x_N[:, None], MEANS, sd)
    return special.log_softmax(joint, axis=-1)


def gaussian_information(sd):
    """Mutual information of class and x in bits, by quadrature: entropy of x less that of x | y."""

    def density(x):
        return float(PRIOR @ stats.norm.pdf(x, MEANS, sd))

    def surprise(x):
        return -density(x) * np.log2(density(x))

    entropy, _ = integrate.quad(surprise, -2 - 8 * sd, 3 + 8 * sd, limit=300)
    return entropy - 0.5 * np.log2(2 * np.pi * np.e * sd**2)


@pytest.fixture(scope="module")
def classes():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, WINDOWS, p=PRIOR)
    return labels, np.repeat(np.arange(40), WINDOWS // 40), rng


def noisy(labels, sd, seed=1):
    return MEANS[labels] + sd * np.random.default_rng(seed).normal(size=len(labels))


@pytest.mark.parametrize("sd", [0.5, 1.0, 2.5])
def test_bayes_posterior_of_gaussian_classes_has_the_mutual_information(classes, sd):
    labels, _, _ = classes
    bits = pointwise_information(bayes(noisy(labels, sd), sd), labels, np.log(PRIOR))
    error = bits.std() / np.sqrt(WINDOWS)
    assert bits.mean() == pytest.approx(gaussian_information(sd), abs=4 * error)


@pytest.mark.parametrize("error", [0.04, 0.2, 0.48, 0.75])
def test_a_symmetric_channel_has_its_closed_form(error):
    """Every pair of stage and reading, as often as it occurs; exact."""
    pairs = [(y, x) for y in range(4) for x in range(4)]
    times = [round(300 * (1 - error if y == x else error / 3)) for y, x in pairs]
    labels, readings = np.repeat(pairs, times, axis=0).T
    flip = np.where(np.eye(4, dtype=bool), 1 - error, error / 3)
    bits = pointwise_information(np.log(flip[readings]), labels, np.log(np.full(4, 0.25)))
    entropy = -(1 - error) * np.log2(1 - error) - error * np.log2(error)
    assert bits.mean() == pytest.approx(2.0 - entropy - error * np.log2(3), abs=1e-9)


def test_noise_lowers_it_and_so_does_false_confidence(classes):
    labels, _, rng = classes
    clear = noisy(labels, 0.8)
    drowned = clear + 1.2 * rng.normal(size=WINDOWS)
    sd = np.hypot(0.8, 1.2)
    log_prior = np.log(PRIOR)
    calibrated = pointwise_information(bayes(clear, 0.8), labels, log_prior).mean()
    worse = pointwise_information(bayes(drowned, sd), labels, log_prior).mean()
    assert worse < calibrated - 0.1
    for temperature in (0.3, 3.0):
        squeezed = special.log_softmax(bayes(drowned, sd) / temperature, axis=-1)
        assert pointwise_information(squeezed, labels, log_prior).mean() < worse - 0.02


def test_the_prior_itself_has_none_and_certainty_has_the_surprise():
    labels = np.array([0, 1, 2, 3, -1])
    nothing = pointwise_information(np.tile(np.log(PRIOR), (5, 1)), labels, np.log(PRIOR))
    np.testing.assert_allclose(nothing, [0, 0, 0, 0, np.nan], atol=1e-15)
    with np.errstate(divide="ignore"):
        sure = np.log(np.eye(4)[[0, 1, 2, 3, 0]])
    bits = pointwise_information(sure, labels, np.log(PRIOR))
    np.testing.assert_allclose(bits, [*-np.log2(PRIOR), np.nan])


def test_a_prior_of_each_window_is_taken_off_window_by_window(classes):
    labels, _, _ = classes
    better, worse = bayes(noisy(labels, 0.7), 0.7), bayes(noisy(labels, 2.0, seed=2), 2.0)
    log_prior = np.log(PRIOR)
    between = pointwise_information(better, labels, worse)
    apart = pointwise_information(better, labels, log_prior) - pointwise_information(
        worse, labels, log_prior
    )
    np.testing.assert_allclose(between, apart, atol=1e-12)


def test_bad_input_is_refused_and_said(classes):
    labels = np.array([0, 1, 2])
    good = np.log(np.full((3, 4), 0.25))
    nan = good.copy()
    nan[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"1 of 3 windows have NaN .* first is window 1"):
        pointwise_information(nan, labels, good[0])
    with pytest.raises(ValueError, match="logits"):
        pointwise_information(np.full((3, 4), 5.0), labels, good[0])
    with pytest.raises(ValueError, match="logits"):
        pointwise_information(np.full((3, 4), 5e3), labels, good[0])
    with pytest.raises(ValueError, match="prior"):
        pointwise_information(good, labels, np.zeros(4))
    with pytest.raises(ValueError, match=r"prior: expected \[4\]"):
        pointwise_information(good, labels, np.log([0.5, 0.5]))
    with pytest.raises(ValueError, match="labels: outside"):
        pointwise_information(good, np.array([0, 1, 4]), good[0])
    with pytest.raises(ValueError, match="labels: expected integers"):
        pointwise_information(good, np.array([0.0, 1.0, 2.0]), good[0])
    with pytest.raises(ValueError, match=r"expected \[3, K\]"):
        pointwise_information(good[:2], labels, good[0])
    with np.errstate(divide="ignore"):
        one_hot = np.log(np.eye(4)[[0, 2, 2]])
    with pytest.raises(ValueError, match="1 windows give their own stage no chance"):
        pointwise_information(one_hot, labels, good[0])


@pytest.fixture(scope="module")
def measured(classes):
    """Time of night, then a chain in which each rung is the one before with more noise, but one."""
    labels, subjects, _ = classes
    labels, subjects = labels[:8000].copy(), np.repeat(np.arange(20), 400)
    labels[::97] = -1
    real = np.where(labels < 0, 0, labels)
    x = noisy(real, 0.6)
    rng = np.random.default_rng(4)
    noisier = x + 0.8 * rng.normal(size=8000)
    noisiest = noisier + 1.5 * rng.normal(size=8000)
    last = np.sqrt(0.6**2 + 0.8**2 + 1.5**2)
    rungs = {
        "Time of night": bayes(noisy(real, 4.0, seed=5), 4.0),
        "RR from ECG": bayes(x, 0.6),
        "RR with jitter": bayes(noisier, 1.0),
        "Clean BCG": special.log_softmax(bayes(noisiest, last) / 0.3, axis=-1),  # overconfident
        "BCG as recorded": bayes(noisiest, last),  # the same reading, calibrated
    }
    ladder = Ladder(labels, subjects, np.log(PRIOR), rungs, top="RR from ECG")
    return ladder, ladder.measure(CONFIG)


def test_steps_add_up_to_the_gap(measured):
    ladder, found = measured
    assert from_json(LadderResult, json.loads(json.dumps(to_json(found)))) == found
    changes = [rung.change.value for rung in found.rungs]
    np.testing.assert_allclose(np.cumsum(changes), [rung.bits.value for rung in found.rungs])
    assert found.gap.value == pytest.approx(sum(changes[2:]))
    scored = ladder.labels >= 0
    for rung, log_probs_NK in zip(found.rungs, ladder.rungs.values(), strict=True):
        bits = pointwise_information(log_probs_NK, ladder.labels, ladder.log_prior)
        assert rung.bits.value == pytest.approx(bits[scored].mean())
        for number, name in enumerate(STAGE_NAMES):
            of_stage = bits[ladder.labels == number].mean()
            assert rung.by_stage[name].value == pytest.approx(of_stage)


def test_intervals_are_of_subjects(classes):
    """Copies of windows are no evidence: what is resampled is the subject."""
    labels, subjects, _ = classes
    labels, subjects = labels[:4000], np.repeat(np.arange(40), 100)
    log_probs = bayes(noisy(labels, 1.0), 1.0)
    once = Ladder(labels, subjects, np.log(PRIOR), {"a": log_probs}).measure(CONFIG)
    twice = Ladder(
        np.tile(labels, 2), np.tile(subjects, 2), np.log(PRIOR), {"a": np.tile(log_probs, (2, 1))}
    ).measure(CONFIG)
    assert vars(twice.rungs[0].bits) == pytest.approx(vars(once.rungs[0].bits))
    bits = pointwise_information(log_probs, labels, np.log(PRIOR))
    means = [bits[subjects == each].mean() for each in range(40)]
    half = once.rungs[0].bits.high - once.rungs[0].bits.low
    assert half / 2 == pytest.approx(1.96 * np.std(means) / np.sqrt(40), rel=0.2)


def test_a_rise_behind_the_top_is_marked_and_explained(measured, classes):
    _, found = measured
    marks = [(rung.expected, rung.contrary) for rung in found.rungs]
    assert marks == [("gain", False)] * 2 + [("loss", False)] * 2 + [("loss", True)]
    *others, last = (rung.note for rung in found.rungs)
    assert others == [None] * 4
    assert "data-processing inequality does not hold" in last
    assert "chance" not in last
    html = ladder_section(found)
    assert "data-processing" in html
    assert "unexpected" in html
    labels, subjects = classes[0][:2000], np.repeat(np.arange(10), 200)
    one, other = (bayes(noisy(labels, 1.0, seed), 1.0) for seed in (7, 8))
    notes = [
        Ladder(labels, subjects, np.log(PRIOR), rungs).measure(CONFIG).rungs[1].note
        for rungs in ({"a": one, "b": other}, {"b": other, "a": one})
    ]
    assert notes.count(None) == 1
    assert "may be chance" in "".join(note or "" for note in notes)


def test_steps_are_paired_by_subject(classes):
    """Subjects differ much, the step does not: its interval is narrow."""
    labels, subjects, _ = classes
    labels, subjects = labels[:8000], np.repeat(np.arange(40), 200)
    sd = np.linspace(0.3, 3.0, 40)[subjects]
    x = MEANS[labels] + sd * np.random.default_rng(9).normal(size=8000)
    clear = special.log_softmax(
        np.log(PRIOR) + stats.norm.logpdf(x[:, None], MEANS, sd[:, None]), axis=-1
    )
    rungs = {"clear": clear, "mild": np.logaddexp(clear + np.log(0.9), np.log(0.1 * PRIOR))}
    first, second = Ladder(labels, subjects, np.log(PRIOR), rungs).measure(CONFIG).rungs
    assert second.change.high - second.change.low < 0.5 * (first.bits.high - first.bits.low)
    assert second.change.high < 0


def test_a_rung_that_is_shown_more_should_gain(classes):
    labels, subjects = classes[0][:8000], np.repeat(np.arange(20), 400)
    good, bad = (bayes(noisy(labels, sd), sd) for sd in (0.6, 1.5))
    ladder = Ladder(labels, subjects, np.log(PRIOR), {"a": good, "b": bad, "c": good}, "a", ["c"])
    rung = ladder.measure(CONFIG).rungs[2]
    assert (rung.expected, rung.contrary, rung.note) == ("gain", False, None)
    assert dataclasses.replace(ladder, gains=()).measure(CONFIG).rungs[2].contrary
    with pytest.raises(ValueError, match="gains"):
        dataclasses.replace(ladder, gains=["d"])


def test_seeds_that_differ_widen_a_rungs_interval(classes):
    labels, subjects = classes[0][:8000], np.repeat(np.arange(20), 400)
    one, other = (bayes(noisy(labels, sd), sd) for sd in (0.6, 1.5))
    mean = 0.5 * (pointwise_information(one, labels, np.log(PRIOR)).mean()
                  + pointwise_information(other, labels, np.log(PRIOR)).mean())  # fmt: skip

    def bits(*of_seeds):
        ladder = Ladder(labels, subjects, np.log(PRIOR), {"a": np.stack(of_seeds)})
        return ladder.measure(CONFIG).rungs[0].bits

    apart, alike = bits(one, other), bits(one, one)
    assert apart.value == pytest.approx(mean)
    assert vars(alike) == pytest.approx(vars(bits(one)))
    assert apart.high - apart.low > 5 * (alike.high - alike.low)


def test_a_ladder_refuses_rungs_that_do_not_fit(classes):
    labels, subjects, _ = classes
    labels, subjects = labels[:10], subjects[:10]
    good = np.tile(np.log(PRIOR), (10, 1))
    with pytest.raises(ValueError, match="BCG: log-probabilities: expected"):
        Ladder(labels, subjects, good[0], {"ECG": good, "BCG": good[:9]}).measure(CONFIG)
    with pytest.raises(ValueError, match="BCG: log-probabilities: 10 of 10 windows have NaN"):
        Ladder(labels, subjects, good[0], {"ECG": good, "BCG": good * np.nan}).measure(CONFIG)
    with pytest.raises(ValueError, match="at least one"):
        Ladder(labels, subjects, good[0], {})
    with pytest.raises(ValueError, match="top"):
        Ladder(labels, subjects, good[0], {"ECG": good}, top="RR")
    with pytest.raises(DatasetError, match="scored"):
        Ladder(np.full(10, -1), subjects, good[0], {"ECG": good}).measure(CONFIG)
    with pytest.raises(ValueError, match="subjects"):
        Ladder(labels, subjects[:9], good[0], {"ECG": good}).measure(CONFIG)
