"""Speed of training: the loss, the student's step, the loop's feed, a sweep."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

import kd_sleep
from kd_sleep.benchmark.synthetic import (
    COHORT_NIGHTS,
    Training,
    begin,
    example_batch,
    sizes,
    student,
    sweep_of,
    synthetic_nights,
    training_set,
)
from kd_sleep.benchmark.timing import Peer, Row, compared, in_turns
from kd_sleep.config import ExecutionConfig, Preset
from kd_sleep.losses import distillation_loss
from kd_sleep.stages import NUM_STAGES
from kd_sleep.training.loop import fit
from kd_sleep.training.mesh import data_mesh, put
from kd_sleep.training.metrics_log import SPEED, read_metrics
from kd_sleep.training.run import Run
from kd_sleep.training.steps import Batch, make_train_step

EAGER, COMPILED = "PyTorch, eager", "PyTorch, torch.compile"
BY_HAND = "one jnp expression by hand"
MEMBERS, SMALL_WIDTH = 16, 16
ALPHA, T = 0.3, 4.0


class LossCase(NamedTuple):
    """Arguments of the losses, [N, K] and [N]; some labels are absent."""

    student: Any
    teacher: Any
    labels: Any
    label_weights: Any
    kl_weights: Any


def loss_case(windows: int) -> LossCase:
    """Noise."""
    rng = np.random.default_rng(0)
    return LossCase(
        student=rng.standard_normal((windows, NUM_STAGES), np.float32),
        teacher=2.0 * rng.standard_normal((windows, NUM_STAGES), np.float32),
        labels=rng.integers(-1, NUM_STAGES, windows, np.int8),
        label_weights=rng.random(windows, np.float32),
        kl_weights=rng.random(windows, np.float32),
    )


def package_loss(student, teacher, labels, label_weights, kl_weights) -> jax.Array:
    """The package's loss."""
    weights = {"label_weights": label_weights, "kl_weights": kl_weights}
    return distillation_loss(student, teacher, labels, ALPHA, T, **weights)[0]


def loss_by_hand(student, teacher, labels, label_weights, kl_weights) -> jax.Array:
    """The same for finite logits and valid labels: nothing is checked, nothing made safe."""
    log_q = jax.nn.log_softmax(student)
    one_hot = jax.nn.one_hot(labels, NUM_STAGES, dtype=log_q.dtype)
    label_weights = jnp.where(labels >= 0, label_weights, 0.0)
    ce = -jnp.sum(label_weights[:, None] * one_hot * log_q) / jnp.sum(label_weights)
    log_p, log_q = jax.nn.log_softmax(teacher / T), jax.nn.log_softmax(student / T)
    kl = jnp.sum(kl_weights[:, None] * jnp.exp(log_p) * (log_p - log_q)) / jnp.sum(kl_weights)
    return ALPHA * ce + (1.0 - ALPHA) * T**2 * kl


def loss(repeats: int, windows: int = 65_536) -> list[Row]:
    """The loss alone, value and gradient, against the same by hand and torchdistill's."""
    case = loss_case(windows)
    on_device = jax.device_put(case)
    peers: dict[str, Peer] = {
        name: functools.partial(jax.jit(jax.value_and_grad(function)), *on_device)
        for name, function in (("ours", package_loss), (BY_HAND, loss_by_hand))
    }

    def on_torch(compiled: bool) -> Peer:
        from kd_sleep.benchmark import torch_peer

        return torch_peer.loss_step(case.student, case.teacher, case.labels, ALPHA, T, compiled)

    found, absent = torch_peers(on_torch)
    times = in_turns(peers | found, repeats)
    what = f"loss, value and gradient, {windows:,} windows"
    rows = [compared("loss", what, BY_HAND, times["ours"], times[BY_HAND], 1.0)]
    for name, aim in ((EAGER, 2.0), (COMPILED, 1.0)):
        if name in absent:
            rows.append(Row("loss", what, name, aim, note=absent[name]))
        else:
            note = "theirs: torchdistill's, without weights"
            rows.append(compared("loss", what, name, times["ours"], times[name], aim, note))
    return rows


def step(preset: Preset, repeats: int) -> list[Row]:
    """The student's train step (forward, backward, clip, AdamW) against the same in PyTorch."""
    run = student(preset)
    batch = example_batch(run)
    ours = Training(run, batch)

    def on_torch(compiled: bool) -> Peer:
        from kd_sleep.benchmark import torch_peer

        return torch_peer.Training(preset, ours.state.params, batch, compiled=compiled)

    found, absent = torch_peers(on_torch)
    times = in_turns({"ours": ours, **found}, repeats)
    what = f"student train step, {sizes(run)}"
    rows = [compared("step", what, name, times["ours"], times[name], 1.5) for name in found]
    return rows + [Row("step", what, name, 1.5, note=why) for name, why in absent.items()]


def torch_peers(make: Callable[[bool], Peer]) -> tuple[dict[str, Peer], dict[str, str]]:
    """PyTorch peers by name, of `make(compiled)`; and why others cannot be had."""
    if importlib.util.find_spec("torch") is None:
        why = "torch is not installed (pip install 'kd_sleep[benchmark]')"
        return {}, dict.fromkeys((EAGER, COMPILED), why)
    peers, absent = {}, {}
    for name in (EAGER, COMPILED):
        try:
            peer = make(name == COMPILED)
            peer()
        except (RuntimeError, NotImplementedError) as error:
            # Settings without a peer; torch.compile without a C++ compiler, or Triton.
            absent[name] = f"failed: {str(error).strip().splitlines()[0]}"
        else:
            peers[name] = peer
    return peers, absent


def loop_input(preset: Preset, repeats: int, nights: int = COHORT_NIGHTS) -> list[Row]:
    """Windows a second in `training.loop.fit` on nights of noise, and the share spent waiting."""
    run = student(preset)
    every = min(100, run.train.evaluate_every)  # steps in a reading
    train = dataclasses.replace(run.train, steps=every * (repeats + 1), evaluate_every=every)
    run = dataclasses.replace(run, train=train)
    alone = {"alone": Training(run, example_batch(run))}
    seconds = [in_turns(alone, repeats)["alone"]]  # before, and after
    data = training_set(synthetic_nights(nights), synthetic_nights(1, 64, seed=1))
    with tempfile.TemporaryDirectory() as folder:
        fit(run, data, Path(folder), ExecutionConfig(dataset_in="host"))
        readings = read_metrics(Path(folder), SPEED)[1:]  # the first one starts the feed
    seconds.append(in_turns(alone, repeats)["alone"])
    windows = train.batch_size * train.sequence_windows
    alone_s = np.full(len(readings), np.median(np.concatenate(seconds)))
    loop_s = np.array([windows / reading["windows_per_s"] for reading in readings])
    waiting = float(np.median([reading["waiting_share"] for reading in readings]))
    return [
        compared(
            "input", f"loop on {nights} nights in the host's memory", "the step alone", loop_s,
            alone_s, 0.95, "the step alone before and after the loop", windows, "windows/s",
        ),
        Row("input", "share of the loop's time spent waiting for input", ours=waiting, unit=""),
    ]  # fmt: skip


def sweep(preset: Preset, repeats: int, members: int = MEMBERS) -> list[Row]:
    """Members in one step against as many single steps; then all steps, with start and compiling.

    Alpha, temperature and seed are arguments of the step: who trains the members one by one in one
    process starts and compiles once. Who starts a process each does so every time. Both are rows.
    """
    rows, start, mesh = [], seconds_to_start(), data_mesh()
    for width in dict.fromkeys((preset.student.width, SMALL_WIDTH)):
        run = student(preset, width)
        batch, together = example_batch(run), sweep_of(run, members)
        compile_one, compile_all = (seconds_to_compile(r, batch) for r in (run, together))
        peers = {"together": Training(together, batch, mesh), "one": Training(run, batch, mesh)}
        times = in_turns(peers, repeats)
        # A run's steps wait for one another: so many of them take so many times as long.
        all_s, one_s = times["together"], members * times["one"]
        steps = run.train.steps
        total_s = start + compile_all + steps * all_s
        what = f"{members} members in one step, {sizes(run)}"
        rows.append(compared("sweep", what, "single steps", all_s, one_s, 1.0))
        for peer, starts in (("one by one in one process", 1), (f"{members} processes", members)):
            peer_s = starts * (start + compile_one) + steps * one_s
            note = (
                f"computed from start {start:.1f} s, compile {compile_all:.1f} s (one member"
                f" {compile_one:.1f} s) and steps"
            )
            what = f"{members} members, {steps} steps, width {width}"
            rows.append(compared("sweep", what, peer, total_s, peer_s, 1.0, note))
    return rows


def seconds_to_compile(run: Run, batch: Batch) -> float:
    """To compile the start and the step of a run, as each process does that has no cache."""
    mesh, members = data_mesh(), len(run.members)
    with _no_compilation_cache():
        began = time.perf_counter()
        state = begin(run, batch, mesh)
        made: Any = make_train_step(run.objective, run.train, mesh, members=members)
        made.lower(state, put(batch, mesh, members)).compile()
        return time.perf_counter() - began


@contextlib.contextmanager
def _no_compilation_cache() -> Iterator[None]:
    name = "jax_enable_compilation_cache"
    before = getattr(jax.config, name)
    try:
        jax.config.update(name, False)
        compilation_cache.reset_cache()  # JAX looks at the setting once
        yield
    finally:
        jax.config.update(name, before)
        compilation_cache.reset_cache()


def seconds_to_start(times: int = 3) -> float:
    """Of a fresh process: importing the loop and starting the device; the median."""
    code = "import kd_sleep.training.loop, jax"
    if jax.default_backend() != "tpu":  # which belongs to one process at a time
        code += "; jax.numpy.zeros(1).block_until_ready()"
    # Beside this process on the same GPU: only what it needs of its memory.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(kd_sleep.__file__).parents[1], env=environment,
            check=True, capture_output=True,
        )  # fmt: skip
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))
