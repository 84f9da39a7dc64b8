"""Batches: every window once a pass, the same for a seed and step, nothing beyond a night's end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_sleep.datasets.batches import Crops, Sequences, gather, whole_nights
from kd_sleep.datasets.nights import read_split
from kd_sleep.stages import UNSCORED

WINDOWS = np.array([100, 37, 64, 1, 250])


@pytest.fixture(scope="module")
def nights(data_dir):
    return read_split(data_dir, "train", samples=True)


@pytest.fixture
def small_pools(monkeypatch):
    monkeypatch.setattr(Crops, "POOL_NIGHTS", 2)


def steps_of(crops, number):
    """Batches of a pass, of one sequence each."""
    return range(crops.before(number), crops.before(number + 1))


def windows_of(crops, steps):
    """How often each window of the split comes up in these steps."""
    counts = np.zeros(WINDOWS.sum(), int)
    for step in steps:
        where = crops.sequences(step)
        for begin, low, high in zip(*where, strict=True):
            counts[max(begin, low) : min(begin + crops.length, high)] += 1
    return counts


@pytest.mark.parametrize("pool", [1, 2, 256])
@pytest.mark.parametrize("length", [1, 16, 64, 300])
def test_every_window_comes_once_a_pass(monkeypatch, length, pool):
    monkeypatch.setattr(Crops, "POOL_NIGHTS", pool)
    crops = Crops(WINDOWS, batch_size=1, length=length, seed=3)
    for number in range(3):
        assert (windows_of(crops, steps_of(crops, number)) == 1).all()


def test_every_window_takes_every_place_in_a_sequence_equally_often():
    """Also in a night of 64 = 4 x 16 windows, in the shortest night, and at a night's ends."""
    crops, passes = Crops(WINDOWS, batch_size=1, length=16, seed=3), 800
    places = np.zeros((len(WINDOWS), 2, 16), int)  # of each night's first and last window
    for step in range(crops.before(passes)):
        (row,), (start,) = crops(step)
        for end, window in enumerate((0, WINDOWS[row] - 1)):
            if start <= window < start + 16:
                places[row, end, window - start] += 1
    assert (places.sum(-1) == passes).all()
    # Binomial (800, 1 / 16): mean 50, standard deviation 6.8.
    assert (np.abs(places - passes / 16) < 5 * 6.8).all()


@pytest.mark.parametrize("size", [7, 100])
def test_batches_run_over_the_end_of_a_pass(size):
    """The same sequences in the same order as one by one; the larger batch holds a whole pass."""
    crops, one = (Crops(WINDOWS, batch_size, 16, seed=3) for batch_size in (size, 1))
    found = [np.stack(crops(step)) for step in range(500 // size)]
    expected = [np.stack(one(step)) for step in range(500 // size * size)]
    np.testing.assert_array_equal(np.concatenate(found, 1), np.concatenate(expected, 1))
    assert crops.before(3) < 500


def test_a_batch_is_a_function_of_seed_and_step():
    one, two = (Crops(WINDOWS, 8, 16, seed=5) for _ in range(2))
    later = two(41)
    for _ in range(3):
        one(7)
    np.testing.assert_array_equal(one(41), later)
    assert not np.array_equal(one(41), Crops(WINDOWS, 8, 16, seed=6)(41))
    assert not np.array_equal(one(0), one(one.before(1)))


def test_a_pool_is_left_before_the_next_one_is_entered(small_pools):
    """So a reader that holds two pools reads each night once a pass."""
    crops = Crops(WINDOWS, batch_size=1, length=16, seed=3)
    orders = []
    for number in range(3):
        rows = [int(crops(step)[0][0]) for step in steps_of(crops, number)]
        first = {row: rows.index(row) for row in rows}
        order = sorted(first, key=first.__getitem__)
        assert len(order) == len(WINDOWS)
        place = {row: n // 2 for n, row in enumerate(order)}
        visited = [place[row] for row in rows]
        assert visited == sorted(visited)
        # Within a pool its nights alternate: neighbours in a night are no neighbours in a batch.
        assert np.count_nonzero(np.diff(rows)) > len(WINDOWS)
        orders.append(order)
    assert orders[0] != orders[1]


def test_places_are_int32_and_lie_in_their_nights():
    """JAX has no 64 bits; a place may begin before its night, but holds some of it."""
    crops = Crops(WINDOWS, batch_size=9, length=16, seed=3)
    first = np.cumsum(WINDOWS) - WINDOWS
    for step in range(100):
        rows, starts = crops(step)
        where = crops.sequences(step)
        assert {array.dtype for array in where} == {np.dtype(np.int32)}
        np.testing.assert_array_equal(where.low, first[rows])
        np.testing.assert_array_equal(where.high, (first + WINDOWS)[rows])
        np.testing.assert_array_equal(where.begin - where.low, starts)
        assert ((where.begin + 16 > where.low) & (where.begin < where.high)).all()


def test_a_crop_is_masked_beyond_the_night(nights):
    low, high = nights.first, nights.first + nights.windows
    where = Sequences(np.array([low[1] - 3, high[2] - 5]), low[1:3], high[1:3])
    columns = nights.columns(("tachogram", "bcg", "label"))
    batch = gather(columns, where, 8)
    assert batch["valid_BL"].tolist() == [[False] * 3 + [True] * 5, [True] * 5 + [False] * 3]
    assert (batch["label"][~batch["valid_BL"]] == UNSCORED).all()
    np.testing.assert_array_equal(batch["label"][0, 3:], nights.label[low[1] :][:5])
    # The neighbouring night is never seen: the night's own end is repeated.
    np.testing.assert_array_equal(batch["tachogram"][0, 3:], nights.tachogram[low[1] :][:5])
    np.testing.assert_array_equal(batch["tachogram"][0, :3], nights.tachogram[[low[1]] * 3])
    np.testing.assert_array_equal(batch["bcg"][1, :5], nights.bcg[high[2] - 5 : high[2]])
    np.testing.assert_array_equal(batch["bcg"][1, 5:], nights.bcg[[high[2] - 1] * 3])


def test_jax_gathers_what_numpy_gathers_and_is_traced_once(nights):
    crops = Crops(nights.windows, batch_size=6, length=50, seed=1)
    columns = nights.columns(("tachogram", "tachogram_valid", "bcg", "bcg_scale", "label"))
    traces = []

    @functools.partial(jax.jit, static_argnums=2)
    def jitted(columns, where, length):
        traces.append(length)
        return gather(columns, where, length)

    on_device = jax.device_put(columns)
    for step in range(4):
        where = crops.sequences(step)
        expected = gather(columns, where, 50)
        assert not expected["valid_BL"].all()
        batch = jitted(on_device, Sequences(*map(jnp.asarray, where)), 50)
        assert batch.keys() == expected.keys()
        for name, array in expected.items():
            assert isinstance(array, np.ndarray)
            assert batch[name].dtype == array.dtype
            np.testing.assert_array_equal(batch[name], array, err_msg=name)
    assert len(traces) == 1


@pytest.mark.parametrize("size", [1, 3, 16])
def test_whole_nights_hold_each_night_once_and_in_order(nights, size):
    batches = list(whole_nights(nights, ("tachogram",), batch_size=size))
    assert {b["tachogram"].shape[:2] for b in batches} == {(size, nights.windows.max())}
    joined = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    counts = joined["valid_BL"].sum(1)
    np.testing.assert_array_equal(counts[: len(nights)], nights.windows)
    assert (counts[len(nights) :] == 0).all()
    assert (joined["label"][~joined["valid_BL"]] == UNSCORED).all()
    for name in ("label", "tachogram"):
        np.testing.assert_array_equal(joined[name][joined["valid_BL"]], getattr(nights, name))


def test_no_windows_give_no_batches():
    """A pass over nothing would never fill a batch."""
    with pytest.raises(ValueError, match="no night has any"):
        Crops(np.zeros(2, np.int64), batch_size=4, length=16, seed=0)
