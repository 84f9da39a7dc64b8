"""Fixtures that several folders share. Slow ones are made once a session."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

import pytest

# Tests start many processes that compile the same small programs.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "kd_sleep_test_jit")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# No dtype or rank is promoted in silence, here and in the processes that tests start.
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings; tests that need it are skipped by name where it is absent."""
    folder = Path(os.environ.get("KD_SLEEP_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real recordings: {folder} is absent; set KD_SLEEP_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny preset's cohort: 12 subjects, 15 nights of some 1.5 h, all of them usable."""
    from kd_sleep.config import PRESETS
    from kd_sleep.simulation.cohort import write_cohort

    out = tmp_path_factory.mktemp("tiny") / "cohort"
    # With the preset's seed, the clock of one night's BCG cannot be told.
    write_cohort(out, dataclasses.replace(PRESETS["tiny"].cohort, cohort_seed=4))
    return out


@pytest.fixture(scope="session")
def data_dir(cohort: Path) -> Path:
    """The tiny cohort's dataset, BCG from the files beside the nights."""
    from kd_sleep.config import BuildConfig, DatasetConfig
    from kd_sleep.datasets import shhs_bcg

    out = cohort.parent / "data"
    shhs_bcg.build(cohort, out, DatasetConfig(bcg_source="paired"), BuildConfig())
    return out


@pytest.fixture(scope="session")
def teacher_dir(data_dir: Path) -> Path:
    """A teacher of the tiny preset."""
    from folders import train_teacher

    from kd_sleep.config import PRESETS

    out = data_dir.parent / "teacher"
    train_teacher(data_dir, out, PRESETS["tiny"].teacher, PRESETS["tiny"].teacher_train)
    return out
