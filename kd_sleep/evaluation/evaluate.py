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

from kd_sleep.config import EvaluationConfig, to_dict
from kd_sleep.datasets.nights import Nights, read_split
from kd_sleep.errors import TrainingError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.calibration import calibration
from kd_sleep.evaluation.report import ReportNight, write_report
from kd_sleep.evaluation.sleep_measures import agreement
from kd_sleep.provenance import provenance, write_json
from kd_sleep.training.distill import (
    STUDENT_COLUMNS,
    TEACHER_COLUMNS,
    load_student,
    load_teacher,
)
from kd_sleep.training.loop import predict, settings_of
from kd_sleep.training.metrics_log import read_metrics


def evaluate(
    data_dir: Path,
    teachers: Sequence[Path],
    students: Mapping[str, Path],
    out: Path,
    config: EvaluationConfig,
    split: str = "test",
) -> dict[str, Any]:
    """Scores teacher, students and floors on a split; writes results.json and report.html.

    Args:
      data_dir: folder of the dataset.
      teachers: work folders of the trained teacher, or of the several that were mixed.
      students: name -> work folder; `scores.DISTILLED` and `scores.HARD_LABELS` get compared.
      out: folder of the two files.
      config: bootstrap.
      split: the held-out split; of "validation" itself there is no calibration by temperature.

    Returns:
      What results.json holds: all that `scores.score` returns, "sleep_measures" of
      `sleep_measures.agreement`, "calibration" of `calibration.calibration`, "data" and
      "provenance".

    Raises:
      TrainingError: a student of another teacher, a folder without a trained run, or a network
        whose logits are not finite.
      DatasetError: no dataset, or none of its nights scored.
    """
    taken = {scores.TEACHER, scores.MAJORITY, scores.TIME_OF_NIGHT} & set(students)
    if taken:
        raise TrainingError(f"--student={taken.pop()}=…: this name is taken; choose another.")
    taught = [settings_of(teacher, "teacher") for teacher in teachers]
    runs = {name: settings_of(workdir, "student") for name, workdir in students.items()}
    _assert_comparable(runs)  # before any work is done
    nights, train = read_split(data_dir, split), read_split(data_dir, "train", bcg=False)
    validation = read_split(data_dir, "validation")
    splits = {split: nights, "validation": validation}
    names: list[str] = []
    said: dict[str, list[list[NDArray]]] = {each: [] for each in splits}
    for teacher in teachers:
        module, params, name = load_teacher(teacher, nights)
        names.append(name)
        for each, asked in splits.items():
            said[each].append(_log_probs(teacher, module, params, asked, TEACHER_COLUMNS))
    # Several teachers are one: the mean of what they say, as the students heard them.
    logits: dict[str, dict[str, list[NDArray]]] = {
        each: {
            scores.TEACHER: [
                logsumexp(night, axis=0) - np.log(len(night))
                for night in zip(*said[each], strict=True)
            ]
        }
        for each in splits
    }
    for student, workdir in students.items():
        network, weights, _ = load_student(workdir, nights)
        if runs[student]["teacher"] != "+".join(names):
            raise TrainingError(
                f"{workdir}: this student learned from another teacher than"
                f" {', '.join(map(str, teachers))}.",
                "Evaluate it with its own, all of them in order, or train it again.",
            )
        for each, asked in splits.items():
            logits[each][student] = _log_probs(workdir, network, weights, asked, STUDENT_COLUMNS)
    truth = {each: _scored(asked) for each, asked in splits.items()}
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
    write_json(out / "results.json", results)
    folders = {scores.TEACHER: teachers[0], **students}
    curves = {system: read_metrics(folder) for system, folder in folders.items()}
    write_report(out / "report.html", results, _median_night(results, nights, systems), curves)
    return results


def _assert_comparable(runs: Mapping[str, Any]) -> None:
    """The two compared students differ in the loss alone; the baseline had no teacher."""
    if scores.DISTILLED not in runs or scores.HARD_LABELS not in runs:
        return
    distilled, baseline = runs[scores.DISTILLED], runs[scores.HARD_LABELS]
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


def _scored(nights: Nights) -> scores.ScoredNights:
    return scores.ScoredNights(nights.recording_ids, nights.subject_ids, nights.labels())


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


def _median_night(
    results: Mapping[str, Any], nights: Nights, systems: Mapping[str, list[NDArray]]
) -> ReportNight:
    """The night of median accuracy: neither the best that we have nor the worst."""
    shown = scores.DISTILLED if scores.DISTILLED in systems else scores.TEACHER
    row = nights.recording_ids.index(scores.median_recording(results, shown))
    first = nights.first[row]
    night = slice(first, first + nights.windows[row])
    return ReportNight(
        recording_id=nights.recording_ids[row],
        labels=nights.label[night],
        probs={name: probs[row] for name, probs in systems.items()},
        bcg_snr_db=nights.bcg_snr_db[night],
        bcg_missing=nights.bcg_missing[night],
    )
