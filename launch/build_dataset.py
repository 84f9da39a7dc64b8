"""Reads SHHS, or a cohort in its layout, into the TFDS dataset `shhs_bcg`.

    python -m launch.build_dataset --shhs_dir=DIR --data_dir=DIR --bcg_source=simulated
    python -m launch.build_dataset --shhs_dir=DIR --data_dir=DIR --bcg_source=paired --bcg_dir=DIR

--shhs_dir holds `polysomnography/` as NSRR has it: edfs/, annotations-events-nsrr/ and, where there
are any, annotations-rpoints/. A night that cannot be used is left out by name, with the reason.
"""

from kd_sleep.datasets import shhs_bcg
from kd_sleep.errors import ConfigError
from launch import flags

_SHHS_DIR = flags.define_path("shhs_dir", "Folder that holds polysomnography/.")
_DATA_DIR = flags.define_path("data_dir", "Folder of the dataset to build.")
_BCG_DIR = flags.define_path(
    "bcg_dir", "Folder of <recording id>.edf; default bcg/ in --shhs_dir.", required=False
)
flags.define_config("dataset")


def main() -> None:
    config = flags.preset().dataset
    if _BCG_DIR.value and config.bcg_source != "paired":
        raise ConfigError(
            f"--bcg_dir={_BCG_DIR.value}: --bcg_source={config.bcg_source} reads no BCG files.",
            "Add --bcg_source=paired, or leave --bcg_dir out.",
        )
    builder = shhs_bcg.build(
        flags.path(_SHHS_DIR),
        flags.path(_DATA_DIR),
        config,
        flags.path(_BCG_DIR) if _BCG_DIR.value else None,
    )
    for night in shhs_bcg.exclusions(builder):
        print(
            f"left out {night['recording_id']}: {night['path']} {night['reason']} {night['remedy']}"
        )
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    print(f"{builder.data_dir}: nights {counts}")


if __name__ == "__main__":
    flags.run(main)
