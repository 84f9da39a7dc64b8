"""Training from a device's memory with a dataset of SHHS's size, and its share of the roofline.

A few nights are repeated until the device holds so many. The roofline is measured in the same run:
a large matrix product in the student's compute dtype, and a copy for the memory's bandwidth.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from kd_sleep.benchmark.synthetic import (
    NIGHT_WINDOWS,
    SHHS_NIGHTS,
    Training,
    begin,
    columns_of,
    crops_of,
    example_batch,
    sizes,
    student,
    sweep_of,
    synthetic_nights,
)
from kd_sleep.benchmark.timing import Peer, Row, compared, in_turns
from kd_sleep.benchmark.train_speed import SMALL_WIDTH, seconds_to_compile
from kd_sleep.config import Preset
from kd_sleep.schema import SERIES_SAMPLES
from kd_sleep.training.feeds import DISPATCH_STEPS, SHARE_OF_DEVICE, Item, host_feed, resident_feed
from kd_sleep.training.mesh import data_mesh, sharded
from kd_sleep.training.run import Run
from kd_sleep.training.steps import Batch, make_resident_step, make_train_step

PART = "device"
HOST_NIGHTS = 64  # a batch costs the host the same out of few nights as out of many


def measure(
    preset: Preset,
    repeats: int,
    nights: int = 0,
    night_windows: int = NIGHT_WINDOWS,
    members: int = 16,
) -> list[Row]:
    """Rows for as many of these nights as fit on the device; 0 is SHHS's number.

    On a CPU, whose memory is the host's, the part is skipped unless a number is given.
    """
    if jax.default_backend() == "cpu" and not nights:
        note = "skipped on a CPU; a small one is --what=device --nights=8"
        return [Row(PART, "a dataset of SHHS's size on the device", note=note)]
    run, mesh = student(preset), data_mesh()
    host = synthetic_nights(min(nights or SHHS_NIGHTS, HOST_NIGHTS), night_windows)
    on_host = columns_of(run, host)
    night_bytes = sum(column.nbytes for column in on_host.values()) // len(host)
    held = nights_that_fit(nights or SHHS_NIGHTS, night_bytes, mesh)
    columns = repeated(on_host, held * night_windows, mesh)
    crops = crops_of(run, np.full(held, night_windows))
    # As `feeds.resident_feed`: there is no dispatch to spare on a CPU.
    many = 1 if jax.default_backend() == "cpu" else DISPATCH_STEPS
    endless = (0, 10**9, 10**9)
    with contextlib.ExitStack() as stack:

        def from_device(run: Run) -> Fed:
            step = make_resident_step(run.objective, run.train, mesh, members=len(run.members))
            items = resident_feed(columns, crops, mesh, many)(*endless)
            stack.callback(items.close)
            return Fed(run, step, items, mesh)

        one, batch = from_device(run), example_batch(run)
        streamed = host_feed(on_host, crops_of(run, host.windows), mesh)(*endless)
        stack.callback(streamed.close)
        step = make_train_step(run.objective, run.train, mesh)
        teacher = Run(preset.teacher, preset.teacher_train)
        peers: dict[str, Peer] = {
            "one": one,
            "streamed": Fed(run, step, streamed, mesh),
            "teacher": Training(teacher, example_batch(teacher), mesh),
        }
        times = in_turns(peers, repeats)
        ours = times["one"] / many
        seconds = float(np.median(ours))
        windows = run.train.batch_size * run.train.sequence_windows
        rows = [
            compared(
                PART, f"student step, {sizes(run)}, {held:,} nights on the device",
                "batches streamed from the host", ours, times["streamed"], 1.0,
                f"{many} steps a dispatch; {windows / seconds:,.0f} windows/s",
            ),
            Row(PART, f"teacher step, {sizes(teacher)}", ours=float(np.median(times["teacher"]))),
            Row(PART, f"a pass over {held:,} nights, {held * night_bytes / 1e9:.3g} GB",
                ours=crops.before(1) / run.train.batch_size * seconds),
            Row(PART, "compiling the student's step", ours=seconds_to_compile(run, batch)),
            against_roofline(run, one.state.params, batch, seconds),
        ]  # fmt: skip
        for width in dict.fromkeys((SMALL_WIDTH, preset.student.width)):
            alone = student(preset, width)
            what = f"{members} members in one step, {sizes(alone)}"
            try:
                peers = {
                    "one": from_device(alone),
                    "together": from_device(sweep_of(alone, members)),
                }
                times = in_turns(peers, repeats)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                rows.append(Row(PART, what, note="does not fit in the device's memory"))
                continue
            together_s, singly_s = times["together"] / many, members * times["one"] / many
            rows.append(compared(PART, what, "single steps", together_s, singly_s, 1.0))
        peak = (mesh.local_devices[0].memory_stats() or {}).get("peak_bytes_in_use")
        note = "not reported by this device" if peak is None else ""
        return [*rows, Row(PART, "peak memory of the device", ours=peak, unit="B", note=note)]


class Fed:
    """A run that takes the next item of its feed whenever it is called."""

    def __init__(self, run: Run, step: Callable, items: Iterator[Item], mesh: Mesh):
        self.step, self.items = step, items
        self.state: Any = begin(run, example_batch(run), mesh)

    def __call__(self) -> Any:
        self.state, metrics = self.step(self.state, *next(self.items).arguments)
        return metrics


def nights_that_fit(nights: int, night_bytes: int, mesh: Mesh) -> int:
    """At most so many, in the share of the devices' memory that a dataset may take."""
    limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    if limit is not None:
        nights = min(nights, int(SHARE_OF_DEVICE * limit * mesh.size) // night_bytes)
    return max(nights // mesh.size, 1) * mesh.size


def repeated(columns: dict[str, NDArray], windows: int, mesh: Mesh) -> Batch:
    """Columns [W, ...] over and over, [windows, ...] cut over the mesh."""

    @functools.partial(jax.jit, out_shardings=sharded(mesh))
    def fill(columns: Batch) -> Batch:
        index = jnp.arange(windows) % len(columns["label"])
        return {name: column[index] for name, column in columns.items()}

    return fill(columns)


def least_work(run: Run, params: Any, batch: Batch) -> tuple[float, float]:
    """Operations and bytes of a train step on series, counted by hand.

    A forward pass multiplies and adds once for each weight of a kernel and each place it is
    applied at: SERIES_SAMPLES / 2^n in a window for the n-th strided convolution, one for every
    other layer. The backward pass does that twice, for inputs and for weights. At least the batch
    and the parameters with two moments are read, and the latter written: activations may stay in
    the chip's own memory.
    """
    windows = run.train.batch_size * run.train.sequence_windows
    flops = size = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        size += leaf.size
        names = [str(getattr(key, "key", key)) for key in path]
        if names[-1] == "kernel":
            strided = [name for name in names if name.startswith("StridedConv_")]
            places = SERIES_SAMPLES >> (int(strided[0].split("_")[1]) + 1) if strided else 1
            flops += 3 * 2 * leaf.size * places * windows
    return float(flops), float(6 * 4 * size + sum(array.nbytes for array in batch.values()))


def against_roofline(run: Run, params: Any, batch: Batch, seconds: float) -> Row:
    """The step against the time that the machine needs for its arithmetic or its bytes."""
    flops, size = least_work(run, params, batch)
    cpu = jax.default_backend() == "cpu"
    side, length = (1024, 2**24) if cpu else (8192, 2**28)
    square = jnp.ones((side, side), run.train.compute_dtype)
    line = jnp.ones(length, jnp.float32)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1.0)
    times = in_turns({"product": lambda: product(square, square), "copy": lambda: copy(line)}, 5)
    flops_per_s = 2.0 * side**3 / times["product"].min()
    bytes_per_s = 2 * line.nbytes / times["copy"].min()
    least = max(flops / flops_per_s, size / bytes_per_s)
    bound = "bytes" if least == size / bytes_per_s else "arithmetic"
    note = (
        f"share of the roofline, bound by {bound}: {flops / 1e9:.3g} GFLOP and {size / 1e9:.3g} GB"
        f" a step counted by hand; {run.train.compute_dtype} product {flops_per_s / 1e12:.3g}"
        f" TFLOP/s, copy {bytes_per_s / 1e9:.3g} GB/s"
    )
    peer = "the roofline measured here"
    return Row(PART, "student step", peer, 0.35, least / seconds, None, seconds, least, "s", note)
