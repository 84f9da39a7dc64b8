"""Writes a simulated cohort in SHHS's own layout and file formats, with a BCG for each night.

python -m launch.simulate_cohort --out=DIR --subjects=60
"""

from kd_sleep.simulation.cohort import write_cohort
from launch import flags

_OUT = flags.define_path("out", "Folder of the cohort.")
flags.define_config(
    "cohort", "build", leave_out=("max_excluded_fraction", "engine", "beam_options")
)


def main() -> None:
    preset = flags.preset()
    ids = write_cohort(flags.path(_OUT), preset.cohort, preset.build.workers)
    print(f"{len(ids)} simulated nights in {flags.path(_OUT)}")


if __name__ == "__main__":
    flags.run(main)
