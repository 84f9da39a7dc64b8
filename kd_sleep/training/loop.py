"""The training loop: same steps, same checkpoints, same resume for teacher and student."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from tqdm import tqdm

from kd_sleep import metrics as scores
from kd_sleep.config import TrainConfig
from kd_sleep.datasets.batches import Batch, Crops, Nights, crop, whole_nights
from kd_sleep.errors import TrainingError
from kd_sleep.provenance import provenance, write_json
from kd_sleep.stages import NUM_STAGES
from kd_sleep.training.checkpoints import METRIC, Checkpoints
from kd_sleep.training.metrics_log import MetricsLog
from kd_sleep.training.steps import LossOf, create_state, make_predict, make_train_step

_LAUNCHERS = {"teacher": "train_teacher", "student": "distill_student"}


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training run is: everything that `fit` needs beside the data.

    Attributes:
      kind: "teacher" or "student".
      module: the network.
      columns: fields of `Nights` that the network and the loss read.
      loss_of: the loss on a batch.
      train: steps, batch, optimiser.
      settings: all configs of the run as plain JSON; a work folder serves one set of settings.
    """

    kind: str
    module: nn.Module
    columns: tuple[str, ...]
    loss_of: LossOf
    train: TrainConfig
    settings: dict[str, Any]


def predict(
    module: nn.Module, params: Any, nights: Nights, columns: tuple[str, ...]
) -> list[np.ndarray]:
    """Logits [N, K] float32 of each night."""
    predictor = make_predict(module)
    logits = [np.asarray(predictor(params, batch)) for batch in whole_nights(nights, columns)]
    stacked = np.concatenate(logits)[: len(nights)]
    return [stacked[row, :count] for row, count in enumerate(nights.windows)]


def fit(
    run: Run,
    nights: Nights,
    validation: Nights,
    workdir: Path,
    extra_of: Callable[[np.ndarray, np.ndarray], Batch] | None = None,
) -> Any:
    """Trains, or goes on training, in `workdir`; returns the parameters best on validation.

    The same command on the same folder goes on after the last checkpoint and ends with the same
    parameters as a run that was never stopped.

    Args:
      run: what to train.
      nights: training nights.
      validation: nights whose kappa picks the best checkpoint.
      workdir: settings.json, metrics.jsonl, tensorboard/ and checkpoints/ go here.
      extra_of: (rows, first windows) -> more columns of the batch, such as teacher logits.

    Raises:
      TrainingError: other settings or other data in `workdir`, no scored validation night, or a
        loss that is not finite.
    """
    config = run.train
    if (validation.label < 0).all():
        raise TrainingError(
            "No validation night is scored, so the best checkpoint cannot be told.",
            "Look at the dataset's exclusions.",
        )
    _claim(workdir, run)
    crops = Crops(nights.windows, config.batch_size, config.sequence_windows, config.seed)

    def batch_at(step: int) -> Batch:
        rows, starts = crops(step)
        batch = crop(nights, rows, starts, config.sequence_windows, run.columns)
        return batch | (extra_of(rows, starts) if extra_of else {})

    state = create_state(run.module, config, batch_at(0))
    checkpoints = Checkpoints(workdir / "checkpoints")
    resumed = checkpoints.latest(state)
    first_step, state = resumed if resumed else (0, state)
    log = MetricsLog(workdir, first_step)
    train_step = make_train_step(run.loss_of)
    predictor = make_predict(run.module)
    validation_batches = list(whole_nights(validation, run.columns))

    def validate(params: Any) -> dict[str, float]:
        counts = np.zeros((NUM_STAGES, NUM_STAGES), np.int64)
        for batch in validation_batches:
            prediction = np.asarray(predictor(params, batch)).argmax(-1)
            counts += scores.confusion_counts(batch["label"], prediction, NUM_STAGES)
        kappa = float(scores.kappa(counts))
        return {
            # A model that says one stage only, on labels of one stage only, has no kappa.
            METRIC: kappa if math.isfinite(kappa) else 0.0,
            "validation_accuracy": float(scores.accuracy(counts)),
        }

    bar = tqdm(total=config.steps, initial=first_step, desc=f"Training {workdir.name}", unit="step")
    shown: dict[str, str] = {}
    pending: dict[str, jax.Array] = {}
    try:
        for step in range(first_step, config.steps):
            previous, (state, pending) = pending, train_step(state, batch_at(step))
            # Read the step before while this one runs on the device.
            _assert_finite(previous, step, workdir)
            bar.update()
            if (step + 1) % config.evaluate_every == 0 or step + 1 == config.steps:
                _assert_finite(pending, step + 1, workdir)
                row = {name: float(value) for name, value in pending.items()}
                row |= validate(state.params)
                log.write(step + 1, row)
                checkpoints.save(step + 1, state, row[METRIC])
                shown = {"loss": f"{row['loss']:.3f}", "kappa": f"{row[METRIC]:.3f}"}
                bar.set_postfix(shown)
    finally:
        bar.close()
        log.close()
        checkpoints.close()
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    _, best = checkpoints.best(state)
    checkpoints.close()
    return best.params


def _assert_finite(metrics: dict[str, jax.Array], step: int, workdir: Path) -> None:
    broken = [
        f"{name} is {float(metrics[name])}"
        for name in ("loss", "gradient_norm")
        if name in metrics and not math.isfinite(float(metrics[name]))
    ]
    if broken:
        raise TrainingError(
            f"{workdir}: {' and '.join(broken)} at step {step}.",
            "Lower --learning_rate, or look for windows that are not finite in the dataset.",
        )


def _claim(workdir: Path, run: Run) -> None:
    """Writes the run's settings, or makes sure that those in the folder are the same."""
    path = workdir / "settings.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found["kind"] != run.kind:
            raise TrainingError(f"{workdir} holds a {found['kind']}.", "Name another --workdir.")
        there, here = _flat(found["settings"]), _flat(run.settings)
        differing = [
            f"{name} ({there.get(name)} there, {here.get(name)} here)"
            for name in sorted({*there, *here})
            if there.get(name) != here.get(name)
        ]
        if differing:
            raise TrainingError(
                f"{workdir} holds a {found['kind']} with other settings: {', '.join(differing)}.",
                "Go on with the same flags, or name another --workdir.",
            )
        return
    write_json(path, {"kind": run.kind, "settings": run.settings, **provenance()})


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by the names of their flags; digests cut to what a person can compare."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= value
        elif isinstance(value, list):
            flat[name] = " ".join(text[:8] for text in value)
        else:
            flat[name] = value[:8] if isinstance(value, str) else value
    return flat


def settings_of(workdir: Path, kind: str) -> dict[str, Any]:
    """The settings of a trained run.

    Raises:
      TrainingError: no run of that kind in the folder.
    """
    path = workdir / "settings.json"
    found: dict[str, Any] = {"kind": "nothing trained"}
    if path.exists():
        found = json.loads(path.read_text())
    if found["kind"] != kind:
        raise TrainingError(
            f"{workdir}: expected a trained {kind}, found {found['kind']}.",
            f"Train one with `python -m launch.{_LAUNCHERS[kind]}`.",
        )
    return found["settings"]


def load_params(module: nn.Module, train: TrainConfig, batch: Batch, workdir: Path) -> Any:
    """The best parameters in a run's folder.

    Raises:
      TrainingError: no checkpoint, one of another architecture, or a run that has not ended.
    """
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    try:
        _, state = checkpoints.best(create_state(module, train, batch))
        if checkpoints.latest_step() < train.steps:
            raise TrainingError(
                f"{workdir}: stopped at step {checkpoints.latest_step()} of {train.steps}.",
                "Give the command that started it again: it goes on from there.",
            )
    finally:
        checkpoints.close()
    return state.params
