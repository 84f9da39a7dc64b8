"""The mask is made once, and any rate comes to any grid, from the whole or from the past alone."""

import itertools

import numpy as np
import pytest

from kd_sleep.errors import SamplesError
from kd_sleep.signals.resampling import RunningGrid, on_grid
from kd_sleep.signals.timeseries import Series, stuck

# Ratios of small numbers to 50 Hz, and others; 40 Hz is the least that a BCG may have.
RATES_HZ = (40.0, 50.0, 64.00037, 99.96, 100.0, 100.04, 125.05, 250.0, 999.4121, 1000.0)


def masked(values, mask):
    return np.ma.masked_array(values, mask)


@pytest.mark.parametrize(
    "samples",
    [
        np.array([1.0, np.nan, 3.0]),
        np.array([1.0, -np.inf, 3.0], np.float32),
        np.array([1.0, 1e39, 3.0]),  # beyond float32: damage
        np.array([1.0, np.inf, 3.0], np.float16),
        masked([1.0, 2.0, 3.0], [0, 1, 0]),
        masked([1, 7, 3], [0, 1, 0]),
        [1.0, np.nan, 3.0],
        np.array([1.0, 9.0, np.nan, 9.0, 3.0])[::2],
    ],
)
def test_what_is_no_sample_is_missing_and_bridged(samples):
    series = Series.of(samples, 100.0)
    np.testing.assert_array_equal(series.missing, [False, True, False])
    np.testing.assert_array_equal(series.values, [1.0, 2.0, 3.0])


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64, np.float16, np.float32, list])
def test_numbers_of_any_kind_are_samples(kind):
    series = Series.of([3, 1, 2] if kind is list else np.array([3, 1, 2], kind), 50.0)
    assert series.values.tolist() == [3.0, 1.0, 2.0]
    assert not series.missing.any()


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        (np.zeros((3, 2)), r"one channel \[n\], got an array \[3, 2\]"),
        (np.zeros((3, 1)), "one channel"),
        (1.0, "one channel"),
        (["1.0", "2.0"], "real numbers"),
        ([1.0, None], "real numbers"),
        ([[1.0], [1.0, 2.0]], "real numbers"),
        (np.array([1 + 1j, 2]), "complex128"),
        (np.array([True, False]), "bool"),
        (np.array(["2026-01-01"], "datetime64[s]"), "datetime64"),
    ],
)
def test_what_is_no_channel_is_refused(samples, problem):
    with pytest.raises(SamplesError, match=problem):
        Series.of(samples, 100.0)


def test_bridges_are_those_of_interpolation():
    rng = np.random.default_rng(0)
    for share in (0.01, 0.5, 0.99):
        values = np.where(rng.random(1000) < share, np.nan, rng.normal(size=1000))
        known = np.flatnonzero(np.isfinite(values))
        expected = np.interp(np.arange(1000), known, values[known])
        np.testing.assert_allclose(Series.of(values, 100.0).values, expected, atol=1e-12)


def test_stuck_is_a_second_without_change_or_a_rail():
    values = np.random.default_rng(0).normal(size=5000)
    values[100:350] = 0.25
    values[400:480] = 0.5  # 0.8 s
    values[600:640] = 9.0  # a rail
    values[700:710] = 9.0  # a clipped peak
    values[790], values[800:950], values[950] = 0.3, np.nan, 0.3  # a gap is no run
    flat, saturated = stuck(Series.of(values, 100.0))
    assert np.flatnonzero(flat).tolist() == list(range(100, 350))
    assert np.flatnonzero(saturated).tolist() == list(range(600, 640))
    assert not stuck(Series.of(np.ones(200), 100.0))[1].any()


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_sine_stays_in_its_place_for_fourteen_hours(rate_hz):
    """The last minute of 14 h: content to 0.1 %, which at 5 Hz is 0.03 ms, mask to a sample."""
    samples = int(60 * rate_hz)
    before = int(14 * 3600 * rate_hz) - samples
    time_s = (before + np.arange(samples)) / rate_hz
    sine = np.sin(2 * np.pi * 5.0 * time_s)
    gap_s = time_s[0] + np.array([20.0, 30.0])
    gone = (time_s >= gap_s[0]) & (time_s < gap_s[1])
    first = int(np.ceil(time_s[0] * 50.0))
    out = on_grid(Series(sine, gone, rate_hz, time_s[0]), 50.0, 50 * 60 - 2, first)
    grid_s = (first + np.arange(len(out))) / 50.0
    assert out.start_s == pytest.approx(grid_s[0])
    inner = slice(25, -25)
    np.testing.assert_allclose(
        out.values[inner], np.sin(2 * np.pi * 5.0 * grid_s)[inner], atol=1e-3
    )
    edges_s = grid_s[np.flatnonzero(np.diff(out.missing))[:2] + 1]
    np.testing.assert_allclose(edges_s, gap_s, atol=0.03)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_bands_pass_and_nothing_folds(rate_hz):
    """Up to 15 Hz within 0.5 %, 19 Hz within 4 %; what 50 Hz cannot hold is 50 dB down."""
    time_s = np.arange(int(60 * rate_hz)) / rate_hz
    for tone_hz in (0.3, 8.0, 15.0, 19.0, 31.5, 0.45 * rate_hz):
        out = on_grid(Series.of(np.sin(2 * np.pi * tone_hz * time_s), rate_hz), 50.0)
        size = np.sqrt(2.0 * np.mean(out.values[100:-100] ** 2))
        if tone_hz <= 19.0 and tone_hz < 0.4 * rate_hz:
            assert size == pytest.approx(1.0, abs=0.005 if tone_hz <= 15.0 else 0.04), tone_hz
        elif tone_hz >= 31.0 and tone_hz < 0.5 * rate_hz:
            assert size < 10 ** (-50 / 20), tone_hz


@pytest.mark.parametrize("rates", [(100.0, 50.0), (140.0, 50.0), (125.0, 25.0), (50.0, 4.0)])
def test_other_grids(rates):
    old, new = rates
    out = on_grid(Series.of(np.sin(2 * np.pi * 0.3 * np.arange(0, 60, 1 / old)), old), new)
    assert len(out) == 60 * new
    expected = np.sin(2 * np.pi * 0.3 * np.arange(len(out)) / new)
    assert np.abs(out.values - expected)[round(3 * new) : -round(3 * new)].max() < 1e-3


def test_an_offset_costs_no_precision():
    rng = np.random.default_rng(0)
    small = rng.normal(size=100_000)
    plain, lifted = (on_grid(Series.of(x, 99.97), 50.0).values for x in (small, small + 1e8))
    np.testing.assert_allclose(lifted - 1e8, plain, atol=1e-6)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_running_grid_is_the_whole_ones(rate_hz):
    """However the samples are cut, without gaps to the bit nearly, and gaps in the same place."""
    rng = np.random.default_rng(1)
    values = 1e3 + np.cumsum(rng.normal(size=int(90 * rate_hz)))
    gone = np.zeros(len(values), bool)
    gone[int(40 * rate_hz) : int(50 * rate_hz)] = True
    series = Series.of(values, rate_hz, gone)
    found = []
    cuts = [0, *np.sort(rng.integers(0, len(values), 60)), len(values)]
    for pieces in ([0, len(values)], cuts):
        grid = RunningGrid(rate_hz, 50.0)
        made = [
            grid.push(Series.of(values[a:b], rate_hz, gone[a:b]))
            for a, b in itertools.pairwise(pieces)
        ]
        made.append(grid.finish())
        found.append([np.concatenate(column) for column in zip(*made, strict=True)])
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    whole = on_grid(series, 50.0)
    np.testing.assert_array_equal(whole.missing, found[0][1])
    clear = np.ones(len(whole), bool)
    clear[39 * 50 : 51 * 50] = False
    np.testing.assert_allclose(found[0][0][clear] + values[0], whole.values[clear], atol=1e-7)
