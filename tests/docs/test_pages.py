"""What the pages tell to type works: snippets run, flags exist, the worked examples are worked."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
WORKED = ("adding_a_dataset", "adding_a_student")  # run as a whole, below


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """Every `python -m launch.…` and `kd-sleep …` of a page, anywhere: command and its flags."""
    text = PAGES[page].replace("\\\n", " ")
    found = re.findall(r"(?:python -m launch\.|kd-sleep (?=\w))([^\n`;'|]*)", text)
    return [shlex.split(command) for command in found]


def run(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
    return result


SNIPPETS = [(page, code) for page in PAGES if page not in WORKED for code in blocks(page, "python")]


@pytest.mark.parametrize(("page", "code"), SNIPPETS, ids=lambda text: text.split("\n")[0][:40])
def test_a_snippet_runs(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"{page}.md", "exec"), {"__name__": "__main__"})


def test_pages_have_snippets_and_commands():
    assert {page for page, _ in SNIPPETS} >= {
        "loss", "simulator", "information_gap", "sqi", "your_bcg", "library",
    }  # fmt: skip
    assert len([page for page in PAGES if commands(page)]) >= 8


def test_commands_have_flags_that_exist():
    """Parsing checks names, kinds and choices, and that no required flag is missing."""
    for name, *line in (command for page in PAGES for command in commands(page)):
        flags = importlib.import_module(f"kd_sleep.commands.{name}").flags
        if line and line != ["--help"]:  # a command may be only named
            # A new front end's name is no choice in this checkout.
            flags.parse([flag for flag in line if flag != "--front_end=envelope"])


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return tmp_path_factory.mktemp("example")


def test_adding_a_dataset_works(example):
    make, look = blocks("adding_a_dataset", "python")
    (build,) = commands("adding_a_dataset")
    (example / "make.py").write_text(make)
    run(["make.py"], example)
    built = run(["-m", "kd_sleep", *build, "--preset=tiny"], example).stdout
    assert "left out" not in built
    seen = run(["-c", look], example).stdout
    assert "kd_sleep simulator" in seen


def test_adding_a_student_works(example, data_dir, teacher_dir):
    """In a copy of the package, with the page's own changes."""
    checkout = example / "checkout"
    shutil.copytree(
        ROOT / "kd_sleep", checkout / "kd_sleep", ignore=shutil.ignore_patterns("__pycache__")
    )
    front_end, test = blocks("adding_a_student", "python")
    changes = blocks("adding_a_student", "diff")
    assert len(changes) == 2
    frontends = checkout / "kd_sleep" / "models" / "frontends.py"
    for path, change in zip((frontends, checkout / "kd_sleep" / "config.py"), changes, strict=True):
        old, new = (
            "".join(line[1:] + "\n" for line in change.splitlines() if line[0] == sign)
            for sign in "-+"
        )
        assert path.read_text().count(old) == 1, "the page shows another line than the code has"
        path.write_text(path.read_text().replace(old, new))
    before, table, after = frontends.read_text().partition("FRONT_ENDS = ")
    frontends.write_text(f"{before}{front_end}\n\n{table}{after}")
    (checkout / "tests").mkdir()
    (checkout / "tests" / "test_envelope.py").write_text(test)
    here = {"PYTHONPATH": str(checkout)}
    run(["-m", "pytest", "-q", "tests"], checkout, **here)
    train = next(c for c in commands("adding_a_student") if c[0] == "distill_student")
    flags = [flag for flag in train[1:] if not flag.startswith(("--data_dir", "--teacher"))]
    run(
        ["-m", "kd_sleep", train[0], *flags, f"--data_dir={data_dir}", f"--teacher={teacher_dir}",
         "--preset=tiny"],
        checkout, **here,
    )  # fmt: skip
    settings = json.loads((checkout / "envelope" / "settings.json").read_text())["settings"]
    assert settings["model"]["front_end"] == "envelope"
    export = next(c for c in commands("adding_a_student") if c[0] == "export_student")
    if not importlib.util.find_spec("onnxruntime"):
        export = [flag for flag in export if not flag.startswith("--onnx")]
    run(["-m", "kd_sleep", *export], checkout, **here)


def test_no_page_calls_a_window_an_epoch_or_leaves_out_simulated():
    for page, text in PAGES.items():
        assert len(re.findall(r"(?i)\bepochs?\b", text)) == (1 if page == "index" else 0), page
    for page in ("index", "simulator", "shhs", "your_bcg"):
        assert "*simulated*" in PAGES[page] or "simulated nights" in PAGES[page], page
