"""Every command and snippet of the README runs, at the tiny preset; its links lead somewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """`python -m launch.…` commands in order; the simulated cohort stands in for SHHS."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [
        line[line.index("launch.") :].replace("~/shhs", "cohort").split()
        for line in lines
        if "launch." in line
    ]


# What makes a command tiny. The study's grid has one try, else it would train for minutes.
TINY = {
    "launch.stage_night": [],
    "launch.export_student": [],
    "launch.study": [
        "--preset=tiny", "--study_seeds=1", "--alphas=0.3", "--temperatures=4", "--rates=1",
        "--smoothings=0",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("arguments", commands(), ids=lambda a: " ".join(a)[7:47])
def test_a_command_runs(folder, arguments):
    """In the README's order, in one folder: later ones use what earlier ones made."""
    module, *flags = arguments
    result = subprocess.run(
        [sys.executable, "-m", module, *flags, *TINY.get(module, ["--preset=tiny"])],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    if module in ("launch.quickstart", "launch.evaluate", "launch.study"):
        report = Path(result.stdout.rsplit("Report: ", 1)[1].strip())
        check_report(folder / report)
        assert "student_distilled" in result.stdout
    if module == "launch.quickstart":
        assert re.search(r"\d+%.*night", result.stderr)
        assert "[" in result.stderr
        assert "<" in result.stderr  # time left


def check_report(report: Path) -> None:
    results = json.loads((report.parent / "results.json").read_text())
    systems = {
        "teacher", "student_hard_labels", "student_distilled", "majority", "time_of_night",
    }  # fmt: skip
    assert set(results["systems"]) == systems
    for system in results["systems"].values():
        assert set(system["pooled"]) >= {"accuracy", "kappa", "macro_f1", "recall"}
        assert system["per_recording"]
    assert results["data"]["simulated"] is True
    assert results["distillation"]["differences"]["accuracy"]["low"] is not None
    page = report.read_text()
    assert "imulated" in page
    assert page.count("<svg") >= 4


def test_the_readme_has_commands_to_run():
    modules = [arguments[0] for arguments in commands()]
    assert modules[0] == "launch.quickstart"
    assert {m.removeprefix("launch.") for m in modules} >= {
        "simulate_cohort", "build_dataset", "train_teacher", "distill_student", "evaluate",
        "study", "stage_night", "export_student",
    }  # fmt: skip


@pytest.mark.parametrize("snippet", blocks("python"), ids=lambda s: s.split("\n")[0][:40])
def test_a_snippet_runs(folder, snippet):
    subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=120,
    )


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        assert name.startswith("http") or (ROOT / name).exists(), name


def test_ci_runs_the_readmes_test_command():
    run = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in run
    assert len([block for block in blocks("bash") if "pytest" in block]) == 1
