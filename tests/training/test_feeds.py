"""Feeds: the same batches in the same order wherever the split lies, made a little ahead."""

import functools
import itertools
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from kd_sleep.datasets.batches import Crops, Sequences, gather
from kd_sleep.datasets.nights import read_split
from kd_sleep.datasets.stream import stream_bcg
from kd_sleep.errors import TrainingError
from kd_sleep.training import feeds
from kd_sleep.training.feeds import AHEAD, ahead, choose, host_feed, resident_feed, upload
from kd_sleep.training.mesh import data_mesh

LENGTH = 16
COLUMNS = ("bcg", "bcg_scale", "tachogram_valid", "label")


@pytest.fixture(scope="module")
def nights(data_dir):
    return read_split(data_dir, "train", samples=True)


@pytest.fixture(scope="module")
def bare(data_dir):
    return read_split(data_dir, "train")


@pytest.fixture
def crops(nights, monkeypatch):
    monkeypatch.setattr(Crops, "POOL_NIGHTS", 2)
    return Crops(nights.windows, batch_size=4, length=LENGTH, seed=3)


def batches_of(items, many=None):
    """The batches that the items stand for; a resident feed's by its places."""
    for item in items:
        if len(item.arguments) == 1:
            assert item.steps == 1
            yield item.arguments[0]
            continue
        columns, places = item.arguments
        assert item.steps == len(places.begin) <= many
        for place in zip(*places, strict=True):
            yield gather(columns, Sequences(*place), LENGTH)


@pytest.mark.parametrize("kind", ["host", "disk", "device, 1 a dispatch", "device, 3 a dispatch"])
def test_every_feed_yields_the_same_batches_in_order(nights, bare, crops, kind):
    """Across evaluations, and over the end of a pass."""
    first = crops.before(1) // 4 - 4
    columns, mesh = nights.columns(COLUMNS), data_mesh()
    many = None
    if kind == "host":
        feed = host_feed(columns, crops, mesh)
    elif kind == "disk":
        rest = {name: column for name, column in columns.items() if name != "bcg"}
        bcg_from = functools.partial(stream_bcg, bare, crops)
        feed = host_feed(rest, crops, mesh, bcg_from)
    else:
        many = int(kind.split()[1])
        feed = resident_feed(upload(columns, mesh), crops, mesh, dispatch_steps=many)
    found = batches_of(feed(first, first + 9, 5), many)
    for step, batch in zip(range(first, first + 9), found, strict=True):
        expected = gather(columns, crops.sequences(step), LENGTH)
        assert batch.keys() == expected.keys()
        for name, array in expected.items():
            assert isinstance(batch[name], jax.Array)
            assert batch[name].dtype == array.dtype
            np.testing.assert_array_equal(batch[name], array, err_msg=f"{step} {name}")


def test_a_stream_begins_where_the_run_goes_on_and_is_opened_once(nights, crops):
    """Opened anew after every evaluation, it would read its pool from disk again."""
    opened = []

    def bcg_from(first):
        opened.append(first)
        for step in itertools.count(first):
            yield np.full((4, LENGTH, 1), step, np.int16)

    feed = host_feed(nights.columns(("label",)), crops, data_mesh(), bcg_from)
    items = list(feed(3, 9, 2))
    assert [int(item.arguments[0]["bcg"][0, 0, 0]) for item in items] == list(range(3, 9))
    assert opened == [3]


def test_uploaded_columns_are_the_same_arrays_for_every_dispatch(nights, crops):
    feed = resident_feed(
        upload(nights.columns(("label",)), data_mesh()), crops, data_mesh(), dispatch_steps=4
    )
    items = list(feed(1, 10, 5))  # 1-4, 5-8, 9: none across an evaluation at 5
    assert [item.steps for item in items] == [4, 4, 1]
    assert [item.steps for item in feed(0, 10, 10)] == [4, 4, 2]
    assert [item.steps for item in feed(2, 12, 5)] == [3, 4, 1, 2]
    assert {id(item.arguments[0]["label"]) for item in items} == {
        id(items[0].arguments[0]["label"])
    }


def test_an_error_in_the_making_reaches_who_waits_for_the_item():
    def failing():
        yield from range(3)
        raise ValueError("the third batch is torn")

    items = ahead(failing())
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="torn"):
        next(items)


@pytest.mark.parametrize("taken", [1, 4])
def test_closing_early_ends_the_thread(taken):
    before = set(threading.enumerate())
    items = ahead(itertools.count())
    for _ in range(taken):
        next(items)
    assert set(threading.enumerate()) - before
    items.close()
    assert not set(threading.enumerate()) - before


def test_it_stays_a_few_items_in_front():
    """All of `AHEAD`, or the device waits; no more, or memory runs out."""
    made = []
    items = ahead(made.append(n) or n for n in itertools.count())
    for taken in (1, 2, 5):
        while next(items) < taken - 1:
            pass
        deadline = time.monotonic() + 10
        while len(made) < taken + AHEAD and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.15)
        assert len(made) == taken + AHEAD
    items.close()


def mesh_of(device_bytes, devices=1):
    """All that `choose` looks at: how many devices, and their memory."""
    stats = None if device_bytes is None else {"bytes_limit": device_bytes}
    device = SimpleNamespace(memory_stats=lambda: stats)
    return SimpleNamespace(size=devices, local_devices=[device] * devices)


@pytest.mark.parametrize(
    ("backend", "asked", "device_bytes", "chosen"),
    [
        ("cpu", "auto", None, "host"),
        ("cpu", "device", None, "device"),  # allowed, to test it
        ("cpu", "host", None, "host"),
        ("cpu", "disk", None, "disk"),
        ("gpu", "auto", 1000, "device"),
        ("gpu", "auto", 101, "host"),  # 100 bytes would leave no room for the step
        ("gpu", "auto", None, "host"),  # a device that does not tell
        ("gpu", "device", 1000, "device"),
        ("gpu", "host", 1000, "host"),
        ("gpu", "disk", 1000, "disk"),
    ],
)
def test_where_the_dataset_goes(monkeypatch, backend, asked, device_bytes, chosen):
    monkeypatch.setattr(feeds.jax, "default_backend", lambda: backend)
    assert choose(asked, 100, mesh_of(device_bytes)) == chosen


def test_columns_too_large_for_the_devices_are_refused(monkeypatch):
    monkeypatch.setattr(feeds.jax, "default_backend", lambda: "gpu")
    with pytest.raises(TrainingError, match="--dataset_in=device"):
        choose("device", 100, mesh_of(101))
