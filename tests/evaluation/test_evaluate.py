"""Which runs may stand side by side."""

import copy

import pytest

from kd_sleep.config import PRESETS, DistillConfig, to_dict
from kd_sleep.errors import TrainingError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.evaluate import _assert_comparable, evaluate
from kd_sleep.provenance import write_json

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


def test_one_student_with_two_losses_is_a_comparison():
    _assert_comparable(a_pair())
    _assert_comparable({"another": a_pair()[scores.DISTILLED]})


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("distill", "alpha"), 0.5, "alpha=0.5 of the baseline"),
        (("distill", "label_seed"), 1, "label_seed"),
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
        _assert_comparable(runs)


def test_evaluate_refuses_before_it_reads_any_data(tmp_path):
    runs = a_pair()
    runs[scores.HARD_LABELS]["labelled"] = 6
    folders = {name: tmp_path / name for name in runs}
    for name, folder in folders.items():
        write_json(folder / "settings.json", {"kind": "student", "settings": runs[name]})
    write_json(tmp_path / "teacher" / "settings.json", {"kind": "teacher", "settings": {}})
    with pytest.raises(TrainingError, match="not one student with two losses"):
        evaluate(
            tmp_path / "no_data", [tmp_path / "teacher"], folders, tmp_path / "out", EVALUATION
        )
    assert not (tmp_path / "out").exists()


def test_a_name_of_ours_is_taken(tmp_path):
    with pytest.raises(TrainingError, match="--student=teacher=…: this name is taken"):
        evaluate(tmp_path, [tmp_path], {"teacher": tmp_path}, tmp_path, EVALUATION)
