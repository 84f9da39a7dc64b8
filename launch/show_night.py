"""Draws nights as their files have them: stages, heart rate, quality, and the BCG's clock.

    python -m launch.show_night --shhs_dir=DIR --recording=shhs1-200001 --out=DIR
    python -m launch.show_night --shhs_dir=DIR --bcg_source=paired --recording=all --out=DIR

Reads what a build would read, and leaves one page for each night, <recording id>.html.
"""

from absl import flags as absl_flags

from kd_sleep.evaluation.night_page import write_night_pages
from launch import flags

_SHHS_DIR = flags.define_path("shhs_dir", "Folder that holds polysomnography/.")
_BCG_DIR = flags.define_path(
    "bcg_dir", "Folder of BCG files, as for build_dataset; default bcg/ there.", required=False
)
_RECORDINGS = absl_flags.DEFINE_list(
    "recording", None, "Ids of nights, separated by commas; or all.", required=True
)
_OUT = flags.define_path("out", "Folder for the pages.")
flags.define_config("dataset")


def main() -> None:
    shhs_dir = flags.path(_SHHS_DIR)
    bcg_dir = flags.path(_BCG_DIR) if _BCG_DIR.value else shhs_dir / "bcg"
    wanted, out = _RECORDINGS.value or [], flags.path(_OUT)
    for line in write_night_pages(out, shhs_dir, bcg_dir, wanted, flags.preset().dataset):
        print(line)


if __name__ == "__main__":
    flags.run(main)
