"""Which runs may stand side by side, and what is predicted and scored of them."""

import copy
import dataclasses
import json

import jax
import numpy as np
import pytest

from kd_sleep.benchmark.synthetic import synthetic_nights
from kd_sleep.config import PRESETS, DistillConfig, to_dict
from kd_sleep.datasets.nights import read_split
from kd_sleep.errors import DatasetError, TrainingError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.held_out import _assert_comparable, evaluate, evaluate_folders
from kd_sleep.evaluation.plain_json import to_json
from kd_sleep.provenance import write_json
from kd_sleep.training.seen_subjects import seen
from kd_sleep.training.trained import Trained, load_trained

EVALUATION = PRESETS["tiny"].evaluation


def a_pair():
    tiny = PRESETS["tiny"]
    run = {
        "model": to_dict(tiny.student),
        "train": to_dict(tiny.student_train),
        "data": ["a", "b"],
        "labelled": 2,
        "distill": to_dict(DistillConfig(labelled_nights=2)),
    }
    runs = {scores.DISTILLED: run, scores.HARD_LABELS: copy.deepcopy(run)}
    runs[scores.HARD_LABELS]["distill"]["alpha"] = 1.0
    return runs


def listed(runs):
    return {name: [run] for name, run in runs.items()}


def test_one_student_with_two_losses_is_a_comparison():
    _assert_comparable(listed(a_pair()))
    _assert_comparable({"another": [a_pair()[scores.DISTILLED]]})


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("distill", "alpha"), 0.5, "alpha=0.5 of the baseline"),
        (("distill", "label_seed"), 1, "label_seeds"),
        (("train", "seed"), 1, "seeds"),
        (("labelled",), 6, r"labelled \(2 and 6\)"),
        (("train", "steps"), 99, "train"),
        (("model", "width"), 99, "model"),
        (("data",), ["a", "c"], "data"),
    ],
)
def test_any_other_difference_is_refused_by_name(path, value, word):
    runs = a_pair()
    place = runs[scores.HARD_LABELS]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(TrainingError, match=word):
        _assert_comparable(listed(runs))


def test_runs_of_one_name_differ_in_their_seeds_alone():
    run = a_pair()[scores.DISTILLED]
    other = copy.deepcopy(run)
    other["train"]["seed"], other["distill"]["label_seed"] = 1, 4
    _assert_comparable({"x": [run, other]})
    other["distill"]["temperature"] = 9.0
    with pytest.raises(TrainingError, match="x: its runs differ in distill"):
        _assert_comparable({"x": [run, other]})


def test_evaluate_refuses_before_it_reads_any_data(tmp_path):
    runs = a_pair()
    runs[scores.HARD_LABELS]["labelled"] = 6
    folders = {name: tmp_path / name for name in runs}
    for name, folder in folders.items():
        write_json(folder / "settings.json", {"kind": "student", "settings": runs[name]})
    write_json(
        tmp_path / "teacher" / "settings.json",
        {"kind": "teacher", "settings": {"model": {}, "train": {}}},
    )
    with pytest.raises(TrainingError, match="not one student with two losses"):
        evaluate_folders(
            [tmp_path / "no_data"], [tmp_path / "teacher"], folders, tmp_path / "out", EVALUATION
        )
    assert not (tmp_path / "out").exists()


def test_a_name_of_ours_is_taken(tmp_path):
    with pytest.raises(TrainingError, match="--student=teacher=…: this name is taken"):
        evaluate_folders([tmp_path], [tmp_path], {"teacher": tmp_path}, tmp_path, EVALUATION)


SPLITS = {"train": (4, 1), "validation": (3, 2), "test": (6, 3)}  # nights and seed


class Noise(Trained):
    """A network whose logits are (noise + 2 x the truth) x sharpness."""

    def __init__(self, name, sharpness, settings, asked, noise=9):
        super().__init__(None, {}, {"kind": name, "settings": settings}, [])
        self.__dict__.update(name=name, sharpness=sharpness, asked=asked, noise=noise)

    def logits(self, nights):
        self.asked.append((self.name, len(nights)))
        rng = np.random.default_rng(self.noise)
        return [
            self.sharpness[self.name]
            * (rng.standard_normal((len(labels), 4)) + 2 * np.eye(4)[np.maximum(labels, 0)])
            for labels in nights.labels()
        ]


def settings_of(seed=0, label_seed=0):
    run = a_pair()[scores.DISTILLED] | {"teacher": "teacher", "trained_on": {"seen": []}}
    run["train"]["seed"], run["distill"]["label_seed"] = seed, label_seed
    return run


@pytest.fixture
def scored_splits():
    """Two runs without a network."""
    splits = {name: synthetic_nights(n, 40, seed) for name, (n, seed) in SPLITS.items()}
    sharpness, asked = {"teacher": 1.0, "student": 3.0}, []
    teacher, student = (Noise(name, sharpness, settings_of(), asked) for name in sharpness)

    def scored(split="test", teachers=(teacher,), students=(student,), out=None):
        asked.clear()
        named = {}
        for one in students:
            named.setdefault(one.name, []).append(one)
        results = evaluate(
            splits[split], teachers, named, EVALUATION,
            train=splits["train"], validation=splits["validation"], out=out, split=split,
        )  # fmt: skip
        return results, asked

    return scored, splits, sharpness


def test_results_hold_sleep_measures_and_calibration_fitted_on_validation(scored_splits, tmp_path):
    scored, splits, _ = scored_splits
    results, asked = scored(out=tmp_path)
    assert sorted(asked) == [("student", 3), ("student", 6), ("teacher", 3), ("teacher", 6)]
    systems = {"teacher", "student", "time_of_night", "majority"}
    calibration = results.calibration
    assert set(calibration.systems) == set(results.sleep_measures.systems) == systems
    assert calibration.validation_nights == 3
    assert calibration.validation_windows == int((splits["validation"].label >= 0).sum())
    hot, plain = (calibration.systems[name].temperature for name in ("student", "teacher"))
    assert hot == pytest.approx(3 * plain, rel=1e-4)
    assert json.loads((tmp_path / "results.json").read_text()) == to_json(results)
    page = (tmp_path / "report.html").read_text()
    assert "Sleep measures" in page
    assert "Calibration" in page


def test_several_runs_of_one_name_are_means_with_intervals_over_seeds_and_draws(scored_splits):
    """As a full cross of seeds and draws, or each draw with a seed of its own."""
    scored, _, sharpness = scored_splits

    def students(pairs):
        return [
            Noise(
                "student",
                sharpness,
                settings_of(seed, label),
                [],
                noise=1000 * label + 77 * seed + 5,
            )
            for label, seed in pairs
        ]

    crossed = [(label, seed) for seed in (0, 1) for label in (0, 1)]
    for pairs in (crossed, [(0, 0), (1, 1), (2, 2)]):
        system = scored(students=students(pairs))[0].systems["student"]
        assert [(run.label_seed, run.seed) for run in system.runs] == sorted(pairs)
        accuracies = [run.accuracy for run in system.runs]
        assert len(set(accuracies)) > 1
        assert system.pooled.accuracy.value == pytest.approx(np.mean(accuracies))
    alone = scored(students=students([(0, 0)]))[0].systems["student"]
    assert system.per_recording == alone.per_recording
    with pytest.raises(TrainingError, match="its runs have the label seeds"):
        scored(students=students([(0, 0), (0, 1), (1, 0)]))


def test_test_labels_have_no_say_in_a_temperature(scored_splits):
    scored, splits, _ = scored_splits
    before = scored()[0].calibration.systems
    splits["test"].label[:] = np.roll(splits["test"].label, 7)
    after = scored()[0].calibration.systems
    for name in before:
        assert before[name].temperature == after[name].temperature
    assert before["student"].after != after["student"].after


def test_validation_itself_is_judged_without_a_temperature(scored_splits):
    scored, _, _ = scored_splits
    results, _ = scored("validation")
    assert results.calibration.validation_nights == 0
    assert results.calibration.systems["student"].after is None


@pytest.mark.parametrize("which", ["teachers", "students"])
def test_either_can_be_scored_alone(scored_splits, which):
    scored, _, _ = scored_splits
    results, asked = scored(**{which: ()})
    left = "student" if which == "teachers" else "teacher"
    assert {name for name, _ in asked} == {left}
    assert set(results.systems) == {left, "time_of_night", "majority"}
    with pytest.raises(TrainingError, match="no teacher and no student"):
        scored(teachers=(), students=())


def test_nights_without_what_is_read_are_left_out_by_name(scored_splits):
    scored, splits, _ = scored_splits
    test = splits["test"]
    test.rr_missing[:40] = 1.0
    test.bcg_missing[40:80] = 1.0
    results, _ = scored()
    assert results.data.left_out == list(test.recording_ids[:2])
    assert scored(students=())[0].data.left_out == [test.recording_ids[0]]
    test.bcg_missing[:] = 1.0
    with pytest.raises(DatasetError, match="test: none of its nights has an ECG and a BCG"):
        scored()


def test_a_model_is_not_scored_on_its_own_training_subjects(scored_splits, tmp_path):
    scored, splits, sharpness = scored_splits
    run = a_pair()[scores.DISTILLED] | {"teacher": "teacher"}
    run["trained_on"] = {"seen": [seen(splits["test"], splits["validation"])]}
    for name in ("teacher", "student"):
        with pytest.raises(TrainingError, match=rf"{name} in .* 6 of the 6 subjects of the test"):
            scored(out=tmp_path, **{f"{name}s": (Noise(name, sharpness, run, []),)})
    assert not (tmp_path / "results.json").exists()


def test_a_network_gone_wrong_is_named_with_its_night(data_dir, teacher_dir):
    teacher = load_trained(teacher_dir, "teacher")
    broken = dataclasses.replace(teacher, params=jax.tree.map(lambda x: x * np.nan, teacher.params))
    nights = read_split(data_dir, "test")
    name = nights.recording_ids[0]
    with pytest.raises(TrainingError, match=rf"\d+ of this network's logits for {name} are not"):
        broken.logits(nights)


def test_one_subject_a_dark_night_and_a_network_of_one_class_make_a_page(
    scored_splits, monkeypatch, tmp_path
):
    scored, splits, _ = scored_splits
    test = splits["test"]
    splits["test"] = dataclasses.replace(test, subject_ids=("s",) * len(test))
    test.label[:40] = -1
    test.label[test.label == 3] = 2  # Deep never occurs
    splits["validation"].label[:] = -1
    constant = np.float32([0, 0, 5, 0])
    monkeypatch.setattr(
        Noise, "logits", lambda self, nights: [np.tile(constant, (w, 1)) for w in nights.windows]
    )
    results, _ = scored(out=tmp_path)
    assert results.unscored_recordings == ["synthetic-0"]
    assert results.systems["teacher"].pooled.precision["Deep"].value is None
    student = results.calibration.systems["student"]
    assert student.temperature is None
    assert "No window of the validation nights is scored" in student.note
    sleep = results.sleep_measures.systems["student"]
    assert (sleep["tst_min"].nights, sleep["rem_latency_min"].nights) == (5, 0)
    assert sleep["tst_min"].lower.value is None
    assert "No window of the validation nights is scored" in (tmp_path / "report.html").read_text()
