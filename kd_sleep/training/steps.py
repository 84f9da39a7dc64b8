"""The train step: one jitted, donated function from (state, batch) to (state, metrics).

Imports jax, flax and optax only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state

from kd_sleep.config import DistillConfig, TrainConfig
from kd_sleep.losses import distillation_loss

Batch = dict[str, Any]  # arrays by name; a batch always has `valid_BL` and `label`
LossOf = Callable[[jax.Array, Batch], tuple[jax.Array, dict[str, jax.Array]]]


class TrainState(train_state.TrainState):
    """Linen's train state, with the key that dropout folds the step into."""

    key: jax.Array


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


def create_state(module: nn.Module, config: TrainConfig, batch: Batch) -> TrainState:
    """Parameters and optimiser state, drawn from `config.seed`."""
    key, init_key = jax.random.split(jax.random.PRNGKey(config.seed))
    params = jax.jit(module.init)(init_key, batch)["params"]
    return TrainState.create(
        apply_fn=module.apply, params=params, tx=make_optimizer(config), key=key
    )


def make_train_step(
    loss_of: LossOf,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """A jitted step; the state passed in is donated and must not be used again.

    Args:
      loss_of: (logits_BLK, batch) -> (loss, scalars to log).
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        dropout = jax.random.fold_in(state.key, state.step)

        def objective(params):
            logits = state.apply_fn(
                {"params": params}, batch, train=True, rngs={"dropout": dropout}
            )
            return loss_of(logits, batch)

        (loss, scalars), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient), **scalars}
        return state.apply_gradients(grads=gradient), metrics

    return jax.jit(step, donate_argnums=0)


def make_predict(module: nn.Module) -> Callable[[Any, Batch], jax.Array]:
    """A jitted (params, batch) -> logits_BLK, without dropout."""
    return jax.jit(lambda params, batch: module.apply({"params": params}, batch))


def hard_label_loss(logits_BLK: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The teacher's loss: cross-entropy, weighted by how much of each window has NN intervals."""
    loss, aux = distillation_loss(
        logits_BLK, logits_BLK, batch["label"], alpha=1.0, label_weights=1.0 - batch["rr_missing"]
    )
    return loss, {"cross_entropy": aux["cross_entropy"]}


def make_distillation_loss(config: DistillConfig) -> LossOf:
    """The student's loss. Windows without BCG teach nothing, nor does a teacher without beats."""

    def loss_of(logits_BLK: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        seen = batch["valid_BL"] * (1.0 - batch["bcg_missing"])
        loss, aux = distillation_loss(
            logits_BLK,
            batch["teacher_logits"],
            batch["label"],
            alpha=config.alpha,
            temperature=config.temperature,
            label_weights=seen,
            kl_weights=seen * (1.0 - batch["rr_missing"]),
        )
        labelled = jnp.mean(aux["label_weight"] / jnp.maximum(jnp.sum(seen), 1.0))
        scalars = {
            "cross_entropy": aux["cross_entropy"],
            "kl": aux["kl"],
            "labelled_share": labelled,
        }
        return loss, scalars

    return loss_of
