"""Writes a simulated cohort in SHHS's own layout and file formats, with a BCG for each night.

    python -m launch.simulate_cohort --out=DIR --subjects=60
    python -m launch.simulate_cohort --validate --out=DIR

With --validate no cohort is written: nights are simulated, measured, and held against published
figures, in DIR/validation.html, .csv and .json; two pictures lie beside them.
"""

from absl import flags as absl_flags

from kd_sleep.simulation.cohort import write_cohort
from kd_sleep.simulation.validation_report import text_table, validate
from launch import flags

_OUT = flags.define_path("out", "Folder of the cohort, or of the validation.")
_VALIDATE = absl_flags.DEFINE_bool(
    "validate", False, "Hold simulated nights against the literature instead of writing a cohort."
)
_NIGHTS = absl_flags.DEFINE_integer("nights", 200, "Nights of --validate.", lower_bound=10)
flags.define_config(
    "cohort", "build", leave_out=("max_excluded_fraction", "engine", "beam_options")
)


def main() -> None:
    preset, out = flags.preset(), flags.path(_OUT)
    workers, seed = preset.build.workers, preset.cohort.cohort_seed
    if _VALIDATE.value:
        print(text_table(validate(out, _NIGHTS.value, workers, seed)))
        return
    ids = write_cohort(out, preset.cohort, workers)
    print(f"{len(ids)} simulated nights in {out}")


if __name__ == "__main__":
    flags.run(main)
