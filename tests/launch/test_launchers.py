"""Launchers as a user meets them: help, errors in one line, flags that follow the configs."""

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kd_sleep.__main__ import COMMANDS
from kd_sleep.config import PRESETS, Preset

ROOT = Path(__file__).parents[2]
PARTS = {
    "quickstart": ("cohort", "soft_labels", "distill", "evaluation"),
    "simulate_cohort": ("cohort", "build"),
    "fetch_slpdb": (),
    "build_dataset": ("dataset", "build"),
    "show_night": ("dataset",),
    "train_teacher": ("teacher", "teacher_train", "soft_labels", "execution"),
    "distill_student": ("student", "distill", "student_train", "augment", "execution"),
    "sweep": ("student", "distill", "student_train", "augment", "execution"),
    "evaluate": ("evaluation",),
    "study": (
        "study", "study_soft_labels", "student", "student_train", "execution", "evaluation",
    ),
    "export_student": (),
    "stage_night": (),
    "benchmark": ("student", "student_train"),
}  # fmt: skip


BUILD_ALONE = ("engine", "beam_options", "max_excluded_fraction")  # a cohort has no use for them


def launch(name: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"launch.{name}", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def launch_all(calls):
    """Several at once: most of the time is imports."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda call: launch(*call), calls))


@pytest.fixture(scope="module")
def helps():
    names = list(COMMANDS)
    return dict(zip(names, launch_all([(name, "--help") for name in names]), strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_what_it_does_and_every_flag(helps, name):
    text = " ".join(helps[name].stdout.split())
    assert f"python -m launch.{name}" in text
    parts = [getattr(PRESETS["cpu"], part) for part in PARTS[name]]
    for field in (field for part in parts for field in dataclasses.fields(part)):
        if name == "simulate_cohort" and field.name in BUILD_ALONE:
            continue
        if name == "sweep" and field.name in ("alpha", "temperature", "seed"):
            continue  # its axes
        if name == "study" and field.name == "seed":
            continue  # it takes --study_seeds of them
        assert f"--{field.name}:" in text or f"--[no]{field.name}:" in text, field.name
        assert " ".join(field.metadata["help"].split()) in text, field.name
        assert "(default" in text


def test_every_launcher_is_listed_and_every_setting_has_a_launcher():
    listed = subprocess.run(
        [sys.executable, "-m", "kd_sleep"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    launchers = {path.stem for path in (ROOT / "launch").glob("*.py")} - {"__init__", "flags"}
    assert launchers == set(COMMANDS) == set(PARTS)
    assert all(f"python -m launch.{name}" in listed for name in launchers)
    assert {part for parts in PARTS.values() for part in parts} == {
        field.name for field in dataclasses.fields(Preset)
    }


WRONG = {
    "no flag at all": (("train_teacher",), 1, "data_dir"),
    "an unknown flag": (("simulate_cohort", "--out=x", "--subject=3"), 1, "subject"),
    "a value out of bounds": (
        ("distill_student", "--data_dir=x", "--teacher=x", "--workdir=x", "--alpha=2"),
        2,
        "Error: DistillConfig.alpha=2.0: expected at most 1",
    ),
    "one fold": (
        ("train_teacher", "--data_dir=x", "--workdir=x", "--folds=1"),
        2,
        "Error: SoftLabelConfig.folds=1: one fold leaves no other",
    ),
    "an absent platform": (
        ("train_teacher", "--data_dir=x", "--workdir=x", "--platform=tpu"),
        2,
        "Error: --platform=tpu: JAX finds none",
    ),
    "several hosts that do not know of each other": (
        ("train_teacher", "--data_dir=x", "--workdir=x", "--distributed"),
        2,
        "Outside Cloud TPU, Slurm and Open MPI give --coordinator",
    ),
    "a grid of words": (
        ("sweep", "--data_dir=x", "--teacher=x", "--workdir=x", "--alphas=0,half"),
        2,
        "Error: --alphas=0,half: expected numbers",
    ),
    "no dataset": (
        ("train_teacher", "--data_dir=nowhere", "--workdir=x", "--platform=cpu"),
        2,
        "Error: nowhere: no dataset",
    ),
    "an empty folder": (
        ("build_dataset", "--shhs_dir=nowhere", "--data_dir=x"),
        2,
        "Error: nowhere: no night of SHHS here",
    ),
    "no source": (("build_dataset", "--data_dir=x"), 2, "Error: no source given. Name one source"),
    "two sources": (
        ("build_dataset", "--shhs_dir=x", "--slpdb_dir=y", "--data_dir=x"),
        2,
        "Error: --shhs_dir and --slpdb_dir given.",
    ),
    "no table": (
        ("build_dataset", "--nights=none.csv", "--data_dir=x"),
        2,
        "Error: none.csv: is missing.",
    ),
    "no database": (
        ("build_dataset", "--slpdb_dir=nowhere", "--data_dir=x"),
        2,
        "launch.fetch_slpdb",
    ),
    "no flag but a word": (
        ("simulate_cohort", "--out=x", "please"),
        2,
        "Error: please: not a flag",
    ),
    "a BCG folder that nobody reads": (
        ("build_dataset", "--shhs_dir=x", "--data_dir=x", "--bcg_dir=x"),
        2,
        "Error: --bcg_dir=x: --bcg_source=simulated reads no BCG files",
    ),
    "a folder that is a file": (
        ("train_teacher", "--data_dir=x", f"--workdir={__file__}", "--platform=cpu"),
        2,
        "is a file. Name a folder.",
    ),
    "a student without a name": (
        ("evaluate", "--data_dir=x", "--teacher=x", "--student=y", "--out=x"),
        2,
        "Error: --student=y: expected NAME=WORKDIR",
    ),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("refusals")
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda case: launch(*case[0], cwd=cwd), WRONG.values())
        results = dict(zip(WRONG, done, strict=True))
    assert not list(cwd.iterdir()), "a refused command left something behind"
    return results


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_command_is_one_clear_line(refusals, case):
    _, status, text = WRONG[case]
    result = refusals[case]
    assert result.returncode == status
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_a_flagfile_is_read(tmp_path):
    (tmp_path / "flags.txt").write_text("--subjects=1\n--hours=0.5\n--second_visit_share=0\n")
    out = tmp_path / "cohort"
    result = launch("simulate_cohort", f"--flagfile={tmp_path / 'flags.txt'}", f"--out={out}")
    assert result.returncode == 0, result.stderr
    assert len(list((out / "bcg").glob("*.edf"))) == 1
    assert "1 simulated nights" in result.stdout
