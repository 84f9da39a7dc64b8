"""Gives a trained student its learned SQI: how far each window's BCG can be relied on.

    python -m launch.train_sqi --data_dir=DIR --teacher=WORKDIR --student=WORKDIR

Trains a student like it on each of three folds of the training nights, measures what they lose
against the teacher on the nights that they have not seen, and teaches the given student to foretell
it. The SQI stays in the student's folder, where staging, export and evaluation find it. The same
command goes on where a stopped run was.
"""

from absl import flags as absl_flags

from kd_sleep.training.quality import FOLDS, train_sqi
from launch import flags

_DATA_DIR = flags.define_path("data_dir", "Folder of the dataset.")
_TEACHERS = flags.define_paths(
    "teacher", "Work folder of the student's teacher; of several, separated by commas, if mixed."
)
_STUDENT = flags.define_path("student", "Work folder of the trained student.")
_FOLDS = absl_flags.DEFINE_integer("folds", FOLDS, "Folds of the training nights.", lower_bound=2)
flags.define_platform()
flags.define_config("execution")


def main() -> None:
    student = flags.path(_STUDENT)
    about = train_sqi(
        flags.path(_DATA_DIR),
        flags.paths(_TEACHERS),
        student,
        flags.preset().execution,
        _FOLDS.value,
    )
    print(
        f"SQI in {student}: on validation the student keeps {about['kept_share']:.2f} of the"
        f" teacher; windows below {about['flag_below']:.2f} are flagged."
    )


if __name__ == "__main__":
    flags.run(main)
