"""Fetches the MIT-BIH Polysomnographic Database (ODC-BY 1.0) from PhysioNet.

    kd-sleep fetch_slpdb --out=DIR

18 records of 16 people, 600 MB. Given again after a break, the command goes on where it was. Cite
Ichimaru & Moody 1999 and Goldberger et al. 2000.
"""

from pathlib import Path

from kd_sleep.commands.flags import FOLDER, Flags

flags = Flags(__doc__)
flags.define("Output", "out", FOLDER, "Folder for the files.")


def main(out: Path) -> None:
    from kd_sleep.recordings import slpdb

    slpdb.fetch(out)
    print(f"{out}: kd-sleep build_dataset --slpdb_dir={out} --data_dir=DIR")


if __name__ == "__main__":
    flags.run(main)
