"""Leave one person out: teacher and student scored on people whom nothing was trained on.

Each person of a dataset is the test person once. The next two people, in the order of their ids,
choose the best step; all others are trained on. Systems, for the teacher (ECG) and the student
(BCG) alike:

  simulation   the given networks, trained on simulated people, as they are
  real         the same networks from drawn parameters, trained on the other people
  fine-tuned   the given networks, trained further on the other people

A fold's student learns from its teacher. The plain peer, where scikit-learn is installed,
is gradient boosting on the HRV of a window and its mean over 11 windows; floors are time of night
and the majority.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from tqdm import tqdm

from kd_sleep.config import (
    DistillConfig,
    EvaluationConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    to_dict,
)
from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.scores import ScoredNights, time_of_night_probs
from kd_sleep.metrics import accuracy, confusion_counts, kappa
from kd_sleep.provenance import read_json, write_json
from kd_sleep.stages import NUM_STAGES
from kd_sleep.training.fit import fit_student, fit_teacher
from kd_sleep.training.run import write_settings
from kd_sleep.training.trained import Trained

CHOOSING = 2  # people who choose the best step
BOOSTING, CLOCK, MAJORITY = "gradient boosting on HRV", "time of night", "majority"
SIMULATION, REAL, TUNED = "simulation", "real", "fine-tuned"
_AROUND = 11  # windows


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Confusion counts of every system on every person.

    Attributes:
      people: [P] ids.
      counts: system -> [P, K, K].
    """

    people: tuple[str, ...]
    counts: Mapping[str, NDArray[np.int64]]

    def pooled(self, config: EvaluationConfig) -> dict[str, dict[str, dict[str, float]]]:
        """Accuracy and kappa over all windows, with intervals from a bootstrap over people."""
        draws_DP = self._draws(config)
        edges = _edges(config)
        found: dict[str, dict[str, dict[str, float]]] = {}
        for system, counts_PKK in self.counts.items():
            drawn = np.tensordot(draws_DP, counts_PKK, axes=1)
            found[system] = {
                score.__name__: {
                    "value": float(score(counts_PKK.sum(0))),
                    **dict(zip(("low", "high"), np.nanquantile(score(drawn), edges), strict=True)),
                }
                for score in (accuracy, kappa)
            }
        return found

    def gain(self, system: str, over: str, config: EvaluationConfig) -> dict[str, float]:
        """Difference in pooled kappa, both on the same draws of people."""
        draws_DP = self._draws(config)
        drawn = [kappa(np.tensordot(draws_DP, self.counts[s], axes=1)) for s in (system, over)]
        value = kappa(self.counts[system].sum(0)) - kappa(self.counts[over].sum(0))
        low, high = np.nanquantile(drawn[0] - drawn[1], _edges(config))
        return {"value": float(value), "low": float(low), "high": float(high)}

    def _draws(self, config: EvaluationConfig) -> NDArray[np.int64]:
        count = len(self.people)
        rng = np.random.default_rng(config.bootstrap_seed)
        return rng.multinomial(count, np.full(count, 1 / count), size=config.bootstrap_draws)


def leave_one_out(
    nights: Nights,
    teacher: Trained,
    student: Trained | None,
    workdir: Path,
    train: TrainConfig,
    distill: DistillConfig,
) -> LeftOut:
    """Trains on all people but one, for each of them; a stopped call goes on at its next person.

    Args:
      nights: with ECG and stages; students need a BCG.
      teacher, student: the networks to score and to begin from, with their shapes; None for no
        students.
      workdir: gets a file for each person.
      train: training of every network.
      distill: loss of the students.

    Raises:
      DatasetError: fewer than four people.
      TrainingError: a folder of other settings, or a network that has seen one of the people.
    """
    people = sorted(set(nights.subject_ids))
    if len(people) < CHOOSING + 2:
        raise DatasetError(
            f"{len(people)} people cannot be left out one by one.", f"{CHOOSING + 2} are needed."
        )
    names = {"teacher": teacher.name, "student": student.name if student else ""}
    about = names | {"train": to_dict(train), "distill": to_dict(distill)}
    workdir.mkdir(parents=True, exist_ok=True)
    write_settings(workdir, "leave_one_out", about | {"data": nights.digest()})
    counts: dict[str, list[NDArray[np.int64]]] = {}
    for number, person in enumerate(tqdm(people, desc="Leaving one out", unit=" people")):
        path = workdir / f"{person}.json"
        if not path.exists():
            chosen = {people[(number + 1 + k) % len(people)] for k in range(CHOOSING)}
            folds = _parts(nights, person, chosen)
            write_json(path, _score(*folds, teacher, student, train, distill))
        for system, table in read_json(path, "Delete it: it is made again.").items():
            counts.setdefault(system, []).append(np.array(table, np.int64))
    return LeftOut(tuple(people), {system: np.stack(of) for system, of in counts.items()})


def _parts(nights: Nights, person: str, chosen: set[str]) -> tuple[Nights, Nights, Nights]:
    """Test, validation and training nights."""
    subject_R = np.array(nights.subject_ids)
    test_R, validation_R = subject_R == person, np.isin(subject_R, sorted(chosen))
    return tuple(nights.where(rows) for rows in (test_R, validation_R, ~(test_R | validation_R)))  # type: ignore[return-value]


def _score(
    test: Nights,
    validation: Nights,
    rest: Nights,
    teacher: Trained,
    student: Trained | None,
    train: TrainConfig,
    distill: DistillConfig,
) -> dict[str, list]:
    """Confusion counts of every system on one person's nights."""
    teachers, students = teacher.run.model, student.run.model if student else None
    assert isinstance(teachers, TeacherConfig)
    logits: dict[str, NDArray] = {f"teacher, {SIMULATION}": _logits(teacher, test)}
    if student:
        logits[f"student, {SIMULATION}"] = _logits(student, test)
    for name, begins in ((REAL, False), (TUNED, True)):
        fold = fit_teacher(
            rest,
            validation=validation,
            model=teachers,
            train=train,
            start=teacher if begins else None,
        )
        logits[f"teacher, {name}"] = _logits(fold, test)
        if isinstance(students, StudentConfig):
            found = fit_student(
                rest,
                teacher=fold,
                validation=validation,
                model=students,
                distill=distill,
                train=train,
                start=student if begins else None,
            )
            logits[f"student, {name}"] = _logits(found, test)
    labels = [*rest.labels(), *validation.labels()]
    known = np.concatenate(labels)
    share_K = np.bincount(known[known >= 0], minlength=NUM_STAGES)
    if find_spec("sklearn"):
        logits[BOOSTING] = _boosting(rest, validation, test)
    logits[CLOCK] = np.concatenate(time_of_night_probs(labels, ScoredNights.of(test)))
    logits[MAJORITY] = np.tile(share_K, (len(test.label), 1))
    return {
        system: confusion_counts(test.label, scores.argmax(-1), NUM_STAGES).tolist()
        for system, scores in logits.items()
    }


def _logits(network: Trained, nights: Nights) -> NDArray:
    return np.concatenate(network.logits(nights))


def _boosting(rest: Nights, validation: Nights, test: Nights) -> NDArray[np.float64]:
    """[W, K] probabilities; what boosting has not seen is 0."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]

    inputs, labels = zip(*((_features(x), x.label) for x in (rest, validation)), strict=True)
    x, y = np.concatenate(inputs), np.concatenate(labels)
    model = HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.06, min_samples_leaf=40, random_state=0
    ).fit(x[y >= 0], y[y >= 0])
    probs = np.zeros((len(test.label), NUM_STAGES))
    probs[:, model.classes_] = model.predict_proba(_features(test))
    return probs


def _features(nights: Nights) -> NDArray[np.float32]:
    """[W, 2F] HRV of each window, and its mean over the windows around it."""
    means = [uniform_filter1d(night, _AROUND, axis=0) for night in nights.split(nights.hrv)]
    return np.concatenate([nights.hrv, np.concatenate(means)], axis=1)


def _edges(config: EvaluationConfig) -> tuple[float, float]:
    return (1 - config.confidence) / 2, (1 + config.confidence) / 2


def table(left_out: LeftOut, config: EvaluationConfig) -> str:
    """Pooled scores of every system, and each person's kappa."""
    lines = [f"{'':34}{'kappa':>22}{'accuracy, %':>24}"]
    for system, scores in left_out.pooled(config).items():
        k, a = scores["kappa"], scores["accuracy"]
        lines.append(
            f"{system:34}{k['value']:8.3f} [{k['low']:5.2f}, {k['high']:5.2f}]"
            f"{100 * a['value']:10.1f} [{100 * a['low']:4.1f}, {100 * a['high']:4.1f}]"
        )
    return "\n".join(lines)


def summary(left_out: LeftOut, config: EvaluationConfig) -> dict[str, Any]:
    """What results.json holds: pooled scores, gains of fine-tuning, kappa of each person."""
    networks = [name for name in ("teacher", "student") if f"{name}, {TUNED}" in left_out.counts]
    return {
        "people": list(left_out.people),
        "pooled": left_out.pooled(config),
        "gains": {
            f"{name}, {TUNED} over {other}": left_out.gain(
                f"{name}, {TUNED}", f"{name}, {other}", config
            )
            for name in networks
            for other in (REAL, SIMULATION)
        },
        "kappa": {system: kappa(counts).tolist() for system, counts in left_out.counts.items()},
        "counts": {system: counts.tolist() for system, counts in left_out.counts.items()},
    }
