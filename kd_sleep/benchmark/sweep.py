"""Members of a sweep in one step, against as many single steps one after another."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

import kd_sleep
from kd_sleep.benchmark.subject import Training, begin, example_batch, sizes, student, sweep_of
from kd_sleep.benchmark.timing import Row, compared, in_turns
from kd_sleep.config import Preset
from kd_sleep.training.mesh import data_mesh, put
from kd_sleep.training.run import Run
from kd_sleep.training.steps import Batch, make_train_step

PART = "sweep"
MEMBERS = 16
SMALL_WIDTH = 16
ONE_BY_ONE = "single steps one after another"


def measure(preset: Preset, repeats: int, members: int = MEMBERS) -> list[Row]:
    """Rows for the preset's student and for a small one."""
    start = seconds_to_start()
    small = dataclasses.replace(
        preset, student=dataclasses.replace(preset.student, width=SMALL_WIDTH)
    )
    return [
        row
        for chosen in dict.fromkeys((preset, small))
        for row in compare(student(chosen), chosen.student.width, members, repeats, start)
    ]


def compare(run: Run, width: int, members: int, repeats: int, start: float) -> list[Row]:
    """The step alone, then the whole of the preset's steps, computed from measured parts."""
    batch, mesh = example_batch(run), data_mesh()
    together_run = sweep_of(run, members)
    compile_one, compile_many = (seconds_to_compile(r, batch) for r in (run, together_run))
    peers = {"together": Training(together_run, batch, mesh), "one": Training(run, batch, mesh)}
    times = in_turns(peers, repeats)
    # A run's steps wait for one another: so many of them take so many times as long.
    together, singly = times["together"], members * times["one"]
    what = f"{members} members in one step, {sizes(run)}, width {width}"
    steps = run.train.steps
    whole = start + compile_many + steps * together
    whole_singly = members * (start + compile_one) + steps * singly
    computed = (
        f"computed from measured parts: start {start:.1f} s; compile {compile_many:.1f} s against"
        f" {compile_one:.1f} s each"
    )
    return [
        compared(PART, what, ONE_BY_ONE, together, singly, 1.0),
        compared(
            PART, f"the whole of {steps} steps, width {width}", f"{members} runs, one by one",
            whole, whole_singly, 1.0, computed,
        ),
    ]  # fmt: skip


def seconds_to_compile(run: Run, batch: Batch) -> float:
    """To compile the start and the step of a run, as each process does that has no cache."""
    mesh = data_mesh()
    with _no_compilation_cache():
        began = time.perf_counter()
        state = begin(run, batch, mesh)
        step: Any = make_train_step(
            run.objective(), run.train, mesh, run.augment, members=len(run.members)
        )
        step.lower(state, put(batch, mesh, len(run.members))).compile()
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
            [sys.executable, "-c", code],
            cwd=Path(kd_sleep.__file__).parents[1],
            env=environment,
            check=True,
            capture_output=True,
        )
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))
