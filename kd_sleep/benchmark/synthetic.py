"""What is measured: the preset's networks, on nights of noise that need no files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from kd_sleep import schema
from kd_sleep.config import Preset, to_dict
from kd_sleep.datasets.batches import Crops, gather, whole_nights
from kd_sleep.datasets.nights import Nights, blank, stack
from kd_sleep.inference import container
from kd_sleep.inference.export import serialized
from kd_sleep.inference.program import Program, card_of
from kd_sleep.models.student import Student, columns
from kd_sleep.provenance import versions
from kd_sleep.recordings.files import write_bytes
from kd_sleep.stages import NUM_STAGES
from kd_sleep.training.mesh import data_mesh, put
from kd_sleep.training.run import Run
from kd_sleep.training.steps import Batch, TrainState, make_train_step, shardings
from kd_sleep.training.training_set import TrainingSet

NIGHT_WINDOWS = 960  # 8 h
COHORT_NIGHTS = 41  # training nights of the quickstart's cohort
SHHS_NIGHTS = 8444  # both visits (NSRR)


def student(preset: Preset, width: int = 0) -> Run:
    """The training run of the preset's student, or of one of another width."""
    model = dataclasses.replace(preset.student, width=width) if width else preset.student
    return Run(model, preset.student_train, preset.distill)


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


def training_set(nights: Nights, validation: Nights | None = None) -> TrainingSet:
    """These nights with a teacher's logits."""
    shape = (len(nights.label), 1, NUM_STAGES)
    logits = 2.0 * np.random.default_rng(1).standard_normal(shape, np.float32)
    return TrainingSet(nights, validation or nights, logits)


def columns_of(run: Run, nights: Nights) -> dict[str, NDArray]:
    """All that a batch is taken from."""
    return training_set(nights).columns(run)


def crops_of(run: Run, windows: NDArray[np.int64]) -> Crops:
    """Which windows each batch holds, of nights of so many windows."""
    train = run.train
    return Crops(windows, train.batch_size, train.sequence_windows, train.batch_seed)


def example_batch(run: Run) -> Batch:
    """A batch in the host's memory, as the loop would put it on the device."""
    windows = max(NIGHT_WINDOWS, run.train.sequence_windows)
    nights = synthetic_nights(min(4, run.train.batch_size), windows)
    crops = crops_of(run, nights.windows)
    return gather(columns_of(run, nights), crops.sequences(0), crops.length)


class Training:
    """A state that takes a train step whenever it is called."""

    def __init__(self, run: Run, batch: Batch, mesh: Mesh | None = None):
        mesh, members = mesh or data_mesh(), len(run.members)
        self.batch = put(batch, mesh, members)
        self.step: Any = make_train_step(run.objective, run.train, mesh, members=members)
        self.state = begin(run, batch, mesh)

    def __call__(self) -> Any:
        self.state, metrics = self.step(self.state, self.batch)
        return metrics


def begin(run: Run, batch: Batch, mesh: Mesh) -> TrainState:
    """The state before the first step, laid as the loop lays it."""
    sharding, _ = shardings(mesh, len(run.members))
    return jax.jit(lambda: run.begin(batch).state, out_shardings=sharding)()


def sizes(run: Run) -> str:
    """Batch and width in words."""
    train = run.train
    return f"{train.batch_size} x {train.sequence_windows} windows, width {run.model.width}"


def write_student(preset: Preset, path: Path) -> None:
    """An exported student with parameters as they are before training: speed is the same."""
    module = Student(preset.student)
    example = next(whole_nights(blank(), columns(preset.student), 1))
    params = module.init(jax.random.PRNGKey(0), *module.inputs(example))["params"]
    settings = {
        "model": to_dict(preset.student),
        "distill": to_dict(preset.distill),
        "train": to_dict(preset.student_train),
        "teacher": "none",
        "labelled": 0,
    }
    about = {"versions": versions(), "git_revision": "unknown"}
    card = card_of(about, settings, "parameters are made up", preset.student, None)
    made = Program.of_module(module, params, card)
    write_bytes(path, container.pack(container.Content(card, made.weights, serialized(made))))
