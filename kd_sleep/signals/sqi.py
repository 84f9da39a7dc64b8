"""Signal SQI: how far a BCG can be relied on, from itself alone, in segments of 10 s.

The article's measures: the ratio of power in 1-8 to that in 10-20 Hz, and the likeness of a
segment's beats to a rolling template of 20 clean ones, aligned at J and of one size; besides them
movement, saturation and dropout. Beats are those of `j_peaks`; nothing here is learned.

Departures from the article:

  - "The last 20 clean beats" are another posture's after a turn in bed, which would make the first
    beats after it look bad, though they are as good as any. So a segment has two templates, the 20
    clean beats before and the 20 after each beat, and the one that it is more like counts. In this
    way 40 beats judge a segment, the number that makes a template dependable (Bicen & Inan); they
    come from anywhere within `REACH_S`, across windows. Where fewer are near, `template_beats`
    says so.
  - Breathing is taken out first. It is some 30 dB above the beats, and what the spectrum's taper
    leaks of it into 1-8 Hz would count as heart.
  - The three thresholds do not cut: each measure goes through a logistic curve, which has them at
    named places, so that the score ranks segments on either side of a threshold, too.

What the thresholds are worth on a given BCG is for `beats_against_snr` to tell. On simulated nights
at rest, above 6 dB 0.2-2 % of beats are missed and 0.1-0.4 % of J peaks are false: reliable, as the
article says. Its lower threshold is lenient there: 82 % are missed already at 0-3 dB, and hardly a
segment is below 0. The ratio compares 1-8 with 10-20 Hz, so that noise that rises towards low
frequencies, as that sensor's does, reads 2 dB without any heart.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

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
MATCH_S = 0.15  # a beat is found if a J peak lies within; chance finds a third
NEAR_S = 0.05  # of a J peak that is where it should be
SNR_EDGES_DB = (-np.inf, 0.0, 3.0, 6.0, 9.0, 12.0, np.inf)


@dataclasses.dataclass(frozen=True)
class SignalQuality:
    """Signal SQI per segment of 10 s, or per window of 30 s.

    Attributes:
      snr_db: [S] 10 log10(P[1-8 Hz] / P[10-20 Hz]); NaN where half and more is missing.
      correlation: [S] mean of the beats with their template; NaN where there is no beat or no
        template.
      template_beats: [S] clean beats that the templates are made of: 0, 20, or 40, which are
        dependable; of a window the least.
      movement, saturation, dropout: [S] share of the time. What lies beyond the recording's end is
        dropout.
      score: [S] in [0, 1], higher is better.
    """

    snr_db: NDArray[np.float64]
    correlation: NDArray[np.float64]
    template_beats: NDArray[np.int64]
    movement: NDArray[np.float64]
    saturation: NDArray[np.float64]
    dropout: NDArray[np.float64]
    score: NDArray[np.float64]

    def reliable(
        self, snr_db: float = RELIABLE_SNR_DB, correlation: float = HEALTHY_CORRELATION
    ) -> NDArray[np.bool_]:
        """[S] the article's rule: both thresholds reached, and next to nothing spoilt."""
        spoilt = np.maximum(np.maximum(self.movement, self.saturation), self.dropout)
        return (self.snr_db >= snr_db) & (self.correlation >= correlation) & (spoilt <= MAX_SPOILT)

    def by_window(self, windows: int) -> SignalQuality:
        """The first N windows of 30 s: means of their three segments, of the known ones for dB and
        correlation. Beyond the recording's end all is dropout, and the score is 0.
        """
        per_window = round(WINDOW_S / SEGMENT_S)

        def folded(values: NDArray, beyond: float) -> NDArray:
            whole = np.full(windows * per_window, beyond, values.dtype)
            whole[: len(values)] = values[: len(whole)]
            return whole.reshape(windows, per_window)

        return SignalQuality(
            snr_db=_mean_of_known(folded(self.snr_db, np.nan)),
            correlation=_mean_of_known(folded(self.correlation, np.nan)),
            template_beats=folded(self.template_beats, 0).min(1),
            movement=folded(self.movement, 0.0).mean(1),
            saturation=folded(self.saturation, 0.0).mean(1),
            dropout=folded(self.dropout, 1.0).mean(1),
            score=folded(self.score, 0.0).mean(1),
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
        none = np.empty(0)
        return SignalQuality(none, none, np.empty(0, np.int64), none, none, none, none)
    flat, saturated = stuck(bcg)
    whole = bcg.without(flat | saturated)
    dropped = whole.missing & ~saturated
    calm = bandpass(whole.values, rate_hz, BREATH_HZ, None, BREATH_ORDER)
    heart = bandpass(calm, rate_hz, *HEART_HZ)
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
    ratio_db = np.where(known, snr_db(by_segment(calm, 0.0), rate_hz), np.nan)
    moving_SN = _moving(by_segment(heart, 0.0), rate_hz, known)
    found = j_peaks(bcg) if beats is None else beats
    correlation, template_beats = _likeness(heart, rate_hz, found.times_s, moving_SN, dropped)

    movement = moving_SN.mean(1)
    intact = (1.0 - movement) * (1.0 - saturation) * (1.0 - dropout)
    # 0.1 at the lower and 0.9 at the upper SNR threshold; 0.1 for noise's likeness, 0.5 at 0.7.
    middle_db = 0.5 * (RELIABLE_SNR_DB + POOR_SNR_DB)
    of_snr = _logistic(2 * (ratio_db - middle_db) / (RELIABLE_SNR_DB - POOR_SNR_DB))
    margin = HEALTHY_CORRELATION - NOISE_CORRELATION
    of_likeness = _logistic((correlation - HEALTHY_CORRELATION) / margin)
    return SignalQuality(
        ratio_db,
        correlation,
        template_beats,
        movement,
        saturation,
        dropout,
        intact * np.sqrt(of_snr * of_likeness),
    )


def _logistic(x: NDArray) -> NDArray[np.float64]:
    """From 0.1 at -1 over 0.5 at 0 to 0.9 at 1; 0 for NaN, what is unknown is not good."""
    return np.nan_to_num(1.0 / (1.0 + 9.0 ** -np.clip(x, -99.0, 99.0)), nan=0.0)


def _mean_of_known(values_NK: NDArray) -> NDArray[np.float64]:
    known = np.isfinite(values_NK)
    count = known.sum(1)
    total = np.where(known, values_NK, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(values_NK), np.nan), where=count > 0)


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
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Correlation of each segment's beats with the better of its two templates; their beats.

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
    at = np.rint(times_s * rate_hz).astype(np.int64)
    clean = ~moving_SN[segment, second] & ~dropped[at]
    clean_s = times_s[clean]
    total_CK = np.zeros((len(clean_s) + 1, len(offset_s)))
    np.cumsum(shapes_MK[clean], axis=0, out=total_CK[1:])
    earlier = np.cumsum(clean) - clean  # clean beats before each one
    later = earlier + clean

    correlation_S2 = np.full((segments, 2), np.nan)
    beats_S2 = np.zeros((segments, 2), np.int64)
    for side, (first, last) in enumerate(
        ((earlier - TEMPLATE_BEATS, earlier), (later, later + TEMPLATE_BEATS))
    ):
        there = np.flatnonzero((first >= 0) & (last <= len(clean_s)))
        farthest_s = clean_s[first[there]] if side == 0 else clean_s[last[there] - 1]
        there = there[np.abs(farthest_s - times_s[there]) <= REACH_S]
        template_MK = total_CK[last[there]] - total_CK[first[there]]
        template_MK /= np.maximum(np.linalg.norm(template_MK, axis=1, keepdims=True), 1e-12)
        alike = np.einsum("mk,mk->m", shapes_MK[there], template_MK)
        count = np.bincount(segment[there], minlength=segments)
        total = np.bincount(segment[there], alike, minlength=segments)
        np.divide(total, count, out=correlation_S2[:, side], where=count > 0)
        beats_S2[:, side] = np.where(count > 0, TEMPLATE_BEATS, 0)
    return np.fmax(correlation_S2[:, 0], correlation_S2[:, 1]), beats_S2.sum(1)


@dataclasses.dataclass(frozen=True)
class BeatsAtSnr:
    """What became of the beats in segments whose SNR lies in [low_db, high_db).

    Attributes:
      segments: how many.
      beats: true J peaks in them.
      missed: share of these without a J peak found within `MATCH_S`, one to one.
      peaks: J peaks found in them.
      false: share of these that belong to no beat.
      near: share of these within `NEAR_S` of the beat that they belong to.
      score: mean signal SQI.
    """

    low_db: float
    high_db: float
    segments: int
    beats: int
    missed: float
    peaks: int
    false: float
    near: float
    score: float


def beats_against_snr(
    nights: Iterable[tuple[Series, NDArray[np.float64]]],
    edges_db: Sequence[float] = SNR_EDGES_DB,
    calm: bool = False,
) -> list[BeatsAtSnr]:
    """What SNR thresholds mean on given nights: beats missed and J peaks to be relied on.

    Args:
      nights: BCG and the true J peaks [M], in s from its first sample, of each night.
      edges_db: of the rows, increasing.
      calm: leave out segments with any movement, saturation or dropout.

    Returns:
      One row for each pair of edges; shares of nothing are NaN. `snr_table` writes them out.
    """
    columns: list[NDArray] = []
    for bcg, j_times_s in nights:
        beats = j_peaks(bcg)
        quality = signal_sqi(bcg, beats)
        segments = len(quality.score)
        owner, distance_s = _matched_beats(beats.times_s, j_times_s)
        right, was_found = owner >= 0, np.zeros(len(j_times_s), bool)
        was_found[owner[right]] = True

        def count(times_s: NDArray, which: NDArray, segments: int = segments) -> NDArray:
            index = np.clip(times_s[which] // SEGMENT_S, 0, segments - 1).astype(np.int64)
            return np.bincount(index, minlength=segments)

        spoilt = quality.movement + quality.saturation + quality.dropout
        columns.append(
            np.stack(
                [
                    np.where((spoilt > 0) & calm, np.nan, quality.snr_db),
                    quality.score,
                    count(j_times_s, np.ones(len(j_times_s), bool)),
                    count(j_times_s, ~was_found),
                    count(beats.times_s, np.ones(len(right), bool)),
                    count(beats.times_s, ~right),
                    count(beats.times_s, right & (distance_s <= NEAR_S)),
                ]
            )
        )
    ratio_db, *rest = np.concatenate(columns, axis=1) if columns else np.empty((7, 0))
    table = []
    for low_db, high_db in itertools.pairwise(edges_db):
        within = (ratio_db >= low_db) & (ratio_db < high_db)
        score, true, missed, peaks, false, near = (float(row[within].sum()) for row in rest)
        segments = int(within.sum())

        def share(part: float, whole: float) -> float:
            return part / whole if whole else float("nan")

        table.append(
            BeatsAtSnr(
                low_db,
                high_db,
                segments,
                int(true),
                share(missed, true),
                int(peaks),
                share(false, peaks),
                share(near, peaks),
                share(score, segments),
            )
        )
    return table


def snr_table(rows: Iterable[BeatsAtSnr]) -> str:
    """The rows of `beats_against_snr` as lines of text; `-` stands for a share of nothing."""
    lines = ["  SNR, dB      segments    beats  missed %    peaks  false %  in 50 ms %  score"]
    for row in rows:
        span = f"{row.low_db:g} to {row.high_db:g}".replace("-inf to", "below")
        span = f"from {row.low_db:g}" if row.high_db == np.inf else span
        shares = [
            "-" if np.isnan(value) else f"{100 * value:.1f}"
            for value in (row.missed, row.false, row.near)
        ]
        score = "-" if np.isnan(row.score) else f"{row.score:.2f}"
        lines.append(
            f"  {span:12}{row.segments:9}{row.beats:9}{shares[0]:>10}{row.peaks:9}"
            f"{shares[1]:>9}{shares[2]:>13}{score:>7}"
        )
    return "\n".join(lines)


def _matched_beats(
    times_s: NDArray[np.float64], j_times_s: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The true beat that each J peak belongs to, -1 for none; and their distance."""
    if not len(times_s) or not len(j_times_s):
        return np.full(len(times_s), -1), np.full(len(times_s), np.inf)
    # J peaks are at least two MATCH_S apart, so no beat has two.
    nearest = np.rint(np.interp(times_s, j_times_s, np.arange(len(j_times_s)))).astype(np.int64)
    distance_s = np.abs(times_s - j_times_s[nearest])
    return np.where(distance_s < MATCH_S, nearest, -1), distance_s
