"""R peaks in an ECG, and a trace of heartbeats in a BCG."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd_sleep.signals.filters import bandpass, moving_sd


def r_peaks(ecg: NDArray, rate_hz: float) -> NDArray[np.float64]:
    """Times in seconds of the R peaks, by sleepecg's detector (a variant of Pan & Tompkins 1985).

    The detector picks the sample; a parabola through it and its neighbours refines the time, which
    matters at SHHS's 125 Hz where a sample is 8 ms, a third of a typical RMSSD.

    Args:
      ecg: [n] samples in any unit and of either polarity; not finite samples count as 0.
      rate_hz: sampling rate, at least 50 Hz.

    Returns:
      [M] increasing times; empty where there is no heartbeat.
    """
    from sleepecg import detect_heartbeats

    ecg = np.nan_to_num(np.asarray(ecg, np.float64), posinf=0.0, neginf=0.0)
    if len(ecg) < 2 * rate_hz or np.ptp(ecg) == 0:
        return np.empty(0)
    peaks = np.asarray(detect_heartbeats(ecg, rate_hz), np.int64)
    peaks = peaks[(peaks > 0) & (peaks < len(ecg) - 1)]
    left, middle, right = (ecg[peaks + step] for step in (-1, 0, 1))
    curvature = left - 2 * middle + right
    shift = np.divide(
        0.5 * (left - right), curvature, out=np.zeros(len(peaks)), where=curvature != 0
    )
    extremum = (middle - left) * (middle - right) > 0
    return np.unique((peaks + np.where(extremum, np.clip(shift, -0.5, 0.5), 0.0)) / rate_hz)


def bcg_beat_energy(bcg: NDArray, rate_hz: float) -> NDArray[np.float64]:
    """[n] envelope of the heartbeat band of a BCG: a bump at every beat, movement held down.

    Band-pass 2-10 Hz where the IJK complex lives, magnitude, low-pass at 3 Hz, divided by its own
    spread over 10 s, so that gain, polarity and posture drop out; clipped, so that a movement
    weighs no more than a beat.
    """
    envelope = bandpass(np.abs(bandpass(bcg, rate_hz, 2.0, 10.0)), rate_hz, None, 3.0)
    spread = moving_sd(envelope, rate_hz, 10.0)
    floor = 0.05 * np.median(spread) + 1e-12
    centred = envelope - bandpass(envelope, rate_hz, None, 0.3)
    return np.clip(centred / np.maximum(spread, floor), -2.0, 3.0)
