"""A recorded BCG and students with made-up parameters: what staging does needs no training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_sleep.config import StudentConfig, to_dict
from kd_sleep.inference.program import Program, bound
from kd_sleep.inference.staging import StagingStudent
from kd_sleep.models.quality import Quality, QualityHead, stage_with_quality
from kd_sleep.models.student import Student
from kd_sleep.recordings.paired_bcg import read_bcg
from kd_sleep.recordings.recording import Signal
from kd_sleep.schema import BCG_SAMPLES
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES

WIDTH = 8


@pytest.fixture(scope="session")
def bcg_path(cohort: Path) -> Path:
    """A simulated night's BCG of a clear sensor, some 1.3 h of EDF at 100 Hz."""
    return cohort / "bcg" / "shhs1-200004.edf"


@pytest.fixture(scope="session")
def bcg(bcg_path: Path) -> Signal:
    """The same, read."""
    return read_bcg(bcg_path).signal


@pytest.fixture(scope="session")
def make_student() -> Callable[..., StagingStudent]:
    """Students by StudentConfig fields and card entries; with `sqi` they have one of their own."""

    def make(*, sqi: bool = False, card: dict | None = None, **config: object) -> StagingStudent:
        model = StudentConfig(width=WIDTH, **({"context_windows": 3} | config))
        student = Student(model)
        params = made_up(student)
        quality = _quality() if sqi else None

        def function(weights, bcg_BLS, valid_BL):
            batch = {
                "bcg": jnp.where(valid_BL[..., None] > 0, bcg_BLS, 0.0),
                "bcg_scale": jnp.ones_like(valid_BL),
                "valid_BL": valid_BL,
            }
            return stage_with_quality(student, params, quality, batch)

        about = {
            "stages": list(STAGE_NAMES),
            "model": to_dict(model),
            "temperature": 1.5,
            "flag_below": 0.5 if sqi else None,
            "data": {"cohort": "made up", "simulated": True, "snr_db": None},
        }
        return StagingStudent(Program(about | (card or {}), bound(function, {})))

    return make


@pytest.fixture(scope="session")
def made_up_params() -> Callable[[Student], dict]:
    """student -> parameters."""
    return made_up


def made_up(student: Student) -> dict:
    """Parameters of which none is 0, so that a window hangs on all that it can see."""
    batch = {
        "bcg": jnp.zeros((1, 1, BCG_SAMPLES)),
        "bcg_scale": jnp.ones((1, 1)),
        "valid_BL": jnp.ones((1, 1)),
    }
    params = student.init(jax.random.PRNGKey(0), batch)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape, np.float32), params
    )


def _quality() -> Quality:
    params = QualityHead().init(
        jax.random.PRNGKey(0), jnp.zeros((1, WIDTH)), jnp.zeros((1, NUM_STAGES))
    )["params"]
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape, np.float32), params
    )
    return Quality(params, jnp.float32(1.0), jnp.float32(0.0))
