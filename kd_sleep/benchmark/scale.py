"""A dataset of SHHS's size in the device's memory: speed, and how near it comes to the machine's.

A few nights are repeated until the device holds so many. The roofline is measured in the same run:
a large matrix product in the student's compute dtype, and a copy for the memory's bandwidth. XLA's
own count of a step's arithmetic and bytes says what the machine could do at best.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from kd_sleep.benchmark.subject import (
    NIGHT_WINDOWS,
    SHHS_NIGHTS,
    begin,
    columns_of,
    crops_of,
    example_batch,
    student,
    sweep_of,
    synthetic_nights,
)
from kd_sleep.benchmark.timing import Row, compared, in_turns
from kd_sleep.config import Preset
from kd_sleep.datasets.batches import Crops, Sequences
from kd_sleep.training.feeds import DISPATCH_STEPS, SHARE_OF_DEVICE, Item, host_feed, resident_feed
from kd_sleep.training.mesh import cut, data_mesh, whole
from kd_sleep.training.run import Run
from kd_sleep.training.steps import Batch, make_resident_step, make_train_step

PART = "scale"
HOST_NIGHTS = 64  # a batch costs the host the same out of few nights as out of many
MEMBERS = 16


def measure(
    preset: Preset,
    repeats: int,
    nights: int = SHHS_NIGHTS,
    night_windows: int = NIGHT_WINDOWS,
    members: int = MEMBERS,
) -> list[Row]:
    """Rows for as many of these nights as fit on the device."""
    run, mesh = student(preset), data_mesh()
    host = synthetic_nights(min(nights, HOST_NIGHTS), night_windows)
    on_host = columns_of(run, host)
    night_bytes = sum(column.nbytes for column in on_host.values()) // len(host)
    held = nights_that_fit(nights, night_bytes, mesh)
    columns = repeated(on_host, held * night_windows, mesh)
    train = run.train
    crops = Crops(
        np.full(held, night_windows), train.batch_size, train.sequence_windows, train.batch_seed
    )
    # As `feeds.resident_feed`: there is no dispatch to spare on a CPU.
    many = 1 if jax.default_backend() == "cpu" else DISPATCH_STEPS

    with contextlib.ExitStack() as stack:

        def fed(run: Run, step: Callable, items: Iterator[Item]) -> Fed:
            stack.callback(items.close)  # type: ignore[attr-defined] # a generator with a thread
            return Fed(run, step, items, mesh)

        resident = resident_step(run, mesh)
        one = fed(run, resident, resident_items(columns, crops, mesh, many))
        step = make_train_step(run.objective(), train, mesh, run.augment)
        streamed = host_feed(on_host, crops_of(run, host), mesh)(0, 10**9, 10**9)
        times = in_turns({"one": one, "streamed": fed(run, step, streamed)}, repeats)
        ours = times["one"] / many
        seconds = float(np.median(ours))
        rate = train.batch_size * train.sequence_windows / seconds
        a_pass = crops.before(1) / train.batch_size * seconds
        of_all = "" if held == nights else f" of {nights:,}, what fits;"
        rows = [
            compared(
                PART, f"step from {held:,} nights on the device", "batches streamed from the host",
                ours, times["streamed"], 1.0,
                f"{held:,} nights{of_all} {many} steps a dispatch; {rate:,.0f} windows/s",
            ),
            Row(PART, f"a pass over {held:,} nights", ours=a_pass),
            against_roofline(run, one, columns, crops, mesh, seconds),
        ]  # fmt: skip

        what, peer = f"{members} members in one step, from the device", "a lone run's steps"
        sweep = sweep_of(run, members)
        try:
            together = fed(
                sweep, resident_step(sweep, mesh), resident_items(columns, crops, mesh, many)
            )
            times = in_turns({"one": one, "together": together}, repeats)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return [*rows, Row(PART, what, peer, 1.0, note="does not fit in the device's memory")]
        together_s, singly_s = times["together"] / many, members * times["one"] / many
        note = f"per step of all {members}"
        return [*rows, compared(PART, what, peer, together_s, singly_s, 1.0, note)]


class Fed:
    """A run that takes the next item of its feed whenever it is called."""

    def __init__(self, run: Run, step: Callable, items: Iterator[Item], mesh: Mesh):
        self.step: Any = step
        self.items = items
        self.state = begin(run, example_batch(run), mesh)

    def __call__(self) -> Any:
        self.state, metrics = self.step(self.state, *next(self.items).arguments)
        return metrics


def resident_step(run: Run, mesh: Mesh) -> Any:
    return make_resident_step(
        run.objective(), run.train, mesh, run.augment, members=len(run.members)
    )


def resident_items(columns: Batch, crops: Crops, mesh: Mesh, many: int) -> Iterator[Item]:
    """The loop's own feed, without end."""
    return resident_feed(columns, crops, mesh, many)(0, 10**9, 10**9)


def nights_that_fit(nights: int, night_bytes: int, mesh: Mesh) -> int:
    """At most so many, in the share of the devices' memory that a dataset may take."""
    limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    if limit is not None:
        nights = min(nights, int(SHARE_OF_DEVICE * limit * mesh.size) // night_bytes)
    return max(nights // mesh.size, 1) * mesh.size


def repeated(columns: dict[str, NDArray], windows: int, mesh: Mesh) -> Batch:
    """Columns [W, ...] over and over, [windows, ...] cut over the mesh."""

    @functools.partial(jax.jit, out_shardings=cut(mesh))
    def fill(columns: Batch) -> Batch:
        index = jnp.arange(windows) % len(columns["label"])
        return {name: column[index] for name, column in columns.items()}

    return fill(columns)


class Roofline(NamedTuple):
    """What a device does at best, measured."""

    flops_per_s: float
    bytes_per_s: float


def roofline(dtype: Any, repeats: int) -> Roofline:
    """Of the first device: a square matrix product and a copy, the fastest of the repeats."""
    cpu = jax.default_backend() == "cpu"
    side, length = (1024, 2**24) if cpu else (8192, 2**28)
    square, line = jnp.ones((side, side), dtype), jnp.ones(length, jnp.float32)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1.0)
    times = in_turns(
        {"product": lambda: product(square, square), "copy": lambda: copy(line)}, repeats
    )
    return Roofline(2.0 * side**3 / times["product"].min(), 2 * line.nbytes / times["copy"].min())


def against_roofline(
    run: Run, one: Fed, columns: Batch, crops: Crops, mesh: Mesh, seconds: float
) -> Row:
    """The step against the time that the machine needs for its arithmetic or its bytes."""
    # Of one step: XLA counts the body of a loop once, however often it runs.
    where = Sequences(*(array[None] for array in crops.sequences(0)))
    lowered = one.step.lower(one.state, columns, jax.device_put(where, whole(mesh)))
    cost = lowered.compile().cost_analysis() or {}
    what, peer = "step from the device", "the roofline measured here"
    if not {"flops", "bytes accessed"} <= set(cost):
        return Row(PART, what, peer, note="XLA counts no arithmetic here")
    best = roofline(run.train.compute_dtype, repeats=5)
    flops, size = cost["flops"], cost["bytes accessed"]
    by_arithmetic, by_bytes = flops / best.flops_per_s, size / best.bytes_per_s
    least = max(by_arithmetic, by_bytes)
    bound = "bytes" if least == by_bytes else "arithmetic"
    note = (
        f"share of the roofline, bound by {bound}: {flops / 1e9:.3g} GFLOP and {size / 1e9:.3g} GB"
        f" a step as XLA counts them; {run.train.compute_dtype} product"
        f" {best.flops_per_s / 1e12:.3g} TFLOP/s, copy {best.bytes_per_s / 1e9:.3g} GB/s"
    )
    return Row(PART, what, peer, None, least / seconds, None, seconds, least, "s", note)
