"""BCG from disk: what a split in memory gives, each night read once, few of them held."""

import dataclasses
import itertools

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
    """(pass, row) of each night that is read from disk; Grain's threads may be ahead."""
    found = []
    read = stream._NightsInOrder.__getitem__

    def counted(self, place):
        night = read(self, place)
        found.append(night[:2])
        return night

    monkeypatch.setattr(stream._NightsInOrder, "__getitem__", counted)
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


def test_each_night_is_read_once_a_pass(small_pools, bare, reads):
    crops = crops_of(bare)
    for _ in itertools.islice(stream_bcg(bare, crops), 60):
        pass
    seen = list(reads)  # threads may still add to it
    assert len(set(seen)) == len(seen)
    assert set(itertools.product([0, 1], range(len(bare)))) <= set(seen)


@pytest.mark.parametrize("number", [0, 1])
def test_a_later_start_reads_from_its_own_pool_on(small_pools, bare, reads, number):
    """Else going on late in a pass would read, and hold, all of the split that came before."""
    crops = crops_of(bare)
    step = crops.before(number + 1) // 4 - 1
    next(stream_bcg(bare, crops, step))
    last_pool = [(number, row) for row in crops.night_order(number)[-2:].tolist()]
    seen = {night for night in list(reads) if night[0] <= number}
    assert seen
    assert seen <= set(last_pool)


@pytest.mark.parametrize("first", [0, 20])
def test_two_pools_are_held_at_most(small_pools, monkeypatch, bare, first):
    held_at = []
    left_behind = Crops.left_behind

    def spied(self, held, step):
        held_at.append(set(held))
        return left_behind(self, held, step)

    monkeypatch.setattr(Crops, "left_behind", spied)
    crops = crops_of(bare)
    for _ in itertools.islice(stream_bcg(bare, crops, first), 61):
        pass
    assert len(held_at) == 60
    assert max(map(len, held_at)) <= 4
    assert min(map(len, held_at)) <= 2  # pools are let go, too
    for held in held_at:
        pools = {(n, crops.night_order(n).tolist().index(row) // 2) for n, row in held}
        assert len(pools) <= 2


def test_a_dataset_that_changed_meanwhile_is_refused(bare):
    stale = dataclasses.replace(bare, windows=bare.windows + 1)
    with pytest.raises(DatasetError, match=r"windows of BCG, expected .* changed"):
        next(stream_bcg(stale, crops_of(stale)))
