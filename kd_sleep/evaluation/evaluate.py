"""Trained runs to results: predict the test nights, score them, draw the report.

The validation nights are predicted, too: temperatures are fitted there, so that the nights that are
scored decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from kd_sleep.config import EvaluationConfig, StudentConfig, from_dict, to_dict
from kd_sleep.datasets.nights import Nights, read_split
from kd_sleep.errors import DatasetError, TrainingError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.calibration import calibration
from kd_sleep.evaluation.report import report_nights, write_report
from kd_sleep.evaluation.sleep_measures import agreement
from kd_sleep.evaluation.sqi_judged import judge_sqi, thresholds
from kd_sleep.models.kept_share import KeptShare
from kd_sleep.provenance import provenance, write_json
from kd_sleep.training.distill import (
    TEACHER_COLUMNS,
    load_student,
    load_teacher,
    reads_samples,
    student_columns,
)
from kd_sleep.training.fit_kept_share import features_of, load_kept_share, outputs
from kd_sleep.training.loop import predict, settings_of
from kd_sleep.training.metrics_log import read_metrics
from kd_sleep.training.seen_subjects import assert_unseen
from kd_sleep.training.soft_labels import fingerprint


def evaluate(
    data_dir: Path,
    teachers: Sequence[Path],
    students: Mapping[str, Path],
    out: Path,
    config: EvaluationConfig,
    split: str = "test",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores teacher, students and floors on a split; writes results.json and report.html.

    A student that has a learned SQI gets it judged; of several the distilled one.

    Args:
      data_dir: folder of the dataset.
      teachers: work folders of the trained teacher, or of the several that were mixed.
      students: name -> work folder; `scores.DISTILLED` and `scores.HARD_LABELS` get compared.
      out: folder of the two files.
      config: bootstrap.
      split: the held-out split; of "validation" itself there is no calibration by temperature.
      extra: more results for both files, such as a study's.

    Returns:
      What results.json holds: all that `scores.score` returns, "sleep_measures" of
      `sleep_measures.agreement`, "calibration" of `calibration.calibration`, "sqi" of
      `sqi_judged.judge_sqi` where there is one, "data", "provenance", and `extra`.

    Raises:
      TrainingError: a model that was trained on subjects that it is to be scored on
        (`seen_subjects.assert_unseen`), a student of another teacher, a folder without a trained
        run, or a network whose logits are not finite.
      DatasetError: no dataset, or none of its nights scored.
    """
    taken = {scores.TEACHER, scores.MAJORITY, scores.TIME_OF_NIGHT} & set(students)
    if taken:
        raise TrainingError(f"--student={taken.pop()}=…: this name is taken; choose another.")
    taught = [settings_of(teacher, "teacher") for teacher in teachers]
    runs = {name: settings_of(workdir, "student") for name, workdir in students.items()}
    _assert_comparable(runs)  # before any work is done
    nights, train = _read(data_dir, split), read_split(data_dir, "train", bcg=False)
    reading = any(reads_samples(from_dict(StudentConfig, run["model"])) for run in runs.values())
    validation = read_split(data_dir, "validation", samples=reading)
    splits = {split: nights, "validation": validation}
    models = {
        f"{scores.TEACHER} in {path}": run for path, run in zip(teachers, taught, strict=True)
    }
    models |= {f"{student} in {students[student]}": run for student, run in runs.items()}
    assert_unseen(models, splits, [train.digest(), validation.digest()])
    name = "+".join(load_teacher(teacher, nights)[2] for teacher in teachers)
    logits: dict[str, dict[str, list[NDArray]]] = {
        each: {scores.TEACHER: teacher_log_probs(teachers, asked)} for each, asked in splits.items()
    }
    sqis: dict[str, tuple[KeptShare, dict[str, NDArray]]] = {}  # and the features of each split
    for student, workdir in students.items():
        network, weights, _ = load_student(workdir, nights)
        if runs[student]["teacher"] != name:
            raise TrainingError(
                f"{workdir}: this student learned from another teacher than"
                f" {', '.join(map(str, teachers))}.",
                "Evaluate it with its own, all of them in order, or train it again.",
            )
        columns = student_columns(from_dict(StudentConfig, runs[student]["model"]))
        for each, asked in splits.items():
            logits[each][student] = _log_probs(workdir, network, weights, asked, columns)
        if fitted := load_kept_share(workdir, fingerprint(weights)):
            features = {}
            for each, asked in splits.items():
                _, scale_W = outputs(network, weights, columns, asked)
                calibrated = log_softmax(
                    np.concatenate(logits[each][student]) / fitted.temperature, -1
                )
                features[each] = features_of(asked, calibrated, scale_W)
            sqis[student] = fitted, features
    truth = {each: scores.ScoredNights.of(asked) for each, asked in splits.items()}
    for each, scored in truth.items():
        for floor, probs in (
            (scores.TIME_OF_NIGHT, scores.time_of_night_probs(train.labels(), scored)),
            (scores.MAJORITY, scores.majority_probs(train.labels(), scored)),
        ):
            logits[each][floor] = [np.log(night) for night in probs]
    systems = {name: [np.exp(n) for n in by_night] for name, by_night in logits[split].items()}

    results = scores.score(truth[split], systems, config)
    results["sleep_measures"] = agreement(truth[split], systems, config)
    fitted_on = None if split == "validation" else (truth["validation"], logits["validation"])
    results["calibration"] = calibration(truth[split], logits[split], config, fitted_on)
    sqi, flag_below = None, None
    if sqis:
        judged = scores.DISTILLED if scores.DISTILLED in sqis else next(iter(sqis))
        fitted, features = sqis[judged]
        flag_below = fitted.flag_below
        sqi = nights.split(fitted(features[split]))
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
            thresholds(validation, features["validation"], fitted),
            config,
            judged,
        )
    results["data"] = {
        "split": split,
        "subjects": len(set(nights.subject_ids)),
        "recordings": len(nights),
        "windows": int((nights.label >= 0).sum()),
        **nights.origin(),
        "seeds": sorted({settings["train"]["seed"] for settings in [*runs.values(), *taught]}),
        "training_nights": len(train),
        "labelled_nights": min(
            (settings["labelled"] for settings in runs.values()), default=len(train)
        ),
        "validation_nights": len(validation),
    }
    results["provenance"] = {
        "evaluation": to_dict(config),
        "teachers": taught,
        "students": runs,
        "data_dir": str(data_dir),
        **provenance(),
    }
    results |= extra or {}
    write_json(out / "results.json", results)
    folders = {scores.TEACHER: teachers[0], **students}
    curves = {system: read_metrics(folder) for system, folder in folders.items()}
    drawn = report_nights(results, nights, systems, sqi, flag_below)
    write_report(out / "report.html", results, drawn, curves)
    return results


def _read(data_dir: Path, split: str) -> Nights:
    """A split, with the BCG's samples where the dataset has them: the report draws some of them."""
    try:
        return read_split(data_dir, split, samples=True)
    except DatasetError:
        return read_split(data_dir, split)


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


def teacher_log_probs(teachers: Sequence[Path], nights: Nights) -> list[NDArray[np.float64]]:
    """What the teacher says of each night, [N, K]; of several, the log of their mean."""
    said = []
    for teacher in teachers:
        module, params, _ = load_teacher(teacher, nights)
        said.append(_log_probs(teacher, module, params, nights, TEACHER_COLUMNS))
    return [logsumexp(night, axis=0) - np.log(len(night)) for night in zip(*said, strict=True)]


def _log_probs(
    workdir: Path, module: nn.Module, params: Any, nights: Nights, columns: tuple[str, ...]
) -> list[NDArray[np.float64]]:
    """What a network says of each night, [N, K].

    Raises:
      TrainingError: logits that are not finite; it names the run and the night.
    """
    logits = predict(module, params, nights, columns)
    for recording, night in zip(nights.recording_ids, logits, strict=True):
        if broken := np.count_nonzero(~np.isfinite(night)):
            raise TrainingError(
                f"{workdir}: {broken} of this network's logits for {recording} are not finite.",
                "Train it again, with a smaller --learning_rate if its loss grew.",
            )
    return [log_softmax(night.astype(np.float64), axis=-1) for night in logits]
