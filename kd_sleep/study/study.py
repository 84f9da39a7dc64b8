"""One command that answers the article on a dataset: who gains how much, where, and what is lost.

Teacher; then students on hard labels and distilled, in both shapes, with ever fewer labelled
nights, each tuned on validation and trained from several seeds; ablations; the learned SQI; the
information ladder from ECG to BCG; and a report. What was finished stays: the same command goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kd_sleep.config import Preset, student_of, to_dict
from kd_sleep.datasets.nights import read_split
from kd_sleep.errors import TrainingError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.evaluate import evaluate_folders, readable
from kd_sleep.study import plan
from kd_sleep.study.ablations import Ablation, ablations
from kd_sleep.study.conclusions import article_table, conclusions
from kd_sleep.study.ladder import climb
from kd_sleep.study.training import Bench, drawn_over_seeds
from kd_sleep.training.fit_student import sqi_target, with_sqi
from kd_sleep.training.fit_teacher import fit_teacher
from kd_sleep.training.loop import KAPPA
from kd_sleep.training.run import claim, reads_samples
from kd_sleep.training.seen_subjects import assert_unseen
from kd_sleep.training.soft_labels import mixed_log_probs, opinions
from kd_sleep.training.trained import Trained, load_trained
from kd_sleep.training.training_set import TrainingSet, labelled_rows, read_training


def run_study(
    data_dirs: Sequence[Path],
    workdir: Path,
    preset: Preset,
    grid: plan.Grid,
    shhs_dir: Path | None = None,
    teachers: Sequence[Path] = (),
) -> dict[str, Any]:
    """Trains and scores everything, and writes `workdir/results.json` and `workdir/report.html`.

    Args:
      data_dirs: folders of datasets.
      workdir: of the study.
      preset: sizes and settings of all parts.
      grid: what validation chooses from.
      shhs_dir: the recordings that the dataset was built from, for the information ladder; None
        leaves it out.
      teachers: trained ones; none trains one.

    Returns:
      What results.json holds: all that `evaluate` returns of the two students looked at most
      closely, "study", and "ladder" where there is one.

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
            validation,
            preset.teacher,
            preset.teacher_train,
            folds=preset.study_soft_labels.folds,
            workdir=teachers[0],
            execution=preset.execution,
        )
    taught = [load_trained(teacher, "teacher") for teacher in teachers]
    data = TrainingSet.of_student(nights, validation, taught)
    models = {f"{scores.TEACHER} in {teacher}": teacher.settings for teacher in taught}
    assert_unseen(models, {"test": test}, data.about["data"])
    bench = Bench(
        workdir / "students",
        data,
        test,
        range(preset.study.study_seeds),
        preset.augment,
        preset.execution,
    )
    settings: dict[str, Any] = {name: to_dict(getattr(preset, name)) for name in _PARTS}
    settings["grid"] = {name: list(values) for name, values in vars(grid).items()}
    settings["data"] = [*data.about["data"], test.digest()]
    settings["taught_by"] = data.about["teacher"]
    settings["folds"] = data.about["folds"]
    claim(workdir, "study", settings)
    every = dataclasses.replace(preset.distill, labelled_nights=0)
    scored = len(labelled_rows(data.nights, every))
    if preset.study.handful > scored:
        raise TrainingError(
            f"--handful={preset.study.handful}: only {scored} training nights are scored.",
            "Take fewer.",
        )
    cells = plan.cells(scored, preset.study)
    found = {}
    for cell in tqdm(cells, desc="Study", unit="student"):
        found[cell] = bench.run(cell, cell.model(preset), grid, preset)
    ablated = _ablated(bench, preset)

    main = {
        cell.loss: workdir / "students" / cell.name / "student"
        for cell in cells
        if plan.is_main(cell, preset.study)
    }
    if target := sqi_target(taught, data.validation):
        with_sqi(load_trained(main[scores.DISTILLED], "student"), *target)
    study = _scored(scores.ScoredNights.of(test), bench, taught, found, ablated, preset)
    extra: dict[str, Any] = {"study": study}
    if preset.study.ladder_seeds and shhs_dir is not None:
        extra["ladder"] = climb(data_dirs, shhs_dir, workdir / "ladder", preset)
    study["conclusions"] = conclusions(study)
    study["article"] = article_table(study, extra.get("ladder"))
    return evaluate_folders(data_dirs, teachers, main, workdir, preset.evaluation, extra=extra)


_PARTS = (
    "teacher", "teacher_train", "student", "student_train", "distill", "augment", "study",
)  # fmt: skip


def _ablated(bench: Bench, preset: Preset) -> list[tuple[Ablation, dict[str, Any]]]:
    """Every ablation of the student in context with a handful of labelled nights, trained."""
    loss = dataclasses.replace(preset.distill, labelled_nights=preset.study.handful)
    model = student_of("context", preset.student)
    found = []
    for number, row in enumerate(tqdm(ablations(loss), desc="Ablations", unit="student")):
        folder = bench.folder.parent / "ablations" / f"{number}"
        objective = None if row.objective is None else (row.name, row.objective)
        found.append(
            (row, bench.seeds_of(folder, model, preset.student_train, row.loss, objective))
        )
    return found


def _scored(
    test: scores.ScoredNights,
    bench: Bench,
    teachers: Sequence[Trained],
    found: dict[plan.Cell, dict[str, Any]],
    ablated: list[tuple[Ablation, dict[str, Any]]],
    preset: Preset,
) -> dict[str, Any]:
    """The study's numbers, all on the same draws of subjects: see `write_report`."""
    config = preset.evaluation
    bootstrap = scores.Bootstrap.of(test, config)
    train = bench.data.nights.labels()

    def of_probs(name: str, probs: Sequence[np.ndarray]) -> scores.Drawn:
        counts = scores.confusions(name, probs, test)
        return drawn_over_seeds(bootstrap, counts[None], name)

    said = bench.test.split(np.exp(mixed_log_probs(opinions(teachers, bench.test))))
    teacher = of_probs(scores.TEACHER, said)
    floors = {
        scores.TIME_OF_NIGHT: of_probs("time", scores.time_of_night_probs(train, test)),
        scores.MAJORITY: of_probs("majority", scores.majority_probs(train, test)),
    }
    # By shape, from many labels to none.
    found = dict(sorted(found.items(), key=lambda item: (item[0].shape, -item[0].labelled_nights)))
    drawn = {
        cell: drawn_over_seeds(bootstrap, np.array(each["counts"]), cell.name)
        for cell, each in found.items()
    }
    rows = [
        {
            "student": cell.shape,
            "labelled": cell.labelled,
            "labelled_nights": cell.labelled_nights,
            "loss": cell.loss,
            **each["chosen"],
            "tried": each["tried"],
            KAPPA: each[KAPPA],
            "scores": scores.named_intervals(bootstrap, drawn[cell]),
            "by_seed": _by_seed(each, bootstrap),
        }
        for cell, each in found.items()
    ]
    gains = [
        {
            "student": cell.shape,
            "labelled": cell.labelled,
            "labelled_nights": cell.labelled_nights,
            **scores.gain(bootstrap, drawn[cell], drawn[baseline], teacher),
        }
        for cell in found
        for baseline in [dataclasses.replace(cell, loss=scores.HARD_LABELS)]
        if cell.loss == scores.DISTILLED and baseline in found
    ]
    return {
        "data": {**bench.test.origin(), "subjects": bootstrap.subjects},
        "seeds": list(bench.seeds),
        "bootstrap": bootstrap.told(config),
        "teacher": scores.named_intervals(bootstrap, teacher),
        "floors": {name: scores.named_intervals(bootstrap, f) for name, f in floors.items()},
        "cells": rows,
        "gains": gains,
        "ablations": _ablation_table(bootstrap, ablated, preset),
    }


def _by_seed(found: dict[str, Any], bootstrap: scores.Bootstrap) -> list[dict[str, Any]]:
    counts_MKK = np.array(found["counts"])[:, bootstrap.scored].sum(1)
    values = [scores.by_name(row) for row in scores.all_metrics(counts_MKK)]
    return [
        seed | {key: scores.number(row[key]) for key in ("accuracy", "kappa")}
        for seed, row in zip(found["by_seed"], values, strict=True)
    ]


def _ablation_table(
    bootstrap: scores.Bootstrap, ablated: list[tuple[Ablation, dict[str, Any]]], preset: Preset
) -> dict[str, Any]:
    drawn: list[scores.Drawn] = [
        drawn_over_seeds(bootstrap, np.array(found["counts"]), f"ablation {row.name}")
        for row, found in ablated
    ]
    rows: list[dict[str, Any]] = []
    for (row, _), (values, draws) in zip(ablated, drawn, strict=True):
        difference = scores.named_intervals(bootstrap, (values - drawn[0][0], draws - drawn[0][1]))
        rows.append(
            {
                "name": row.name,
                "text": row.text,
                "scores": scores.named_intervals(bootstrap, (values, draws)),
                "difference": {key: difference[key] for key in ("accuracy", "kappa")},
                "conclusion": scores.verdict(difference["accuracy"]) if rows else "the reference",
            }
        )
    return {
        "student": "context",
        "labelled": plan.HANDFUL,
        "labelled_nights": preset.study.handful,
        "alpha": preset.distill.alpha,
        "temperature": preset.distill.temperature,
        "rows": rows,
    }
