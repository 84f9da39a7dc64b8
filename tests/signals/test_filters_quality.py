"""Filters, rate changes and SNR against closed forms; ECG quality on real leads and on noise."""

import numpy as np
import pytest
from scipy import io, signal

from kd_sleep.signals import quality
from kd_sleep.signals.filters import bandpass, moving_sd
from kd_sleep.signals.quality import snr_db
from kd_sleep.signals.r_peaks import r_peaks
from kd_sleep.simulation import physiology, sensors

TIME = np.arange(0, 60, 0.01)


@pytest.mark.parametrize(
    ("low", "high", "kept", "lost"),
    [(1.0, 8.0, 3.0, 0.1), (1.0, 8.0, 3.0, 30.0), (None, 2.0, 0.5, 20.0), (5.0, None, 20.0, 0.5)],
)
def test_a_band_keeps_its_own_and_shifts_nothing(low, high, kept, lost):
    inside, outside = np.sin(2 * np.pi * kept * TIME), np.sin(2 * np.pi * lost * TIME)
    out = bandpass(inside + outside, 100.0, low, high)
    middle = slice(1000, -1000)
    assert np.abs(out - inside)[middle].max() < 0.08


def test_an_edge_beyond_nyquist_is_no_edge():
    values = np.random.default_rng(0).normal(size=500)
    np.testing.assert_array_equal(
        bandpass(values, 20.0, 1.0, 10.0), bandpass(values, 20.0, 1.0, None)
    )
    with pytest.raises(ValueError, match="Nyquist"):
        bandpass(values, 20.0, None, 12.0)


def test_moving_sd_of_a_sine_is_its_rms():
    out = moving_sd(5.0 + 2.0 * np.sin(2 * np.pi * 2.0 * TIME), 100.0, 10.0)
    np.testing.assert_allclose(out[1000:-1000], np.sqrt(2.0), rtol=0.01)


def test_white_noise_has_no_snr_and_gain_does_not_matter():
    noise = np.random.default_rng(0).normal(size=(200, 1500))
    assert abs(snr_db(noise, 50.0).mean()) < 0.3
    np.testing.assert_allclose(snr_db(-1e4 * noise, 50.0), snr_db(noise, 50.0), atol=1e-6)


def test_snr_follows_the_ratio_of_powers():
    rng = np.random.default_rng(0)
    heart = bandpass(rng.normal(size=150_000), 50.0, 2.0, 5.0, order=8)
    noise = 0.01 * rng.normal(size=150_000)
    low, high = (snr_db((a * heart + noise).reshape(100, -1), 50.0).mean() for a in (1.0, 10.0))
    assert high - low == pytest.approx(20.0, abs=0.5)


@pytest.mark.parametrize("rate_hz", [40.0, 50.0, 62.5])
def test_snr_is_that_of_welchs_spectrum(rate_hz):
    windows = np.cumsum(np.random.default_rng(0).normal(size=(5, 1500)), axis=1) + 1e6
    frequency, power = signal.welch(windows, rate_hz, nperseg=round(4 * rate_hz))
    heart = power[:, (frequency >= 1.0) & (frequency <= 8.0)].mean(1)
    noise = power[:, (frequency >= 10.0) & (frequency <= 20.0)].mean(1)
    np.testing.assert_allclose(snr_db(windows, rate_hz), 10 * np.log10(heart / noise), atol=1e-4)


def test_a_constant_window_has_no_snr():
    windows = np.zeros((2, 1500))
    windows[1] = np.random.default_rng(0).normal(size=1500)
    assert np.isnan(snr_db(windows, 50.0)).tolist() == [True, False]


RATE_HZ = 125.0


@pytest.fixture(scope="module")
def mitdb(real_data):
    """Half an hour of ECG at 125 Hz with 33 atrial beats and a ventricular one."""
    raw = np.frombuffer((real_data / "rpeaks_mitdb_100" / "100.dat").read_bytes(), np.uint8)
    raw = raw.astype(np.int16).reshape(-1, 3)
    first = ((raw[:, 1] & 0x0F) << 8) | raw[:, 0]
    first = np.where(first > 2047, first - 4096, first).astype(float)
    return signal.resample_poly(first, 125, 360)


def usable_of(ecg):
    return quality.ecg_usable(ecg, RATE_HZ, r_peaks(ecg, RATE_HZ))


@pytest.mark.parametrize("change", [lambda x: x, lambda x: -1e-4 * x, lambda x: 50.0 * x + 900.0])
def test_a_clean_ecg_is_usable_with_its_ectopic_beats(mitdb, change):
    usable = usable_of(change(mitdb))
    assert len(usable) == 181
    assert usable.all()


@pytest.mark.parametrize(
    "kind", ["missing", "zeros", "rail", "white noise", "muscle noise", "hum", "no QRS"]
)
def test_lead_off_is_unusable_and_the_rest_is_usable(mitdb, kind):
    ecg = mitdb.copy()
    rng = np.random.default_rng(0)
    lost = np.zeros(181, bool)
    for start_s in (200, 600, 1100):
        part = slice(int(start_s * RATE_HZ), int((start_s + 100) * RATE_HZ))
        noise = rng.normal(size=part.stop - part.start) * ecg.std()
        ecg[part] = {
            "missing": np.nan,
            "zeros": 0.0,
            "rail": np.abs(mitdb).max() + 500.0,
            "white noise": noise,
            "muscle noise": 3 * bandpass(noise, RATE_HZ, 5.0, 30.0),
            "hum": np.sin(2 * np.pi * 60.0 * np.arange(len(noise)) / RATE_HZ) * 500.0,
            "no QRS": bandpass(ecg[part], RATE_HZ, None, 1.0) + 0.05 * noise,
        }[kind]
        lost[start_s // 10 : start_s // 10 + 10] = True
    beats = r_peaks(ecg, RATE_HZ)
    usable = quality.ecg_usable(ecg, RATE_HZ, beats)
    assert not usable[lost].any()
    assert usable[~lost].mean() > 0.99
    kept = beats[quality.in_usable(usable, beats)]
    assert not lost[(kept // 10).astype(int)].any()
    assert (quality.in_usable(usable, beats) == usable[(beats // 10).astype(int)]).all()


@pytest.mark.parametrize("band_hz", [None, (5.0, 30.0), (1.0, 15.0)])
def test_noise_alone_is_unusable(band_hz):
    ecg = np.random.default_rng(0).normal(size=450_000)
    if band_hz is not None:
        ecg = bandpass(ecg, RATE_HZ, *band_hz)
    beats = r_peaks(ecg, RATE_HZ)
    assert len(beats) > 1000  # the detector finds beats in anything
    assert quality.ecg_quality(ecg, RATE_HZ, beats, 120).max() == 0.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rec_proc_Aydin-Left-1.mat", [True, True]), ("_rec_proc_resp.mat", [False, False])],
    ids=["an ECG", "a lead that caught noise alone"],
)
def test_ten_seconds_of_another_recorder_are_told_apart(real_data, name, expected):
    ecg = io.loadmat(real_data / "ecg_bcg_pair" / name)["ecg"].ravel()
    assert quality.ecg_usable(ecg, 1000.0, r_peaks(ecg, 1000.0)).tolist() == expected


def test_missed_beats_make_a_segment_unusable(mitdb):
    """Three beats in a row: no rate can be told, however clean the ECG."""
    beats = r_peaks(mitdb, RATE_HZ)
    kept = (beats < 113.0) | (beats > 116.2)
    usable = quality.ecg_usable(mitdb, RATE_HZ, beats[kept])
    assert np.flatnonzero(~usable).tolist() == [11]


def test_a_segment_that_lacks_more_than_a_second_is_unusable(mitdb):
    ecg = mitdb.copy()
    ecg[int(113.0 * RATE_HZ) : int(113.9 * RATE_HZ)] = np.nan
    ecg[int(213.0 * RATE_HZ) : int(214.2 * RATE_HZ)] = np.nan
    assert np.flatnonzero(~usable_of(ecg)).tolist() == [21]


@pytest.mark.parametrize(
    ("beats_per_min", "expected"), [(22, 1.0), (60, 1.0), (190, 1.0), (230, 0.0)]
)
def test_rates_that_no_sleeper_has_are_unusable(beats_per_min, expected):
    beats = np.arange(0.2, 600.0, 60.0 / beats_per_min)
    clock = np.arange(75_000) / RATE_HZ
    nearest = beats[np.searchsorted((beats[1:] + beats[:-1]) / 2, clock)]
    ecg = np.exp(-0.5 * ((clock - nearest) / 0.012) ** 2)
    ecg += 0.01 * np.random.default_rng(0).normal(size=len(ecg))
    assert quality.ecg_usable(ecg, RATE_HZ, beats).mean() == expected


def test_an_hour_of_loud_hum_has_no_say_in_the_template():
    """It has three times as many "beats" as the heart in that time, all of them alike."""
    rng = np.random.default_rng(4)
    drive = physiology.simulate_night(rng, physiology.draw_subject(rng), 3.0).drive
    ecg = sensors.ecg(rng, drive, RATE_HZ)
    hour = slice(450_000, 900_000)
    clock = np.arange(450_000) / RATE_HZ
    ecg[hour] = 0.3 * np.sin(2 * np.pi * 60.0 * clock) + 0.1 * rng.normal(size=450_000)
    usable = usable_of(ecg)
    assert usable[360:720].mean() < 0.1
    assert np.delete(usable, np.arange(360, 720)).mean() > 0.99


def test_quality_falls_as_noise_grows(mitdb):
    noise = bandpass(np.random.default_rng(0).normal(size=len(mitdb)), RATE_HZ, 1.0, 40.0)
    beats = r_peaks(mitdb, RATE_HZ)
    shares = [
        quality.ecg_usable(mitdb + factor * mitdb.std() * noise, RATE_HZ, beats).mean()
        for factor in (0.1, 0.5, 1.0, 2.0, 8.0)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.99
    assert shares[-1] == 0.0


def test_a_bigeminal_heart_is_usable():
    """Every other beat is ectopic, early and of another shape: a good signal of a bad heart."""
    times = np.sort(np.concatenate([np.arange(0.5, 1800, 2.0), np.arange(1.05, 1800, 2.0)]))
    drive = physiology.Drive(
        1800.0, times, np.arange(len(times)) % 2 == 0, np.zeros(18000), np.zeros(18000)
    )
    ecg = sensors.ecg(np.random.default_rng(0), drive, RATE_HZ)
    assert quality.ecg_usable(ecg, RATE_HZ, times).mean() > 0.95


def test_each_segment_is_judged_by_its_own_samples(mitdb):
    """Lead-off elsewhere changes no verdict; a window is the mean of its three segments."""
    ecg = mitdb.copy()
    ecg[int(100 * RATE_HZ) : int(110 * RATE_HZ)] = np.nan
    usable = usable_of(ecg)
    assert np.flatnonzero(~usable).tolist() == [10]
    share = quality.ecg_quality(ecg, RATE_HZ, r_peaks(ecg, RATE_HZ), 62)
    assert share[3] == np.float32(2 / 3)
    assert np.flatnonzero(share != 1).tolist() == [3, 60, 61]  # 60 has one segment, 61 none
    assert share[60] == np.float32(1 / 3)


@pytest.mark.parametrize("samples", [0, 1, 100, 1249, 1250, 1251])
def test_short_and_empty_ecgs_have_no_quality(samples):
    ecg = np.zeros(samples)
    usable = quality.ecg_usable(ecg, RATE_HZ, np.empty(0))
    assert usable.tolist() == [False] * -(-samples // 1250)
    assert quality.ecg_quality(ecg, RATE_HZ, np.empty(0), 3).tolist() == [0, 0, 0]
    assert not quality.in_usable(usable, np.array([-1.0, 0.5, 99.0])).any()
