"""A study's students: tuned on validation, trained several times, counted on the test nights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.special import softmax

from kd_sleep.config import (
    DistillConfig,
    ExecutionConfig,
    Preset,
    StudentConfig,
    TrainConfig,
)
from kd_sleep.datasets.nights import Nights
from kd_sleep.evaluation.bootstrap import ScoredNights
from kd_sleep.evaluation.plain_json import from_json, to_json
from kd_sleep.evaluation.scores import Runs, confusions
from kd_sleep.provenance import write_json
from kd_sleep.study.cells import Cell, Grid
from kd_sleep.training.loop import KAPPA, predict
from kd_sleep.training.members import Members, fit_members
from kd_sleep.training.run import Run
from kd_sleep.training.steps import Objective
from kd_sleep.training.training_set import TrainingSet, labelled_rows

TUNING_SEED = 0  # of the tries; the seeds of the results are trained anew, this one among them


@dataclasses.dataclass(frozen=True)
class Found:
    """A student, tuned and trained: the settings chosen, and its runs on the R test nights.

    Attributes:
      tried: how many settings validation chose from.
      validation_kappa: mean over runs.
      pairs: label seed and seed of each run.
      counts: confusion counts [draws of labelled nights, seeds, R, K, K], as lists.
    """

    alpha: float
    temperature: float
    learning_rate: float
    label_smoothing: float
    tried: int
    validation_kappa: float
    pairs: list[list[int]]
    counts: list

    @property
    def runs(self) -> Runs:
        """Its runs."""
        return Runs.of(np.array(self.counts), [(label, seed) for label, seed in self.pairs])


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all students of a study share.

    Where only some of the nights are labelled, the run of each seed has a draw of the labelled
    nights of its own: so the runs differ in both, at the cost of one.

    Attributes:
      folder: of the students.
      data: training and validation nights, and the teacher's soft labels.
      test: nights that nothing is chosen by.
      seeds: of the results.
      execution: as for any student.
    """

    folder: Path
    data: TrainingSet
    test: Nights
    seeds: Sequence[int]
    execution: ExecutionConfig

    def tuned(self, cell: Cell, grid: Grid, preset: Preset) -> Found:
        """Tunes a cell and trains it from every seed, or reads what an earlier call found."""
        folder, model = self.folder / cell.folder, cell.model(preset)

        def tune() -> Found:
            tries = cell.tries(grid, preset)
            tried = sum(len(losses) for _, losses in tries)
            best: tuple[float, TrainConfig, DistillConfig] | None = None
            for number, (train, losses) in enumerate(tries):
                if tried == 1:
                    best = (0.0, train, losses[0])
                    break
                members = self._fit(folder / f"try_{number}", model, train, losses, [TUNING_SEED])
                for member, loss in zip(members.described, losses, strict=True):
                    if best is None or member[KAPPA] > best[0]:
                        best = (member[KAPPA], train, loss)
            assert best is not None
            return dataclasses.replace(self.trained(folder, model, *best[1:]), tried=tried)

        return _kept(folder / "tuned.json", tune)

    def trained(
        self,
        folder: Path,
        model: StudentConfig,
        train: TrainConfig,
        loss: DistillConfig,
        objective: tuple[str, Objective] | None = None,
    ) -> Found:
        """A student from every seed; the first is left in `folder/student`.

        Args:
          folder: of all of them.
          model, train, loss: of the student.
          objective: name and loss, where no setting makes it.
        """
        return _kept(
            folder / "trained.json", lambda: self._train(folder, model, train, loss, objective)
        )

    def _train(
        self,
        folder: Path,
        model: StudentConfig,
        train: TrainConfig,
        loss: DistillConfig,
        objective: tuple[str, Objective] | None,
    ) -> Found:
        groups = [(loss, list(self.seeds))]
        every = labelled_rows(self.data.nights, dataclasses.replace(loss, labelled_nights=0))
        if 0 < loss.labelled_nights < len(every):
            groups = [
                (dataclasses.replace(loss, label_seed=loss.label_seed + seed), [seed])
                for seed in self.seeds
            ]
        counts, kappas, pairs = [], [], []
        for number, (drawn, seeds) in enumerate(groups):
            members = self._fit(folder / f"runs_{number}", model, train, [drawn], seeds, objective)
            if objective is None and number == 0:
                members.write(0, folder / "student")
            counts.append(self._counts(members))
            kappas += [member[KAPPA] for member in members.described]
            pairs += [[drawn.label_seed, seed] for seed in seeds]
        return Found(
            loss.alpha,
            loss.temperature,
            train.learning_rate,
            loss.label_smoothing,
            1,
            float(np.mean(kappas)),
            pairs,
            np.stack(counts).tolist(),
        )

    def _fit(
        self,
        folder: Path,
        model: StudentConfig,
        train: TrainConfig,
        losses: Sequence[DistillConfig],
        seeds: Sequence[int],
        objective: tuple[str, Objective] | None = None,
    ) -> Members:
        run = Run(model, train, losses[0], other_loss=objective)
        shown = self.data.hiding(losses[0])
        return fit_members(run, shown, losses, seeds, folder, self.execution)

    def _counts(self, members: Members) -> np.ndarray:
        """[M, R, K, K] confusion counts of every member on every test night."""
        run, params = members.run, members.progress.best
        logits = predict(run.module, params, self.test, run.columns, len(members.described))
        nights = ScoredNights.of(self.test)
        return np.stack(
            [
                confusions(f"run {number}", [softmax(night, -1) for night in member], nights)
                for number, member in enumerate(logits)
            ]
        )


def _kept(path: Path, make: Callable[[], Found]) -> Found:
    """What an earlier call left in `path`, or what is made now and left there."""
    if not path.exists():
        write_json(path, to_json(make()))
    return from_json(Found, json.loads(path.read_text()))
