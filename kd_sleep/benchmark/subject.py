"""What is measured: the preset's student, on synthetic nights that need no files."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from kd_sleep import schema
from kd_sleep.config import Preset
from kd_sleep.datasets.batches import Crops, gather
from kd_sleep.datasets.nights import Nights, stack
from kd_sleep.stages import NUM_STAGES
from kd_sleep.training.mesh import put
from kd_sleep.training.run import Run
from kd_sleep.training.steps import Batch, TrainState, make_train_step, shardings
from kd_sleep.training.training_set import TrainingSet

NIGHT_WINDOWS = 960  # 8 h
COHORT_NIGHTS = 41  # training nights of the quickstart's cohort
SHHS_NIGHTS = 8444  # both visits (NSRR)


def student(preset: Preset) -> Run:
    """The training run of the preset's student."""
    return Run(preset.student, preset.student_train, preset.distill, preset.augment)


def sweep_of(run: Run, members: int) -> Run:
    """The same student that many times: other alphas, temperatures and seeds."""
    assert run.distill is not None
    losses = [
        dataclasses.replace(run.distill, alpha=float(alpha), temperature=1.0 + number % 8)
        for number, alpha in enumerate(np.linspace(0.1, 0.9, members))
    ]
    return dataclasses.replace(run, members=tuple(zip(losses, range(members), strict=True)))


def synthetic_nights(count: int, windows: int = NIGHT_WINDOWS, seed: int = 0) -> Nights:
    """Nights of noise with the columns, dtypes and sizes of real ones."""
    rng = np.random.default_rng(seed)

    def field(name: str, spec: schema.Field, number: int) -> Any:
        if spec.dtype is str:
            return f"synthetic-{number}" if name.endswith("_id") else "synthetic"
        if not spec.shape:
            return spec.dtype(1e-3)
        shape = tuple(windows if isinstance(size, str) else size for size in spec.shape)
        if name == "label":
            return rng.integers(-1, NUM_STAGES, shape, np.int8)
        if name == "bcg":
            return rng.integers(-3000, 3000, shape, np.int16)
        if name.endswith("missing"):
            return rng.random(shape, np.float32) ** 8
        return (1.0 + 0.1 * rng.standard_normal(shape, np.float32)).astype(spec.dtype)

    return stack(
        [
            {name: field(name, spec, number) for name, spec in schema.NIGHT_FIELDS.items()}
            for number in range(count)
        ]
    )


def teacher_logits(nights: Nights) -> NDArray[np.float32]:
    """[W, 1, K] of one teacher."""
    shape = (len(nights.label), 1, NUM_STAGES)
    return 2.0 * np.random.default_rng(1).standard_normal(shape, np.float32)


def training_set(nights: Nights, validation: Nights | None = None) -> TrainingSet:
    """These nights with a teacher's logits."""
    return TrainingSet(nights, validation or nights, teacher_logits(nights))


def columns_of(run: Run, nights: Nights) -> dict[str, NDArray]:
    """All that a student's batch is taken from."""
    return training_set(nights).columns(run)


def crops_of(run: Run, nights: Nights) -> Crops:
    """Which windows each batch holds."""
    train = run.train
    return Crops(nights.windows, train.batch_size, train.sequence_windows, train.batch_seed)


def example_batch(run: Run) -> Batch:
    """A batch in the host's memory, as the loop would put it on the device."""
    windows = max(NIGHT_WINDOWS, run.train.sequence_windows)
    nights = synthetic_nights(min(4, run.train.batch_size), windows)
    crops = crops_of(run, nights)
    return gather(columns_of(run, nights), crops.sequences(0), crops.length)


class Training:
    """A state that takes a train step whenever it is called."""

    def __init__(self, run: Run, batch: Batch, mesh: Mesh):
        members = len(run.members)
        self.batch = put(batch, mesh, members)
        self.step: Any = make_train_step(
            run.objective(), run.train, mesh, run.augment, members=members
        )
        self.state = begin(run, batch, mesh)

    def __call__(self) -> Any:
        self.state, metrics = self.step(self.state, self.batch)
        return metrics


def begin(run: Run, batch: Batch, mesh: Mesh) -> TrainState:
    """The state before the first step, laid as the loop lays it."""
    sharding, _ = shardings(mesh, len(run.members))
    return jax.jit(lambda: run.begin(batch).state, out_shardings=sharding)()


def sizes(run: Run) -> str:
    """The batch in words."""
    return f"{run.train.batch_size} x {run.train.sequence_windows} windows"
