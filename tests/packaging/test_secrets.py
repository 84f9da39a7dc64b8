"""A token on the command line or in the environment is in no file that kd_sleep writes."""

import ast
import json
import sys
from pathlib import Path

import pytest

from kd_sleep import provenance
from kd_sleep.commands import train_teacher
from kd_sleep.config import BuildConfig, DatasetConfig
from kd_sleep.datasets import shhs_bcg
from kd_sleep.training.run import write_settings

ROOT = Path(__file__).parents[2]
TOKEN = "4711-hushHushHush"  # of the shape of NSRR's

LINES = {
    "after =": (["x", f"--nsrr_token={TOKEN}"], ["x", "--nsrr_token=(hidden)"]),
    "the next argument": (["x", "--nsrr-token", TOKEN, "--a=1"], ["x", "--nsrr-token", "(hidden)", "--a=1"]),  # noqa: E501
    "one dash, capitals": ([f"-API_KEY={TOKEN}"], ["-API_KEY=(hidden)"]),
    "with blanks": ([f"--password={TOKEN} and {TOKEN}"], ["--password=(hidden)"]),
    "inside another flag": (
        [f"--beam_options=--runner=X --flink_password={TOKEN} --region=R"],
        ["--beam_options=--runner=X --flink_password=(hidden) --region=R"],
    ),
    "quoted inside another": (
        [f"--beam_options=--secret '{TOKEN} {TOKEN}' --region=R"],
        ["--beam_options=--secret (hidden) --region=R"],
    ),
    "nothing to hide": (["train.py", "--alpha=0.3", "--workdir=keys"], None),
}  # fmt: skip


@pytest.mark.parametrize("case", LINES)
def test_values_of_flags_named_like_secrets_are_hidden(case):
    command, expected = LINES[case]
    assert provenance.shown(command) == (expected or command)


def test_no_written_file_holds_a_token(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("NSRR_TOKEN", TOKEN)
    monkeypatch.setattr(sys, "argv", ["build", "--data_dir=x", f"--nsrr_token={TOKEN}"])
    shhs_bcg.build(
        cohort, tmp_path / "data", DatasetConfig(recordings="rpoints", bcg_source="none"),
        BuildConfig(max_excluded_fraction=0.5),
    )  # fmt: skip
    write_settings(tmp_path / "run", "teacher", {"model": {"width": 8}})
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"settings.json", "metadata.json"} <= {path.name for path in written}
    command = json.loads((tmp_path / "run" / "settings.json").read_text())["command"]
    assert command == ["build", "--data_dir=x", "--nsrr_token=(hidden)"]
    for path in written:
        assert TOKEN.encode() not in path.read_bytes(), path


def test_a_refused_token_is_not_repeated(tmp_path, capsys):
    """No command takes a token; who gives one all the same does not read it again in a log."""
    flagfile = tmp_path / "flags.txt"
    flagfile.write_text(f"--nsrr_token={TOKEN}\n")
    for argument in (f"--nsrr_token={TOKEN}", f"--flagfile={flagfile}"):
        with pytest.raises(SystemExit) as ended:
            train_teacher.flags.run(train_teacher.main, [argument])
        shown = capsys.readouterr()
        assert ended.value.code
        assert "nsrr_token" in shown.err
        assert TOKEN not in shown.err + shown.out


def test_command_line_and_environment_are_told_by_provenance_alone():
    """A new place that writes them down would pass by what hides tokens; flags are only parsed."""
    for path in [*(ROOT / "kd_sleep").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Call) else ""
            if path.name not in ("provenance.py", "__main__.py", "flags.py"):
                assert text not in ("sys.argv", "sys.orig_argv"), path
            assert not text.startswith(
                ("dict(os.environ", "os.environ.items", "os.environ.copy")
            ), path
