"""Commands of README and docs/steps.md run at the tiny preset; so do snippets; links exist."""

import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README, STEPS = (ROOT / "README.md").read_text(), (ROOT / "docs" / "steps.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Name and flags of the `python -m launch.…` commands, in order."""
    lines = "".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [line.split("launch.")[1].split() for line in lines if "launch." in line]


# What makes a command tiny. The study's grid has one try, else it would train for minutes.
TINY = {
    "stage_night": [],
    "export_student": [],
    "study": [
        "--preset=tiny", "--study_seeds=1", "--alphas=0.3", "--temperatures=4", "--rates=1",
        "--smoothings=0",
    ],
}  # fmt: skip
QUICKSTART, *OTHERS = commands(README)


@pytest.fixture
def folder(quickstart, monkeypatch):
    """Where the quickstart ran: later commands use what earlier ones made."""
    monkeypatch.chdir(quickstart.parent)
    return quickstart.parent


def test_the_quickstart_is_the_first_command():
    assert QUICKSTART == ["quickstart", "--workdir=quickstart"]
    assert {name for name, *_ in [*OTHERS, *commands(STEPS)]} >= {
        "simulate_cohort", "build_dataset", "train_teacher", "distill_student", "evaluate",
        "study", "stage_night", "sweep", "benchmark",
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [*OTHERS, *commands(STEPS)], ids=lambda a: " ".join(a)[:40])
def test_a_command_runs(folder, arguments, capsys):
    name, *flags = arguments
    command = importlib.import_module(f"kd_sleep.commands.{name}")
    with pytest.raises(SystemExit) as ended:
        command.flags.run(command.main, [*flags, *TINY.get(name, ["--preset=tiny"])])
    shown = capsys.readouterr()
    assert not ended.value.code, shown.err[-2000:]
    if name in ("evaluate", "study"):
        check_report(folder / shown.out.rsplit("Report: ", 1)[1].strip())


def test_the_quickstarts_report(quickstart):
    check_report(quickstart / "report" / "report.html")


def check_report(report: Path) -> None:
    results = json.loads((report.parent / "results.json").read_text())
    assert set(results["systems"]) == {
        "teacher", "student_hard_labels", "student_distilled", "majority", "time_of_night",
    }  # fmt: skip
    assert results["data"]["simulated"] is True
    page = report.read_text()
    assert "imulated" in page
    assert page.count("<svg") >= 4


@pytest.mark.parametrize("snippet", blocks(README, "python"), ids=lambda s: s[:40])
def test_a_snippet_runs(folder, snippet):
    exec(compile(snippet, "README.md", "exec"), {})


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        assert name.startswith("http") or (ROOT / name).exists(), name


def test_the_readme_is_short():
    assert len(README.encode()) <= 8192


def test_ci_runs_the_readmes_test_command():
    run = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in run
    assert len([block for block in blocks(README, "bash") if "pytest" in block]) == 1
