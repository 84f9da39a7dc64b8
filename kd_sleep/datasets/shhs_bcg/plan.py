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
from kd_sleep.recordings.night_files import Listing
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
    source: str | Path | Listing,
    config: DatasetConfig,
    bcg_dir: str | Path | None = None,
    splits_file: str | Path | None = None,
) -> Plan:
    """Finds the nights of a source and gives each its split.

    Args:
      source: a folder in SHHS's layout, or the nights of another source, which were listed before.
      config: settings of the build.
      bcg_dir: of SHHS's layout: folder of BCG files; None is `bcg/` in it.
      splits_file: splits by subject, in place of the source's own and of the built-in ones.

    Raises:
      DatasetError: no nights, no BCG folder, an unusable splits file, or a split without subjects.
    """
    listing = source if isinstance(source, Listing) else _of_shhs(source, config, bcg_dir)
    left_out = [
        Exclusion(
            "", str(path), "its name is none of SHHS's.", "Rename it as in shhs1-200001, if it is."
        )
        for path in listing.strays
    ]
    given = read_splits(splits_file) if splits_file else None
    nights = []
    for night in tqdm(listing.nights, desc="Looking at files", unit="night", leave=False):
        subject = night.subject_id
        own = listing.splits.get(subject) or split_of(subject)
        split = own if given is None else given.get(subject)
        if split is None:
            reason = f"subject {subject} is not in {splits_file}."
            remedy = "Add the subject there, if the night is wanted."
            left_out.append(
                Exclusion(night.recording_id, str(night.part("stages")), reason, remedy)
            )
        else:
            nights.append(Night(night, split, finished.fingerprint(night, config)))
    made = Plan(tuple(nights), tuple(left_out))
    assert_disjoint(made.subjects)
    empty = [split for split, subjects in made.subjects.items() if not subjects]
    if empty:
        raise DatasetError(
            f"{listing.place}: its {sum(map(len, made.subjects.values()))} subjects leave split"
            f" {' and '.join(empty)} without a night.",
            "Splits go by subject; ten subjects are enough to fill all three, or give --splits.",
        )
    return made


def _of_shhs(shhs_dir: str | Path, config: DatasetConfig, bcg_dir: str | Path | None) -> Listing:
    paired = config.bcg_source == "paired"
    bcg_dir = Path(bcg_dir) if bcg_dir else Path(shhs_dir) / "bcg"
    if paired and not bcg_dir.is_dir():
        raise DatasetError(f"{bcg_dir}: no folder of BCG files.", "Name it with --bcg_dir=DIR.")
    return find_nights(shhs_dir, bcg_dir if paired else None, config.recordings)
