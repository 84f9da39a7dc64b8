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
from kd_sleep.datasets.nights import Nights, blank
from kd_sleep.errors import Stopped, TrainingError
from kd_sleep.stages import NUM_STAGES
from kd_sleep.training import feeds
from kd_sleep.training.checkpoints import Checkpoints, Progress, keep_best
from kd_sleep.training.mesh import by_members, data_mesh, local_rows, put, whole
from kd_sleep.training.meter import Meter
from kd_sleep.training.metrics_log import MetricsLog
from kd_sleep.training.run import Run, claim
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

    The same call on the same folder goes on after the last checkpoint and ends with the same
    parameters as a run that was never stopped, wherever the dataset lies.

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
    nights, validation = data.nights, data.validation
    execution = execution or ExecutionConfig()
    config, mesh = run.train, data_mesh()
    if (validation.label < 0).all():
        raise TrainingError(
            "No validation night is scored, so the best checkpoint cannot be told.",
            "Look at the dataset's exclusions.",
        )
    if config.batch_size % config.accumulate:
        raise TrainingError(
            f"--batch_size={config.batch_size} does not divide into"
            f" --accumulate={config.accumulate} parts.",
            "Take a multiple.",
        )
    members = len(run.members)
    local_rows(mesh, config.batch_size, members)  # does it divide by the devices?
    name = str(workdir or f"this {run.kind}")
    if workdir is not None:
        claim(workdir, run.kind, run.to_json() | data.about)
    crops = Crops(nights.windows, config.batch_size, config.sequence_windows, config.batch_seed)
    feed, advance = _feed_and_step(run, data, crops, mesh, execution)
    example = next(whole_nights(validation, run.columns, batch_size=1))
    state_sharding, _ = shardings(mesh, members)
    begin = jax.jit(lambda: run.begin(example, start), out_shardings=state_sharding)
    keep = jax.jit(jax.vmap(keep_best) if members else keep_best, donate_argnums=0)
    validate = _validator(run, validation, mesh)

    checkpoints = None if workdir is None else Checkpoints(workdir / "checkpoints")
    found = checkpoints and checkpoints.latest(jax.eval_shape(begin), state_sharding)
    step, progress = found or (0, begin())
    first_step = step
    log, meter = MetricsLog(workdir, first_step), Meter(config.batch_size * config.sequence_windows)
    if start is not None and not first_step:
        row = validate(progress.state.kept)
        progress = keep(progress, _on_devices(row[KAPPA], state_sharding))
        log.write(0, row, {})
    traced = workdir / "profile" if workdir and execution.profile else None
    profile = _Profile(traced, first_step + 1)
    bar = tqdm(
        total=config.steps,
        initial=first_step,
        desc=f"Training {workdir.name if workdir else run.kind}",
        unit="step",
        disable=jax.process_index() > 0,
    )
    state = progress.state
    pending: Scalars = {}
    items = feed(step, config.steps, config.evaluate_every)
    try:
        with _sigterm() as told, jax.transfer_guard("disallow"):
            meter.restart()
            for item in meter.wait_for(items):
                profile.at(step)
                previous = pending
                with meter.dispatch():
                    state, pending = advance(state, *item.arguments)
                # Read the steps before while these run on the device.
                _assert_finite(previous, step, name)
                step += item.steps
                meter.steps += item.steps
                bar.update(item.steps)
                due = step % config.evaluate_every == 0 or step == config.steps
                stopping = _anyone(told(), due)
                if not (due or stopping):
                    continue
                _assert_finite(pending, step, name)
                progress = progress.replace(state=state)
                if due:
                    performance = meter.read()
                    row = jax.device_get(pending) | validate(state.kept)
                    progress = keep(progress, _on_devices(row[KAPPA], state_sharding))
                    state = progress.state
                    log.write(step, row, performance)
                    bar.set_postfix(
                        loss=f"{np.mean(row['loss']):.3f}", kappa=f"{np.mean(row[KAPPA]):.3f}"
                    )
                if checkpoints:
                    checkpoints.save(step, progress)
                if stopping and step < config.steps:
                    kept = "all of it is saved" if checkpoints else "without a workdir it is lost"
                    raise Stopped(
                        f"{name}: stopped at step {step} of {config.steps}; {kept}.",
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
    together = jax.jit(lambda tree: tree, out_shardings=whole(mesh))(progress)
    return jax.device_get(together), log.rows


def _feed_and_step(
    run: Run, data: TrainingSet, crops: Crops, mesh: Mesh, execution: ExecutionConfig
) -> tuple[feeds.Feed, Callable]:
    """Batches, and the step that takes them, for where the dataset lies."""
    columns, members, bcg_from = data.columns(run), len(run.members), None
    if "bcg" in run.columns and "bcg" not in columns:
        from kd_sleep.datasets.stream import stream_bcg  # Grain, which only this needs

        bcg_from = functools.partial(stream_bcg, data.nights, crops)
    balance = run.distill.balance if run.distill else 0.0
    arguments = (run.objective(data.stage_weights(balance)), run.train, mesh, run.augment)
    size = sum(column.nbytes for column in columns.values())
    if bcg_from is None and feeds.choose(execution.dataset_in, size, mesh) == "device":
        step = make_resident_step(*arguments, members=members)
        return feeds.resident_feed(feeds.upload(columns, mesh), crops, mesh, members=members), step
    feed = feeds.host_feed(columns, crops, mesh, bcg_from, members)
    return feed, make_train_step(*arguments, members=members)


def _validator(
    run: Run, validation: Nights, mesh: Mesh
) -> Callable[[Any], dict[str, NDArray[np.float64]]]:
    """parameters -> kappa and accuracy on validation; in a sweep [M] each."""
    several = len(run.members)
    predictor = make_predict(run.module, mesh, members=several)
    size = 4 if by_members(mesh, several) else mesh.size * max(1, 4 // mesh.size)
    rows = local_rows(mesh, size, several)

    def validate(params: Any) -> dict[str, NDArray[np.float64]]:
        members = several or 1
        counts = np.zeros((members, NUM_STAGES, NUM_STAGES), np.int64)
        for batch in whole_nights(validation, run.columns, size):
            local = {name: array[rows] for name, array in batch.items()}
            logits = jax.device_get(predictor(params, put(local, mesh, several)))
            for member, said in enumerate(logits.argmax(-1).reshape(members, -1)):
                counts[member] += scores.confusion_counts(batch["label"], said, NUM_STAGES)
        kappa = scores.kappa(counts)
        found = {
            # A model that says one stage only, on labels of one stage only, has no kappa.
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
        if self._folder is None:
            return
        if not self._running and step >= self._first:
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
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _anyone(told: bool, due: bool) -> bool:
    """Whether any host was told. Several must stop at one step: they ask each other when due."""
    if jax.process_count() == 1 or not due:
        return told and jax.process_count() == 1
    with jax.transfer_guard("allow"):
        return bool(multihost_utils.process_allgather(np.array(told)).any())


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


def started_from(run: Run, start: Run, params: Any) -> Any:
    """Parameters for a run to begin from, out of another's.

    Those of a student or teacher of the same architecture are all taken. Between a teacher and a
    student those that both have are: the layers behind the first, which reads other inputs.

    Args:
      run: to be trained.
      start: of the parameters.
      params: trained.

    Raises:
      TrainingError: an architecture that differs, or has nothing in common.
    """

    def named(tree: Any) -> dict[str, Any]:
        found = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found
        }

    example = next(whole_nights(blank(), run.columns, batch_size=1))
    fresh = run.begin(example).best
    there, here = named(params), named(fresh)
    fits = {name for name in here if name in there and there[name].shape == here[name].shape}
    if not fits or (run.kind == start.kind and fits != {*here}):
        name = min({*here} - fits)
        raise TrainingError(
            f"start_from: the architectures differ ({len({*here} - fits)} of {len(here)} arrays,"
            f" {name} the first).",
            "Start from a network of the same settings, such as width and context.",
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            there[name]
            if (name := jax.tree_util.keystr(path, simple=True, separator="/")) in fits
            else leaf
        ),
        fresh,
    )


def load_best(run: Run, workdir: Path) -> Any:
    """The best parameters in a run's folder.

    Args:
      run: the same as when it was trained.
      workdir: the folder.

    Raises:
      TrainingError: no sound checkpoint, one of another architecture, or a run that has not ended.
    """
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    example = next(whole_nights(blank(), run.columns, batch_size=1))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        found = checkpoints.latest(jax.eval_shape(lambda: run.begin(example)), here)
    finally:
        checkpoints.close()
    if found is None:
        raise TrainingError(f"{workdir}: no checkpoint here.", "Train first.")
    step, progress = found
    if step < run.train.steps:
        raise TrainingError(
            f"{workdir}: stopped at step {step} of {run.train.steps}{checkpoints.damage}.",
            "Give the command that started it again: it goes on from there.",
        )
    return progress.best
