"""Trained networks in files, to train from and to score: a student's .kdsleep, and a teacher's.

A teacher's file has the same format (`container`), with parameters and settings and no program.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import ConfigError, ExportError, KdSleepError
from kd_sleep.inference import container
from kd_sleep.inference.export import of_content
from kd_sleep.inference.program import Program
from kd_sleep.models.kept_share import KeptShare
from kd_sleep.recordings.files import write_bytes
from kd_sleep.stages import STAGE_NAMES
from kd_sleep.training.run import Run
from kd_sleep.training.trained import Trained, load_trained

KINDS = ("student", "teacher")


def load_network(path: str | os.PathLike, *kinds: str) -> Trained:
    """A trained network from its work folder or its file.

    Args:
      path: the folder or the file.
      kinds: what it may be: of `KINDS`, any by default.

    Raises:
      TrainingError: a folder without such a network.
      ExportError: a file that cannot be used, or of another kind.
    """
    kinds, path = kinds or KINDS, Path(path)
    if not path.is_file():
        return load_trained(path, *kinds)
    content = container.read(path)
    kind = content.card.get("kind", "student")
    if kind not in kinds:
        raise ExportError(path, f"holds a {kind}, expected a {' or a '.join(kinds)}.")
    if kind == "student":
        return trained_student(of_content(content, path), path)
    try:
        return _teacher(content, path)
    except (KeyError, TypeError, ValueError, KdSleepError) as error:
        raise ExportError(
            path, f"its settings cannot be used: {error}.", "Save it again with this kd_sleep."
        ) from error


def trained_student(student: Program, path: Path | None = None) -> Trained:
    """The student of a file with its training; its metrics stay in the work folder.

    Raises:
      ExportError: a card without what a training records, or parameters of another student.
    """
    card = student.card
    try:
        settings = {name: card[name] for name in ("model", "train", "distill", "teacher")} | {
            "trained_on": card["data"],
            "labelled": card["data"]["labelled_nights"],
            "data": card["data"].get("digests"),
        }
        record = {
            "kind": "student",
            "settings": settings,
            "versions": card["versions"],
            "git_revision": card["git_revision"],
        }
        run = Run.from_json("student", settings)
        sqi = KeptShare.from_json(card["sqi"]) if card["sqi"] else None
        found = Trained(run, _nested(student.weights), record, [], path, sqi=sqi)
        if found.name != card["student"]:
            raise ValueError("its parameters are not those that it names")
    except (KeyError, TypeError, ValueError, KdSleepError) as error:
        raise ExportError(
            path or "student",
            f"its settings cannot be used: {error}.",
            "Export it again with this kd_sleep.",
        ) from error
    return found


def save_teacher(teacher: Trained, path: Path) -> None:
    """Writes a teacher with those of its folds.

    Raises:
      ConfigError: a folder.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder.", "Name a file, such as teacher.kdsleep.")
    several = (teacher, *teacher.folds)
    card = {
        "format": container.FORMAT,
        "kind": "teacher",
        "stages": list(STAGE_NAMES),
        "teacher": teacher.name,
        "settings": [dict(one.settings) for one in several],
        "versions": teacher.record["versions"],
        "git_revision": teacher.record["git_revision"],
    }
    arrays = {
        f"{number}/{jax.tree_util.keystr(name, simple=True, separator='/')}": np.asarray(leaf)
        for number, one in enumerate(several)
        for name, leaf in jax.tree_util.tree_leaves_with_path(one.params)
    }
    write_bytes(path, container.pack(container.Content(card, arrays, b"")))


def _teacher(content: container.Content, path: Path) -> Trained:
    card, params = content.card, _nested(content.arrays)
    if card["stages"] != list(STAGE_NAMES):
        raise ValueError("its stages are others")
    made_by = {name: card[name] for name in ("versions", "git_revision")}
    teacher, *folds = (
        Trained(
            Run.from_json("teacher", settings),
            params[f"{number}"],
            {"kind": "teacher", "settings": settings, **made_by},
            [],
            path,
        )
        for number, settings in enumerate(card["settings"])
    )
    if teacher.name != card["teacher"]:
        raise ValueError("its parameters are not those that it names")
    return Trained(teacher.run, teacher.params, teacher.record, [], path, tuple(folds))


def _nested(arrays: Mapping[str, NDArray]) -> dict[str, Any]:
    """Arrays by names such as network/Dense_0/kernel as the tree that Flax takes."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = array
    return tree
