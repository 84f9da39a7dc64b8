"""Reads SHHS, slpdb or a table of nights of one's own into the TFDS dataset `shhs_bcg`.

    python -m launch.build_dataset --shhs_dir=DIR --data_dir=DIR --bcg_source=simulated
    python -m launch.build_dataset --shhs_dir=DIR --data_dir=DIR --bcg_source=paired --bcg_dir=DIR
    python -m launch.build_dataset --shhs_dir=DIR --data_dir=DIR \\
        --recordings=rpoints --bcg_source=none
    python -m launch.build_dataset --nights=table.csv --data_dir=DIR --bcg_source=paired
    python -m launch.build_dataset --slpdb_dir=DIR --data_dir=DIR

--shhs_dir holds `polysomnography/` as NSRR has it: edfs/, annotations-events-nsrr/ and, where there
are any, annotations-rpoints/. --nights is a CSV that says where the files of each night lie
(docs/adding_a_dataset.md); --slpdb_dir holds the records that `launch.fetch_slpdb` fetches. A night
that cannot be used is left out by name, with the reason. A build that was stopped goes on with the
same command. Beside the dataset lie card.html, nights.csv and exclusions.csv.
"""

from pathlib import Path

from absl import flags as absl_flags

from kd_sleep.config import DatasetConfig
from kd_sleep.datasets import shhs_bcg
from kd_sleep.errors import ConfigError
from kd_sleep.recordings import night_table, slpdb
from kd_sleep.recordings.night_files import Listing
from launch import flags

_SHHS_DIR = flags.define_path("shhs_dir", "Folder that holds polysomnography/.", required=False)
_NIGHTS = absl_flags.DEFINE_string(
    "nights", None, "Table of nights (CSV): id, subject, ecg or beats, stages, bcg."
)
_SLPDB_DIR = flags.define_path(
    "slpdb_dir", "Folder of the MIT-BIH Polysomnographic Database.", required=False
)
_DATA_DIR = flags.define_path("data_dir", "Folder of the dataset to build.")
_BCG_DIR = flags.define_path(
    "bcg_dir",
    "Folder of BCG files: <recording id>.edf, .csv, .npy, .npz, .h5; default bcg/ in --shhs_dir.",
    required=False,
)
_SPLITS = absl_flags.DEFINE_string(
    "splits", None, "CSV of subject_id,split in place of the built-in split by subject."
)
_DRY_RUN = absl_flags.DEFINE_bool(
    "dry_run", False, "Only say what would be read, how long it takes and what room it needs."
)
flags.define_config("dataset", "build")


def main() -> None:
    preset = flags.preset()
    config = preset.dataset
    source = _source(config)
    if _BCG_DIR.value and config.bcg_source != "paired":
        raise ConfigError(
            f"--bcg_dir={_BCG_DIR.value}: --bcg_source={config.bcg_source} reads no BCG files.",
            "Add --bcg_source=paired, or leave --bcg_dir out.",
        )
    if _BCG_DIR.value and not _SHHS_DIR.value:
        raise ConfigError(
            f"--bcg_dir={_BCG_DIR.value}: it goes with --shhs_dir alone.",
            "Name BCG files in column bcg of the table, and leave --bcg_dir out.",
        )
    bcg_dir = flags.path(_BCG_DIR) if _BCG_DIR.value else None
    data_dir, splits = flags.path(_DATA_DIR), _SPLITS.value
    if _DRY_RUN.value:
        print(shhs_bcg.dry_run(source, data_dir, config, preset.build, bcg_dir, splits))
        return
    builder = shhs_bcg.build(source, data_dir, config, preset.build, bcg_dir, splits)
    for night in shhs_bcg.exclusions(builder)[:20]:
        print(f"left out {night['recording_id']}: {night['path']} {night['reason']}")
    left_out = len(shhs_bcg.exclusions(builder))
    if left_out:
        print(f"{left_out} left out in all; what to do: {builder.data_dir}/exclusions.csv")
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    print(f"{builder.data_dir}: nights {counts}; see card.html there")


def _source(config: DatasetConfig) -> Path | Listing:
    named = [flag.name for flag in (_SHHS_DIR, _NIGHTS, _SLPDB_DIR) if flag.value]
    if len(named) != 1:
        raise ConfigError(
            f"{' and '.join(f'--{name}' for name in named) or 'no source'} given.",
            "Name one source: --shhs_dir, --nights or --slpdb_dir.",
        )
    if _NIGHTS.value:
        return night_table.find_nights(Path(_NIGHTS.value).expanduser(), config)
    return flags.path(_SHHS_DIR) if _SHHS_DIR.value else slpdb.find_nights(flags.path(_SLPDB_DIR))


if __name__ == "__main__":
    flags.run(main)
