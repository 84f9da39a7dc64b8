"""Trained networks to results: predict nights, score them, draw the report.

The validation nights are predicted, too: temperatures are fitted there, so that the nights that are
scored decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from kd_sleep.config import EvaluationConfig, StudentConfig, to_dict
from kd_sleep.datasets.nights import Nights, read_split
from kd_sleep.errors import DatasetError, TrainingError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.calibration import calibration
from kd_sleep.evaluation.sleep_measures import agreement
from kd_sleep.evaluation.sqi_judged import judge_sqi, thresholds
from kd_sleep.provenance import provenance, write_json
from kd_sleep.training.fit_kept_share import features_of
from kd_sleep.training.run import reads_samples, record_of
from kd_sleep.training.seen_subjects import TRAINED_ON, assert_unseen
from kd_sleep.training.soft_labels import mixed_log_probs, opinions
from kd_sleep.training.trained import Trained, load_trained


def evaluate_folders(
    data_dirs: Sequence[Path],
    teachers: Sequence[Path],
    students: Mapping[str, Path],
    out: Path,
    config: EvaluationConfig,
    split: str = "test",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`evaluate` of work folders on a split of one or several datasets.

    Args:
      data_dirs: folders of datasets.
      teachers: work folders of the trained teacher, or of the several that were mixed.
      students: name -> work folder.
      out: folder of results.json and report.html.
      config, extra: as `evaluate`.
      split: the held-out split; of "validation" itself there is no calibration by temperature.

    Raises:
      TrainingError, DatasetError: as `evaluate`, or a folder without a trained run.
    """
    _assert_names(students)
    for teacher in teachers:
        record_of(teacher, "teacher")  # before any data is read
    runs = {name: record_of(folder, "student")["settings"] for name, folder in students.items()}
    _assert_comparable(runs)
    taught = [load_trained(teacher, "teacher") for teacher in teachers]
    trained = {name: load_trained(folder, "student") for name, folder in students.items()}
    reading = any(_reads_samples(student) for student in trained.values())
    return evaluate(
        _read(data_dirs, split),
        taught,
        trained,
        config,
        train=read_split(data_dirs, "train"),
        validation=read_split(data_dirs, "validation", samples=reading),
        out=out,
        split=split,
        extra=extra,
    )


def evaluate(
    nights: Nights,
    teachers: Sequence[Trained],
    students: Mapping[str, Trained],
    config: EvaluationConfig = EvaluationConfig(),  # noqa: B008 - frozen
    *,
    train: Nights | None = None,
    validation: Nights | None = None,
    out: Path | None = None,
    split: str = "test",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores teacher, students and floors on nights of subjects that none of them know.

    Students are scored on nights with a BCG, teachers on those with an ECG, and together on those
    with both. A student that has a learned SQI gets it judged; of several the distilled one.

    Args:
      nights: to score on.
      teachers: none, one, or the several that were mixed.
      students: by name; `scores.DISTILLED` and `scores.HARD_LABELS` get compared.
      config: bootstrap.
      train: training nights, whose labels make the floors; None leaves these out.
      validation: nights that temperatures are fitted on; None leaves calibration by them out.
      out: folder of results.json and report.html; None writes neither.
      split: what the results call these nights.
      extra: more results for both files, such as a study's.

    Returns:
      What results.json holds: all that `scores.score` returns, "sleep_measures" of
      `sleep_measures.agreement`, "calibration" of `calibration.calibration`, "sqi" of
      `sqi_judged.judge_sqi` where there is one, "data", "provenance", and `extra`.

    Raises:
      TrainingError: neither teacher nor student, a subject that one of them was trained on
        (`seen_subjects.assert_unseen`), a student of another teacher, or a network whose logits are
        not finite.
      DatasetError: no night with what they read, or none of them scored.
    """
    _assert_names(students)
    if not teachers and not students:
        raise TrainingError("There is no teacher and no student to score.", "Name one of them.")
    runs = {name: student.settings for name, student in students.items()}
    _assert_comparable(runs)
    name = "+".join(teacher.name for teacher in teachers)
    for trained in students.values():
        if teachers and trained.settings["teacher"] not in ("", name):
            raise TrainingError(
                f"{trained}: this student learned from another teacher than"
                f" {', '.join(map(str, teachers))}.",
                "Evaluate it with its own, all of them in order, or train it again.",
            )
    splits = {split: nights} | ({} if validation is None else {"validation": validation})
    given = nights.recording_ids
    models = {f"{scores.TEACHER} in {teacher}": teacher.settings for teacher in teachers}
    models |= {f"{student} in {trained}": runs[student] for student, trained in students.items()}
    data = [train.digest(), validation.digest()] if train and validation else []
    assert_unseen(models, splits, data)
    for each, asked in splits.items():
        splits[each] = readable(asked, bool(teachers), bool(students), each)
    nights = splits[split]
    logits: dict[str, dict[str, list[NDArray]]] = {each: {} for each in splits}
    sqis: dict[str, dict[str, NDArray]] = {}  # features of each split
    for each, asked in splits.items():
        if teachers:
            logits[each][scores.TEACHER] = asked.split(mixed_log_probs(opinions(teachers, asked)))
        for student, trained in students.items():
            found = trained.logits(asked)
            logits[each][student] = [log_softmax(n.astype(np.float64), axis=-1) for n in found]
            if trained.sqi:
                calibrated = log_softmax(
                    np.concatenate(logits[each][student]) / trained.sqi.temperature, -1
                )
                sqis.setdefault(student, {})[each] = features_of(asked, calibrated)
    truth = {each: scores.ScoredNights.of(asked) for each, asked in splits.items()}
    if train is not None:
        for each, scored in truth.items():
            for floor, probs in (
                (scores.TIME_OF_NIGHT, scores.time_of_night_probs(train.labels(), scored)),
                (scores.MAJORITY, scores.majority_probs(train.labels(), scored)),
            ):
                logits[each][floor] = [np.log(night) for night in probs]
    systems = {name: [np.exp(n) for n in by_night] for name, by_night in logits[split].items()}

    results = scores.score(truth[split], systems, config)
    results["sleep_measures"] = agreement(truth[split], systems, config)
    held_out = split == "validation" or validation is None
    fitted_on = None if held_out else (truth["validation"], logits["validation"])
    results["calibration"] = calibration(truth[split], logits[split], config, fitted_on)
    sqi, flag_below = None, None
    if sqis:
        judged = scores.DISTILLED if scores.DISTILLED in sqis else next(iter(sqis))
        fitted, features = students[judged].sqi, sqis[judged]
        assert fitted is not None
        flag_below = fitted.flag_below
        sqi = nights.split(fitted(features[split]))
        if teachers and validation is not None:
            temperatures = {judged: fitted.temperature, scores.TEACHER: fitted.teacher_temperature}
            calibrated_of = {
                name: [log_softmax(night / temperature, axis=-1) for night in logits[split][name]]
                for name, temperature in temperatures.items()
            }
            results["sqi"] = judge_sqi(
                nights,
                calibrated_of[judged],
                calibrated_of[scores.TEACHER],
                features[split],
                fitted,
                thresholds(splits["validation"], features["validation"], fitted),
                config,
                judged,
            )
    of_all = [*runs.values(), *(teacher.settings for teacher in teachers)]
    told = [settings.get(TRAINED_ON, {}).get("nights", 0) for settings in of_all]
    training_nights = max(told, default=0) if train is None else len(train)
    results["data"] = {
        "split": split,
        "subjects": len(set(nights.subject_ids)),
        "recordings": len(nights),
        "left_out": sorted({*given} - {*nights.recording_ids}),
        "windows": int((nights.label >= 0).sum()),
        **nights.origin(),
        "seeds": sorted({settings["train"]["seed"] for settings in of_all}),
        "training_nights": training_nights,
        "labelled_nights": min(
            (settings["labelled"] for settings in runs.values()), default=training_nights
        ),
        "validation_nights": 0 if validation is None else len(validation),
    }
    results["provenance"] = {
        "evaluation": to_dict(config),
        "teachers": [teacher.settings for teacher in teachers],
        "students": runs,
        "data_dir": ", ".join(sorted({place.data_dir for place in nights.places if place})),
        **provenance(),
    }
    results |= extra or {}
    if out is not None:
        from kd_sleep.evaluation.report import report_nights, write_report  # matplotlib

        write_json(out / "results.json", results)
        curves = {scores.TEACHER: teachers[0].rows} if teachers else {}
        curves |= {student: trained.rows for student, trained in students.items()}
        drawn = report_nights(results, nights, systems, sqi, flag_below)
        write_report(out / "report.html", results, drawn, curves)
    return results


def _assert_names(students: Mapping[str, Any]) -> None:
    taken = {scores.TEACHER, scores.MAJORITY, scores.TIME_OF_NIGHT} & set(students)
    if taken:
        raise TrainingError(f"--student={taken.pop()}=…: this name is taken; choose another.")


def _reads_samples(student: Trained) -> bool:
    assert isinstance(student.run.model, StudentConfig)
    return reads_samples(student.run.model)


def _read(data_dirs: Sequence[Path], split: str) -> Nights:
    """A split, with the BCG's samples where the dataset has them: the report draws some of them."""
    try:
        return read_split(data_dirs, split, samples=True)
    except DatasetError:
        return read_split(data_dirs, split)


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


def _assert_comparable(runs: Mapping[str, Any]) -> None:
    """The two compared students differ in what tunes the loss alone; the baseline had no teacher.

    Each may have a learning rate of its own: both ought to be tuned.
    """
    if scores.DISTILLED not in runs or scores.HARD_LABELS not in runs:
        return
    distilled, baseline = (
        run | {"train": run["train"] | {"learning_rate": "its own"}}
        for run in (runs[scores.DISTILLED], runs[scores.HARD_LABELS])
    )
    differing = [
        f"{name} ({distilled[name]} and {baseline[name]})"
        for name in ("model", "train", "data", "labelled")
        if distilled[name] != baseline[name]
    ]
    if distilled["distill"]["label_seed"] != baseline["distill"]["label_seed"]:
        differing.append("label_seed")
    if baseline["distill"]["alpha"] != 1.0:
        differing.append(f"alpha={baseline['distill']['alpha']} of the baseline, which must be 1")
    if differing:
        raise TrainingError(
            f"{scores.DISTILLED} and {scores.HARD_LABELS} are not one student with two losses:"
            f" they differ in {', '.join(differing)}.",
            "Train both with the same flags but --alpha, or give them other names.",
        )
