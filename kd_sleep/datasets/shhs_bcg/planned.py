"""The nights of a build: found, given their split, and finished one file each.

A finished night's file name holds a fingerprint of everything that its record depends on: a night
whose files or settings changed is another night. Files appear complete or not at all, whenever a
build is killed.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kd_sleep import schema
from kd_sleep.config import DatasetConfig, to_dict
from kd_sleep.datasets.splits import SPLITS, assert_disjoint, read_splits, split_of
from kd_sleep.errors import DatasetError, RecordingError
from kd_sleep.features.night import Exclusion, process_night
from kd_sleep.recordings import files
from kd_sleep.recordings.night_files import Listing, NightFiles
from kd_sleep.recordings.shhs import find_nights
from kd_sleep.simulation.physiology import SIMULATOR_VERSION
from kd_sleep.version import __version__

_DIGEST_BYTES = 1 << 16  # all of an XML; of a signal the beginning and the end
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclasses.dataclass(frozen=True)
class PlannedNight:
    """A night to be read; `fingerprint` is of all that its record depends on."""

    files: NightFiles
    split: str
    fingerprint: str

    def path(self, folder: Path, suffix: str) -> Path:
        """Where `folder` has its record (.npz), or why there is none (.json)."""
        return folder / f"{self.files.recording_id}.{self.fingerprint[:16]}{suffix}"

    def finish(self, folder: Path, config: DatasetConfig) -> None:
        """Reads the night and leaves its record, or why there is none, in `folder`.

        Raises:
          DatasetError: no room left; finished nights are kept.
        """
        result = process_night(self.files, config)
        if isinstance(result, Exclusion):
            path, data = self.path(folder, ".json"), json.dumps(dataclasses.asdict(result)).encode()
        else:
            content = io.BytesIO()
            np.savez(content, **result)
            path, data = self.path(folder, ".npz"), content.getvalue()
        try:
            files.write_bytes(path, data)
        except OSError as error:
            if error.errno in _FULL:
                raise no_room(folder) from error
            raise

    def record(self, folder: Path) -> schema.NightRecord:
        """The record of a night that is finished."""
        with np.load(self.path(folder, ".npz"), allow_pickle=False) as stored:
            record = {
                name: str(stored[name]) if field.dtype is str else stored[name][()]
                for name, field in schema.NIGHT_FIELDS.items()
            }
        schema.validate(record)
        return record

    def exclusion(self, folder: Path) -> Exclusion | None:
        """Why the night has no record; None where it has one, or has not been read."""
        path = self.path(folder, ".json")
        return Exclusion(**json.loads(path.read_text())) if path.exists() else None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a build will read.

    Attributes:
      nights: to be read, in order of their ids.
      left_out: known without reading: files of unknown names, subjects that --splits leaves out.
    """

    nights: tuple[PlannedNight, ...]
    left_out: tuple[Exclusion, ...]

    @property
    def subjects(self) -> dict[str, list[str]]:
        """Split -> subjects, sorted."""
        return {
            split: sorted({n.files.subject_id for n in self.nights if n.split == split})
            for split in SPLITS
        }

    def digest(self) -> str:
        """Of all files, settings, versions and splits."""
        known = [(n.files.recording_id, n.split, n.fingerprint) for n in self.nights]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def unfinished(self, folder: Path) -> list[PlannedNight]:
        """Nights without a record. Excluded ones are among them: a file may be back."""
        return [night for night in self.nights if not night.path(folder, ".npz").exists()]


def plan(
    source: str | Path | Listing,
    config: DatasetConfig,
    bcg_dir: str | Path | None = None,
    splits_file: str | Path | None = None,
) -> Plan:
    """Finds the nights of a source and gives each its split.

    Args:
      source: a folder in SHHS's layout, or the listed nights of another source.
      config: settings of the build.
      bcg_dir: of SHHS's layout: folder of BCG files; None is `bcg/` in it.
      splits_file: splits by subject, in place of the source's own and of the built-in ones.

    Raises:
      DatasetError: no nights, no BCG folder, an unusable splits file, or a split without subjects.
    """
    listing = source if isinstance(source, Listing) else _of_shhs(source, config, bcg_dir)
    remedy = "Rename it as in shhs1-200001, if it is."
    left_out = [
        Exclusion("", str(path), "its name is none of SHHS's.", remedy) for path in listing.strays
    ]
    given = read_splits(splits_file) if splits_file else None
    nights = []
    for night in tqdm(listing.nights, desc="Looking at files", unit="night", leave=False):
        subject = night.subject_id
        own = listing.splits.get(subject) or split_of(subject)
        split = own if given is None else given.get(subject)
        if split is not None:
            nights.append(PlannedNight(night, split, _fingerprint(night, config)))
            continue
        reason = f"subject {subject} is not in {splits_file}."
        remedy = "Add the subject there, if the night is wanted."
        left_out.append(Exclusion(night.recording_id, str(night.part("stages")), reason, remedy))
    made = Plan(tuple(nights), tuple(left_out))
    assert_disjoint(made.subjects)
    if empty := [split for split, subjects in made.subjects.items() if not subjects]:
        raise DatasetError(
            f"{listing.place}: its {sum(map(len, made.subjects.values()))} subjects leave split"
            f" {' and '.join(empty)} without a night.",
            "Splits go by subject; ten subjects are enough to fill all three, or give --splits.",
        )
    return made


def no_room(folder: Path) -> DatasetError:
    """The error of a full disk."""
    return DatasetError(
        f"{folder}: no room is left on the disk.",
        "Nothing is lost: make room and give the same command again, it goes on from here.",
    )


def _of_shhs(shhs_dir: str | Path, config: DatasetConfig, bcg_dir: str | Path | None) -> Listing:
    paired = config.bcg_source == "paired"
    bcg_dir = Path(bcg_dir) if bcg_dir else Path(shhs_dir) / "bcg"
    if paired and not bcg_dir.is_dir():
        raise DatasetError(f"{bcg_dir}: no folder of BCG files.", "Name it with --bcg_dir=DIR.")
    return find_nights(shhs_dir, bcg_dir if paired else None, config.recordings)


def _fingerprint(night: NightFiles, config: DatasetConfig) -> str:
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
        except RecordingError as error:  # the night is excluded when it is read
            digest.update(error.problem.encode())
    return digest.hexdigest()
