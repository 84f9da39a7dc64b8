"""Two clocks: where a BCG's samples lie in the time of the ECG.

A bed sensor runs on its own clock, set by hand and driven by its own crystal. Both sensors see the
same heart, and the pattern of long and short intervals over some minutes is like no other of the
night. So the beats of the ECG, as a train of bumps, are correlated with the BCG's beat energy in
segments of `SEGMENT_S`; the lags of the segments that agree lie on a line, and its intercept and
slope are offset and drift.

The line holds the mean R-to-J delay as well: one constant cannot tell it from the offset. We take
it to be `RJ_S`, and a BCG is aligned to the beats that it shows, to within a person's own
deviation.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from kd_sleep.signals.filters import resample
from kd_sleep.signals.heartbeats import bcg_beat_energy

RATE_HZ = 25.0  # of the two traces that are correlated
SEGMENT_S = 300.0
RJ_S = 0.210  # mean R-to-J delay at rest
TOLERANCE_S = (
    0.15  # a segment agrees with the line when its lag is this near: half the shortest beat
)
MIN_AGREEING = 0.5  # share of the segments that must agree, else no clock can be told


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Sensor time = (true time - offset_s) * (1 + drift).

    Attributes:
      offset_s: true time at which the sensor's clock reads 0.
      drift: the sensor clock's rate error, 50e-6 for 50 ppm.
      residual_s: RMS distance of the agreeing segments' lags from the line.
      agreeing: share of the segments that agree, in [0, 1].
    """

    offset_s: float
    drift: float
    residual_s: float
    agreeing: float


class NoAlignment(ValueError):
    """The two signals share no pattern of beats within the search range."""


def _beat_train(beat_times_s: NDArray, samples: int) -> NDArray[np.float64]:
    """A bump of 80 ms at every beat, on the RATE_HZ grid, with zero mean."""
    train = np.zeros(samples)
    index = np.rint(beat_times_s * RATE_HZ).astype(np.int64)
    train[index[(index >= 0) & (index < samples)]] = 1.0
    width = np.arange(-8, 9) / RATE_HZ
    train = np.convolve(train, np.exp(-0.5 * (width / 0.08) ** 2), mode="same")
    return train - train.mean()


def align(
    beat_times_s: NDArray,
    bcg: NDArray,
    rate_hz: float,
    *,
    guess_s: float = 0.0,
    search_s: float = 120.0,
) -> Alignment:
    """Offset and drift of the BCG's clock against the clock of the beats.

    Args:
      beat_times_s: [M] R times, increasing.
      bcg: [n] samples, finite.
      rate_hz: nominal sampling rate of the BCG.
      guess_s: true time of the BCG's first sample as the files' headers have it.
      search_s: how far off the guess may be.

    Raises:
      NoAlignment: too few segments agree on any clock.
    """
    energy = resample(bcg_beat_energy(bcg, rate_hz), rate_hz, RATE_HZ)
    segment, margin = int(SEGMENT_S * RATE_HZ), int(search_s * RATE_HZ)
    true_samples = int((beat_times_s[-1] if len(beat_times_s) else 0.0) * RATE_HZ) + 1
    train = np.pad(_beat_train(beat_times_s, true_samples), margin)
    centres, lags = [], []
    for start in range(0, len(energy) - segment + 1, segment):
        piece = energy[start : start + segment]
        # `train` is padded by `margin`, so a lag of 0 in `reach` means guess_s - search_s.
        first = start + round(guess_s * RATE_HZ)
        reach = train[first : first + segment + 2 * margin] if first >= 0 else train[:0]
        if len(reach) < segment + margin or not piece.any():
            continue
        score = signal.correlate(reach, piece, mode="valid", method="fft")
        # Over the norm of the beats that it covers, so that a lead-off stretch cannot win.
        norm = np.sqrt(
            np.maximum(signal.fftconvolve(reach**2, np.ones(segment), mode="valid"), 1e-9)
        )
        score = score / np.maximum(norm, 0.2 * norm.max())
        peak = int(np.argmax(score))
        shift = 0.0
        if 0 < peak < len(score) - 1:
            left, middle, right = score[peak - 1 : peak + 2]
            curvature = left - 2 * middle + right
            shift = 0.5 * (left - right) / curvature if curvature < 0 else 0.0
        centres.append((start + segment / 2) / RATE_HZ)
        # The BCG's beat comes RJ_S after the R peak that it is matched with.
        lags.append((peak + shift) / RATE_HZ - search_s + guess_s + RJ_S)
    if len(lags) < 2:
        raise NoAlignment("less than ten minutes of BCG lie within the ECG's recording")
    centre_s, lag_s = np.array(centres), np.array(lags)

    # true = sensor + lag(sensor): the line most segments agree on, through every pair of them.
    i, j = np.triu_indices(len(lag_s), k=1)
    slope = (lag_s[j] - lag_s[i]) / (centre_s[j] - centre_s[i])
    possible = np.abs(slope) <= 300e-6
    if not possible.any():
        raise NoAlignment("no two segments agree on a clock")
    i, slope = i[possible], slope[possible]
    start_s = lag_s[i] - slope * centre_s[i]
    distance = np.abs(lag_s - (start_s[:, None] + slope[:, None] * centre_s))
    votes = (distance < TOLERANCE_S).sum(1)
    best = np.lexsort((np.minimum(distance, TOLERANCE_S).sum(1), -votes))[0]
    inside = distance[best] < TOLERANCE_S
    agreeing = float(inside.mean())
    if agreeing < MIN_AGREEING or inside.sum() < 3:
        raise NoAlignment(
            f"only {inside.sum()} of {len(lag_s)} five-minute segments agree on one clock"
        )
    fitted_slope, fitted_start = np.polyfit(centre_s[inside], lag_s[inside], 1)
    residual = lag_s[inside] - (fitted_start + fitted_slope * centre_s[inside])
    # true = start + (1 + slope) * sensor, hence drift = 1 / (1 + slope) - 1.
    return Alignment(
        offset_s=float(fitted_start),
        drift=float(1.0 / (1.0 + fitted_slope) - 1.0),
        residual_s=float(np.sqrt(np.mean(residual**2))),
        agreeing=agreeing,
    )


def to_true_clock(
    bcg: NDArray, rate_hz: float, alignment: Alignment, new_rate_hz: float, duration_s: float
) -> NDArray[np.float64]:
    """The BCG on the ECG's clock, [duration_s * new_rate_hz]; NaN where it has no samples."""
    uniform = resample(bcg, rate_hz, new_rate_hz)
    true_s = np.arange(round(duration_s * new_rate_hz)) / new_rate_hz
    sensor_s = (true_s - alignment.offset_s) * (1.0 + alignment.drift)
    clock = np.arange(len(uniform)) / new_rate_hz
    return np.interp(sensor_s, clock, uniform, left=np.nan, right=np.nan)
