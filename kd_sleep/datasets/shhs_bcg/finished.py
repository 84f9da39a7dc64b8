"""Nights that a build has finished, one file each: what is in it need not be read again.

A file's name holds a fingerprint of everything that its night depends on, so a night whose files
or settings changed is another night. Files appear whole or not at all, whatever kills the build.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kd_sleep import schema
from kd_sleep.config import DatasetConfig, to_dict
from kd_sleep.errors import DatasetError, RecordingError
from kd_sleep.features.night import Exclusion, process_night
from kd_sleep.recordings import files
from kd_sleep.recordings.night_files import NightFiles
from kd_sleep.simulation.physiology import SIMULATOR_VERSION
from kd_sleep.version import __version__

_DIGEST_BYTES = 1 << 16  # the whole of an XML, and a glance at both ends of a signal
_FULL = (errno.ENOSPC, errno.EDQUOT)


def fingerprint(night: NightFiles, config: DatasetConfig) -> str:
    """Of the night's files (sizes, beginnings, ends) and options, the settings and the versions."""
    versions = [schema.SCHEMA_VERSION, __version__, SIMULATOR_VERSION]
    digest = hashlib.sha256(json.dumps([to_dict(config), versions]).encode())
    digest.update(night.options().encode())
    unread = night.parts["ecg"] if config.recordings == "rpoints" else None
    for path in night.all_files():
        if path == unread:
            continue
        digest.update(path.name.encode())
        try:
            with files.opened(path) as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(str(size).encode() + file.read(_DIGEST_BYTES))
                file.seek(max(0, size - _DIGEST_BYTES))
                digest.update(file.read(_DIGEST_BYTES))
        except RecordingError as error:  # reading the night will say so
            digest.update(error.problem.encode())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Night:
    """A night to be finished."""

    files: NightFiles
    split: str
    fingerprint: str

    def path(self, folder: Path, suffix: str) -> Path:
        return folder / f"{self.files.recording_id}.{self.fingerprint[:16]}{suffix}"


def finish(night: Night, folder: Path, config: DatasetConfig) -> None:
    """Reads a night and keeps its record, or why there is none, in `folder`.

    Raises:
      DatasetError: no room left; finished nights are kept.
    """
    result = process_night(night.files, config)
    if isinstance(result, Exclusion):
        path, data = night.path(folder, ".json"), json.dumps(dataclasses.asdict(result)).encode()
    else:
        content = io.BytesIO()
        np.savez(content, **result)
        path, data = night.path(folder, ".npz"), content.getvalue()
    try:
        files.write_bytes(path, data)
    except OSError as error:
        if error.errno in _FULL:
            raise no_room(folder) from error
        raise


def no_room(folder: Path) -> DatasetError:
    return DatasetError(
        f"{folder}: no room is left on the disk.",
        "Nothing is lost: make room and give the same command again, it goes on from here.",
    )


def record_of(night: Night, folder: Path) -> schema.NightRecord | None:
    """The night's record; None where there is none (yet, or for a reason)."""
    path = night.path(folder, ".npz")
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as stored:
        record = {
            name: str(stored[name]) if field.dtype is str else stored[name][()]
            for name, field in schema.NIGHT_FIELDS.items()
        }
    schema.validate(record)
    return record


def exclusion_of(night: Night, folder: Path) -> Exclusion | None:
    """Why the night has no record; None where it has one, or has not been read."""
    path = night.path(folder, ".json")
    return Exclusion(**json.loads(path.read_text())) if path.exists() else None


def unfinished(nights: Sequence[Night], folder: Path) -> list[Night]:
    """Nights without a record. Those excluded before are among them: a file may be back."""
    return [night for night in nights if not night.path(folder, ".npz").exists()]
