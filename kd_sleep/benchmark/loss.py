"""The loss alone: value and gradient on many windows, against the same by hand and in PyTorch."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_sleep.benchmark.machine import cores
from kd_sleep.benchmark.step import COMPILED, EAGER, why_no_torch
from kd_sleep.benchmark.timing import Peer, Row, compared, in_turns
from kd_sleep.losses import distillation_loss
from kd_sleep.stages import NUM_STAGES

PART = "loss"
WINDOWS = 65_536
ALPHA, T = 0.3, 4.0
BY_HAND = "one jnp expression by hand"
AIMS = {BY_HAND: 1.0, EAGER: 2.0, COMPILED: 1.0}


def measure(repeats: int, windows: int = WINDOWS) -> list[Row]:
    """A row to each peer."""
    case = synthetic(windows)
    on_device = jax.device_put(case)
    jitted = {
        "ours": jax.jit(jax.value_and_grad(ours)),
        BY_HAND: jax.jit(jax.value_and_grad(by_hand)),
    }
    peers: dict[str, Peer] = {
        name: functools.partial(function, *on_device) for name, function in jitted.items()
    }
    absent = why_no_torch()
    if not absent:
        peers |= torch_peers(case)
    times = in_turns(peers, repeats)
    what = f"loss, value and gradient, {windows:,} windows"
    note = {BY_HAND: "", EAGER: "theirs: torchdistill's, without weights", COMPILED: "likewise"}
    return [
        Row(PART, what, name, aim, note=absent)
        if name not in times
        else compared(PART, what, name, times["ours"], times[name], aim, note[name])
        for name, aim in AIMS.items()
    ]


class Case(NamedTuple):
    """Arguments of the losses; some labels are absent."""

    student: Any
    teacher: Any
    labels: Any
    label_weights: Any
    kl_weights: Any


def synthetic(windows: int) -> Case:
    """Noise."""
    rng = np.random.default_rng(0)
    return Case(
        student=rng.standard_normal((windows, NUM_STAGES), np.float32),
        teacher=2.0 * rng.standard_normal((windows, NUM_STAGES), np.float32),
        labels=rng.integers(-1, NUM_STAGES, windows, np.int8),
        label_weights=rng.random(windows, np.float32),
        kl_weights=rng.random(windows, np.float32),
    )


def ours(student, teacher, labels, label_weights, kl_weights) -> jax.Array:
    """The package's loss."""
    weights = {"label_weights": label_weights, "kl_weights": kl_weights}
    return distillation_loss(student, teacher, labels, ALPHA, T, **weights)[0]


def by_hand(student, teacher, labels, label_weights, kl_weights) -> jax.Array:
    """The same for finite logits and valid labels: nothing is checked, nothing made safe."""
    log_q = jax.nn.log_softmax(student)
    one_hot = jax.nn.one_hot(labels, NUM_STAGES, dtype=log_q.dtype)
    label_weights = jnp.where(labels >= 0, label_weights, 0.0)
    ce = -jnp.sum(label_weights[:, None] * one_hot * log_q) / jnp.sum(label_weights)
    log_p, log_q = jax.nn.log_softmax(teacher / T), jax.nn.log_softmax(student / T)
    kl = jnp.sum(kl_weights[:, None] * jnp.exp(log_p) * (log_p - log_q)) / jnp.sum(kl_weights)
    return ALPHA * ce + (1.0 - ALPHA) * T**2 * kl


def torch_peers(case: Case) -> dict[str, Peer]:
    """torchdistill's loss, forward and backward."""
    import torch

    from kd_sleep.benchmark import torch_peer

    torch_peer.use_threads(cores())
    student, teacher, labels = (
        torch.tensor(array).to(torch_peer.device_like(jax.default_backend())) for array in case[:3]
    )
    labels = labels.long()
    student.requires_grad_()
    loss = torch_peer.KDLoss(T, ALPHA)

    def peer(function: Any) -> Peer:
        def call() -> torch.Tensor:
            student.grad = None
            value = function(student, teacher, labels)
            value.backward()
            return value.detach()

        return call

    return {EAGER: peer(loss), COMPILED: peer(torch.compile(loss))}
