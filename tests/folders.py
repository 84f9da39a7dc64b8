"""Teachers and students trained from a dataset's folder, as the launchers do it."""

from kd_sleep.datasets.nights import read_split
from kd_sleep.training import members
from kd_sleep.training.fit import fit_student, fit_teacher
from kd_sleep.training.run import reads_samples
from kd_sleep.training.trained import load_trained


def read(data_dir, model=None, execution=None):
    """Training and validation nights: `training_set.read_training`, with a reader to replace."""
    samples = model is not None and reads_samples(model)
    on_disk = execution is not None and execution.dataset_in == "disk"
    return (
        read_split(data_dir, "train", samples=samples and not on_disk),
        read_split(data_dir, "validation", samples=samples),
    )


def train_teacher(data_dir, workdir, model, train, folds=0):
    nights, validation = read(data_dir)
    how = {"model": model, "train": train, "folds": folds, "workdir": workdir}
    return fit_teacher(nights, validation=validation, **how)


def train_student(data_dir, teachers, workdir, model, loss, train, execution=None):
    nights, validation = read(data_dir, model, execution)
    return fit_student(
        nights,
        teacher=[load_trained(teacher, "teacher") for teacher in teachers],
        validation=validation,
        model=model,
        distill=loss,
        train=train,
        workdir=workdir,
        execution=execution,
    )


def train_sweep(data_dir, teachers, workdir, *settings):
    taught = [load_trained(teacher, "teacher") for teacher in teachers]
    nights, validation = read(data_dir)
    return members.train_sweep(nights, taught, validation, workdir, *settings)


def params_of(workdir, kind="student"):
    return load_trained(workdir, kind).params
