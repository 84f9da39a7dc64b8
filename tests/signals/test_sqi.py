"""Signal SQI: what must and must not move it, and what its thresholds mean on simulated nights."""

import itertools
import time

import numpy as np
import pytest

from kd_sleep.signals.filters import bandpass
from kd_sleep.signals.j_peaks import Beats, j_peaks
from kd_sleep.signals.quality import snr_db
from kd_sleep.signals.sqi import signal_sqi
from kd_sleep.signals.timeseries import Series
from kd_sleep.simulation import beds, sensors
from kd_sleep.simulation.physiology import draw_subject, simulate_night

RATE_HZ = 50.0


def nights_at(seed, levels_db, hours, rate_hz=RATE_HZ, sensor="film"):
    """One night at named SNRs, else the same to the last draw: (BCG, J times) of each."""
    rng = np.random.default_rng([21, seed])
    drive = simulate_night(rng, draw_subject(rng), hours).drive
    for level_db in levels_db:
        bed = beds.fixed(beds.SENSORS[sensor], snr_db=level_db)
        made = sensors.bcg(np.random.default_rng([22, seed]), drive, rate_hz, sensor=bed)
        yield Series.of(made.values.astype(np.float64), rate_hz), made.j_times_s


def a_night(seed, snr_db, hours):
    return next(nights_at(seed, (snr_db,), hours))[0].values


def ringing_beats(seconds, noise=0.05, every_s=0.9, seed=0):
    """A BCG without breathing or movement, and its J times."""
    rng = np.random.default_rng(seed)
    beats = np.cumsum(every_s + 0.02 * rng.normal(size=int(seconds / every_s)))
    beats = beats[(beats > 0.6) & (beats < seconds - 0.6)]
    clock = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    values = noise * rng.normal(size=len(clock))
    for j_s in beats:
        near = np.abs(clock - j_s) < 0.6
        away = clock[near] - j_s
        values[near] += np.exp(-((away / 0.12) ** 2)) * np.cos(2 * np.pi * 5.0 * away)
    return values, beats


def known_beats(times_s):
    return Beats(times_s, np.ones(len(times_s)), np.ones(len(times_s)))


@pytest.fixture(scope="module")
def night():
    return a_night(1, 8.0, 1.0)


@pytest.mark.parametrize(("gain", "offset"), [(-1.0, 0.0), (1e6, 0.0), (1e-6, 0.0), (3.3, -50.0)])
def test_gain_offset_and_polarity_do_not_matter(night, gain, offset):
    plain, changed = (
        signal_sqi(Series.of(night, RATE_HZ)),
        signal_sqi(Series.of(gain * night + offset, RATE_HZ)),
    )
    np.testing.assert_allclose(changed.score, plain.score, atol=2e-3)
    np.testing.assert_allclose(changed.snr_db, plain.snr_db, atol=1e-3)
    np.testing.assert_array_equal(changed.movement, plain.movement)


def test_scores_are_shares_and_rise_with_the_snr():
    medians = []
    for bcg, _ in nights_at(2, (-6.0, -2.0, 2.0, 6.0, 12.0), 0.75):
        quality = signal_sqi(bcg)
        assert ((quality.score >= 0) & (quality.score <= 1)).all()
        medians.append(np.median(quality.score))
    assert (np.diff(medians) > 0).all()
    assert medians[0] < 0.1
    assert medians[-1] > 0.8


def test_noise_alone_scores_next_to_nothing():
    noise = np.random.default_rng(0).normal(size=60_000)
    quality = signal_sqi(Series.of(noise, RATE_HZ))
    assert quality.score.max() < 0.1
    assert abs(np.median(quality.snr_db)) < 0.5
    assert not quality.reliable().any()


def test_snr_is_that_of_quality_and_breathing_is_no_heart():
    values, _ = ringing_beats(300, noise=0.5)
    clock = np.arange(len(values)) / RATE_HZ
    breathing = 40.0 * np.sin(2 * np.pi * 0.27 * clock) + 5.0 * np.sin(2 * np.pi * 0.54 * clock)
    alone = snr_db(values.reshape(-1, 500), RATE_HZ)
    without = signal_sqi(Series.of(values, RATE_HZ))
    np.testing.assert_allclose(without.snr_db, alone, atol=0.25)
    both = signal_sqi(Series.of(values + breathing, RATE_HZ))
    leak = snr_db((values + breathing).reshape(-1, 500), RATE_HZ) - alone
    assert np.median(leak) > 0.4
    assert np.abs(np.median(both.snr_db - alone)) < 0.1
    assert np.abs(both.correlation - without.correlation)[1:-1].max() < 0.03


def test_correlation_is_that_with_the_mean_of_the_20_beats_around():
    values, beats = ringing_beats(200, noise=0.6)
    quality = signal_sqi(Series.of(values, RATE_HZ), known_beats(beats))
    heart = bandpass(bandpass(values, RATE_HZ, 0.7, None, 4), RATE_HZ, 1.0, 8.0)
    clock = np.arange(len(values)) / RATE_HZ
    shapes = np.stack(
        [np.interp(j_s + np.arange(-15, 25) / RATE_HZ, clock, heart) for j_s in beats]
    )
    shapes -= shapes.mean(1, keepdims=True)
    shapes /= np.linalg.norm(shapes, axis=1, keepdims=True)
    segment = 10
    inside = np.flatnonzero((beats >= 100) & (beats < 110))
    sides = []
    for first, last in ((-20, 0), (1, 21)):
        alike = [
            np.corrcoef(shapes[beat], shapes[beat + first : beat + last].mean(0))[0, 1]
            for beat in inside
        ]
        sides.append(np.mean(alike))
    # A template's own mean is not quite 0, so a correlation differs a little from a product.
    assert quality.correlation[segment] == pytest.approx(max(sides), abs=2e-3)


def test_a_turn_in_bed_does_not_make_the_beats_after_it_bad():
    values, beats = ringing_beats(400)
    values[10_000:] *= -1.0
    quality = signal_sqi(Series.of(values, RATE_HZ), known_beats(beats))
    away = np.abs(np.arange(40) - 19.5) > 1
    assert quality.correlation[away].min() > 0.9


def test_too_few_beats_make_no_template_and_what_is_unknown_is_not_good():
    values, beats = ringing_beats(60)
    quality = signal_sqi(Series.of(values, RATE_HZ), known_beats(beats[:18]))
    assert np.isnan(quality.correlation).all()
    assert (quality.score == 0).all()


def test_beats_far_away_are_no_template():
    values, beats = ringing_beats(600)
    near = signal_sqi(Series.of(values, RATE_HZ), known_beats(beats))
    rare = signal_sqi(
        Series.of(values, RATE_HZ), known_beats(beats[::10])
    )  # 20 of them are 3 minutes
    assert np.isfinite(near.correlation).all()
    assert np.isnan(rare.correlation).all()


def test_a_gap_is_dropout_and_the_rest_is_as_before(night):
    gappy = night.copy()
    gappy[50_000:60_250] = np.nan  # segments 100 to 119 and half of 120
    gappy[100_000] = np.nan
    plain, quality = signal_sqi(Series.of(night, RATE_HZ)), signal_sqi(Series.of(gappy, RATE_HZ))
    np.testing.assert_array_equal(quality.dropout[100:120], 1.0)
    assert quality.dropout[120] == pytest.approx(0.5)
    assert quality.dropout[200] == pytest.approx(1 / 500)
    assert np.isnan(quality.snr_db[100:121]).all()
    assert (quality.score[100:121] == 0).all()
    far = np.ones(360, bool)
    far[95:126] = far[199:202] = False
    np.testing.assert_allclose(quality.snr_db[far], plain.snr_db[far], atol=0.05)
    assert np.abs(quality.score - plain.score)[far].max() < 0.25
    assert np.median(np.abs(quality.score - plain.score)[far]) < 0.01


def test_a_rail_is_saturation():
    values, _ = ringing_beats(300)
    clock = np.arange(len(values)) / RATE_HZ
    swaying = (clock >= 100) & (clock < 120)
    values[swaying] += 30 * np.sin(2 * np.pi * 0.2 * clock[swaying])
    clipped = np.clip(values, -15.0, 15.0)
    quality = signal_sqi(Series.of(clipped, RATE_HZ))
    assert quality.saturation[10:12] == pytest.approx(2 / 3, abs=0.1)
    assert quality.saturation[[0, 5, 20]].max() == 0
    assert quality.dropout.max() == 0
    assert quality.score[10:12].max() < 0.3


def test_saturation_costs_as_much_as_dropout():
    values, beats = ringing_beats(300)
    railed, gappy = values.copy(), values.copy()
    railed[5_100:5_250], gappy[5_100:5_250] = 4.0, np.nan
    saturated, dropped = (
        signal_sqi(Series.of(each, RATE_HZ), known_beats(beats)) for each in (railed, gappy)
    )
    assert saturated.saturation[10] == pytest.approx(0.3)
    assert dropped.dropout[10] == pytest.approx(0.3)
    assert 0.1 < saturated.score[10] == pytest.approx(dropped.score[10], abs=0.05)


def test_movement_is_seen_where_it_is():
    values, _ = ringing_beats(600)
    values[15_000:15_400] += 8.0 * np.random.default_rng(1).normal(size=400)  # 8 s of segment 30
    quality = signal_sqi(Series.of(values, RATE_HZ))
    assert quality.movement[30] == pytest.approx(0.8, abs=0.15)
    assert quality.movement[np.abs(np.arange(60) - 30) > 1].max() == 0
    assert quality.score[30] < 0.3 * np.median(quality.score)


def test_windows_are_means_of_segments_and_0_beyond_the_end(night):
    quality = signal_sqi(Series.of(night, RATE_HZ))
    windows = quality.by_window(125)
    for name in ("score", "movement", "saturation", "dropout"):
        expected = getattr(quality, name).reshape(120, 3).mean(1)
        np.testing.assert_allclose(getattr(windows, name)[:120], expected)
    assert (windows.score[120:] == 0).all()
    assert (windows.dropout[120:] == 1).all()
    assert np.isnan(windows.snr_db[120:]).all()
    known = quality.snr_db.reshape(120, 3)
    np.testing.assert_allclose(windows.snr_db[:120], known.mean(1))
    assert len(quality.by_window(7).score) == 7


def test_the_rest_of_a_recording_is_filled_up_with_dropout():
    values, _ = ringing_beats(106)
    quality = signal_sqi(Series.of(values, RATE_HZ))
    assert len(quality.score) == 11
    assert quality.dropout[-1] == pytest.approx(0.4)


def test_reliable_is_the_articles_rule():
    quality = signal_sqi(Series.of(a_night(2, 3.0, 0.5), RATE_HZ))
    rule = (quality.snr_db >= 6) & (quality.correlation >= 0.7)
    spoilt = (quality.movement > 0.1) | (quality.saturation > 0.1) | (quality.dropout > 0.1)
    np.testing.assert_array_equal(quality.reliable(), rule & ~spoilt)
    assert 0 < quality.reliable().sum() < len(quality.score)


@pytest.mark.parametrize(
    "values",
    [np.full(6_000, 3.7), np.full(6_000, np.nan), np.zeros(0), np.ones(30)],
    ids=["constant", "missing", "empty", "short"],
)
def test_no_signal_no_quality(values):
    quality = signal_sqi(Series.of(values, RATE_HZ))
    assert len(quality.score) == np.ceil(len(values) / 500)
    assert (quality.score == 0).all()
    assert (quality.dropout[:-1] == 1).all()
    assert (quality.by_window(4).score == 0).all()


def test_too_slow_a_rate_is_refused():
    with pytest.raises(ValueError, match="10-20 Hz"):
        signal_sqi(Series.of(np.zeros(1000), 30.0))


def beats_against_snr(nights, edges_db, at_rest=True):
    """Rows (share of beats missed, share of J peaks false, mean score) between edges of the SNR.

    A beat is found where a J peak lies within 150 ms; peaks are at least twice that apart.
    """
    columns = []
    for bcg, j_times_s in nights:
        found = j_peaks(bcg)
        quality = signal_sqi(bcg, found)
        spoilt = (quality.movement + quality.saturation + quality.dropout > 0) & at_rest
        nearest = np.abs(found.times_s[:, None] - j_times_s).argmin(1)
        right = np.abs(found.times_s - j_times_s[nearest]) < 0.15
        counts = [
            np.bincount((times_s // 10).astype(int), minlength=len(spoilt))[: len(spoilt)]
            for times_s in (j_times_s, j_times_s[np.unique(nearest[right])], found.times_s)
        ]
        false = np.bincount((found.times_s[~right] // 10).astype(int), minlength=len(spoilt))
        snr = np.where(spoilt, np.nan, quality.snr_db)
        columns.append(np.stack([snr, *counts, false[: len(spoilt)], quality.score]))
    snr, true, hit, peaks, false, score = np.concatenate(columns, axis=1)
    rows = []
    for low, high in itertools.pairwise(edges_db):
        here = (snr >= low) & (snr < high)
        missed = 1.0 - hit[here].sum() / true[here].sum()
        rows.append((missed, false[here].sum() / peaks[here].sum(), score[here].mean()))
    return rows


def test_what_the_thresholds_mean_here():
    """More is missed where the ratio is low, but above the article's 6 dB not few enough.

    The sensors' noise falls with frequency, so that the ratio of the bands is high without a heart.
    """
    nights = [each for seed in (4, 5) for each in nights_at(seed, (-6.0, 0.0, 8.0), 0.75)]
    low, middle, high = beats_against_snr(nights, (-np.inf, 6.0, 10.0, np.inf))
    assert high[0] < middle[0] < low[0]
    assert high[2] > middle[2] > low[2]
    assert middle[0] > 0.03


@pytest.mark.slow
def test_the_table_of_many_nights():
    """Prints it: 48 nights of 2.5 h, six seeds at eight SNRs, with the sensor's own noise."""
    levels_db = (-10.0, -6.0, -2.0, 0.0, 3.0, 6.0, 10.0, 14.0)
    nights = [each for seed in range(300, 306) for each in nights_at(seed, levels_db, 2.5)]
    edges_db = (-np.inf, 0.0, 3.0, 6.0, 9.0, 12.0, np.inf)
    for at_rest in (False, True):
        rows = beats_against_snr(nights, edges_db, at_rest)
        for low, (missed, false, score) in zip(edges_db, rows, strict=False):
            print(f"from {low} dB: {missed:.1%} missed, {false:.1%} false, score {score:.2f}")
    assert all(missed < 0.03 and false < 0.01 for missed, false, _ in rows[3:])
    assert rows[0][0] > 0.40
    assert rows[1][0] > 0.40  # 0 to 3 dB: the article's lower threshold is lenient here


@pytest.mark.slow
def test_a_night_takes_at_most_0_4_s():
    values = a_night(6, 6.0, 8.0)
    took_s = []
    for _ in range(5):
        start = time.process_time()
        signal_sqi(Series.of(values, RATE_HZ))
        took_s.append(time.process_time() - start)
    print("8 h at 50 Hz:", round(min(took_s), 3), "s")
    assert min(took_s) <= 0.4
