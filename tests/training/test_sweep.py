"""A sweep: each member is the run that its settings train alone, and the best one is a student."""

import dataclasses
import json

import folders
import jax
import numpy as np
import pytest
from folders import train_sweep

from kd_sleep.config import PRESETS, DistillConfig
from kd_sleep.errors import ConfigError, TrainingError
from kd_sleep.evaluation.sweep_page import sweep_table, write_sweep_page
from kd_sleep.training.checkpoints import Checkpoints
from kd_sleep.training.members import CHOSEN, Grid, choose
from kd_sleep.training.metrics_log import read_metrics
from kd_sleep.training.trained import load_trained

TINY = PRESETS["tiny"]
GRID = Grid((0.3, 1.0), (2.0, 4.0), (0, 1))


@pytest.fixture(scope="module")
def swept(data_dir, teacher_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweep") / "sweep"
    arguments = (data_dir, [teacher_dir], workdir, GRID, TINY.student, TINY.distill)
    results = train_sweep(*arguments, TINY.student_train)
    assert train_sweep(*arguments, TINY.student_train) == results  # nothing to do
    return workdir, results


def test_every_cell_and_seed_is_a_member_once(swept):
    _, results = swept
    members = [(m["alpha"], m["temperature"], m["seed"]) for m in results["members"]]
    assert len(set(members)) == len(members) == 6  # at alpha = 1 the temperature has no say
    assert {m[1] for m in members if m[0] == 1.0} == {2.0}


@pytest.mark.parametrize(("alpha", "temperature", "seed"), [(0.3, 4.0, 1), (1.0, 2.0, 0)])
def test_a_member_is_the_run_trained_alone(
    swept, data_dir, teacher_dir, tmp_path, alpha, temperature, seed
):
    workdir, results = swept
    loss = dataclasses.replace(TINY.distill, alpha=alpha, temperature=temperature)
    train = dataclasses.replace(TINY.student_train, seed=seed)
    folders.train_student(data_dir, [teacher_dir], tmp_path, TINY.student, loss, train)
    number, member = next(
        (n, m)
        for n, m in enumerate(
            m for m in results["members"] if (m["alpha"] == 1.0) == (alpha == 1.0)
        )
        if (m["alpha"], m["temperature"], m["seed"]) == (alpha, temperature, seed)
    )
    alone = read_metrics(tmp_path)
    together = read_metrics(workdir / ("hard_labels" if alpha == 1.0 else "distilled"))
    for one, many in zip(alone, together, strict=True):
        for name in ("loss", "gradient_norm", "validation_kappa"):
            assert many[name][number] == pytest.approx(one[name], rel=1e-3, abs=1e-6)
    assert member["validation_kappa"] == pytest.approx(max(r["validation_kappa"] for r in alone))


def test_the_chosen_member_is_an_ordinary_student(swept, data_dir, teacher_dir, tmp_path):
    workdir, results = swept
    chosen = results["chosen"]
    student = load_trained(workdir / CHOSEN, "student")
    params, settings = student.params, student.settings
    assert settings["distill"]["alpha"] == chosen["alpha"]
    assert settings["train"]["seed"] == chosen["seed"]
    loss = dataclasses.replace(
        TINY.distill, alpha=chosen["alpha"], temperature=chosen["temperature"]
    )
    train = dataclasses.replace(TINY.student_train, seed=chosen["seed"])
    arguments = (data_dir, [teacher_dir], tmp_path / "alone", TINY.student, loss, train)
    folders.train_student(*arguments)
    alone = load_trained(tmp_path / "alone", "student")
    assert settings == alone.settings
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    # The command that trains it alone finds it trained.
    folders.train_student(data_dir, [teacher_dir], workdir / CHOSEN, *arguments[3:])
    rows = read_metrics(workdir / CHOSEN)
    assert [row["step"] for row in rows] == [10, 20]
    assert max(row["validation_kappa"] for row in rows) == pytest.approx(chosen["validation_kappa"])


def test_the_grid_goes_on_where_it_was_stopped(swept, data_dir, teacher_dir, tmp_path):
    """From the checkpoint of the first half, as one."""
    workdir, _ = swept
    half = dataclasses.replace(TINY.student_train)
    stopped = tmp_path / "sweep"
    arguments = ([teacher_dir], stopped, GRID, TINY.student, TINY.distill, half)
    saved = Checkpoints.save

    class Killed(BaseException):
        pass

    def save_and_die(self, step, progress):
        saved(self, step, progress)
        self.close()
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(Killed):
            train_sweep(data_dir, *arguments)
    assert len(read_metrics(stopped / "distilled")) == 1
    train_sweep(data_dir, *arguments)
    assert json.loads((stopped / "sweep.json").read_text()) == json.loads(
        (workdir / "sweep.json").read_text()
    )


def test_another_grid_is_refused(swept, data_dir, teacher_dir):
    workdir, _ = swept
    with pytest.raises(TrainingError, match="other settings: temperatures"):
        train_sweep(
            data_dir, [teacher_dir], workdir, Grid((0.3, 1.0), (2.0, 8.0), (0, 1)),
            TINY.student, TINY.distill, TINY.student_train,
        )  # fmt: skip


def test_with_all_nights_labelled_all_members_share_batches(data_dir, teacher_dir, tmp_path):
    all_labelled = DistillConfig()
    grid = Grid((0.3, 1.0), (4.0,), (0,))
    train = dataclasses.replace(TINY.student_train, steps=2, evaluate_every=2)
    train_sweep(data_dir, [teacher_dir], tmp_path, grid, TINY.student, all_labelled, train)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"members", CHOSEN}


def test_the_best_cell_is_chosen_by_its_mean_and_not_by_a_lucky_seed():
    def member(alpha, seed, kappa):
        return {"alpha": alpha, "temperature": 4.0, "seed": seed, "validation_kappa": kappa}

    lucky = [member(0.1, 0, 0.9), member(0.1, 1, 0.1)]
    steady = [member(0.5, 0, 0.6), member(0.5, 1, 0.7)]
    assert choose([*lucky, *steady]) == steady[1]


@pytest.mark.parametrize("axis", ["alphas", "temperatures", "seeds"])
@pytest.mark.parametrize("values", [(), (1, 1)])
def test_an_axis_has_values_each_once(axis, values):
    axes = {"alphas": (0.3,), "temperatures": (4.0,), "seeds": (0,)} | {axis: values}
    with pytest.raises(ConfigError, match=f"--{axis}"):
        Grid(**axes)


def test_the_table_and_the_page_say_what_was_found(swept, tmp_path):
    _, results = swept
    table = sweep_table(results)
    assert "Simulated data" in table
    assert "±" in table
    assert f"kappa {results['chosen']['validation_kappa']:.3f}" in table
    write_sweep_page(tmp_path / "sweep.html", results)
    page = (tmp_path / "sweep.html").read_text()
    assert "<svg" in page
    assert "aria-label" in page
    assert "any" in table
