"""One tiny study for all tests of this folder: teacher, students, ablations and ladder."""

import dataclasses

import pytest

from kd_sleep.config import PRESETS, StudyConfig
from kd_sleep.study import cells, experiment

_TINY = PRESETS["tiny"]
# Causal, so that the student is a rung of its own.
TINY = dataclasses.replace(
    _TINY,
    study=StudyConfig(study_seeds=2, handful=2, ladder_seeds=1),
    student=dataclasses.replace(_TINY.student, causal=True),
)
ONE_TRY = cells.Grid([0.3], [4.0], [1.0], [0.0])


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def tiny_study(cohort, data_dir, teacher_dir, tmp_path_factory):
    """(work folder, results); the ladder lies in its folder `ladder`."""
    workdir = tmp_path_factory.mktemp("study") / "study"
    return workdir, experiment.run_study([data_dir], workdir, TINY, ONE_TRY, cohort, [teacher_dir])
