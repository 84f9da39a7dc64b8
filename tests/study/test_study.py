"""The whole study on a tiny cohort: everything is there, and a second call trains nothing."""

import dataclasses
import json

import numpy as np
import pytest

from kd_sleep.config import PRESETS, EvaluationConfig, StudyConfig
from kd_sleep.errors import TrainingError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS
from kd_sleep.metrics import best_temperature
from kd_sleep.study import plan, study
from kd_sleep.study.training import drawn_over_seeds
from kd_sleep.training.checkpoints import Checkpoints

TINY = dataclasses.replace(
    PRESETS["tiny"], study=StudyConfig(study_seeds=2, handful=2, ladder_seeds=1)
)
ONE = plan.Grid([0.3], [4.0], [1.0], [0.0])
CONFIG = EvaluationConfig(bootstrap_draws=300)


@pytest.fixture(scope="module")
def done(cohort, data_dir, teacher_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study") / "study"
    return workdir, study.run_study([data_dir], workdir, TINY, ONE, cohort, [teacher_dir])


def test_every_student_is_there_with_its_intervals(done):
    workdir, results = done
    found = results["study"]
    cells = found["cells"]
    assert {c["student"] for c in cells} == {"context", "single_window"}
    assert {c["labelled"] for c in cells} == {"all", "50 %", "10 %", "a handful", "none"}
    assert all(len(c["by_seed"]) == 2 for c in cells)
    for cell in cells:
        kappas = [seed["kappa"] for seed in cell["by_seed"]]
        assert cell["scores"]["kappa"]["value"] == pytest.approx(np.mean(kappas))
    assert len(found["gains"]) == 8
    assert found["ablations"]["rows"][0]["name"] == "as it is"
    assert found["ablations"]["rows"][0]["difference"]["accuracy"]["value"] == 0
    assert len(results["ladder"]["losses"]) == 4
    assert results["sqi"]["student"] == DISTILLED
    assert json.loads((workdir / "results.json").read_text())["study"] == found
    page = (workdir / "report.html").read_text()
    assert found["conclusions"][0].split(":")[0][:40] in page
    assert "imulated" in page


def test_the_same_call_trains_nothing_and_says_the_same(
    done, cohort, data_dir, teacher_dir, monkeypatch
):
    workdir, results = done

    def no(*arguments, **more):
        raise AssertionError("trained again")

    monkeypatch.setattr(Checkpoints, "save", no)
    again = study.run_study([data_dir], workdir, TINY, ONE, cohort, [teacher_dir])
    assert again["study"] == results["study"]
    assert again["ladder"] == results["ladder"]
    assert again["sqi"] == results["sqi"]


def test_other_settings_are_refused(done, data_dir, teacher_dir):
    workdir, _ = done
    other = plan.Grid([0.5], [4.0], [1.0], [0.0])
    with pytest.raises(TrainingError, match="other settings: alphas"):
        study.run_study([data_dir], workdir, TINY, other, None, [teacher_dir])


def test_more_labels_than_there_are_is_an_error(data_dir, teacher_dir, tmp_path):
    preset = dataclasses.replace(TINY, study=StudyConfig(handful=99))
    with pytest.raises(TrainingError, match="--handful=99"):
        study.run_study([data_dir], tmp_path, preset, ONE, None, [teacher_dir])


@pytest.fixture(scope="module")
def judged():
    rng = np.random.default_rng(1)
    labels = [rng.integers(0, 4, 80).astype(np.int8) for _ in range(12)]
    names = [f"night{n}" for n in range(12)]
    nights = scores.ScoredNights(names, [f"s{n // 2}" for n in range(12)], labels)

    def counts(right):
        said = [np.where(rng.random(80) < right, n, rng.integers(0, 4, 80)) for n in labels]
        return scores.confusions("x", [np.eye(4)[night] for night in said], nights)

    return scores.Bootstrap.of(nights, CONFIG), counts, nights


def test_one_seed_is_scored_as_any_system(judged):
    bootstrap, counts, _ = judged
    one = counts(0.6)
    values, draws = drawn_over_seeds(bootstrap, one[None], "x")
    by_subject = bootstrap.by_subject(one)
    np.testing.assert_allclose(values, scores.all_metrics(by_subject.sum(0)))
    np.testing.assert_allclose(draws, scores.all_metrics(bootstrap.draw(by_subject)))


def test_seeds_that_differ_widen_the_interval(judged):
    bootstrap, counts, _ = judged
    alike = counts(0.6)
    _, same = drawn_over_seeds(bootstrap, np.stack([alike] * 4), "x")
    seeds = np.stack([counts(right) for right in (0.2, 0.5, 0.7, 0.95)])
    values, differing = drawn_over_seeds(bootstrap, seeds, "x")
    each = [scores.all_metrics(bootstrap.by_subject(c).sum(0))[0] for c in seeds]
    assert values[0] == pytest.approx(np.mean(each))
    assert np.std(differing[:, 0]) > 1.5 * np.std(same[:, 0])


def test_what_a_seed_never_says_is_left_out_of_its_mean(judged):
    bootstrap, counts, nights = judged
    never = scores.confusions("x", [np.eye(4)[np.zeros(80, int)]] * 12, nights)
    other = counts(0.9)
    values, _ = drawn_over_seeds(bootstrap, np.stack([never, other]), "x")
    named = scores.by_name(values)
    alone = scores.by_name(scores.all_metrics(other.sum(0)))
    assert named["precision"]["Deep"] == pytest.approx(alone["precision"]["Deep"])
    assert named["recall"]["Deep"] == pytest.approx(alone["recall"]["Deep"] / 2)


def test_the_main_students_are_one_student_with_two_losses(done):
    _, results = done
    assert {DISTILLED, HARD_LABELS} <= set(results["systems"])
    assert results["data"]["labelled_nights"] == 2


def test_the_best_temperature_undoes_a_factor():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 20_000))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(0)  # drawn from softmax(logits)
    assert best_temperature(3.0 * logits, labels) == pytest.approx(3.0, rel=0.05)
    assert best_temperature(np.zeros((4, 10)), np.zeros(10, int)) == 1.0


def test_a_study_trains_its_teacher_with_its_own_folds(data_dir, tmp_path, monkeypatch):
    """A teacher alone takes no folds by default, a study five."""
    seen = []

    class Stop(Exception):
        pass

    def stop(*arguments, folds, **more):
        seen.append(folds)
        raise Stop

    monkeypatch.setattr(study, "fit_teacher", stop)
    with pytest.raises(Stop):
        study.run_study([data_dir], tmp_path, TINY, ONE)
    assert seen == [TINY.study_soft_labels.folds]
    cpu = PRESETS["cpu"]
    assert (cpu.soft_labels.folds, cpu.study_soft_labels.folds) == (0, 5)
