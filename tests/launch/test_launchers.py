"""Commands as a user meets them: help, errors in one line, flags that follow the configs."""

import ast
import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kd_sleep import __main__ as kd_sleep_main
from kd_sleep.__main__ import COMMANDS
from kd_sleep.commands.flags import Flags
from kd_sleep.config import PRESETS, Preset
from kd_sleep.errors import KdSleepError, RecordingError

ROOT = Path(__file__).parents[2]
NAMES = [name for group in COMMANDS.values() for name in group]
PARTS = {
    "quickstart": ("cohort", "soft_labels", "distill", "evaluation"),
    "simulate_cohort": ("cohort", "build"),
    "fetch_slpdb": (),
    "build_dataset": ("dataset", "build"),
    "show_night": ("dataset",),
    "train_teacher": ("teacher", "teacher_train", "soft_labels", "execution"),
    "distill_student": ("student", "distill", "student_train", "execution"),
    "sweep": ("student", "distill", "student_train", "execution"),
    "evaluate": ("evaluation",),
    "cross_validate": ("student_train", "distill", "evaluation"),
    "study": (
        "study", "study_soft_labels", "student", "student_train", "execution", "evaluation",
    ),
    "export_student": (),
    "stage_night": (),
    "benchmark": ("student", "student_train"),
}  # fmt: skip

LEFT_OUT = {
    "simulate_cohort": ("max_excluded_fraction",),  # a cohort has no use for it
    "sweep": ("alpha", "temperature", "seed"),  # its axes
    "study": ("seed",),  # it takes --study_seeds of them
}


def flags_of(name: str) -> Flags:
    return importlib.import_module(f"kd_sleep.commands.{name}").flags


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `kd-sleep` in this process: its status, what it printed, its errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kd-sleep", *arguments])
        status = 0
        try:
            kd_sleep_main.main()
        except SystemExit as ended:
            status = ended.code or 0
        return status, *capsys.readouterr()

    return run


def in_a_process(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("name", NAMES)
def test_help_has_every_flag_in_sections_with_its_default(command, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "100")
    status, shown, errors = command(name, "--help")
    assert (status, errors) == (0, "")
    assert f"kd-sleep {name} --" in shown
    assert "--verbosity" not in shown
    assert max(map(len, shown.splitlines())) <= 100
    heading, flags = "", {}
    for line in shown.splitlines():
        if re.fullmatch(r"[A-Z][a-z ]+:", line):
            heading = line
        elif found := re.match(r"  --(?:\[no\])?(\w+)", line):
            flags[found[1]] = [heading, line]
        elif heading and line.startswith("   "):
            flags[next(reversed(flags))].append(line)
    assert all(flags.values())
    for where, *lines in flags.values():
        assert where
        assert re.search(r" \((default .+|required)\)$", " ".join(lines)), lines
    for part in PARTS[name]:
        for field in dataclasses.fields(getattr(PRESETS["cpu"], part)):
            if field.name in LEFT_OUT.get(name, ()):
                continue
            text = " ".join(" ".join(flags[field.name][1:]).split())
            assert " ".join(field.metadata["help"].split()) in text


def test_helpfull_has_absls_own(command):
    status, shown, _ = command("evaluate", "--helpfull")
    assert status == 0
    assert "--verbosity" in shown
    assert "--data_dir" in shown


def test_every_command_is_listed_and_every_setting_has_a_command(command):
    for asked in ((), ("--help",)):
        status, listed, _ = command(*asked)
        assert status == 0
        assert all(re.search(rf"^  {name} +\S", listed, re.MULTILINE) for name in NAMES)
    files = {path.stem for path in (ROOT / "kd_sleep" / "commands").glob("*.py")}
    assert files - {"__init__", "flags"} == set(NAMES) == set(PARTS)
    assert {part for parts in PARTS.values() for part in parts} == {
        field.name for field in dataclasses.fields(Preset)
    }


@pytest.mark.parametrize("module", ["launch.show_night", "kd_sleep.commands.show_night"])
def test_a_clone_runs_its_commands_by_launch(module):
    """Without an installation; the help names what was typed."""
    result = in_a_process("-m", module, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    typed = f"python -m {module}" if module.startswith("launch") else "kd-sleep show_night"
    assert f"{typed} --shhs_dir=DIR" in result.stdout


def test_help_costs_no_library():
    code = "import sys; from kd_sleep.commands import distill_student, study; print(*sys.modules)"
    loaded = set(in_a_process("-c", code).stdout.split())
    assert not loaded & {"jax", "numpy", "flax", "tensorflow_datasets", "matplotlib"}


WRONG = {
    "no such command": (("trian-teacher",), "trian-teacher: no such command. Did you mean train_"),
    "no command but a flag": (("--preset=tiny",), "--preset=tiny: no such command. --help lists"),
    "no flag at all": (("train_teacher",), "Give --data_dir, --workdir. --help lists the flags."),
    "an empty flag": (("evaluate", "--out="), "--out=: expected a path."),
    "an unknown flag": (
        ("simulate_cohort", "--out=x", "--subject=3"),
        "--subject: no such flag. Did you mean --subjects? --help lists the flags.",
    ),
    "no number": (
        ("train_teacher", "--data_dir=x", "--workdir=x", "--steps=many"),
        "--steps=many: expected a whole number.",
    ),
    "no time": (
        ("stage_night", "--student=x", "--bcg=x", "--out=x", "--start=ten"),
        "--start=ten: not a time; write it as 2026-01-31T22:30.",
    ),
    "no such choice": (
        ("simulate_cohort", "--out=x", "--sensor=mat"),
        "--sensor=mat: expected one of film, load_cell, mix.",
    ),
    "a flag without its value": (("simulate_cohort", "--out"), "Missing value for flag --out."),
    "a value out of bounds": (
        ("distill_student", "--data_dir=x", "--teacher=x", "--workdir=x", "--alpha=2"),
        "--alpha=2.0: expected at most 1.0.",
    ),
    "one fold": (
        ("train_teacher", "--data_dir=x", "--workdir=x", "--folds=1"),
        "--folds=1: one fold leaves no other",
    ),
    "an absent platform": (
        ("train_teacher", "--data_dir=x", "--workdir=x", "--platform=tpu"),
        "--platform=tpu: JAX finds none",
    ),
    "a grid of words": (
        ("sweep", "--data_dir=x", "--teacher=x", "--workdir=x", "--alphas=0,half"),
        "--alphas=0,half: expected a number.",
    ),
    "no dataset": (
        ("train_teacher", "--data_dir=nowhere", "--workdir=x", "--platform=cpu"),
        "nowhere: no dataset",
    ),
    "an empty folder": (
        ("build_dataset", "--shhs_dir=nowhere", "--data_dir=x"),
        "nowhere: no night of SHHS here",
    ),
    "no source": (("build_dataset", "--data_dir=x"), "no source given. Name one"),
    "no database": (("build_dataset", "--slpdb_dir=nowhere", "--data_dir=x"), "fetch_slpdb"),
    "a BCG folder beside a table": (
        ("build_dataset", "--nights=n.csv", "--data_dir=x", "--bcg_source=paired", "--bcg_dir=x"),
        "--bcg_dir=x: it goes with --shhs_dir alone.",
    ),
    "no flag but a word": (("simulate_cohort", "--out=x", "please"), "please: not a flag."),
    "a BCG folder that nobody reads": (
        ("build_dataset", "--shhs_dir=x", "--data_dir=x", "--bcg_dir=x"),
        "--bcg_dir=x: --bcg_source=simulated reads no BCG files",
    ),
    "a folder that is a file": (
        ("train_teacher", "--data_dir=x", f"--workdir={__file__}", "--platform=cpu"),
        "a file; name a folder.",
    ),
    "a student without a name": (
        ("evaluate", "--data_dir=x", "--teacher=x", "--student=y", "--out=x"),
        "--student=y: expected NAME=WORKDIR",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_command_is_one_clear_line(command, monkeypatch, tmp_path, case):
    monkeypatch.chdir(tmp_path)
    arguments, text = WRONG[case]
    status, shown, errors = command(*arguments)
    assert (status, shown) == (2, "")
    assert errors.startswith("Error: ")
    assert text in errors
    # The progress bar of a build that looks for files is wiped; then comes the error.
    assert len(errors.rpartition("\r")[2].splitlines()) == 1
    assert ".." not in errors
    assert not list(tmp_path.iterdir()), "a refused command left something behind"


def test_several_hosts_that_do_not_know_of_each_other():
    arguments = ("--data_dir=x", "--workdir=x", "--distributed")
    result = in_a_process("-m", "kd_sleep", "train_teacher", *arguments)
    assert result.returncode == 2
    assert "Outside Cloud TPU, Slurm and Open MPI give --coordinator" in result.stderr
    assert "Traceback" not in result.stderr


def test_advice_names_flags_that_exist():
    known = {"help", "version", "helpfull", "flagfile", "runner", "flink_master", "manual_dir"}
    known |= {"name", "flags", "no"}  # what stands for others
    for name in NAMES:
        known |= set(flags_of(name)._values)
    for path in (ROOT / "kd_sleep").rglob("*.py"):
        if path.name in ("pages.py", "provenance.py"):  # CSS and git
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for flag in re.findall(r"(?:^|[\s(`'])--(?:no(?=bcg))?([a-z_]+)", node.value):
                    assert any(name.startswith(flag) for name in known), f"{path}: --{flag}"


def test_a_sentence_inside_another_ends_once():
    shown = RecordingError("a..b/../c", "no heartbeat: is the rate right?.", "Look at it.")
    assert str(shown) == "a..b/../c: no heartbeat: is the rate right? Look at it."
    assert shown.problem == "no heartbeat: is the rate right?"
    assert (
        str(KdSleepError("It ends: it is damaged..", "Wait ..."))
        == "It ends: it is damaged. Wait ..."
    )


def test_a_flagfile_is_read(command, tmp_path):
    (tmp_path / "flags.txt").write_text("--subjects=1\n--hours=0.5\n--second_visit_share=0\n")
    out = tmp_path / "cohort"
    status, shown, _ = command(
        "simulate-cohort", f"--flagfile={tmp_path / 'flags.txt'}", f"--out={out}", "--workers=1"
    )
    assert status == 0
    assert len(list((out / "bcg").glob("*.edf"))) == 1
    assert "1 simulated nights" in shown


PACKAGES = {
    "h5py": "data", "tensorflow_datasets": "data", "matplotlib": "report", "orbax": "train",
}  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
def test_an_absent_package_is_one_line_that_says_what_to_install(monkeypatch, capsys, package):
    def main():
        importlib.import_module(f"{package}.something")

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as ended:
        Flags("").run(main, [])
    assert ended.value.code == 2
    extra = PACKAGES[package]
    shown = f"Error: {package} is not installed. Run `pip install 'kd_sleep[{extra}]'`.\n"
    assert capsys.readouterr().err == shown


def test_a_package_of_no_extra_that_is_absent_is_a_bug(monkeypatch):
    def main():
        importlib.import_module("no_such_package")

    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        Flags("").run(main, [])
