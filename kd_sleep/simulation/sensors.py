"""Sensors: a body's beats, breathing and movement in, an ECG or a ballistocardiogram out.

Nothing here has access to a sleep stage. Both signals see a `Drive` alone, so they serve a
simulated night and a recorded one alike: from the R points, breathing effort and movement of an
SHHS night, `bcg` makes the BCG that SHHS does not have.

Figures and where they are from:

  - RJ interval about 210 ms (design notes). It follows the pre-ejection period (r² 0.86, slope
    1.05; Etemadi 2011, IEEE TITB 15:1033), which moves it by 40-80 ms over a night, longer when the
    heart is slow; breathing adds a sinusoid of 10-20 ms from peak to peak. Heart rate alone says
    little of it: 0.4 ms per beat/min (Weissler 1968, Circulation 37:149), so most of it wanders.
  - Heartbeat energy in 1-8 Hz, ring-down 0.3-0.5 s. Half a period of the complex is 150-230 ms in
    the one film recording at hand (seat back, PVDF, 20 s), slower than head-to-foot BCG.
  - The shape of a beat differs between persons, mattresses and postures (Perez-Macias 2022, CinC)
    and between inspiration and expiration (Starr; 10.3390/s22239565).
  - Breathing has 3.2 times the RMS of the heart's 1-8 Hz in that recording. In a mattress it is
    found with a correlation of 0.61-0.88 with a belt (Mattress Sensor-Based Respiration Rate
    Estimation Using Unsupervised Clustering, IEEE Access 2023). So it is mixed here from two paths
    that may cancel, bent, and lies in noise of its own.
  - 1.6 ± 0.7 changes of posture an hour (Skarpsno 2017, PMC5677378).
  - Movement takes 7-12 % of a night from the beats (Migliorini 2014; Kortelainen 2007).
  - Noise: SNR such that a detector finds what detectors find overnight, 54 % of intervals
    (Paalasmaa 2015) to 93 % (Migliorini 2014). No distribution of SNR was found.

All else in `beds.SENSORS` is unsourced: wide ranges instead of one guess.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from kd_sleep.simulation.beds import (
    MOVEMENTS,
    POSTURES,
    SENSORS,
    SLOW_STEP_S,
    Draws,
    Floats,
    Sensor,
    draw_bcg,
)
from kd_sleep.simulation.physiology import DRIVE_HZ, Drive
from kd_sleep.simulation.waveforms import (
    coloured_noise,
    normal,
    pulse_clock,
    sum_of_pulses,
    upsampled,
)

BEAT_BEFORE_S, BEAT_AFTER_S = 0.35, 0.65  # of a BCG complex around its J peak
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


def draw_clock(rng: np.random.Generator) -> Clock:
    """A consumer device's clock: set within a minute, a crystal of tens of ppm."""
    return Clock(float(rng.uniform(-60.0, 60.0)), float(np.clip(rng.normal(0, 30e-6), -1e-4, 1e-4)))


@dataclasses.dataclass(frozen=True)
class Bcg:
    """A BCG, and the truth that a test needs.

    Attributes:
      values: [n] in heartbeat amplitudes (J peaks about 1) times the sensor's gain.
      rate_hz: samples per second of the sensor's own clock.
      clock: that clock.
      j_times_s: [M] true times of the J peaks.
      upright: [M] whether the J peak points upwards.
      posture: [duration * DRIVE_HZ] number of the posture.
      snr_db: heartbeat power over sensor noise power in 1-8 Hz, mean of the night.
    """

    values: Floats
    rate_hz: float
    clock: Clock
    j_times_s: NDArray[np.float64]
    upright: NDArray[np.bool_]
    posture: NDArray[np.int64]
    snr_db: float


@dataclasses.dataclass(frozen=True)
class _Beats:
    """The drive's beats, [M] each, on a sensor's clock.

    Whole samples and fractions stand apart: float32 cannot resolve milliseconds seven hours into a
    night.
    """

    sample: NDArray[np.int32]  # from the sensor's start to R; may be negative
    fraction: Floats  # the rest of a sample
    size: Floats  # 1, 0.4 for an ectopic beat, 0 beyond the recording
    step: NDArray[np.int32]  # of the drive's grid that R lies in
    respiration: Floats  # breathing at R
    slow: Floats  # the heart's slow interval over the night's mean, less 1
    filling: Floats  # the interval before R over the slow one, less 1

    @property
    def slow_step(self) -> NDArray[np.int32]:
        """[M] step of the slow grid."""
        return self.step // int(SLOW_STEP_S * DRIVE_HZ)


def _beats_of(drive: Drive, rate_hz: float, clock: Clock, samples: int) -> _Beats:
    times = np.asarray(drive.beat_times_s, np.float64)
    interval = np.clip(np.diff(times, prepend=times[:1] - 0.9), 0.4, 1.6)
    slow = interval
    for _ in range(3):  # about a Gaussian of 60 beats
        slow = ndimage.uniform_filter1d(slow, 121, mode="nearest")
    position = clock.sensor_time(times) * rate_hz
    sample = np.floor(position)
    reach = BEAT_AFTER_S * rate_hz + rate_hz  # RJ and complex
    inside = (sample > -reach) & (sample < samples + reach)
    grid_s = np.arange(len(drive.breathing)) / DRIVE_HZ
    return _Beats(
        sample=np.clip(sample, -reach, samples + reach).astype(np.int32),
        fraction=(position - sample).astype(np.float32),
        size=(np.where(drive.beat_normal, 1.0, 0.4) * inside).astype(np.float32),
        step=(times * DRIVE_HZ).clip(0, len(grid_s) - 1).astype(np.int32),
        respiration=np.interp(times, grid_s, drive.breathing).astype(np.float32),
        slow=(slow / slow.mean() - 1.0 if len(slow) else slow).astype(np.float32),
        filling=(interval / slow - 1.0).astype(np.float32),
    )


def bcg(
    rng: np.random.Generator,
    drive: Drive,
    rate_hz: float = 100.0,
    clock: Clock | None = None,
    sensor: str | Sensor = "mix",
) -> Bcg:
    """A ballistocardiogram on the sensor's own clock.

    Args:
      rng: source of all randomness.
      drive: beats, breathing and movement, simulated or recorded.
      rate_hz: a multiple of DRIVE_HZ, at least twice it.
      clock: the sensor's; None for the true one.
      sensor: a sensor, or its name in `SENSORS`.

    Raises:
      ValueError: there is no such rate or sensor.
    """
    if isinstance(sensor, str):
        if sensor not in SENSORS:
            raise ValueError(f"no sensor {sensor!r}; there are {', '.join(SENSORS)}")
        sensor = SENSORS[sensor]
    samples = sensor_samples(drive, rate_hz, clock or Clock())
    draws = draw_bcg(rng, sensor, len(drive.beat_times_s), len(drive.breathing), samples, rate_hz)
    return render_bcg(draws, drive, rate_hz, clock)


def sensor_samples(drive: Drive, rate_hz: float, clock: Clock) -> int:
    """Samples of the sensor's clock that cover the drive, in whole steps of DRIVE_HZ."""
    factor = rate_hz / DRIVE_HZ
    if factor != int(factor) or factor < 2:
        raise ValueError(
            f"a BCG's rate is a multiple of {DRIVE_HZ} Hz, from twice it; got {rate_hz}"
        )
    samples = max(int(clock.sensor_time(drive.duration_s) * rate_hz), 1)
    return -(-samples // int(factor)) * int(factor)


def render_bcg(draws: Draws, drive: Drive, rate_hz: float, clock: Clock | None = None) -> Bcg:
    """The BCG that these draws and this drive make, without further randomness.

    Beats, sized by breathing, filling time and posture, each an RJ interval after its R. On them
    what the sensor and the bed add: breathing by two paths, load and its changes, movement, all
    through the sensor's high-pass; noise, vibration, snoring; then dropouts and saturation.
    """
    clock, own = clock or Clock(), draws.parameters
    factor, size = int(rate_hz / DRIVE_HZ), len(draws.noise)
    steps, sensor_steps = len(drive.breathing), size // factor
    samples = max(int(clock.sensor_time(drive.duration_s) * rate_hz), 1)
    beats = _beats_of(drive, rate_hz, clock, samples)
    chest, movement = drive.breathing.astype(np.float32), drive.movement.astype(np.float32)
    onset = np.diff((movement > 0).astype(np.int8), prepend=0) == 1
    posture = _postures(draws, onset, drive.duration_s)
    delay_s = _rj_delay(draws, beats, posture)
    pulses = _ballistics(draws, beats, posture, delay_s, size, rate_hz)
    beat_power = np.square(pulses).sum() / np.float32(samples)

    # Movement: a limb far from the sensor hardly shows, the trunk on it does.
    number = np.cumsum(onset.astype(np.int32)) % MOVEMENTS
    movement = own["movement_gain"] * np.exp(draws.visible)[number] * movement
    movement = movement + 20.0 * own["partner"] * _at_steps(draws.partner, steps)
    slow = own["breathing_gain"] * _breathing(draws, chest, posture)
    slow = slow + draws.weight[posture] + 2.0 * movement * draws.sway
    slow = _high_pass(slow, own["coupling_hz"])

    _, _, _, level_walk = draws.walks
    noise = np.sqrt(beat_power) * 10.0 ** (-own["snr_db"] / 20.0)
    noise = noise * 10.0 ** (2.5 / 20.0 * _at_steps(level_walk, steps))
    snore = own["snoring"] * _at_steps(draws.snoring, steps) * np.maximum(chest, 0.0)
    level = noise * (1.0 + snore) + 0.3 * movement

    # From true time to the sensor's.
    true_step = clock.true_time(np.arange(sensor_steps) / DRIVE_HZ) * DRIVE_HZ
    true_step = np.clip(true_step, 0.0, steps - 1)
    step = np.floor(true_step).astype(np.int32)
    part = (true_step - step).astype(np.float32)
    slow = slow[step] * (1.0 - part) + slow[np.minimum(step + 1, steps - 1)] * part
    values = draws.noise.reshape(sensor_steps, factor) * level[step][:, None]
    values += pulses.reshape(sensor_steps, factor)
    values += upsampled(slow, Fraction(factor)).reshape(sensor_steps, factor)
    values = np.clip(values, -own["saturation"], own["saturation"])
    values *= _connected(draws, sensor_steps)[:, None]
    return Bcg(
        values.reshape(-1)[:samples],
        rate_hz,
        clock,
        drive.beat_times_s + delay_s.astype(np.float64),
        draws.sign[posture[beats.step]] > 0,
        posture,
        float(own["snr_db"]),
    )


def _postures(draws: Draws, onset: NDArray[np.bool_], duration_s: float) -> NDArray[np.int64]:
    """[T] number of the posture: about 1.6 changes an hour, each at the start of a movement."""
    hours = np.float32(duration_s / 3600.0)
    share = 1.6 * hours / np.maximum(onset.sum(dtype=np.float32), 1.0)
    turns = onset & (draws.turns < share)
    return np.minimum(np.cumsum(turns.astype(np.int32)), POSTURES - 1)


def _rj_delay(draws: Draws, beats: _Beats, posture: NDArray) -> Floats:
    """[M] RJ intervals: mean, autonomic walk, breathing, posture, residual; in 150-300 ms."""
    delay = (
        draws.rj_s
        + draws.rj_slow_s * beats.slow
        + 0.013 * draws.walks[0][beats.slow_step]
        + draws.rj_breath_s * beats.respiration
        + draws.rj_posture_s[posture[beats.step]]
        + draws.residual_s
    )
    return np.clip(delay, 0.150, 0.300)


def _ballistics(
    draws: Draws, beats: _Beats, posture: NDArray, delay_s: Floats, size: int, rate_hz: float
) -> Floats:
    """[size] the beats' complexes, an RJ delay after each R."""
    _, size_walk, _, _ = draws.walks
    beat_posture = posture[beats.step]
    heights = 1.0 + draws.breath_depth * beats.respiration + 0.4 * beats.filling
    heights = np.maximum(heights, 0.1) * beats.size
    heights = heights * np.exp(draws.beat_noise + draws.gain[beat_posture])
    heights = heights * np.exp(0.15 * size_walk[beats.slow_step]) * draws.sign[beat_posture]
    before, clock_s = pulse_clock(BEAT_BEFORE_S, BEAT_AFTER_S, rate_hz)
    tables = _complexes(draws, clock_s).reshape(-1, *clock_s.shape)
    # Of a beat's two shapes, that of the breath's half it falls into; now and then the other.
    kind = 2 * beat_posture + (beats.respiration + 50.0 * draws.residual_s > 0)
    position = beats.fraction + delay_s * rate_hz
    sample = np.floor(position)
    start = beats.sample + sample.astype(np.int32) - before
    return sum_of_pulses(size, start, position - sample, heights, kind, tables)


def _complexes(draws: Draws, clock_s: Floats) -> Floats:
    """[P, 2, PHASES + 1, L] I, J and K waves, ringing: J is 1 at 0, I about -0.6, K about -0.7."""
    frequency = (draws.parameters["complex_hz"] * np.exp(draws.frequency))[..., None, None]
    ring_s = (draws.parameters["ring_s"] * np.exp(draws.ring))[..., None, None]
    rise = np.exp(-0.5 * (clock_s * frequency / 0.49) ** 2)  # -0.6 half a period before J
    fall = np.exp(-np.maximum(clock_s, 0.0) / ring_s)
    late = clock_s - 0.28  # the diastolic waves
    tail = np.exp(-0.5 * (late / 0.08) ** 2) * np.cos(12.0 * np.pi * late)
    wave = np.where(clock_s < 0, rise, fall) * np.cos(2 * np.pi * frequency * clock_s)
    # To 0 at both ends, so that no beat starts or stops with a step.
    edge = np.minimum((clock_s - clock_s.min()) / 0.05, (clock_s.max() - clock_s) / 0.2)
    return (wave + draws.tail[..., None, None] * tail) * np.clip(edge, 0.0, 1.0).astype(np.float32)


def _breathing(draws: Draws, chest: Floats, posture: NDArray) -> Floats:
    """[T] chest and belly as they reach the sensor, in units of `breathing_gain`."""
    lag = draws.parameters["path_lag_s"] * DRIVE_HZ
    earlier = np.arange(len(chest), dtype=np.int32) - np.floor(lag).astype(np.int32)
    part = lag - np.floor(lag)
    belly = (1.0 - part) * chest[np.maximum(earlier, 0)] + part * chest[np.maximum(earlier - 1, 0)]
    paths = draws.paths[posture]
    breath = paths[:, 0] * chest + paths[:, 1] * belly + draws.bend[posture] * chest * chest
    _, _, breath_walk, _ = draws.walks
    breath = breath * np.exp(0.2 * _at_steps(breath_walk, len(chest)))
    return breath + draws.parameters["breathing_noise"] * draws.creep


def _at_steps(values: Floats, length: int) -> Floats:
    """A series of the slow grid at the drive's steps, linear in between."""
    each = int(SLOW_STEP_S * DRIVE_HZ)
    after = np.concatenate([values[1:], values[-1:]])
    share = np.arange(each, dtype=np.float32) / each
    return (values[:, None] + (after - values)[:, None] * share).reshape(-1)[:length]


def _high_pass(values: NDArray, corner_hz: np.float32) -> NDArray:
    """First-order high-pass of a series on the drive's grid, about its mean."""
    length = scipy.fft.next_fast_len(len(values), real=True)
    frequency = np.arange(length // 2 + 1, dtype=np.float32) * (DRIVE_HZ / length)
    spectrum = scipy.fft.rfft(values - values.mean(), length)
    ratio = frequency / corner_hz
    return scipy.fft.irfft(spectrum * (ratio / (ratio - 1j)), length)[: len(values)]


def _connected(draws: Draws, steps: int) -> Floats:
    """[steps] 0 in a dropout, else 1."""
    dropped = np.zeros(steps + 1, np.float32)
    np.add.at(dropped, np.clip(draws.drop_start, 0, steps).astype(np.int32), 1.0)
    ends = draws.drop_start + draws.drop_length
    np.add.at(dropped, np.clip(ends, 0, steps).astype(np.int32), -1.0)
    return (np.cumsum(dropped)[:steps] < 0.5).astype(np.float32)


def ecg(rng: np.random.Generator, drive: Drive, rate_hz: float) -> NDArray[np.float32]:
    """An ECG in mV, [duration * rate_hz]: P-QRS-T, wander, muscle noise, mains, lead-off.

    The T wave follows R at 0.3 s times the square root of the interval (Bazett); R is 0.6-1.2 mV,
    and in one person of twelve the lead is the wrong way round. In about one night of seven a lead
    comes off for 10-300 s: a flat line at 0 or at a rail of 2 mV (unsourced).
    """
    size = round(drive.duration_s * rate_hz)
    times = drive.beat_times_s
    grid_s = np.arange(len(drive.breathing)) / DRIVE_HZ
    respiration = np.interp(times, grid_s, drive.breathing).astype(np.float32)
    heights = np.float32(rng.uniform(0.6, 1.2)) * (1.0 + 0.08 * respiration)
    width = np.array([0.010, 0.011, 0.012]) * rng.uniform(0.9, 1.2)
    q, s = rng.uniform(0.05, 0.15), rng.uniform(0.1, 0.3)
    p, t = rng.uniform(0.08, 0.16), rng.uniform(0.15, 0.35)
    lead = -1.0 if rng.random() < 1 / 12 else 1.0

    def bump(x: NDArray, at: float, sd: float) -> NDArray:
        return np.exp(-0.5 * ((x - at) / sd) ** 2)

    def sinus(x: NDArray) -> NDArray:
        qrs = bump(x, 0, width[1]) - q * bump(x, -0.03, width[0]) - s * bump(x, 0.03, width[2])
        return qrs + p * bump(x, -0.16, 0.025)

    def ventricular(x: NDArray) -> NDArray:  # no P wave, broad, larger
        return 1.3 * bump(x, 0, 0.04) - 0.5 * bump(x, 0.10, 0.05)

    def t_wave(x: NDArray) -> NDArray:
        return t * bump(x, 0, 0.045)

    def pulses(
        at_s: NDArray, kind: NDArray, before_s: float, after_s: float, *shapes: Callable
    ) -> NDArray[np.float32]:
        before, clock_s = pulse_clock(before_s, after_s, rate_hz)
        tables = np.stack([shape(clock_s) for shape in shapes]).astype(np.float32)
        position = at_s * rate_hz
        sample = np.floor(position)
        fraction = (position - sample).astype(np.float32)
        start = sample.astype(np.int32) - before
        return sum_of_pulses(size, start, fraction, heights, kind, tables)

    interval = np.clip(np.diff(times, prepend=times[:1] - 0.9), 0.4, 1.6)
    ectopic = (~drive.beat_normal).astype(np.int32)
    out = pulses(times, ectopic, 0.24, 0.24, sinus, ventricular)
    out += pulses(times + 0.3 * np.sqrt(interval), 0 * ectopic, 0.15, 0.15, t_wave)

    # Muscle noise grows with movement, and so does the wander that else breathing alone makes.
    ratio = Fraction(str(rate_hz)) / Fraction(str(DRIVE_HZ))
    each, steps = ratio.numerator, ratio.denominator
    effort = (drive.movement / 50.0).astype(np.float32)
    wander, _, power = coloured_noise(rng, len(effort), DRIVE_HZ, lambda hz: hz < 0.3)
    slow = (0.05 * drive.breathing).astype(np.float32)
    slow += (0.01 + 0.24 * effort) * wander / np.sqrt(power.sum() + 1e-12, dtype=np.float32)
    out += upsampled(slow, ratio)[:size]
    blocks = -(-size // each)
    held = np.pad(effort, (0, max(0, blocks * steps - len(effort))))[: blocks * steps : steps]
    muscle = normal(rng, blocks, each)
    muscle *= (0.008 + 0.15 * held)[:, None]
    out += muscle.reshape(-1)[:size]
    if rate_hz > 120 and rate_hz == int(rate_hz):  # mains of 60 Hz, below Nyquist: whole seconds
        second = 0.004 * np.sin(2 * np.pi * 60.0 * np.arange(int(rate_hz)) / rate_hz)
        seconds = size // int(rate_hz)
        out[: seconds * int(rate_hz)].reshape(seconds, int(rate_hz))[:] += second.astype(np.float32)
    out *= np.float32(lead)
    for start in rng.uniform(0, size, rng.poisson(0.02 * drive.duration_s / 3600.0)):
        stop = start + rng.uniform(10.0, 300.0) * rate_hz
        out[int(start) : int(stop)] = rng.choice([0.0, 0.0, 2.0, -2.0])
    return out
