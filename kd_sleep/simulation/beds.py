"""Bed sensors: the ranges of their parameters, and all that is random in a night's BCG.

Sources are listed in `sensors`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from kd_sleep.simulation.autonomic import DRIVE_HZ
from kd_sleep.simulation.waveforms import coloured_noise, normal

RJ_S = 0.210
SLOW_STEP_S = 10.0  # grid of what varies over minutes
POSTURES = 32  # the most that a night has room for; about 13 ± 4 occur
MOVEMENTS = 512  # different visibilities of movements; then they repeat
DROPOUTS = 32  # the most that a night has room for
HEART_BAND_HZ = (1.0, 8.0)
Floats = NDArray[Any]  # float32


class Range(NamedTuple):
    """One value a night: uniform between two values, or uniform in their logarithms."""

    low: float
    high: float
    log: bool = False

    def at(self, uniform: np.float32) -> np.float32:
        """The value at a quantile."""
        if self.log:
            return self.low * (self.high / self.low) ** uniform
        return self.low + (self.high - self.low) * uniform

    def hull(self, other: Range) -> Range:
        """The smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high), self.log)


@dataclasses.dataclass(frozen=True)
class Sensor:
    """Ranges that each night draws its sensor from. Amplitudes are in heartbeats (J = 1).

    Attributes:
      complex_hz: frequency of the IJK complex.
      ring_s: time constant of its ring-down.
      breathing_gain: size of a breath of excursion 1.
      path_lag_s: belly after chest: two paths, whose weights change with posture.
      breathing_noise: of body and mattress below 0.4 Hz; RMS over `breathing_gain`.
      coupling_hz: corner of the first-order high-pass; a load cell is nearly DC-coupled.
      snr_db: heartbeat power over sensor noise power in 1-8 Hz, mean of the night.
      noise_slope: noise power ~ 1 / f^slope up to 10 Hz, white above.
      vibration_hz: of a fan, a pump, a building.
      vibration_db: its power over that of the noise in 1-8 Hz.
      snoring: loudest noise of a snored breath over the sensor noise.
      saturation: the largest value that the sensor can show.
      dropouts_per_h: of 5-60 s.
      posture_log_sd: spread of log gain between postures.
      flip: chance that a posture turns the beats upside down.
      weight_step: change of the load on the sensor at a change of posture.
      movement_gain: of a movement; a log SD of 0.7 between movements on top.
      partner: gain of another person's movements in the bed.
    """

    complex_hz: Range
    ring_s: Range
    breathing_gain: Range
    path_lag_s: Range
    breathing_noise: Range
    coupling_hz: Range
    snr_db: Range
    noise_slope: Range
    vibration_hz: Range
    vibration_db: Range
    snoring: Range
    saturation: Range
    dropouts_per_h: Range
    posture_log_sd: Range
    flip: Range
    weight_step: Range
    movement_gain: Range
    partner: Range

    def hull(self, other: Sensor) -> Sensor:
        """The smallest ranges that hold both sensors'."""
        fields = dataclasses.fields(self)
        return Sensor(*(getattr(self, f.name).hull(getattr(other, f.name)) for f in fields))


FILM = Sensor(
    complex_hz=Range(2.5, 6.5),
    ring_s=Range(0.13, 0.24),
    breathing_gain=Range(0.5, 5.0, log=True),
    path_lag_s=Range(0.0, 0.6),
    breathing_noise=Range(0.3, 1.1, log=True),
    coupling_hz=Range(0.05, 0.3, log=True),
    snr_db=Range(-5.0, 11.0),
    noise_slope=Range(0.5, 1.5),
    vibration_hz=Range(6.0, 30.0),
    vibration_db=Range(-30.0, 0.0),
    snoring=Range(0.01, 2.0, log=True),
    saturation=Range(50.0, 200.0, log=True),
    dropouts_per_h=Range(0.02, 0.3),
    posture_log_sd=Range(0.2, 0.5),
    flip=Range(0.1, 0.3),
    weight_step=Range(20.0, 150.0, log=True),
    movement_gain=Range(0.3, 2.0, log=True),
    partner=Range(0.01, 0.4, log=True),
)
# Four posts carry the whole bed: less effect of posture and of distance to the sensor, more of all
# else in the room; the bed's frame rings longer.
LOAD_CELL = dataclasses.replace(
    FILM,
    complex_hz=Range(3.0, 6.0),
    ring_s=Range(0.16, 0.30),
    coupling_hz=Range(0.0001, 0.001, log=True),
    vibration_db=Range(-25.0, 0.0),
    snoring=Range(0.01, 1.0, log=True),
    saturation=Range(200.0, 400.0, log=True),
    dropouts_per_h=Range(0.01, 0.1),
    posture_log_sd=Range(0.1, 0.35),
    flip=Range(0.0, 0.15),
    weight_step=Range(10.0, 100.0, log=True),
    movement_gain=Range(0.5, 2.0, log=True),
    partner=Range(0.03, 0.8, log=True),
)
SENSORS = {"film": FILM, "load_cell": LOAD_CELL, "mix": FILM.hull(LOAD_CELL)}


def fixed(sensor: Sensor, **values: float) -> Sensor:
    """The same sensor with these parameters at one value each."""
    return dataclasses.replace(sensor, **{name: Range(v, v) for name, v in values.items()})


def quiet(sensor: Sensor) -> Sensor:
    """The same sensor without noise of its own or of the room: only the sleeper's signal."""
    nothing = 1e-6
    return fixed(
        sensor,
        snr_db=60.0,
        vibration_db=-60.0,
        breathing_noise=nothing,
        snoring=nothing,
        partner=nothing,
        dropouts_per_h=nothing,
    )


@dataclasses.dataclass(frozen=True)
class Draws:
    """All random numbers of a BCG: M beats, P postures, S slow steps, T steps of the drive.

    None depends on the drive but for its numbers of beats and steps.
    """

    parameters: dict[str, np.float32]  # the night's value of each field of `Sensor`
    rj_s: np.float32  # mean RJ interval
    rj_slow_s: np.float32  # its change per relative change of the slow RR interval
    rj_breath_s: np.float32  # amplitude of its breathing sinusoid
    breath_depth: np.float32  # share of a beat's size that a breath takes
    residual_s: Floats  # [M] of the RJ interval
    beat_noise: Floats  # [M] of the log size
    walks: Floats  # [4, S] unit variance: RJ interval, beat size, breathing size, noise level
    snoring: Floats  # [S] 0 or more: bouts
    partner: Floats  # [S] 0 or more: bursts of a partner's movement
    turns: Floats  # [T] uniform: which movements change the posture
    visible: Floats  # [MOVEMENTS] log size of movements
    frequency: Floats  # [P, 2] log factor on the complex's frequency, in expiration, inspiration
    ring: Floats  # [P, 2] log factor on its ring-down
    tail: Floats  # [P, 2] size of the diastolic waves
    gain: Floats  # [P] log size
    sign: Floats  # [P] 1 or -1
    paths: Floats  # [P, 2] weights of chest and belly
    bend: Floats  # [P] second harmonic of breathing
    weight: Floats  # [P] load on the sensor
    rj_posture_s: Floats  # [P] shift of the RJ interval
    creep: Floats  # [T] unit variance, below 0.4 Hz
    sway: Floats  # [T] unit variance, 1/f up to 4 Hz
    noise: Floats  # [n] sensor noise with a power of 1 in 1-8 Hz
    drop_start: Floats  # [DROPOUTS] steps; beyond the end for those that do not happen
    drop_length: Floats  # [DROPOUTS] steps


def draw_bcg(
    rng: np.random.Generator, sensor: Sensor, beats: int, steps: int, samples: int, rate_hz: float
) -> Draws:
    """Everything random of a night's BCG; see `Draws`. The order of draws is part of a version."""

    def uniform(*shape: int) -> Floats:
        return rng.random(shape, dtype=np.float32)

    slow_steps = max(4, -(-steps // int(SLOW_STEP_S * DRIVE_HZ)))
    names = [field.name for field in dataclasses.fields(sensor)]
    share = uniform(len(names) + 4)
    parameters = {name: getattr(sensor, name).at(share[n]) for n, name in enumerate(names)}
    rj_slow, rj_breath, depth, rj_mean = share[len(names) :]
    residual, beat_noise = normal(rng, 2, beats)
    gain, chest, belly, bend, weight, rj_posture, *shape = normal(rng, 10, POSTURES)
    frequency, ring, inspired_frequency, inspired_ring = shape
    tail, inspired_tail, sign = uniform(3, POSTURES)
    drop_gap, drop_length = uniform(2, DROPOUTS)

    # Walks: unit variance, no faster than these periods; in a short night, its slowest wave.
    period_s = np.array([2400.0, 1800.0, 600.0, 1200.0, 900.0])[:, None]
    kept = np.arange(slow_steps // 2 + 1) * period_s <= slow_steps * SLOW_STEP_S
    kept[:, 0], kept[:, 1] = False, True
    waves = normal(rng, 2, *kept.shape) * np.where(kept, slow_steps / 2, 0).astype(np.float32)
    waves = (waves[0] + 1j * waves[1]) / np.sqrt(kept.sum(1, keepdims=True), dtype=np.float32)
    walks = scipy.fft.irfft(waves, slow_steps)
    # One in 44 of a partner's stretches of 10 s has some movement: 8 an hour.
    partner = np.maximum(normal(rng, slow_steps) - 2.0, 0.0)
    turns, visible = uniform(steps), 0.7 * normal(rng, MOVEMENTS)

    def creeping(hz: NDArray) -> NDArray:  # of a mattress and a body: as breathing, below the heart
        return 1.0 / (1.0 + (hz / 0.35) ** 6)

    def swaying(hz: NDArray) -> NDArray:  # of a moving body
        return np.where(hz < 4.0, 1.0 / np.maximum(hz, 0.02), 0.0)

    unit = []
    for density in (creeping, swaying):
        values, _, power = coloured_noise(rng, steps, DRIVE_HZ, density)
        unit.append(values / np.sqrt(power.sum()))

    def in_heart_band(hz: NDArray) -> NDArray[np.bool_]:
        return (hz >= HEART_BAND_HZ[0]) & (hz < HEART_BAND_HZ[1])

    def sensor_noise(hz: NDArray) -> NDArray:
        rest = np.maximum((10.0 / np.clip(hz, 0.1, 10.0)) ** parameters["noise_slope"], 1.0)
        rest = rest / (rest * in_heart_band(hz)).sum()
        width_hz = 0.15
        line = np.exp(-0.5 * ((hz - parameters["vibration_hz"]) / width_hz) ** 2)
        line = line * (float(hz[1] - hz[0]) / (width_hz * math.sqrt(2.0 * math.pi)))
        return rest + line * 10.0 ** (0.1 * parameters["vibration_db"])

    noise, hz, power = coloured_noise(rng, samples, rate_hz, sensor_noise)
    return Draws(
        parameters=parameters,
        rj_s=RJ_S + 0.04 * (rj_mean - 0.5),
        rj_slow_s=0.02 + 0.06 * rj_slow,
        rj_breath_s=0.005 + 0.005 * rj_breath,
        breath_depth=0.10 + 0.20 * depth,
        residual_s=0.006 * residual,
        beat_noise=0.08 * beat_noise,
        walks=walks[:4],
        snoring=np.maximum(walks[4], 0.0),
        partner=partner,
        turns=turns,
        visible=visible,
        frequency=np.stack([0.08 * frequency, 0.08 * frequency + 0.10 * inspired_frequency], -1),
        ring=np.stack([0.15 * ring, 0.15 * ring + 0.15 * inspired_ring], -1),
        tail=np.stack([tail, 0.5 * tail + 0.5 * inspired_tail], -1) - 0.5,
        gain=parameters["posture_log_sd"] * gain,
        sign=np.where(sign < parameters["flip"], -1.0, 1.0).astype(np.float32),
        paths=np.stack([0.7 + 0.5 * chest, 0.4 + 0.6 * belly], -1),
        bend=0.15 * bend,
        weight=parameters["weight_step"] * weight,
        rj_posture_s=0.004 * rj_posture,
        creep=unit[0],
        sway=unit[1],
        noise=noise / np.sqrt((power * in_heart_band(hz)).sum()),
        drop_start=np.cumsum(-np.log(1.0 - drop_gap))
        * (3600.0 * DRIVE_HZ)
        / parameters["dropouts_per_h"],
        drop_length=(5.0 + 55.0 * drop_length) * DRIVE_HZ,
    )
