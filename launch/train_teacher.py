"""Trains the teacher, RR intervals to sleep stage, and writes its soft labels for every night.

    python -m launch.train_teacher --data_dir=DIR --workdir=DIR

With --folds=5 five more teachers, each trained without a fifth of the training subjects, label
those, so that soft labels of training nights are as sure as those of other nights and no surer.
The same command goes on where a stopped run was.
"""

from kd_sleep.training.distill import train_teacher
from launch import flags

_DATA_DIR = flags.define_path("data_dir", "Folder of the dataset.")
_WORKDIR = flags.define_path("workdir", "Folder of the run: settings, metrics, checkpoints.")
flags.define_platform(hosts=True)
flags.define_config("teacher", "teacher_train", "soft_labels", "execution")


def main() -> None:
    preset = flags.preset()
    train_teacher(
        flags.path(_DATA_DIR),
        flags.path(_WORKDIR),
        preset.teacher,
        preset.teacher_train,
        preset.execution,
        preset.soft_labels,
    )
    print(f"teacher in {flags.path(_WORKDIR)}")


if __name__ == "__main__":
    flags.run(main)
