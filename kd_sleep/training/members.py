"""A grid of (alpha, T, seed) in one compiled program.

Parameters, optimiser state and loss settings of the members are stacked along a first axis that
`vmap` maps over; batches, and all work without parameters, are shared. Each member is the student
that the same settings train alone.

At alpha = 1 a student's batches come from labelled nights only. Where those are not all nights, the
members at alpha = 1 are a group with batches of its own, trained after the others.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kd_sleep.config import DistillConfig, ExecutionConfig, StudentConfig, TrainConfig
from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import ConfigError
from kd_sleep.provenance import write_json
from kd_sleep.training.checkpoints import Checkpoints, Progress
from kd_sleep.training.loop import KAPPA, fit
from kd_sleep.training.metrics_log import MetricsLog
from kd_sleep.training.run import Run, write_settings
from kd_sleep.training.trained import Trained
from kd_sleep.training.training_set import TrainingSet

CHOSEN = "chosen"  # folder of the member to use, an ordinary student's


@dataclasses.dataclass(frozen=True)
class Grid:
    """alphas x temperatures x seeds.

    Raises:
      ConfigError: an empty axis, or a value twice.
    """

    alphas: Sequence[float]
    temperatures: Sequence[float]
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        for name in ("alphas", "temperatures", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"--{name}: expected values, each once, got {list(values)}.")

    def members(self, distill: DistillConfig) -> list[DistillConfig]:
        """The loss of every cell. At alpha = 1 the temperature has no say: one cell for all."""
        cells = [
            dataclasses.replace(distill, alpha=alpha, temperature=temperature)
            for alpha, temperature in itertools.product(self.alphas, self.temperatures)
        ]
        return [
            cell
            for cell in cells
            if cell.alpha < 1.0 or cell.temperature == float(self.temperatures[0])
        ]


@dataclasses.dataclass(frozen=True)
class Members:
    """Students that were trained in one program.

    Attributes:
      run: of all of them.
      data: that they learned from.
      described: each one's loss, seed, highest `validation_kappa` and the `step` it came at.
      progress: each leaf with a first axis of members.
      rows: metrics, each a list of members.
    """

    run: Run
    data: TrainingSet
    described: list[dict[str, Any]]
    progress: Progress
    rows: list[dict[str, Any]]

    def write(self, number: int, workdir: Path) -> None:
        """Writes one member to `workdir`, as if it had been trained there alone."""
        loss, seed = self.run.members[number]
        train = dataclasses.replace(self.run.train, seed=seed)
        alone = dataclasses.replace(self.run, train=train, distill=loss, members=())
        write_settings(workdir, "student", alone.to_json() | self.data.about)
        mine = jax.tree.map(lambda leaf: np.asarray(leaf[number]), self.progress)
        checkpoints, step = Checkpoints(workdir / "checkpoints"), int(mine.state.step)
        if checkpoints.latest_step() != step:
            checkpoints.save(step, mine)
        checkpoints.close()
        log = MetricsLog(workdir, 0)
        for row in self.rows:
            values = {name: value[number] for name, value in row.items() if name != "step"}
            log.write(int(row["step"]), values, {})
        log.close()


def fit_members(
    run: Run,
    data: TrainingSet,
    losses: Sequence[DistillConfig],
    seeds: Sequence[int],
    workdir: Path,
    execution: ExecutionConfig | None = None,
) -> Members:
    """Trains losses x seeds on the same nights, in one program, or goes on with it.

    Args:
      run: of one of them; its loss is that of the members but for what they differ in.
      data: the same for all members.
      losses: they may differ in alpha, temperature and label smoothing.
      seeds: of initial parameters and dropout.
      workdir: a run's folder of its own.
      execution: how to run.
    """
    run = dataclasses.replace(run, members=tuple(itertools.product(losses, seeds)))
    progress, rows = fit(run, data, workdir, execution)
    found = zip(run.described_members(), progress.best_kappa, progress.best_step, strict=True)
    described = [m | {KAPPA: float(kappa), "step": int(step)} for m, kappa, step in found]
    return Members(run, data, described, progress, rows)


def train_sweep(
    nights: Nights,
    teachers: Sequence[Trained],
    validation: Nights,
    workdir: Path,
    grid: Grid,
    model: StudentConfig,
    distill: DistillConfig,
    train: TrainConfig,
    execution: ExecutionConfig | None = None,
) -> dict[str, Any]:
    """Trains the grid, or goes on with it, and chooses (alpha, T) by mean validation kappa.

    The chosen cell's seed with the highest kappa is left in `workdir/chosen`, a student's folder
    like any other; `workdir/sweep.json` holds every member's kappa.

    Returns:
      What sweep.json holds: `members`, a list of alpha, temperature, seed, `validation_kappa` (the
      highest) and the `step` it came at; `chosen`, one of them; `labelled_nights`.
    """
    run = Run(model, train, distill)
    for seed in grid.seeds:
        dataclasses.replace(train, seed=seed)  # checks its bounds
    axes = {name: list(values) for name, values in vars(grid).items()}
    write_settings(workdir, "sweep", run.to_json() | {"grid": axes})
    data = TrainingSet.of_student(nights, validation, teachers)
    groups = [
        fit_members(
            dataclasses.replace(run, distill=losses[0]),
            subset, losses, grid.seeds, workdir / name, execution,
        )
        for name, subset, losses in _groups(grid.members(distill), data)
    ]  # fmt: skip
    members = [member for group in groups for member in group.described]
    chosen = choose(members)
    group = next(group for group in groups if chosen in group.described)
    group.write(group.described.index(chosen), workdir / CHOSEN)
    results = {
        "members": members,
        "chosen": chosen,
        "labelled_nights": group.data.settings["labelled"],
        "data": group.data.nights.origin(),
    }
    if jax.process_index() == 0:
        write_json(workdir / "sweep.json", results)
    return results


def choose(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best seed of the cell (alpha, T) with the highest mean kappa over seeds."""
    cells: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for member in members:
        cells.setdefault((member["alpha"], member["temperature"]), []).append(member)
    best = max(cells.values(), key=lambda cell: np.mean([member[KAPPA] for member in cell]))
    return max(best, key=lambda member: member[KAPPA])


def _groups(
    cells: list[DistillConfig], data: TrainingSet
) -> Iterator[tuple[str, TrainingSet, list[DistillConfig]]]:
    """Name, nights and losses of each set of cells that see the same batches."""
    soft = [cell for cell in cells if cell.alpha < 1.0]
    hard = [cell for cell in cells if cell.alpha == 1.0]
    if soft:
        shown = data.hiding(soft[0])
        if shown.settings["labelled"] == len(shown.nights):
            yield "members", shown, soft + hard
            return
        yield "distilled", shown, soft
    if hard:
        yield "hard_labels", data.hiding(hard[0]), hard
