"""Fetches the MIT-BIH Polysomnographic Database (ODC-BY 1.0) from PhysioNet.

    python -m launch.fetch_slpdb --out=DIR

18 records of 16 people, 600 MB. Given again after a break, the command goes on where it was. Cite
Ichimaru & Moody 1999 and Goldberger et al. 2000.
"""

from kd_sleep.recordings import slpdb
from launch import flags

_OUT = flags.define_path("out", "Folder for the files.")


def main() -> None:
    out = flags.path(_OUT)
    slpdb.fetch(out)
    print(f"{out}: python -m launch.build_dataset --slpdb_dir={out} --data_dir=DIR")


if __name__ == "__main__":
    flags.run(main)
