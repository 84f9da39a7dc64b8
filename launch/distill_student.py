"""Trains a student on BCG from the teacher's soft labels and the scored stages of some nights.

    python -m launch.distill_student --data_dir=DIR --teacher=WORKDIR --workdir=DIR \\
        --labelled_nights=6

--data_dir names one dataset or several, separated by commas; each term of the loss uses the nights
that it can. --alpha=1 leaves the teacher out: the hard-label baseline. --start_from=WORKDIR goes on
from another student's, or a teacher's, parameters. --student=single_window is the article's
student, which sees one window at a time. The same command goes on where a stopped run was.
"""

from absl import flags as absl_flags

import kd_sleep
from kd_sleep.config import STUDENTS, student_of
from kd_sleep.training.training_set import read_training
from launch import flags

_DATA_DIRS = flags.define_data_dirs()
_TEACHERS = flags.define_paths(
    "teacher",
    "Work folder of a teacher, trained on any dataset; several, separated by commas, are mixed."
    " With --alpha=1 none is needed.",
    required=False,
)
_WORKDIR = flags.define_path("workdir", "Folder of the run: settings, metrics, checkpoints.")
_START = flags.define_start()
_STUDENT = absl_flags.DEFINE_enum(
    "student", "context", STUDENTS, "single_window is the article's; context sees neighbours, too."
)
flags.define_platform(hosts=True)
flags.define_config("student", "distill", "student_train", "augment", "execution")


def main() -> None:
    preset, workdir = flags.preset(), flags.path(_WORKDIR)
    model = student_of(_STUDENT.value, preset.student)
    nights, validation = read_training(flags.paths(_DATA_DIRS), model, preset.execution)
    student = kd_sleep.fit_student(
        nights,
        teacher=[kd_sleep.load_teacher(folder) for folder in flags.paths(_TEACHERS)],
        validation=validation,
        model=model,
        distill=preset.distill,
        train=preset.student_train,
        augment=preset.augment,
        start=flags.start(_START),
        workdir=workdir,
        execution=preset.execution,
    )
    print("\n".join(filter(None, [student.started(), f"student in {workdir}"])))


if __name__ == "__main__":
    flags.run(main)
