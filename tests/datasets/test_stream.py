"""BCG from disk: what a split in memory gives, each night read once, few of them held."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest

from kd_sleep.datasets import stream
from kd_sleep.datasets.batches import Crops, gather
from kd_sleep.datasets.nights import read_split
from kd_sleep.datasets.stream import stream_bcg
from kd_sleep.errors import DatasetError

LENGTH = 16


@pytest.fixture(scope="module")
def full(data_dir):
    return read_split(data_dir, "train", samples=True)


@pytest.fixture(scope="module")
def bare(data_dir):
    return read_split(data_dir, "train")


@pytest.fixture
def small_pools(monkeypatch):
    monkeypatch.setattr(Crops, "POOL_NIGHTS", 2)


@pytest.fixture
def reads(monkeypatch):
    """Positions of the nights that are read from disk."""
    found = []

    class Counted:
        def __init__(self, source):
            self.source = source

        def __getitem__(self, position):
            found.append(position)
            return self.source[position]

    real = stream.open_split
    monkeypatch.setattr(stream, "open_split", lambda *where: (Counted(real(*where)[0]), None))
    return found


def crops_of(nights, batch_size=4):
    return Crops(nights.windows, batch_size, LENGTH, seed=3)


def assert_streams_as_memory(full, bare, first, steps, batch_size=4):
    crops = crops_of(full, batch_size)
    coming = stream_bcg(bare, crops_of(bare, batch_size), first)
    for step in range(first, first + steps):
        expected = gather(full.columns(("bcg", "label")), crops.sequences(step), LENGTH)["bcg"]
        found = next(coming)
        assert found.dtype == np.int16
        np.testing.assert_array_equal(found, expected, err_msg=f"step {step}")


@pytest.mark.parametrize("pool", [2, 3, 256])
@pytest.mark.parametrize("first", [0, 17, 45])
def test_batches_from_disk_equal_those_from_memory(monkeypatch, full, bare, pool, first):
    """From the start and from a later step, over the ends of passes (some 30 batches)."""
    monkeypatch.setattr(Crops, "POOL_NIGHTS", pool)
    # A batch lies in two passes.
    assert any(crops_of(full).before(number) % 4 for number in (1, 2))
    assert_streams_as_memory(full, bare, first, 45)


def test_batches_larger_than_a_pool_equal_those_from_memory(small_pools, full, bare):
    assert_streams_as_memory(full, bare, first=1, steps=4, batch_size=70)


def test_selected_nights_are_streamed_in_their_own_order(small_pools, full, bare):
    rows = [7, 2, 5]
    assert_streams_as_memory(full.select(rows), bare.select(rows), first=3, steps=20)


@pytest.mark.parametrize("first", [0, 20])
def test_each_night_is_read_once_a_pass(small_pools, bare, reads, first):
    """Over two ends of passes, where two passes' last and first pools are held."""
    crops = crops_of(bare)
    last = crops.before(3) // 4
    for _ in itertools.islice(stream_bcg(bare, crops, first), last - first):
        pass
    counts = Counter(reads)
    assert set(counts) == {place.position for place in bare.places}
    assert max(counts.values()) <= 3


def test_a_dataset_that_changed_meanwhile_is_refused(bare):
    stale = dataclasses.replace(bare, windows=bare.windows + 1)
    with pytest.raises(DatasetError, match=r"windows of BCG, expected .* changed"):
        next(stream_bcg(stale, crops_of(stale)))
