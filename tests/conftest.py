"""Fixtures that several folders share. Slow ones are made once a session."""

from __future__ import annotations

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
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's quickstart at the tiny preset: cohort, data, teacher, two students, report."""
    from kd_sleep.commands import quickstart

    out = tmp_path_factory.mktemp("mission") / "quickstart"
    with pytest.raises(SystemExit) as ended:
        quickstart.flags.run(quickstart.main, ["--preset=tiny", f"--workdir={out}"])
    assert not ended.value.code
    return out


@pytest.fixture(scope="session")
def cohort(quickstart: Path) -> Path:
    """12 simulated subjects, 15 nights of some 1.5 h, all of them usable."""
    return quickstart / "cohort"


@pytest.fixture(scope="session")
def data_dir(quickstart: Path) -> Path:
    """The cohort's dataset, BCG from the files beside the nights."""
    return quickstart / "data"


@pytest.fixture(scope="session")
def teacher_dir(quickstart: Path) -> Path:
    """A teacher of the tiny preset."""
    return quickstart / "teacher"
