"""The train step: one jitted, donated function from (state, batch) to (state, metrics).

Imports jax, flax and optax only.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state
from jax.sharding import Mesh, NamedSharding

from kd_sleep.config import DistillConfig, TrainConfig
from kd_sleep.datasets.batches import Sequences, gather, masked, windows_of
from kd_sleep.losses import Direction, cross_entropy, distillation_loss, weighted_mean
from kd_sleep.training.mesh import AXIS, by_members, replicated, sharded

Batch = dict[str, Any]  # arrays by name; a batch always has `valid_BL` and `label`
Scalars = dict[str, jax.Array]
Update = Callable[["TrainState", Batch], tuple["TrainState", Scalars]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss in two halves, so that the parts of a batch have the loss of the batch.

    Attributes:
      weigh: batch -> `label_weights` and `kl_weights`, [B, L] each.
      loss: (logits_BLK, batch with these weights and their totals, settings) -> the loss and
        scalars to log, each of them a sum over the batch's parts.
    """

    weigh: Callable[[Batch], Scalars]
    loss: Callable[[jax.Array, Batch, Scalars], tuple[jax.Array, Scalars]]


class TrainState(train_state.TrainState):
    """Linen's train state, and:

    Attributes:
      key: dropout folds the step into it.
      settings: scalars of the loss that differ between the members of a sweep.
      average: exponential moving average of the parameters, or None.
    """

    key: jax.Array
    settings: Scalars
    average: Any

    @property
    def kept(self) -> Any:
        """The parameters that are evaluated and kept."""
        return self.params if self.average is None else self.average


def on_batch(module: Any, batch: Batch, **how: Any) -> Any:
    """A network on what it reads of a batch: `module.apply(variables, batch, method=on_batch)`."""
    return module(*module.inputs(batch), **how)


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW under a clipped global norm; linear warm-up, then cosine decay to 0 at the end."""
    warmup = max(1, round(config.steps * config.warmup_share))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(config.steps, warmup + 1)
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )


def create_state(
    module: nn.Module,
    config: TrainConfig,
    batch: Batch,
    settings: Mapping[str, jax.typing.ArrayLike] | None = None,
    seed: jax.typing.ArrayLike | None = None,
    params: Any = None,
) -> TrainState:
    """Parameters, drawn where none are given, and optimiser state.

    `settings` and `seed` (else the config's) may be traced.
    """
    key, init_key = jax.random.split(jax.random.PRNGKey(config.seed if seed is None else seed))
    if params is None:
        params = module.init(init_key, batch, method=on_batch)["params"]
    state = TrainState.create(
        apply_fn=module.apply,
        params=jax.tree.map(jnp.asarray, params),
        tx=make_optimizer(config),
        key=key,
        settings={name: jnp.float32(value) for name, value in (settings or {}).items()},
        # Its own arrays: a state is donated, and no buffer can be given away twice.
        average=jax.tree.map(jnp.copy, params) if config.ema_decay else None,
    )
    return state.replace(step=jnp.int32(0))  # as it will be after a step: one trace, not two


def make_update(objective: Objective, config: TrainConfig) -> Update:
    """The step as a pure function, to be jitted, scanned or mapped over members.

    The batch is computed in `config.accumulate` parts. Weights are summed over the whole batch
    first, so the parts' gradients add up to the batch's to rounding, whatever their masks.
    """

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        key = jax.random.fold_in(state.key, state.step)
        dropout_key = jax.random.split(key)[1]
        weights = objective.weigh(batch)
        totals = {f"{name}_total": jnp.sum(weight) for name, weight in weights.items()}

        def objective_of(params: Any, part: Batch, dropout: jax.Array):
            logits = state.apply_fn(
                {"params": params}, part, train=True, rngs={"dropout": dropout}, method=on_batch
            )
            return objective.loss(logits, {**part, **totals}, state.settings)

        def value_and_gradient(part: Batch, number: jax.typing.ArrayLike):
            dropout = jax.random.fold_in(dropout_key, number)
            return jax.value_and_grad(objective_of, has_aux=True)(state.params, part, dropout)

        batch = {**batch, **weights}
        if config.accumulate == 1:
            (loss, scalars), gradient = value_and_gradient(batch, 0)
        else:
            (loss, scalars), gradient = _sum_over(value_and_gradient, batch, config.accumulate)
        with jax.numpy_dtype_promotion("standard"):  # Optax's schedules divide an int32 step
            state = state.apply_gradients(grads=gradient)
        if state.average is not None:
            average = optax.incremental_update(state.params, state.average, 1.0 - config.ema_decay)
            state = state.replace(average=average)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient), **scalars}
        return state, metrics

    return update


def _parts(batch: Batch, count: int) -> Batch:
    """[B, ...] as [count, B / count, ...]; rows dealt out, so that no device idles in a part."""

    def in_parts(array: jax.Array) -> jax.Array:
        rows = array.shape[0] // count
        if rows * count != array.shape[0]:
            raise ValueError(f"accumulate={count}: does not divide a batch of {array.shape[0]}")
        return jnp.swapaxes(jnp.reshape(array, (rows, count, *array.shape[1:])), 0, 1)

    return {name: in_parts(array) for name, array in batch.items()}


def _sum_over(function: Callable, batch: Batch, count: int) -> Any:
    """The sum of function(part, its number) over the parts of a batch."""
    parts = _parts(batch, count)

    def add(total, numbered):
        return jax.tree.map(jnp.add, total, function(*numbered)), None

    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts), 0)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    # Unrolled on a CPU, where gradients of convolutions inside a loop are 70 times slower.
    unroll = count if jax.default_backend() == "cpu" else 1
    return jax.lax.scan(add, zeros, (parts, jnp.arange(count)), unroll=unroll)[0]


def over_members(function: Callable, members: int) -> Callable:
    """`function(state, batch)` for states stacked along a first axis, if there are members."""
    return jax.vmap(function, in_axes=(0, None)) if members else function


def shardings(mesh: Mesh, members: int = 0) -> tuple[NamedSharding, NamedSharding]:
    """Of a state and of a batch."""
    both = sharded(mesh), replicated(mesh)
    return both if by_members(mesh, members) else both[::-1]


def make_train_step(
    objective: Objective, config: TrainConfig, mesh: Mesh, *, members: int = 0
) -> Update:
    """A jitted step on a batch as `mesh.put` lays it; the state passed in must not be used again.

    With `members`, state and metrics have a first axis, and all members see the same batch.
    """
    update = over_members(make_update(objective, config), members)
    return _jitted_step(update, mesh, members, shardings(mesh, members)[1:])


def make_resident_step(
    objective: Objective, config: TrainConfig, mesh: Mesh, *, members: int = 0
) -> Callable[[TrainState, Batch, Sequences], tuple[TrainState, Scalars]]:
    """As `make_train_step`, for columns [W, ...] that lie on the devices, sharded.

    Takes the sequences of n batches, [n, B] each, and makes n steps in one dispatch; the metrics
    are those of the last.
    """
    update = over_members(make_update(objective, config), members)
    _, batch_sharding = shardings(mesh, members)

    def advance(state: TrainState, columns: Batch, sequences: Sequences):
        def one(state: TrainState, where: Sequences):
            batch = gather_sharded(columns, where, config.sequence_windows, mesh, batch_sharding)
            return update(state, batch)

        count = sequences.begin.shape[0]
        unroll = count if jax.default_backend() == "cpu" else 1
        state, metrics = jax.lax.scan(one, state, sequences, unroll=unroll)
        return state, jax.tree.map(lambda x: x[-1], metrics)

    return _jitted_step(advance, mesh, members, (sharded(mesh), replicated(mesh)))


def _jitted_step(
    step: Callable, mesh: Mesh, members: int, inputs: tuple[NamedSharding, ...]
) -> Callable:
    state, _ = shardings(mesh, members)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state, *inputs),
        out_shardings=(state, replicated(mesh)),
        compiler_options=compiler_options(),
    )


def gather_sharded(
    columns: Batch,
    where: Sequences,
    length: int,
    mesh: Mesh,
    batch_sharding: NamedSharding | None = None,
) -> Batch:
    """`gather` from sharded columns; the batch is sharded, too, unless another sharding is given.

    Every device takes what it holds of all B sequences, 0 elsewhere; a sum that leaves each device
    its own rows combines them. No device ever holds a complete column.
    """
    if mesh.size == 1:
        return gather(columns, where, length)
    spec = sharded(mesh).spec
    out_spec = (batch_sharding or sharded(mesh)).spec

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(spec, replicated(mesh).spec), out_specs=out_spec
    )
    def collected(held: Batch, where: Sequences) -> Batch:
        low = jax.lax.axis_index(AXIS) * held["label"].shape[0]
        high = low + held["label"].shape[0]
        index, _ = windows_of(where, length)
        mine = (index >= low) & (index < high)

        def own_rows(column: jax.Array) -> jax.Array:
            taken = column[jnp.where(mine, index - low, 0)]
            # Collectives know 32 bits everywhere, and 8 or 16 on some machines alone.
            real = jnp.issubdtype(taken.dtype, jnp.floating)
            wide = taken.astype(jnp.float32 if real else jnp.int32)
            wide = jnp.where(jnp.expand_dims(mine, range(2, wide.ndim)), wide, 0)
            if out_spec == spec:
                return jax.lax.psum_scatter(wide, AXIS, tiled=True).astype(column.dtype)
            return jax.lax.psum(wide, AXIS).astype(column.dtype)

        return jax.tree.map(own_rows, held)

    return masked(collected(columns, where), windows_of(where, length)[1])


def make_predict(
    module: nn.Module, mesh: Mesh, *, members: int = 0
) -> Callable[[Any, Batch], jax.Array]:
    """A jitted (params, batch cut over the mesh) -> logits_BLK on every device, without dropout."""

    def logits(params: Any, batch: Batch) -> jax.Array:
        logits_BLK = module.apply({"params": params}, batch, method=on_batch)
        assert isinstance(logits_BLK, jax.Array)  # and no mutable collections
        return logits_BLK

    return jax.jit(
        over_members(logits, members),
        in_shardings=shardings(mesh, members),
        out_shardings=replicated(mesh),
        compiler_options=compiler_options(),
    )


@functools.cache
def compiler_options() -> dict[str, str]:
    """What makes XLA's code for a CPU a third faster here: no library fusions (BUILD_NOTES.md).

    They cut chains of element-wise operations apart. Left alone where XLA does not know the option.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(np.float32(0))
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def hard_label_objective() -> Objective:
    """The teacher's: cross-entropy, weighted by how much of each window has NN intervals."""

    def weigh(batch: Batch) -> Scalars:
        return {"label_weights": jnp.where(batch["label"] >= 0, 1.0 - batch["rr_missing"], 0.0)}

    def loss(logits_BLK, batch, settings):
        ce = weighted_mean(
            cross_entropy(logits_BLK, batch["label"]),
            batch["label_weights"],
            batch["label_weights_total"],
        )
        return ce, {"cross_entropy": ce}

    return Objective(weigh, loss)


def distillation_objective(config: DistillConfig) -> Objective:
    """The student's. A window's weight is its share with BCG; the divergence also needs RR.

    `alpha`, `temperature` and `label_smoothing` are read from the state's settings
    (`loss_settings`), so that members of a sweep may have their own.
    """

    def weigh(batch: Batch) -> Scalars:
        seen = jnp.where(batch["valid_BL"], 1.0 - batch["bcg_missing"], 0.0)
        return {
            "seen": seen,
            "label_weights": jnp.where(batch["label"] >= 0, seen, 0.0),
            "kl_weights": seen * (1.0 - batch["rr_missing"]),
        }

    def loss(logits_BLK, batch, settings):
        value, aux = distillation_loss(
            logits_BLK,
            jnp.moveaxis(batch["teacher_logits"], -2, 0),  # [M, B, L, K]
            batch["label"],
            settings["alpha"],
            settings["temperature"],
            label_weights=batch["label_weights"],
            kl_weights=batch["kl_weights"],
            label_total=batch["label_weights_total"],
            kl_total=batch["kl_weights_total"],
            direction=cast(Direction, config.direction),
            label_smoothing=settings.get("label_smoothing", 0.0),
        )
        labelled = jnp.sum(batch["label_weights"]) / jnp.maximum(batch["seen_total"], 1.0)
        kept = {name: aux[name] for name in ("cross_entropy", "kl")}
        return value, kept | {"labelled_share": labelled}

    return Objective(weigh, loss)


def loss_settings(config: DistillConfig) -> Scalars:
    """The settings that `distillation_objective` reads from the state."""
    settings = {"alpha": config.alpha, "temperature": config.temperature}
    if config.label_smoothing:  # left out where it would only cost arithmetic
        settings["label_smoothing"] = config.label_smoothing
    return {name: jnp.float32(value) for name, value in settings.items()}
