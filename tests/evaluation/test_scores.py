"""Scores: known answers, and what must and must not move an interval."""

import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from kd_sleep.config import EvaluationConfig
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.bootstrap import Bootstrap, ScoredNights
from kd_sleep.evaluation.plain_json import from_json, to_json
from kd_sleep.evaluation.results import Interval, Results, Scores
from kd_sleep.stages import STAGE_NAMES

CONFIG = EvaluationConfig(bootstrap_draws=300)
NONE = Interval()


def one_hot(predictions):
    return np.eye(4, dtype=np.float32)[predictions]


def guesses(rng, labels, skill):
    right = rng.random(len(labels)) < skill
    return one_hot(np.where(right, labels, rng.integers(0, 4, len(labels))))


@pytest.fixture
def study():
    """Twelve subjects, three of them with two nights; teacher > distilled > hard labels."""
    rng = np.random.default_rng(7)
    subjects = [f"s{n:02d}" for n in [*range(12), 0, 4, 8]]
    labels = [rng.choice(4, size=rng.integers(60, 90), p=[0.2, 0.2, 0.45, 0.15]) for _ in subjects]
    nights = ScoredNights([f"n{n}" for n in range(15)], subjects, labels)
    skills = {"teacher": 0.8, "student_distilled": 0.6, "student_hard_labels": 0.4}
    systems = {
        name: [guesses(rng, night, skill) for night in labels] for name, skill in skills.items()
    }
    return nights, systems


def pooled(results):
    return {name: system.pooled for name, system in results.systems.items()}


def flat(found):
    """Every interval of scores as rows (value, low, high)."""
    if isinstance(found, Interval):
        row = (found.value, found.low, found.high)
        return [[np.nan if part is None else part for part in row]]
    parts = vars(found) if isinstance(found, Scores) else found
    return [row for part in parts.values() for row in flat(part)]


def test_values_are_scikit_learns_pooled_and_in_every_recording(study):
    nights, systems = study
    found = scores.score(nights, systems, CONFIG).systems["teacher"]
    predictions = [night.argmax(-1) for night in systems["teacher"]]
    labels, flat_predictions = np.concatenate(nights.labels), np.concatenate(predictions)
    assert found.pooled.accuracy.value == pytest.approx(np.mean(labels == flat_predictions))
    theirs = sklearn_metrics.f1_score(labels, flat_predictions, average="macro")
    assert found.pooled.macro_f1.value == pytest.approx(theirs)
    by_stage = sklearn_metrics.precision_recall_fscore_support(
        labels, flat_predictions, labels=range(4)
    )
    for ours, expected in zip(("precision", "recall", "f1"), by_stage, strict=False):
        values = getattr(found.pooled, ours)
        assert list(values) == list(STAGE_NAMES)
        assert [each.value for each in values.values()] == pytest.approx(expected)
    rows = zip(found.per_recording, nights.labels, predictions, strict=True)
    for row, night, of_night in rows:
        assert row.accuracy == pytest.approx(np.mean(night == of_night))
        assert row.kappa == pytest.approx(sklearn_metrics.cohen_kappa_score(night, of_night))
    total = sum(np.array(row.confusion) for row in found.per_recording)
    np.testing.assert_array_equal(total, found.confusion)


def test_every_draw_is_of_as_many_subjects_as_have_labels(study):
    nights, _ = study
    dark = ScoredNights(
        [*nights.recording_ids, "dark"], [*nights.subject_ids, "x"],
        [*nights.labels, np.full(9, -1)],
    )  # fmt: skip
    bootstrap = Bootstrap.of(dark, CONFIG)
    assert bootstrap.weights_DU.shape == (300, 12)
    assert (bootstrap.weights_DU.sum(-1) == 12).all()
    sums = bootstrap.by_subject(np.arange(16.0))
    assert sums[:5].tolist() == [12.0, 1.0, 2.0, 3.0, 17.0]  # recordings 0 and 12, 1, 2, 3, ...
    subjects = np.repeat(nights.subject_ids, [len(n) for n in nights.labels])
    names, _, of_windows = Bootstrap.of_windows(subjects, CONFIG)
    assert names == sorted(set(nights.subject_ids))
    np.testing.assert_array_equal(of_windows.weights_DU, bootstrap.weights_DU)


def test_draws_are_those_of_resampled_subjects(study):
    """A draw's weighted counts are a cohort's in which a subject drawn twice is there twice."""
    nights, systems = study
    config = EvaluationConfig(bootstrap_draws=40)
    names = sorted(set(nights.subject_ids))
    found = scores.score(nights, systems, config).systems["teacher"].pooled.kappa
    kappas = []
    for weights in Bootstrap.of(nights, config).weights_DU.astype(int):
        drawn = [
            row
            for name, weight in zip(names, weights, strict=True)
            for row in np.flatnonzero(np.array(nights.subject_ids) == name).tolist() * weight
        ]
        labels = np.concatenate([nights.labels[row] for row in drawn])
        predicted = np.concatenate([systems["teacher"][row] for row in drawn]).argmax(-1)
        kappas.append(sklearn_metrics.cohen_kappa_score(labels, predicted))
    assert [found.low, found.high] == pytest.approx(np.quantile(kappas, [0.025, 0.975]))


def test_results_are_plain_json_and_come_back(study):
    results = scores.score(*study, CONFIG)
    for tree in [*pooled(results).values(), results.distillation.differences]:
        for value, low, high in flat(tree):
            assert low < value < high
    text = json.dumps(to_json(results), allow_nan=False, sort_keys=True)
    assert from_json(Results, json.loads(text)) == results
    with pytest.raises(ValueError, match="Interval: unknown or absent fields: high"):
        from_json(Interval, {"value": 1.0, "low": None})


def test_seed_and_confidence_decide_the_intervals(study):
    first, again = (pooled(scores.score(*study, CONFIG)) for _ in range(2))
    other = scores.score(*study, EvaluationConfig(bootstrap_draws=300, bootstrap_seed=1))
    assert first == again != pooled(other)
    narrow, wide = (
        scores.score(*study, EvaluationConfig(bootstrap_draws=300, confidence=share))
        for share in (0.5, 0.99)
    )
    for inner, outer in zip(flat(pooled(narrow)), flat(pooled(wide)), strict=True):
        assert outer[1] < inner[1] <= inner[2] < outer[2]


def test_windows_of_a_subject_are_one_draw(study):
    """More windows of the same subjects, or the same windows in more files, add no certainty."""
    nights, systems = study
    expected = pooled(scores.score(nights, systems, CONFIG))
    doubled = ScoredNights(
        nights.recording_ids, nights.subject_ids, [np.repeat(n, 2) for n in nights.labels]
    )
    twice = {name: [np.repeat(p, 2, axis=0) for p in probs] for name, probs in systems.items()}
    assert pooled(scores.score(doubled, twice, CONFIG)) == expected
    halved = ScoredNights(
        [f"{r}{half}" for r in nights.recording_ids for half in "ab"],
        np.repeat(nights.subject_ids, 2).tolist(),
        [half for n in nights.labels for half in (n[:30], n[30:])],
    )
    halves = {name: [h for p in probs for h in (p[:30], p[30:])] for name, probs in systems.items()}
    assert pooled(scores.score(halved, halves, CONFIG)) == expected


def test_order_of_nights_and_unlabelled_nights_leave_scores_alone(study):
    nights, systems = study
    expected = pooled(scores.score(nights, systems, CONFIG))
    order = np.random.default_rng(0).permutation(15)
    columns = (nights.recording_ids, nights.subject_ids, nights.labels)
    shuffled = ScoredNights(*([column[n] for n in order] for column in columns))
    moved = {name: [probs[n] for n in order] for name, probs in systems.items()}
    assert pooled(scores.score(shuffled, moved, CONFIG)) == expected
    extra = ScoredNights(
        [*nights.recording_ids, "dark"], [*nights.subject_ids, "x"],
        [*nights.labels, np.full(9, -1)],
    )  # fmt: skip
    padded = {name: [*probs, np.full((9, 4), 0.25)] for name, probs in systems.items()}
    with_extra = scores.score(extra, padded, CONFIG)
    assert pooled(with_extra) == expected
    assert with_extra.unscored_recordings == ["dark"]
    last = with_extra.systems["teacher"].per_recording[-1]
    assert (last.recording_id, last.windows, last.accuracy) == ("dark", 0, None)


# --- Several training runs ---


def counts_of(nights, rng, *skills):
    """[L, 1, R, K, K] counts of runs of these skills."""
    found = [[guesses(rng, night, skill) for night in nights.labels] for skill in skills]
    return np.stack([scores.confusions("x", probs, nights)[None] for probs in found])


def test_one_run_is_scored_as_any_system(study):
    nights, systems = study
    bootstrap = Bootstrap.of(nights, CONFIG)
    counts = scores.confusions("x", systems["teacher"], nights)
    values, draws = scores.Runs(counts[None, None], []).drawn(bootstrap)
    by_subject = bootstrap.by_subject(counts)
    np.testing.assert_allclose(values, scores.all_metrics(by_subject.sum(0)))
    np.testing.assert_allclose(draws, scores.all_metrics(bootstrap.draw(by_subject)))


@pytest.mark.parametrize("kind", [0, 1])
def test_runs_add_students_t_of_their_standard_error(kind):
    """One subject's accuracies in all runs: nothing varies but the runs."""
    right = np.array([200, 260, 230, 320, 290])
    counts = np.zeros((5, 2, 4, 4), np.int64)
    counts[..., 0, 0], counts[..., 0, 1] = right[:, None], 400 - right[:, None]
    nights = ScoredNights(["a", "b"], ["a", "b"], [np.zeros(1, int)] * 2)
    bootstrap = Bootstrap.of(nights, EvaluationConfig(bootstrap_draws=20_000))
    arranged = counts[:, None] if kind == 0 else counts[None]
    values, draws = scores.Runs(arranged, []).drawn(bootstrap)
    accuracies = right / 400
    assert values[0] == pytest.approx(accuracies.mean())
    half = 2.776 * accuracies.std(ddof=1) / np.sqrt(5)  # t of 4 degrees of freedom, 97.5 %
    low, high = np.quantile(draws[:, 0], [0.025, 0.975])
    assert [accuracies.mean() - low, high - accuracies.mean()] == pytest.approx([half] * 2, rel=0.1)


def test_gains_are_paired_by_run(study):
    """Runs differ much, the gain is the same in each: its interval is narrow."""
    nights, _ = study
    rng = np.random.default_rng(3)
    baseline = counts_of(nights, rng, 0.2, 0.4, 0.6, 0.8)
    better = baseline.copy()
    better[..., 0, 1] -= (moved := better[..., 0, 1] // 2)
    better[..., 0, 0] += moved
    bootstrap = Bootstrap.of(nights, CONFIG)
    ours, theirs = (scores.Runs(counts, []).drawn(bootstrap) for counts in (better, baseline))
    gain = scores.gain(bootstrap, ours, theirs, None).differences.accuracy
    alone = scores.scores_of(bootstrap, ours).accuracy
    assert gain.high - gain.low < 0.3 * (alone.high - alone.low)


def test_metrics_that_a_run_lacks_are_left_out_of_its_mean(study):
    nights, _ = study
    bootstrap = Bootstrap.of(nights, CONFIG)
    never = scores.confusions("x", [one_hot(0 * night) for night in nights.labels], nights)
    other = counts_of(nights, np.random.default_rng(0), 0.9)[0, 0]
    runs = scores.Runs.of(np.stack([never, other])[None], [(0, 0), (0, 1)])
    found = scores.scores_of(bootstrap, runs.drawn(bootstrap))
    single = scores.Runs(other[None, None], []).drawn(bootstrap)
    alone = scores.scores_of(bootstrap, single)
    assert found.precision["Deep"].value == pytest.approx(alone.precision["Deep"].value)
    assert found.recall["Deep"].value == pytest.approx(alone.recall["Deep"].value / 2)
    assert [run.seed for run in runs.scores] == [0, 1]
    assert runs.scores[1].accuracy == pytest.approx(alone.accuracy.value)


# --- The gain of distillation ---


def test_difference_of_a_system_with_itself_is_exactly_zero(study):
    nights, systems = study
    same = dict.fromkeys(("student_distilled", "student_hard_labels"), systems["teacher"])
    found = scores.score(nights, same | {"teacher": systems["teacher"]}, CONFIG).distillation
    assert set(np.ravel(flat(found.differences))) == {0.0}
    assert found.conclusion == "no gain shown (0.0 [0.0, 0.0] points)"
    assert found.teacher_lead_recovered.value is None
    assert "not clear" in found.teacher_lead_recovered.reason


def test_differences_are_paired(study):
    """Where student and baseline err together, their difference is surer than either of them."""
    nights, systems = study
    better = [p.copy() for p in systems["student_hard_labels"]]
    for probs, labels in zip(better, nights.labels, strict=True):
        probs[:5] = one_hot(labels[:5])
    results = scores.score(nights, systems | {"student_distilled": better}, CONFIG)
    gain = results.distillation.differences.accuracy
    alone = results.systems["student_distilled"].pooled.accuracy
    assert gain.low > 0
    assert gain.high - gain.low < 0.5 * (alone.high - alone.low)


def test_teacher_lead_recovered_is_the_ratio_of_two_gains(study):
    results = scores.score(*study, CONFIG)
    teacher, distilled, hard = (
        results.systems[name].pooled.accuracy.value
        for name in ("teacher", "student_distilled", "student_hard_labels")
    )
    recovered = results.distillation.teacher_lead_recovered
    assert recovered.value == pytest.approx((distilled - hard) / (teacher - hard))
    assert 0 < recovered.low < recovered.value < recovered.high < 1
    nights, systems = study
    without = {name: probs for name, probs in systems.items() if name != "teacher"}
    gain = scores.score(nights, without, CONFIG).distillation
    assert "not scored" in gain.teacher_lead_recovered.reason
    assert scores.score(nights, {"x": systems["teacher"]}, CONFIG).distillation is None


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.031, 0.019, 0.044, "gain 3.1 [1.9, 4.4] points"),
        (-0.031, -0.044, -0.019, "loss 3.1 [1.9, 4.4] points"),
        (0.004, -0.009, 0.017, "no gain shown (0.4 [−0.9, 1.7] points)"),
        (0.004, 0.0, 0.017, "no gain shown (0.4 [0.0, 1.7] points)"),
        (0.2, None, None, "no gain shown (20.0 points, no interval)"),
        (None, None, None, "not defined"),
    ],
)
def test_verdict_claims_only_what_excludes_zero(value, low, high, text):
    assert scores.verdict(Interval(value, low, high)) == text


def test_a_missed_stage_and_a_baseline_below_the_floor_are_named(study):
    nights, systems = study
    never_rem = [one_hot(np.where(night == 1, 2, night)) for night in nights.labels]
    light = [one_hot(np.full(len(night), 2)) for night in nights.labels]
    found = scores.score(nights, systems | {"x": never_rem, "light": light}, CONFIG).systems
    assert scores.missed_stages(found["x"].pooled) == ", but misses REM (recall below 1 %)"
    assert scores.missed_stages(found["teacher"].pooled) == ""
    assert "no better than the majority stage" in scores.below_floor(
        found["light"].pooled, found["light"].pooled
    )
    assert scores.below_floor(found["teacher"].pooled, found["light"].pooled) == ""


# --- Edges ---


def test_one_subject_has_values_but_no_intervals(study):
    nights, systems = study
    alone = ScoredNights(nights.recording_ids, ["s"] * 15, nights.labels)
    results = scores.score(alone, systems, CONFIG)
    for value, low, high in flat(pooled(results)):
        assert np.isfinite(value)
        assert np.isnan([low, high]).all()
    assert "One subject" in results.bootstrap.note
    assert results.distillation.conclusion.startswith("no gain shown")


def test_few_subjects_are_noted_and_many_are_not(study):
    assert "too narrow" in scores.score(*study, CONFIG).bootstrap.note
    labels = [np.array([0, 1, 2, 3])] * 20
    many = ScoredNights([f"n{n}" for n in range(20)], [f"s{n}" for n in range(20)], labels)
    results = scores.score(many, {"x": [one_hot(n) for n in labels]}, CONFIG)
    assert results.bootstrap.note is None


def test_a_stage_that_never_occurs_has_no_recall_and_one_of_one_subject_no_interval(study):
    nights, systems = study
    for subject, labels in zip(nights.subject_ids, nights.labels, strict=True):
        labels[labels == 1] = 2
        if subject != "s01":
            labels[labels == 3] = 2
    results = scores.score(nights, systems, CONFIG)
    recall = results.systems["teacher"].pooled.recall
    assert recall["REM"] == results.distillation.differences.recall["REM"] == NONE
    assert recall["Deep"].value is not None
    assert recall["Deep"].low is None  # resampling one subject says nothing about others


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p[:-1], r"teacher, n3: expected probabilities"),
        (lambda p: np.where(np.arange(4) == 1, np.nan, p), "teacher, n3: .* are not finite"),
        (lambda p: 5 * p, "do not sum to 1"),
    ],
)
def test_broken_probabilities_name_the_system_and_the_recording(study, spoil, message):
    nights, systems = study
    systems["teacher"][3] = spoil(systems["teacher"][3])
    with pytest.raises(ValueError, match=message):
        scores.score(nights, systems, CONFIG)


def test_nights_that_cannot_be_scored_are_refused():
    with pytest.raises(DatasetError, match="no scored window"):
        Bootstrap.of(ScoredNights(["a"], ["a"], [np.full(3, -1)]), CONFIG)
    for columns, message in (
        ((["a"], ["a"], []), "equal lengths"),
        ((["a", "a"], ["s", "s"], [np.zeros(2, int)] * 2), "twice"),
        ((["a"], ["a"], [np.zeros(2)]), "integer labels"),
        ((["a"], ["a"], [np.array([0, 4])]), "outside"),
    ):
        with pytest.raises(ValueError, match=message):
            ScoredNights(*columns)


def test_floors_are_shares_of_the_training_labels():
    labels = [np.array([0] * 20 + [2] * 20), np.array([0] * 19 + [-1] + [3] * 20)]
    nights = ScoredNights(["a"], ["a"], [np.zeros(70, int)])
    (majority,) = scores.majority_probs(labels, nights)
    np.testing.assert_allclose(majority, np.tile([40, 1, 21, 21], (70, 1)) / 83)
    (time,) = scores.time_of_night_probs(labels, nights)
    np.testing.assert_allclose(time[:20], np.tile([40, 1, 1, 1], (20, 1)) / 43)
    np.testing.assert_allclose(time[20:], np.tile([1, 1, 21, 21], (50, 1)) / 44)  # later: last bin
    with pytest.raises(DatasetError, match="no floor"):
        scores.majority_probs([np.full(3, -1)], nights)
