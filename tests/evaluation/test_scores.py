"""Scores: known answers, and what must and must not move an interval."""

import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation import scores
from kd_sleep.stages import STAGE_NAMES

CONFIG = EvaluationConfig(bootstrap_draws=300)


def _one_hot(predictions):
    return np.eye(4, dtype=np.float32)[predictions]


def _guesses(rng, labels, skill):
    return _one_hot(
        np.where(rng.random(len(labels)) < skill, labels, rng.integers(0, 4, len(labels)))
    )


@pytest.fixture
def study():
    """Twelve subjects, three of them with two nights; teacher > distilled > hard labels."""
    rng = np.random.default_rng(7)
    subjects = [f"s{n:02d}" for n in [*range(12), 0, 4, 8]]
    labels = [rng.choice(4, size=rng.integers(60, 90), p=[0.2, 0.2, 0.45, 0.15]) for _ in subjects]
    nights = scores.ScoredNights([f"n{n}" for n in range(15)], subjects, labels)
    systems = {
        name: [_guesses(rng, night, skill) for night in labels]
        for name, skill in [
            ("teacher", 0.8),
            ("student_distilled", 0.6),
            ("student_hard_labels", 0.4),
        ]
    }
    return nights, systems


def _intervals(results):
    return {name: system["pooled"] for name, system in results["systems"].items()}


def _flat(tree):
    """Every interval of a tree as rows (value, low, high)."""
    if "low" in tree:
        return [[np.nan if tree[key] is None else tree[key] for key in ("value", "low", "high")]]
    return [row for branch in tree.values() for row in _flat(branch)]


def test_pooled_values_are_scikit_learns_on_all_windows(study):
    nights, systems = study
    pooled = scores.score(nights, systems, CONFIG)["systems"]["teacher"]["pooled"]
    labels = np.concatenate(nights.labels)
    predictions = np.concatenate(systems["teacher"]).argmax(-1)
    recall = sklearn_metrics.recall_score(labels, predictions, average=None)
    assert pooled["accuracy"]["value"] == pytest.approx(np.mean(labels == predictions))
    assert pooled["kappa"]["value"] == pytest.approx(
        sklearn_metrics.cohen_kappa_score(labels, predictions)
    )
    assert pooled["macro_f1"]["value"] == pytest.approx(
        sklearn_metrics.f1_score(labels, predictions, average="macro")
    )
    assert [pooled["recall"][stage]["value"] for stage in STAGE_NAMES] == pytest.approx(recall)


def test_precision_recall_and_f1_are_scikit_learns_pooled_and_in_every_recording(study):
    nights, systems = study
    found = scores.score(nights, systems, CONFIG)["systems"]["teacher"]
    predictions = [night.argmax(-1) for night in systems["teacher"]]
    pooled = {
        name: {stage: interval["value"] for stage, interval in found["pooled"][name].items()}
        for name in ("precision", "recall", "f1")
    }
    cases = [(np.concatenate(nights.labels), np.concatenate(predictions), pooled)]
    cases += zip(nights.labels, predictions, found["per_recording"], strict=True)
    for labels, guesses, ours in cases:
        theirs = sklearn_metrics.precision_recall_fscore_support(labels, guesses, labels=range(4))
        for name, expected in zip(("precision", "recall", "f1"), theirs, strict=False):
            assert list(ours[name]) == list(STAGE_NAMES)
            assert list(ours[name].values()) == pytest.approx(expected)
    for row, labels, guesses in zip(
        found["per_recording"], nights.labels, predictions, strict=True
    ):
        assert row["kappa"] == pytest.approx(sklearn_metrics.cohen_kappa_score(labels, guesses))
        assert row["macro_f1"] == pytest.approx(
            sklearn_metrics.f1_score(labels, guesses, average="macro")
        )


def test_every_draw_is_of_as_many_subjects_as_have_labels(study):
    nights, _ = study
    dark = scores.ScoredNights(
        [*nights.recording_ids, "dark"],
        [*nights.subject_ids, "x"],
        [*nights.labels, np.full(9, -1)],
    )
    bootstrap = scores.Bootstrap.of(dark, CONFIG)
    assert bootstrap.weights_DU.shape == (300, 12)
    assert (bootstrap.weights_DU.sum(-1) == 12).all()
    assert bootstrap.weights_DU.mean(0) == pytest.approx(np.ones(12), abs=0.2)
    sums = bootstrap.by_subject(np.arange(16.0))
    assert sums[:5].tolist() == [12.0, 1.0, 2.0, 3.0, 17.0]  # recordings 0 and 12, 1, 2, 3, ...


def test_draws_are_those_of_resampled_subjects(study):
    """A draw's weighted counts are a cohort's in which a subject drawn twice is there twice."""
    nights, systems = study
    config = EvaluationConfig(bootstrap_draws=40)
    names = sorted(set(nights.subject_ids))
    found = scores.score(nights, systems, config)["systems"]["teacher"]["pooled"]["kappa"]
    kappas = []
    for weights in scores.Bootstrap.of(nights, config).weights_DU.astype(int):
        drawn = [
            row
            for name, weight in zip(names, weights, strict=True)
            for row, subject in enumerate(nights.subject_ids)
            if subject == name
            for _ in range(weight)
        ]
        kappas.append(
            sklearn_metrics.cohen_kappa_score(
                np.concatenate([nights.labels[row] for row in drawn]),
                np.concatenate([systems["teacher"][row] for row in drawn]).argmax(-1),
            )
        )
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(kappas, [0.025, 0.975]))


def test_per_recording_counts_add_up_to_the_pooled_counts(study):
    results = scores.score(*study, CONFIG)
    for system in results["systems"].values():
        total = sum(np.array(row["confusion"]) for row in system["per_recording"])
        np.testing.assert_array_equal(total, system["confusion"])


def test_intervals_surround_their_values_and_the_results_are_plain_json(study):
    results = scores.score(*study, CONFIG)
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    for tree in [*_intervals(results).values(), results["distillation"]["differences"]]:
        for value, low, high in _flat(tree):
            assert low < value < high


def test_the_seed_decides_the_draws(study):
    first, again = (scores.score(*study, CONFIG) for _ in range(2))
    other = scores.score(*study, EvaluationConfig(bootstrap_draws=300, bootstrap_seed=1))
    assert first == again
    assert _intervals(first) != _intervals(other)


def test_higher_confidence_widens_every_interval(study):
    narrow = scores.score(*study, EvaluationConfig(bootstrap_draws=300, confidence=0.5))
    wide = scores.score(*study, EvaluationConfig(bootstrap_draws=300, confidence=0.99))
    for inner, outer in zip(_flat(_intervals(narrow)), _flat(_intervals(wide)), strict=True):
        assert outer[1] < inner[1] <= inner[2] < outer[2]


def test_windows_of_a_subject_are_one_draw(study):
    """More windows of the same subjects, or the same windows in more files, add no certainty."""
    nights, systems = study
    expected = _intervals(scores.score(nights, systems, CONFIG))

    doubled = scores.ScoredNights(
        nights.recording_ids, nights.subject_ids, [np.repeat(n, 2) for n in nights.labels]
    )
    twice = {name: [np.repeat(p, 2, axis=0) for p in probs] for name, probs in systems.items()}
    assert _intervals(scores.score(doubled, twice, CONFIG)) == expected

    cut = scores.ScoredNights(
        [f"{r}{half}" for r in nights.recording_ids for half in "ab"],
        np.repeat(nights.subject_ids, 2).tolist(),
        [half for n in nights.labels for half in (n[:30], n[30:])],
    )
    halves = {name: [h for p in probs for h in (p[:30], p[30:])] for name, probs in systems.items()}
    assert _intervals(scores.score(cut, halves, CONFIG)) == expected


def test_twice_the_subjects_narrow_the_intervals_by_about_root_two(study):
    nights, systems = study
    config = EvaluationConfig(bootstrap_draws=2000)
    more = scores.ScoredNights(
        [*nights.recording_ids, *(f"{r}-twin" for r in nights.recording_ids)],
        [*nights.subject_ids, *(f"{s}-twin" for s in nights.subject_ids)],
        [*nights.labels, *nights.labels],
    )
    twice = {name: [*probs, *probs] for name, probs in systems.items()}
    before, after = (
        scores.score(*study_, config)["systems"]["teacher"]["pooled"]["accuracy"]
        for study_ in ((nights, systems), (more, twice))
    )
    ratio = (before["high"] - before["low"]) / (after["high"] - after["low"])
    assert ratio == pytest.approx(np.sqrt(2), rel=0.1)


def test_order_of_nights_and_unlabelled_nights_leave_scores_alone(study):
    nights, systems = study
    results = scores.score(nights, systems, CONFIG)
    order = np.random.default_rng(0).permutation(15)
    shuffled = scores.ScoredNights(
        *(
            [field[n] for n in order]
            for field in (nights.recording_ids, nights.subject_ids, nights.labels)
        )
    )
    moved = {name: [probs[n] for n in order] for name, probs in systems.items()}
    assert _intervals(scores.score(shuffled, moved, CONFIG)) == _intervals(results)

    extra = scores.ScoredNights(
        [*nights.recording_ids, "dark"],
        [*nights.subject_ids, "x"],
        [*nights.labels, np.full(9, -1)],
    )
    padded = {name: [*probs, np.full((9, 4), 0.25)] for name, probs in systems.items()}
    with_extra = scores.score(extra, padded, CONFIG)
    assert _intervals(with_extra) == _intervals(results)
    assert with_extra["unscored_recordings"] == ["dark"]
    last = with_extra["systems"]["teacher"]["per_recording"][-1]
    assert (last["recording_id"], last["windows"], last["accuracy"]) == ("dark", 0, None)


def test_intervals_cover_a_known_accuracy():
    """30 subjects drawn from a population of accuracy 0.6, 300 times: 95 % intervals cover it."""
    rng = np.random.default_rng(0)
    labels = [np.full(10, 2)] * 30
    nights = scores.ScoredNights([f"n{n}" for n in range(30)], [f"s{n}" for n in range(30)], labels)
    covered = 0
    for _ in range(300):
        right = rng.binomial(10, rng.beta(6, 4, size=30))  # mean 0.6, differing by subject
        probs = [_one_hot(np.where(np.arange(10) < n, 2, 0)) for n in right]
        accuracy = scores.score(nights, {"x": probs}, CONFIG)["systems"]["x"]["pooled"]["accuracy"]
        covered += accuracy["low"] <= 0.6 <= accuracy["high"]
    assert 0.90 <= covered / 300 <= 0.98


def test_difference_of_a_system_with_itself_is_exactly_zero(study):
    nights, systems = study
    results = scores.score(nights, systems, CONFIG, distilled="teacher", baseline="teacher")
    assert set(np.ravel(_flat(results["distillation"]["differences"]))) == {0.0}
    assert results["distillation"]["conclusion"] == "no gain shown (0.0 [0.0, 0.0] points)"
    recovered = results["distillation"]["teacher_lead_recovered"]
    assert recovered["value"] is None
    assert "not clear" in recovered["reason"]


def test_differences_are_paired(study):
    """Where student and baseline err together, their difference is surer than either of them."""
    nights, systems = study
    baseline = systems["student_hard_labels"]
    better = [p.copy() for p in baseline]
    for probs, labels in zip(better, nights.labels, strict=True):
        probs[:5] = _one_hot(labels[:5])
    results = scores.score(nights, systems | {"student_distilled": better}, CONFIG)
    gain = results["distillation"]["differences"]["accuracy"]
    alone = results["systems"]["student_distilled"]["pooled"]["accuracy"]
    assert gain["low"] > 0
    assert gain["high"] - gain["low"] < 0.5 * (alone["high"] - alone["low"])


def test_teacher_lead_recovered_is_the_ratio_of_two_gains(study):
    results = scores.score(*study, CONFIG)
    teacher, distilled, hard = (
        results["systems"][name]["pooled"]["accuracy"]["value"]
        for name in ("teacher", "student_distilled", "student_hard_labels")
    )
    recovered = results["distillation"]["teacher_lead_recovered"]
    assert recovered["value"] == pytest.approx((distilled - hard) / (teacher - hard))
    assert 0 < recovered["low"] < recovered["value"] < recovered["high"] < 1
    assert recovered["reason"] is None


@pytest.mark.parametrize(
    ("missing", "expected"), [("teacher", "not scored"), ("student_distilled", None)]
)
def test_comparisons_need_their_systems(study, missing, expected):
    nights, systems = study
    del systems[missing]
    distillation = scores.score(nights, systems, CONFIG)["distillation"]
    if expected is None:
        assert distillation is None
    else:
        assert expected in distillation["teacher_lead_recovered"]["reason"]


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.031, 0.019, 0.044, "gain 3.1 [1.9, 4.4] points"),
        (-0.031, -0.044, -0.019, "loss 3.1 [1.9, 4.4] points"),
        (0.004, -0.009, 0.017, "no gain shown (0.4 [−0.9, 1.7] points)"),
        (0.004, 0.0, 0.017, "no gain shown (0.4 [0.0, 1.7] points)"),
        (-0.004, -0.017, 0.0, "no gain shown (−0.4 [−1.7, 0.0] points)"),
        (0.2, None, None, "no gain shown (20.0 points, no interval)"),
        (None, None, None, "not defined"),
    ],
)
def test_verdict_claims_only_what_excludes_zero(value, low, high, text):
    assert scores.verdict({"value": value, "low": low, "high": high}) == text


def test_one_subject_has_values_but_no_intervals(study):
    nights, systems = study
    alone = scores.ScoredNights(nights.recording_ids, ["s"] * 15, nights.labels)
    results = scores.score(alone, systems, CONFIG)
    for value, low, high in _flat(_intervals(results)):
        assert np.isfinite(value)
        assert np.isnan([low, high]).all()
    assert "One subject" in results["bootstrap"]["note"]
    assert results["distillation"]["conclusion"].startswith("no gain shown")


def test_few_subjects_are_noted_and_many_are_not(study):
    assert "too narrow" in scores.score(*study, CONFIG)["bootstrap"]["note"]
    labels = [np.array([0, 1, 2, 3])] * 20
    many = scores.ScoredNights([f"n{n}" for n in range(20)], [f"s{n}" for n in range(20)], labels)
    results = scores.score(many, {"x": [_one_hot(n) for n in labels]}, CONFIG)
    assert results["bootstrap"]["note"] is None


def test_a_stage_that_never_occurs_has_no_recall(study):
    nights, systems = study
    for labels in nights.labels:
        labels[labels == 3] = 2
    results = scores.score(nights, systems, CONFIG)
    absent = {"value": None, "low": None, "high": None}
    assert results["systems"]["teacher"]["pooled"]["recall"]["Deep"] == absent
    assert results["distillation"]["differences"]["recall"]["Deep"] == absent


def test_a_stage_of_one_subject_has_a_recall_without_interval(study):
    """Resampling one subject says nothing about others: its zero width would be a lie."""
    nights, systems = study
    for subject, labels in zip(nights.subject_ids, nights.labels, strict=True):
        if subject != "s01":
            labels[labels == 3] = 2
    deep = scores.score(nights, systems, CONFIG)["systems"]["teacher"]["pooled"]["recall"]["Deep"]
    assert deep["value"] is not None
    assert deep["low"] is None


def test_one_predicted_class_has_kappa_zero(study):
    nights, _ = study
    constant = [_one_hot(np.full(len(labels), 2)) for labels in nights.labels]
    pooled = scores.score(nights, {"x": constant}, CONFIG)["systems"]["x"]["pooled"]
    assert pooled["kappa"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert pooled["recall"]["Light"]["value"] == 1.0
    assert pooled["recall"]["REM"]["value"] == 0.0
    # What was never said cannot be right or wrong, but it was missed.
    assert pooled["precision"]["REM"] == {"value": None, "low": None, "high": None}
    assert pooled["f1"]["REM"]["value"] == 0.0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: np.where(np.arange(4) == 1, np.nan, p), "not finite"),
        (lambda p: p[:-1], "expected probabilities"),
        (lambda p: p[:, :3], "expected probabilities"),
        (lambda p: 5 * p, "sum to 1"),
        (lambda p: p + np.array([1, -1, 0, 0]), "negative"),
    ],
)
def test_broken_probabilities_name_the_system_and_the_recording(study, spoil, message):
    nights, systems = study
    systems["teacher"][3] = spoil(systems["teacher"][3])
    with pytest.raises(ValueError, match=rf"teacher, n3: .*{message}"):
        scores.score(nights, systems, CONFIG)


def test_a_missing_night_names_the_system(study):
    nights, systems = study
    with pytest.raises(ValueError, match="teacher: 14 nights, expected 15"):
        scores.score(nights, {"teacher": systems["teacher"][1:]}, CONFIG)


@pytest.mark.parametrize(
    ("ids", "labels", "message"),
    [
        ([], [], "at least one night"),
        (["a", "a"], [np.zeros(3, int)] * 2, "occurs twice"),
        (["a"], [np.zeros(0, int)], "a: expected integer labels"),
        (["a"], [np.zeros((2, 2), int)], "a: expected integer labels"),
        (["a"], [np.zeros(3)], "a: expected integer labels"),
        (["a"], [np.array([0, 4])], "a: labels outside"),
        (["a"], [np.array([0, -2])], "a: labels outside"),
    ],
)
def test_nights_that_cannot_be_are_refused(ids, labels, message):
    with pytest.raises(ValueError, match=message):
        scores.ScoredNights(ids, ids, labels)


def test_nothing_scored_is_an_error_not_an_empty_result():
    nights = scores.ScoredNights(["a"], ["a"], [np.full(3, -1)])
    with pytest.raises(DatasetError, match="no scored window"):
        scores.score(nights, {"x": [_one_hot([0, 0, 0])]}, CONFIG)
    for floor in (scores.majority_probs, scores.time_of_night_probs):
        with pytest.raises(DatasetError, match="no scored window"):
            floor([np.full(3, -1)], nights)


def test_majority_floor_knows_shares_only():
    nights = scores.ScoredNights(["a", "b"], ["a", "b"], [np.zeros(5, int), np.zeros(50, int)])
    train = [np.array([2, 2, 2, -1, 1]), np.array([-1, 0, 2, 2])]
    short, long = scores.majority_probs(train, nights)
    np.testing.assert_allclose(short, np.tile([2 / 11, 2 / 11, 6 / 11, 1 / 11], (5, 1)))
    np.testing.assert_array_equal(long[:5], short)
    assert long.shape == (50, 4)


def test_time_of_night_floor_knows_ten_minute_bins_of_training_nights():
    train = [np.repeat([0, 3, 1], [20, 20, 5]), np.repeat([0, 3, -1], [20, 20, 100])]
    nights = scores.ScoredNights(["a"], ["a"], [np.full(200, 2)])
    (probs,) = scores.time_of_night_probs(train, nights)
    np.testing.assert_allclose(probs[:20], np.tile([41, 1, 1, 1], (20, 1)) / 44)
    np.testing.assert_allclose(probs[20:40], np.tile([1, 1, 1, 41], (20, 1)) / 44)
    # The third bin has five windows; it also stands for all that is later than any scored window.
    np.testing.assert_allclose(probs[40:], np.tile([1, 6, 1, 1], (160, 1)) / 9)
