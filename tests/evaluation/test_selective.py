"""Risk against coverage: definitions by brute force, closed forms, what dropping windows does."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kd_sleep.config import EvaluationConfig
from kd_sleep.evaluation import selective
from kd_sleep.evaluation.bootstrap import Bootstrap
from kd_sleep.evaluation.results import Interval
from kd_sleep.evaluation.selective import (
    ORACLE,
    RANDOM,
    aurc_and_augrc,
    flagged,
    judge,
    risk_coverage,
)
from kd_sleep.stages import STAGE_NAMES

CONFIG = EvaluationConfig(bootstrap_draws=200)


def aurc(loss, confidence):
    return aurc_and_augrc(loss, confidence)[0]


def augrc(loss, confidence):
    return aurc_and_augrc(loss, confidence)[1]


def areas_of_one_order(loss):
    """AURC and AUGRC of windows in the order in which they are kept, by their definitions."""
    count = len(loss)
    risk = [np.mean(loss[:k]) for k in range(1, count + 1)]
    generalised = [np.sum(loss[:k]) / count for k in range(count + 1)]
    return np.mean(risk), np.trapezoid(generalised, np.arange(count + 1) / count)


def areas_by_force(loss, confidence):
    """Mean over all orders that do not contradict the confidence."""
    orders = [
        order
        for order in itertools.permutations(range(len(loss)))
        if (np.diff(confidence[list(order)]) <= 0).all()
    ]
    return np.mean([areas_of_one_order(loss[list(order)]) for order in orders], axis=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [1, 2, 50])
def test_areas_and_curve_are_the_mean_over_all_orders_of_ties(seed, levels):
    rng = np.random.default_rng([seed, levels])
    loss = rng.normal(size=6) if seed % 2 else rng.integers(0, 2, 6).astype(float)
    confidence = rng.integers(0, levels, 6).astype(float)
    expected = areas_by_force(loss, confidence)
    assert aurc(loss, confidence) == pytest.approx(expected[0])
    assert augrc(loss, confidence) == pytest.approx(expected[1])
    coverage, risk = risk_coverage(loss, confidence)
    assert risk.mean() == pytest.approx(expected[0])
    area = np.trapezoid(np.append(0, coverage * risk), np.append(0, coverage))
    assert area == pytest.approx(expected[1])
    assert risk[-1] == pytest.approx(loss.mean())


@pytest.mark.parametrize("distinct", [2, 30, 10_000])
def test_augrc_of_errors_is_the_closed_form_of_auroc(distinct):
    rng = np.random.default_rng(distinct)
    confidence = rng.integers(0, distinct, 500) / distinct
    error = (rng.random(500) < 0.7 - 0.5 * confidence).astype(float)
    accuracy = 1 - error.mean()
    auroc = roc_auc_score(1 - error, confidence)
    closed = (1 - auroc) * accuracy * (1 - accuracy) + 0.5 * (1 - accuracy) ** 2
    assert augrc(error, confidence) == pytest.approx(closed)


def test_confidence_that_knows_nothing_has_the_mean_loss():
    rng = np.random.default_rng(0)
    loss = rng.exponential(size=2000)
    assert aurc(loss, np.full(2000, 3.0)) == pytest.approx(loss.mean())
    assert augrc(loss, np.full(2000, 3.0)) == pytest.approx(loss.mean() / 2)
    drawn = [aurc(loss, rng.random(2000)) for _ in range(300)]
    assert np.mean(drawn) == pytest.approx(loss.mean(), abs=4 * np.std(drawn) / np.sqrt(300))


def test_the_oracle_has_its_closed_form_and_none_is_better():
    count, errors = 1000, 230
    error = np.repeat([0.0, 1.0], [count - errors, errors])
    k = np.arange(count - errors + 1, count + 1)
    assert aurc(error, -error) == pytest.approx(((k - (count - errors)) / k).sum() / count)
    share = errors / count  # Geifman & El-Yaniv's limit for many windows
    assert aurc(error, -error) == pytest.approx(share + (1 - share) * np.log(1 - share), abs=1e-3)
    assert augrc(error, -error) == pytest.approx(0.5 * share**2)
    rng = np.random.default_rng(1)
    loss = rng.normal(size=200)
    for _ in range(50):
        confidence = rng.random(200)
        assert aurc(loss, -loss) <= aurc(loss, confidence) <= aurc(loss, loss)
        assert augrc(loss, -loss) <= augrc(loss, confidence) <= augrc(loss, loss)


@pytest.mark.parametrize("change", [np.exp, np.tanh, lambda x: 7 * x - 3, lambda x: x**3])
def test_only_the_order_of_confidence_counts(change):
    rng = np.random.default_rng(2)
    confidence, loss = rng.normal(size=400).round(1), rng.exponential(size=400)
    assert aurc(loss, change(confidence)) == pytest.approx(aurc(loss, confidence))
    assert augrc(loss, change(confidence)) == pytest.approx(augrc(loss, confidence))


def test_neither_the_order_of_windows_nor_infinite_confidence_matters():
    rng = np.random.default_rng(3)
    confidence, loss = rng.integers(0, 9, 300).astype(float), rng.random(300)
    order = rng.permutation(300)
    assert aurc(loss[order], confidence[order]) == pytest.approx(aurc(loss, confidence))
    ends = np.where(confidence == 8, np.inf, np.where(confidence == 0, -np.inf, confidence))
    assert aurc(loss, ends) == pytest.approx(aurc(loss, confidence))


def test_losses_shift_and_scale_the_areas():
    rng = np.random.default_rng(4)
    confidence, loss = rng.random(100), rng.random(100)
    assert aurc(3 * loss + 2, confidence) == pytest.approx(3 * aurc(loss, confidence) + 2)
    assert augrc(3 * loss + 2, confidence) == pytest.approx(3 * augrc(loss, confidence) + 1)


@pytest.mark.parametrize(
    ("loss", "confidence", "error"),
    [
        ([0.0, np.nan], [1.0, 2.0], "loss: 1 of 2"),
        ([0.0, 1.0], [np.nan, 2.0], "confidence: 1 of 2 windows are NaN"),
        ([0.0, np.inf], [1.0, 2.0], "not finite"),
        ([0.0], [1.0, 2.0], "as many"),
        ([], [], "N > 0"),
    ],
)
def test_bad_numbers_are_refused(loss, confidence, error):
    with pytest.raises(ValueError, match=error):
        aurc(loss, confidence)


@pytest.fixture
def study():
    """20 subjects of 60 windows; errors are rarer where confidence is high, and in Deep."""
    rng = np.random.default_rng(5)
    count = 1200
    subject = np.repeat(np.arange(20), 60)
    stage = rng.choice(4, count, p=[0.2, 0.2, 0.45, 0.15])
    quality = rng.normal(size=count) + 0.5 * rng.normal(size=20)[subject]
    loss = (rng.random(count) < 1 / (1 + np.exp(1 + quality - 0.5 * (stage == 0)))).astype(float)
    scores = {
        "good": quality,
        "poor": quality + 3 * rng.normal(size=count),
        "backwards": -quality,
    }
    return loss, subject, stage, scores


def test_draws_are_the_areas_of_the_windows_drawn(study):
    """Against copies of the subjects' windows, score by score; and so are the intervals."""
    loss, subjects, _, scores = study
    good, poor = scores["good"].round(1), scores["poor"].round(1)  # ties, fewer groups than bins
    _, subject, bootstrap = Bootstrap.of_windows(subjects, CONFIG)
    areas = selective._drawn_areas(bootstrap, loss, poor, subject)
    drawn = []
    for weights in bootstrap.weights_DU.astype(int):
        times = weights[subject]
        copies = np.repeat(loss, times)
        mine, base = (aurc(copies, np.repeat(each, times)) for each in (good, poor))
        assert areas[0][len(drawn)] == pytest.approx(base)
        drawn.append([mine - base, (base - mine) / (base - aurc(copies, -copies))])
    found = judge(loss, subjects, {"good": good, "poor": poor}, CONFIG, "poor").aurc["good"]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    for place, interval in enumerate((found.against_baseline, found.way_to_oracle)):
        assert [interval.low, interval.high] == pytest.approx([low[place], high[place]])


def test_bins_change_a_draw_by_next_to_nothing():
    rng = np.random.default_rng(6)
    confidence, subject = rng.random(60_000), np.repeat(np.arange(60), 1000)
    for loss in (
        (rng.random(60_000) > confidence).astype(float),
        rng.exponential(1.1 - confidence),
    ):
        _, index, bootstrap = Bootstrap.of_windows(subject, CONFIG)
        drawn = selective._drawn_areas(bootstrap, loss, confidence, index)
        times = bootstrap.weights_DU[0].astype(int)[index]
        exact = aurc(np.repeat(loss, times), np.repeat(confidence, times))
        assert drawn[0][0] == pytest.approx(exact, rel=2e-3)
        oracle = selective._drawn_areas(bootstrap, loss, -loss, index)
        exact = aurc(np.repeat(loss, times), np.repeat(-loss, times))
        assert oracle[0][0] == pytest.approx(exact, rel=2e-3)


def test_judge_gives_areas_with_intervals_and_the_way_to_the_oracle(study):
    loss, subjects, _, scores = study
    found = judge(loss, subjects, scores, CONFIG, "poor")
    for name, measure in (("aurc", aurc), ("augrc", augrc)):
        areas = getattr(found, name)
        assert set(areas) == {"good", "poor", "backwards", RANDOM, ORACLE}
        values = {key: measure(loss, confidence) for key, confidence in scores.items()}
        best = measure(loss, -loss)
        for key, value in values.items():
            assert areas[key].area.value == pytest.approx(value)
        good = areas["good"]
        assert good.area.low < values["good"] < good.area.high
        way = (values["poor"] - values["good"]) / (values["poor"] - best)
        assert good.way_to_oracle.value == pytest.approx(way)
        assert good.way_to_oracle.low > 0
        assert good.against_baseline.high < 0
        assert areas["backwards"].way_to_oracle.high < 0
        assert areas["poor"].against_baseline == Interval(0.0, 0.0, 0.0)
        assert areas[ORACLE].way_to_oracle.value == pytest.approx(1)
    assert found.aurc[RANDOM].area.value == pytest.approx(loss.mean())
    for coverage, risk in found.curves.values():
        assert coverage[-1] == 1.0
        assert risk[-1] == pytest.approx(loss.mean())
        assert len(risk) == len(coverage) <= 100


def test_differences_are_paired(study):
    """The interval of a difference is much narrower than those of the two areas."""
    loss, subjects, _, scores = study
    twin = scores["good"] + 0.05 * np.random.default_rng(0).normal(size=1200)
    found = judge(loss, subjects, scores | {"twin": twin}, CONFIG, "good").aurc["twin"]
    width = found.against_baseline.high - found.against_baseline.low
    assert width < 0.2 * (found.area.high - found.area.low)


def test_one_subject_has_no_interval_and_windows_alike_no_way():
    rng = np.random.default_rng(7)
    found = judge(rng.random(50), np.full(50, "a"), {"x": rng.random(50)}, CONFIG, RANDOM)
    assert found.aurc["x"].area.value is not None
    assert found.aurc["x"].area.low is None
    subjects = np.repeat(np.arange(4), 10)
    alike = judge(np.full(40, 0.3), subjects, {"x": np.arange(40.0)}, CONFIG, RANDOM)
    assert alike.aurc["x"].way_to_oracle.value is None


def test_flags_by_hand(study):
    """Half of Wake is flagged, a tenth of all windows; intervals are those of copies."""
    stage = np.concatenate([np.repeat([0, 1, 2], count) for count in
                            ((20, 20, 60), (40, 10, 50), (0, 25, 75))])  # fmt: skip
    subjects, wake = np.repeat(["a", "b", "c"], 100), stage == 0
    flags = wake & (np.arange(300) % 2 == 0)
    found = flagged(flags, stage, wake, 2.0 * wake, subjects, CONFIG)
    assert found.share.value == pytest.approx(30 / 300)
    values = [found.by_stage[name].value for name in STAGE_NAMES]
    assert values == [0.5, 0.0, 0.0, None]  # Deep does not occur
    assert found.errors_all.value == pytest.approx(60 / 300)
    assert found.errors_kept.value == pytest.approx(30 / 270)
    assert found.bits_kept.value == pytest.approx(2 * 30 / 270)
    loss, subjects, stage, scores = study
    flags = scores["good"] < 0.3
    found = flagged(flags, stage, loss, loss, subjects, CONFIG).by_stage["Wake"]
    _, subject, bootstrap = Bootstrap.of_windows(subjects, CONFIG)
    weights = bootstrap.weights_DU[:, subject] * (stage == 0)
    expected = np.quantile((weights @ flags) / weights.sum(1), [0.025, 0.975])
    assert [found.low, found.high] == pytest.approx(expected)
