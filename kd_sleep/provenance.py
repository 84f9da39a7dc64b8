"""What a run needs to be understood later: its settings, package versions and revision."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd_sleep.errors import TrainingError
from kd_sleep.version import __version__

_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "sleepecg", "edfio",
    "tensorflow-datasets", "array_record",
)  # fmt: skip

HIDDEN = "(hidden)"
_SECRET_FLAG = r"--?[\w-]*(?:token|password|secret|key|credential)[\w-]*"
_SECRET = re.compile(
    rf"""(^{_SECRET_FLAG}=).*                                  # an argument of its own
      | ({_SECRET_FLAG}(?:=|\s+))(?:"[^"]*"|'[^']*'|\S+)       # inside another flag's value""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


def provenance() -> dict[str, Any]:
    """Versions of Python and packages, the git revision if there is one, the command line."""
    return {"versions": versions(), "git_revision": git_revision(), "command": shown(sys.argv)}


def shown(command: Sequence[str]) -> list[str]:
    """A command line that may be written down: flags named like secrets lose their values.

    NSRR's token, a cluster's password: also inside a flag that carries other flags. The value may
    follow `=` or be the next argument.
    """
    words: list[str] = []
    for argument in command:
        if words and re.fullmatch(_SECRET_FLAG, words[-1], re.IGNORECASE):
            words.append(HIDDEN)
        else:
            words.append(_SECRET.sub(lambda m: (m[1] or m[2]) + HIDDEN, argument))
    return words


def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of the packages that numbers depend on."""
    found = {"kd_sleep": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def git_revision() -> str:
    """Commit of the checkout this package runs from, with "+changes"; "unknown" outside one."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # The package may be installed inside somebody else's repository.
        if Path(git("rev-parse", "--show-toplevel")) != folder.parent:
            return "unknown"
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object that `write_json` wrote.

    Raises:
      TrainingError: the file cannot be read, or is no complete JSON object, with this `remedy`.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        if isinstance(error, PermissionError):
            remedy = "Give yourself the right to read it."
        raise TrainingError(f"{path}: cannot be read ({error.strerror}).", remedy) from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: is damaged, no complete JSON.", remedy) from error
    if not isinstance(found, dict):
        raise TrainingError(f"{path}: is damaged, no JSON object.", remedy)
    return found


def write_json(path: Path, value: Any) -> None:
    """Writes JSON completely or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    temporary.replace(path)
