"""How batches reach the devices: from the host's memory, from disk, or from the devices' own.

The batches are the same, in the same order (`datasets.batches.Crops`), wherever the dataset lies.
"""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from kd_sleep.datasets.batches import Crops, Sequences, gather
from kd_sleep.errors import TrainingError
from kd_sleep.training.mesh import local_rows, put, replicated, sharded

AHEAD = 3  # batches made while the device computes
DISPATCH_STEPS = 50  # on an accelerator a dispatch costs as much as a small step
SHARE_OF_DEVICE = 0.7  # of its memory that a dataset may take; the rest is for the step
T = TypeVar("T")


class Item(NamedTuple):
    """What a step function is called with after the state, and how many steps that makes."""

    arguments: tuple[Any, ...]
    steps: int


# (first step, one past the last, stop) -> items in order, none of which reaches across a multiple
# of `stop`, where the loop evaluates and saves.
Feed = Callable[[int, int, int], Generator[Item, None, None]]


def host_feed(
    columns: dict[str, NDArray],
    crops: Crops,
    mesh: Mesh,
    bcg_from: Callable[[int], Iterator[NDArray]] | None = None,
    members: int = 0,
) -> Feed:
    """Batches from columns [W, ...] in the host's memory, a few ahead of the device.

    Args:
      columns: all that a batch needs, `label` included.
      crops: which windows each batch holds.
      mesh: what batches are cut over.
      bcg_from: first step -> BCG [B, L, S] of batch after batch, where `columns` has none.
      members: of a sweep.
    """
    rows = local_rows(mesh, crops.batch_size, members)

    def feed(first: int, last: int, stop: int) -> Generator[Item, None, None]:
        def batches() -> Iterator[Item]:
            stream = bcg_from(first) if bcg_from else None
            for step in range(first, last):
                where = Sequences(*(array[rows] for array in crops.sequences(step)))
                batch = gather(columns, where, crops.length)
                if stream is not None:
                    batch["bcg"] = next(stream)[rows]
                yield Item((put(batch, mesh, members),), 1)

        return ahead(batches())

    return feed


def resident_feed(
    on_device: dict[str, jax.Array],
    crops: Crops,
    mesh: Mesh,
    dispatch_steps: int | None = None,
    members: int = 0,
) -> Feed:
    """Places of batches, for columns that lie on the devices (`upload`) and stay there."""
    local_rows(mesh, crops.batch_size, members)  # divisible?
    many = dispatch_steps or (1 if jax.default_backend() == "cpu" else DISPATCH_STEPS)

    def feed(first: int, last: int, stop: int) -> Generator[Item, None, None]:
        def items() -> Iterator[Item]:
            step = first
            while step < last:
                steps = range(step, min(step + many, last, (step // stop + 1) * stop))
                step = steps.stop
                places = [crops.sequences(n) for n in steps]
                # Not device_put, which compares hosts: a thread must not talk to other hosts.
                stacked = Sequences(
                    *(
                        jax.make_array_from_process_local_data(replicated(mesh), np.stack(array))
                        for array in zip(*places, strict=True)
                    )
                )
                yield Item((on_device, stacked), len(steps))

        return ahead(items())

    return feed


def upload(columns: dict[str, NDArray], mesh: Mesh) -> dict[str, jax.Array]:
    """Columns [W, ...] cut over the devices' memory; padded to a multiple of them."""

    def cut_up(column: NDArray) -> jax.Array:
        length = -(-len(column) // mesh.size) * mesh.size

        def part(index: tuple[slice, ...] | None) -> NDArray:
            assert index is not None
            rows = column[index[0]]
            missing = len(range(length)[index[0]]) - len(rows)
            return np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else rows

        return jax.make_array_from_callback((length, *column.shape[1:]), sharded(mesh), part)

    return {name: cut_up(column) for name, column in columns.items()}


def fits_on_device(columns_bytes: int, mesh: Mesh) -> bool:
    """Whether columns of this size, cut over the devices, leave room for the step."""
    stats = mesh.local_devices[0].memory_stats() or {}  # others do not tell
    return columns_bytes / mesh.size < SHARE_OF_DEVICE * stats.get("bytes_limit", 0)


def choose(dataset_in: str, nights_bytes: int, mesh: Mesh) -> str:
    """device or host, where the setting says auto; otherwise what it says.

    Raises:
      TrainingError: columns that do not fit on devices that were asked for.
    """
    on_accelerator = jax.default_backend() != "cpu"
    if dataset_in == "device" and on_accelerator and not fits_on_device(nights_bytes, mesh):
        raise TrainingError(
            f"--dataset_in=device: {nights_bytes / 1e9:.1f} GB do not fit on {mesh.size} devices.",
            "Take --dataset_in=host, or disk.",
        )
    if dataset_in == "auto":
        return "device" if on_accelerator and fits_on_device(nights_bytes, mesh) else "host"
    return dataset_in


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items, made by a thread that stays `AHEAD` of them in front."""
    pool, end = concurrent.futures.ThreadPoolExecutor(1, "kd_sleep batches"), object()
    try:
        coming = collections.deque(pool.submit(next, items, end) for _ in range(AHEAD))
        while (item := coming.popleft().result()) is not end:
            coming.append(pool.submit(next, items, end))
            yield cast(T, item)
    finally:
        pool.shutdown(cancel_futures=True)
