"""Teacher logits: computed once per night, good only for the teacher and features they are of.

A file of soft labels names the teacher by the fingerprint of its parameters, and each night by the
digests of its RR features and of its logits. Where the nights were labelled by teachers of folds it
says how many folds there are, and names each night's own teacher. Logits of another teacher, of
other folds, for features that have changed since, or not as they were saved, are refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import TrainingError
from kd_sleep.provenance import read_json, write_json
from kd_sleep.stages import NUM_STAGES

_ANEW = "Give the command that trained the teacher again: it writes its soft labels anew."


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

    Raises:
      TrainingError: logits of a night that are not finite.
    """
    logits = [np.asarray(night, np.float32) for night in logits]
    for recording, night in zip(nights.recording_ids, logits, strict=True):
        if not np.isfinite(night).all():
            raise TrainingError(
                f"{folder}: the teacher's logits for {recording} are not finite.",
                "Train it again in another --workdir, with a smaller --learning_rate.",
            )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.json").unlink(missing_ok=True)  # names nothing while the logits change
    np.save(folder / f"{split}.npy", np.concatenate(logits))
    index = {
        name: {"windows": len(values), "digest": digest, "teacher": by, "logits": _digest(values)}
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
      TrainingError: none there, of another teacher, of other folds, for other RR features, or not
        as they were saved.
    """
    path, array = folder / f"{split}.json", folder / f"{split}.npy"
    if not path.exists():
        raise TrainingError(f"{path}: no soft labels.", "Run `kd-sleep train_teacher` first.")
    index = read_json(path, _ANEW)
    if not _is_index(index):
        raise TrainingError(f"{path}: is damaged, no index of soft labels.", _ANEW)
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
    try:
        flat = np.load(array, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise TrainingError(f"{array}: is damaged or absent ({error}).", _ANEW) from error
    if flat.shape[1:] != (NUM_STAGES,):
        raise TrainingError(
            f"{path}: soft labels of {flat.shape[-1]} classes, expected {NUM_STAGES}.",
            "Train the teacher with this version of kd_sleep.",
        )
    ends = np.cumsum([entry["windows"] for entry in index["nights"].values()])
    if len(flat) != ends[-1] or flat.dtype != np.float32:
        raise TrainingError(
            f"{array}: {len(flat)} rows of {flat.dtype}, expected {ends[-1]} of float32.", _ANEW
        )
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
        elif entry.get("logits") != _digest(logits):  # files of before had no digest
            raise TrainingError(f"{array}: not the soft labels that were saved for {name}.", _ANEW)
        else:
            found.append(logits)
            continue
        raise TrainingError(f"{path}: {what} {name}.", "Train the teacher on this very dataset.")
    return np.concatenate(found)


def _digest(logits: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()


def _is_index(found: dict[str, Any]) -> bool:
    nights = found.get("nights")
    return (
        isinstance(found.get("teacher"), str)
        and isinstance(nights, dict)
        and len(nights) > 0
        and all(
            isinstance(night, dict)
            and {"windows", "digest"} <= night.keys()
            and type(night["windows"]) is int
            and night["windows"] >= 0
            for night in nights.values()
        )
    )
