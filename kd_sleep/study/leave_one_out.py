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

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.special import softmax
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
from kd_sleep.evaluation.bootstrap import Bootstrap, ScoredNights
from kd_sleep.evaluation.results import Data, Results, Scores
from kd_sleep.evaluation.scores import (
    MAJORITY,
    TIME_OF_NIGHT,
    Runs,
    confusions,
    difference_of,
    majority_probs,
    score,
    time_of_night_probs,
)
from kd_sleep.stages import NUM_STAGES
from kd_sleep.training.fit import fit_student, fit_teacher
from kd_sleep.training.run import write_settings
from kd_sleep.training.trained import Trained

CHOOSING = 2  # people who choose the best step
BOOSTING = "gradient boosting"
SIMULATION, REAL, TUNED = "simulation", "real", "fine-tuned"
_AROUND = 11  # windows


def leave_one_out(
    nights: Nights,
    teacher: Trained,
    student: Trained | None,
    workdir: Path,
    train: TrainConfig,
    distill: DistillConfig,
) -> dict[str, list[NDArray]]:
    """Trains on all people but one, for each of them; a stopped call goes on at its next person.

    Args:
      nights: with ECG and stages; students need a BCG.
      teacher, student: the networks to score and to begin from, with their shapes; None for no
        students.
      workdir: gets a file for each person.
      train: training of every network.
      distill: loss of the students.

    Returns:
      System -> probabilities [N_r, K] of each night, in the order of `nights`.

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
    found: dict[str, dict[int, NDArray]] = {}
    subject_R = np.array(nights.subject_ids)
    for number, person in enumerate(tqdm(people, desc="Leaving one out", unit=" people")):
        path = workdir / f"{person}.npz"
        if not path.exists():
            chosen = {people[(number + 1 + k) % len(people)] for k in range(CHOOSING)}
            probs = _probs(*_parts(nights, person, chosen), teacher, student, train, distill)
            partial = workdir / f".{person}.partial.npz"
            np.savez(partial, **probs)  # type: ignore[arg-type]
            partial.replace(path)
        rows = np.flatnonzero(subject_R == person)
        with np.load(path, allow_pickle=False) as saved:
            for system in saved:
                split = np.split(saved[system], np.cumsum(nights.windows[rows])[:-1])
                found.setdefault(system, {}).update(zip(rows.tolist(), split, strict=True))
    return {system: [of[row] for row in range(len(nights))] for system, of in found.items()}


def _parts(nights: Nights, person: str, chosen: set[str]) -> tuple[Nights, Nights, Nights]:
    """Test, validation and training nights."""
    subject_R = np.array(nights.subject_ids)
    test_R, validation_R = subject_R == person, np.isin(subject_R, sorted(chosen))
    return tuple(nights.where(rows) for rows in (test_R, validation_R, ~(test_R | validation_R)))  # type: ignore[return-value]


def _probs(
    test: Nights,
    validation: Nights,
    rest: Nights,
    teacher: Trained,
    student: Trained | None,
    train: TrainConfig,
    distill: DistillConfig,
) -> dict[str, NDArray]:
    """Probabilities [W, K] of every system on one person's nights."""
    teachers, students = teacher.run.model, student.run.model if student else None
    assert isinstance(teachers, TeacherConfig)
    probs: dict[str, NDArray] = {f"teacher, {SIMULATION}": _of(teacher, test)}
    if student:
        probs[f"student, {SIMULATION}"] = _of(student, test)
    for name, begins in ((REAL, False), (TUNED, True)):
        fold = fit_teacher(
            rest,
            validation=validation,
            model=teachers,
            train=train,
            start=teacher if begins else None,
        )
        probs[f"teacher, {name}"] = _of(fold, test)
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
            probs[f"student, {name}"] = _of(found, test)
    labels = [*rest.labels(), *validation.labels()]
    if find_spec("sklearn"):
        probs[BOOSTING] = _boosting(rest, validation, test)
    truth = ScoredNights.of(test)
    probs[TIME_OF_NIGHT] = np.concatenate(time_of_night_probs(labels, truth))
    probs[MAJORITY] = np.concatenate(majority_probs(labels, truth))
    return probs


def _of(network: Trained, nights: Nights) -> NDArray:
    return softmax(np.concatenate(network.logits(nights)).astype(np.float64), axis=-1)


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


def evaluated(
    nights: Nights, probs: Mapping[str, list[NDArray]], config: EvaluationConfig, seed: int
) -> Results:
    """Scores with intervals over people; `probs` and `seed` are of `leave_one_out`."""
    found = score(ScoredNights.of(nights), probs, config)
    data = Data(
        split="left-out",
        subjects=found.bootstrap.subjects,
        recordings=len(nights),
        windows=int(np.count_nonzero(nights.label >= 0)),
        left_out=[],
        seeds=[seed],
        training_nights=len(nights),
        labelled_nights=len(nights),
        validation_nights=0,
        **nights.origin(),
    )
    return dataclasses.replace(found, data=data)


def gains(
    nights: Nights, probs: Mapping[str, list[NDArray]], config: EvaluationConfig
) -> dict[str, Scores]:
    """What fine-tuning changed against both other starts, on the same draws of people."""
    scored = ScoredNights.of(nights)
    bootstrap = Bootstrap.of(scored, config)
    drawn = {
        name: Runs(confusions(name, each, scored)[None, None], []).drawn(bootstrap)
        for name, each in probs.items()
    }
    return {
        f"{network}, {TUNED} over {other}": difference_of(
            bootstrap, drawn[f"{network}, {TUNED}"], drawn[f"{network}, {other}"]
        )
        for network in ("teacher", "student")
        if f"{network}, {TUNED}" in drawn
        for other in (REAL, SIMULATION)
    }
