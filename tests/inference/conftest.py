"""A recorded BCG and students with made-up parameters: what staging does needs no training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from kd_sleep.config import StudentConfig, to_dict
from kd_sleep.datasets.batches import whole_nights
from kd_sleep.datasets.nights import blank
from kd_sleep.inference.program import Program, card_of
from kd_sleep.inference.staging import StagingStudent
from kd_sleep.models.kept_share import FEATURES, KeptShare
from kd_sleep.models.student import Student, columns
from kd_sleep.recordings.paired_bcg import read_bcg
from kd_sleep.recordings.recording import Signal


@pytest.fixture(scope="session")
def bcg_path(cohort: Path) -> Path:
    """A simulated night's BCG of a clear sensor, some 1.3 h of EDF at 100 Hz."""
    return cohort / "bcg" / "shhs1-200004.edf"


@pytest.fixture(scope="session")
def bcg(bcg_path: Path) -> Signal:
    """The same, read."""
    return read_bcg(bcg_path).signal


@pytest.fixture(scope="session")
def make_trained() -> Callable[..., Program]:
    """Students by StudentConfig fields and card entries; with `sqi` they have one of their own."""

    def make(
        *, sqi: bool = False, card: dict | None = None, student: Student | None = None, **config
    ) -> Program:
        model = StudentConfig(**({"context_windows": 3, "width": 8} | config))
        student = student or Student(model)
        settings = {
            "model": to_dict(model),
            "distill": {},
            "train": {"compute_dtype": "float32"},
            "teacher": "a teacher",
            "labelled": 2,
            "trained_on": {"cohort": "made up", "simulated": True, "snr_db": None},
        }
        about = {"versions": {"kd_sleep": "0.1.0"}, "git_revision": "unknown"}
        fitted = made_up_sqi() if sqi else None
        found = card_of(about, settings, "a student", model, fitted)
        return Program.of_module(student, made_up_params(student), found | (card or {}))

    return make


@pytest.fixture(scope="session")
def make_student(make_trained) -> Callable[..., StagingStudent]:
    """The same, at use."""
    return lambda **options: StagingStudent(make_trained(**options))


def made_up_params(student: Student) -> dict:
    """Parameters of which none is 0, so that a window hangs on all that it can see."""
    example = next(whole_nights(blank(), columns(student.config), 1))
    params = jax.jit(student.init)(jax.random.PRNGKey(0), *student.inputs(example))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: leaf + 0.2 * rng.standard_normal(leaf.shape, np.float32), params
    )


def made_up_sqi() -> KeptShare:
    """An SQI that flags some windows of the recorded BCG."""
    number = len(FEATURES)
    scale = [5.0 if "dB" in name else 1.0 for name in FEATURES]
    mean = [8.0 if "dB" in name else 0.0 for name in FEATURES]
    weights = np.random.default_rng(2).normal(size=number).round(3).tolist()
    return KeptShare.from_json(
        {
            "features": list(FEATURES),
            "weights": weights,
            "bias": -5.9,
            "mean": mean,
            "scale": scale,
            "temperature": 1.5,
            "teacher_temperature": 1.2,
            "flag_below": 0.5,
            "flagged": 0.2,
            "best_feature": FEATURES[0],
            "best_sign": -1.0,
            "student": "a student",
            "teacher": "a teacher",
        }
    )
