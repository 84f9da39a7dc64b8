"""What a study would measure in a night's ECG and BCG, by the names of `literature.csv`.

Measured from the signals alone where a study has signals alone; RJ intervals, postures and the
sensor's SNR are the simulator's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from kd_sleep.signals.filters import bandpass
from kd_sleep.signals.j_peaks import j_peaks
from kd_sleep.signals.timeseries import Series
from kd_sleep.simulation import sensors
from kd_sleep.simulation.physiology import DRIVE_HZ, Drive

ECG_HZ, BCG_HZ = 125.0, 100.0
TOLERANCE_S = 0.150  # between a beat and its detection, as in ANSI/AAMI EC57
SEGMENT_S = 30.0


def of_ecg(drive: Drive, rng: np.random.Generator) -> dict[str, float]:
    """How well sleepecg's detector finds the beats of a simulated ECG stored in 8 bits."""
    from sleepecg import detect_heartbeats

    made = sensors.ecg(rng, drive, ECG_HZ)
    stored = np.clip(np.round(made / 1.25 * 127.0), -128, 127)
    true = drive.beat_times_s
    index = np.clip(np.rint(true * ECG_HZ).astype(int), 0, len(stored) - 1)
    stored = stored * (
        1.0 if np.median(stored[index]) >= 0 else -1.0
    )  # leads swapped: not at issue
    peaks = np.asarray(detect_heartbeats(stored, ECG_HZ), int)
    peaks = peaks[(peaks > 0) & (peaks < len(stored) - 1)]
    left, middle, right = (stored[peaks + k] for k in (-1, 0, 1))
    bend = np.minimum(left - 2 * middle + right, -1e-9)
    found = (peaks + np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) / ECG_HZ

    # A lead that is off has no beats to find.
    off = np.convolve(np.abs(np.diff(stored, prepend=stored[0])) > 0, np.ones(125), "same") < 0.5
    true = true[~off[index]]
    found = found[~off[np.rint(found * ECG_HZ).astype(int)]]
    pairs = matched(true, found)
    error_s = np.abs(true[pairs[0]] - found[pairs[1]])
    return {
        "R peaks: sensitivity": len(pairs[0]) / max(len(true), 1),
        "R peaks: positive predictive value": len(pairs[0]) / max(len(found), 1),
        "R peaks: median timing error": 1e3 * float(np.median(error_s)),
    }


def matched(true: NDArray, found: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of beats and detections that are each other's nearest, within `TOLERANCE_S`."""
    if len(true) < 2 or len(found) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    to_true, to_found = _nearest(found, true), _nearest(true, found)
    own = np.flatnonzero(to_found[to_true] == np.arange(len(found)))
    own = own[np.abs(found[own] - true[to_true[own]]) < TOLERANCE_S]
    return to_true[own], own


def _nearest(times: NDArray, others: NDArray) -> NDArray[np.int64]:
    after = np.searchsorted(others, times).clip(1, len(others) - 1)
    return np.where(times - others[after - 1] < others[after] - times, after - 1, after)


def of_bcg(drive: Drive, rng: np.random.Generator, sensor: str) -> dict[str, float]:
    """Statistics of one night's BCG, simulated by a sensor of `beds.SENSORS`."""
    made = sensors.bcg(rng, drive, BCG_HZ, sensor=sensor)
    values, j_times = made.values, made.j_times_s
    rj_s = j_times - drive.beat_times_s
    grid_s = np.arange(len(drive.breathing)) / DRIVE_HZ
    respiration = np.interp(drive.beat_times_s, grid_s, drive.breathing)

    slow = np.convolve(rj_s, np.ones(300) / 300, mode="valid") if len(rj_s) > 300 else rj_s
    rj_slope = _slope(respiration, rj_s)
    breath_size = 2.0 * np.sqrt(2.0) * float(np.std(respiration))  # peak to peak of a sinusoid

    segment = round(SEGMENT_S * BCG_HZ)
    count = len(values) // segment
    frequency, power = signal.welch(
        values[: count * segment].reshape(count, segment), BCG_HZ, nperseg=round(10 * BCG_HZ)
    )
    heart_rms = np.sqrt(_power(frequency, power, 1.0, 8.0))
    moving = drive.movement[: count * round(SEGMENT_S * DRIVE_HZ)].reshape(count, -1).max(1) > 0
    flat = power.sum(1) == 0
    quiet = ~moving & ~flat
    if not quiet.any():
        quiet = ~flat
    median = np.median(power[quiet], axis=0)
    above = frequency >= 1.0
    heart_density = _power(frequency, power, 1.0, 8.0)[quiet] / 7.0
    ratio_db = 10.0 * np.log10(10.0 * heart_density / _power(frequency, power, 10.0, 20.0)[quiet])

    heart = bandpass(values, BCG_HZ, 1.0, 12.0)
    short = round(5.0 * BCG_HZ)
    level = np.sqrt((heart[: len(heart) // short * short].reshape(-1, short) ** 2).mean(1))
    lost = (level > 2.0 * np.median(level)) | (level < 0.1 * np.median(level))

    at = np.clip(np.rint(j_times * BCG_HZ).astype(int), 0, len(heart) - 1)
    sign = np.where(made.upright, 1.0, -1.0)
    kept = quiet[np.minimum(at // segment, count - 1)] & drive.beat_normal
    size = (sign * heart[at])[kept]
    size_slope = _slope(respiration[kept], size) / max(float(np.mean(size)), 1e-6)

    return {
        "spectrum peak": float(frequency[above][np.argmax(median[above])]),
        "share of 1-20 Hz in 1-8 Hz": float(
            _power(frequency, median, 1.0, 8.0) / _power(frequency, median, 1.0, 20.0)
        ),
        "RJ interval: mean": 1e3 * float(rj_s.mean()),
        "RJ interval: overnight range": 1e3 * float(np.ptp(np.percentile(slow, [2.5, 97.5]))),
        "RJ interval: breathing, peak to peak": 1e3 * abs(rj_slope) * breath_size,
        "breathing over heart: power density": float(
            median[(frequency >= 0.1) & (frequency <= 0.5)].max()
            / median[(frequency >= 1.0) & (frequency <= 8.0)].max()
        ),
        "breathing over heart: RMS": float(
            np.median(np.sqrt(_power(frequency, power, 0.1, 0.6))[quiet] / heart_rms[quiet])
        ),
        "breathing: correlation with a belt": _belt(drive, values, quiet),
        "beat size: modulation by breathing": abs(size_slope) * breath_size / 2.0,
        "SNR of the sensor": made.snr_db,
        "SNR as the SQI has it": float(np.median(ratio_db)),
        "share lost to movement": float(lost.mean()),
        "posture changes": float(made.posture.max()) / (drive.duration_s / 3600.0),
        **_intervals(j_times, j_peaks(Series.of(values, BCG_HZ)).times_s, drive.beat_times_s),
    }


def _power(frequency: NDArray, power: NDArray, low_hz: float, high_hz: float) -> NDArray:
    """Power in a band, of densities with frequency last."""
    inside = (frequency >= low_hz) & (frequency < high_hz)
    return power[..., inside].sum(-1) * (frequency[1] - frequency[0])


def _slope(x: NDArray, y: NDArray) -> float:
    centred = x - x.mean()
    return float((centred * y).sum() / max(float((centred**2).sum()), 1e-12))


def _belt(drive: Drive, values: NDArray, quiet: NDArray[np.bool_]) -> float:
    """Median over quiet segments of the correlation with breathing, at the best lag within 1 s."""
    each = round(BCG_HZ / DRIVE_HZ)
    coarse = values[: len(values) // each * each].reshape(-1, each).mean(1)
    belt = drive.breathing[: len(coarse)]
    size, lag = round(SEGMENT_S * DRIVE_HZ), round(DRIVE_HZ)
    x = bandpass(coarse, DRIVE_HZ, 0.1, 0.6)
    y = bandpass(belt, DRIVE_HZ, 0.1, 0.6)
    found = []
    for number in np.flatnonzero(quiet):
        start, stop = number * size, (number + 1) * size
        if start < lag or stop + lag > len(x):
            continue
        one = x[start:stop]
        others = [y[start + k : stop + k] for k in range(-lag, lag + 1)]
        found.append(max(abs(float(np.corrcoef(one, other)[0, 1])) for other in others))
    return float(np.median(found)) if found else float("nan")


def _intervals(
    j_times_s: NDArray, found_s: NDArray[np.float64], r_times_s: NDArray
) -> dict[str, float]:
    """Intervals between detections of successive beats, against RR."""
    beat, detection = matched(j_times_s, found_s)
    pair = (np.diff(beat) == 1) & (np.diff(detection) == 1)
    error_s = (np.diff(found_s[detection]) - np.diff(r_times_s[beat]))[pair]
    mean_s = float(np.abs(error_s).mean()) if len(error_s) else float("nan")
    return {
        "J peaks: intervals found": float(pair.sum()) / max(len(r_times_s) - 1, 1),
        "J peaks: interval error, MAE": 1e3 * mean_s,
    }
