"""Trains students on a grid of alpha, temperature and seed, all in one program.

    kd-sleep sweep --data_dir=DIR --teacher=WORKDIR --workdir=DIR --labelled_nights=6 \\
        --alphas=0,0.3,0.6,1 --temperatures=1,2,4,8 --seeds=0,1,2

Leaves sweep.json, a heat map of validation kappa over (alpha, T) with its spread over seeds, and
the student of the best cell in WORKDIR/chosen, for `kd-sleep evaluate`. Every member is the student
that `kd-sleep distill_student` trains with the same flags.
"""

from pathlib import Path

from kd_sleep.commands.flags import Flags, choice, number
from kd_sleep.config import STUDENTS, Preset, student_of

flags = Flags(__doc__)
flags.shared("data_dir", "teacher", "workdir")
for name, kind, text, values in (
    ("alphas", float, "Weights of the hard labels.", (0.0, 0.3, 0.6, 1.0)),
    ("temperatures", float, "Temperatures.", (1.0, 2.0, 4.0, 8.0)),
    ("seeds", int, "Seeds of initial parameters and dropout.", (0, 1, 2)),
):
    flags.define("Grid", name, number(kind, many=True), text, values)
flags.config(
    "student", "distill", "student_train", "execution",
    leave_out=("alpha", "temperature", "seed"),
)  # fmt: skip
flags.define("Model", "student", choice(*STUDENTS), "single_window is the article's.", "context")
flags.platform(hosts=True)


def main(
    preset: Preset, data_dir: list[Path], teacher: list[Path], workdir: Path, student: str,
    **grid: list,
) -> None:  # fmt: skip
    from kd_sleep.evaluation.sweep_page import sweep_table, write_sweep_page
    from kd_sleep.inference.saved import load_network
    from kd_sleep.training.members import CHOSEN, Grid, train_sweep
    from kd_sleep.training.training_set import read_training

    model = student_of(student, preset.student)
    nights, validation = read_training(data_dir, model, preset.execution)
    results = train_sweep(
        nights,
        [load_network(path, "teacher") for path in teacher],
        validation,
        workdir,
        Grid(**grid),
        model,
        preset.distill,
        preset.student_train,
        preset.execution,
    )
    write_sweep_page(workdir / "sweep.html", results)
    print(sweep_table(results))
    print(f"\nChosen student: {workdir / CHOSEN}. Heat map: {workdir / 'sweep.html'}")


if __name__ == "__main__":
    flags.run(main)
