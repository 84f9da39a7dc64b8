"""Trains students on a grid of alpha, temperature and seed, all in one program.

    python -m launch.sweep --data_dir=DIR --teacher=WORKDIR --workdir=DIR --labelled_nights=6 \\
        --alphas=0,0.3,0.6,1 --temperatures=1,2,4,8 --seeds=0,1,2

Leaves sweep.json, a heat map of validation kappa over (alpha, T) with its spread over seeds, and
the student of the best cell in WORKDIR/chosen, for `launch.evaluate`. Every member is the student
that `launch.distill_student` trains with the same flags.
"""

from absl import flags as absl_flags

from kd_sleep.config import STUDENTS, student_of
from kd_sleep.evaluation.sweep_page import sweep_table, write_sweep_page
from kd_sleep.training.sweep import CHOSEN, Grid, train_sweep
from kd_sleep.training.trained import load_trained
from kd_sleep.training.training_set import read_training
from launch import flags

_DATA_DIRS = flags.define_data_dirs()
_TEACHERS = flags.define_paths(
    "teacher", "Work folder of a trained teacher; several, separated by commas, are mixed."
)
_WORKDIR = flags.define_path("workdir", "Folder of the sweep.")
_STUDENT = absl_flags.DEFINE_enum(
    "student", "context", STUDENTS, "single_window is the article's; context sees neighbours, too."
)
_ALPHAS = flags.define_numbers("alphas", (0.0, 0.3, 0.6, 1.0), "Weights of the hard labels.")
_TEMPERATURES = flags.define_numbers("temperatures", (1.0, 2.0, 4.0, 8.0), "Temperatures.")
_SEEDS = flags.define_numbers("seeds", (0, 1, 2), "Seeds of initial parameters and dropout.")
flags.define_platform(hosts=True)
flags.define_config(
    "student", "distill", "student_train", "augment", "execution",
    leave_out=("alpha", "temperature", "seed"),
)  # fmt: skip


def main() -> None:
    preset, workdir = flags.preset(), flags.path(_WORKDIR)
    model = student_of(_STUDENT.value, preset.student)
    nights, validation = read_training(flags.paths(_DATA_DIRS), model, preset.execution)
    results = train_sweep(
        nights,
        [load_trained(folder, "teacher") for folder in flags.paths(_TEACHERS)],
        validation,
        workdir,
        Grid(flags.numbers(_ALPHAS), flags.numbers(_TEMPERATURES), flags.numbers(_SEEDS, int)),
        model,
        preset.distill,
        preset.student_train,
        preset.augment,
        preset.execution,
    )
    write_sweep_page(workdir / "sweep.html", results)
    print(sweep_table(results))
    print(f"\nChosen student: {workdir / CHOSEN}. Heat map: {workdir / 'sweep.html'}")


if __name__ == "__main__":
    flags.run(main)
