"""Leave one person out: nobody is scored by a network that saw them; intervals over people."""

import dataclasses

import numpy as np
import pytest

from kd_sleep.config import PRESETS, DistillConfig, EvaluationConfig
from kd_sleep.datasets.nights import Nights, joined, read_split
from kd_sleep.errors import DatasetError, TrainingError
from kd_sleep.simulation.night_arrays import simulated_arrays
from kd_sleep.study import leave_one_out
from kd_sleep.training.trained import load_trained

TRAIN = dataclasses.replace(PRESETS["tiny"].student_train, steps=4, evaluate_every=2)

CONFIG = EvaluationConfig(bootstrap_draws=50)


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


def test_every_night_is_scored_by_every_system(people, found):
    _, probs = found
    assert {name.split(", ")[0] for name in probs} >= {"teacher", "student", "majority"}
    results = leave_one_out.evaluated(people, probs, CONFIG, seed=0)
    assert results.bootstrap.subjects == len(set(people.subject_ids))
    for name, system in results.systems.items():
        assert [len(night) for night in probs[name]] == people.windows.tolist()
        assert np.sum(system.confusion) == np.count_nonzero(people.label >= 0)
    assert results.data.cohort == "some people"


def test_nights_keep_their_places(people, monkeypatch, networks, tmp_path):
    """Each night's probabilities are those of its own windows, whatever the order of people."""
    mixed = people.select([3, 1, 0, 2])

    def probs_of(test, *_):
        probs = np.zeros((len(test.label), 4))
        probs[:, 0] = test.hrv[:, -1]  # the level of the night tells whose it is
        return {"x": probs}

    monkeypatch.setattr(leave_one_out, "_probs", probs_of)
    probs = leave_one_out.leave_one_out(mixed, networks[0], None, tmp_path, TRAIN, DistillConfig())
    for night, hrv in zip(probs["x"], mixed.split(mixed.hrv), strict=True):
        np.testing.assert_array_equal(night[:, 0], hrv[:, -1])


def test_gains_are_paired(people, found):
    _, probs = found
    same = probs | {
        f"teacher, {name}": probs["majority"] for name in ("real", "simulation", "fine-tuned")
    }
    gain = leave_one_out.gains(people, same, CONFIG)["teacher, fine-tuned over real"]
    assert (gain.accuracy.value, gain.accuracy.low, gain.accuracy.high) == (0, 0, 0)


def test_test_choosing_and_training_people_differ(people, monkeypatch, networks, tmp_path):
    folds = []

    def score(test, validation, rest, *_):
        folds.append([set(part.subject_ids) for part in (test, validation, rest)])
        return {"x": np.full((len(test.label), 4), 0.25)}

    monkeypatch.setattr(leave_one_out, "_probs", score)
    leave_one_out.leave_one_out(people, networks[0], None, tmp_path, TRAIN, DistillConfig())
    everybody = set(people.subject_ids)
    assert len(folds) == len(everybody)
    for test, validation, rest in folds:
        assert (len(test), len(validation)) == (1, 2)
        assert test | validation | rest == everybody
        assert len(test) + len(validation) + len(rest) == len(everybody)


def test_a_second_call_goes_on_and_other_settings_are_refused(people, networks, found):
    workdir, probs = found
    path = workdir / f"{people.subject_ids[0]}.npz"
    with np.load(path) as saved:
        np.savez(path, **dict(saved) | {"majority": np.full((people.windows[0], 4), 0.25)})
    again = leave_one_out.leave_one_out(people, *networks, workdir, TRAIN, DistillConfig())
    assert (again["majority"][0] == 0.25).all()
    np.testing.assert_array_equal(again["majority"][1], probs["majority"][1])
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


def test_joined_nights_are_those_of_the_parts(people):
    parts = [people.select([0, 2]), people.select([1])]
    whole, oracle = joined(parts), people.select([0, 2, 1])
    for field in dataclasses.fields(Nights):
        np.testing.assert_array_equal(getattr(whole, field.name), getattr(oracle, field.name))
