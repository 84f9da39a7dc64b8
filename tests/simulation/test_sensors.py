"""Simulated ECG and BCG: what a beat looks like, where it falls, and how much noise there is."""

import dataclasses

import numpy as np
import pytest
from scipy import signal

from kd_sleep.signals.r_peaks import r_peaks
from kd_sleep.simulation import sensors
from kd_sleep.simulation.physiology import DRIVE_HZ, Drive, draw_subject, simulate_night
from kd_sleep.simulation.sensors import Clock


@pytest.fixture(scope="module")
def drives():
    made = []
    for seed in range(8):
        rng = np.random.default_rng([5, seed])
        made.append(simulate_night(rng, draw_subject(rng), 2.0).drive)
    return made


def quiet_drive(seconds: float = 600.0, interval_s: float = 1.0) -> Drive:
    """A metronome of a heart: no breath, no movement."""
    times = np.arange(0.5, seconds, interval_s)
    still = np.zeros(int(seconds * DRIVE_HZ))
    return Drive(seconds, times, np.ones(len(times), bool), still, still)


def nearest(times, others):
    """Index of the nearest of `others`, sorted, to each of `times`."""
    after = np.searchsorted(others, times).clip(1, len(others) - 1)
    return np.where(times - others[after - 1] < others[after] - times, after - 1, after)


@pytest.mark.parametrize("rate_hz", [125, 250])
def test_r_peaks_of_simulated_nights_are_found(drives, rate_hz):
    """Sensitivity and positive predictive value of at least 0.995, 150 ms tolerance, in 8 bits."""
    found = true = matched = 0
    for seed, drive in enumerate(drives):
        ecg = sensors.ecg(np.random.default_rng(seed), drive, rate_hz)
        stored = np.clip(np.round(ecg / 1.25 * 127), -128, 127) * 1.25 / 127
        peaks = r_peaks(stored, rate_hz)
        found, true = found + len(peaks), true + len(drive.beat_times_s)
        # One to one: a beat's nearest peak, and that peak's nearest beat, are each other.
        beat_of, peak_of = nearest(peaks, drive.beat_times_s), nearest(drive.beat_times_s, peaks)
        mutual = peak_of[beat_of] == np.arange(len(peaks))
        near = np.abs(peaks - drive.beat_times_s[beat_of]) < 0.150
        matched += int((mutual & near).sum())
    assert matched / true >= 0.995
    assert matched / found >= 0.995


def test_the_rj_delay_is_where_it_should_be(drives):
    for seed, drive in enumerate(drives):
        made = sensors.bcg(np.random.default_rng(seed), drive)
        delay = made.j_times_s - drive.beat_times_s
        assert delay.min() >= 0.150 - 1e-9
        assert delay.max() <= 0.300 + 1e-9
        assert 0.17 < delay.mean() < 0.25
        slow = np.convolve(delay, np.ones(300) / 300, mode="valid")
        assert 0.01 < np.ptp(slow) < 0.10  # 40-80 ms over a whole night; these are two hours


def test_a_j_peak_stands_where_the_truth_says():
    drive = quiet_drive()
    made = sensors.bcg(np.random.default_rng(1), drive, 100.0)
    heart = signal.sosfiltfilt(
        signal.butter(3, [2, 12], "bandpass", fs=100, output="sos"), made.values
    )
    inside = made.j_times_s[(made.j_times_s > 5) & (made.j_times_s < 595)]
    offsets = np.arange(-30, 31)
    average = heart[np.rint(inside * 100).astype(int)[:, None] + offsets].mean(0)
    assert abs(offsets[np.argmax(np.abs(average))]) <= 2


def test_heart_energy_lies_in_1_to_8_hz_and_breath_below(drives):
    made = sensors.bcg(np.random.default_rng(2), drives[0], 100.0)
    frequency, power = signal.welch(made.values, 100.0, nperseg=1000)
    breath = power[(frequency > 0.1) & (frequency < 0.5)].max()
    heart = power[(frequency > 1) & (frequency < 8)].max()
    above = power[(frequency > 10) & (frequency < 20)].max()
    assert breath > 10 * heart
    assert heart > 2 * above


@pytest.mark.parametrize("clock", [Clock(30.0, 80e-6), Clock(-12.5, -50e-6)])
def test_a_clock_is_undone_by_its_inverse(clock):
    times = np.linspace(0, 30000, 7)
    np.testing.assert_allclose(clock.true_time(clock.sensor_time(times)), times, atol=1e-7)


def test_a_sensor_on_another_clock_records_the_same_heart_elsewhere(drives):
    clock = Clock(20.0, 100e-6)
    plain = sensors.bcg(np.random.default_rng(4), drives[1], 100.0)
    shifted = sensors.bcg(np.random.default_rng(4), drives[1], 100.0, clock)
    assert len(shifted.values) == pytest.approx(len(plain.values) - 2000, abs=100)
    np.testing.assert_array_equal(shifted.j_times_s, plain.j_times_s)


def test_more_noise_is_less_signal():
    """The SNR that the truth states orders what a spectrum shows."""
    drive = quiet_drive(900.0, 0.9)
    rows = []
    for seed in range(12):
        made = sensors.bcg(np.random.default_rng(seed), drive, 100.0)
        frequency, power = signal.welch(made.values, 100.0, nperseg=2000)
        heart = power[(frequency > 2) & (frequency < 8)].mean()
        noise = power[(frequency > 15) & (frequency < 25)].mean()
        rows.append((made.snr_db, 10 * np.log10(heart / noise)))
    stated, seen = np.array(rows).T
    assert np.corrcoef(stated, seen)[0, 1] > 0.8


def test_a_seed_gives_one_signal(drives):
    one = sensors.bcg(np.random.default_rng(9), drives[0]).values
    two = sensors.bcg(np.random.default_rng(9), drives[0]).values
    np.testing.assert_array_equal(one, two)
    other = dataclasses.replace(drives[0], beat_times_s=drives[0].beat_times_s + 0.1)
    assert not np.array_equal(one, sensors.bcg(np.random.default_rng(9), other).values)
