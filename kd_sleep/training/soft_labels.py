"""Teacher logits: computed once per night, good only for the teacher and features they are of.

A file of soft labels names the teacher by the fingerprint of its parameters, and each night by the
digest of its RR features. Where the nights were labelled by teachers of folds it says how many
folds there are, and names each night's own teacher. Logits of another teacher, of other folds, or
for features that have changed since, are refused by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
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


def save(
    folder: Path,
    split: str,
    teacher: str,
    nights: Nights,
    logits: Sequence[NDArray],
    fold_teachers: Sequence[str] = (),
) -> None:
    """Writes `<split>.npy`, all nights' logits in a row, and `<split>.json` that names them.

    Args:
      folder: of soft labels.
      split: of the nights.
      teacher: fingerprint.
      nights: R nights.
      logits: [N, K] of each night.
      fold_teachers: [R] fingerprints of the teachers of folds that the logits are of; none where
        they are the teacher's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.json").unlink(missing_ok=True)  # names nothing while the logits change
    np.save(folder / f"{split}.npy", np.concatenate(logits).astype(np.float32))
    index = {
        name: {"windows": len(values), "digest": digest, "teacher": by}
        for name, values, digest, by in zip(
            nights.recording_ids,
            logits,
            nights.teacher_digest,
            fold_teachers or [teacher] * len(nights),
            strict=True,
        )
    }
    folds = len(set(fold_teachers))
    write_json(folder / f"{split}.json", {"teacher": teacher, "folds": folds, "nights": index})


def load(
    folder: Path, split: str, teacher: str, nights: Nights, fold_teachers: Sequence[str] = ()
) -> NDArray[np.float32]:
    """The logits [W, K] of the windows of `nights`.

    Args:
      folder, split, teacher, fold_teachers: as they were saved.
      nights: as they were saved, in any order; without `fold_teachers` some of them will do.

    Raises:
      TrainingError: none there, of another teacher, of other folds, or for other RR features.
    """
    path = folder / f"{split}.json"
    if not path.exists():
        raise TrainingError(f"{path}: no soft labels.", "Run `kd-sleep train_teacher` first.")
    index = json.loads(path.read_text())
    if index["teacher"] != teacher:
        raise TrainingError(
            f"{path}: soft labels of another teacher.",
            "Run `kd-sleep train_teacher` again.",
        )
    folds = len(set(fold_teachers))
    if index.get("folds", 0) != folds:  # files of before had none
        raise TrainingError(
            f"{path}: soft labels of {index.get('folds', 0)} folds, expected {folds}.",
            "Run `kd-sleep train_teacher` again.",
        )
    flat = np.load(folder / f"{split}.npy", allow_pickle=False, mmap_mode="r")
    if flat.shape[1:] != (NUM_STAGES,):
        raise TrainingError(
            f"{path}: soft labels of {flat.shape[-1]} classes, expected {NUM_STAGES}.",
            "Train the teacher with this version of kd_sleep.",
        )
    ends = np.cumsum([entry["windows"] for entry in index["nights"].values()])
    entries = {
        name: (entry, flat[end - entry["windows"] : end])
        for (name, entry), end in zip(index["nights"].items(), ends, strict=True)
    }
    found = []
    expected = fold_teachers or [teacher] * len(nights)
    for name, digest, by in zip(nights.recording_ids, nights.teacher_digest, expected, strict=True):
        entry, logits = entries.get(name, (None, None))
        if entry is None:
            what = "no soft labels for"
        elif entry["digest"] != digest:
            what = "soft labels for other RR features of"
        elif entry.get("teacher", teacher) != by:
            what = "soft labels of another fold's teacher for"
        else:
            found.append(logits)
            continue
        raise TrainingError(f"{path}: {what} {name}.", "Train the teacher on this very dataset.")
    return np.concatenate(found)
