"""Trains a student on BCG from the teacher's soft labels and the scored stages of some nights.

    kd-sleep distill_student --data_dir=DIR --teacher=WORKDIR --workdir=DIR \\
        --labelled_nights=6

--data_dir names one dataset or several; each term of the loss uses the nights that it can, and the
teacher may be of other ones. --alpha=1 leaves the teacher out: the hard-label baseline.
--start_from fine-tunes another student, or a teacher. --student=single_window is
the article's student, which sees one window at a time. The same command goes on where a stopped
run was.
"""

from pathlib import Path

from kd_sleep.commands.flags import Flags, choice
from kd_sleep.config import STUDENTS, Preset, student_of

flags = Flags(__doc__)
flags.shared("data_dir", "teacher", "start_from", "workdir")
flags.config("student", "distill", "student_train", "execution")
flags.define("Model", "student", choice(*STUDENTS), "single_window is the article's.", "context")
flags.platform(hosts=True)


def main(
    preset: Preset, data_dir: list[Path], teacher: list[Path], start_from: Path | None,
    workdir: Path, student: str,
) -> None:  # fmt: skip
    from kd_sleep.inference.saved import load_network
    from kd_sleep.library import fit_student
    from kd_sleep.training.training_set import read_training

    model = student_of(student, preset.student)
    nights, validation = read_training(data_dir, model, preset.execution)
    fitted = fit_student(
        nights,
        teacher=[load_network(path, "teacher") for path in teacher],
        validation=validation,
        model=model,
        distill=preset.distill,
        train=preset.student_train,
        start=load_network(start_from) if start_from else None,
        workdir=workdir,
        execution=preset.execution,
    )
    print("\n".join(filter(None, [fitted.started(), f"student in {workdir}"])))


if __name__ == "__main__":
    flags.run(main)
