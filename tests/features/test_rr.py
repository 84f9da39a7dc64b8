"""RR features against closed forms, against plain loops, and on recorders that lose beats."""

import csv
import datetime

import numpy as np
import pytest

from kd_sleep.features import rr
from kd_sleep.features.windows import spans, to_windows
from kd_sleep.schema import HRV_FEATURES, WINDOW_S

COLUMN = {name: n for n, name in enumerate(HRV_FEATURES)}


def beats_of(rate: float, seconds: float, amplitude_s: float, frequency_hz: float):
    """Beats whose interval swings as a sinusoid, by integral pulse frequency modulation."""
    time = np.arange(0, seconds, 0.01)
    interval = 60.0 / rate + amplitude_s * np.sin(2 * np.pi * frequency_hz * time)
    phase = np.concatenate([[0.0], np.cumsum(0.01 / interval)])[:-1]
    return np.interp(np.arange(1, phase[-1]), phase, time)


@pytest.mark.parametrize(
    ("band", "frequency_hz"), [("log_lf", 0.1), ("log_hf", 0.22), ("log_vlf", 0.02)]
)
def test_a_sinusoid_has_half_its_squared_amplitude_in_its_band(band, frequency_hz):
    beats = beats_of(60, 3600, 0.040, frequency_hz)
    intervals = rr.nn_intervals(beats)
    features = rr.hrv(intervals, rr.tachogram(intervals, 120))[10:-10]
    power = np.exp(features[:, COLUMN[band]])
    # An interval is a mean over a beat of 1 s (sinc), the tachogram a line between beats (sinc²).
    kept = np.sinc(frequency_hz) ** 2 * np.sinc(frequency_hz) ** 4
    assert np.median(power) == pytest.approx(0.040**2 / 2 * kept, rel=0.05)
    for other in {"log_lf", "log_hf", "log_vlf"} - {band}:
        assert np.median(np.exp(features[:, COLUMN[other]])) < 0.05 * np.median(power)


def test_time_domain_features_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    beats = np.cumsum(np.clip(rng.normal(0.95, 0.06, 2000), 0.75, 1.15))
    intervals = rr.nn_intervals(beats)
    windows = int(beats[-1] // WINDOW_S)
    features = rr.hrv(intervals, rr.tachogram(intervals, windows))
    for n in (0, 7, windows // 2, windows - 1):
        low, high = (n - 5) * WINDOW_S, (n + 6) * WINDOW_S
        inside = (intervals.end_s >= low) & (intervals.end_s < high)
        nn = intervals.rr_s[inside & intervals.normal]
        pairs = [
            intervals.rr_s[i + 1] - intervals.rr_s[i]
            for i in np.flatnonzero(inside)[:-1]
            if intervals.normal[i] and intervals.normal[i + 1]
        ]
        expected = {
            "mean_nn_s": nn.mean(),
            "sdnn_s": nn.std(),
            "rmssd_s": np.sqrt(np.mean(np.square(pairs))),
            "pnn50": np.mean(np.abs(pairs) > 0.050),
        }
        for name, value in expected.items():
            assert features[n, COLUMN[name]] == pytest.approx(value, rel=1e-9), (n, name)


def test_ectopic_beats_and_lost_beats_are_no_nn_intervals():
    beats = np.arange(0.0, 300.0, 0.9)
    beats[100] -= 0.3  # early, with its pause
    beats = np.delete(beats, 200)  # missed
    intervals = rr.nn_intervals(beats)
    assert np.flatnonzero(~intervals.normal).tolist() == [99, 100, 199]
    told = np.ones(len(beats), bool)
    told[50] = False
    assert not rr.nn_intervals(beats, told).normal[[49, 50]].any()


def test_one_lost_beat_is_bridged_and_a_hole_is_missing():
    beats = np.arange(0.0, 300.0, 0.9)
    whole = rr.tachogram(rr.nn_intervals(np.delete(beats, 60)), 10)
    assert np.isfinite(whole[1:-1]).all()
    hole = beats[(beats < 100) | (beats > 112)]
    series = rr.tachogram(rr.nn_intervals(hole), 10).ravel()
    missing = np.flatnonzero(np.isnan(series)) / 4.0
    inside = missing[(missing > 30) & (missing < 270)]
    assert 98 < inside.min() < 101
    assert 111 < inside.max() < 114


def test_a_window_knows_nothing_of_beats_beyond_its_span():
    """However the beats outside change, and however far the night goes on."""
    rng = np.random.default_rng(1)
    beats = np.cumsum(np.clip(rng.normal(0.95, 0.06, 4000), 0.75, 1.15))
    windows = int(beats[-1] // WINDOW_S)
    middle = windows // 2
    low, high = (middle - 5) * WINDOW_S - 15, (middle + 6) * WINDOW_S + 15

    def features(times, count=windows):
        intervals = rr.nn_intervals(times)
        tachogram = rr.tachogram(intervals, count)
        return tachogram[middle], rr.hrv(intervals, tachogram)[middle]

    expected = features(beats)
    for other in (
        np.sort(np.where((beats < low) | (beats > high), beats + 0.05 * rng.random(), beats)),
        beats[(beats > low) & (beats < high)],
    ):
        for ours, theirs in zip(features(other), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(features(beats, windows + 50), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beats", [np.empty(0), np.array([3.0]), np.array([3.0, 4.0])])
def test_a_night_without_beats_is_all_missing(beats):
    intervals = rr.nn_intervals(beats)
    tachogram = rr.tachogram(intervals, 4)
    assert np.isnan(tachogram).mean() > 0.95
    assert np.isnan(rr.hrv(intervals, tachogram)).all()


def test_windows_and_spans_keep_time():
    series = np.arange(1000.0)
    windows = to_windows(series, 4.0, 10)
    assert windows.shape == (10, 120)
    np.testing.assert_array_equal(windows.ravel()[:1000], series)
    assert np.isnan(windows.ravel()[1000:]).all()
    around = spans(windows, 3)
    np.testing.assert_array_equal(around[4], series[3 * 120 : 6 * 120])
    assert np.isnan(around[0, :120]).all()


def recorded_beats(path):
    """Beats of an overnight RR file: each row's clock time, in 1-s steps, ends an interval."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["RR Interval in seconds"]]
    clock = [datetime.datetime.strptime(row["Timestamp"], "%Y/%m/%d %H:%M:%S") for row in rows]
    seconds = np.array([(time - clock[0]).total_seconds() for time in clock])
    return seconds, np.array([float(row["RR Interval in seconds"]) for row in rows])


def test_a_recorder_that_loses_ten_seconds_in_every_152(real_data):
    """Holes stay holes: each is found, and the tachogram covers what the recorder covered."""
    files = sorted((real_data / "overnight_rr").glob("*_RR.csv"))
    for path in files[:4]:
        seconds, interval = recorded_beats(path)
        # The stamp is whole seconds: beats are put back within runs that have no hole.
        run = np.concatenate([[0], np.cumsum(np.diff(seconds) > 4)])
        times = np.concatenate(
            [
                seconds[run == n][0] + np.cumsum(interval[run == n]) - interval[run == n][0]
                for n in range(run[-1] + 1)
            ]
        )
        windows = int(seconds[-1] // WINDOW_S)
        tachogram = rr.tachogram(rr.nn_intervals(np.sort(times)), windows)
        covered = np.isfinite(tachogram).mean()
        held = min(interval.sum() / seconds[-1], 1.0)
        assert covered == pytest.approx(held, abs=0.10), path.name
        assert np.isnan(tachogram).any(axis=1).mean() > 0.15, path.name
        good = tachogram[np.isfinite(tachogram)]
        assert 0.5 < np.median(good) < 1.5
