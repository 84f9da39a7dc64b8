"""Trains the teacher, RR intervals to sleep stage, and writes its soft labels for every night.

    kd-sleep train_teacher --data_dir=DIR --workdir=DIR

With --folds=5 five more teachers, each trained without a fifth of the training subjects, label
those, so that soft labels of training nights are as sure as those of other nights and no surer.
The same command goes on where a stopped run was.
"""

from pathlib import Path

from kd_sleep.commands.flags import FOLDER, Flags
from kd_sleep.config import Preset

flags = Flags(__doc__)
flags.define("Input", "data_dir", FOLDER, "Folder of the dataset.")
flags.define("Output", "workdir", FOLDER, "Folder of the run: settings, metrics, checkpoints.")
flags.config("teacher", "teacher_train", "soft_labels", "execution")
flags.platform(hosts=True)


def main(preset: Preset, data_dir: Path, workdir: Path) -> None:
    from kd_sleep.training.distill import train_teacher

    train_teacher(
        data_dir,
        workdir,
        preset.teacher,
        preset.teacher_train,
        preset.execution,
        preset.soft_labels,
    )
    print(f"teacher in {workdir}")


if __name__ == "__main__":
    flags.run(main)
