"""Draws nights as their files have them: stages, heart rate, quality, and the BCG's clock.

    kd-sleep show_night --shhs_dir=DIR --recording=shhs1-200001 --out=DIR
    kd-sleep show_night --shhs_dir=DIR --bcg_source=paired --recording=all --out=DIR

Reads what a build would read, and leaves one page for each night, <recording id>.html.
"""

from pathlib import Path

from kd_sleep.commands.flags import FOLDER, TEXTS, Flags
from kd_sleep.config import Preset

flags = Flags(__doc__)
flags.define("Input", "shhs_dir", FOLDER, "Folder that holds polysomnography/.")
flags.define("Input", "bcg_dir", FOLDER, "Folder of BCG files.", None, shown="bcg/ in --shhs_dir")
flags.define("Input", "recording", TEXTS, "Ids of nights; or all.")
flags.define("Output", "out", FOLDER, "Folder for the pages.")
flags.config("dataset")


def main(
    preset: Preset, shhs_dir: Path, bcg_dir: Path | None, recording: list[str], out: Path
) -> None:
    from kd_sleep.evaluation.night_page import write_night_pages

    bcg_dir = bcg_dir or shhs_dir / "bcg"
    for line in write_night_pages(out, shhs_dir, bcg_dir, recording, preset.dataset):
        print(line)


if __name__ == "__main__":
    flags.run(main)
