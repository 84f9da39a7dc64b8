"""The training loop: same steps, same checkpoints, same resume for teacher, student and sweep."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from numpy.typing import NDArray
from tqdm import tqdm

from kd_sleep import metrics as scores
from kd_sleep.config import ExecutionConfig
from kd_sleep.datasets.batches import Crops, whole_nights
from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import Stopped, TrainingError
from kd_sleep.stages import NUM_STAGES
from kd_sleep.training import feeds
from kd_sleep.training.checkpoints import Checkpoints, Progress, keep_best
from kd_sleep.training.mesh import by_members, data_mesh, local_rows, put, replicated
from kd_sleep.training.metrics_log import Meter, MetricsLog
from kd_sleep.training.run import Run, write_settings
from kd_sleep.training.steps import (
    Scalars,
    make_predict,
    make_resident_step,
    make_train_step,
    shardings,
)
from kd_sleep.training.training_set import TrainingSet

KAPPA = "validation_kappa"
PROFILED_STEPS = 10


def predict(
    module: nn.Module, params: Any, nights: Nights, columns: tuple[str, ...], members: int = 0
) -> list[Any]:
    """Logits [N, K] float32 of each night; of stacked `members`, such a list for each."""
    mesh = data_mesh(jax.local_devices()[:1])
    predictor = make_predict(module, mesh, members=members)
    logits = [
        np.asarray(predictor(params, put(batch, mesh, members)))
        for batch in whole_nights(nights, columns)
    ]
    stacked = np.concatenate(logits, axis=-3)[..., : len(nights), :, :]
    of_each = [
        [member[row, :count] for row, count in enumerate(nights.windows)]
        for member in stacked.reshape(-1, *stacked.shape[-3:])
    ]
    return of_each if members else of_each[0]


def fit(
    run: Run,
    data: TrainingSet,
    workdir: Path | None = None,
    execution: ExecutionConfig | None = None,
    start: Any = None,
) -> tuple[Progress, list[dict[str, Any]]]:
    """Trains, or goes on training where a work folder was left.

    The same call on the same folder continues after the last checkpoint and ends with the same
    parameters as a run that was never stopped.

    Args:
      run: what to train.
      data: to learn from, and to choose the best parameters by. BCG samples that the nights lack
        are streamed from the dataset that they were read from.
      workdir: settings.json, metrics.jsonl, performance.jsonl, tensorboard/ and checkpoints/ go
        here; None keeps nothing on disk.
      execution: where the dataset lies, whether to profile.
      start: parameters to begin from, that are kept unless better ones come; None draws them.

    Returns:
      The progress at the last step, on the host, whose `best` are the parameters to use; and the
      metrics, a row for each evaluation.

    Raises:
      TrainingError: other settings or other data in `workdir`, no scored validation night, or a
        loss that is not finite.
      Stopped: SIGTERM came; everything is saved.
    """
    execution = execution or ExecutionConfig()
    config, mesh, members = run.train, data_mesh(), len(run.members)
    _assert_possible(run, data, mesh)
    name = str(workdir or f"this {run.kind}")
    if workdir is not None:
        write_settings(workdir, run.kind, run.to_json() | data.about)
    feed, advance = feed_and_step(run, data, mesh, execution)
    example = next(whole_nights(data.validation, run.columns, batch_size=1))
    state_sharding, _ = shardings(mesh, members)
    begin = jax.jit(lambda: run.begin(example, start), out_shardings=state_sharding)
    keep = jax.jit(jax.vmap(keep_best) if members else keep_best, donate_argnums=0)
    validate = _validator(run, data.validation, mesh)

    def kept(progress: Progress, row: dict[str, Any]) -> Progress:
        return keep(progress, _on_devices(row[KAPPA], state_sharding))

    checkpoints = None if workdir is None else Checkpoints(workdir / "checkpoints")
    found = checkpoints and checkpoints.latest(jax.eval_shape(begin), state_sharding)
    step, progress = found or (0, begin())
    log, meter = MetricsLog(workdir, step), Meter(config.batch_size * config.sequence_windows)
    if start is not None and not step:
        row = validate(progress.state.kept)
        progress = kept(progress, row)
        log.write(0, row, {})
    profile = _Profile(workdir / "profile" if workdir and execution.profile else None, step + 1)
    bar = tqdm(
        total=config.steps,
        initial=step,
        desc=f"Training {workdir.name if workdir else run.kind}",
        unit="step",
        disable=jax.process_index() > 0,
    )
    state = progress.state
    pending: Scalars = {}
    items = feed(step, config.steps, config.evaluate_every)
    try:
        with _sigterm() as terminated, jax.transfer_guard("disallow"):
            meter.restart()
            for item in meter.wait_for(items):
                profile.at(step)
                previous = pending
                with meter.dispatch():
                    state, pending = advance(state, *item.arguments)
                _assert_finite(previous, step, name)  # read while the device computes `pending`
                step += item.steps
                meter.steps += item.steps
                bar.update(item.steps)
                due = step % config.evaluate_every == 0 or step == config.steps
                stopping = _any_host(terminated(), due)
                if not (due or stopping):
                    continue
                _assert_finite(pending, step, name)
                progress = progress.replace(state=state)
                if due:
                    performance = meter.read()
                    row = jax.device_get(pending) | validate(state.kept)
                    progress = kept(progress, row)
                    state = progress.state
                    log.write(step, row, performance)
                    bar.set_postfix(
                        loss=f"{np.mean(row['loss']):.3f}", kappa=f"{np.mean(row[KAPPA]):.3f}"
                    )
                if checkpoints:
                    checkpoints.save(step, progress)
                if stopping and step < config.steps:
                    saved = "all of it is saved" if checkpoints else "without a workdir it is lost"
                    raise Stopped(
                        f"{name}: stopped at step {step} of {config.steps}; {saved}.",
                        "The same command goes on from there." if checkpoints else "",
                    )
                meter.restart()
    finally:
        items.close()
        profile.stop()
        bar.close()
        log.close()
        if checkpoints:
            checkpoints.close()
    # Members that lie on other hosts come here, too.
    together = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(progress)
    return jax.device_get(together), log.rows


def _assert_possible(run: Run, data: TrainingSet, mesh: Mesh) -> None:
    """Raises TrainingError where validation is not scored or a batch does not divide."""
    config = run.train
    if (data.validation.label < 0).all():
        raise TrainingError(
            "No validation night is scored, so the best checkpoint is unknown.",
            "Look at the dataset's exclusions.",
        )
    if config.batch_size % config.accumulate:
        raise TrainingError(
            f"--batch_size={config.batch_size} does not divide into"
            f" --accumulate={config.accumulate} parts.",
            "Take a multiple.",
        )
    local_rows(mesh, config.batch_size, len(run.members))


def feed_and_step(
    run: Run, data: TrainingSet, mesh: Mesh, execution: ExecutionConfig
) -> tuple[feeds.Feed, Callable]:
    """Batches, and the step that takes them, for where the dataset lies."""
    config, members = run.train, len(run.members)
    columns, bcg_from = data.columns(run), None
    crops = Crops(
        data.nights.windows, config.batch_size, config.sequence_windows, config.batch_seed
    )
    if "bcg" in run.columns and "bcg" not in columns:
        from kd_sleep.datasets.stream import stream_bcg

        bcg_from = functools.partial(stream_bcg, data.nights, crops)
    size = sum(column.nbytes for column in columns.values())
    if bcg_from is None and feeds.choose(execution.dataset_in, size, mesh) == "device":
        step = make_resident_step(run.objective, config, mesh, members=members)
        return feeds.resident_feed(feeds.upload(columns, mesh), crops, mesh, members=members), step
    feed = feeds.host_feed(columns, crops, mesh, bcg_from, members)
    return feed, make_train_step(run.objective, config, mesh, members=members)


def _validator(
    run: Run, validation: Nights, mesh: Mesh
) -> Callable[[Any], dict[str, NDArray[np.float64]]]:
    """parameters -> kappa and accuracy on validation; in a sweep [M] each."""
    several = len(run.members)
    predictor = make_predict(run.module, mesh, members=several)
    size = 4 if by_members(mesh, several) else mesh.size * max(1, 4 // mesh.size)
    rows = local_rows(mesh, size, several)

    def validate(params: Any) -> dict[str, NDArray[np.float64]]:
        counts = np.zeros((several or 1, NUM_STAGES, NUM_STAGES), np.int64)
        for batch in whole_nights(validation, run.columns, size):
            local = {name: array[rows] for name, array in batch.items()}
            logits = jax.device_get(predictor(params, put(local, mesh, several)))
            for member, stages in enumerate(logits.argmax(-1).reshape(len(counts), -1)):
                counts[member] += scores.confusion_counts(batch["label"], stages, NUM_STAGES)
        kappa = scores.kappa(counts)
        found = {
            # Predictions and labels that are all of one stage have no kappa.
            KAPPA: np.where(np.isfinite(kappa), kappa, 0.0),
            "validation_accuracy": scores.accuracy(counts),
        }
        return found if several else {name: value[0] for name, value in found.items()}

    return validate


class _Profile:
    """A trace of a few steps, from the second on: the first is mostly compiling."""

    def __init__(self, folder: Path | None, first: int):
        self._folder, self._first, self._running = folder, first, False

    def at(self, step: int) -> None:
        """Called before every dispatch."""
        if self._folder and not self._running and step >= self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif self._running and step >= self._first + PROFILED_STEPS:
            self.stop()

    def stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running, self._folder = False, None


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come, for a loop that wants to save before it ends."""
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    try:
        yield terminated.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _any_host(terminated: bool, due: bool) -> bool:
    """Whether to stop. Several hosts must stop at one step: they ask each other when due."""
    if jax.process_count() == 1:
        return terminated
    if not due:
        return False
    with jax.transfer_guard("allow"):
        return bool(multihost_utils.process_allgather(np.array(terminated)).any())


def _on_devices(value: NDArray[np.float64], sharding: jax.sharding.Sharding) -> jax.Array:
    """A host's float32 array on the devices; not by device_put, which compares all hosts."""
    value = np.asarray(value, np.float32)
    with jax.transfer_guard("allow"):
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _assert_finite(metrics: Scalars, step: int, name: str) -> None:
    found = jax.device_get({name: metrics[name] for name in ("loss", "gradient_norm") if metrics})
    broken = [
        f"{name} is {value[~np.isfinite(value)][0]}"
        for name, value in ((name, np.atleast_1d(value)) for name, value in found.items())
        if not np.isfinite(value).all()
    ]
    if broken:
        raise TrainingError(
            f"{name}: {' and '.join(broken)} at step {step}.",
            "Lower --learning_rate, or look for windows that are not finite in the dataset.",
        )
