"""Advice names flags that exist: in some launcher, and what `stage_night` runs, in that one."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAGED = (
    "inference/outputs.py",
    "inference/staging.py",
    "inference/picture.py",
    "recordings/paired_bcg.py",
    "recordings/bcg_clock.py",
    "recordings/bcg_csv.py",
    "recordings/bcg_formats.py",
    "recordings/edf.py",
    "recordings/files.py",
)
FLAG = re.compile(r"--([a-z][a-z0-9_]*)\b")


def advised(path: Path) -> set[str]:
    """Flags in the texts of what a file raises."""
    raised = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise))
    return {
        flag
        for error in raised
        for node in ast.walk(error)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for flag in FLAG.findall(node.value)
    }


def defined(*files: Path) -> set[str]:
    """Flags that launchers define by name, and fields of the presets that become some."""
    texts = [path.read_text() for path in files]
    named = {
        name for text in texts for name in re.findall(r"(?:DEFINE_|define_)\w+\(\s*\"(\w+)\"", text)
    }
    if any("define_config" in text for text in texts):
        named |= set(re.findall(r"^    (\w+): ", (ROOT / "kd_sleep/config.py").read_text(), re.M))
    return named | {"preset", "name"}  # as in --name=value


def test_flags_in_advice_exist():
    known = defined(*(ROOT / "launch").glob("*.py"))
    files = [*(ROOT / "kd_sleep").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    unknown = {path.name: advised(path) - known for path in files if advised(path) - known}
    assert not unknown


def test_what_stages_advises_flags_of_stage_night_alone():
    known = defined(ROOT / "launch/stage_night.py", ROOT / "launch/flags.py")
    for name in STAGED:
        assert advised(ROOT / "kd_sleep" / name) <= known - {"bcg_rate_hz", "bcg_channel"}, name
