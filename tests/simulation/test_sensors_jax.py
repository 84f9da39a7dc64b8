"""The BCG in JAX: NumPy's from the same draws, and of its kind from its own."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import signal

from kd_sleep.simulation import sensors, sensors_jax
from kd_sleep.simulation.physiology import DRIVE_HZ, Drive
from kd_sleep.simulation.sensors import SENSORS, Clock, NumpySource

RATE_HZ = 100.0


def drive_of(seed: int, seconds: float) -> Drive:
    """Beats, breaths and movements without any stage, by hand."""
    rng = np.random.default_rng([31, seed])
    times = np.cumsum(rng.normal(0.95, 0.05, int(seconds / 0.95)))
    times = times[times < seconds - 1.0]
    grid_s = np.arange(int(seconds * DRIVE_HZ)) / DRIVE_HZ
    movement = np.zeros(len(grid_s))
    for start in rng.integers(0, len(grid_s) - 60, 4):
        movement[start : start + 60] = 20.0 * np.hanning(60)
    breathing = np.sin(2 * np.pi * (0.25 + 0.01 * seed) * grid_s)
    return Drive(seconds, times, rng.random(len(times)) > 0.02, breathing, movement)


@pytest.fixture(scope="module")
def drives():
    return [drive_of(seed, 600.0 - 30.0 * (seed % 3)) for seed in range(8)]


@pytest.fixture(scope="module")
def batches(drives):
    """Values, mask and RJ intervals of three draws of every night."""
    bodies = sensors_jax.pad(drives, RATE_HZ)
    return [
        jax.tree.map(np.asarray, sensors_jax.bcg_batch(jax.random.key(seed), bodies))
        for seed in range(3)
    ]


@pytest.mark.parametrize("sensor", SENSORS)
@pytest.mark.parametrize("clock", [Clock(), Clock(31.7, -5e-5)])
def test_from_the_same_draws_both_render_the_same(drives, sensor, clock):
    """To float32 tolerance: of 400 heartbeats at most, to a few 1e-4 of one."""
    body = sensors.prepare(drives[0], RATE_HZ, clock, beats=700, steps=6100)
    draws = sensors.draw_bcg(NumpySource(np.random.default_rng(3)), body, SENSORS[sensor])
    one = sensors.render_bcg(draws, body, RATE_HZ)
    other = np.asarray(sensors_jax.render(draws, body, RATE_HZ))
    assert one.dtype == other.dtype == np.float32
    assert one.shape == other.shape == (61000,)
    assert np.abs(one).max() > 5.0
    np.testing.assert_allclose(other, one, atol=1e-3)
    assert np.abs(other - one).mean() < 1e-4


def test_a_batch_is_padded_with_zeros_that_its_mask_leaves_out(batches, drives):
    values, inside, _ = batches[0]
    assert values.shape == inside.shape == (8, 60000)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(inside.sum(1), [round(d.duration_s * RATE_HZ) for d in drives])
    assert (values[~inside] == 0).all()
    assert (values[inside] != 0).mean() > 0.95


def test_a_key_gives_one_batch_and_another_another(batches, drives):
    again, *_ = sensors_jax.bcg_batch(jax.random.key(1), sensors_jax.pad(drives, RATE_HZ))
    # An accelerator adds pulses in any order.
    np.testing.assert_allclose(np.asarray(again), batches[1][0], atol=1e-3)
    assert not np.allclose(batches[0][0], batches[1][0])
    assert not np.allclose(batches[0][0][0], batches[0][0][3])


def test_what_jax_draws_is_of_numpys_kind(batches, drives):
    """Spectrum within 4 dB in each band, RJ intervals within some ms, over 24 nights each."""
    ours, theirs = [], []
    rj_ours, rj_theirs = [], []
    for seed, (values, inside, rj_s) in enumerate(batches):
        for number, drive in enumerate(drives):
            theirs.append(values[number][inside[number]])
            rj_theirs.append(rj_s[number][: len(drive.beat_times_s)])
            made = sensors.bcg(np.random.default_rng([seed, number]), drive)
            ours.append(made.values)
            rj_ours.append(made.j_times_s - drive.beat_times_s)
    bands = [(0.1, 0.6), (1.0, 4.0), (4.0, 8.0), (10.0, 20.0), (20.0, 50.0)]

    def spectrum(nights):
        rows = []
        for night in nights:
            frequency, power = signal.welch(night, RATE_HZ, nperseg=2000)
            rows.append([power[(frequency >= a) & (frequency < b)].mean() for a, b in bands])
        return np.median(10 * np.log10(rows), axis=0)

    np.testing.assert_allclose(spectrum(theirs), spectrum(ours), atol=4.0)
    mean = [np.mean([rj.mean() for rj in nights]) for nights in (rj_ours, rj_theirs)]
    assert mean[1] == pytest.approx(mean[0], abs=0.010)
    spread = [np.mean([rj.std() for rj in nights]) for nights in (rj_ours, rj_theirs)]
    assert spread[1] == pytest.approx(spread[0], rel=0.3)


def test_padding_too_short_is_refused(drives):
    with pytest.raises(ValueError, match="longer than its padding"):
        sensors.prepare(drives[0], RATE_HZ, beats=10)


def test_every_leaf_of_a_body_and_of_its_draws_is_32_bits_wide(drives):
    """A stray float64 would be rounded on its way into JAX, and be slow in NumPy."""
    body = sensors.prepare(drives[0], RATE_HZ)
    draws = sensors.draw_bcg(NumpySource(np.random.default_rng(0)), body, SENSORS["mix"])
    leaves = jax.tree.leaves((body, draws))
    assert {leaf.dtype.name for leaf in leaves} == {"float32", "int32"}
    assert len(leaves) == len(dataclasses.fields(body)) + len(dataclasses.fields(draws)) - 1 + len(
        draws.parameters
    )
