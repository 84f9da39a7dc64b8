"""The whole study on a tiny cohort: everything is there, and a second call trains nothing."""

import dataclasses
import json

import numpy as np
import pytest

from kd_sleep.config import PRESETS, StudyConfig
from kd_sleep.errors import TrainingError
from kd_sleep.evaluation.plain_json import to_json
from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS
from kd_sleep.study import cells, experiment, ladder
from kd_sleep.training.checkpoints import Checkpoints

ONE_TRY = cells.Grid([0.3], [4.0], [1.0], [0.0])


def test_every_student_is_there_with_its_runs(tiny_study):
    workdir, results = tiny_study
    found = results.study
    assert {cell.student for cell in found.cells} == {"context", "single_window"}
    assert {cell.labelled for cell in found.cells} == {"all", "a handful", "none"}
    for cell in found.cells:
        kappas = [run.kappa for run in cell.runs]
        assert cell.scores.kappa.value == pytest.approx(np.mean(kappas))
        # Where labels are few each seed has its own draw of them.
        drawn = [0, 1] if cell.labelled == "a handful" else [0, 0]
        assert [(run.label_seed, run.seed) for run in cell.runs] == list(
            zip(drawn, [0, 1], strict=True)
        )
    assert len(found.gains) == 4
    assert found.ablations.rows[0].name == "as it is"
    assert found.ablations.rows[0].accuracy_change.value == 0
    assert results.sqi.student == DISTILLED
    main = next(
        cell for cell in found.cells
        if (cell.student, cell.labelled, cell.loss) == ("context", "a handful", DISTILLED)
    )  # fmt: skip
    assert {DISTILLED, HARD_LABELS} <= set(results.systems)
    assert results.systems[DISTILLED].pooled == main.scores
    assert results.data.labelled_nights == 2
    assert json.loads((workdir / "results.json").read_text()) == to_json(results)
    page = (workdir / "report.html").read_text()
    assert found.conclusions[0].split(":")[0][:40] in page
    assert "2 draws of the labelled nights" in page


def test_the_same_call_trains_nothing_and_finds_the_same(
    tiny_study, tiny, cohort, data_dir, teacher_dir, monkeypatch
):
    workdir, results = tiny_study

    def no(*arguments, **more):
        raise AssertionError("made again")

    monkeypatch.setattr(Checkpoints, "save", no)
    monkeypatch.setattr(ladder, "_write_series", no)
    again = experiment.run_study([data_dir], workdir, tiny, ONE_TRY, cohort, [teacher_dir])
    assert dataclasses.replace(again, provenance={}) == dataclasses.replace(results, provenance={})
    other = cells.Grid([0.5], [4.0], [1.0], [0.0])
    with pytest.raises(TrainingError, match="other settings: alphas"):
        experiment.run_study([data_dir], workdir, tiny, other, None, [teacher_dir])


def test_more_labels_than_there_are_is_an_error(tiny, data_dir, teacher_dir, tmp_path):
    preset = dataclasses.replace(tiny, study=StudyConfig(handful=99))
    with pytest.raises(TrainingError, match="--handful=99"):
        experiment.run_study([data_dir], tmp_path, preset, ONE_TRY, None, [teacher_dir])


def test_a_study_trains_its_teacher_with_its_own_folds(tiny, data_dir, tmp_path, monkeypatch):
    """A teacher alone takes no folds by default, a study five."""

    class Stop(Exception):
        pass

    def stop(*arguments, folds, **more):
        raise Stop(folds)

    monkeypatch.setattr(experiment, "fit_teacher", stop)
    with pytest.raises(Stop, match=f"{tiny.study_soft_labels.folds}"):
        experiment.run_study([data_dir], tmp_path, tiny, ONE_TRY)
    cpu = PRESETS["cpu"]
    assert (cpu.soft_labels.folds, cpu.study_soft_labels.folds) == (0, 5)
