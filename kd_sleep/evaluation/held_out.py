"""Trained networks to results: predict held-out nights, score them, write the report.

The validation nights are predicted, too: temperatures are fitted there, so that the nights that are
scored decide nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from kd_sleep.config import EvaluationConfig, to_dict
from kd_sleep.datasets.nights import Nights, read_split
from kd_sleep.errors import DatasetError, TrainingError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.bootstrap import ScoredNights
from kd_sleep.evaluation.calibration import calibration
from kd_sleep.evaluation.plain_json import to_json
from kd_sleep.evaluation.results import Data, LadderResult, Results, Sqi, Study
from kd_sleep.evaluation.sleep_measures import agreement
from kd_sleep.evaluation.sqi_judged import judge_sqi
from kd_sleep.provenance import provenance, write_json
from kd_sleep.training.fit_kept_share import features_of
from kd_sleep.training.run import reads_samples, record_of
from kd_sleep.training.seen_subjects import TRAINED_ON, assert_unseen
from kd_sleep.training.soft_labels import mixed_log_probs, soft_labels
from kd_sleep.training.trained import Trained, load_trained

Logits = dict[str, list[NDArray]]  # by system, [N, K] of each night


def evaluate_folders(
    data_dirs: Sequence[Path],
    teachers: Sequence[Path | Trained],
    students: Mapping[str, Path | Trained | Sequence[Path | Trained]],
    out: Path,
    config: EvaluationConfig,
    split: str = "test",
    **more: Any,
) -> Results:
    """`evaluate` on a split of one or several datasets.

    Args:
      data_dirs: folders of datasets.
      teachers: the trained teacher, or the several that were mixed; or their work folders.
      students: name -> student or its work folder, or those of several runs.
      out: folder of results.json and report.html.
      config: as `evaluate`.
      split: the held-out split; of "validation" itself there is no calibration by temperature.
      more: `runs`, `study` and `ladder`, as `evaluate` takes them.

    Raises:
      TrainingError, DatasetError: as `evaluate`, or a folder without a trained run.
    """
    _assert_names(students)
    for teacher in teachers:
        _settings(teacher, "teacher")  # before any data is read
    runs = {
        name: [each] if isinstance(each, Path | Trained) else each
        for name, each in students.items()
    }
    _assert_comparable(
        {name: [_settings(run, "student") for run in each] for name, each in runs.items()}
    )
    taught = [_loaded(teacher, "teacher") for teacher in teachers]
    trained = {name: [_loaded(run, "student") for run in each] for name, each in runs.items()}
    reading = any(reads_samples(run.run.model) for each in trained.values() for run in each)
    return evaluate(
        read_split(data_dirs, split, samples=reading),
        taught,
        trained,
        config,
        train=read_split(data_dirs, "train"),
        validation=read_split(data_dirs, "validation", samples=reading),
        out=out,
        split=split,
        **more,
    )


def evaluate(
    nights: Nights,
    teachers: Sequence[Trained],
    students: Mapping[str, Trained | Sequence[Trained]],
    config: EvaluationConfig = EvaluationConfig(),  # noqa: B008 - frozen
    *,
    train: Nights | None = None,
    validation: Nights | None = None,
    out: Path | None = None,
    split: str = "test",
    runs: Mapping[str, scores.Runs] | None = None,
    study: Study | None = None,
    ladder: LadderResult | None = None,
) -> Results:
    """Scores teacher, students and floors on nights of subjects that none of them know.

    Students are scored on nights with a BCG, teachers on those with an ECG, and together on those
    with both. Of a student of several runs, scores are means over the runs, with intervals over
    seeds and draws of the labelled nights; all else is of the first run. A student that has a
    learned SQI gets it judged; of several the distilled one.

    Args:
      nights: to score on.
      teachers: none, one, or the several that were mixed.
      students: by name, a run or several; `scores.DISTILLED` and `scores.HARD_LABELS` get compared.
      config: bootstrap.
      train: training nights, whose labels make the floors; None leaves these out.
      validation: nights that temperatures are fitted on; None leaves calibration by them out.
      out: folder of results.json and report.html; None writes neither.
      split: name of these nights in the results.
      runs: of students, where their counts are known already.
      study, ladder: more results for both files.

    Raises:
      TrainingError: neither teacher nor student, a subject that one of them was trained on
        (`seen_subjects.assert_unseen`), a student of another teacher, runs of one name that differ
        in more than their seeds, or a network whose logits are not finite.
      DatasetError: no night with what they read, or none of them scored.
    """
    _assert_names(students)
    if not teachers and not students:
        raise TrainingError("There is no teacher and no student to score.", "Name one of them.")
    several = {
        name: [each] if isinstance(each, Trained) else list(each) for name, each in students.items()
    }
    settings = {name: [run.settings for run in each] for name, each in several.items()}
    _assert_comparable(settings)
    _assert_taught_by(teachers, several)
    splits = {split: nights} | ({} if validation is None else {"validation": validation})
    models = {f"{scores.TEACHER} in {teacher}": teacher.settings for teacher in teachers}
    models |= {f"{name} in {run}": run.settings for name, each in several.items() for run in each}
    assert_unseen(models, splits)
    splits = {
        name: readable(asked, bool(teachers), bool(students), name)
        for name, asked in splits.items()
    }
    given, nights = nights.recording_ids, splits[split]
    first = {name: each[0] for name, each in several.items()}
    truth = {name: ScoredNights.of(asked) for name, asked in splits.items()}
    logits = {name: _logits(asked, teachers, first) for name, asked in splits.items()}
    if train is not None:
        for name, scored in truth.items():
            labels = train.labels()
            time = scores.time_of_night_probs(labels, scored)
            majority = scores.majority_probs(labels, scored)
            logits[name][scores.TIME_OF_NIGHT] = [np.log(night) for night in time]
            logits[name][scores.MAJORITY] = [np.log(night) for night in majority]
    probs = {name: [np.exp(night) for night in each] for name, each in logits[split].items()}

    found = {
        name: _runs(each, probs[name], nights, truth[split]) for name, each in several.items()
    } | dict(runs or {})
    held_out = split != "validation" and validation is not None
    fitted_on = (truth["validation"], logits["validation"]) if held_out else None
    sqi_of_night, sqi = _judged_sqi(nights, first, logits[split], config, held_out)
    models_settings = [each for name in settings for each in settings[name]]
    results = dataclasses.replace(
        scores.score(truth[split], probs, config, found),
        sleep_measures=agreement(truth[split], probs, config),
        calibration=calibration(truth[split], logits[split], config, fitted_on),
        sqi=sqi,
        study=study,
        ladder=ladder,
        data=_data(nights, given, split, [*models.values()], models_settings, train, validation),
        provenance={
            "evaluation": to_dict(config),
            "teachers": [teacher.settings for teacher in teachers],
            "students": settings,
            "data_dir": ", ".join(sorted({place.data_dir for place in nights.places if place})),
            **provenance(),
        },
    )
    if out is not None:
        from kd_sleep.evaluation.report import report_nights, write_report  # matplotlib

        write_json(out / "results.json", to_json(results))
        curves = {scores.TEACHER: teachers[0].rows} if teachers else {}
        curves |= {name: run.rows for name, run in first.items()}
        drawn = report_nights(results, nights, probs, sqi_of_night, _flag(first))
        write_report(out / "report.html", results, drawn, curves)
    return results


def _logits(nights: Nights, teachers: Sequence[Trained], students: Mapping[str, Trained]) -> Logits:
    """Log-probabilities by system."""
    found: Logits = {}
    if teachers:
        found[scores.TEACHER] = nights.split(mixed_log_probs(soft_labels(teachers, nights)))
    for name, student in students.items():
        logits = student.logits(nights)
        found[name] = [log_softmax(night.astype(np.float64), axis=-1) for night in logits]
    return found


def _runs(
    students: Sequence[Trained], probs: list[NDArray], nights: Nights, truth: ScoredNights
) -> scores.Runs:
    """Counts of all runs of one kind; `probs` are those of the first."""
    pairs = [
        (run.settings["distill"]["label_seed"], run.settings["train"]["seed"]) for run in students
    ]
    counts = [scores.confusions(str(students[0]), probs, truth)]
    for run in students[1:]:
        of_run = [softmax(night.astype(np.float64), axis=-1) for night in run.logits(nights)]
        counts.append(scores.confusions(str(run), of_run, truth))
    draws, seeds = (sorted(set(values)) for values in zip(*pairs, strict=True))
    if sorted(pairs) == [(draw, seed) for draw in draws for seed in seeds]:
        order = [pairs.index((draw, seed)) for draw in draws for seed in seeds]
        shape = (len(draws), len(seeds))
    elif len(draws) == len(pairs):  # each run has labelled nights of its own
        order, shape = [*range(len(pairs))], (len(pairs), 1)
    else:
        raise TrainingError(
            f"{students[0]}: its runs have the label seeds and seeds {sorted(pairs)}.",
            "Give every label seed with every seed, or each label seed once.",
        )
    arranged = np.stack([counts[place] for place in order])
    return scores.Runs.of(
        arranged.reshape(*shape, *counts[0].shape), [pairs[place] for place in order]
    )


def _judged_sqi(
    nights: Nights,
    students: Mapping[str, Trained],
    logits: Logits,
    config: EvaluationConfig,
    held_out: bool,
) -> tuple[list[NDArray] | None, Sqi | None]:
    """The SQI of each night, and how good it is; of the distilled student, or the first with one.

    Without a teacher, or on the nights that it was fitted on, it is not judged.
    """
    names = [name for name, student in students.items() if student.sqi is not None]
    if not names:
        return None, None
    name = scores.DISTILLED if scores.DISTILLED in names else names[0]
    fitted = students[name].sqi
    assert fitted is not None
    temperatures = {name: fitted.temperature, scores.TEACHER: fitted.teacher_temperature}
    calibrated = {
        system: [log_softmax(night / temperature, axis=-1) for night in logits[system]]
        for system, temperature in temperatures.items()
        if system in logits
    }
    features_WF = features_of(nights, np.concatenate(calibrated[name]))
    of_night = nights.split(fitted(features_WF))
    if not held_out or scores.TEACHER not in calibrated:
        return of_night, None
    ours, teachers = calibrated[name], calibrated[scores.TEACHER]
    return of_night, judge_sqi(nights, ours, teachers, features_WF, fitted, config, name)


def _flag(students: Mapping[str, Trained]) -> float | None:
    """Below which the learned SQI flags a window; of the student that `_judged_sqi` takes."""
    found = {name: each.sqi.flag_below for name, each in students.items() if each.sqi is not None}
    return found.get(scores.DISTILLED, next(iter(found.values()), None))


def _data(
    nights: Nights,
    given: Sequence[str],
    split: str,
    models: Sequence[Mapping[str, Any]],
    students: Sequence[Mapping[str, Any]],
    train: Nights | None,
    validation: Nights | None,
) -> Data:
    recorded = [model.get(TRAINED_ON, {}).get("nights", 0) for model in models]
    training_nights = max(recorded, default=0) if train is None else len(train)
    return Data(
        split=split,
        subjects=len(set(nights.subject_ids)),
        recordings=len(nights),
        windows=int((nights.label >= 0).sum()),
        **nights.origin(),
        left_out=sorted({*given} - {*nights.recording_ids}),
        seeds=sorted({model["train"]["seed"] for model in models}),
        training_nights=training_nights,
        labelled_nights=min((run["labelled"] for run in students), default=training_nights),
        validation_nights=0 if validation is None else len(validation),
    )


def _loaded(network: Path | Trained, kind: str) -> Trained:
    return network if isinstance(network, Trained) else load_trained(network, kind)


def _settings(network: Path | Trained, kind: str) -> Mapping[str, Any]:
    if isinstance(network, Trained):
        return network.settings
    return record_of(network, kind)["settings"]


def readable(nights: Nights, ecg: bool, bcg: bool, name: str) -> Nights:
    """The nights that have all that is read of them."""
    usable = np.ones(len(nights), bool)
    if ecg:
        usable &= nights.has_ecg
    if bcg:
        usable &= nights.has_bcg
    if not usable.any():
        needed = " and ".join(["an ECG"] * ecg + ["a BCG"] * bcg)
        raise DatasetError(f"{name}: none of its nights has {needed}.")
    return nights.where(usable)


def _assert_names(students: Mapping[str, Any]) -> None:
    taken = {scores.TEACHER, scores.MAJORITY, scores.TIME_OF_NIGHT} & set(students)
    if taken:
        raise TrainingError(f"--student={taken.pop()}=…: this name is taken; choose another.")


def _assert_taught_by(
    teachers: Sequence[Trained], students: Mapping[str, Sequence[Trained]]
) -> None:
    name = "+".join(teacher.name for teacher in teachers)
    for run in (run for each in students.values() for run in each):
        if teachers and run.settings["teacher"] not in ("", name):
            raise TrainingError(
                f"{run}: this student learned from another teacher than"
                f" {', '.join(map(str, teachers))}.",
                "Evaluate it with its own, all of them in order, or train it again.",
            )


def _assert_comparable(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Runs of one name differ in their seeds alone; the compared two in what tunes the loss, too.

    Each of the two may have a learning rate of its own: both ought to be tuned.
    """

    def without_seeds(run: Mapping[str, Any]) -> dict[str, Any]:
        """What all runs of one name share."""
        shared = {name: run.get(name) for name in ("model", "data", "labelled", "teacher")}
        shared["train"] = {**run["train"], "seed": "any"}
        return shared | {"distill": {**run["distill"], "label_seed": "any"}}

    for name, several in runs.items():
        others = [without_seeds(run) for run in several]
        for other in others[1:]:
            if differing := sorted(key for key in other if other[key] != others[0][key]):
                raise TrainingError(
                    f"{name}: its runs differ in {', '.join(differing)}, not in their seeds alone.",
                    "Give runs of other settings other names.",
                )
    if not {scores.DISTILLED, scores.HARD_LABELS} <= set(runs):
        return
    ours, theirs = (runs[name] for name in (scores.DISTILLED, scores.HARD_LABELS))
    distilled, baseline = (
        {name: each[0][name] for name in ("model", "data", "labelled")}
        | {"train": {**each[0]["train"], "learning_rate": "its own", "seed": "any"}}
        | {"seeds": sorted(run["train"]["seed"] for run in each)}
        | {"label_seeds": sorted(run["distill"]["label_seed"] for run in each)}
        for each in (ours, theirs)
    )
    differing = [
        f"{name} ({distilled[name]} and {baseline[name]})"
        for name in distilled
        if distilled[name] != baseline[name]
    ]
    alpha = theirs[0]["distill"]["alpha"]
    if alpha != 1.0:
        differing.append(f"alpha={alpha} of the baseline, which must be 1")
    if differing:
        raise TrainingError(
            f"{scores.DISTILLED} and {scores.HARD_LABELS} are not one student with two losses:"
            f" they differ in {', '.join(differing)}.",
            "Train both with the same flags but --alpha, or give them other names.",
        )
