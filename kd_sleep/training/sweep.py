"""A whole grid of (alpha, T, seed) in one compiled program.

Members have parameters, optimiser state and loss settings of their own, stacked along a first axis
that `vmap` maps over; they share batches, and with them all work that no parameter has a part in,
such as the front end's transforms. Each member is the student that the same settings train alone.

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
import jax.numpy as jnp
import numpy as np

from kd_sleep.config import (
    AugmentConfig,
    DistillConfig,
    ExecutionConfig,
    StudentConfig,
    TrainConfig,
    to_dict,
)
from kd_sleep.errors import ConfigError
from kd_sleep.provenance import write_json
from kd_sleep.training.checkpoints import Checkpoints, Progress
from kd_sleep.training.distill import (
    Lesson,
    read_material,
    reads_samples,
    student_run,
    student_settings,
)
from kd_sleep.training.loop import KAPPA, claim
from kd_sleep.training.metrics_log import MetricsLog, read_metrics
from kd_sleep.training.steps import Objective

CHOSEN = "chosen"  # folder of the member to use, an ordinary student's
LOSS_SETTINGS = ("alpha", "temperature", "label_smoothing")  # that members may differ in


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


def train_sweep(
    data_dir: Path,
    teachers: Sequence[Path],
    workdir: Path,
    grid: Grid,
    model: StudentConfig,
    distill: DistillConfig,
    train: TrainConfig,
    augmentation: AugmentConfig | None = None,
    execution: ExecutionConfig | None = None,
) -> dict[str, Any]:
    """Trains the grid, or goes on with it, and chooses (alpha, T) by mean validation kappa.

    The chosen cell's seed with the highest kappa is left in `workdir/chosen`, a student's folder
    like any other; `workdir/sweep.json` holds every member's kappa.

    Returns:
      What sweep.json holds: `members`, a list of alpha, temperature, seed, `validation_kappa` (the
      highest) and the `step` it came at; `chosen`, one of them; `labelled_nights`.
    """
    augmentation, execution = augmentation or AugmentConfig(), execution or ExecutionConfig()
    cells = grid.members(distill)
    alone = {seed: dataclasses.replace(train, seed=seed) for seed in grid.seeds}  # can be?
    claim(
        workdir,
        "sweep",
        {
            "model": to_dict(model),
            "distill": to_dict(distill),
            "train": to_dict(train),
            "augment": to_dict(augmentation),
            "grid": {name: list(values) for name, values in vars(grid).items()},
        },
    )
    members: list[dict[str, Any]] = []
    places: list[tuple[dict[str, Any], Progress, int, Path]] = []  # of each member
    for name, lesson, losses in _groups(cells, model, data_dir, teachers, execution):
        settings = student_settings(lesson.settings, model, losses[0], train, augmentation)
        described, progress = train_members(
            lesson, workdir / name, settings, losses, grid.seeds, execution
        )
        members += described
        places += [(lesson.settings, progress, n, workdir / name) for n in range(len(described))]
        origin = lesson.nights.origin()

    chosen = choose(members)
    about, progress, number, folder = places[members.index(chosen)]
    loss = dataclasses.replace(distill, alpha=chosen["alpha"], temperature=chosen["temperature"])
    settings = student_settings(about, model, loss, alone[chosen["seed"]], augmentation)
    write_student(workdir / CHOSEN, settings, progress, number, read_metrics(folder))
    results = {
        "members": members,
        "chosen": chosen,
        "labelled_nights": about["labelled"],
        "data": origin,
    }
    if jax.process_index() == 0:
        write_json(workdir / "sweep.json", results)
    return results


def train_members(
    lesson: Lesson,
    workdir: Path,
    settings: dict[str, Any],
    losses: Sequence[DistillConfig],
    seeds: Sequence[int],
    execution: ExecutionConfig,
    objective: Objective | None = None,
) -> tuple[list[dict[str, Any]], Progress]:
    """Trains losses x seeds on one lesson, in one program, or goes on with it.

    Args:
      lesson: the same for all members.
      workdir: a run's folder of its own.
      settings: of a student (`student_settings`); its loss is that of the members but for what
        they differ in.
      losses: they may differ in alpha, temperature and label smoothing.
      seeds: of initial parameters and dropout.
      execution: how to run.
      objective: another loss than the settings', which then name it.

    Returns:
      For each member its loss, seed, highest `validation_kappa` and the `step` it came at; and the
      progress, each leaf with a first axis of members.
    """
    pairs = list(itertools.product(losses, seeds))
    varied = {name: [getattr(loss, name) for loss, _ in pairs] for name in LOSS_SETTINGS}
    smoothed = any(varied["label_smoothing"])
    if not smoothed:  # as in a student alone, where it would only cost arithmetic
        del varied["label_smoothing"]
    described = [
        {name: values[number] for name, values in varied.items()} | {"seed": seed}
        for number, (_, seed) in enumerate(pairs)
    ]
    one = student_run(settings, lesson.stage_weights)
    run = dataclasses.replace(
        one,
        kind="sweep",
        settings=settings | {"members": described},
        seeds=np.array([seed for _, seed in pairs]),
        objective=objective or one.objective,
        loss_settings={name: jnp.array(values, jnp.float32) for name, values in varied.items()},
    )
    progress = lesson.teach(run, workdir, execution)
    found = zip(described, progress.best_kappa, progress.best_step, strict=True)
    return [m | {KAPPA: float(kappa), "step": int(step)} for m, kappa, step in found], progress


def choose(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best seed of the cell (alpha, T) with the highest mean kappa over seeds."""
    cells: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for member in members:
        cells.setdefault((member["alpha"], member["temperature"]), []).append(member)
    best = max(cells.values(), key=lambda cell: np.mean([member[KAPPA] for member in cell]))
    return max(best, key=lambda member: member[KAPPA])


def _groups(
    cells: list[DistillConfig],
    model: StudentConfig,
    data_dir: Path,
    teachers: Sequence[Path],
    execution: ExecutionConfig,
) -> Iterator[tuple[str, Lesson, list[DistillConfig]]]:
    """Name, lesson and losses of each set of cells that see the same batches."""
    soft = [cell for cell in cells if cell.alpha < 1.0]
    hard = [cell for cell in cells if cell.alpha == 1.0]
    material = read_material(data_dir, teachers, execution, reads_samples(model))
    if soft:
        lesson = material.lesson(soft[0])
        if lesson.settings["labelled"] == len(lesson.nights):
            yield "members", lesson, soft + hard
            return
        yield "distilled", lesson, soft
    if hard:
        yield "hard_labels", material.lesson(hard[0]), hard


def write_student(
    workdir: Path,
    settings: dict[str, Any],
    progress: Progress,
    number: int,
    rows: list[dict[str, Any]],
) -> None:
    """Leaves member `number` in `workdir`, a student's folder like any other.

    Args:
      workdir: the folder.
      settings: that train this member alone.
      progress: of all members.
      number: which it is.
      rows: the members' metrics.
    """
    claim(workdir, "student", settings)
    mine = jax.tree.map(lambda leaf: np.asarray(leaf[number]), progress)
    checkpoints = Checkpoints(workdir / "checkpoints")
    step = int(mine.state.step)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    found = checkpoints.latest(mine, here)
    if found is None or found[0] != step:
        checkpoints.save(step, mine)
    checkpoints.close()
    log = MetricsLog(workdir, 0)
    for row in rows:
        values = {name: value[number] for name, value in row.items() if name != "step"}
        log.write(int(row["step"]), values, {})
    log.close()
