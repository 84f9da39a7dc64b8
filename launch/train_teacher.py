"""Trains the teacher, RR intervals to sleep stage.

    python -m launch.train_teacher --data_dir=DIR --workdir=DIR

--data_dir names one dataset or several; nights without ECG or stages are left out.

With --folds=5 five more teachers, each trained without a fifth of the training subjects, label
those, so that soft labels of training nights are as sure as those of other nights and no surer.
The same command goes on where a stopped run was.
"""

import kd_sleep
from kd_sleep.training.training_set import read_training
from launch import flags

_DATA_DIRS = flags.define_data_dirs()
_WORKDIR = flags.define_path("workdir", "Folder of the run: settings, metrics, checkpoints.")
_START = flags.define_start()
flags.define_platform(hosts=True)
flags.define_config("teacher", "teacher_train", "soft_labels", "execution")


def main() -> None:
    preset, workdir = flags.preset(), flags.path(_WORKDIR)
    nights, validation = read_training(flags.paths(_DATA_DIRS), preset.teacher)
    teacher = kd_sleep.fit_teacher(
        nights,
        validation=validation,
        model=preset.teacher,
        train=preset.teacher_train,
        folds=preset.soft_labels.folds,
        start=flags.start(_START),
        workdir=workdir,
        execution=preset.execution,
    )
    print("\n".join(filter(None, [teacher.started(), f"teacher in {workdir}"])))


if __name__ == "__main__":
    flags.run(main)
