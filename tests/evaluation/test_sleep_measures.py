"""Sleep measures of hypnograms made by hand, and agreement against closed forms."""

import json

import numpy as np
import pytest

from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.bootstrap import Bootstrap, ScoredNights
from kd_sleep.evaluation.plain_json import to_json
from kd_sleep.evaluation.results import Interval
from kd_sleep.evaluation.sleep_measures import LIMITS_SD, MEASURES, agreement, sleep_measures
from kd_sleep.stages import STAGE_NAMES

CONFIG = EvaluationConfig(bootstrap_draws=200)
CODES = {"W": 0, "R": 1, "L": 2, "D": 3, ".": -1}
NAN = np.nan


def hypnogram(text):
    return np.array([CODES[letter] for letter in text])


def one_hot(stages):
    return np.eye(4)[stages]


@pytest.mark.parametrize(
    ("text", "tst", "se", "sol", "waso", "rem_latency"),
    [
        ("WWWWLLDDRRWWLLWW", 4.0, 50.0, 2.0, 2.0, 2.0),
        ("LLRR", 2.0, 100.0, 0.0, 0.0, 1.0),
        ("RLLW", 1.5, 75.0, 0.0, 0.5, 0.0),  # REM at sleep onset
        ("WWWW", 0.0, 0.0, NAN, NAN, NAN),  # no sleep: nothing has a time
        ("WLLW", 1.0, 50.0, 0.5, 0.5, NAN),  # no REM
        ("....", NAN, NAN, NAN, NAN, NAN),
        # Unscored windows are in no minute, at either end they are not the night, and between
        # they are time that passes.
        ("..WLRW..", 1.0, 50.0, 0.5, 0.5, 0.5),
        ("W..L.RWW", 1.0, 40.0, 1.5, 1.0, 1.0),
        ("L.W.L", 1.0, 100 * 2 / 3, 0.0, 0.5, NAN),
        ("D", 0.5, 100.0, 0.0, 0.0, NAN),
    ],
)
def test_hypnograms_by_hand(text, tst, se, sol, waso, rem_latency):
    found = sleep_measures(hypnogram(text))
    expected = {"tst_min": tst, "se_percent": se, "sol_min": sol, "waso_min": waso}
    expected["rem_latency_min"] = rem_latency
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, err_msg=name)
    for letter, stage in zip("WRLD", STAGE_NAMES, strict=True):
        minutes = text.count(letter) / 2 if set(text) != {"."} else NAN
        np.testing.assert_allclose(found[f"{stage.lower()}_min"], minutes)
    assert set(found) == set(MEASURES)


def test_without_gaps_a_night_is_latency_sleep_and_waso():
    nights = np.random.default_rng(0).integers(0, 4, (50, 80))
    found = sleep_measures(nights)
    np.testing.assert_allclose(found["sol_min"] + found["tst_min"] + found["waso_min"], 40.0)
    np.testing.assert_allclose(sum(found[f"{s.lower()}_min"] for s in STAGE_NAMES), 40.0)


def test_leading_axes_are_a_loop_and_unscored_ends_change_nothing():
    nights = np.random.default_rng(0).integers(-1, 4, (2, 3, 30))
    found = sleep_measures(np.pad(nights, ((0, 0), (0, 0), (4, 9)), constant_values=-1))
    for place in np.ndindex(2, 3):
        for name, value in sleep_measures(nights[place]).items():
            np.testing.assert_array_equal(found[name][place], value)


def tst_study(differences, subjects=None):
    """Nights of 100 windows, 60 of them sleep; the system finds `differences` minutes more."""
    truth = hypnogram("W" * 40 + "L" * 60)
    found = [one_hot(hypnogram("W" * (40 - 2 * d) + "L" * (60 + 2 * d))) for d in differences]
    names = [f"n{n}" for n in range(len(found))]
    nights = ScoredNights(names, subjects or names, [truth] * len(found))
    return nights, {"x": found}


def test_limits_of_one_night_a_subject_are_bland_and_altmans():
    differences = [3, -2, 5, 0, 1, -4, 2, 2]
    tst = agreement(*tst_study(differences), CONFIG).systems["x"]["tst_min"]
    mean, sd = np.mean(differences), np.std(differences, ddof=1)
    assert tst.bias.value == pytest.approx(mean)
    assert tst.sd == pytest.approx(sd)
    assert tst.lower.value == pytest.approx(mean - 1.96 * sd)
    assert tst.upper.value == pytest.approx(mean + 1.96 * sd)
    assert tst.mean_absolute_error.value == pytest.approx(np.mean(np.abs(differences)))
    assert (tst.nights, tst.undefined) == (8, 0)
    for part in ("bias", "lower", "upper", "mean_absolute_error"):
        interval = getattr(tst, part)
        assert interval.low < interval.value < interval.high


def test_two_nights_of_a_subject_are_an_analysis_of_variance():
    """Textbook sums by a loop, with one subject of one night and one of three."""
    groups = [[3, 5], [-2, 0], [1], [4, 6, 8], [0, -4]]
    differences = [d for group in groups for d in group]
    subjects = [f"s{n}" for n, group in enumerate(groups) for _ in group]
    mean, count = np.mean(differences), len(differences)
    between = sum(len(g) * (np.mean(g) - mean) ** 2 for g in groups) / (len(groups) - 1)
    within = sum(((np.array(g) - np.mean(g)) ** 2).sum() for g in groups) / (count - len(groups))
    nights_each = (count**2 - sum(len(g) ** 2 for g in groups)) / ((len(groups) - 1) * count)
    variance = within + (between - within) / nights_each
    tst = agreement(*tst_study(differences, subjects), CONFIG).systems["x"]["tst_min"]
    assert tst.bias.value == pytest.approx(mean)
    assert tst.sd == pytest.approx(np.sqrt(variance))
    assert tst.upper.value - tst.bias.value == pytest.approx(LIMITS_SD * tst.sd)


def test_the_variance_of_two_nights_is_not_biased():
    """Between subjects 9, within 4: 1,000 subjects of two nights have 13."""
    rng = np.random.default_rng(0)
    means = rng.normal(0, 3, 1000)
    differences = np.clip(np.rint(rng.normal(np.repeat(means, 2), 2)), -19, 19).astype(int)
    subjects = [f"s{n}" for n in np.repeat(np.arange(1000), 2)]
    tst = agreement(*tst_study(differences, subjects), CONFIG).systems["x"]["tst_min"]
    assert tst.sd**2 == pytest.approx(13, rel=0.1)


def test_draws_of_limits_equal_a_loop_over_resampled_subjects():
    """The weighted sums are those of a cohort in which a subject drawn twice is two."""
    rng = np.random.default_rng(1)
    subjects = ["a", "a", "b", "c", "c", "d", "e", "f"]
    differences = rng.integers(-8, 9, 8)
    nights, systems = tst_study(differences, subjects)
    config = EvaluationConfig(bootstrap_draws=60)
    found = agreement(nights, systems, config).systems["x"]["tst_min"]
    weights = Bootstrap.of(nights, config).weights_DU.astype(int)
    values = {"bias": [], "lower": [], "upper": []}
    for weights_U in weights:
        drawn = [
            (f"{name}{copy}", d)
            for name, weight in zip("abcdef", weights_U, strict=True)
            for copy in range(weight)
            for s, d in zip(subjects, differences, strict=True)
            if s == name
        ]
        again = agreement(*tst_study([d for _, d in drawn], [s for s, _ in drawn]), CONFIG)
        for part, list_ in values.items():
            list_.append(getattr(again.systems["x"]["tst_min"], part).value)
    for part, list_ in values.items():
        low, high = np.quantile(list_, [0.025, 0.975])
        assert getattr(found, part) == Interval(
            pytest.approx(getattr(found, part).value), pytest.approx(low), pytest.approx(high)
        )


def test_a_perfect_system_agrees_exactly_and_a_constant_shift_is_bias_alone():
    labels = [np.random.default_rng(n).integers(0, 4, 90) for n in range(6)]
    names = [f"n{n}" for n in range(6)]
    nights = ScoredNights(names, names, labels)
    perfect = agreement(nights, {"x": [one_hot(n) for n in labels]}, CONFIG).systems["x"]
    for found in perfect.values():
        for part in ("bias", "lower", "upper", "mean_absolute_error"):
            assert getattr(found, part) == Interval(0.0, 0.0, 0.0)
    shifted = agreement(*tst_study([7] * 5), CONFIG).systems["x"]["tst_min"]
    assert shifted.sd == 0.0
    assert shifted.lower == shifted.upper == Interval(7.0, 7.0, 7.0)


def test_windows_the_scorer_left_out_are_left_out_of_the_systems_too():
    labels = hypnogram("WWLLRR")
    spoilt = hypnogram("WW..RR")
    nights = ScoredNights(["a", "b"], ["a", "b"], [spoilt, labels])
    predicted = [one_hot(hypnogram("WWDDRR")), one_hot(labels)]
    found = agreement(nights, {"x": predicted}, CONFIG)
    assert found.systems["x"]["tst_min"].bias.value == 0.0
    assert found.per_recording[0].systems["x"]["deep_min"] == 0.0


def test_a_night_without_the_measure_is_counted_not_averaged():
    """The system never says REM, one night has none, one has no sleep, one no label."""
    labels = [hypnogram(text) for text in ("WLLRR", "WLLLL", "WWWWW", ".....", "LLRRW")]
    names = list("abcde")
    nights = ScoredNights(names, names, labels)
    predicted = [one_hot(np.where(n == 1, 2, np.maximum(n, 0))) for n in labels]
    found = agreement(nights, {"x": predicted}, CONFIG)
    latency = found.systems["x"]["rem_latency_min"]
    assert latency.bias == Interval()
    assert (latency.nights, latency.undefined, latency.sd) == (0, 4, None)
    waso = found.systems["x"]["waso_min"]
    assert (waso.nights, waso.undefined) == (3, 1)
    assert found.systems["x"]["tst_min"].nights == 4
    assert set(found.per_recording[3].scorer.values()) == {None}
    json.dumps(to_json(found), allow_nan=False)


def test_one_subject_has_a_bias_but_no_limits():
    tst = agreement(*tst_study([3, 5], ["s", "s"]), CONFIG).systems["x"]["tst_min"]
    assert tst.bias == Interval(4.0)
    assert tst.lower == tst.upper == Interval()
    assert tst.sd is None


def test_errors_of_two_students_are_paired():
    nights, found = tst_study([6, -2, 4, -5, 3, 8])
    better = tst_study([5, -1, 3, -4, 2, 7])[1]["x"]  # a minute nearer, every night
    systems = {"student_distilled": better, "student_hard_labels": found["x"]}
    results = agreement(nights, systems, CONFIG)
    assert results.distillation["tst_min"] == Interval(-1.0, -1.0, -1.0)
    assert agreement(nights, found, CONFIG).distillation is None


def test_what_cannot_be_measured_is_refused_by_name():
    nights, systems = tst_study([1, 2])
    systems["x"][1] = np.full((100, 4), NAN)
    with pytest.raises(ValueError, match="x, n1: 400 probabilities are not finite"):
        agreement(nights, systems, CONFIG)
    dark = ScoredNights(["a"], ["a"], [np.full(3, -1)])
    with pytest.raises(DatasetError, match="no scored window"):
        agreement(dark, {"x": [one_hot([0, 0, 0])]}, CONFIG)
