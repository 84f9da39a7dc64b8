"""Leave one person out: nobody is scored by a network that saw them; intervals over people."""

import dataclasses
import json

import numpy as np
import pytest

from kd_sleep.config import PRESETS, DistillConfig, EvaluationConfig
from kd_sleep.datasets.nights import Nights, joined, read_split
from kd_sleep.errors import DatasetError, TrainingError
from kd_sleep.metrics import kappa
from kd_sleep.simulation.night_arrays import simulated_arrays
from kd_sleep.study import leave_one_out
from kd_sleep.study.leave_one_out import LeftOut
from kd_sleep.training.trained import load_trained

TRAIN = dataclasses.replace(PRESETS["tiny"].student_train, steps=4, evaluate_every=2)


@pytest.fixture(scope="module")
def people():
    arrays = simulated_arrays(range(5000, 5004), hours=1.0, sensor="film")
    return Nights.from_arrays(**arrays | {"cohort": "some people"})


@pytest.fixture(scope="module")
def networks(quickstart):
    return (
        load_trained(quickstart / "teacher", "teacher"),
        load_trained(quickstart / "student_distilled", "student"),
    )


@pytest.fixture(scope="module")
def found(people, networks, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("left_out")
    return workdir, leave_one_out.leave_one_out(people, *networks, workdir, TRAIN, DistillConfig())


def test_every_person_is_scored_by_every_system(people, found):
    _, left_out = found
    assert left_out.people == tuple(sorted(set(people.subject_ids)))
    assert {name.split(", ")[0] for name in left_out.counts} >= {"teacher", "student"}
    scored = [np.count_nonzero(labels >= 0) for labels in people.labels()]
    for counts in left_out.counts.values():
        np.testing.assert_array_equal(counts.sum((1, 2)), scored)


def test_test_choosing_and_training_people_differ(people, monkeypatch, networks, tmp_path):
    folds = []

    def score(test, validation, rest, *_):
        folds.append([set(part.subject_ids) for part in (test, validation, rest)])
        return {"x": np.eye(4, dtype=int).tolist()}

    monkeypatch.setattr(leave_one_out, "_score", score)
    leave_one_out.leave_one_out(people, networks[0], None, tmp_path, TRAIN, DistillConfig())
    everybody = set(people.subject_ids)
    assert len(folds) == len(everybody)
    for test, validation, rest in folds:
        assert (len(test), len(validation)) == (1, 2)
        assert test | validation | rest == everybody
        assert len(test) + len(validation) + len(rest) == len(everybody)


def test_a_second_call_goes_on_and_other_settings_are_refused(people, networks, found):
    workdir, left_out = found
    path = workdir / f"{left_out.people[0]}.json"
    table = json.loads(path.read_text())
    table["majority"] = np.full((4, 4), 7).tolist()
    path.write_text(json.dumps(table))
    again = leave_one_out.leave_one_out(people, *networks, workdir, TRAIN, DistillConfig())
    assert again.counts["majority"][0].sum() == 7 * 16
    with pytest.raises(TrainingError, match="other settings"):
        leave_one_out.leave_one_out(people, *networks, workdir, TRAIN, DistillConfig(alpha=0.5))


def test_a_network_that_has_seen_the_people_is_refused(networks, data_dir, tmp_path):
    seen = joined([read_split(data_dir, split) for split in ("train", "validation")])
    with pytest.raises(TrainingError, match="of the 2 subjects"):
        leave_one_out.leave_one_out(seen, networks[0], None, tmp_path, TRAIN, DistillConfig())


def test_too_few_people(people, networks, tmp_path):
    few = people.select([0, 1, 2])
    with pytest.raises(DatasetError, match="3 people"):
        leave_one_out.leave_one_out(few, networks[0], None, tmp_path, TRAIN, DistillConfig())


def test_intervals_are_over_people():
    rng = np.random.default_rng(0)
    right, wrong = np.eye(4, dtype=int) * 50, rng.integers(0, 30, (4, 4))
    same = LeftOut(tuple("abcd"), {"x": np.stack([right + wrong] * 4)})
    config = EvaluationConfig(bootstrap_draws=200)
    score = same.pooled(config)["x"]["kappa"]
    assert score["low"] == pytest.approx(score["value"]) == pytest.approx(score["high"])
    mixed = LeftOut(
        tuple("abcd"), {"x": np.stack([right, right, wrong, wrong]), "y": same.counts["x"]}
    )
    score = mixed.pooled(config)["x"]["kappa"]
    assert score["low"] < score["value"] - 0.1 < score["value"] + 0.1 < score["high"]
    gain = mixed.gain("x", "y", config)
    assert gain["value"] == pytest.approx(
        kappa(mixed.counts["x"].sum(0)) - kappa(mixed.counts["y"].sum(0))
    )


def test_joined_nights_are_those_of_the_parts(people):
    parts = [people.select([0, 2]), people.select([1])]
    whole, oracle = joined(parts), people.select([0, 2, 1])
    for field in dataclasses.fields(Nights):
        np.testing.assert_array_equal(getattr(whole, field.name), getattr(oracle, field.name))
