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
    "recordings/time_stamps.py",
    "recordings/edf_layout.py",
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
    define = re.compile(r"define\w*\(\s*\"[^\"]*\",\s*\"(\w+)\"|define\w*\(\s*\"(\w+)\"")
    named = {name for path in files for pair in define.findall(path.read_text()) for name in pair}
    return named | {"preset", "name"}  # as in --name=value


def test_what_stages_advises_flags_of_stage_night_alone():
    known = defined(ROOT / "kd_sleep/commands/stage_night.py", ROOT / "kd_sleep/commands/flags.py")
    for name in STAGED:
        assert advised(ROOT / "kd_sleep" / name) <= known - {"bcg_rate_hz", "bcg_channel"}, name
