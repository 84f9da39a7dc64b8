"""Short-time autocorrelation against NumPy's, and what it does not see."""

import jax
import numpy as np
import pytest

from kd_sleep.models.frontends import Autocorrelation, autocorrelation, frames_of, slow_wave
from kd_sleep.schema import BCG_HZ, BCG_SAMPLES

LAGS = np.arange(18, 86) / BCG_HZ


def pulses(interval_s: float, seed: int = 0) -> np.ndarray:
    """A window with an IJK-like complex every `interval_s`."""
    time = np.arange(BCG_SAMPLES) / BCG_HZ
    beats = np.arange(0.3, 30, interval_s)
    near = time[:, None] - beats
    shape = np.exp(-0.5 * (near / 0.09) ** 2) * np.cos(2 * np.pi * 5 * near)
    return shape.sum(1) + 0.01 * np.random.default_rng(seed).normal(size=BCG_SAMPLES)


def test_it_is_the_autocorrelation_of_the_filtered_frame():
    """Wiener-Khinchin by matrix products against a plain filtered autocorrelation in NumPy."""
    bcg = np.random.default_rng(0).normal(size=(2, BCG_SAMPLES)).astype(np.float32)
    actual, _ = autocorrelation(bcg)
    frames = np.asarray(frames_of(bcg), np.float64).reshape(-1, 250)
    place = np.linspace(-1, 1, 250)
    slow = np.polynomial.legendre.legval(place, np.polynomial.legendre.legfit(place, frames.T, 8))
    frames = ((frames - slow) * np.hanning(250)).reshape(2, -1, 250)
    spectrum = np.abs(np.fft.rfft(frames, 500)) ** 2
    frequency = np.fft.rfftfreq(500, 1 / BCG_HZ)
    spectrum[..., (frequency < 1.0) | (frequency > 10.0)] = 0.0
    correlation = np.fft.irfft(spectrum, 500)[..., 18:86]
    taper = np.correlate(np.hanning(250), np.hanning(250), "full")[249 + np.arange(18, 86)]
    energy = spectrum.sum(-1, keepdims=True)
    expected = correlation * 250 / (energy + 1e-3) / (taper / taper.max() + 0.1)
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("interval_s", [0.6, 0.85, 1.1])
def test_a_rhythm_peaks_at_its_interval(interval_s):
    correlation, _ = autocorrelation(pulses(interval_s)[None].astype(np.float32))
    peaks = LAGS[np.asarray(correlation)[0].argmax(-1)]
    multiple = np.round(peaks / interval_s)
    assert np.abs(peaks - multiple * interval_s).max() < 0.03
    assert np.median(multiple) == 1


def test_gain_and_polarity_change_the_energy_alone():
    bcg = pulses(0.9)[None].astype(np.float32)
    plain, energy = autocorrelation(bcg)
    for gain in (-1.0, 30.0):
        other, louder = autocorrelation(gain * bcg)
        np.testing.assert_allclose(other, plain, atol=1e-3)
        np.testing.assert_allclose(louder - energy, 2 * np.log(abs(gain)), atol=1e-2)


def test_breathing_does_not_leak_into_the_heartbeat_band():
    time = np.arange(BCG_SAMPLES) / BCG_HZ
    bcg = pulses(0.9)
    without, _ = autocorrelation(bcg[None].astype(np.float32))
    for rate_hz in (0.15, 0.25, 0.35):
        breathing = 30.0 * np.sin(2 * np.pi * rate_hz * time + 0.3)
        with_breath, _ = autocorrelation((bcg + breathing)[None].astype(np.float32))
        assert np.abs(np.asarray(with_breath) - np.asarray(without)).max() < 0.1, rate_hz


def test_the_slow_wave_is_the_breath_without_its_gain():
    time = np.arange(BCG_SAMPLES) / BCG_HZ
    breath = np.sin(2 * np.pi * 0.2 * time)
    quiet, loud = (np.asarray(slow_wave((gain * breath)[None]))[0] for gain in (5.0, 50.0))
    assert quiet.shape == (150, 2)
    np.testing.assert_allclose(quiet[:, 0], loud[:, 0], atol=1e-3)
    means = breath.reshape(-1, 10).mean(1)
    np.testing.assert_allclose(quiet[:, 0], means / np.sqrt(np.mean(means**2)), atol=0.02)
    assert np.ptp(loud[:, 1]) > 1.5 * np.ptp(quiet[:, 1])


def test_silence_is_finite_in_value_and_gradient():
    silence = np.zeros((1, BCG_SAMPLES), np.float32)
    module = Autocorrelation(width=8)
    params = jax.jit(module.init)(jax.random.PRNGKey(0), silence)
    value_and_gradient = jax.value_and_grad(lambda p: (module.apply(p, silence) ** 2).sum())
    for leaf in jax.tree.leaves(jax.jit(value_and_gradient)(params)):
        assert np.isfinite(leaf).all()
