"""A whole study: teacher, students tuned alike on ever fewer labels, ablations, ladder, report.

What was finished stays: the same command goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kd_sleep.config import Preset, student_of, to_dict
from kd_sleep.datasets.nights import read_split
from kd_sleep.errors import TrainingError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.bootstrap import Bootstrap, ScoredNights
from kd_sleep.evaluation.held_out import evaluate_folders, readable
from kd_sleep.evaluation.results import (
    AblationRow,
    Ablations,
    Results,
    Study,
    StudyCell,
    StudyGain,
)
from kd_sleep.study import cells
from kd_sleep.study.ablations import Ablation, ablations
from kd_sleep.study.conclusions import article_table, conclusions
from kd_sleep.study.ladder import climb
from kd_sleep.study.students import Bench, Found
from kd_sleep.training.fit import fit_teacher, sqi_target, with_sqi
from kd_sleep.training.run import reads_samples, write_settings
from kd_sleep.training.seen_subjects import assert_unseen
from kd_sleep.training.soft_labels import mixed_log_probs, soft_labels
from kd_sleep.training.trained import Trained, load_trained
from kd_sleep.training.training_set import TrainingSet, labelled_rows, read_training

_PARTS = (
    "teacher", "teacher_train", "student", "student_train", "distill", "study",
)  # fmt: skip


def run_study(
    data_dirs: Sequence[Path],
    workdir: Path,
    preset: Preset,
    grid: cells.Grid,
    shhs_dir: Path | None = None,
    teachers: Sequence[Path] = (),
) -> Results:
    """Trains and scores everything, and writes `workdir/results.json` and `workdir/report.html`.

    Args:
      data_dirs: folders of datasets.
      workdir: of the study.
      preset: sizes and settings of all parts.
      grid: amounts of labels, and what validation chooses from.
      shhs_dir: the recordings that the dataset was built from, for the information ladder; None
        leaves it out.
      teachers: trained ones; none trains one.

    Returns:
      Results of the two students looked at most closely, with `study`, and `ladder` where there is
      one.

    Raises:
      TrainingError: a teacher that was trained on the test subjects, other settings in `workdir`,
        or fewer scored nights than `handful`.
      DatasetError: no dataset there, or none of its test nights scored.
    """
    nights, validation = read_training(data_dirs, preset.student, preset.execution)
    test = read_split(data_dirs, "test", samples=reads_samples(preset.student))
    test = readable(test, ecg=True, bcg=True, name="test")
    if not teachers:
        teachers = [workdir / "teacher"]
        fit_teacher(
            nights,
            validation=validation,
            model=preset.teacher,
            train=preset.teacher_train,
            folds=preset.study_soft_labels.folds,
            workdir=teachers[0],
            execution=preset.execution,
        )
    taught = [load_trained(teacher, "teacher") for teacher in teachers]
    data = TrainingSet.of_student(nights, validation, taught)
    models = {f"{scores.TEACHER} in {teacher}": teacher.settings for teacher in taught}
    assert_unseen(models, {"test": test})
    settings: dict[str, Any] = {name: to_dict(getattr(preset, name)) for name in _PARTS}
    settings["grid"] = {name: list(values) for name, values in vars(grid).items()}
    settings["data"] = [*data.about["data"], test.digest()]
    settings["taught_by"] = data.about["teacher"]
    settings["folds"] = data.about["folds"]
    write_settings(workdir, "study", settings)
    scored = len(labelled_rows(data.nights, dataclasses.replace(preset.distill, labelled_nights=0)))
    if preset.study.handful > scored:
        raise TrainingError(
            f"--handful={preset.study.handful}: only {scored} training nights are scored.",
            "Take fewer.",
        )
    seeds = range(preset.study.study_seeds)
    folder = workdir / "students"
    bench = Bench(folder, data, test, seeds, preset.execution)
    planned = cells.cells(scored, preset.study, grid.labelled)
    found = {
        cell: bench.tuned(cell, grid, preset)
        for cell in tqdm(planned, desc="Study", unit="student")
    }
    ablated = _ablated(bench, preset, workdir / "ablations")

    main = {cell.loss: cell for cell in planned if cells.is_main(cell, preset.study)}
    folders = {loss: folder / cell.folder / "student" for loss, cell in main.items()}
    if target := sqi_target(taught, data.validation):
        with_sqi(load_trained(folders[scores.DISTILLED], "student"), *target)
    study = _scored(bench, taught, found, ablated, preset)
    ladder = None
    if preset.study.ladder_seeds and shhs_dir is not None:
        ladder = climb(data_dirs, shhs_dir, workdir / "ladder", preset)
    study = dataclasses.replace(
        study, conclusions=conclusions(study), article=article_table(study, ladder)
    )
    return evaluate_folders(
        data_dirs,
        teachers,
        folders,
        workdir,
        preset.evaluation,
        runs={loss: found[cell].runs for loss, cell in main.items()},
        study=study,
        ladder=ladder,
    )


def _ablated(bench: Bench, preset: Preset, folder: Path) -> list[tuple[Ablation, Found]]:
    """Every ablation of the student in context with a handful of labelled nights, trained."""
    loss = dataclasses.replace(preset.distill, labelled_nights=preset.study.handful)
    model, train = student_of("context", preset.student), preset.student_train
    found = []
    for number, row in enumerate(tqdm(ablations(loss), desc="Ablations", unit="student")):
        objective = None if row.objective is None else (row.name, row.objective)
        found.append((row, bench.trained(folder / str(number), model, train, row.loss, objective)))
    return found


def _scored(
    bench: Bench,
    teachers: Sequence[Trained],
    found: Mapping[cells.Cell, Found],
    ablated: Sequence[tuple[Ablation, Found]],
    preset: Preset,
) -> Study:
    """The study's numbers, all on the same draws of subjects and runs."""
    test = ScoredNights.of(bench.test)
    bootstrap = Bootstrap.of(test, preset.evaluation)
    train = bench.data.nights.labels()

    def of_probs(name: str, probs: Sequence[NDArray]) -> scores.Drawn:
        return scores.Runs(scores.confusions(name, probs, test)[None, None], []).drawn(bootstrap)

    of_teacher = bench.test.split(np.exp(mixed_log_probs(soft_labels(teachers, bench.test))))
    teacher = of_probs(scores.TEACHER, of_teacher)
    floors = {
        scores.TIME_OF_NIGHT: scores.time_of_night_probs(train, test),
        scores.MAJORITY: scores.majority_probs(train, test),
    }
    # By shape, from many labels to none.
    found = dict(sorted(found.items(), key=lambda item: (item[0].shape, -item[0].labelled_nights)))
    drawn = {cell: each.runs.drawn(bootstrap) for cell, each in found.items()}
    rows = [
        StudyCell(
            cell.shape,
            cell.labelled,
            cell.labelled_nights,
            cell.loss,
            each.alpha,
            each.temperature,
            each.learning_rate,
            each.label_smoothing,
            each.tried,
            each.validation_kappa,
            scores.scores_of(bootstrap, drawn[cell]),
            each.runs.scores,
        )
        for cell, each in found.items()
    ]
    gains = []
    for cell in found:
        baseline = dataclasses.replace(cell, loss=scores.HARD_LABELS)
        if cell.loss == scores.DISTILLED and baseline in found:
            gain = scores.gain(bootstrap, drawn[cell], drawn[baseline], teacher)
            gains.append(
                StudyGain(
                    **vars(gain),
                    student=cell.shape,
                    labelled=cell.labelled,
                    labelled_nights=cell.labelled_nights,
                )
            )
    return Study(
        simulated=bench.test.origin()["simulated"],
        subjects=bootstrap.subjects,
        seeds=list(bench.seeds),
        label_seeds=sorted({run.label_seed for row in rows for run in row.runs}),
        teacher=scores.scores_of(bootstrap, teacher),
        floors={
            name: scores.scores_of(bootstrap, of_probs(name, probs))
            for name, probs in floors.items()
        },
        cells=rows,
        gains=gains,
        ablations=_ablation_table(bootstrap, ablated, preset),
    )


def _ablation_table(
    bootstrap: Bootstrap, ablated: Sequence[tuple[Ablation, Found]], preset: Preset
) -> Ablations:
    drawn = [found.runs.drawn(bootstrap) for _, found in ablated]
    rows: list[AblationRow] = []
    for (row, _), of_row in zip(ablated, drawn, strict=True):
        difference = scores.difference_of(bootstrap, of_row, drawn[0])
        rows.append(
            AblationRow(
                row.name,
                row.text,
                scores.scores_of(bootstrap, of_row),
                difference.accuracy,
                difference.kappa,
                scores.verdict(difference.accuracy) if rows else "the reference",
            )
        )
    loss, nights = preset.distill, preset.study.handful
    return Ablations("context", cells.HANDFUL, nights, loss.alpha, loss.temperature, rows)
