"""Trains the teacher, RR intervals to sleep stage.

    kd-sleep train_teacher --data_dir=DIR --workdir=DIR

--data_dir names one dataset or several; nights without ECG or stages are left out.
With --folds=5 five more teachers, each trained without a fifth of the training subjects, label
those, so that soft labels of training nights are as sure as those of other nights and no surer.
The same command goes on where a stopped run was.
"""

from pathlib import Path

from kd_sleep.commands.flags import Flags
from kd_sleep.config import Preset

flags = Flags(__doc__)
flags.shared("data_dir", "start_from", "workdir")
flags.config("teacher", "teacher_train", "soft_labels", "execution")
flags.platform(hosts=True)


def main(preset: Preset, data_dir: list[Path], start_from: Path | None, workdir: Path) -> None:
    from kd_sleep.inference.saved import load_network
    from kd_sleep.library import fit_teacher
    from kd_sleep.training.training_set import read_training

    nights, validation = read_training(data_dir, preset.teacher)
    teacher = fit_teacher(
        nights,
        validation=validation,
        model=preset.teacher,
        train=preset.teacher_train,
        folds=preset.soft_labels.folds,
        start=load_network(start_from) if start_from else None,
        workdir=workdir,
        execution=preset.execution,
    )
    print("\n".join(filter(None, [teacher.started(), f"teacher in {workdir}"])))


if __name__ == "__main__":
    flags.run(main)
