"""Simulated ECG and BCG: what a beat looks like, where it falls, what lies over it."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from scipy import signal

from kd_sleep.simulation import sensor_measures, sensors, waveforms
from kd_sleep.simulation.beds import SENSORS, draw_bcg, fixed
from kd_sleep.simulation.physiology import DRIVE_HZ, Drive, draw_subject, simulate_night
from kd_sleep.simulation.sensors import Clock


@pytest.fixture(scope="module")
def drives():
    made = []
    for seed in range(4):
        rng = np.random.default_rng([5, seed])
        made.append(simulate_night(rng, draw_subject(rng), 2.0).drive)
    return made


def quiet_drive(seconds: float = 600.0, interval_s: float = 1.0, breath: float = 0.0) -> Drive:
    """A metronome of a heart and, where wanted, of a breath; no movement."""
    times = np.arange(0.5, seconds, interval_s)
    grid_s = np.arange(int(seconds * DRIVE_HZ)) / DRIVE_HZ
    breathing = breath * np.sin(2 * np.pi * 0.25 * grid_s)
    return Drive(seconds, times, np.ones(len(times), bool), breathing, np.zeros(len(grid_s)))


def moving_drive(seconds: float = 1800.0) -> Drive:
    """A movement of 10 s each five minutes."""
    drive = quiet_drive(seconds)
    for start in range(1500, len(drive.movement), 3000):
        drive.movement[start : start + 100] = 20.0 * np.hanning(100)
    return drive


def only(**values: float) -> sensors.Sensor:
    """A film without anything but beats, save what is named."""
    silent = {
        "breathing_gain": 1e-9, "snr_db": 90.0, "vibration_db": -90.0, "saturation": 1e9,
        "dropouts_per_h": 1e-9, "flip": 0.0, "weight_step": 1e-9, "movement_gain": 1e-9,
        "partner": 1e-9, "snoring": 1e-9, "posture_log_sd": 0.0,
    }  # fmt: skip
    return fixed(SENSORS["film"], **(silent | values))


def rendered(drive: Drive, sensor: sensors.Sensor, seed: int = 0) -> np.ndarray:
    return sensors.bcg(np.random.default_rng(seed), drive, sensor=sensor).values


# ECG


def test_r_peaks_of_simulated_nights_are_found(drives):
    """Sensitivity and PPV of at least 0.99, 150 ms tolerance, 8 bits; R at its time."""
    rng = np.random.default_rng(0)
    nights = [sensor_measures.of_ecg(drive, rng) for drive in drives]
    mean = {name: np.mean([night[name] for night in nights]) for name in nights[0]}
    assert mean["R peaks: sensitivity"] >= 0.99
    assert mean["R peaks: positive predictive value"] >= 0.99
    assert mean["R peaks: median timing error"] < 2.0


@pytest.mark.parametrize("rate_hz", [125, 128, 250, 256])
def test_an_ecg_shows_p_r_and_t_where_they_belong(rate_hz):
    drive = quiet_drive(300.0)
    made = sensors.ecg(np.random.default_rng(1), drive, rate_hz)
    assert made.dtype == np.float32
    assert len(made) == 300 * rate_hz
    beats = made[: 300 * rate_hz].reshape(300, rate_hz)[5:295].mean(0)
    beats *= np.sign(beats[rate_hz // 2])
    clock_s = np.arange(rate_hz) / rate_hz - 0.5
    assert abs(clock_s[np.argmax(beats)]) <= 1 / rate_hz
    assert 0.5 < beats.max() < 1.3
    p = (clock_s > -0.22) & (clock_s < -0.1)
    t = (clock_s > 0.2) & (clock_s < 0.4)
    for wave, low, high in ((p, 0.07, 0.2), (t, 0.14, 0.4)):
        assert low < beats[wave].max() - np.median(beats) < high


def test_some_leads_are_swapped_and_some_come_off():
    drive = quiet_drive(4 * 3600.0)
    made = [sensors.ecg(np.random.default_rng(seed), drive, 125.0) for seed in range(16)]
    swapped = np.mean([np.median(one[62::125][: len(drive.beat_times_s)]) < 0 for one in made])
    assert 0 < swapped < 0.3
    changes = [np.abs(np.diff(one)) > 0 for one in made]
    longest = [np.diff(np.flatnonzero(one)).max() / 125.0 for one in changes]
    assert 0 < np.mean(np.array(longest) > 9.0) < 0.2


# BCG: beats


def test_the_rj_delay_is_where_it_should_be(drives):
    for seed, drive in enumerate(drives):
        made = sensors.bcg(np.random.default_rng(seed), drive)
        delay = made.j_times_s - drive.beat_times_s
        assert delay.min() >= 0.150 - 1e-6
        assert delay.max() <= 0.300 + 1e-6
        assert 0.17 < delay.mean() < 0.25
        slow = np.convolve(delay, np.ones(300) / 300, mode="valid")
        assert 0.005 < np.ptp(slow) < 0.10  # 40-80 ms over a whole night; these are two hours


@pytest.mark.parametrize("sensor", SENSORS)
def test_a_j_peak_stands_where_the_truth_says(sensor):
    drive = quiet_drive()
    made = sensors.bcg(np.random.default_rng(1), drive, 100.0, sensor=sensor)
    heart = signal.sosfiltfilt(
        signal.butter(3, [2, 12], "bandpass", fs=100, output="sos"), made.values
    )
    inside = made.j_times_s[(made.j_times_s > 5) & (made.j_times_s < 595)]
    offsets = np.arange(-30, 31)
    average = heart[np.rint(inside * 100).astype(int)[:, None] + offsets].mean(0)
    assert abs(offsets[np.argmax(np.abs(average))]) <= 2


def test_pulses_stand_at_their_time_whatever_the_sample():
    """Against the shape itself, at every time; what lies outside is left out."""
    before, clock_s = waveforms.pulse_clock(0.3, 0.3, 100.0)

    def shape(x):
        return np.exp(-0.5 * (x / 0.04) ** 2) * np.cos(30.0 * x)

    times = np.array([-5.0, -0.1, 0.7123, 0.7123, 1.00017, 3.9999, 4.1, 90.0])
    heights = np.arange(1.0, 9.0)
    position = times * 100.0
    whole = np.floor(position)
    made = waveforms.sum_of_pulses(
        400, whole.astype(np.int32) - before, (position - whole).astype(np.float32),
        heights.astype(np.float32), np.ones(8, np.int32),
        np.stack([np.zeros_like(clock_s), shape(clock_s)]),
    )  # fmt: skip
    at = np.arange(400)[:, None] / 100.0 - times
    np.testing.assert_allclose(made, (heights * shape(at)).sum(1), atol=0.01)


def test_an_ectopic_beat_ejects_little():
    drive = quiet_drive()
    drive.beat_normal[::10] = False
    made = np.abs(rendered(drive, only()))
    beats = np.array(
        [made[int(t * 100) : int(t * 100) + 60].max() for t in drive.beat_times_s[:-2]]
    )
    few = ~drive.beat_normal[:-2]
    assert 0.3 < np.median(beats[few]) / np.median(beats[~few]) < 0.5


def test_a_breath_changes_size_and_delay_of_beats():
    plain, breathing = quiet_drive(3000.0), quiet_drive(3000.0, 0.9, 1.0)
    delays = [sensors.bcg(np.random.default_rng(2), d).j_times_s - d.beat_times_s for d in
              (plain, breathing)]  # fmt: skip
    respiration = np.sin(2 * np.pi * 0.25 * breathing.beat_times_s)
    slope_s = np.polyfit(respiration, delays[1], 1)[0]
    assert 0.0045 < slope_s < 0.0105
    made = np.abs(rendered(breathing, only()))
    starts = (100 * breathing.beat_times_s[:300]).astype(int)
    heights = np.array([made[start : start + 60].max() for start in starts])
    assert np.polyfit(respiration[:300], heights / heights.mean(), 1)[0] > 0.05


# BCG: what lies over the beats


def test_the_noise_is_as_loud_as_it_is_said_to_be():
    """10 dB less SNR is ten times the power; 0 dB is as much in 1-8 Hz as the heart has."""
    drive = quiet_drive(1800.0)
    beats = rendered(drive, only())
    band = signal.butter(4, [1.0, 8.0], "bandpass", fs=100.0, output="sos")
    for snr_db in (-5.0, 0.0, 10.0):
        levels = [
            np.var(signal.sosfilt(band, rendered(drive, only(snr_db=snr_db), seed) - silent))
            for seed in range(5)
            for silent in [rendered(drive, only(), seed)]
        ]
        measured = 10.0 * np.log10(np.mean(beats**2) / np.mean(levels))
        assert measured == pytest.approx(snr_db, abs=2.0)


def test_a_load_cell_holds_a_weight_that_a_film_forgets():
    drive = moving_drive(7200.0)
    slow = {}
    for name in ("film", "load_cell"):
        coupling = SENSORS[name].coupling_hz
        sensor = dataclasses.replace(only(weight_step=30.0), coupling_hz=coupling)
        made = [rendered(drive, sensor, seed).reshape(-1, 1000).mean(1) for seed in range(6)]
        slow[name] = np.median([np.mean(np.abs(one)) for one in made])
    assert slow["load_cell"] > 20 * slow["film"]


@pytest.mark.parametrize("corner_hz", [0.05, 0.3])
def test_the_high_pass_is_of_first_order(corner_hz):
    clock_s = np.arange(40000) / DRIVE_HZ
    frequency_hz = 0.25
    ratio = frequency_hz / corner_hz
    wave = np.sin(2 * np.pi * frequency_hz * clock_s)
    passed = sensors._high_pass(wave, np.float32(corner_hz))
    expected = (
        ratio
        / np.hypot(1.0, ratio)
        * np.sin(2 * np.pi * frequency_hz * clock_s + np.arctan(1.0 / ratio))
    )
    np.testing.assert_allclose(passed[2000:-2000], expected[2000:-2000], atol=2e-3)


def test_breathing_goes_through_two_paths_that_may_cancel(drives):
    """From posture to posture its gain differs by far more than that of the beats, and its sign."""
    drive = dataclasses.replace(
        quiet_drive(7200.0, breath=1.0), movement=moving_drive(7200.0).movement
    )
    sensor = only(breathing_gain=5.0)
    gains = []
    for seed in range(10):
        bcg = sensors.bcg(np.random.default_rng(seed), drive, sensor=sensor)
        made, posture = bcg.values.reshape(-1, 10).mean(1), bcg.posture
        for number in range(posture.max() + 1):
            mine = posture == number
            gains.append((made[mine] * drive.breathing[mine]).mean() * 2)
    gains = np.array(gains)
    assert (gains > 0).mean() > 0.6
    assert np.quantile(np.abs(gains), 0.1) < 0.5 * np.median(np.abs(gains))


def test_a_movement_shows_by_chance_of_limb():
    """Its artefact is its own factor, of a log SD of 0.7, times what it is without."""
    drive, still = moving_drive(7200.0), quiet_drive(7200.0)
    size = sensors.sensor_samples(drive, 100.0, Clock())
    rng, sensor = np.random.default_rng(0), only(movement_gain=1.0)
    draws = draw_bcg(rng, sensor, len(drive.beat_times_s), len(drive.breathing), size, 100.0)
    draws = dataclasses.replace(draws, turns=np.ones_like(draws.turns))  # one posture
    same = dataclasses.replace(draws, visible=np.zeros_like(draws.visible))
    beats = sensors.render_bcg(draws, still, 100.0).values
    moved = (sensors.render_bcg(some, drive, 100.0).values - beats for some in (draws, same))
    sizes = [values.reshape(-1, 30000)[:, 15000:16000].std(1) for values in moved]
    expected = np.exp(draws.visible[1 : 1 + len(sizes[0])])
    np.testing.assert_allclose(sizes[0] / sizes[1], expected, rtol=0.02)
    assert 0.4 < np.log(expected).std() < 1.0
    assert np.median(sizes[1]) > 1.0  # a movement dwarfs a beat


def test_a_sensor_saturates_and_drops_out():
    drive = moving_drive(3600.0)
    made = rendered(drive, only(saturation=5.0, movement_gain=3.0, dropouts_per_h=6.0))
    assert np.abs(made).max() == pytest.approx(5.0)
    flat = np.flatnonzero(np.diff(np.flatnonzero(made != 0)) > 400)
    assert len(flat) >= 1


def test_heart_energy_lies_in_1_to_8_hz_and_breath_below(drives):
    for sensor in ("film", "load_cell"):
        ratios = []
        for seed, drive in enumerate(drives):
            made = sensors.bcg(np.random.default_rng(seed), drive, 100.0, sensor=sensor)
            frequency, power = signal.welch(made.values, 100.0, nperseg=1000)
            bands = [(0.1, 0.5), (1.0, 8.0), (10.0, 20.0)]
            ratios.append([power[(frequency > a) & (frequency < b)].mean() for a, b in bands])
        breath, heart, above = np.median(ratios, axis=0)
        assert breath > 5 * heart
        assert heart > 2 * above


# Clocks, rates, presets


@pytest.mark.parametrize("clock", [Clock(20.0, 100e-6), Clock(-33.3, -80e-6)])
def test_a_sensor_on_another_clock_records_the_same_heart_elsewhere(drives, clock):
    plain = sensors.bcg(np.random.default_rng(4), drives[1], 100.0)
    shifted = sensors.bcg(np.random.default_rng(4), drives[1], 100.0, clock)
    times = np.linspace(0, 30000, 7)
    np.testing.assert_allclose(clock.true_time(clock.sensor_time(times)), times, atol=1e-7)
    assert len(shifted.values) == int(clock.sensor_time(drives[1].duration_s) * 100)
    np.testing.assert_array_equal(shifted.j_times_s, plain.j_times_s)
    # Beats and breathing, resampled back, are those of the true clock; noise is the sensor's own.
    sensor = only(breathing_gain=3.0)
    values = {}
    for name, own in (("plain", Clock()), ("shifted", clock)):
        rng = np.random.default_rng(4)
        values[name] = sensors.bcg(rng, drives[1], clock=own, sensor=sensor).values
    true_s = clock.true_time(np.arange(len(values["shifted"])) / 100.0)
    inside = (true_s > 60) & (true_s < drives[1].duration_s - 60)
    expected = np.interp(true_s, np.arange(len(values["plain"])) / 100.0, values["plain"])
    error = (values["shifted"] - expected)[inside]
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.std(values["plain"])


@pytest.mark.parametrize("ratio", [Fraction(10), Fraction(25, 2), Fraction(128, 5)])
def test_upsampling_keeps_constants_and_slow_waves(ratio):
    np.testing.assert_allclose(waveforms.upsampled(np.full(100, 7.0), ratio), 7.0, atol=1e-5)
    clock_s = np.arange(2000) / DRIVE_HZ
    fine_s = np.arange(int(2000 * ratio)) / (DRIVE_HZ * float(ratio))
    made = waveforms.upsampled(np.sin(2 * np.pi * 2.0 * clock_s), ratio)[: len(fine_s)]
    inside = (fine_s > 2) & (fine_s < 198)
    np.testing.assert_allclose(made[inside], np.sin(4 * np.pi * fine_s)[inside], atol=5e-3)


def test_what_there_is_not_is_refused(drives):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="film"):
        sensors.bcg(rng, drives[0], sensor="pillow")
    with pytest.raises(ValueError, match="multiple"):
        sensors.bcg(rng, drives[0], 125.0)


def test_a_seed_gives_the_signals_of_the_frozen_simulator(drives):
    """Figures of version 1.1: a change of what a seed gives is another version."""
    bcg = sensors.bcg(np.random.default_rng(9), drives[0])
    assert bcg.values.dtype == np.float32
    assert bcg.snr_db == pytest.approx(5.680322647, rel=1e-6)
    np.testing.assert_allclose(bcg.values[100_000:100_003], [-8.774249, -8.657958, -9.829428], 1e-4)
    assert np.abs(bcg.values).mean(dtype=float) == pytest.approx(6.04023914, rel=1e-5)
    assert (bcg.j_times_s - drives[0].beat_times_s).mean() == pytest.approx(0.203401306, rel=1e-6)
    ecg = sensors.ecg(np.random.default_rng(9), drives[0], 125.0)
    np.testing.assert_allclose(ecg[100_000:100_003], [0.0950450, 0.5369847, 1.0488819], 1e-4)
    other = dataclasses.replace(drives[0], beat_times_s=drives[0].beat_times_s + 0.1)
    assert not np.array_equal(bcg.values, sensors.bcg(np.random.default_rng(9), other).values)
