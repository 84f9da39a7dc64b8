"""Writes a simulated cohort in SHHS's own layout and file formats, with a BCG for each night.

    kd-sleep simulate_cohort --out=DIR --subjects=60
    kd-sleep simulate_cohort --validate --out=DIR

With --validate no cohort is written: nights are simulated, measured, and held against published
figures, in DIR/validation.html, .csv and .json; two pictures lie beside them.
"""

from pathlib import Path

from kd_sleep.commands.flags import FOLDER, SWITCH, Flags, number
from kd_sleep.config import Preset

flags = Flags(__doc__)
flags.define("Output", "out", FOLDER, "Folder of the cohort, or of the validation.")
flags.define(
    "Output", "validate", SWITCH,
    "Hold simulated nights against the literature instead of writing a cohort.", False,
)  # fmt: skip
flags.define("Output", "nights", number(int, low=10), "Nights of --validate.", 200)
flags.config("cohort", "build", leave_out=("max_excluded_fraction",))


def main(preset: Preset, out: Path, validate: bool, nights: int) -> None:
    from kd_sleep.simulation import validation_report
    from kd_sleep.simulation.cohort import write_cohort

    workers = preset.build.workers
    if validate:
        found = validation_report.validate(out, nights, workers, preset.cohort.cohort_seed)
        print(validation_report.text_table(found))
        return
    print(f"{len(write_cohort(out, preset.cohort, workers))} simulated nights in {out}")


if __name__ == "__main__":
    flags.run(main)
