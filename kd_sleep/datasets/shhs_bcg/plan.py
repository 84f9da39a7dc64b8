"""What a build will read, and which split each night is in: known before the first is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from tqdm import tqdm

from kd_sleep.config import DatasetConfig
from kd_sleep.datasets.shhs_bcg import finished
from kd_sleep.datasets.shhs_bcg.finished import Night
from kd_sleep.datasets.splits import SPLITS, assert_disjoint, read_splits, split_of
from kd_sleep.errors import DatasetError
from kd_sleep.features.night import Exclusion
from kd_sleep.recordings.shhs import find_nights


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a build will read.

    Attributes:
      nights: to be read, in order of their ids.
      left_out: known without reading: files of unknown names, subjects that --splits leaves out.
    """

    nights: tuple[Night, ...]
    left_out: tuple[Exclusion, ...]

    @property
    def subjects(self) -> dict[str, list[str]]:
        """Split -> subjects, sorted."""
        found: dict[str, set[str]] = {split: set() for split in SPLITS}
        for night in self.nights:
            found[night.split].add(night.files.subject_id)
        return {split: sorted(subjects) for split, subjects in found.items()}

    def digest(self) -> str:
        """Of all files, settings, versions and splits."""
        told = [(n.files.recording_id, n.split, n.fingerprint) for n in self.nights]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def plan(
    shhs_dir: str | Path,
    config: DatasetConfig,
    bcg_dir: str | Path | None = None,
    splits_file: str | Path | None = None,
) -> Plan:
    """Finds the nights under `shhs_dir` and gives each its split.

    Raises:
      DatasetError: no nights, no BCG folder, an unusable splits file, or a split without subjects.
    """
    paired = config.bcg_source == "paired"
    bcg_dir = Path(bcg_dir) if bcg_dir else Path(shhs_dir) / "bcg"
    if paired and not bcg_dir.is_dir():
        raise DatasetError(f"{bcg_dir}: no folder of BCG files.", "Name it with --bcg_dir=DIR.")
    listing = find_nights(shhs_dir, bcg_dir if paired else None, config.recordings)
    left_out = [
        Exclusion(
            "", str(path), "its name is none of SHHS's.", "Rename it as in shhs1-200001, if it is."
        )
        for path in listing.strays
    ]
    given = read_splits(splits_file) if splits_file else None
    nights = []
    for night in tqdm(listing.nights, desc="Looking at files", unit="night", leave=False):
        split = split_of(night.subject_id) if given is None else given.get(night.subject_id)
        if split is None:
            reason = f"subject {night.subject_id} is not in {splits_file}."
            remedy = "Add the subject there, if the night is wanted."
            left_out.append(Exclusion(night.recording_id, str(night.stages_xml), reason, remedy))
        else:
            nights.append(Night(night, split, finished.fingerprint(night, config)))
    made = Plan(tuple(nights), tuple(left_out))
    assert_disjoint(made.subjects)
    empty = [split for split, subjects in made.subjects.items() if not subjects]
    if empty:
        raise DatasetError(
            f"{shhs_dir}: its {sum(map(len, made.subjects.values()))} subjects leave split"
            f" {' and '.join(empty)} without a night.",
            "Splits go by subject; ten subjects are enough to fill all three.",
        )
    return made
