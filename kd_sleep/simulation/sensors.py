"""Sensors: a body's beats, breathing and movement in, an ECG or a ballistocardiogram out.

Both functions see a `Drive` alone, which holds no stage, so they serve a simulated night and a
recorded one alike: from the R points, breathing effort and movement of an SHHS night, `bcg` makes
the BCG that SHHS does not have.

Figures: RJ interval about 210 ms at rest, moved by 40-80 ms over a night by the pre-ejection period
(longer when the heart is slow), with a 10-20 ms sinusoid of breathing on top; heartbeat energy in
1-8 Hz, the complex itself at 4-7 Hz, ring-down 0.3-0.5 s. Unsourced: I:J:K about -0.6:1:-0.7,
breathing 10-100 times the beat below 0.5 Hz, beat amplitude modulated by 10-30 %, 2-4 posture
changes an hour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from kd_sleep.simulation.physiology import DRIVE_HZ, Drive, band_noise

RJ_S = 0.210
Time = TypeVar("Time", float, NDArray[np.float64])


@dataclasses.dataclass(frozen=True)
class Clock:
    """A sensor's own clock: its time is (t - offset_s) * (1 + drift) at true time t."""

    offset_s: float = 0.0
    drift: float = 0.0

    def sensor_time(self, true_s: Time) -> Time:
        return (true_s - self.offset_s) * (1.0 + self.drift)

    def true_time(self, sensor_s: Time) -> Time:
        return sensor_s / (1.0 + self.drift) + self.offset_s


@dataclasses.dataclass(frozen=True)
class Bcg:
    """A BCG, and what a test wants to know about it.

    Attributes:
      values: [n] in heartbeat amplitudes (J peaks about 1) times the sensor's gain.
      rate_hz: samples per second of the sensor's own clock.
      clock: that clock.
      j_times_s: [M] true times of the J peaks.
      snr_db: heartbeat power over sensor noise power in 1-8 Hz, mean of the night.
    """

    values: NDArray[np.float64]
    rate_hz: float
    clock: Clock
    j_times_s: NDArray[np.float64]
    snr_db: float


def draw_clock(rng: np.random.Generator) -> Clock:
    """A consumer device's clock: set within a minute, a crystal of tens of ppm."""
    return Clock(float(rng.uniform(-60.0, 60.0)), float(np.clip(rng.normal(0, 30e-6), -1e-4, 1e-4)))


def _add_pulses(
    out: NDArray[np.float64],
    rate_hz: float,
    times_s: NDArray[np.float64],
    amplitudes: NDArray[np.float64],
    shape: Callable[[NDArray], NDArray],
    before_s: float,
    after_s: float,
) -> None:
    """Adds amplitude * shape(t - time) to `out` around each time; the shape is tabulated once."""
    table_s = np.arange(-before_s, after_s, 0.0005)
    table = shape(table_s)
    first = np.floor((times_s - before_s) * rate_hz).astype(np.int64)
    index = first[:, None] + np.arange(int((before_s + after_s) * rate_hz) + 2)
    offset_s = index / rate_hz - times_s[:, None]
    row = np.rint((offset_s + before_s) / 0.0005).astype(np.int64)
    inside = (row >= 0) & (row < len(table)) & (index >= 0) & (index < len(out))
    if not inside.any():
        return
    values = (amplitudes[:, None] * table[row.clip(0, len(table) - 1)])[inside]
    start = index[inside].min()
    added = np.bincount(index[inside] - start, weights=values)
    out[start : start + len(added)] += added


def _at(values: NDArray, times_s: NDArray) -> NDArray[np.float64]:
    """A DRIVE_HZ series at given times."""
    return np.interp(times_s, np.arange(len(values)) / DRIVE_HZ, values)


def ecg(rng: np.random.Generator, drive: Drive, rate_hz: float) -> NDArray[np.float64]:
    """An ECG in mV, [duration * rate_hz]: P-QRS-T, baseline wander, muscle noise, mains.

    The T wave follows R at 0.3 s times the square root of the interval (Bazett); R is 0.6-1.2 mV,
    and in one person of twelve the lead is the wrong way round.
    """
    out = np.zeros(round(drive.duration_s * rate_hz))
    times, normal = drive.beat_times_s, drive.beat_normal
    respiration = _at(drive.breathing, times)
    amplitude = rng.uniform(0.6, 1.2) * (1.0 + 0.08 * respiration)
    width = np.array([0.010, 0.011, 0.012]) * rng.uniform(0.9, 1.2)
    q, s = rng.uniform(0.05, 0.15), rng.uniform(0.1, 0.3)
    p, t = rng.uniform(0.08, 0.16), rng.uniform(0.15, 0.35)

    def bump(x: NDArray, at: float, sd: float) -> NDArray:
        return np.exp(-0.5 * ((x - at) / sd) ** 2)

    def qrs(x: NDArray) -> NDArray:
        return bump(x, 0, width[1]) - q * bump(x, -0.03, width[0]) - s * bump(x, 0.03, width[2])

    def p_qrs(x: NDArray) -> NDArray:
        return qrs(x) + p * bump(x, -0.16, 0.025)

    def wide_qrs(x: NDArray) -> NDArray:  # ventricular: no P wave, broad, larger
        return 1.3 * bump(x, 0, 0.04) - 0.5 * bump(x, 0.10, 0.05)

    def t_wave(x: NDArray) -> NDArray:
        return t * bump(x, 0, 0.045)

    interval = np.clip(np.diff(times, prepend=times[:1] - 0.9), 0.4, 1.6)
    _add_pulses(out, rate_hz, times[normal], amplitude[normal], p_qrs, 0.3, 0.2)
    _add_pulses(out, rate_hz, times[~normal], amplitude[~normal], wide_qrs, 0.2, 0.4)
    _add_pulses(out, rate_hz, times + 0.3 * np.sqrt(interval), amplitude, t_wave, 0.15, 0.2)

    clock = np.arange(len(out)) / rate_hz
    movement = _at(drive.movement, clock)
    muscle = rng.normal(size=len(out))
    wander = 0.2 * band_noise(rng, len(drive.movement), 0.0, 0.3)
    out += 0.05 * _at(drive.breathing, clock) + 0.008 * muscle
    out += movement / 50.0 * (0.15 * muscle + 1.2 * _at(wander, clock))
    out += 0.004 * np.sin(2 * np.pi * 60.0 * clock) if rate_hz > 120 else 0.0
    return out * (-1.0 if rng.random() < 1 / 12 else 1.0)


def _postures(rng: np.random.Generator, drive: Drive) -> NDArray[np.float64]:
    """Starts of the postures: about three changes an hour, each at a movement; the first at 0."""
    moving = np.flatnonzero(np.diff((drive.movement > 0).astype(int)) == 1) / DRIVE_HZ
    wanted = 3.0 * drive.duration_s / 3600.0
    share = min(1.0, wanted / max(len(moving), 1))
    return np.concatenate([[0.0], moving[rng.random(len(moving)) < share]])


def _ijk(frequency_hz: float, ring_s: float, tail: float) -> Callable[[NDArray], NDArray]:
    """I, J and K waves, ringing: J is 1 at 0, I about -0.6 and K about -0.7 half a period off."""

    def shape(x: NDArray) -> NDArray:
        rise = np.exp(-0.5 * (x / (0.49 / frequency_hz)) ** 2)  # -0.6 half a period before J
        fall = np.exp(-x / ring_s)
        ring = tail * np.exp(-0.5 * ((x - 0.28) / 0.08) ** 2) * np.cos(12.0 * np.pi * (x - 0.28))
        return np.where(x < 0, rise, fall) * np.cos(2 * np.pi * frequency_hz * x) + ring

    return shape


def bcg(
    rng: np.random.Generator, drive: Drive, rate_hz: float = 100.0, clock: Clock | None = None
) -> Bcg:
    """A ballistocardiogram under the mattress, on the sensor's own clock.

    RJ(t) = mean + slow(RR) + wander + breathing sinusoid + residual. Gain, polarity and shape
    change with posture. Breathing, movement, sensor noise, dropouts and saturation are added.
    """
    clock = clock or Clock()
    samples = int(clock.sensor_time(drive.duration_s) * rate_hz)
    out = np.zeros(max(samples, 1))
    times = drive.beat_times_s
    sensor_clock = np.arange(len(out)) / rate_hz
    true_clock = np.clip(clock.true_time(sensor_clock), 0.0, drive.duration_s)

    # The pre-ejection period follows the heart: slow heart, long delay. The rest wanders by itself.
    interval = np.clip(np.diff(times, prepend=times[:1] - 0.9), 0.4, 1.6)
    slow = ndimage.gaussian_filter1d(interval, 60.0, mode="nearest")
    wander = _at(band_noise(rng, len(drive.movement), 0.0, 1 / 2400.0), times)
    respiration = _at(drive.breathing, times)
    rj_s = (
        rng.normal(RJ_S, 0.012)
        + 0.15 * (slow / slow.mean() - 1.0)
        + 0.012 * wander
        + rng.uniform(0.005, 0.010) * respiration
        + 0.006 * rng.normal(size=len(times))
    )
    j_times = times + np.clip(rj_s, 0.150, 0.300)

    # Breathing and filling time set a beat's size; an ectopic beat ejects little.
    amplitude = 1.0 + rng.uniform(0.1, 0.3) * respiration + 0.4 * (interval / slow - 1.0)
    amplitude *= np.exp(0.08 * rng.normal(size=len(times))) * np.where(drive.beat_normal, 1.0, 0.4)
    starts = _postures(rng, drive)
    posture = np.searchsorted(starts, times, side="right") - 1
    frequency, ring = rng.uniform(4.3, 6.3), rng.uniform(0.13, 0.24)
    gain = np.exp(rng.normal(0.0, 0.35, len(starts))) * rng.choice(
        [1.0, -1.0], len(starts), p=[0.8, 0.2]
    )
    for number in range(len(starts)):
        shape = _ijk(
            frequency * np.exp(rng.normal(0.0, 0.08)),
            ring * np.exp(rng.normal(0.0, 0.15)),
            rng.uniform(-0.3, 0.3),
        )
        mine = posture == number
        sensor_times = clock.sensor_time(j_times[mine])
        _add_pulses(out, rate_hz, sensor_times, gain[number] * amplitude[mine], shape, 0.35, 0.65)
    beat_power = float(np.mean(out**2))

    # Sensor noise, white plus 1/f below 10 Hz, at a level that is the sensor's and wanders slowly.
    snr_db = float(np.clip(rng.normal(8.0, 4.0), -2.0, 18.0))
    white = rng.normal(size=len(out))
    pink = signal.lfilter([0.05], [1.0, -0.95], rng.normal(size=len(out)))
    noise = 0.8 * white + 0.6 * pink / (pink.std() + 1e-12)
    sos = signal.butter(4, [1.0, 8.0], "bandpass", fs=rate_hz, output="sos")
    in_band = float(np.mean(signal.sosfilt(sos, noise) ** 2))
    level_db = 2.5 * band_noise(rng, len(drive.movement), 0.0, 1 / 1200.0)
    wandering = _at(10.0 ** (level_db / 20.0), true_clock)
    out += noise * wandering * np.sqrt(beat_power / in_band) * 10.0 ** (-snr_db / 20.0)

    out += np.exp(rng.uniform(np.log(10.0), np.log(40.0))) * _at(drive.breathing, true_clock)
    movement = _at(drive.movement, true_clock)
    shaking = signal.lfilter([0.3], [1.0, -0.7], rng.normal(size=len(out)))
    sway = band_noise(rng, len(drive.movement), 0.0, 0.4)
    out += movement * (0.5 * shaking + 2.0 * _at(sway, true_clock))
    for start in rng.uniform(0, len(out), rng.poisson(0.15 * drive.duration_s / 3600.0)):
        out[int(start) : int(start + rng.uniform(5, 60) * rate_hz)] = 0.0  # dropout
    return Bcg(np.clip(out, -400.0, 400.0), rate_hz, clock, j_times, snr_db)
