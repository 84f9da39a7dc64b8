"""Filters, rate changes and SNR, against closed forms."""

import numpy as np
import pytest

from kd_sleep.signals.filters import bandpass, moving_sd, resample
from kd_sleep.signals.quality import snr_db

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


@pytest.mark.parametrize("rates", [(100.0, 50.0), (140.0, 50.0), (125.0, 25.0), (50.0, 50.0)])
def test_resampling_keeps_a_sine_in_its_place(rates):
    old, new = rates
    out = resample(np.sin(2 * np.pi * np.arange(0, 60, 1 / old)), old, new)
    expected = np.sin(2 * np.pi * np.arange(len(out)) / new)
    assert len(out) == 60 * new
    assert np.abs(out - expected)[100:-100].max() < 0.01


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


def test_a_constant_window_has_no_snr():
    windows = np.zeros((2, 1500))
    windows[1] = np.random.default_rng(0).normal(size=1500)
    assert np.isnan(snr_db(windows, 50.0)).tolist() == [True, False]
