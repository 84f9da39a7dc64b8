"""Trains a student on BCG from the teacher's soft labels and the scored stages of some nights.

    python -m launch.distill_student --data_dir=DIR --teacher=WORKDIR --workdir=DIR \\
        --labelled_nights=6

--alpha=1 leaves the teacher out: the hard-label baseline. --student=single_window is the article's
student, which sees one window at a time. The same command goes on where a stopped run was.
"""

from absl import flags as absl_flags

from kd_sleep.config import STUDENTS, student_of
from kd_sleep.training.distill import train_student
from launch import flags

_DATA_DIR = flags.define_path("data_dir", "Folder of the dataset.")
_TEACHERS = flags.define_paths(
    "teacher", "Work folder of a trained teacher; several, separated by commas, are mixed."
)
_WORKDIR = flags.define_path("workdir", "Folder of the run: settings, metrics, checkpoints.")
_STUDENT = absl_flags.DEFINE_enum(
    "student", "context", STUDENTS, "single_window is the article's; context sees neighbours, too."
)
flags.define_platform(hosts=True)
flags.define_config("student", "distill", "student_train", "augment", "execution")


def main() -> None:
    preset = flags.preset()
    train_student(
        flags.path(_DATA_DIR),
        flags.paths(_TEACHERS),
        flags.path(_WORKDIR),
        student_of(_STUDENT.value, preset.student),
        preset.distill,
        preset.student_train,
        preset.augment,
        preset.execution,
    )
    print(f"student in {flags.path(_WORKDIR)}")


if __name__ == "__main__":
    flags.run(main)
