"""Two clocks: known offset and drift come back; a stranger's BCG is refused."""

import numpy as np
import pytest

from kd_sleep.signals import alignment
from kd_sleep.signals.alignment import Alignment, NoAlignment, align
from kd_sleep.simulation import sensors
from kd_sleep.simulation.physiology import draw_subject, simulate_night
from kd_sleep.simulation.sensors import Clock


def a_night(seed: int, clock: Clock, hours: float = 3.0):
    rng = np.random.default_rng([11, seed])
    drive = simulate_night(rng, draw_subject(rng), hours).drive
    return drive, sensors.bcg(rng, drive, 100.0, clock)


def rms_s(found: Alignment, clock: Clock, hours: float = 3.0) -> float:
    sensor_s = np.linspace(0, hours * 3600, 100)
    true_s = sensor_s / (1 + found.drift) + found.offset_s
    return float(np.sqrt(np.mean((true_s - clock.true_time(sensor_s)) ** 2)))


@pytest.mark.parametrize(
    ("seed", "offset_s", "drift"), [(0, 45.0, 80e-6), (1, -50.0, -100e-6), (2, 0.0, 0.0)]
)
def test_offset_and_drift_come_back(seed, offset_s, drift):
    clock = Clock(offset_s, drift)
    drive, bcg = a_night(seed, clock)
    found = align(drive.beat_times_s, bcg.values, 100.0)
    assert rms_s(found, clock) < 0.050
    assert found.agreeing > 0.8
    assert found.residual_s < 0.05


def test_a_guess_far_off_is_searched_around():
    clock = Clock(1000.0, 20e-6)
    drive, bcg = a_night(3, clock)
    found = align(drive.beat_times_s, bcg.values, 100.0, guess_s=960.0)
    assert rms_s(found, clock) < 0.050


def test_missing_stretches_do_not_mislead():
    clock = Clock(10.0, 50e-6)
    drive, bcg = a_night(4, clock)
    values = bcg.values.copy()
    values[200_000:500_000] = 0.0
    kept = drive.beat_times_s[(drive.beat_times_s < 7000) | (drive.beat_times_s > 8200)]
    assert rms_s(align(kept, values, 100.0), clock) < 0.050


def test_another_sleepers_bcg_is_refused():
    drive, _ = a_night(5, Clock())
    _, other = a_night(6, Clock())
    with pytest.raises(NoAlignment, match="agree on one clock"):
        align(drive.beat_times_s, other.values, 100.0)


def test_a_file_that_is_mostly_another_sleepers_is_refused():
    """Three of eight segments fit well; that is not enough to trust a clock."""
    drive, own = a_night(8, Clock(5.0))
    _, other = a_night(9, Clock(5.0))
    count = min(len(own.values), len(other.values))
    values = np.where(np.arange(count) < 0.35 * count, own.values[:count], other.values[:count])
    with pytest.raises(NoAlignment, match="agree on one clock"):
        align(drive.beat_times_s, values, 100.0)


@pytest.mark.parametrize("beats", [np.empty(0), np.arange(20.0)])
def test_too_little_to_tell_is_refused(beats):
    _, bcg = a_night(7, Clock(), hours=0.5)
    with pytest.raises(NoAlignment):
        align(beats, bcg.values, 100.0)


def test_samples_land_on_the_true_clock():
    clock = Alignment(offset_s=2.0, drift=1e-3, residual_s=0.0, agreeing=1.0)
    sensor_s = np.arange(0, 100, 0.01)
    true_s = sensor_s / (1 + 1e-3) + 2.0
    out = alignment.to_true_clock(np.sin(true_s), 100.0, clock, 50.0, 120.0)
    time = np.arange(6000) / 50.0
    inside = (time >= 2.0) & (time <= true_s[-1])
    assert np.isnan(out[time < 2.0]).all()
    assert np.isnan(out[time > true_s[-1] + 0.03]).all()
    np.testing.assert_allclose(out[inside][50:-50], np.sin(time)[inside][50:-50], atol=1e-3)
