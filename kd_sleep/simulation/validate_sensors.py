"""Simulated ECG and BCG against published figures, one row of the table each.

Each statistic is taken once a night, as a study would take it, from signals alone where a study has
signals alone; the table has the median over nights and the 5th and 95th percentiles. The RJ
interval is known exactly here, so its rows are the sensors' own intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from kd_sleep.signals.filters import bandpass
from kd_sleep.signals.j_peaks import j_peaks
from kd_sleep.signals.timeseries import Series
from kd_sleep.simulation import sensors
from kd_sleep.simulation.physiology import DRIVE_HZ, Drive
from kd_sleep.simulation.validation import Statistic

ECG_HZ, BCG_HZ = 125.0, 100.0
TOLERANCE_S = 0.150  # between a beat and its detection, as in ANSI/AAMI EC57
SEGMENT_S = 30.0
PRESETS = ("film", "load_cell")

# What is published of each statistic: unit, range that counts as agreeing, words, source, note.
PUBLISHED: dict[str, tuple[str, tuple[float, float], str, str, str]] = {
    "R peaks: sensitivity": (
        "", (0.99, 1.0), "above 0.99 on MIT-BIH", "sleepecg, Pan & Tompkins", "lead-off left out"
    ),
    "R peaks: positive predictive value": (
        "", (0.99, 1.0), "above 0.99 on MIT-BIH", "sleepecg, Pan & Tompkins", "lead-off left out"
    ),
    "R peaks: median timing error": (
        "ms", (0.0, 4.0), "half a sample at 125 Hz", "unsourced", "parabola through the peak"
    ),
    "spectrum peak": (
        "Hz", (1.0, 8.0), "heartbeat energy in 1-8 Hz", "design notes; ECG-BCG pair (aydnzn)", ""
    ),
    "share of 1-20 Hz in 1-8 Hz": (
        "", (0.7, 1.0), "0.98 at the seat back in 20 s of rest", "ECG-BCG pair (aydnzn)", ""
    ),
    "RJ interval: mean": (
        "ms", (180.0, 240.0), "about 210, 180-240 at rest", "design notes; Etemadi 2011", ""
    ),
    "RJ interval: overnight range": (
        "ms", (40.0, 80.0), "40-80", "design notes", "2.5th-97.5th percentile of 5-min means"
    ),
    "RJ interval: breathing, peak to peak": (
        "ms", (10.0, 20.0), "10-20", "design notes", "regression on breathing"
    ),
    "breathing over heart: power density": (
        "", (10.0, 100.0), "10-100; 30 at the seat back", "design notes; ECG-BCG pair (aydnzn)",
        "peaks below 0.5 Hz and in 1-8 Hz",
    ),
    "breathing over heart: RMS": (
        "", (1.0, 10.0), "3.2 at the seat back", "ECG-BCG pair (aydnzn)",
        "0.1-0.6 Hz over 1-8 Hz; one person, 20 s",
    ),
    "breathing: correlation with a belt": (
        "", (0.61, 0.88), "0.61, 0.76, 0.88 by three methods",
        "Mattress sensor by unsupervised clustering, IEEE Access 2023", "",
    ),
    "beat size: modulation by breathing": (
        "", (0.10, 0.30), "0.10-0.30; of cuff pulses 0.14", "design notes, unsourced; Chen 2015",
        "half of peak to peak, over the mean",
    ),
    "SNR of the sensor": ("dB", (-2.0, 14.0), "none", "unsourced", "drawn, 1-8 Hz"),
    "SNR as the SQI has it": (
        "dB", (0.0, 20.0), "20 at the seat back; above 6 dB J peaks are reliable",
        "ECG-BCG pair (aydnzn); design notes", "densities in 1-8 over 10-20 Hz",
    ),
    "share lost to movement": (
        "", (0.04, 0.20), "12 % removed; 7 % not covered", "Kortelainen; Migliorini 2014", ""
    ),
    "posture changes": ("1/h", (0.9, 2.3), "1.6 ± 0.7", "Skarpsno 2017, PMC5677378", ""),
    "J peaks: intervals found": (
        "", (0.54, 0.93), "54 % (46 home nights), 65 % (apnoea), 91 % (bed posts), 93 % (lab)",
        "Paalasmaa 2015; PMC5640641; 10.3109/03091902.2013.807523; Migliorini 2014",
        "median of 12 nights; with other people it is 0.84-0.93",
    ),
    "J peaks: interval error, MAE": (
        "ms", (5.0, 46.0), "13 (54 % found), 34 (lab), 46 (home)", "Paalasmaa 2015; PMC11704055", ""
    ),
}  # fmt: skip


def sensor_statistics(nights: Sequence[Drive], rng: np.random.Generator) -> list[Statistic]:
    """The table's rows for ECG and for the BCG of each preset.

    Args:
      nights: of some hours each.
      rng: draws the sensors.

    Raises:
      ValueError: there are no nights.
    """
    if not nights:
        raise ValueError("no nights to take statistics of")
    rows = _rows("ecg", "", [ecg_statistics(drive, rng) for drive in nights])
    for preset in PRESETS:
        found = [bcg_statistics(drive, rng, preset) for drive in nights]
        rows += _rows("bcg", preset.replace("_", " "), found)
    return rows


def _rows(group: str, sensor: str, nights: Sequence[dict[str, float]]) -> list[Statistic]:
    rows = []
    for name in nights[0]:
        values = np.array([night[name] for night in nights])
        values = values[np.isfinite(values)]
        if len(values) == 0:
            raise ValueError(f"{name}: not to be had from any night; are they too short?")
        unit, published, said, source, note = PUBLISHED[name]
        low, middle, high = (float(v) for v in np.percentile(values, [5, 50, 95]))
        label = f"{name} ({sensor})" if sensor else name
        rows.append(
            Statistic(group, label, unit, middle, (low, high), published, said, source, note)
        )
    return rows


def ecg_statistics(drive: Drive, rng: np.random.Generator) -> dict[str, float]:
    """How sleepecg's detector finds the beats of a simulated ECG in 8 bits."""
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


def bcg_statistics(drive: Drive, rng: np.random.Generator, sensor: str) -> dict[str, float]:
    """One night's BCG of a preset, in the words of `PUBLISHED`."""
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
    whole = len(values) // each * each
    coarse = values[:whole].reshape(-1, each).mean(1)
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
