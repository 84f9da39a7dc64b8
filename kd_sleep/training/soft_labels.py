"""Teachers' logits on any nights: from the teacher's cache where they are known, else predicted.

The cache is `soft_labels/` in a teacher's work folder. A night's logits are found there by three
keys: recording, digest of the tachogram and HRV that the teacher reads, and fingerprint of the
teacher. A teacher without a folder predicts every time. One with folds has each of its training
nights labelled by the teacher of the fold that its subject was left out of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from numpy.typing import NDArray

from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import TrainingError
from kd_sleep.losses import mix_teachers
from kd_sleep.provenance import write_json
from kd_sleep.stages import NUM_STAGES

if TYPE_CHECKING:
    from kd_sleep.training.trained import Trained

FOLDER = "soft_labels"
Key = tuple[str, str, str]  # recording, content, teacher


def fingerprint(params: Any) -> str:
    """SHA-256 over names, shapes and values of a parameter tree."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def soft_labels(teachers: Sequence[Trained], nights: Nights) -> NDArray[np.float32]:
    """Logits [W, M, K] of M teachers on all windows of some nights.

    Raises:
      TrainingError: as `Trained.logits`, or a damaged file of soft labels.
    """
    return np.stack([_of_one(teacher, nights) for teacher in teachers], axis=1)


def mixed_log_probs(logits_WMK: NDArray) -> NDArray[np.float64]:
    """[W, K] log of the teachers' mean probabilities."""
    return np.asarray(mix_teachers(np.moveaxis(logits_WMK, 1, 0), 1.0), np.float64)


def _of_one(teacher: Trained, nights: Nights) -> NDArray[np.float32]:
    by = [teacher.for_subject(subject, nights.cohort) for subject in nights.subject_ids]
    names = (one.name for one in by)
    keys: list[Key] = list(zip(nights.recording_ids, nights.teacher_digest, names, strict=True))
    folder = None if teacher.workdir is None else teacher.workdir / FOLDER
    known = _read(folder) if folder else {}
    if folder is None or jax.process_index() == 0:  # one host predicts and writes
        lacking = [row for row, key in enumerate(keys) if key not in known]
        found: dict[Key, NDArray] = {}
        for one in {by[row].name: by[row] for row in lacking}.values():
            rows = [row for row in lacking if by[row].name == one.name]
            logits = one.logits(nights if len(rows) == len(nights) else nights.select(rows))
            found |= {keys[row]: night for row, night in zip(rows, logits, strict=True)}
        if folder and found:
            _write(folder, {keys[row]: found[keys[row]] for row in lacking})
        known |= found
    if folder and jax.process_count() > 1:
        multihost_utils.sync_global_devices("soft labels are written")
        known = _read(folder)
    return np.concatenate([known[key] for key in keys])


def _write(folder: Path, logits: dict[Key, NDArray]) -> None:
    """Adds one file of these nights' logits in a row, and an index that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(repr(sorted(logits)).encode()).hexdigest()[:16]
    flat = np.concatenate(list(logits.values())).astype(np.float32)
    np.save(folder / f"{name}.npy", flat)
    nights = [
        {"recording": recording, "windows": len(rows), "digest": digest, "teacher": teacher}
        for (recording, digest, teacher), rows in logits.items()
    ]
    # The index last: logits that are half written have none.
    write_json(folder / f"{name}.json", {"sha256": _sha256(nights, flat), "nights": nights})


def _read(folder: Path) -> dict[Key, NDArray[np.float32]]:
    """The logits [N, K] of every night in a folder.

    Raises:
      TrainingError: a file that is not what was written.
    """
    found: dict[Key, NDArray] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            index = json.loads(path.read_text())
            flat = np.load(path.with_suffix(".npy"), allow_pickle=False)
            if flat.shape[1:] != (NUM_STAGES,):
                raise ValueError(f"{flat.shape[-1]} classes, expected {NUM_STAGES}")
            if _sha256(index["nights"], flat) != index["sha256"]:
                raise ValueError("its checksum is wrong")
            ends = np.cumsum([night["windows"] for night in index["nights"]])
            for night, end in zip(index["nights"], ends, strict=True):
                key = (night["recording"], night["digest"], night["teacher"])
                found[key] = flat[end - night["windows"] : end]
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise TrainingError(
                f"{path}: damaged soft labels ({error}).",
                "Remove it and the .npy beside it: the teacher labels these nights again.",
            ) from error
    return found


def _sha256(nights: list[dict[str, Any]], logits: NDArray) -> str:
    """Of the index and the logits together."""
    digest = hashlib.sha256(json.dumps(nights, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(logits).tobytes())
    return digest.hexdigest()
