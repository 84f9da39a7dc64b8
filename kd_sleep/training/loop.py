"""The training loop: same steps, same checkpoints, same resume for teacher, student and sweep."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
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
from kd_sleep.config import AugmentConfig, ExecutionConfig, TrainConfig
from kd_sleep.datasets.batches import Crops, whole_nights
from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import Stopped, TrainingError
from kd_sleep.provenance import provenance, read_json, write_json
from kd_sleep.stages import NUM_STAGES
from kd_sleep.training import feeds
from kd_sleep.training.checkpoints import (
    COPY_AGAIN,
    Checkpoints,
    Progress,
    keep_best,
    start_of,
)
from kd_sleep.training.mesh import by_members, data_mesh, local_rows, put, whole
from kd_sleep.training.meter import Meter
from kd_sleep.training.metrics_log import MetricsLog
from kd_sleep.training.seen_subjects import TRAINED_ON
from kd_sleep.training.steps import (
    Batch,
    Objective,
    Scalars,
    create_state,
    make_predict,
    make_resident_step,
    make_train_step,
    shardings,
)

KAPPA = "validation_kappa"
PROFILED_STEPS = 10
_LAUNCHERS = {"teacher": "train_teacher", "student": "distill_student", "sweep": "sweep"}


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training run is: everything that `fit` needs beside the data.

    Attributes:
      kind: "teacher", "student" or "sweep".
      module: the network.
      columns: fields of `Nights` that the network reads at use, and what its scores need.
      objective: the loss on a batch.
      train: steps, batch, optimiser.
      settings: all configs of the run as plain JSON; a work folder serves one set of settings.
      loss_settings: scalars that the objective reads; in a sweep [M] each.
      seeds: [M] of a sweep's members; None for a run of one.
      augmentation: what is done to the BCG of training batches.
    """

    kind: str
    module: nn.Module
    columns: tuple[str, ...]
    objective: Objective
    train: TrainConfig
    settings: dict[str, Any]
    loss_settings: Scalars = dataclasses.field(default_factory=dict)
    seeds: NDArray[np.int64] | None = None
    augmentation: AugmentConfig = AugmentConfig()  # noqa: RUF009 - frozen

    @property
    def members(self) -> int:
        """How many in a sweep; 0 for a run of one."""
        return 0 if self.seeds is None else len(self.seeds)

    def begin(self, batch: Batch) -> Progress:
        """The progress before the first step, to be jitted or looked at by shape."""
        if self.seeds is None:
            return start_of(create_state(self.module, self.train, batch, self.loss_settings))

        def member(settings: Scalars, seed: jax.Array) -> Progress:
            return start_of(create_state(self.module, self.train, batch, settings, seed))

        return jax.vmap(member)(self.loss_settings, jax.numpy.asarray(self.seeds))


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
    nights: Nights,
    validation: Nights,
    workdir: Path,
    execution: ExecutionConfig,
    more_columns: Mapping[str, NDArray] | None = None,
) -> Progress:
    """Trains, or goes on training, in `workdir`.

    The same command on the same folder goes on after the last checkpoint and ends with the same
    parameters as a run that was never stopped, wherever the dataset lies.

    Args:
      run: what to train.
      nights: training nights; BCG samples that they lack are streamed from their dataset.
      validation: nights whose kappa tells the best parameters.
      workdir: settings.json, metrics.jsonl, performance.jsonl, tensorboard/ and checkpoints/ go
        here.
      execution: where the dataset lies, whether to profile.
      more_columns: [W, ...] that the objective reads beside the network's, such as teacher logits.

    Returns:
      The progress at the last step, on the host; its `best` are the parameters to use.

    Raises:
      TrainingError: other settings or other data in `workdir`, no scored validation night, or a
        loss that is not finite.
      Stopped: SIGTERM came; everything is saved.
    """
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
    local_rows(mesh, config.batch_size, run.members)  # does it divide by the devices?
    claim(workdir, run.kind, run.settings)
    crops = Crops(nights.windows, config.batch_size, config.sequence_windows, config.batch_seed)
    feed, advance = _feed_and_step(run, nights, dict(more_columns or {}), crops, mesh, execution)
    example = next(whole_nights(validation, run.columns, batch_size=1))
    state_sharding, _ = shardings(mesh, run.members)
    begin = jax.jit(lambda: run.begin(example), out_shardings=state_sharding)
    keep = jax.jit(jax.vmap(keep_best) if run.members else keep_best, donate_argnums=0)
    validate = _validator(run, validation, mesh)

    checkpoints = Checkpoints(workdir / "checkpoints")
    step, progress = checkpoints.latest(jax.eval_shape(begin), state_sharding) or (0, begin())
    first_step = step
    log, meter = MetricsLog(workdir, first_step), Meter(config.batch_size * config.sequence_windows)
    profile = _Profile(workdir / "profile" if execution.profile else None, first_step + 1)
    bar = tqdm(
        total=config.steps,
        initial=first_step,
        desc=f"Training {workdir.name}",
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
                _assert_finite(previous, step, workdir)
                step += item.steps
                meter.steps += item.steps
                bar.update(item.steps)
                due = step % config.evaluate_every == 0 or step == config.steps
                stopping = _anyone(told(), due)
                if not (due or stopping):
                    continue
                _assert_finite(pending, step, workdir)
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
                checkpoints.save(step, progress)
                if stopping and step < config.steps:
                    raise Stopped(
                        f"{workdir}: stopped at step {step} of {config.steps}; all of it is saved.",
                        "The same command goes on from there.",
                    )
                meter.restart()
    finally:
        items.close()
        profile.stop()
        bar.close()
        log.close()
        checkpoints.close()
    # Members that lie on other hosts come here, too.
    return jax.device_get(jax.jit(lambda tree: tree, out_shardings=whole(mesh))(progress))


def _feed_and_step(
    run: Run,
    nights: Nights,
    more_columns: dict[str, NDArray],
    crops: Crops,
    mesh: Mesh,
    execution: ExecutionConfig,
) -> tuple[feeds.Feed, Callable]:
    """Batches, and the step that takes them, for where the dataset lies."""
    bcg_from = None
    names = [*run.columns, "label"]
    if "bcg" in names and nights.bcg is None:
        from kd_sleep.datasets.stream import stream_bcg  # Grain, which only this needs

        bcg_from = functools.partial(stream_bcg, nights, crops)
        names.remove("bcg")
    columns = nights.columns(tuple(names)) | more_columns
    arguments = (run.objective, run.train, mesh, run.augmentation)
    size = sum(column.nbytes for column in columns.values())
    if bcg_from is None and feeds.choose(execution.dataset_in, size, mesh) == "device":
        step = make_resident_step(*arguments, members=run.members)
        on_device = feeds.upload(columns, mesh)
        return feeds.resident_feed(on_device, crops, mesh, members=run.members), step
    return (
        feeds.host_feed(columns, crops, mesh, bcg_from, run.members),
        make_train_step(*arguments, members=run.members),
    )


def _validator(
    run: Run, validation: Nights, mesh: Mesh
) -> Callable[[Any], dict[str, NDArray[np.float64]]]:
    """parameters -> kappa and accuracy on validation; in a sweep [M] each."""
    predictor = make_predict(run.module, mesh, members=run.members)
    size = 4 if by_members(mesh, run.members) else mesh.size * max(1, 4 // mesh.size)
    rows = local_rows(mesh, size, run.members)

    def validate(params: Any) -> dict[str, NDArray[np.float64]]:
        members = run.members or 1
        counts = np.zeros((members, NUM_STAGES, NUM_STAGES), np.int64)
        for batch in whole_nights(validation, run.columns, size):
            local = {name: array[rows] for name, array in batch.items()}
            logits = jax.device_get(predictor(params, put(local, mesh, run.members)))
            for member, said in enumerate(logits.argmax(-1).reshape(members, -1)):
                counts[member] += scores.confusion_counts(batch["label"], said, NUM_STAGES)
        kappa = scores.kappa(counts)
        found = {
            # A model that says one stage only, on labels of one stage only, has no kappa.
            KAPPA: np.where(np.isfinite(kappa), kappa, 0.0),
            "validation_accuracy": scores.accuracy(counts),
        }
        return found if run.members else {name: value[0] for name, value in found.items()}

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


def _assert_finite(metrics: Scalars, step: int, workdir: Path) -> None:
    found = jax.device_get({name: metrics[name] for name in ("loss", "gradient_norm") if metrics})
    broken = [
        f"{name} is {value[~np.isfinite(value)][0]}"
        for name, value in ((name, np.atleast_1d(value)) for name, value in found.items())
        if not np.isfinite(value).all()
    ]
    if broken:
        raise TrainingError(
            f"{workdir}: {' and '.join(broken)} at step {step}.",
            "Lower --learning_rate, or look for windows that are not finite in the dataset.",
        )


def claim(workdir: Path, kind: str, settings: dict[str, Any]) -> None:
    """Writes a run's settings, or makes sure that those in the folder are the same.

    What only describes the data is brought up to date: older runs say less of it.
    """
    path = workdir / "settings.json"
    if path.exists():
        found = _read(path)
        if found["kind"] != kind:
            raise TrainingError(f"{workdir} holds a {found['kind']}.", "Name another --workdir.")
        there, here = _flat(found["settings"]), _flat(settings)
        differing = [
            f"{name} ({_shown(there.get(name))} there, {_shown(here.get(name))} here)"
            for name in sorted({*there, *here})
            if there.get(name) != here.get(name)
        ]
        if differing:
            raise TrainingError(
                f"{workdir} holds a {found['kind']} with other settings: {', '.join(differing)}.",
                "Go on with the same flags, or name another --workdir.",
            )
        if found["settings"] != settings and jax.process_index() == 0:  # words on the same data
            write_json(path, found | {"settings": settings})
    elif jax.process_index() == 0:
        write_json(path, {"kind": kind, "settings": settings, **provenance()})


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by the names of their flags, but for what only describes the data."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if name != TRAINED_ON:
            flat |= value if isinstance(value, dict) else {name: value}
    return flat


def _shown(value: Any) -> str:
    """A setting as a person can compare it: digests cut short, members of a sweep in brief."""
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    if isinstance(value, dict):
        return "/".join(map(str, value.values()))
    return value[:8] if isinstance(value, str) else str(value)


def settings_of(workdir: Path, kind: str) -> dict[str, Any]:
    """The settings of a trained run.

    Raises:
      TrainingError: no run of that kind in the folder, or damaged settings.
    """
    path = workdir / "settings.json"
    found: dict[str, Any] = {"kind": "nothing trained"}
    if path.exists():
        found = _read(path)
    if found["kind"] != kind:
        raise TrainingError(
            f"{workdir}: expected a trained {kind}, found {found['kind']}.",
            f"Train one with `kd-sleep {_LAUNCHERS[kind]}`.",
        )
    for part in ("model", "train"):
        if not isinstance(found["settings"].get(part), dict):
            raise TrainingError(f"{path}: is damaged, it has no {part}.", COPY_AGAIN)
    return found["settings"]


def _read(path: Path) -> dict[str, Any]:
    """A settings.json."""
    found = read_json(path, COPY_AGAIN)
    if not isinstance(found.get("kind"), str) or not isinstance(found.get("settings"), dict):
        raise TrainingError(f"{path}: is damaged, it has no kind or no settings.", COPY_AGAIN)
    return found


def load_best(run: Run, nights: Nights, workdir: Path) -> Any:
    """The best parameters in a run's folder.

    Args:
      run: the same as when it was trained.
      nights: any, for the shapes of their columns.
      workdir: the folder.

    Raises:
      TrainingError: no sound checkpoint, one of another architecture, or a run that has not ended.
    """
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    example = next(whole_nights(nights, run.columns, batch_size=1))
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
