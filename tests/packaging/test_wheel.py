"""The wheel has all that a checkout runs with, and works in an environment of its own."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kd_sleep.version import __version__

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "build", "dist")


def run(*command: str | Path, cwd: Path, timeout: int = 300) -> str:
    """A command that has to succeed; nothing of this checkout is on its path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """Wheel and sdist of a copy of what git tracks; building leaves folders beside the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("kd_sleep", "launch", "docs", "tests", "requirements"):
        shutil.copytree(ROOT / name, source / name, ignore=LEFT_OUT)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, source)
    # The sdist first, and the wheel from it: what the sdist lacks, the wheel lacks.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=source)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_wheel_has_every_module_and_data_file(built):
    wheel, _ = built
    assert wheel.name == f"kd_sleep-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("kd_sleep", "launch"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in names, path
    assert "launch/colab_tpu.ipynb" in names
    assert "kd_sleep/datasets/shhs_bcg/CITATIONS.bib" in names
    folders = {name.split("/")[0] for name in names}
    assert folders == {"kd_sleep", "launch", f"kd_sleep-{__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_sdist_has_what_its_reader_needs(built):
    _, sdist = built
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert names >= {
        "LICENSE", "README.md", "BUILD_NOTES.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md",
        "mkdocs.yml", "docs/index.md", "docs/api_pages.py", "docs/pictures/night.svg",
        "requirements/oldest.txt", "tests/conftest.py", "tests/packaging/test_wheel.py",
    }  # fmt: skip


@pytest.mark.slow
def test_wheel_works_in_an_environment_of_its_own(built, tmp_path):
    """Installed from the wheel alone, outside the checkout; needs the package index."""
    wheel, _ = built
    python = tmp_path / "env" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path, timeout=1800)
    listed = run(python, "-m", "kd_sleep", cwd=tmp_path)
    commands = re.findall(r"python -m (launch\.\w+)", listed)
    assert len(commands) > 8
    for command in set(commands):
        told = subprocess.run(
            [python, "-m", command, "--help"], cwd=tmp_path, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert f"python -m {command} --" in told.stdout, told.stderr[-1000:]
    where = run(python, "-c", "import kd_sleep, launch; print(kd_sleep.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path / "env"))
    run(python, "-m", "launch.simulate_cohort", "--preset=tiny", "--out=cohort", cwd=tmp_path)
    run(
        python, "-m", "launch.build_dataset", "--preset=tiny", "--shhs_dir=cohort",
        "--data_dir=data", "--bcg_source=paired", cwd=tmp_path,
    )  # fmt: skip
    run(
        python, "-m", "launch.train_teacher", "--preset=tiny", "--data_dir=data",
        "--workdir=teacher", cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "teacher" / "metrics.jsonl").exists()


def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def requirements() -> dict[str, list[Requirement]]:
    """What the package needs, and each extra."""
    config = setup()
    texts = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    return {
        name: [Requirement(line) for line in text.split("\n") if line.strip()]
        for name, text in texts.items()
    }


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {package.replace("_", "-").lower(): version for package, version in pairs}


def test_every_dependency_has_a_lower_and_an_upper_bound():
    for extra, needed in requirements().items():
        for requirement in needed:
            if requirement.name == "kd_sleep":  # another extra of our own
                assert requirement.extras <= set(requirements())
                continue
            signs = {specifier.operator for specifier in requirement.specifier}
            assert signs >= {">=", "<"} or "==" in signs, f"{extra}: {requirement}"


def test_the_oldest_set_is_the_lower_bounds_and_the_newest_lies_within():
    oldest, newest = pinned("oldest"), pinned("newest")
    named = {requirement.name.replace("_", "-").lower() for requirement in requirements()[""]}
    assert named <= set(oldest), "requirements/oldest.txt lacks some"
    assert named <= set(newest), "requirements/newest.txt lacks some"
    for requirement in requirements()[""]:
        name = requirement.name.replace("_", "-").lower()
        (low,) = (s.version for s in requirement.specifier if s.operator == ">=")
        assert oldest[name] in requirement.specifier, name
        assert oldest[name] == low or oldest[name].startswith(f"{low}."), name
        assert newest[name] in requirement.specifier, name


def test_version_licence_citation_and_changelog_agree():
    config = setup()["metadata"]
    assert config["license"] == "Apache-2.0"
    assert (
        "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    )
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^version: {re.escape(__version__)}$", citation, re.MULTILINE)
    assert re.search(r"^license: Apache-2.0$", citation, re.MULTILINE)
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert versions[1] == __version__
