"""The wheel has all that a checkout runs with, and works in an environment of its own."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from packaging.requirements import Requirement

from kd_sleep.__main__ import COMMANDS
from kd_sleep.benchmark.synthetic import write_student
from kd_sleep.config import PRESETS
from kd_sleep.extras import EXTRAS
from kd_sleep.recordings.paired_bcg import read_bcg
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
    for path in (ROOT / "kd_sleep").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT).as_posix() in names, path
    assert "kd_sleep/datasets/shhs_bcg/CITATIONS.bib" in names
    assert "kd_sleep/simulation/literature.csv" in names
    folders = {name.split("/")[0] for name in names}
    assert folders == {
        "kd_sleep",
        f"kd_sleep-{__version__}.dist-info",
    }  # `launch` is a package of ROS
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_sdist_has_what_its_reader_needs(built):
    _, sdist = built
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert names >= {
        "LICENSE", "README.md", "BUILD_NOTES.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md",
        "mkdocs.yml", "docs/index.md", "docs/api_pages.py", "docs/pictures/night.svg",
        "launch/__init__.py", "launch/colab_tpu.ipynb", "requirements/oldest.txt",
        "tests/conftest.py", "tests/packaging/test_wheel.py",
    }  # fmt: skip


def test_an_editable_clone_is_found_from_its_parent_folder(built, tmp_path):
    """There the clone, a folder called kd_sleep, could pass for a package without a file."""
    _, sdist = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    clone, site = tmp_path / "kd_sleep", tmp_path / "site"
    (tmp_path / f"kd_sleep-{__version__}").rename(clone)
    make = "import sys, setuptools.build_meta as b; b.build_editable(sys.argv[1])"
    run(sys.executable, "-c", make, site, cwd=clone)
    for wheel in site.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(site)
    look = (
        "import site, sys; site.addsitedir(sys.argv[1]); import kd_sleep; print(kd_sleep.__file__)"
    )
    # Without its own site packages, where another clone may be installed.
    found = run(sys.executable, "-S", "-c", look, site, cwd=tmp_path)
    assert found.strip() == str(clone / "kd_sleep" / "__init__.py")


def environment(folder: Path, wheel: str) -> Path:
    """Folder of the programs of a new environment with this wheel; needs the package index."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    run(folder / "bin" / "pip", "install", "--quiet", wheel, cwd=folder.parent, timeout=1800)
    return folder / "bin"


@pytest.mark.slow
def test_the_base_stages_arrays_edf_csv_and_npy(built, cohort, tmp_path):
    """As export_student's help says, with nothing of an extra installed."""
    bed, nights = sorted((cohort / "bcg").glob("*.edf"))[0], tmp_path / "nights"
    student = tmp_path / "student.kdsleep"
    write_student(PRESETS["tiny"], student)
    bcg = read_bcg(bed).signal
    nights.mkdir()
    shutil.copy(bed, nights / "a.edf")
    np.save(nights / "b.npy", bcg.values)
    np.savetxt(nights / "c.csv", bcg.values, header="bcg", comments="", fmt="%.6g")
    with h5py.File(nights / "d.h5", "w") as file:
        file["bcg"] = bcg.values
    bin_ = environment(tmp_path / "env", built[0])
    listed = json.loads(run(bin_ / "pip", "list", "--format=json", cwd=tmp_path))
    installed = {package["name"].lower().replace("_", "-") for package in listed}
    named = {r.name.lower().replace("_", "-") for extra in EXTRAS for r in requirements()[extra]}
    named -= {"kd-sleep", "orbax-checkpoint", "importlib-resources"}  # flax brings its own
    assert not installed & named
    for name in (name for group in COMMANDS.values() for name in group):
        assert f"kd-sleep {name} --" in run(bin_ / "kd-sleep", name, "--help", cwd=tmp_path)
    code = (
        "import sys, numpy, kd_sleep; student = kd_sleep.load_student(sys.argv[1])\n"
        "night = student.stage(numpy.load(sys.argv[2]), 100.0); print(len(night))"
    )
    windows = int(run(bin_ / "python", "-c", code, student, nights / "b.npy", cwd=tmp_path))
    assert windows == int(len(bcg.values) / 100.0 / 30.0)
    command = [bin_ / "kd-sleep", "stage-night", f"--student={student}", f"--bcg={nights}"]
    command += ["--rate=100", f"--out={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 3
    (refused,) = [line for line in done.stderr.splitlines() if line.startswith("not staged")]
    assert refused.endswith("h5py is not installed. Run `pip install 'kd_sleep[data]'`.")
    assert len(list((tmp_path / "out").iterdir())) == 9  # no pictures
    for extra, others in (
        ("report", [*command[1:], "--picture=png"]),
        ("train", ["train-teacher", "--data_dir=x", "--workdir=y"]),
    ):
        done = subprocess.run(
            [command[0], *others], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 2
        expected = rf"Error: \w+ is not installed. Run `pip install 'kd_sleep\[{extra}\]'`.\n"
        assert re.fullmatch(expected, done.stderr), done.stderr


@pytest.mark.slow
def test_wheel_works_in_an_environment_of_its_own(built, tmp_path):
    """Installed from the wheel alone, outside the checkout."""
    bin_ = environment(tmp_path / "env", f"{built[0]}[all]")
    where = run(bin_ / "python", "-c", "import kd_sleep; print(kd_sleep.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path / "env"))
    for name, *flags in (
        ("simulate_cohort", "--out=cohort"),
        ("build_dataset", "--shhs_dir=cohort", "--data_dir=data", "--bcg_source=paired"),
        ("train_teacher", "--data_dir=data", "--workdir=teacher"),
    ):
        run(bin_ / "kd-sleep", name, "--preset=tiny", *flags, cwd=tmp_path)
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


def test_errors_name_the_extra_that_brings_a_package():
    """`extras.EXTRAS` has the names that are imported, setup.cfg those that are installed."""
    imported = {"orbax-checkpoint": "orbax"}
    for extra, packages in EXTRAS.items():
        names = {one.name for one in requirements()[extra] if not one.extras}
        names = {imported.get(name, name.replace("-", "_")) for name in names}
        assert names - {"importlib_resources"} == set(packages), extra  # TFDS imports that
    (everything,) = requirements()["all"]
    assert everything.extras == set(EXTRAS) - {"onnx"}


def test_the_oldest_set_is_the_lower_bounds_and_the_newest_lies_within():
    oldest, newest = pinned("oldest"), pinned("newest")
    needed = [one for name in ("", *EXTRAS) for one in requirements()[name] if not one.extras]
    needed = [one for one in needed if one.name not in ("onnx", "onnxruntime")]
    named = {requirement.name.replace("_", "-").lower() for requirement in needed}
    assert named <= set(oldest), "requirements/oldest.txt lacks some"
    assert named <= set(newest), "requirements/newest.txt lacks some"
    for requirement in needed:
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
