"""Teacher logits: computed once per night, good only for the teacher and features they are of.

A file of soft labels names the teacher by the fingerprint of its parameters, and each night by the
digest of its RR features. Logits of another teacher, or for features that have changed since, are
refused by name.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import TrainingError
from kd_sleep.provenance import write_json
from kd_sleep.stages import NUM_STAGES


def fingerprint(params: Any) -> str:
    """SHA-256 over names, shapes and values of a parameter tree."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save(folder: Path, split: str, teacher: str, nights: Nights, logits: list[NDArray]) -> None:
    """Writes `<split>.npy`, all nights' logits in a row, and `<split>.json` that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.json").unlink(missing_ok=True)  # names nothing while the logits change
    np.save(folder / f"{split}.npy", np.concatenate(logits).astype(np.float32))
    index = {
        name: {"windows": len(values), "digest": digest}
        for name, values, digest in zip(
            nights.recording_ids, logits, nights.teacher_digest, strict=True
        )
    }
    write_json(folder / f"{split}.json", {"teacher": teacher, "nights": index})


def load(folder: Path, split: str, teacher: str, nights: Nights) -> NDArray[np.float32]:
    """The logits [W, K] of the windows of `nights`.

    Raises:
      TrainingError: none there, of another teacher, or for other RR features.
    """
    path = folder / f"{split}.json"
    if not path.exists():
        raise TrainingError(
            f"{path}: no soft labels.", "Run `python -m launch.train_teacher` first."
        )
    index = json.loads(path.read_text())
    if index["teacher"] != teacher:
        raise TrainingError(
            f"{path}: soft labels of another teacher.",
            "Run `python -m launch.train_teacher` again.",
        )
    flat = np.load(folder / f"{split}.npy", allow_pickle=False, mmap_mode="r")
    if flat.shape[1:] != (NUM_STAGES,):
        raise TrainingError(
            f"{path}: soft labels of {flat.shape[-1]} classes, expected {NUM_STAGES}.",
            "Train the teacher with this version of kd_sleep.",
        )
    ends = np.cumsum([entry["windows"] for entry in index["nights"].values()])
    places = {
        name: (end - entry["windows"], end, entry["digest"])
        for (name, entry), end in zip(index["nights"].items(), ends, strict=True)
    }
    found = []
    for name, digest in zip(nights.recording_ids, nights.teacher_digest, strict=True):
        if name not in places or places[name][2] != digest:
            what = (
                "no soft labels for"
                if name not in places
                else "soft labels for other RR features of"
            )
            raise TrainingError(
                f"{path}: {what} {name}.", "Train the teacher on this very dataset."
            )
        start, end, _ = places[name]
        found.append(flat[start:end])
    return np.concatenate(found)
