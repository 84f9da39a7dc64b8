"""Reads SHHS, slpdb or a table of nights of one's own into the TFDS dataset `shhs_bcg`.

    kd-sleep build_dataset --shhs_dir=DIR --data_dir=DIR --bcg_source=simulated
    kd-sleep build_dataset --shhs_dir=DIR --data_dir=DIR --bcg_source=paired --bcg_dir=DIR
    kd-sleep build_dataset --shhs_dir=DIR --data_dir=DIR \\
        --recordings=rpoints --bcg_source=none
    kd-sleep build_dataset --nights=table.csv --data_dir=DIR --bcg_source=paired
    kd-sleep build_dataset --slpdb_dir=DIR --data_dir=DIR

--shhs_dir holds `polysomnography/` as NSRR has it: edfs/, annotations-events-nsrr/ and, where there
are any, annotations-rpoints/. --nights is a CSV that says where the files of each night lie
(docs/adding_a_dataset.md); --slpdb_dir holds what `kd-sleep fetch_slpdb` fetches. A night that
cannot be used is left out by name, with the reason. A build that was stopped goes on with the same
command. Beside the dataset lie card.html, nights.csv and exclusions.csv.
"""

from pathlib import Path

from kd_sleep.commands.flags import FILE, FOLDER, SWITCH, Flags
from kd_sleep.config import Preset
from kd_sleep.errors import ConfigError

flags = Flags(__doc__)
flags.define("Input", "shhs_dir", FOLDER, "Folder that holds polysomnography/.", None)
flags.define(
    "Input", "nights", FILE, "Table of nights: id, subject, ecg or beats, stages, bcg.", None
)
flags.define("Input", "slpdb_dir", FOLDER, "Folder of the MIT-BIH Polysomnographic Database.", None)
flags.define(
    "Input", "bcg_dir", FOLDER, "Folder of BCG files: <recording id>.edf, .csv, .npy, .npz, .h5.",
    None, shown="bcg/ in --shhs_dir",
)  # fmt: skip
flags.define(
    "Input", "splits", FILE, "CSV of subject_id,split.", None, shown="a split by subject id"
)
flags.define("Output", "data_dir", FOLDER, "Folder of the dataset to build.")
flags.define(
    "Output", "dry_run", SWITCH,
    "Only say what would be read, how long it takes and what room it needs.", False,
)  # fmt: skip
flags.config("dataset", "build")


def main(
    preset: Preset, shhs_dir: Path | None, nights: Path | None, slpdb_dir: Path | None,
    bcg_dir: Path | None, splits: Path | None, data_dir: Path, dry_run: bool,
) -> None:  # fmt: skip
    from kd_sleep.datasets import shhs_bcg
    from kd_sleep.recordings import night_table, slpdb
    from kd_sleep.recordings.night_files import Listing

    config = preset.dataset
    if bcg_dir and config.bcg_source != "paired":
        raise ConfigError(
            f"--bcg_dir={bcg_dir}: --bcg_source={config.bcg_source} reads no BCG files.",
            "Add --bcg_source=paired, or leave --bcg_dir out.",
        )
    if bcg_dir and not shhs_dir:
        raise ConfigError(
            f"--bcg_dir={bcg_dir}: it goes with --shhs_dir alone.",
            "Name BCG files in column bcg of the table, and leave --bcg_dir out.",
        )
    sources = {"shhs_dir": shhs_dir, "nights": nights, "slpdb_dir": slpdb_dir}
    named = [f"--{name}" for name, place in sources.items() if place]
    if len(named) != 1:
        raise ConfigError(
            f"{' and '.join(named) or 'no source'} given.",
            "Name one source: --shhs_dir, --nights or --slpdb_dir.",
        )
    source: Path | Listing | None = shhs_dir
    if nights:
        source = night_table.find_nights(nights, config)
    elif slpdb_dir:
        source = slpdb.find_nights(slpdb_dir)
    assert source is not None
    inputs = (source, data_dir, config, preset.build, bcg_dir, splits)
    if dry_run:
        print(shhs_bcg.dry_run(*inputs))
        return
    builder = shhs_bcg.build(*inputs)
    left_out = shhs_bcg.exclusions(builder)
    for night in left_out[:20]:
        print(f"left out {night['recording_id']}: {night['path']} {night['reason']}")
    if left_out:
        print(f"{len(left_out)} left out in all; what to do: {builder.data_dir}/exclusions.csv")
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    print(f"{builder.data_dir}: nights {counts}; see card.html there")


if __name__ == "__main__":
    flags.run(main)
