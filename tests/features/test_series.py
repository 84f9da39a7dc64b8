"""A BCG's beats, breath and movement: against the truth, and what must not change them."""

import numpy as np
import pytest

from kd_sleep import schema
from kd_sleep.features import rr
from kd_sleep.features.bcg import on_windows
from kd_sleep.features.series import BREATH_HZ, RECORD_FIELDS, bcg_series
from kd_sleep.signals.filters import bandpass
from kd_sleep.signals.timeseries import Series
from kd_sleep.simulation import sensors
from kd_sleep.simulation.physiology import DRIVE_HZ, draw_subject, simulate_night

HOURS, RAW_HZ = 0.75, 200.0


def of_samples(values, **options):
    bcg = Series.of(values, schema.BCG_HZ)
    return bcg_series(bcg, len(bcg) // schema.BCG_SAMPLES, **options)


@pytest.fixture(scope="module")
def night():
    """A simulated night, its BCG at 200 Hz and the same at 50 Hz."""
    rng = np.random.default_rng(5)
    physiology = simulate_night(rng, draw_subject(rng), HOURS)
    made = sensors.bcg(rng, physiology.drive, RAW_HZ, sensor="load_cell")
    windows = int(physiology.drive.duration_s // 30)
    return physiology.drive, made, on_windows(Series.of(made.values, RAW_HZ), windows).values


@pytest.fixture(scope="module")
def windows(night):
    return len(night[2]) // schema.BCG_SAMPLES


@pytest.fixture(scope="module")
def series(night, windows):
    return of_samples(night[2])


def both_known(one, other):
    return np.isfinite(one) & np.isfinite(other)


def assert_alike(one, other, share=0.98, jj_s=0.004, level=0.05):
    """Nearly all of it is there in both, and equal but for rounding and filters' edges."""
    known = both_known(one.jj, other.jj)
    assert known.mean() > 0.9 * np.isfinite(other.jj).mean()
    assert (np.abs(one.jj - other.jj)[known] < jj_s).mean() > share
    for name in ("breath", "breath_depth", "movement"):
        a, b = (getattr(s, name).astype(float) for s in (one, other))
        known = both_known(a, b)
        assert known.mean() > 0.9
        assert (np.abs(a - b)[known] < level).mean() > share, name


def test_fields_are_the_schemas(series, windows):
    assert set(RECORD_FIELDS) < set(schema.NIGHT_FIELDS)
    for name, values in series.fields().items():
        spec = schema.NIGHT_FIELDS[name]
        assert values.dtype == spec.dtype
        assert values.shape == (windows, *spec.shape[1:])


def test_beats_are_the_ecgs(night, series, windows):
    """JJ intervals against the RR intervals that made the BCG, on the same grid."""
    drive = night[0]
    truth = rr.tachogram(rr.nn_intervals(drive.beat_times_s, drive.beat_normal), windows)
    known = both_known(series.jj, truth)
    assert known.mean() > 0.7
    assert np.median(np.abs(series.jj - truth)[known]) < 0.02


def test_breath_is_the_chest(night, series):
    """Up to its sign, the series follows the chest's excursion."""
    chest = np.interp(
        np.arange(series.breath.size) / schema.SERIES_HZ,
        np.arange(len(night[0].breathing)) / DRIVE_HZ,
        night[0].breathing,
    )
    chest = bandpass(chest, schema.SERIES_HZ, *BREATH_HZ)
    breath = series.breath.astype(float).ravel()
    known = np.isfinite(breath)
    assert abs(np.corrcoef(chest[known], breath[known])[0, 1]) > 0.5
    rms = np.sqrt(np.mean(breath[known] ** 2))
    assert 0.8 < rms < 1.5


def test_movement_is_the_bodys(night, series):
    seconds = series.movement.size
    moved = night[0].movement[: seconds * int(DRIVE_HZ)].reshape(seconds, -1).max(1) > 5.0
    level = series.movement.astype(float).ravel()
    assert np.median(level[moved]) > np.median(level[~moved]) + 1.0
    assert np.median(level) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("gain", [1e-4])
def test_gain_and_offset_drop_out(night, series, windows, gain):
    assert_alike(of_samples(gain * (night[2] + 3.0)), series, share=0.999)


def test_polarity_turns_the_breath_alone(night, series, windows):
    turned = of_samples(-night[2])
    known = both_known(turned.breath, series.breath)
    assert np.allclose(turned.breath[known], -series.breath[known], atol=0.01)
    np.testing.assert_allclose(turned.movement, series.movement, atol=0.01)
    known = both_known(turned.jj, series.jj)
    assert (np.abs(turned.jj - series.jj)[known] < 0.004).mean() > 0.98


@pytest.mark.parametrize("rate_hz", [62.5, 1000.0])
def test_the_rate_drops_out(night, series, windows, rate_hz):
    made = night[1].values
    place = np.arange(int(len(made) * rate_hz / RAW_HZ)) * (RAW_HZ / rate_hz)
    low_passed = bandpass(made, RAW_HZ, None, 20.0)
    other = Series.of(np.interp(place, np.arange(len(made)), low_passed), rate_hz)
    assert_alike(
        bcg_series(on_windows(other, windows), windows), series, share=0.9, jj_s=0.01, level=0.1
    )


def test_posture_drops_out_of_beats_and_breath(night, series, windows):
    """Half-way the gain falls to a quarter: JJ and breath go on as before."""
    values = night[2].copy()
    half = len(values) // 2 // schema.BCG_SAMPLES * schema.BCG_SAMPLES
    values[half:] *= 0.25
    turned = of_samples(values)
    known = both_known(turned.jj, series.jj)
    assert (np.abs(turned.jj - series.jj)[known] < 0.004).mean() > 0.9
    a, b = turned.breath.astype(float), series.breath.astype(float)
    assert (np.abs(a - b) < 0.1)[np.isfinite(a) & np.isfinite(b)].mean() > 0.9


def test_what_is_missing_stays_missing(night, series, windows):
    values = night[2].copy()
    values[10 * schema.BCG_SAMPLES : 14 * schema.BCG_SAMPLES] = np.nan  # four windows
    values[20 * schema.BCG_SAMPLES : 20 * schema.BCG_SAMPLES + 500] = np.nan  # ten seconds
    holed = of_samples(values)
    for name in ("jj", "breath", "movement", "breath_depth"):
        assert np.isnan(getattr(holed, name)[10:14].astype(float)).all(), name
    assert (holed.beat_confidence[11:14] == 0).all()
    assert np.isnan(holed.breath[20, :40].astype(float)).all()
    assert np.isfinite(holed.breath[20, 44:].astype(float)).all()
    assert np.isnan(holed.movement[20, :10].astype(float)).all()
    far = np.r_[0:8, 30:windows]
    known = both_known(holed.jj[far], series.jj[far])
    assert (np.abs(holed.jj[far] - series.jj[far])[known] < 0.01).mean() > 0.9


def test_a_shift_by_whole_windows_shifts_the_series(night, series, windows):
    later = of_samples(night[2][5 * schema.BCG_SAMPLES :])
    known = both_known(later.jj, series.jj[5:])
    assert (np.abs(later.jj - series.jj[5:])[known] < 0.01).mean() > 0.95


def test_no_heart_no_beats(windows):
    """Noise, silence and nothing: movement and breath at most, never a beat."""
    rng = np.random.default_rng(0)
    noise = of_samples(rng.normal(size=windows * schema.BCG_SAMPLES))
    assert np.isnan(noise.jj).all()
    assert (noise.beat_confidence == 0).all()
    for nothing in (np.nan, 0.0):
        empty = of_samples(np.full(windows * schema.BCG_SAMPLES, nothing))
        assert np.isnan(empty.jj).all()
        assert np.isnan(empty.movement.astype(float)).all()
        assert np.isnan(empty.breath_depth).all()


def test_a_given_unit_moves_the_levels_alone(night, series, windows):
    other = of_samples(night[2], unit=series.unit / 2.0)
    np.testing.assert_array_equal(other.jj, series.jj)
    np.testing.assert_allclose(other.movement, series.movement + np.log(2.0), atol=0.01)
    np.testing.assert_allclose(other.breath_depth, series.breath_depth + np.log(2.0), atol=1e-4)
