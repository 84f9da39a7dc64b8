"""Heart rate and breathing rate of windows."""

import numpy as np

from kd_sleep.signals.rates import breathing_rate, heart_rate


def test_heart_rate_is_the_median_interval_of_a_window():
    times = np.concatenate([np.arange(0.0, 30.0, 0.8), np.arange(30.0, 60.0, 1.2)])
    rate = heart_rate(np.delete(times, [5, 20]), 3)  # two beats missed
    np.testing.assert_allclose(rate[:2], [75.0, 50.0])
    assert np.isnan(rate[2])
    assert np.isnan(heart_rate(np.empty(0), 2)).all()


def test_breathing_rate_is_the_peak_of_the_spectrum():
    time = np.arange(4 * 120) / 4.0
    wave = np.sin(2 * np.pi * 0.25 * time)
    noise = np.random.default_rng(0).normal(size=len(time))
    chest_NT = (wave + 0.3 * noise).reshape(4, -1)
    chest_NT[1, :50] = np.nan
    chest_NT[3, :60] = np.nan
    found = breathing_rate(chest_NT, 4.0)
    np.testing.assert_allclose(found[:3], 15.0, atol=0.5)
    assert np.isnan(found[3])
    assert np.isnan(breathing_rate(noise.reshape(4, -1), 4.0)).mean() > 0.5


def test_a_movement_does_not_drown_the_breath():
    time = np.arange(3 * 120) / 4.0
    chest = np.sin(2 * np.pi * 0.3 * time)
    chest[170:175] = 50.0
    np.testing.assert_allclose(breathing_rate(chest.reshape(3, -1), 4.0), 18.0, atol=0.7)
