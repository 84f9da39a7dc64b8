"""Sensors: a body's beats, breathing and movement in, an ECG or a ballistocardiogram out.

Nothing here knows a stage. Both signals see a `Drive` alone, so they serve a simulated night and a
recorded one alike: from the R points, breathing effort and movement of an SHHS night, `bcg` makes
the BCG that SHHS does not have.

A BCG is made in three steps, so that NumPy and JAX (`sensors_jax`) make the same one:

  1. `prepare` (NumPy, float64): where the beats fall on the sensor's clock, whole samples and
     fractions apart, since float32 cannot tell milliseconds seven hours into a night.
  2. `draw_bcg`: everything that chance decides, from a source of random numbers.
  3. `render_bcg`: the signal, from the first two; written once for any array library.

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
import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from kd_sleep.simulation.beds import SENSORS, Sensor
from kd_sleep.simulation.physiology import DRIVE_HZ, Drive

RJ_S = 0.210
SLOW_STEP_S = 10.0  # grid of whatever wanders over minutes
POSTURES = 32  # the most that a night has room for; some 13 ± 4 are wanted
MOVEMENTS = 512  # different visibilities of movements; then they repeat
DROPOUTS = 32  # the most that a night has room for
BEAT_BEFORE_S, BEAT_AFTER_S = 0.35, 0.65  # of a BCG complex around its J peak
PHASES = 16  # of a pulse between two samples; a line in between
UPSAMPLE_TAPS = 12
HEART_BAND_HZ = (1.0, 8.0)
Array = Any  # of NumPy or JAX
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
    """A BCG, and what a test wants to know about it.

    Attributes:
      values: [n] in heartbeat amplitudes (J peaks about 1) times the sensor's gain.
      rate_hz: samples per second of the sensor's own clock.
      clock: that clock.
      j_times_s: [M] true times of the J peaks.
      snr_db: heartbeat power over sensor noise power in 1-8 Hz, mean of the night.
    """

    values: NDArray[np.float32]
    rate_hz: float
    clock: Clock
    j_times_s: NDArray[np.float64]
    snr_db: float


class Source(Protocol):
    """Random float32 numbers of a shape."""

    def normal(self, *shape: int) -> Array: ...

    def uniform(self, *shape: int) -> Array: ...


class Backend(NamedTuple):
    """What differs between array libraries.

    Attributes:
      xp: `numpy`, or what has its functions.
      add_at: (size, index, values) -> [size], the sum of the values at each index.
      rfft: (values, length) -> spectrum.
      irfft: (spectrum, length) -> values.
      matmul: of float32 at full precision.
    """

    xp: Any
    add_at: Callable[[int, Array, Array], Array]
    rfft: Callable[[Array, int], Array]
    irfft: Callable[[Array, int], Array]
    matmul: Callable[[Array, Array], Array]


def _bincount(size: int, index: NDArray, values: NDArray) -> NDArray[np.float32]:
    return np.bincount(index.ravel(), values.ravel(), size).astype(np.float32)


NUMPY = Backend(np, _bincount, scipy.fft.rfft, scipy.fft.irfft, np.matmul)


@dataclasses.dataclass(frozen=True)
class NumpySource:
    """Random numbers of a NumPy generator."""

    rng: np.random.Generator

    def normal(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape, dtype=np.float32)

    def uniform(self, *shape: int) -> Array:
        return self.rng.random(shape, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Body:
    """A `Drive` ready for `render_bcg`: float32, and on a sensor's clock where that matters.

    M beats and T steps of the drive's grid may be padded; U steps of the sensor's clock make
    U * rate / DRIVE_HZ samples, of which `samples` are the night.

    Attributes:
      beat_sample: [M] int32, whole samples from the sensor's start to R; may be negative.
      beat_fraction: [M] the rest of a sample.
      beat_size: [M] 1, 0.4 for an ectopic beat, 0 for padding or beyond the recording.
      beat_step: [M] int32, step of the drive's grid that R lies in.
      respiration: [M] breathing at R.
      slow: [M] the heart's slow interval over the night's mean, less 1.
      filling: [M] the interval before R over the slow one, less 1.
      breathing: [T] as in `Drive`.
      movement: [T] as in `Drive`.
      onset: [T] 1 where a movement starts.
      hours: of the drive.
      step: [U] int32, step of the drive's grid at each step of the sensor's.
      step_fraction: [U] the rest of a step.
      samples: int32.
    """

    beat_sample: Array
    beat_fraction: Array
    beat_size: Array
    beat_step: Array
    respiration: Array
    slow: Array
    filling: Array
    breathing: Array
    movement: Array
    onset: Array
    hours: Array
    step: Array
    step_fraction: Array
    samples: Array


@dataclasses.dataclass(frozen=True)
class BcgDraws:
    """All that chance decides of a BCG. P postures, S slow steps; M, T, U as in `Body`.

    Attributes:
      parameters: the night's value of each field of `Sensor`.
      rj_s: mean RJ interval.
      rj_slow_s: its change per relative change of the slow RR interval.
      rj_breath_s: amplitude of its breathing sinusoid.
      breath_depth: share of a beat's size that a breath takes.
      residual_s: [M] of the RJ interval.
      beat_noise: [M] of the log size.
      walks: [4, S] unit variance: RJ interval, beat size, breathing size, noise level.
      snoring: [S] 0 or more: bouts.
      partner: [S] 0 or more: bursts of a partner's movement.
      turns: [T] uniform: which movements change the posture.
      visible: [MOVEMENTS] log-size of movements.
      frequency: [P, 2] log factor on the complex's frequency, in expiration and in inspiration,
        which change a beat's shape; `ring` likewise.
      gain: [P] log size.
      tail: [P, 2] size of the diastolic waves.
      sign: [P] 1 or -1.
      paths: [P, 2] weights of chest and belly.
      bend: [P] how far breathing is bent: its second harmonic.
      weight: [P] load on the sensor.
      rj_posture_s: [P] shift of the RJ interval.
      creep: [T] unit variance, below 0.4 Hz.
      sway: [T] unit variance, 1/f up to 4 Hz.
      noise: [samples] sensor noise with a power of 1 in 1-8 Hz.
      drop_start: [DROPOUTS] steps; beyond the end for those that do not happen.
      drop_length: [DROPOUTS] steps.
    """

    parameters: dict[str, Array]
    rj_s: Array
    rj_slow_s: Array
    rj_breath_s: Array
    breath_depth: Array
    residual_s: Array
    beat_noise: Array
    walks: Array
    snoring: Array
    partner: Array
    turns: Array
    visible: Array
    frequency: Array
    ring: Array
    gain: Array
    tail: Array
    sign: Array
    paths: Array
    bend: Array
    weight: Array
    rj_posture_s: Array
    creep: Array
    sway: Array
    noise: Array
    drop_start: Array
    drop_length: Array


def _factor(rate_hz: float) -> int:
    """Samples per step of the drive."""
    factor = rate_hz / DRIVE_HZ
    if factor != int(factor) or factor < 2:
        raise ValueError(
            f"a BCG's rate is a multiple of {DRIVE_HZ} Hz, from twice it; got {rate_hz}"
        )
    return int(factor)


def prepare(
    drive: Drive,
    rate_hz: float,
    clock: Clock | None = None,
    beats: int | None = None,
    steps: int | None = None,
) -> Body:
    """A `Drive` as `draw_bcg` and `render_bcg` take it.

    Args:
      drive: the night.
      rate_hz: of the BCG, a multiple of DRIVE_HZ.
      clock: the sensor's; None for the true one.
      beats: length to pad beats to; None for no padding.
      steps: length to pad both grids to; None for none.

    Raises:
      ValueError: the rate is no multiple of DRIVE_HZ, or the night is longer than the padding.
    """
    clock = clock or Clock()
    factor = _factor(rate_hz)
    times = np.asarray(drive.beat_times_s, np.float64)
    samples = max(int(clock.sensor_time(drive.duration_s) * rate_hz), 1)
    sensor_steps = -(-samples // factor)
    longest = max(len(drive.breathing), sensor_steps)
    beats = len(times) if beats is None else beats
    if beats < len(times) or (steps is not None and steps < longest):
        raise ValueError(
            f"a night of {len(times)} beats and {longest} steps is longer than its padding"
            f" ({beats}, {steps})"
        )

    interval = np.clip(np.diff(times, prepend=times[:1] - 0.9), 0.4, 1.6)
    slow = interval
    for _ in range(3):  # about a Gaussian of 60 beats
        slow = ndimage.uniform_filter1d(slow, 121, mode="nearest")
    position = clock.sensor_time(times) * rate_hz
    sample = np.floor(position)
    reach = BEAT_AFTER_S * rate_hz + rate_hz  # RJ and complex
    inside = (sample > -reach) & (sample < samples + reach)
    sample = np.clip(sample, -reach, samples + reach)
    true_step = clock.true_time(np.arange(steps or sensor_steps) / DRIVE_HZ) * DRIVE_HZ
    true_step = np.clip(true_step, 0.0, len(drive.breathing) - 1)
    grid_s = np.arange(len(drive.breathing)) / DRIVE_HZ
    moving = drive.movement > 0

    def padded(values: NDArray, length: int | None, dtype: type = np.float32) -> NDArray:
        return np.pad(values, (0, (length or len(values)) - len(values))).astype(dtype)

    return Body(
        beat_sample=padded(sample, beats, np.int32),
        beat_fraction=padded(position - np.floor(position), beats),
        beat_size=padded(np.where(drive.beat_normal, 1.0, 0.4) * inside, beats),
        beat_step=padded((times * DRIVE_HZ).clip(0, len(grid_s) - 1), beats, np.int32),
        respiration=padded(np.interp(times, grid_s, drive.breathing), beats),
        slow=padded(slow / slow.mean() - 1.0 if len(slow) else slow, beats),
        filling=padded(interval / slow - 1.0, beats),
        breathing=padded(drive.breathing, steps),
        movement=padded(drive.movement, steps),
        onset=padded(np.diff(moving.astype(np.int8), prepend=0) == 1, steps),
        hours=np.float32(drive.duration_s / 3600.0),
        step=np.floor(true_step).astype(np.int32),
        step_fraction=(true_step - np.floor(true_step)).astype(np.float32),
        samples=np.int32(samples),
    )


def _coloured(
    source: Source, length: int, rate_hz: float, density: Callable[[Array], Array], backend: Backend
) -> tuple[Array, Array, Array]:
    """Gaussian noise of a given power density, drawn in the frequency domain.

    Returns:
      values: [length], whose mean square is the sum of `power`, but for chance.
      frequency: [bands] where the density was evaluated: it is constant within a band.
      power: [bands] the density there, 0 beyond Nyquist.
    """
    xp = backend.xp
    whole = scipy.fft.next_fast_len(length, real=True)
    bins = whole // 2 + 1
    bands = min(4096, bins)
    each = -(-bins // bands)
    frequency = (np.arange(bands, dtype=np.float32) + 0.5) * each * rate_hz / whole
    power = density(frequency) * (frequency < rate_hz / 2)
    gain = xp.sqrt(power)[:, None, None].astype(np.float32)
    pairs = (source.normal(bands, each, 2) * gain).reshape(bands * each, 2)[:bins]
    spectrum = pairs.view(np.complex64)[:, 0] if xp is np else pairs[:, 0] + 1j * pairs[:, 1]
    # Each bin adds |X|² 2 / whole² to the mean square, and E|X|² is twice its power.
    scale = np.float32(whole / math.sqrt(4.0 * each))
    return backend.irfft(spectrum, whole)[:length] * scale, frequency, power


def draw_bcg(
    source: Source,
    body: Body,
    sensor: Sensor,
    rate_hz: float = 100.0,
    backend: Backend = NUMPY,
) -> BcgDraws:
    """Everything that chance decides of a night's BCG; see `BcgDraws`.

    Of `body`, only shapes are read: the draws know nothing of its beats, breathing and movement.
    """
    xp = backend.xp
    beats, steps = len(body.beat_sample), len(body.breathing)
    slow_steps = _slow_steps(steps)
    names = [field.name for field in dataclasses.fields(sensor)]
    share = source.uniform(len(names) + 4)
    parameters = {name: getattr(sensor, name).at(share[n]) for n, name in enumerate(names)}
    rj_slow, rj_breath, depth, rj_mean = share[len(names) :]
    residual, beat_noise = source.normal(2, beats)
    gain, chest, belly, bend, weight, rj_posture, *shape = source.normal(10, POSTURES)
    frequency, ring, inspired_frequency, inspired_ring = shape
    tail, inspired_tail, sign = source.uniform(3, POSTURES)
    drop_gap, drop_length = source.uniform(2, DROPOUTS)

    # Walks: unit variance, no faster than these periods; in a short night, its slowest wave.
    period_s = np.array([2400.0, 1800.0, 600.0, 1200.0, 900.0])[:, None]
    kept = np.arange(slow_steps // 2 + 1) * period_s <= slow_steps * SLOW_STEP_S
    kept[:, 0], kept[:, 1] = False, True
    waves = source.normal(2, *kept.shape) * np.where(kept, slow_steps / 2, 0).astype(np.float32)
    waves = (waves[0] + 1j * waves[1]) / np.sqrt(kept.sum(1, keepdims=True), dtype=np.float32)
    walks = backend.irfft(waves, slow_steps)
    drafts = {
        "rj_s": RJ_S + 0.04 * (rj_mean - 0.5),
        "rj_slow_s": 0.02 + 0.06 * rj_slow,
        "rj_breath_s": 0.005 + 0.005 * rj_breath,
        "breath_depth": 0.10 + 0.20 * depth,
        "residual_s": 0.006 * residual,
        "beat_noise": 0.08 * beat_noise,
        "walks": walks[:4],
        "snoring": xp.maximum(walks[4], 0.0),
        # One in 44 of a partner's stretches of 10 s has some movement: 8 an hour.
        "partner": xp.maximum(source.normal(slow_steps) - 2.0, 0.0),
        "turns": source.uniform(steps),
        "visible": 0.7 * source.normal(MOVEMENTS),
        "frequency": xp.stack([0.08 * frequency, 0.08 * frequency + 0.10 * inspired_frequency], -1),
        "ring": xp.stack([0.15 * ring, 0.15 * ring + 0.15 * inspired_ring], -1),
        "gain": parameters["posture_log_sd"] * gain,
        "tail": xp.stack([tail, 0.5 * tail + 0.5 * inspired_tail], -1) - 0.5,
        "sign": xp.where(sign < parameters["flip"], -1.0, 1.0).astype(np.float32),
        "paths": xp.stack([0.7 + 0.5 * chest, 0.4 + 0.6 * belly], -1),
        "bend": 0.15 * bend,
        "weight": parameters["weight_step"] * weight,
        "rj_posture_s": 0.004 * rj_posture,
        "drop_start": xp.cumsum(-xp.log(1.0 - drop_gap))
        * (3600.0 * DRIVE_HZ)
        / parameters["dropouts_per_h"],
        "drop_length": (5.0 + 55.0 * drop_length) * DRIVE_HZ,
    }

    def creeping(hz: Array) -> Array:  # of a mattress and a body: with breathing, below the heart
        return 1.0 / (1.0 + (hz / 0.35) ** 6)

    def swaying(hz: Array) -> Array:  # of a moving body
        return np.where(hz < 4.0, 1.0 / np.maximum(hz, 0.02), 0.0)

    unit = []
    for density in (creeping, swaying):
        values, _, power = _coloured(source, steps, DRIVE_HZ, density, backend)
        unit.append(values / xp.sqrt(power.sum()))

    def sensor_noise(hz: Array) -> Array:
        rest = xp.maximum((10.0 / np.clip(hz, 0.1, 10.0)) ** parameters["noise_slope"], 1.0)
        low, high = HEART_BAND_HZ
        heart = (hz >= low) & (hz < high)
        rest = rest / (rest * heart).sum()
        width_hz = 0.15
        line = xp.exp(-0.5 * ((hz - parameters["vibration_hz"]) / width_hz) ** 2)
        line = line * (float(hz[1] - hz[0]) / (width_hz * math.sqrt(2.0 * math.pi)))
        return rest + line * 10.0 ** (0.1 * parameters["vibration_db"])

    samples = len(body.step) * _factor(rate_hz)
    noise, hz, power = _coloured(source, samples, rate_hz, sensor_noise, backend)
    heart = (hz >= HEART_BAND_HZ[0]) & (hz < HEART_BAND_HZ[1])
    return BcgDraws(
        parameters=parameters,
        creep=unit[0],
        sway=unit[1],
        noise=noise / xp.sqrt((power * heart).sum()),
        **drafts,
    )


def _slow_steps(steps: int) -> int:
    """Length of the grid of SLOW_STEP_S that covers the drive's."""
    return max(4, -(-steps // int(SLOW_STEP_S * DRIVE_HZ)))


@functools.lru_cache(maxsize=16)
def _upsampler(ratio: Fraction) -> NDArray[np.float32]:
    """[taps + q - 1, p]: from q samples and their neighbours to p, by a windowed sinc."""
    p, q = ratio.numerator, ratio.denominator
    at = np.arange(p) * (q / p)
    offset = np.arange(UPSAMPLE_TAPS + q - 1)[:, None] - (UPSAMPLE_TAPS // 2 - 1) - at
    window = np.where(
        np.abs(offset) < UPSAMPLE_TAPS / 2,
        np.i0(6.0 * np.sqrt(np.maximum(1 - (2 * offset / UPSAMPLE_TAPS) ** 2, 0.0))),
        0.0,
    )
    kernel = np.sinc(offset) * window
    return (kernel / kernel.sum(0)).astype(np.float32)  # a constant stays one


def _upsampled(values: Array, ratio: Fraction, backend: Backend = NUMPY) -> Array:
    """[n] -> [ceil(n / q) * p]: band-limited, the first sample stays the first."""
    xp, kernel, stride = backend.xp, _upsampler(ratio), ratio.denominator
    blocks = -(-len(values) // stride)
    before = UPSAMPLE_TAPS // 2 - 1
    after = blocks * stride - len(values) + UPSAMPLE_TAPS - 1 - before
    padded = xp.pad(values, (before, after), mode="edge")
    near = [padded[k : k + (blocks - 1) * stride + 1 : stride] for k in range(len(kernel))]
    return backend.matmul(xp.stack(near).T, kernel).reshape(-1)


def _smooth(values: Array, length: int, xp: Any) -> Array:
    """A series of the slow grid at the drive's steps, in straight lines."""
    each = int(SLOW_STEP_S * DRIVE_HZ)
    after = xp.concatenate([values[1:], values[-1:]])
    share = np.arange(each, dtype=np.float32) / each
    return (values[:, None] + (after - values)[:, None] * share).reshape(-1)[:length]


def _add_pulses(
    size: int,
    sample: Array,
    fraction: Array,
    heights: Array,
    kind: Array,
    tables: Array,
    backend: Backend,
) -> Array:
    """Sum of pulses of given kinds at given times.

    Args:
      size: number of samples.
      sample: [M] int32, whole samples at which the pulses' origins lie.
      fraction: [M] in [0, 1), the rest.
      heights: [M].
      kind: [M] int, row of `tables`.
      tables: [K, PHASES + 1, L]: each pulse from its first sample on, by fraction.
      backend: array library.

    Returns:
      [size]; what lies outside is left out.
    """
    xp, length = backend.xp, tables.shape[-1]
    scaled = fraction * PHASES
    phase = xp.clip(xp.floor(scaled), 0, PHASES - 1).astype(np.int32)
    part = (scaled - phase)[:, None]
    rows = tables.reshape(-1, length)
    first = kind * (PHASES + 1) + phase
    values = rows[first] * (heights[:, None] * (1.0 - part))
    values += rows[first + 1] * (heights[:, None] * part)
    # Whatever starts too early or too late lands in a margin that is cut off.
    start = xp.clip(sample, -length, size) + length
    index = start[:, None] + np.arange(length, dtype=np.int32)
    return backend.add_at(size + 2 * length, index, values)[length : length + size]


def _pulse_clock(before_s: float, after_s: float, rate_hz: float) -> tuple[int, NDArray]:
    """Samples before a pulse's origin; [PHASES + 1, L] times from it in seconds."""
    before = math.ceil(before_s * rate_hz)
    sample = np.arange(before + math.ceil(after_s * rate_hz) + 1) - before
    phase = np.arange(PHASES + 1) / PHASES
    return before, ((sample - phase[:, None]) / rate_hz).astype(np.float32)


def rj_delay_s(draws: BcgDraws, body: Body, backend: Backend = NUMPY) -> Array:
    """[M] RJ intervals: mean, autonomic walk, breathing, posture, residual; in 150-300 ms."""
    xp = backend.xp
    slow_step = body.beat_step // int(SLOW_STEP_S * DRIVE_HZ)
    delay = (
        draws.rj_s
        + draws.rj_slow_s * body.slow
        + 0.013 * draws.walks[0][slow_step]
        + draws.rj_breath_s * body.respiration
        + draws.rj_posture_s[postures(draws, body, xp)[body.beat_step]]
        + draws.residual_s
    )
    return xp.clip(delay, 0.150, 0.300)


def postures(draws: BcgDraws, body: Body, xp: Any) -> Array:
    """[T] number of the posture: about 1.6 changes an hour, each at the start of a movement."""
    share = 1.6 * body.hours / xp.maximum(body.onset.sum(), 1.0)
    turns = (body.onset > 0) & (draws.turns < share)
    return xp.minimum(xp.cumsum(turns.astype(np.int32)), POSTURES - 1)


def _complexes(draws: BcgDraws, clock_s: NDArray, xp: Any) -> Array:
    """[P, 2, PHASES + 1, L] I, J and K waves, ringing: J is 1 at 0, I about -0.6, K about -0.7."""
    frequency = (draws.parameters["complex_hz"] * xp.exp(draws.frequency))[..., None, None]
    ring_s = (draws.parameters["ring_s"] * xp.exp(draws.ring))[..., None, None]
    rise = xp.exp(-0.5 * (clock_s * frequency / 0.49) ** 2)  # -0.6 half a period before J
    fall = xp.exp(-np.maximum(clock_s, 0.0) / ring_s)
    late = clock_s - 0.28  # the diastolic waves
    tail = np.exp(-0.5 * (late / 0.08) ** 2) * np.cos(12.0 * np.pi * late)
    wave = xp.where(clock_s < 0, rise, fall) * xp.cos(2 * np.pi * frequency * clock_s)
    # To 0 at both ends, so that no beat starts or stops with a step.
    edge = np.minimum((clock_s - clock_s.min()) / 0.05, (clock_s.max() - clock_s) / 0.2)
    return (wave + draws.tail[..., None, None] * tail) * np.clip(edge, 0.0, 1.0).astype(np.float32)


def render_bcg(
    draws: BcgDraws, body: Body, rate_hz: float = 100.0, backend: Backend = NUMPY
) -> Array:
    """The BCG that draws and body make; deterministic, and the same in NumPy and JAX.

    Beats, sized by breathing, filling time and posture, each an RJ interval after its R. On them
    what the sensor and the bed add: breathing by two paths, load and its changes, movement, all
    through the sensor's high-pass; noise, vibration, snoring; then dropouts and saturation.

    Args:
      draws: for this body's shapes.
      body: beats, breathing, movement.
      rate_hz: as in `prepare`.
      backend: array library.

    Returns:
      [U * rate / DRIVE_HZ] float32, of which the first `body.samples` are the night.
    """
    xp, factor = backend.xp, _factor(rate_hz)
    steps, sensor_steps = len(body.breathing), len(body.step)
    size, own = sensor_steps * factor, draws.parameters
    posture = postures(draws, body, xp)
    _, size_walk, breath_walk, level_walk = draws.walks
    at_step = functools.partial(_smooth, length=steps, xp=xp)

    slow_step = body.beat_step // int(SLOW_STEP_S * DRIVE_HZ)
    beat_posture = posture[body.beat_step]
    heights = 1.0 + draws.breath_depth * body.respiration + 0.4 * body.filling
    heights = xp.maximum(heights, 0.1) * body.beat_size
    heights = heights * xp.exp(draws.beat_noise + draws.gain[beat_posture])
    heights = heights * xp.exp(0.15 * size_walk[slow_step]) * draws.sign[beat_posture]
    before, pulse_clock_s = _pulse_clock(BEAT_BEFORE_S, BEAT_AFTER_S, rate_hz)
    tables = _complexes(draws, pulse_clock_s, xp).reshape(-1, *pulse_clock_s.shape)
    # Of a beat's two shapes, that of the breath's half it falls into; now and then the other.
    kind = 2 * beat_posture + (body.respiration + 50.0 * draws.residual_s > 0)
    position = body.beat_fraction + rj_delay_s(draws, body, backend) * rate_hz
    whole = xp.floor(position)
    start = body.beat_sample + whole.astype(np.int32) - before
    beats = _add_pulses(size, start, position - whole, heights, kind, tables, backend)
    beat_power = xp.square(beats).sum() / body.samples.astype(np.float32)

    # Movement: a limb far from the sensor hardly shows, the trunk on it does.
    number = xp.cumsum(body.onset.astype(np.int32)) % MOVEMENTS
    movement = own["movement_gain"] * xp.exp(draws.visible)[number] * body.movement
    movement = movement + 20.0 * own["partner"] * at_step(draws.partner)

    chest, lag = body.breathing, own["path_lag_s"] * DRIVE_HZ
    earlier = xp.arange(steps, dtype=np.int32) - xp.floor(lag).astype(np.int32)
    part = lag - xp.floor(lag)
    belly = (1.0 - part) * chest[xp.maximum(earlier, 0)] + part * chest[xp.maximum(earlier - 1, 0)]
    paths = draws.paths[posture]
    breath = paths[:, 0] * chest + paths[:, 1] * belly + draws.bend[posture] * chest * chest
    breath = breath * xp.exp(0.2 * at_step(breath_walk)) + own["breathing_noise"] * draws.creep
    slow = own["breathing_gain"] * breath + draws.weight[posture] + 2.0 * movement * draws.sway
    slow = _high_pass(slow, own["coupling_hz"], backend)

    noise = xp.sqrt(beat_power) * 10.0 ** (-own["snr_db"] / 20.0)
    noise = noise * 10.0 ** (2.5 / 20.0 * at_step(level_walk))
    snore = own["snoring"] * at_step(draws.snoring) * xp.maximum(chest, 0.0)
    level = noise * (1.0 + snore) + 0.3 * movement

    # From true time to the sensor's.
    after = xp.minimum(body.step + 1, steps - 1)
    slow = slow[body.step] * (1.0 - body.step_fraction) + slow[after] * body.step_fraction
    start_step = xp.clip(draws.drop_start, 0, sensor_steps).astype(np.int32)
    stop_step = xp.clip(draws.drop_start + draws.drop_length, 0, sensor_steps).astype(np.int32)
    ones = np.ones(DROPOUTS, np.float32)
    dropped = backend.add_at(
        sensor_steps + 1, xp.concatenate([start_step, stop_step]), np.concatenate([ones, -ones])
    )
    shown = (xp.cumsum(dropped)[:sensor_steps] < 0.5).astype(np.float32)
    shown *= xp.arange(0, size, factor) < body.samples

    values = draws.noise.reshape(sensor_steps, factor) * level[body.step][:, None]
    values += beats.reshape(sensor_steps, factor)
    values += _upsampled(slow, Fraction(factor), backend).reshape(sensor_steps, factor)
    values = xp.clip(values, -own["saturation"], own["saturation"])
    values *= shown[:, None]
    return values.reshape(-1)


def _high_pass(values: Array, corner_hz: Array, backend: Backend) -> Array:
    """First-order high-pass of a series on the drive's grid, about its mean."""
    length = scipy.fft.next_fast_len(len(values), real=True)
    frequency = backend.xp.arange(length // 2 + 1, dtype=np.float32) * (DRIVE_HZ / length)
    spectrum = backend.rfft(values - values.mean(), length)
    ratio = frequency / corner_hz
    return backend.irfft(spectrum * (ratio / (ratio - 1j)), length)[: len(values)]


def bcg(
    rng: np.random.Generator,
    drive: Drive,
    rate_hz: float = 100.0,
    clock: Clock | None = None,
    sensor: str = "mix",
) -> Bcg:
    """A ballistocardiogram on the sensor's own clock.

    Args:
      rng: what decides.
      drive: beats, breathing and movement, simulated or recorded.
      rate_hz: a multiple of DRIVE_HZ.
      clock: the sensor's; None for the true one.
      sensor: a name in `SENSORS`.

    Raises:
      ValueError: there is no such rate or sensor.
    """
    if sensor not in SENSORS:
        raise ValueError(f"no sensor {sensor!r}; there are {', '.join(SENSORS)}")
    clock = clock or Clock()
    body = prepare(drive, rate_hz, clock)
    draws = draw_bcg(NumpySource(rng), body, SENSORS[sensor], rate_hz)
    values = render_bcg(draws, body, rate_hz)[: int(body.samples)]
    j_times = drive.beat_times_s + rj_delay_s(draws, body).astype(np.float64)
    return Bcg(values, rate_hz, clock, j_times, float(draws.parameters["snr_db"]))


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

    def normal(x: NDArray) -> NDArray:
        qrs = bump(x, 0, width[1]) - q * bump(x, -0.03, width[0]) - s * bump(x, 0.03, width[2])
        return qrs + p * bump(x, -0.16, 0.025)

    def ventricular(x: NDArray) -> NDArray:  # no P wave, broad, larger
        return 1.3 * bump(x, 0, 0.04) - 0.5 * bump(x, 0.10, 0.05)

    def t_wave(x: NDArray) -> NDArray:
        return t * bump(x, 0, 0.045)

    def pulses(
        at_s: NDArray, kind: NDArray, before_s: float, after_s: float, *shapes: Callable
    ) -> NDArray[np.float32]:
        before, clock_s = _pulse_clock(before_s, after_s, rate_hz)
        tables = np.stack([shape(clock_s) for shape in shapes]).astype(np.float32)
        position = at_s * rate_hz
        whole = np.floor(position)
        fraction = (position - whole).astype(np.float32)
        start = whole.astype(np.int32) - before
        return _add_pulses(size, start, fraction, heights, kind, tables, NUMPY)

    interval = np.clip(np.diff(times, prepend=times[:1] - 0.9), 0.4, 1.6)
    ectopic = (~drive.beat_normal).astype(np.int32)
    out = pulses(times, ectopic, 0.24, 0.24, normal, ventricular)
    out += pulses(times + 0.3 * np.sqrt(interval), 0 * ectopic, 0.15, 0.15, t_wave)

    # Muscle noise grows with movement, and so does the wander that else breathing alone makes.
    source = NumpySource(rng)
    ratio = Fraction(str(rate_hz)) / Fraction(str(DRIVE_HZ))
    each, steps = ratio.numerator, ratio.denominator
    effort = (drive.movement / 50.0).astype(np.float32)
    wander, _, power = _coloured(source, len(effort), DRIVE_HZ, lambda hz: hz < 0.3, NUMPY)
    slow = (0.05 * drive.breathing).astype(np.float32)
    slow += (0.01 + 0.24 * effort) * wander / np.sqrt(power.sum() + 1e-12, dtype=np.float32)
    out += _upsampled(slow, ratio)[:size]
    blocks = -(-size // each)
    held = np.pad(effort, (0, max(0, blocks * steps - len(effort))))[: blocks * steps : steps]
    muscle = source.normal(blocks, each)
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
