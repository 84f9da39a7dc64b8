"""The whole mission on a simulated cohort, in minutes on two cores.

    kd-sleep quickstart --workdir=DIR

Simulates nights as SHHS files with a BCG beside each, builds the dataset, trains a teacher on the
ECG's RR intervals, then the same student twice on BCG: on the few scored nights alone, and
distilled from the teacher on all nights. Ends with the table and a report on held-out subjects.
Each step is a command of its own, too. The same command goes on where a stopped one was.
"""

import dataclasses
from pathlib import Path

from kd_sleep.commands.flags import FOLDER, Flags
from kd_sleep.config import Preset

flags = Flags(__doc__)
flags.define("Output", "workdir", FOLDER, "Folder for everything that is made.")
flags.config("cohort", "soft_labels", "distill", "evaluation")
flags.platform()


def main(preset: Preset, workdir: Path) -> None:
    from kd_sleep.datasets import shhs_bcg
    from kd_sleep.evaluation.held_out import evaluate_folders
    from kd_sleep.evaluation.report import table
    from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS
    from kd_sleep.library import fit_student, fit_teacher
    from kd_sleep.simulation.cohort import write_cohort
    from kd_sleep.training.training_set import read_training

    cohort, data_dir, teacher = workdir / "cohort", workdir / "data", workdir / "teacher"
    write_cohort(cohort, preset.cohort, preset.build.workers)
    source = dataclasses.replace(preset.dataset, bcg_source="paired")
    shhs_bcg.build(cohort, data_dir, source, preset.build, cohort / "bcg")
    nights, validation = read_training([data_dir], preset.student)
    taught = fit_teacher(
        nights,
        validation=validation,
        model=preset.teacher,
        train=preset.teacher_train,
        folds=preset.soft_labels.folds,
        workdir=teacher,
    )
    students = {HARD_LABELS: 1.0, DISTILLED: preset.distill.alpha}
    for name, alpha in students.items():
        fit_student(
            nights,
            teacher=taught,
            validation=validation,
            model=preset.student,
            distill=dataclasses.replace(preset.distill, alpha=alpha),
            train=preset.student_train,
            workdir=workdir / name,
        )
    out = workdir / "report"
    folders = {name: workdir / name for name in students}
    results = evaluate_folders([data_dir], [teacher], folders, out, preset.evaluation)
    print(table(results))
    print(f"\nReport: {out / 'report.html'}")


if __name__ == "__main__":
    flags.run(main)
