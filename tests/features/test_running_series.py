"""Series of a BCG while it is recorded: nearly those of the night, and nothing of the future."""

import numpy as np
import pytest

from kd_sleep.features.bcg import on_windows, prepared
from kd_sleep.features.inputs import SUMMARY, summary
from kd_sleep.features.running_series import DELAY_S, RunningSeries, joined
from kd_sleep.features.series import RECORD_FIELDS, bcg_series
from kd_sleep.schema import BCG_HZ
from kd_sleep.signals.quality import snr_db
from kd_sleep.signals.timeseries import Series
from kd_sleep.simulation import sensors
from kd_sleep.simulation.physiology import draw_subject, simulate_night

RAW_HZ, HOURS = 100.0, 0.75


@pytest.fixture(scope="module")
def raw():
    """A simulated night's BCG at 100 Hz."""
    rng = np.random.default_rng(7)
    physiology = simulate_night(rng, draw_subject(rng), HOURS)
    return sensors.bcg(rng, physiology.drive, RAW_HZ, sensor="load_cell").values.astype(float)


def running(values, rate_hz=RAW_HZ, cuts=(), **options):
    """All windows of samples that come in pieces."""
    stream = RunningSeries(rate_hz, **options)
    parts = [Series.of(part, rate_hz) for part in np.split(values, cuts)]
    found = [window for part in parts for window in stream.push(part)]
    return found + stream.finish()


def record_of(windows):
    return joined(window.own for window in windows).series


@pytest.fixture(scope="module")
def found(raw):
    return running(raw, samples=True)


@pytest.fixture(scope="module")
def whole(raw):
    windows = len(raw) // 3000
    uniform = on_windows(Series.of(raw, RAW_HZ), windows)
    return bcg_series(uniform, windows), prepared(uniform)


def test_windows_are_those_of_the_night(found, whole):
    """90 % of what both know is alike, of JJ 5 ms apart at most; of this night it is 99 %."""
    night, ready = whole
    record = record_of(found)
    assert set(record) == set(RECORD_FIELDS)
    assert len(found) == len(night.jj)
    for name, largest in (
        ("jj", 0.005), ("beat_confidence", 0.1), ("breath", 0.5), ("movement", 0.05),
        ("breath_depth", 0.1),
    ):  # fmt: skip
        one, other = record[name].astype(float), getattr(night, name).astype(float)
        assert one.shape == other.shape
        if name in ("movement", "breath_depth"):  # of another unit, the same for all windows
            one = one - np.nanmedian(one - other)
        known = np.isfinite(one) & np.isfinite(other)
        assert known.mean() > 0.95 * np.isfinite(other).mean(), name
        alike = (np.abs(one - other)[known] < largest).mean()
        assert alike > (0.98 if name == "jj" else 0.9), name
    np.testing.assert_allclose([w.own.missing_N[0] for w in found], ready.missing_N, atol=0.02)
    ratio_db = snr_db(ready.values_NS, BCG_HZ)
    assert np.median(np.abs([w.own.snr_db_N[0] for w in found] - ratio_db)) < 0.2


def test_the_summary_of_the_past_is_the_nights(found, whole):
    night, ready = whole
    one, other = (
        summary(series, ready.missing_N, "past") for series in (record_of(found), night.fields())
    )
    level = SUMMARY.index("movement_level")  # in a unit of its own
    difference = np.delete(np.abs(one - other), level, axis=1)[20:]
    assert np.median(difference, axis=0).max() < 0.2  # of z-scores; constants differ by more
    assert np.isfinite(one).all()
    assert (np.delete(one, level, axis=1)[20:].std(0) > 0).sum() >= len(SUMMARY) - 3


def test_hrv_is_that_of_the_minutes_before(found, whole):
    """Which the record of a night has five windows earlier."""
    hrv = np.concatenate([window.own.series["jj_hrv"] for window in found])
    mean_nn = whole[0].jj_hrv[:-5, 0]
    np.testing.assert_allclose(hrv[25:, 0], mean_nn[20:], rtol=0.02)
    assert np.isnan(hrv[:5]).all()
    assert np.isnan(record_of(found)["jj_hrv"][-5:]).all()


def test_a_window_is_there_after_its_delay(raw):
    stream = RunningSeries(RAW_HZ)
    ready = round((30 + DELAY_S) * RAW_HZ)
    raw = Series.of(raw, RAW_HZ)
    assert stream.push(raw[:ready]) == []  # the change of rate looks 0.2 s ahead
    assert len(stream.push(raw[ready : ready + 30])) == 1
    assert len(stream.push(raw[ready + 30 : ready + 9030])) == 3
    assert len(stream.finish()) == 0
    assert len(running(raw.values[:9000])) == 3  # at the end nobody waits


def test_what_comes_after_the_delay_changes_nothing(raw, found):
    cut = 20
    end = round((30 * cut + DELAY_S + 0.25) * RAW_HZ)
    other = raw.copy()
    other[end:] = 3.0 * raw[end:][::-1]
    for before, after in zip(found[:cut], running(other, samples=True)[:cut], strict=True):
        for name in RECORD_FIELDS:
            np.testing.assert_array_equal(before.own.series[name], after.own.series[name])
        np.testing.assert_array_equal(before.own.bcg_NS, after.own.bcg_NS)


@pytest.mark.parametrize("rate_hz", [62.5, 99.97, 1000.0])
def test_pieces_make_no_difference(raw, rate_hz):
    rng = np.random.default_rng(0)
    clock = np.arange(round(200 * rate_hz)) / rate_hz
    values = np.interp(clock, np.arange(len(raw)) / RAW_HZ, raw)
    values[rng.random(len(values)) < 0.01] = np.nan
    values[round(20 * rate_hz) : round(50 * rate_hz)] = 1.0
    cuts = np.sort(rng.integers(0, len(values), 40))
    whole, pieces = (running(values, rate_hz, c, samples=True) for c in ((), cuts))
    assert len(whole) == len(pieces) == 6
    assert whole[1].own.missing_N[0] > 0.5
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_equal(
            (one.own.missing_N, one.own.snr_db_N), (other.own.missing_N, other.own.snr_db_N)
        )
        np.testing.assert_array_equal(one.own.bcg_NS, other.own.bcg_NS)
        for name in RECORD_FIELDS:
            np.testing.assert_array_equal(one.own.series[name], other.own.series[name])


def test_gaps_have_no_series_and_end_with_the_gap(raw):
    values = raw[: 40 * 3000].copy()
    values[:4500] = np.nan  # the stream begins without a sensor
    values[60_000:69_000] = np.nan
    windows = running(values)
    missing = np.array([window.own.missing_N[0] for window in windows])
    np.testing.assert_allclose(missing[[0, 1, 20, 21, 22]], [1.0, 0.5, 1.0, 1.0, 1.0], atol=0.01)
    record = record_of(windows)
    for name in ("jj", "breath", "movement"):
        known = np.isfinite(record[name]).mean(1)
        assert (known[[0, 20, 21, 22]] == 0).all(), name
        assert (known[[3, 19, 24]] > 0.8).all(), name


def test_samples_are_the_nights_once_the_amplitude_has_settled(found, whole):
    """The same zero-phase filters, so the same waves; edges of the minutes held differ a little."""
    night, last = whole[1], len(found) - 20
    for number in range(last, len(found)):
        one, other = found[number].own.bcg_NS[0], night.values_NS[number]
        assert np.corrcoef(one, other)[0, 1] > 0.9
        assert abs(np.log(np.std(one) / np.std(other))) < 0.2


def test_an_empty_stream_ends_empty():
    assert RunningSeries(100.0).finish() == []
    windows = running(np.full(3100, np.nan), samples=True)
    assert len(windows) == 1
    assert windows[0].own.missing_N[0] == 1.0
