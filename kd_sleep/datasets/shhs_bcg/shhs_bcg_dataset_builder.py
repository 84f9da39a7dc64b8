"""TFDS builder of `shhs_bcg`: SHHS nights with ECG-derived RR features and 30-s BCG windows.

    import tensorflow_datasets as tfds
    import kd_sleep.datasets.shhs_bcg  # registers the builder
    nights = tfds.data_source("shhs_bcg/simulated", data_dir=DATA_DIR, split="train")

Needs no TensorFlow. One record is one night (`kd_sleep.schema.NIGHT_FIELDS`).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from kd_sleep import schema
from kd_sleep.config import DatasetConfig
from kd_sleep.datasets.splits import SPLITS, assert_disjoint, split_of
from kd_sleep.errors import DatasetError
from kd_sleep.features.night import Exclusion, process_night
from kd_sleep.parallel import map_nights
from kd_sleep.provenance import provenance
from kd_sleep.recordings.shhs import NightFiles, find_nights

_DIGEST_BYTES = 1 << 16  # the whole of an XML, and a glance at both ends of a signal


@dataclasses.dataclass(kw_only=True)
class BcgSourceConfig(tfds.core.BuilderConfig):
    """Where BCG comes from; its name is `DatasetConfig.bcg_source`."""


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builds and reads `shhs_bcg`. The manual folder is the one that holds `polysomnography/`."""

    VERSION = tfds.core.Version(schema.SCHEMA_VERSION)
    RELEASE_NOTES = {  # noqa: RUF012 - TFDS reads it so
        "1.1.0": "Every night carries a digest of its BCG.",
        "1.0.0": "First release.",
    }
    BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS reads it so
        BcgSourceConfig(
            name="simulated",
            description="BCG by the forward model, from recorded beats, breathing and movement.",
        ),
        BcgSourceConfig(
            name="paired",
            description="BCG from a file beside each night, aligned by its heartbeats.",
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    SHHS is free for research under a data use agreement:
      1. Ask for access at https://sleepdata.org/datasets/shhs (a few days).
      2. gem install nsrr --no-document
      3. nsrr download shhs/polysomnography/edfs        (356 GB; or a part of it)
         nsrr download shhs/polysomnography/annotations-events-nsrr
         nsrr download shhs/polysomnography/annotations-rpoints
    The manual folder is `shhs/`, with `polysomnography/` in it. Config `paired` reads
    `bcg/<recording id>.edf` beside it, or the folder given as `bcg_dir`.
    Without access: `python -m launch.simulate_cohort --out=DIR` writes the same layout.
    """

    def __init__(self, *, workers: int = 0, bcg_dir: str | Path | None = None, **kwargs: Any):
        """As TFDS's builders, and:

        Args:
          workers: processes that read nights; 0 takes all cores.
          bcg_dir: folder of paired BCG files; None is `bcg/` in the manual folder.
        """
        self._workers = workers
        self._bcg_dir = bcg_dir
        kwargs.setdefault("file_format", "array_record")  # the one that needs no TensorFlow
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        def feature(field: schema.Field):
            if field.dtype is str:
                return tfds.features.Text(doc=field.text)
            shape = tuple(None if size == "N" else size for size in field.shape)
            encoding = tfds.features.Encoding.BYTES if shape else tfds.features.Encoding.NONE
            return tfds.features.Tensor(
                shape=shape,
                dtype=field.dtype,
                encoding=encoding,
                doc=f"{field.text} [{field.unit}]",
            )

        fields = {name: feature(field) for name, field in schema.NIGHT_FIELDS.items()}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(fields),
            metadata=tfds.core.MetadataDict(
                {"exclusions": [], "subjects": {}, "files": "", "made_by": {}}
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        root = Path(dl_manager.manual_dir)
        bcg_dir = Path(self._bcg_dir) if self._bcg_dir else root / "bcg"
        paired = self.builder_config.name == "paired"
        if paired and not bcg_dir.is_dir():
            raise DatasetError(f"{bcg_dir}: no folder of BCG files.", "Name it with --bcg_dir=DIR.")
        nights = find_nights(root, bcg_dir if paired else None)
        self.info.metadata["files"] = _digest(nights)
        self.info.metadata["made_by"] = {"bcg_source": self.builder_config.name, **provenance()}
        by_split: dict[str, list[NightFiles]] = {split: [] for split in SPLITS}
        for files in nights:
            by_split[split_of(files.subject_id)].append(files)
        subjects = {s: sorted({f.subject_id for f in files}) for s, files in by_split.items()}
        assert_disjoint(subjects)
        empty = [split for split, files in by_split.items() if not files]
        if empty:
            raise DatasetError(
                f"{root}: its {sum(map(len, subjects.values()))} subjects leave split"
                f" {' and '.join(empty)} without a night.",
                "Splits go by subject; ten subjects are enough to fill all three.",
            )
        self.info.metadata["subjects"] = subjects
        return {split: self._generate_examples(split, files) for split, files in by_split.items()}

    def _generate_examples(
        self, split: str, nights: list[NightFiles]
    ) -> Iterator[tuple[str, dict]]:
        config = DatasetConfig(bcg_source=self.builder_config.name, workers=self._workers)
        left_out: list[Exclusion] = []
        work = functools.partial(process_night, config=config)
        for result in map_nights(work, nights, self._workers, f"Building {split}"):
            if isinstance(result, Exclusion):
                left_out.append(result)
                entry = {"split": split, **dataclasses.asdict(result)}
                self.info.metadata["exclusions"].append(entry)
            else:
                yield result["recording_id"], dict(result)
        if len(left_out) == len(nights):
            reasons = collections.Counter(night.reason.rstrip(".") for night in left_out)
            listed = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5))
            raise DatasetError(
                f"split {split} has no usable night of {len(nights)}: {listed}."
                f" For instance {left_out[0].path}.",
                left_out[0].remedy,
            )


def build(
    shhs_dir: str | Path,
    data_dir: str | Path,
    config: DatasetConfig,
    bcg_dir: str | Path | None = None,
) -> Builder:
    """Builds `shhs_bcg/<bcg_source>` under `data_dir`, or keeps the one that these files made.

    Raises:
      DatasetError: no nights, an empty split, no BCG folder, or a dataset of other files there.
    """
    builder = Builder(
        config=config.bcg_source, data_dir=data_dir, workers=config.workers, bcg_dir=bcg_dir
    )
    bcg_dir = Path(bcg_dir) if bcg_dir else Path(shhs_dir) / "bcg"
    nights = find_nights(shhs_dir, bcg_dir if config.bcg_source == "paired" else None)
    if builder.data_path.exists():
        if (builder.info.metadata or {}).get("files") != _digest(nights):
            raise DatasetError(
                f"{builder.data_path}: a dataset of other files than those in {shhs_dir}.",
                "Name another --data_dir, or remove that folder to build it anew.",
            )
        return builder
    tfds.disable_progress_bar()  # ours counts nights
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS speaks of a download; there is none
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=shhs_dir, compute_stats="skip"),
            download_dir=builder.data_path.parent,  # stays empty; else TFDS makes a folder for it
            file_format="array_record",
        )
    return builder


def _digest(nights: list[NightFiles]) -> str:
    """Tells one set of files from another by their sizes, beginnings and ends."""
    digest = hashlib.sha256()
    for night in nights:
        digest.update(night.recording_id.encode())
        for path in (night.edf, night.stages_xml, night.rpoints_csv, night.bcg):
            if path is None or not path.is_file():
                digest.update(b"absent")
                continue
            size = path.stat().st_size
            with path.open("rb") as file:
                digest.update(str(size).encode() + file.read(_DIGEST_BYTES))
                file.seek(max(0, size - _DIGEST_BYTES))
                digest.update(file.read())
    return digest.hexdigest()


def exclusions(builder: Builder) -> Iterable[dict[str, str]]:
    """The nights that were left out, each with split, recording_id, path, reason and remedy."""
    return (builder.info.metadata or {}).get("exclusions", [])
