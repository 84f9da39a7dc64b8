"""How good a signal is, from itself alone: the SNR of BCG windows, the usable parts of an ECG.

An ECG is judged in segments of 10 s after Orphanidou et al. 2015, "Signal-quality indices for the
electrocardiogram and photoplethysmogram", https://doi.org/10.1109/JBHI.2014.2338351: a segment is
usable if a heart could beat as its R peaks say, and its beats look alike. Departures, since a
sleep cohort has arrhythmias and whole nights where theirs had minutes of wearables:

  - no limit on the ratio of longest to shortest interval (2.2), which ectopic beats and atrial
    fibrillation break on a perfect signal;
  - rates up to 200 a minute rather than 40-180, and no lower limit but that no gap between beats
    exceeds 3 s: athletes sleep below 40;
  - the template is not the segment's own mean, which noise resembles as well, but the mean of some
    ten minutes, in which a beat counts the more the better it resembles the night's median beat;
  - it covers 0.5 s around R, not a median interval, so that it is the same at any rate;
  - lead-off is looked for by itself: missing samples, a flat line, a rail.

Clipped R peaks alone do not make a segment unusable: they are still beats, at the same times.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from kd_sleep.schema import WINDOW_S
from kd_sleep.signals.timeseries import Series

SEGMENT_S = 10.0  # a third of a window
MIN_CORRELATION = 0.66  # mean over a segment's beats, with the template; from Orphanidou
MAX_BEATS_PER_MIN = 200.0  # intervals of 0.3 s
MAX_BEAT_GAP_S = 3.0  # from Orphanidou: no more than one beat is missed
MAX_DEAD = 0.1  # share of a segment without ECG
BEAT_SIDE_S = 0.25  # of the template, before and after R: the QRS complex, P and T in part
TEMPLATE_SEGMENTS = 61  # that a rolling template is over: some 600 beats
RESEMBLANCE_POWER = 4  # beats of noise, at 0.3-0.5, weigh a tenth of others at most


def snr_db(windows_NS: NDArray, rate_hz: float) -> NDArray[np.float64]:
    """10 log10(P[1-8 Hz] / P[10-20 Hz]) per window; 8-10 Hz is left out.

    By Welch's method with 4-s Hann segments. Powers are means over each band's frequencies, so
    white noise gives 0 dB.

    Args:
      windows_NS: [N, S] samples, each window at least 4 s.
      rate_hz: sampling rate, above 40 Hz.

    Returns:
      [N] dB; NaN for a constant window.
    """
    size = round(4 * rate_hz)
    frames_NFS = np.lib.stride_tricks.sliding_window_view(windows_NS, size, axis=-1)
    frames_NFS = frames_NFS[:, :: size - size // 2]
    centred = (frames_NFS - frames_NFS.mean(-1, keepdims=True)).astype(np.float32)
    centred *= signal.windows.hann(size, sym=False).astype(np.float32)
    spectrum = fft.rfft(centred, axis=-1)
    power = (spectrum.real**2 + spectrum.imag**2).mean(1)
    if size % 2 == 0:
        power[:, -1] *= 0.5  # Nyquist has no negative twin
    frequency = fft.rfftfreq(size, 1 / rate_hz)
    heart = power[:, (frequency >= 1.0) & (frequency <= 8.0)].mean(-1, dtype=np.float64)
    noise = power[:, (frequency >= 10.0) & (frequency <= 20.0)].mean(-1, dtype=np.float64)
    tiny = 1e-12 * (power.max(initial=0.0) + 1e-30)
    ratio = np.divide(heart, noise, out=np.full(len(heart), np.nan), where=noise > tiny)
    return 10.0 * np.log10(ratio)


def ecg_quality(
    ecg: NDArray, rate_hz: float, beat_times_s: NDArray, windows: int
) -> NDArray[np.float32]:
    """Share of each 30-s window whose ECG is usable: 0, 1/3, 2/3 or 1, by its 10-s segments.

    Args:
      ecg: [n] samples in any unit and of either polarity; NaN where missing.
      rate_hz: sampling rate, at least 50 Hz.
      beat_times_s: [M] R peaks, increasing.
      windows: number of windows N.

    Returns:
      [N] in [0, 1]; 0 for windows beyond the ECG's end.
    """
    return usable_share(ecg_usable(ecg, rate_hz, beat_times_s), windows)


def usable_share(usable: NDArray[np.bool_], windows: int) -> NDArray[np.float32]:
    """Segments, as `ecg_usable` has them, to the share of each of N windows; 0 beyond their end."""
    per_window = round(WINDOW_S / SEGMENT_S)
    padded = np.zeros(windows * per_window, np.float32)
    padded[: len(usable)] = usable[: len(padded)]
    return padded.reshape(windows, per_window).mean(1)


def ecg_usable(ecg: NDArray, rate_hz: float, beat_times_s: NDArray) -> NDArray[np.bool_]:
    """Which segments of `SEGMENT_S` have an ECG whose beats can be relied on.

    A segment is usable if at most `MAX_DEAD` of it is dead, its beats come at a plausible rate
    without a gap beyond `MAX_BEAT_GAP_S`, and correlate with the template by `MIN_CORRELATION`.

    Args:
      ecg: [n] samples in any unit and of either polarity; NaN where missing.
      rate_hz: sampling rate, at least 50 Hz.
      beat_times_s: [M] R peaks, increasing.

    Returns:
      [ceil(n / rate_hz / SEGMENT_S)]; the last one is judged by what there is of it.
    """
    segments = int(np.ceil(round(len(ecg) / rate_hz / SEGMENT_S, 6)))
    beats = np.asarray(beat_times_s)
    beats = beats[(beats >= 0) & (beats < len(ecg) / rate_hz)]
    if segments == 0 or len(beats) == 0:
        return np.zeros(segments, bool)
    edges_s = np.minimum(np.arange(segments + 1) * SEGMENT_S, len(ecg) / rate_hz)
    duration_s = np.diff(edges_s)
    segment = np.minimum((beats // SEGMENT_S).astype(np.int64), segments - 1)
    count = np.bincount(segment, minlength=segments)
    plausible = count <= np.ceil(duration_s * MAX_BEATS_PER_MIN / 60.0)
    # From a segment's start over its beats to its end.
    marks = np.sort(np.concatenate([beats, edges_s]))
    gaps = np.maximum.reduceat(np.diff(marks), np.searchsorted(marks, edges_s[:-1]))
    first = np.rint(edges_s[:-1] * rate_hz).astype(np.int64)
    dead = np.add.reduceat(Series.of(ecg, rate_hz).dead, first, dtype=np.int64) / rate_hz
    alike = _mean_correlation(ecg, rate_hz, beats, segment, count)
    return (
        plausible
        & (gaps <= MAX_BEAT_GAP_S)
        & (dead <= MAX_DEAD * duration_s)
        & (alike >= MIN_CORRELATION)
    )


def in_usable(usable: NDArray[np.bool_], times_s: NDArray) -> NDArray[np.bool_]:
    """Which times lie in a segment that is usable, as `ecg_usable` has it; False beyond its end."""
    index = (np.asarray(times_s) // SEGMENT_S).astype(np.int64)
    inside = (index >= 0) & (index < len(usable))
    return inside & np.append(usable, False)[np.where(inside, index, -1)]


def _mean_correlation(
    ecg: NDArray,
    rate_hz: float,
    beat_times_s: NDArray,
    segment: NDArray[np.int64],
    count: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Mean correlation of each segment's beats with the rolling template; 0 where there are none.

    Args:
      ecg: [n] samples.
      rate_hz: sampling rate.
      beat_times_s: [M] R peaks, increasing, within the ECG.
      segment: [M] number of the segment that each beat lies in.
      count: number of beats in each segment.
    """
    side = max(2, round(BEAT_SIDE_S * rate_hz))
    width = 2 * side + 1
    centre = np.rint(beat_times_s * rate_hz).astype(np.int64)
    padded = np.pad(np.asarray(ecg, np.float32), side)
    shapes = np.lib.stride_tricks.sliding_window_view(padded, width)[
        np.minimum(centre, len(ecg) - 1)
    ]
    shapes[~np.isfinite(shapes).all(1)] = 0.0
    # Less its straight line, which is the baseline's wander.
    line = np.stack([np.ones(width), np.linspace(-1, 1, width)], 1)
    line = (line / np.linalg.norm(line, axis=0)).astype(np.float32)
    shapes -= (shapes @ line) @ line.T
    shapes /= np.maximum(np.linalg.norm(shapes, axis=1, keepdims=True), 1e-12)

    starts = np.concatenate([[0], np.cumsum(count)])
    # One beat of each segment: noise has more beats a minute than a heart, but not more votes.
    night = np.median(shapes[starts[:-1][count > 0]], axis=0)
    night /= max(float(np.linalg.norm(night)), 1e-12)
    weight = np.maximum(shapes @ night, 0.0)[:, None] ** RESEMBLANCE_POWER
    total = np.concatenate([np.zeros((1, width)), np.cumsum(weight * shapes, axis=0)])
    reach = TEMPLATE_SEGMENTS // 2
    number = np.arange(len(count))
    last = starts[np.minimum(number + reach + 1, len(count))]
    template = (total[last] - total[starts[np.maximum(number - reach, 0)]]).astype(np.float32)
    template /= np.maximum(np.linalg.norm(template, axis=1, keepdims=True), 1e-12)
    correlation = np.einsum("mw,mw->m", shapes, template[segment])
    return np.bincount(segment, correlation, len(count)) / np.maximum(count, 1)
