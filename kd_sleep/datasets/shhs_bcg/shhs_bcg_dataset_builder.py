"""TFDS builder of `shhs_bcg`: SHHS nights with ECG-derived RR features and 30-s BCG windows.

    import tensorflow_datasets as tfds
    import kd_sleep.datasets.shhs_bcg  # registers the builder
    nights = tfds.data_source("shhs_bcg/simulated", data_dir=DATA_DIR, split="train")

Needs no TensorFlow. One record is one night (`kd_sleep.schema.NIGHT_FIELDS`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from kd_sleep import schema
from kd_sleep.config import DatasetConfig, to_dict
from kd_sleep.datasets.shhs_bcg.planned import Plan, plan
from kd_sleep.datasets.splits import SPLITS
from kd_sleep.errors import DatasetError
from kd_sleep.features.night import Exclusion, process_night
from kd_sleep.parallel import map_nights
from kd_sleep.provenance import provenance
from kd_sleep.recordings.night_files import NightFiles


@dataclasses.dataclass(kw_only=True)
class BcgSourceConfig(tfds.core.BuilderConfig):
    """Where BCG comes from; its name is `DatasetConfig.bcg_source`."""


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builds and reads `shhs_bcg`. The manual folder holds `polysomnography/`."""

    VERSION = tfds.core.Version(schema.SCHEMA_VERSION)
    RELEASE_NOTES = {  # noqa: RUF012 - TFDS reads it so
        "1.3.0": "Beats, breath and movement of the BCG as series; samples may be left out.",
        "1.2.0": "ECG quality, the BCG's clock and RJ delay, the simulator; BCG may be none.",
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
        BcgSourceConfig(name="none", description="No BCG: what a teacher needs, and no more."),
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
    Without access: `kd-sleep simulate_cohort --out=DIR` writes the same layout.
    """

    def __init__(
        self,
        *,
        settings: DatasetConfig | None = None,
        workers: int = 0,
        bcg_dir: str | Path | None = None,
        **kwargs: Any,
    ):
        """As TFDS's builders, and, for `download_and_prepare`:

        Args:
          settings: of the build; its `bcg_source` is the builder's config.
          workers: processes that read nights; 0 takes all cores.
          bcg_dir: folder of paired BCG files; None is `bcg/` in the manual folder.
        """
        self._settings, self._workers = settings or DatasetConfig(), workers
        self._bcg_dir = bcg_dir
        kwargs.setdefault("file_format", "array_record")  # the one that needs no TensorFlow
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        def feature(field: schema.Field):
            if field.dtype is str:
                return tfds.features.Text(doc=field.text)
            shape = tuple(None if size in ("N", "M") else size for size in field.shape)
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

    def describe(self, todo: Plan, settings: DatasetConfig) -> Any:
        """The dataset's metadata, filled with what it is made of."""
        metadata: Any = self.info.metadata
        metadata["files"], metadata["subjects"] = todo.digest(), todo.subjects
        metadata["made_by"] = {**to_dict(settings), **provenance()}
        return metadata

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        """The plain way of TFDS, for `tfds build`; `build` goes on where it was stopped."""
        settings = dataclasses.replace(self._settings, bcg_source=self.builder_config.name)
        try:
            shhs_dir = dl_manager.manual_dir
        except AssertionError:  # a page of instructions
            raise DatasetError(
                f"{self.data_dir}: no dataset.",
                "Build one with `kd-sleep build_dataset`, or name --manual_dir of `tfds build`.",
            ) from None
        todo = plan(shhs_dir, settings, self._bcg_dir)
        self.describe(todo, settings)
        return {
            split: self._generate_examples(
                [night.files for night in todo.nights if night.split == split], split, settings
            )
            for split in SPLITS
        }

    def _generate_examples(
        self, nights: list[NightFiles], split: str, settings: DatasetConfig
    ) -> Iterator[tuple[str, dict]]:
        work = functools.partial(process_night, config=settings)
        metadata: Any = self.info.metadata
        for result in map_nights(work, nights, self._workers, f"Building {split}"):
            if isinstance(result, Exclusion):
                metadata["exclusions"].append({"split": split, **dataclasses.asdict(result)})
            else:
                yield result["recording_id"], dict(result)
