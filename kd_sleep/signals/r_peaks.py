"""R peaks in an ECG, and which of them are normal beats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd_sleep.extras import optional_packages
from kd_sleep.signals.filters import parabola
from kd_sleep.signals.timeseries import Series, runs

MIN_DEAD_S = 0.05  # a shorter gap is bridged: no beat can be invented in it
EDGE_S = 0.15  # beside lead-off, the detector's own window: what it sees there may be the edge
POLARITY_SIDE_S = 0.1  # around a beat: the QRS complex alone
LARGEST = 10.0  # times what the ECG spans in most blocks: beyond is damage, which the detector's
BLOCK_S = 2.0  # thresholds would follow, and miss the beats of minutes to come; one beat at least
REFINE_STEPS = 2  # samples from the detector's peak to the ECG's own, at most

BROAD = 0.5  # of the narrow beats' steepness for their size: a beat with less is ventricular
NARROW_PERCENTILE = 75  # of that ratio; in bigeminy half of the beats are broad
STEEP_S = 0.016  # over which a beat's steepest slope is taken,
QRS_SIDE_S = 0.06  # on either side of it
SWING_BLOCK_S = (
    0.032  # swings are judged on means of so long: QRS complexes shrink, broad ones stay
)
SWING = 0.4  # of a normal beat's largest swing: less between two beats is no beat
T_END = 0.6  # of the square root of the interval, in s: beyond it no T wave reaches
T_LONGEST_S = 1.6  # interval beyond which the T wave comes no later
AFTER_S, P_S = 0.2, 0.3  # of an interval's ends that belong to its beats: QRS complex, P wave
MOST_SWINGS = 2  # a T wave's two flanks; one of them may lie within `AFTER_S`


def r_peaks(ecg: NDArray, rate_hz: float) -> NDArray[np.float64]:
    """Times in seconds of the R peaks, by sleepecg's detector (a variant of Pan & Tompkins 1985).

    The detector looks for maxima, so a lead that is the wrong way round is turned first: one whose
    QRS complexes reach further down than up, judged once for the whole night. Otherwise it finds
    the S or Q wave, 30 ms off. The detector picks the sample; a parabola through the ECG's nearest
    maximum and its neighbours refines the time, which matters at SHHS's 125 Hz where a sample is
    8 ms, a third of a typical RMSSD.

    Where there is no ECG (missing samples, a flat line, a rail, spikes `LARGEST` times as high as
    the ECG) there are no beats; nor within `EDGE_S` of such a span, where the detector would take
    its edge for one.

    Args:
      ecg: [n] samples in any unit and of either polarity; NaN where missing.
      rate_hz: sampling rate, at least 50 Hz.

    Returns:
      [M] increasing times; empty where there is no heartbeat.
    """
    ecg = np.asarray(ecg)
    dead = Series.of(ecg, rate_hz).dead
    if len(ecg) < 2 * rate_hz or dead.all():
        return np.empty(0)
    dead |= _spikes(ecg, rate_hz, dead)
    # A line from one side to the other has no edge that would upset the detector's thresholds.
    filled = ecg.astype(np.float64)
    if dead.any():
        clock = np.arange(len(ecg))
        filled[dead] = np.interp(clock[dead], clock[~dead], filled[~dead])
    if np.ptp(filled) == 0:
        return np.empty(0)
    peaks = _detected(filled, rate_hz)
    if _is_inverted(filled, rate_hz, peaks):
        filled = -filled
        peaks = _detected(filled, rate_hz)
    peaks = peaks[~_near(dead, rate_hz)[peaks]]
    return np.unique(_refined(filled, peaks) / rate_hz)


def typed_beats(
    ecg: NDArray, rate_hz: float, times_s: NDArray, usable: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Beats with those that the detector seems to have missed, and which of them are normal.

    The detector's band, 5-30 Hz, is that of narrow QRS complexes: of ventricular beats, which are
    broad, it misses a third and more, and the intervals across them look like a slow, regular
    heart. So the ECG between two normal beats is searched in the band of broad ones, by differences
    d over 96 ms of means over 64 ms, in steps of 32 ms. There is a beat if |d| exceeds `SWING` of
    what it reaches at normal beats later than a T wave can be, or in more spells than a T wave has
    flanks. A found beat is ventricular by its steepness (largest difference over `STEEP_S`) for its
    |d|, against the night's narrow beats: an ECG whose beats are all broad has none.

    Args:
      ecg: [n] samples in any unit and of either polarity; NaN where missing.
      rate_hz: sampling rate, at least 50 Hz.
      times_s: [M] R peaks, increasing.
      usable: [M] whether the ECG around each can be relied on; others are not normal.

    Returns:
      [M + K] increasing times in s, K of them of missed beats; [M + K] False for these, for
      ventricular beats and for unusable ones.
    """
    size = round(SWING_BLOCK_S * rate_hz)
    hz, blocks = rate_hz / size, len(ecg) // size
    if not usable.any() or blocks < 16:
        return times_s, usable
    values = np.asarray(ecg, np.float32)
    means = values[: blocks * size].reshape(-1, size) @ np.full(size, 0.5 / size, np.float32)
    pairs = means[1:] + means[:-1]
    swing = np.zeros(blocks, np.float32)
    swing[2:-2] = pairs[3:] - pairs[:-3]

    def block(at_s: NDArray, margin: int = 0) -> NDArray[np.int64]:
        return np.clip(np.rint(at_s * hz).astype(np.int64), margin, blocks - 1 - margin)

    at_beat = block(times_s - 0.5 / hz, 3)
    size_of = np.fmax.reduce([np.abs(swing[at_beat + shift]) for shift in range(-3, 4)])
    side, step = round(QRS_SIDE_S * rate_hz), max(1, round(STEEP_S * rate_hz))
    centre = np.clip(np.rint(times_s * rate_hz).astype(np.int64), side, len(ecg) - side - 1)
    complexes = np.lib.stride_tricks.sliding_window_view(values, 2 * side + 1)[centre - side].T
    steepness = np.fmax.reduce(np.abs(complexes[step:] - complexes[:-step]))
    ratio = np.divide(steepness, size_of, out=np.zeros(len(times_s)), where=size_of > 0)
    normal = usable & (ratio >= BROAD * np.percentile(ratio[usable], NARROW_PERCENTILE))
    if not normal.any():
        return times_s, normal

    least = SWING * np.median(size_of[normal])
    way = (swing > least).astype(np.int8) - (swing < -least)
    moving = np.cumsum(way != 0, dtype=np.int32)
    swings = np.cumsum((way != 0) & (way != np.roll(way, 1)), dtype=np.int32)
    interval_s = np.diff(times_s)
    longer_s = np.minimum(np.maximum(interval_s, np.append(0.0, interval_s[:-1])), T_LONGEST_S)
    after, stop = block(times_s[:-1] + AFTER_S), block(times_s[1:] - P_S)
    late = np.minimum(block(times_s[:-1] + T_END * np.sqrt(longer_s)), stop)
    hidden = (moving[late] < moving[stop]) | (swings[stop] - swings[after] > MOST_SWINGS)
    hidden &= (stop > after) & normal[1:] & normal[:-1]
    missed_s = [
        (after[i] + np.argmax(np.abs(swing[after[i] : stop[i]])) + 0.5) / hz
        for i in np.flatnonzero(hidden)
    ]
    place = np.searchsorted(times_s, missed_s)
    return np.insert(times_s, place, missed_s), np.insert(normal, place, False)


def _detected(ecg: NDArray[np.float64], rate_hz: float) -> NDArray[np.int64]:
    with optional_packages():
        from sleepecg import detect_heartbeats

    peaks = np.asarray(detect_heartbeats(ecg, rate_hz), np.int64)
    margin = REFINE_STEPS + 1
    return peaks[(peaks >= margin) & (peaks < len(ecg) - margin)]


def _spikes(ecg: NDArray, rate_hz: float, dead: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Samples further from their block's median than `LARGEST` times what nine blocks in ten span.

    By blocks, so that a lead with a wandering offset has none.
    """
    size = round(BLOCK_S * rate_hz)
    blocks = np.where(dead, np.nan, ecg)[: len(ecg) // size * size].reshape(-1, size)
    intact = np.isfinite(blocks).all(1)
    spikes = np.zeros(len(ecg), bool)
    spans = np.ptp(blocks[intact], axis=1)  # no reach is above a span, or below half of one
    if intact.any() and spans.max() > LARGEST * np.percentile(0.5 * spans, 90):
        middle = np.median(blocks[intact], axis=1, keepdims=True)
        reach = np.abs(blocks[intact] - middle)
        far = np.zeros(blocks.shape, bool)
        far[intact] = reach > LARGEST * np.percentile(reach.max(1), 90)
        spikes[: far.size] = far.ravel()
    at = np.flatnonzero(spikes)
    for index in np.flatnonzero(np.diff(at) <= EDGE_S * rate_hz):  # between two is no heart either
        spikes[at[index] : at[index + 1]] = True
    return spikes


def _is_inverted(ecg: NDArray[np.float64], rate_hz: float, peaks: NDArray[np.int64]) -> bool:
    """Whether the median QRS complex reaches further down from its median than up."""
    side = round(POLARITY_SIDE_S * rate_hz)
    peaks = peaks[(peaks >= side) & (peaks < len(ecg) - side)]
    if len(peaks) == 0:
        return False
    around = np.lib.stride_tricks.sliding_window_view(ecg, 2 * side + 1)[peaks - side]
    middle = np.median(around, axis=1)
    return bool(np.median(middle - around.min(1)) > np.median(around.max(1) - middle))


def _near(dead: NDArray[np.bool_], rate_hz: float) -> NDArray[np.bool_]:
    """Samples in, or within `EDGE_S` of, a dead span of `MIN_DEAD_S` or more."""
    near = np.zeros(len(dead), bool)
    reach = round(EDGE_S * rate_hz)
    for start, stop in zip(*runs(dead), strict=True):
        if stop - start >= MIN_DEAD_S * rate_hz:
            near[max(start - reach, 0) : stop + reach] = True
    return near


def _refined(ecg: NDArray[np.float64], peaks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Samples and fractions of the maxima at the peaks; a clipped peak stays where it was found."""
    for _ in range(REFINE_STEPS):
        left, middle, right = (ecg[peaks + step] for step in (-1, 0, 1))
        higher = np.where(right > left, 1, -1)
        peaks = peaks + np.where(np.maximum(left, right) > middle, higher, 0)
    left, middle, right = (ecg[peaks + step] for step in (-1, 0, 1))
    shift, _ = parabola(left, middle, right)
    extremum = (middle - left) * (middle - right) > 0
    return np.where(extremum, peaks + shift, np.asarray(peaks, np.float64))
