"""A study's students: tuned on validation, trained from every seed, counted on the test nights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from kd_sleep.config import (
    AugmentConfig,
    DistillConfig,
    ExecutionConfig,
    Preset,
    StudentConfig,
    TrainConfig,
)
from kd_sleep.datasets.nights import Nights
from kd_sleep.evaluation import scores
from kd_sleep.provenance import write_json
from kd_sleep.study.plan import Cell, Grid
from kd_sleep.training.loop import KAPPA, predict
from kd_sleep.training.run import Run
from kd_sleep.training.steps import Objective
from kd_sleep.training.sweep import Members, fit_members
from kd_sleep.training.training_set import TrainingSet

TUNING_SEED = 0  # of the tries; the seeds of the results are trained anew, this one among them


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all students of a study share.

    Attributes:
      folder: of the students.
      data: training and validation nights, and the teacher's soft labels.
      test: nights that nothing is chosen by.
      seeds: of the results.
      augmentation, execution: as for any student.
    """

    folder: Path
    data: TrainingSet
    test: Nights
    seeds: Sequence[int]
    augmentation: AugmentConfig
    execution: ExecutionConfig

    def run(self, cell: Cell, model: StudentConfig, grid: Grid, preset: Preset) -> dict[str, Any]:
        """Tunes a cell and trains it from every seed, or reads what an earlier call found.

        Returns:
          Plain JSON: "chosen" {"alpha", "temperature", "learning_rate", "label_smoothing"},
          "tried", "validation_kappa" (mean over seeds), "by_seed" {"seed", "validation_kappa",
          "step"}, and "counts" [M, R, K, K] on the test nights.
        """
        return _kept(
            self.folder / cell.name / "cell.json",
            lambda: self._tuned(self.folder / cell.name, cell.tries(grid, preset), model),
        )

    def _tuned(
        self,
        folder: Path,
        tries: Sequence[tuple[TrainConfig, list[DistillConfig]]],
        model: StudentConfig,
    ) -> dict[str, Any]:
        if sum(len(losses) for _, losses in tries) == 1:  # nothing to choose from
            [(train, [loss])] = tries
            return self.seeds_of(folder, model, train, loss) | {"tried": 1, "tries": []}
        tried: list[tuple[float, TrainConfig, DistillConfig]] = []
        for number, (train, losses) in enumerate(tries):
            members = self._train(folder / f"try_{number}", model, train, losses, [TUNING_SEED])
            kappas = [member[KAPPA] for member in members.described]
            tried += [(kappa, train, loss) for kappa, loss in zip(kappas, losses, strict=True)]
        _, train, loss = max(tried, key=lambda each: each[0])
        return self.seeds_of(folder, model, train, loss) | {
            "tried": len(tried),
            "tries": [_told(train, loss) | {KAPPA: kappa} for kappa, train, loss in tried],
        }

    def seeds_of(
        self,
        folder: Path,
        model: StudentConfig,
        train: TrainConfig,
        loss: DistillConfig,
        objective: tuple[str, Objective] | None = None,
    ) -> dict[str, Any]:
        """A student from every seed, as `run` returns it; the first is left in `folder/student`.

        Args:
          folder: of all of them.
          model, train, loss: of the student.
          objective: another loss, and its name.
        """
        return _kept(
            folder / "seeds.json",
            lambda: self._from_seeds(folder, model, train, loss, objective),
        )

    def _from_seeds(
        self,
        folder: Path,
        model: StudentConfig,
        train: TrainConfig,
        loss: DistillConfig,
        objective: tuple[str, Objective] | None,
    ) -> dict[str, Any]:
        members = self._train(folder / "seeds", model, train, [loss], self.seeds, objective)
        if objective is None:
            members.write(0, folder / "student")
        return {
            "chosen": _told(train, loss),
            KAPPA: float(np.mean([member[KAPPA] for member in members.described])),
            "by_seed": [
                {key: member[key] for key in ("seed", KAPPA, "step")}
                for member in members.described
            ],
            "counts": self._counts(members).tolist(),
        }

    def _train(
        self,
        folder: Path,
        model: StudentConfig,
        train: TrainConfig,
        losses: Sequence[DistillConfig],
        seeds: Sequence[int],
        objective: tuple[str, Objective] | None = None,
    ) -> Members:
        run = Run(model, train, losses[0], self.augmentation, other_loss=objective)
        shown = self.data.hiding(losses[0])
        return fit_members(run, shown, losses, seeds, folder, self.execution)

    def _counts(self, members: Members) -> NDArray[np.int64]:
        """[M, R, K, K] confusion counts of every seed on every test night."""
        run, params = members.run, members.progress.best
        said = predict(run.module, params, self.test, run.columns, len(self.seeds))
        nights = scores.ScoredNights.of(self.test)
        return np.stack(
            [
                scores.confusions(f"seed {seed}", [softmax(night, -1) for night in member], nights)
                for seed, member in zip(self.seeds, said, strict=True)
            ]
        )


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an earlier call left in `path`, or what is made now and left there."""
    if not path.exists():
        write_json(path, make())
    return json.loads(path.read_text())


def _told(train: TrainConfig, loss: DistillConfig) -> dict[str, float]:
    return {
        "alpha": loss.alpha,
        "temperature": loss.temperature,
        "learning_rate": train.learning_rate,
        "label_smoothing": loss.label_smoothing,
    }


def drawn_over_seeds(bootstrap: scores.Bootstrap, counts_MRKK: NDArray, name: str) -> scores.Drawn:
    """Metrics as means over seeds, in draws of both subjects and seeds.

    Subjects are drawn as for every other system, so that differences are paired by subject; the
    seeds, whose luck is a system's own, by a stream that `name` begins.

    Args:
      bootstrap: draws of subjects.
      counts_MRKK: confusion counts of M seeds on R nights.
      name: of the system.

    Returns:
      [X] and [D, X] as `scores.all_metrics` has them. What is not defined for a seed, such as the
      precision of a stage that it never names, is left out of the mean.
    """
    counts_MUKK = np.stack([bootstrap.by_subject(counts) for counts in counts_MRKK])
    seeds, draws = len(counts_MUKK), len(bootstrap.weights_DU)
    of_seed_MX = scores.all_metrics(counts_MUKK.sum(1))
    of_draw_DMX = np.stack(
        [scores.all_metrics(bootstrap.draw(counts)) for counts in counts_MUKK], axis=1
    )
    weights_DM = scores.seed_weights(name, seeds, draws)
    return (
        _known_mean(of_seed_MX, np.ones((seeds, 1))),
        _known_mean(of_draw_DMX, weights_DM[..., None]),
    )


def _known_mean(values: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Weighted mean over the last but one axis of what is not NaN."""
    known = np.isfinite(values) * weights
    total = known.sum(-2)
    summed = (np.nan_to_num(values) * known).sum(-2)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)
