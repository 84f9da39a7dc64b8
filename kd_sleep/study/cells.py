"""What a study trains: students by shape, amount of labels and loss, each tuned alike."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from kd_sleep.config import (
    STUDENTS,
    DistillConfig,
    Preset,
    StudentConfig,
    StudyConfig,
    TrainConfig,
    student_of,
)
from kd_sleep.errors import ConfigError
from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS

ALL, HANDFUL, NONE = "all", "a handful", "none"
LOSSES = (HARD_LABELS, DISTILLED)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Amounts of labels, and what validation chooses from; both losses should get as many tries.

    Attributes:
      alphas, temperatures: of the distilled student.
      rates, smoothings: of the student on hard labels: learning rate, as a multiple of the
        preset's, and label smoothing.
      labelled: training nights with stages, besides none, the handful and all; may be empty.

    Raises:
      ConfigError: an empty axis, a value twice, or one out of range.
    """

    alphas: Sequence[float]
    temperatures: Sequence[float]
    rates: Sequence[float]
    smoothings: Sequence[float]
    labelled: Sequence[int] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            values = getattr(self, field.name)
            if (not values and field.name != "labelled") or len(set(values)) != len(values):
                raise ConfigError(
                    f"--{field.name}: expected values, each once, got {list(values)}."
                )
        if not all(0.0 <= alpha < 1.0 for alpha in self.alphas):
            raise ConfigError(
                f"--alphas={','.join(map(str, self.alphas))}: expected values in [0, 1).",
                "alpha = 1 is the student on hard labels, which is always trained.",
            )
        if not all(rate > 0 for rate in self.rates):
            raise ConfigError(f"--rates={','.join(map(str, self.rates))}: expected more than 0.")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One student of the study, to be tuned and then trained from every seed.

    Attributes:
      shape: of `config.STUDENTS`.
      labelled: name of the amount, such as "a handful".
      labelled_nights: how many training nights it sees the stages of.
      loss: `scores.DISTILLED` or `scores.HARD_LABELS`.
    """

    shape: str
    labelled: str
    labelled_nights: int
    loss: str

    @property
    def folder(self) -> str:
        """Its folder."""
        return f"{self.shape}/{self.labelled_nights}_labelled/{self.loss}"

    def model(self, preset: Preset) -> StudentConfig:
        """Its network."""
        return student_of(self.shape, preset.student)

    def tries(self, grid: Grid, preset: Preset) -> list[tuple[TrainConfig, list[DistillConfig]]]:
        """What validation chooses from: for each training, the losses that share a program."""
        base = dataclasses.replace(preset.distill, labelled_nights=self.labelled_nights)
        train = preset.student_train
        if self.loss == DISTILLED:
            # With no label there is nothing for alpha to weigh.
            alphas = grid.alphas if self.labelled_nights else [0.0]
            losses = [
                dataclasses.replace(base, alpha=float(alpha), temperature=float(temperature))
                for alpha, temperature in itertools.product(alphas, grid.temperatures)
            ]
            return [(train, losses)]
        losses = [
            dataclasses.replace(base, alpha=1.0, label_smoothing=float(smoothing))
            for smoothing in grid.smoothings
        ]
        return [
            (dataclasses.replace(train, learning_rate=rate * train.learning_rate), losses)
            for rate in grid.rates
        ]


def amounts(scored: int, handful: int, labelled: Sequence[int]) -> dict[str, int]:
    """How many of the scored training nights a student sees the stages of, most first.

    Amounts beyond the scored nights, and those that another one already is, are left out.
    """
    wanted = {NONE: 0, ALL: scored, HANDFUL: handful} | {f"{n} nights": n for n in labelled}
    found: dict[str, int] = {}
    for name, nights in wanted.items():
        if nights <= scored and nights not in found.values():
            found[name] = nights
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def cells(scored: int, config: StudyConfig, labelled: Sequence[int]) -> list[Cell]:
    """All students of a study; without any label there is no student on hard labels.

    The handful in context comes first: it is the one that is looked at most closely.
    """
    found = [
        Cell(shape, name, nights, loss)
        for shape in STUDENTS
        for name, nights in amounts(scored, config.handful, labelled).items()
        for loss in LOSSES
        if nights or loss == DISTILLED
    ]
    return sorted(found, key=lambda cell: (cell.shape != "context", not is_main(cell, config)))


def is_main(cell: Cell, config: StudyConfig) -> bool:
    """Whether it is one of the two students that the report looks at most closely."""
    return cell.shape == "context" and cell.labelled_nights == config.handful
