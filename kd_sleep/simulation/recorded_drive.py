"""The drive of a recorded night, from its channels, and the BCG simulated from it.

Beats and breathing are in the recording; movement is inferred from what it adds to other channels:

  - to the ECG, muscle noise and swings of the baseline;
  - to the effort belts, what is faster than a breath, and swings of several breaths.

Each trace is an RMS on `DRIVE_HZ`, compared with its own level at rest, a running percentile. A
movement is where any trace exceeds `low` times that level and one reaches `high` times it. Strength
is relative to the channel's R peaks or breaths, so gain and polarity do not matter.

Where breathing was not recorded it is taken from the respiratory sinus arrhythmia: RR shortens as
the chest expands (Hirsch & Bishop, Am J Physiol 1981;241:H620).

Thresholds and units are set on simulated nights, whose movements are known: there 90 % of the time
in movement is seen, and 99 % of what is seen is true. Recorded nights with a known movement were
not at hand, and the simulator makes no swing of several breaths.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kd_sleep.recordings.recording import Recording, Signal
from kd_sleep.signals.filters import bandpass, moving_sd
from kd_sleep.signals.timeseries import Series, bridged
from kd_sleep.simulation import sensors
from kd_sleep.simulation.physiology import DRIVE_HZ, Drive

BCG_SAMPLING_HZ = 100.0  # of the forward model
BREATH_HZ = (0.1, 0.6)
RSA_HZ = (0.15, 0.4)  # the Task Force's HF band, which breathing rules
RSA_BEATS = 11  # that an interval's local median is over
RSA_CHANGE = 0.2  # of that median: more, and the interval is no NN interval
MIN_BREATH_HZ = 2.0  # slower, and a channel shows no breath
MIN_JERK_HZ = 4.0  # slower, and it shows nothing faster than a breath
QRS_SIDE_S = 0.1  # before and after R
REST_S = 600.0  # that a level at rest is over: several movements long, shorter than a posture
REST_STEP_S = 5.0
EDGE_S = 2.0  # around dead samples and at the night's ends, where filters ring
REST_BETWEEN_S = 1.0  # two movements; less, and they are one
STRONGEST = 50.0  # as the simulator's own, in heartbeat amplitudes


@dataclasses.dataclass(frozen=True)
class Trace:
    """One sign of movement in a channel; all figures are of the simulator's sensors (unsourced).

    Attributes:
      band_hz: where it shows.
      span_s: of its RMS.
      rest: percentile that is its level at rest; high where breaths alone vary much.
      floor: least level at rest, relative to the channel's R peaks or breaths.
      low: times the level at rest that all of a movement exceeds.
      high: times that level that some of it exceeds.
      unit: strength of a movement whose RMS is as large as the R peaks or breaths.
    """

    band_hz: tuple[float, float | None]
    span_s: float
    rest: float
    floor: float
    low: float
    high: float
    unit: float


MUSCLE = Trace((20.0, 45.0), 1.1, 40.0, 0.002, low=1.35, high=3.0, unit=500.0)
BASELINE = Trace((0.05, 0.7), 3.0, 80.0, 0.01, low=3.0, high=4.0, unit=200.0)
JERK = Trace((1.0, None), 1.1, 40.0, 0.02, low=1.8, high=4.0, unit=36.0)
SWING = Trace((0.05, 0.7), 3.0, 80.0, 0.1, low=3.0, high=4.0, unit=10.0)


def drive_of(recording: Recording, beats: NDArray, normal: NDArray) -> Drive:
    """What a simulated sensor sees of a recorded night.

    Args:
      recording: the night; channels that are absent or dead add nothing, see `inferred`.
      beats: [M] R times in s.
      normal: [M] bool, False for ectopic beats.
    """
    samples = round(recording.duration_s * DRIVE_HZ)
    ecg, breathing = recording.ecg, _rsa_breathing(beats, normal, samples)
    rises = [] if ecg is None else _rises_of_ecg(ecg, beats, samples)
    for effort in reversed(recording.effort):  # of two that breathe, the first is the breathing
        if not _breathes(effort):
            continue
        chest, spread = _excursion(effort.series.values, effort.rate_hz, BREATH_HZ)
        clock_s = np.arange(len(chest)) / effort.rate_hz
        breathing = np.interp(np.arange(samples) / DRIVE_HZ, clock_s, chest)
        size = float(np.median(spread[~effort.series.dead]))
        rises.append(_rise(SWING, effort, size, samples))
        if effort.rate_hz >= MIN_JERK_HZ:
            rises.append(_rise(JERK, effort, size, samples))
    movement = _movement(rises) if rises else np.zeros(samples)
    return Drive(recording.duration_s, beats, normal, breathing, movement)


def inferred(recording: Recording) -> list[str]:
    """What `drive_of` has no channel for, in words; nothing for a night with ECG and breathing."""
    breathes = any(map(_breathes, recording.effort))
    found = [] if breathes else ["breathing from the heartbeats"]
    return found if breathes or recording.ecg is not None else [*found, "no movement"]


def simulated_bcg(recording: Recording, beats: NDArray, normal: NDArray, sensor: str) -> Series:
    """The forward model's BCG on the ECG's clock; the same night always gives the same.

    Args:
      recording: the night.
      beats: [M] R times in s.
      normal: [M] bool, False for ectopic beats.
      sensor: a name in `beds.SENSORS`.
    """
    drive, rng = drive_of(recording, beats, normal), rng_of(recording.recording_id)
    made = sensors.bcg(rng, drive, BCG_SAMPLING_HZ, sensor=sensor)
    return Series.of(made.values, made.rate_hz)


def rng_of(recording_id: str) -> np.random.Generator:
    """The generator that a night's simulated sensor is drawn from."""
    seed = int.from_bytes(hashlib.sha256(recording_id.encode()).digest()[:8], "big")
    return np.random.default_rng(seed)


def _breathes(effort: Signal) -> bool:
    """Whether a channel shows breaths anywhere."""
    return effort.rate_hz >= MIN_BREATH_HZ and not bool(effort.series.dead.all())


def _excursion(
    values: NDArray, rate_hz: float, band_hz: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Breaths of about ±1, and their size in the channel's unit, both [n]."""
    chest = bandpass(values, rate_hz, *band_hz)
    spread = np.sqrt(2.0) * moving_sd(chest, rate_hz, 60.0)
    largest = max(float(spread.max(initial=0.0)), np.finfo(float).tiny)
    return np.clip(chest / np.maximum(spread, 1e-3 * largest), -3.0, 3.0), spread


def _rsa_breathing(beats: NDArray, normal: NDArray, samples: int) -> NDArray[np.float64]:
    """Chest excursion of about ±1 on DRIVE_HZ, from the respiratory sinus arrhythmia of beats."""
    rr_s = np.diff(beats)
    usual_s = ndimage.median_filter(rr_s, RSA_BEATS, mode="nearest")
    nn = normal[1:] & normal[:-1] & (np.abs(rr_s - usual_s) <= RSA_CHANGE * usual_s)
    if nn.sum() < 2:
        return np.zeros(samples)
    middle_s = 0.5 * (beats[1:] + beats[:-1])[nn]
    shortening_s = -np.interp(np.arange(samples) / DRIVE_HZ, middle_s, rr_s[nn])
    return _excursion(shortening_s, DRIVE_HZ, RSA_HZ)[0]


_NONE = np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True)
class _Rise:
    """A trace of a night, [samples] each; False and 0 where the channel is dead."""

    low: NDArray[np.bool_]
    high: NDArray[np.bool_]
    strength: NDArray[np.float64]


def _rises_of_ecg(ecg: Signal, beats: NDArray, samples: int) -> list[_Rise]:
    """Muscle noise and the baseline between QRS complexes; none where no beat is to be seen."""
    side = round(QRS_SIDE_S * ecg.rate_hz)
    at = np.rint(beats * ecg.rate_hz).astype(np.int64)
    at = at[(at >= 0) & (at < len(ecg.values))]
    qrs = (at[:, None] + np.arange(-side, side + 1)).clip(0, len(ecg.values) - 1)
    size = float(np.median(np.ptp(ecg.series.values[qrs], axis=1))) if len(at) else 0.0
    if size == 0.0:
        return []
    seen = [trace for trace in (BASELINE, MUSCLE) if ecg.rate_hz > 2.0 * trace.band_hz[0]]
    return [_rise(trace, ecg, size, samples, leave_out=qrs) for trace in seen]


def _rise(
    trace: Trace, signal: Signal, size: float, samples: int, leave_out: NDArray = _NONE
) -> _Rise:
    """Where a channel's trace rises above its level at rest.

    Args:
      trace: which sign to look for.
      signal: the channel.
      size: of its R peaks or breaths, in the channel's unit.
      samples: of the night on DRIVE_HZ.
      leave_out: indices of the channel's samples to bridge.
    """
    dead = signal.series.dead
    left_out = dead.copy()
    left_out[leave_out] = True
    seen = signal.series.without(left_out).values / size
    power = bandpass(seen, signal.rate_hz, *trace.band_hz) ** 2
    power = _on_drive(power, signal.rate_hz, samples)
    rms = np.sqrt(ndimage.uniform_filter1d(power, round(trace.span_s * DRIVE_HZ)).clip(0.0))
    near = np.ones(2 * round(EDGE_S * DRIVE_HZ) + 1)
    off = _on_drive(dead, signal.rate_hz, samples) > 0
    off = ndimage.binary_dilation(off, near, border_value=1)
    step = round(REST_STEP_S * DRIVE_HZ)
    coarse = bridged(rms, off)[::step]
    rest = ndimage.percentile_filter(coarse, trace.rest, round(REST_S / REST_STEP_S))
    rest = np.interp(np.arange(samples), np.arange(len(rest)) * step, rest).clip(trace.floor)
    rms[off] = 0.0
    strength = trace.unit * np.sqrt((rms**2 - rest**2).clip(0.0))
    return _Rise(rms > trace.low * rest, rms > trace.high * rest, strength)


def _on_drive(values: NDArray, rate_hz: float, samples: int) -> NDArray[np.float64]:
    """Means of the samples in each step of DRIVE_HZ; straight lines where there is none."""
    step = np.minimum(np.arange(len(values)) * DRIVE_HZ / rate_hz, samples).astype(np.int64)
    count = np.bincount(step, minlength=samples + 1)[:samples]
    total = np.bincount(step, values, samples + 1)[:samples]
    return bridged(total / np.maximum(count, 1), count == 0)


def _movement(rises: list[_Rise]) -> NDArray[np.float64]:
    """Strength of movement, [samples], 0 at rest: the mean of the rising traces."""
    low = np.stack([rise.low for rise in rises])
    high = np.any([rise.high for rise in rises], axis=0)
    strengths = np.stack([rise.strength for rise in rises])
    moving = ndimage.binary_closing(low.any(0), np.ones(round(REST_BETWEEN_S * DRIVE_HZ)))
    number, runs = ndimage.label(moving)
    real = np.bincount(number[high], minlength=runs + 1) > 0
    real[0] = False
    rising = low.sum(0)
    strength = np.where(low, strengths, 0.0).sum(0) / np.maximum(rising, 1)
    strength = bridged(strength, rising == 0)
    return np.where(real[number], strength.clip(0.0, STRONGEST), 0.0)
