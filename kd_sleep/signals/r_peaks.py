"""R peaks in an ECG."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd_sleep.extras import optional_packages
from kd_sleep.signals.quality import dead_samples

MIN_DEAD_S = 0.05  # a shorter gap is bridged: no beat can be invented in it
EDGE_S = 0.15  # beside lead-off, the detector's own window: what it sees there may be the edge
POLARITY_SIDE_S = 0.1  # around a beat: the QRS complex alone
LARGEST = 10.0  # times what the ECG spans in most blocks: beyond is damage, which the detector's
BLOCK_S = 2.0  # thresholds would follow, and miss the beats of minutes to come; one beat at least
REFINE_STEPS = 2  # samples from the detector's peak to the ECG's own, at most


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
    dead = dead_samples(ecg, rate_hz)
    if len(ecg) < 2 * rate_hz or dead.all():
        return np.empty(0)
    dead |= _spikes(ecg, rate_hz, dead)
    # A line from one side to the other has no edge that would upset the detector's thresholds.
    whole = ecg.astype(np.float64)
    if dead.any():
        clock = np.arange(len(ecg))
        whole[dead] = np.interp(clock[dead], clock[~dead], whole[~dead])
    if np.ptp(whole) == 0:
        return np.empty(0)
    peaks = _detected(whole, rate_hz)
    if _is_inverted(whole, rate_hz, peaks):
        whole = -whole
        peaks = _detected(whole, rate_hz)
    peaks = peaks[~_near(dead, rate_hz)[peaks]]
    return np.unique(_refined(whole, peaks) / rate_hz)


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
    whole = np.isfinite(blocks).all(1)
    spikes = np.zeros(len(ecg), bool)
    spans = np.ptp(blocks[whole], axis=1)  # no reach is above a span, or below half of one
    if whole.any() and spans.max() > LARGEST * np.percentile(0.5 * spans, 90):
        middle = np.median(blocks[whole], axis=1, keepdims=True)
        reach = np.abs(blocks[whole] - middle)
        far = np.zeros(blocks.shape, bool)
        far[whole] = reach > LARGEST * np.percentile(reach.max(1), 90)
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
    edges = np.flatnonzero(np.diff(dead, prepend=False, append=False))
    reach = round(EDGE_S * rate_hz)
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
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
    curvature = left - 2 * middle + right
    shift = np.divide(
        0.5 * (left - right), curvature, out=np.zeros(len(peaks)), where=curvature != 0
    )
    extremum = (middle - left) * (middle - right) > 0
    return np.where(extremum, peaks + np.clip(shift, -0.5, 0.5), np.asarray(peaks, np.float64))
