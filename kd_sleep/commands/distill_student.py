"""Trains a student on BCG from the teacher's soft labels and the scored stages of some nights.

    kd-sleep distill_student --data_dir=DIR --teacher=WORKDIR --workdir=DIR \\
        --labelled_nights=6

--alpha=1 leaves the teacher out: the hard-label baseline. --student=single_window is the article's
student, which sees one window at a time. The same command goes on where a stopped run was.
"""

from pathlib import Path

from kd_sleep.commands.flags import FOLDER, FOLDERS, Flags, choice
from kd_sleep.config import STUDENTS, Preset, student_of

flags = Flags(__doc__)
flags.define("Input", "data_dir", FOLDER, "Folder of the dataset.")
flags.define("Input", "teacher", FOLDERS, "Work folder of a trained teacher; several are mixed.")
flags.define("Output", "workdir", FOLDER, "Folder of the run: settings, metrics, checkpoints.")
flags.config("student", "distill", "student_train", "augment", "execution")
flags.define("Model", "student", choice(*STUDENTS), "single_window is the article's.", "context")
flags.platform(hosts=True)


def main(preset: Preset, data_dir: Path, teacher: list[Path], workdir: Path, student: str) -> None:
    from kd_sleep.training.distill import train_student

    train_student(
        data_dir,
        teacher,
        workdir,
        student_of(student, preset.student),
        preset.distill,
        preset.student_train,
        preset.augment,
        preset.execution,
    )
    print(f"student in {workdir}")


if __name__ == "__main__":
    flags.run(main)
