"""RR features against closed forms, against plain loops, and on recorders that lose beats."""

import csv
import datetime
import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest
import sleepecg
from scipy import ndimage

from kd_sleep.features import rr
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
    normal = np.ones(len(beats), bool)
    normal[50] = False
    assert not rr.nn_intervals(beats, normal).normal[[49, 50]].any()


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
    windows = rr._to_windows(series, 4.0, 10)
    assert windows.shape == (10, 120)
    np.testing.assert_array_equal(windows.ravel()[:1000], series)
    assert np.isnan(windows.ravel()[1000:]).all()
    around = rr._spans(windows, 3)
    np.testing.assert_array_equal(around[4], series[3 * 120 : 6 * 120])
    assert np.isnan(around[0, :120]).all()


def recorded_beats(path):
    """Beat times of an overnight RR file, and the holes between them, [(start, stop)] in s.

    A row's clock time, in 1-s steps, is when its interval ended. Intervals are added up within a
    run only: across a hole of over 4 s, and wherever clock and sum fall 2.5 s apart, since the
    recorder loses single beats as well, the clock is what counts.
    """
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["RR Interval in seconds"]]
    clock = [datetime.datetime.strptime(row["Timestamp"], "%Y/%m/%d %H:%M:%S") for row in rows]
    interval = [float(row["RR Interval in seconds"]) for row in rows]
    # The stamp is rounded down: on average half a second early.
    stamp = [(time - clock[0]).total_seconds() + 0.5 for time in clock]
    times, holes = [stamp[0]], []
    for now, before, rr_s in zip(stamp[1:], stamp, interval[1:], strict=False):
        reckoned = times[-1] + rr_s
        if now - before > 4 or abs(now - reckoned) > 2.5:
            if now <= times[-1] + 0.3:  # the clock was set back: the beat has no time of its own
                continue
            holes.append((times[-1], now))
            times.append(now)
        else:
            times.append(reckoned)
    return np.array(times), holes


OVERNIGHT = ["01_20231104_RR.csv", "04_20231104_RR.csv", "09_20231110_RR.csv"]


@pytest.fixture(scope="module", params=OVERNIGHT)
def overnight(request, real_data):
    """Beats, holes, intervals and tachogram of a recorder that loses 10 s of beats in every 152."""
    beats, holes = recorded_beats(real_data / "overnight_rr" / request.param)
    intervals = rr.nn_intervals(beats)
    return beats, holes, intervals, rr.tachogram(intervals, int(beats[-1] // WINDOW_S))


def test_the_clock_is_kept_across_hundreds_of_holes(overnight):
    """Were intervals added up, the night's end would lie over an hour early."""
    beats, holes, intervals, tachogram = overnight
    assert len(holes) > 100
    long = np.array([stop - start for start, stop in holes])
    assert long.sum() > 0.05 * beats[-1]
    assert tachogram.size / 4.0 == pytest.approx(beats[-1], abs=WINDOW_S)
    assert (intervals.end_s == beats[1:]).all()


def test_holes_are_missing_and_nothing_else_is(overnight):
    _, holes, intervals, tachogram = overnight
    grid = np.arange(tachogram.size) / 4.0
    missing = np.isnan(tachogram).ravel()
    in_hole = np.zeros(len(grid), bool)
    for start, stop in holes:
        if stop - start > rr.MAX_GAP_S:
            in_hole |= (grid > start) & (grid < stop)
    assert missing[in_hole].all()
    assert (np.isnan(tachogram).mean(1)[np.unique(np.flatnonzero(in_hole) // 120)] > 0).all()
    # Elsewhere values are missing only where there are no NN intervals near enough.
    ends = intervals.end_s[intervals.normal]
    after = np.searchsorted(ends, grid, side="right").clip(1, len(ends) - 1)
    far = (ends[after] - ends[after - 1] > rr.MAX_GAP_S) | (grid < ends[0]) | (grid > ends[-1])
    np.testing.assert_array_equal(missing, far)
    assert (missing & ~in_hole).mean() < 0.10


def test_a_stretch_between_holes_is_worth_the_same_alone(overnight):
    """No neighbour beyond a hole plays any part: not in the median, nor the line between beats."""
    beats, _, intervals, tachogram = overnight
    windows = 0
    edges = np.concatenate(
        [[0], np.flatnonzero(np.diff(beats) > rr.RR_RANGE_S[1]) + 1, [len(beats)]]
    )
    for first, last in itertools.pairwise(edges):
        stretch = beats[first:last]
        alone = rr.nn_intervals(stretch)
        np.testing.assert_array_equal(alone.normal, intervals.normal[first : last - 1])
        inside = slice(int(np.ceil(stretch[0] / WINDOW_S)), int(stretch[-1] // WINDOW_S))
        if inside.stop > inside.start:
            np.testing.assert_array_equal(
                rr.tachogram(alone, len(tachogram))[inside], tachogram[inside]
            )
            windows += inside.stop - inside.start
    assert windows > 0.3 * len(tachogram)


@pytest.fixture(scope="module")
def mitdb(real_data):
    """Times in s and normality of the 2,273 beats that cardiologists annotated in record 100."""
    reader = runpy.run_path(str(Path(__file__).parents[1] / "signals" / "test_r_peaks.py"))
    samples, codes = reader["mitdb_100_beats"](real_data / "rpeaks_mitdb_100")
    return samples / 360.0, codes == 1


def test_intervals_beside_annotated_ectopic_beats_are_rejected_untold(mitdb):
    """Of 68 intervals beside 33 atrial beats and a ventricular one 63 go, of 2,204 others none."""
    times, normal = mitdb
    beside = ~(normal[1:] & normal[:-1])
    rejected = ~rr.nn_intervals(times).normal
    assert beside.sum() == 68
    assert rejected[beside].mean() > 0.9
    assert rejected[~beside].mean() < 0.001


def test_told_which_beats_are_ectopic_exactly_their_intervals_are_rejected(mitdb):
    times, normal = mitdb
    np.testing.assert_array_equal(rr.nn_intervals(times, normal).normal, normal[1:] & normal[:-1])


def test_the_median_stays_on_its_side_of_a_hole():
    """A heart that beats at 1.2 s before a hole and at 0.8 s after it has no ectopic beat."""
    beats = np.concatenate([np.arange(0.0, 60.0, 1.2), np.arange(70.0, 130.0, 0.8)])
    intervals = rr.nn_intervals(beats)
    assert np.flatnonzero(~intervals.normal).tolist() == [49]


@pytest.mark.parametrize("reach", [0, 17, 250])
def test_the_local_median_is_scipys_within_each_run(reach):
    rng = np.random.default_rng(reach)
    interval = rng.normal(0.9, 0.1, 500)
    holes = rng.choice(500, reach, replace=False)
    interval[holes] = 9.0
    median = rr._local_median(interval)
    for run in np.split(np.arange(500), np.sort(holes)):
        run = run[interval[run] < 9.0]
        if run.size:
            expected = ndimage.median_filter(interval[run], rr.ECTOPIC_BEATS, mode="nearest")
            np.testing.assert_array_equal(median[run], expected)


def test_time_domain_features_agree_with_sleepecg():
    """Another library's, over the same 5.5 min of a night without holes or ectopic beats."""
    rng = np.random.default_rng(3)
    beats = np.cumsum(np.clip(rng.normal(0.95, 0.05, 2000), 0.78, 1.12))
    intervals = rr.nn_intervals(beats)
    assert intervals.normal.all()
    windows = int(beats[-1] // WINDOW_S)
    ours = rr.hrv(intervals, rr.tachogram(intervals, windows))[6:-6].T
    record = sleepecg.SleepRecord(
        sleep_stages=np.zeros(windows), sleep_stage_duration=30, id="", heartbeat_times=beats
    )
    (theirs,), _, _ = sleepecg.extract_features(
        [record], 150, 180, feature_selection=["meanNN", "SDNN", "RMSSD", "NN50"]
    )
    theirs = theirs[6:-6].T
    centre_s = (np.arange(6, windows - 6)[:, None] + 0.5) * WINDOW_S
    count = (np.abs(intervals.end_s - centre_s) < 165.0).sum(1)
    theirs[1] *= np.sqrt((count - 1) / count)  # theirs is the sample standard deviation
    theirs[3] /= count - 1  # its own pNN50 is over the longest window's count
    for name, other in zip(("mean_nn_s", "sdnn_s", "rmssd_s", "pnn50"), theirs, strict=True):
        np.testing.assert_allclose(ours[COLUMN[name]], other, rtol=1e-9, err_msg=name)
