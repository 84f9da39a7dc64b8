"""What networks are shown of a night: references of the whole night, the past, or one window."""

import numpy as np
import pytest

from kd_sleep.features import inputs
from kd_sleep.features.inputs import JJ_LEVEL, MOVEMENT_LEVEL, SUMMARY, summary
from kd_sleep.features.rr import HRV_SPAN_WINDOWS

N = 60
MISSING = np.zeros(N, np.float32)


@pytest.fixture
def series():
    rng = np.random.default_rng(0)
    jj = (0.9 + 0.05 * rng.normal(size=(N, 120))).astype(np.float32)
    jj[7], jj[20, :50] = np.nan, np.nan
    hrv = rng.normal(size=(N, 8)).astype(np.float32)
    hrv[3] = np.nan
    return {
        "jj": jj,
        "jj_hrv": hrv,
        "breath_depth": rng.normal(size=N).astype(np.float32),
        "movement": rng.normal(size=(N, 30)).astype(np.float16),
    }


def changed(series, first):
    """The same up to a window, another night from there on."""
    rng = np.random.default_rng(1)
    out = {name: values.copy() for name, values in series.items()}
    for values in out.values():
        values[first:] = 1.0 + rng.random(values[first:].shape)
    return out


@pytest.mark.parametrize("scope", inputs.SCOPES)
def test_shape_and_finite(series, scope):
    table = summary(series, MISSING, scope)
    assert table.shape == (N, len(SUMMARY))
    assert table.dtype == np.float32
    assert np.isfinite(table).all()


def test_the_past_does_not_see_what_comes(series):
    """HRV as recorded reaches 5 windows ahead, so the change begins that much later."""
    other = changed(series, 30)
    ahead = HRV_SPAN_WINDOWS // 2
    a, b = (summary(each, MISSING, "past") for each in (series, other))
    np.testing.assert_array_equal(a[:30], b[:30])
    late = [SUMMARY.index(name) for name in ("mean_nn_s", "log_hf")]
    np.testing.assert_array_equal(a[: 30 + ahead, late], b[: 30 + ahead, late])
    assert (a[30 + ahead :, late] != b[30 + ahead :, late]).any()


def test_a_window_alone_sees_nothing_else(series):
    other = changed(series, 31)
    a, b = (summary(each, MISSING, "window") for each in (series, other))
    np.testing.assert_array_equal(a[:31], b[:31])
    order = np.random.default_rng(2).permutation(N)
    shuffled = {name: values[order] for name, values in series.items()}
    np.testing.assert_array_equal(summary(shuffled, MISSING, "window"), a[order])


def test_levels_are_medians(series):
    night = summary(series, MISSING, "night")
    by_window = np.array(
        [np.median(row[np.isfinite(row)]) for row in np.delete(series["jj"], 7, 0)]
    )
    assert night[0, JJ_LEVEL] == pytest.approx(np.median(by_window), rel=1e-6)
    past = summary(series, MISSING, "past")
    assert past[7, JJ_LEVEL] == past[6, JJ_LEVEL]  # a window without beats adds nothing
    assert past[-1, JJ_LEVEL] == pytest.approx(night[-1, JJ_LEVEL])
    alone = summary(series, MISSING, "window")
    assert alone[7, JJ_LEVEL] == np.float32(inputs.TYPICAL_S)
    expected = np.median(series["movement"].astype(float), axis=1)
    np.testing.assert_allclose(alone[:, MOVEMENT_LEVEL], expected, atol=1e-3)


def test_past_scores_are_z_scores_of_the_rows_so_far(series):
    """Against a plain loop."""
    values = series["breath_depth"].astype(float)
    expected = np.zeros(N)
    for n in range(9, N):
        so_far = values[: n + 1]
        expected[n] = np.clip((values[n] - so_far.mean()) / so_far.std(), -5, 5)
    column = summary(series, MISSING, "past")[:, SUMMARY.index("breath_depth")]
    np.testing.assert_allclose(column, expected, atol=1e-4)


def test_a_night_without_beats(series):
    nothing = series | {"jj": np.full((N, 120), np.nan), "jj_hrv": np.full((N, 8), np.nan)}
    for scope in inputs.SCOPES:
        table = summary(nothing, MISSING, scope)
        assert np.isfinite(table).all()
        assert (table[:, JJ_LEVEL] == np.float32(inputs.TYPICAL_S)).all()
