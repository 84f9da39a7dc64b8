"""Signal SQI: how far a BCG can be relied on, from itself alone, in segments of 10 s.

The article's measures: the ratio of power in 1-8 to that in 10-20 Hz, and the likeness of a
segment's beats to a rolling template of 20 clean ones, aligned at J and of one size; besides them
movement, saturation and dropout. Beats are those of `j_peaks`; nothing here is learned.

Departures from the article:

  - "The last 20 clean beats" are another posture's after a turn in bed, which would make the first
    beats after it look bad, though they are as good as any. So a beat has two templates, the 20
    clean beats before and the 20 after it, and the one that its segment is more like counts. They
    come from anywhere within `REACH_S`, across windows.
  - Breathing is taken out first. It is some 30 dB above the beats, and what the spectrum's taper
    leaks of it into 1-8 Hz would count as heart.
  - Each measure goes through a logistic curve that has the thresholds at named places, so that the
    score ranks segments on either side of a threshold, too.

On simulated nights at rest, above 6 dB 0.2-2 % of beats are missed and 0.1-0.4 % of J peaks are
false. The article's lower threshold is lenient there: 82 % are missed already at 0-3 dB, and hardly
a segment is below 0, since the sensors' noise rises towards low frequencies.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kd_sleep.schema import LOWEST_BCG_HZ, WINDOW_S
from kd_sleep.signals.filters import bandpass
from kd_sleep.signals.j_peaks import AFTER, BEFORE, DEAD, MOVING, RATE_HZ, Beats, j_peaks
from kd_sleep.signals.quality import SEGMENT_S, snr_db
from kd_sleep.signals.timeseries import Series, stuck

RELIABLE_SNR_DB = 6.0  # the article: above it, J peaks are reliable
POOR_SNR_DB = 0.0  # the article: below it, more than 40 % of beats are missed
HEALTHY_CORRELATION = 0.7  # the article: of a healthy beat with its template
NOISE_CORRELATION = 0.4  # of noise with it, since J is put where they are alike
MAX_SPOILT = 0.1  # share of a reliable segment that may be moving, saturated or missing
TEMPLATE_BEATS = 20  # at either side
REACH_S = 120.0  # beats further away than this are not part of a template
BREATH_HZ, BREATH_ORDER = 0.7, 4  # breathing lies below: it is some 30 dB above the beats
HEART_HZ = 1.0, 8.0
LEVEL_SEGMENTS = 31  # of the median that movement is measured against: some 5 minutes


@dataclasses.dataclass(frozen=True)
class SignalQuality:
    """Signal SQI per segment of 10 s, or per window of 30 s.

    Attributes:
      snr_db: [S] 10 log10(P[1-8 Hz] / P[10-20 Hz]); NaN where half and more is missing.
      correlation: [S] mean of the beats with their template; NaN where there is no beat or no
        template.
      movement, saturation, dropout: [S] share of the time. What lies beyond the recording's end is
        dropout.
      score: [S] in [0, 1], higher is better.
    """

    snr_db: NDArray[np.float64]
    correlation: NDArray[np.float64]
    movement: NDArray[np.float64]
    saturation: NDArray[np.float64]
    dropout: NDArray[np.float64]
    score: NDArray[np.float64]

    def reliable(self) -> NDArray[np.bool_]:
        """[S] the article's rule: both thresholds reached, and next to nothing spoilt."""
        spoilt = np.maximum(np.maximum(self.movement, self.saturation), self.dropout)
        good = (self.snr_db >= RELIABLE_SNR_DB) & (self.correlation >= HEALTHY_CORRELATION)
        return good & (spoilt <= MAX_SPOILT)

    def by_window(self, windows: int) -> SignalQuality:
        """The first N windows of 30 s: means of their three segments, of the known ones for dB and
        correlation. Beyond the recording's end all is dropout, and the score is 0.
        """
        per_window = round(WINDOW_S / SEGMENT_S)

        def folded(values: NDArray, beyond: float) -> NDArray[np.float64]:
            padded = np.full(windows * per_window, beyond)
            padded[: len(values)] = values[: len(padded)]
            known = np.isfinite(padded).reshape(windows, per_window)
            total = np.where(known, padded.reshape(known.shape), 0.0).sum(1)
            count = known.sum(1)
            return np.divide(total, count, out=np.full(windows, np.nan), where=count > 0)

        beyond = {"snr_db": np.nan, "correlation": np.nan, "dropout": 1.0}
        return SignalQuality(
            **{
                field.name: folded(getattr(self, field.name), beyond.get(field.name, 0.0))
                for field in dataclasses.fields(self)
            }
        )


def signal_sqi(bcg: Series, beats: Beats | None = None) -> SignalQuality:
    """Quality of a BCG in segments of `SEGMENT_S`; the last one is filled up with dropout.

    Gain, offset and polarity do not matter.

    Args:
      bcg: in any unit, at `LOWEST_BCG_HZ` at least.
      beats: what `j_peaks` found in it, where that is known already.

    Raises:
      ValueError: the rate leaves no 10-20 Hz to compare with.
    """
    rate_hz = bcg.rate_hz
    if rate_hz < LOWEST_BCG_HZ:
        raise ValueError(
            f"{rate_hz:g} Hz leave no 10-20 Hz to compare with; at least {LOWEST_BCG_HZ:g} Hz are"
            " needed"
        )
    segments = int(np.ceil(round(bcg.duration_s / SEGMENT_S, 6)))
    if segments == 0:
        return SignalQuality(*[np.empty(0)] * 6)
    flat, saturated = stuck(bcg)
    filled = bcg.without(flat | saturated)
    dropped = filled.missing & ~saturated
    without_breath = bandpass(filled.values, rate_hz, BREATH_HZ, None, BREATH_ORDER)
    heart = bandpass(without_breath, rate_hz, *HEART_HZ)
    # Segments of a whole number of samples; where the rate has none they are out by less than one.
    size = round(SEGMENT_S * rate_hz)

    def by_segment(samples: NDArray, beyond: float) -> NDArray:
        if len(samples) == segments * size:
            return samples.reshape(segments, size)
        first = np.rint(np.arange(segments) * SEGMENT_S * rate_hz).astype(np.int64)
        short = max(0, first[-1] + size - len(samples))
        padded = np.pad(samples, (0, short), constant_values=beyond)
        return padded[first[:, None] + np.arange(size)]

    dropout = by_segment(dropped, True).mean(1)
    saturation = by_segment(saturated, False).mean(1)
    known = dropout + saturation < 0.5
    ratio_db = np.where(known, snr_db(by_segment(without_breath, 0.0), rate_hz), np.nan)
    moving_SN = _moving(by_segment(heart, 0.0), rate_hz, known)
    found = j_peaks(bcg) if beats is None else beats
    correlation = _likeness(heart, rate_hz, found.times_s, moving_SN, dropped)

    movement = moving_SN.mean(1)
    intact = (1.0 - movement) * (1.0 - saturation) * (1.0 - dropout)
    # 0.1 at the lower and 0.9 at the upper SNR threshold; 0.1 for noise's likeness, 0.5 at 0.7.
    middle_db = 0.5 * (RELIABLE_SNR_DB + POOR_SNR_DB)
    of_snr = _logistic(2 * (ratio_db - middle_db) / (RELIABLE_SNR_DB - POOR_SNR_DB))
    margin = HEALTHY_CORRELATION - NOISE_CORRELATION
    of_likeness = _logistic((correlation - HEALTHY_CORRELATION) / margin)
    score = intact * np.sqrt(of_snr * of_likeness)
    return SignalQuality(ratio_db, correlation, movement, saturation, dropout, score)


def _logistic(x: NDArray) -> NDArray[np.float64]:
    """From 0.1 at -1 over 0.5 at 0 to 0.9 at 1; 0 for NaN, what is unknown is not good."""
    return np.nan_to_num(1.0 / (1.0 + 9.0 ** -np.clip(x, -99.0, 99.0)), nan=0.0)


def _moving(heart_SN: NDArray, rate_hz: float, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[S, 10] which seconds shake by MOVING times the level of the minutes around."""
    seconds = round(SEGMENT_S)
    edges = np.rint(np.arange(seconds) * rate_hz).astype(np.int64)
    counts = np.diff(edges, append=heart_SN.shape[1])
    rms = np.sqrt(np.add.reduceat(heart_SN**2, edges, axis=1) / counts)
    of_segment = np.where(known, np.median(rms, axis=1), np.nan)
    if not known.any():
        return np.zeros(rms.shape, bool)
    # Gaps take the level beside them, so that they do not lower it.
    clock = np.arange(len(rms))
    of_segment = np.interp(clock, clock[known], of_segment[known])
    level = ndimage.median_filter(of_segment, min(LEVEL_SEGMENTS, len(rms)), mode="nearest")
    usual = max(float(np.median(level)), 1e-12)
    return rms > MOVING * np.maximum(level, DEAD * usual)[:, None]


def _likeness(
    heart: NDArray,
    rate_hz: float,
    times_s: NDArray[np.float64],
    moving_SN: NDArray[np.bool_],
    dropped: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """[S] correlation of each segment's beats with the better of its two templates.

    Args:
      heart: [n] samples, 1-8 Hz.
      rate_hz: sampling rate.
      times_s: [M] J peaks, increasing.
      moving_SN: [S, 10] seconds of movement.
      dropped: [n] samples of dropout.
    """
    segments = len(moving_SN)
    offset_s = np.arange(-BEFORE, AFTER) / RATE_HZ
    inside = (times_s + offset_s[0] >= 0) & (times_s + offset_s[-1] < (len(heart) - 1) / rate_hz)
    times_s = times_s[inside]
    segment = np.minimum((times_s // SEGMENT_S).astype(np.int64), segments - 1)
    # Between samples by straight lines: at 50 Hz, half a sample off costs several hundredths.
    exact = (times_s[:, None] + offset_s) * rate_hz
    index = exact.astype(np.int64)
    part = (exact - index).astype(np.float32)
    heart = heart.astype(np.float32)
    left_MK = heart[index]
    shapes_MK = left_MK + part * (heart[index + 1] - left_MK)
    shapes_MK -= shapes_MK.mean(1, keepdims=True)
    shapes_MK /= np.maximum(np.linalg.norm(shapes_MK, axis=1, keepdims=True), 1e-12)

    second = np.minimum((times_s - segment * SEGMENT_S).astype(np.int64), moving_SN.shape[1] - 1)
    clean = ~moving_SN[segment, second] & ~dropped[np.rint(times_s * rate_hz).astype(np.int64)]
    clean_s = times_s[clean]
    total_CK = np.zeros((len(clean_s) + 1, len(offset_s)))
    np.cumsum(shapes_MK[clean], axis=0, out=total_CK[1:])
    earlier = np.cumsum(clean) - clean  # clean beats before each one
    later = earlier + clean

    def mean_likeness(first: NDArray, last: NDArray, farthest: NDArray) -> NDArray[np.float64]:
        """With the clean beats from `first` to `last`, if the `farthest` is near enough."""
        there = np.flatnonzero((first >= 0) & (last <= len(clean_s)))
        there = there[np.abs(clean_s[farthest[there]] - times_s[there]) <= REACH_S]
        template_MK = total_CK[last[there]] - total_CK[first[there]]
        template_MK /= np.maximum(np.linalg.norm(template_MK, axis=1, keepdims=True), 1e-12)
        alike = np.einsum("mk,mk->m", shapes_MK[there], template_MK)
        count = np.bincount(segment[there], minlength=segments)
        total = np.bincount(segment[there], alike, minlength=segments)
        return np.divide(total, count, out=np.full(segments, np.nan), where=count > 0)

    first, last = earlier - TEMPLATE_BEATS, later + TEMPLATE_BEATS
    return np.fmax(mean_likeness(first, earlier, first), mean_likeness(later, last, last - 1))
