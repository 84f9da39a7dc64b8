"""Heartbeats in a BCG: a trace of their energy, and the J peaks of a whole night without an ECG.

How `j_peaks` goes about it, on the night in blocks of `BLOCK_S`, all at once:

1. Band-pass, divide by the level around, leave out movements, dropouts and gaps.
2. The beats' envelope repeats itself: its short-time autocorrelation gives the local interval.
   Complexes are slow on some sensors, quick on others: of two bands, the one whose envelope repeats
   itself more is taken. Bumps of it in a row that keeps to the interval are the beats, roughly.
3. Their mean is the block's template: aligned anew on itself, and joined with those neighbours that
   look alike. Posture changes a beat's shape and sign, and a template does not outlive it.
4. The template is a matched filter. Of its peaks, the row is taken that fits best: likelihood of
   each beat less what its interval departs from the local one (Viterbi over candidates). Where
   nothing fits there is a gap: a beat that is not there is not made up.

The idea of an interval from self-similarity is that of Brüser et al., IEEE TITB 15 (2011) 778; the
interval here only guides the search for single beats. No part is learned from data; the few
constants were set on simulated nights.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from kd_sleep.signals.filters import bandpass, moving_sd, parabola
from kd_sleep.signals.resampling import on_grid
from kd_sleep.signals.timeseries import Series

RATE_HZ = 50.0  # inside j_peaks; the heartbeat band ends at 10 Hz
QUICK_HZ, SLOW_HZ = (2.0, 10.0), (1.5, 5.0)  # bands of complexes above some 4 Hz, and below
BLOCK_S = 60.0  # one template each: some 60 beats, where 40 make a dependable one
MARGIN_S = 4.0  # a block sees this much of its neighbours
BEFORE, AFTER = 15, 25  # samples of a template before and behind its middle: 0.3 and 0.5 s
SEARCH = 6  # samples by which a beat's envelope may lie off: 0.12 s
FRAME_HZ = 12.5  # of the envelope's autocorrelation
FRAME_S, HOP_S = 10.0, 2.5
SHORTEST_S, LONGEST_S = 0.4, 1.68  # heart rates from 36 to 150 bpm
MIN_SIMILAR = 0.1  # the night's mean autocorrelation there: 0.06 in noise, 0.13 and more at -2 dB
SIMILAR_ENOUGH = 0.3  # with this much in the quick band, the slow one is not tried
MOVING, DEAD = 2.5, 0.15  # of the level around; beyond these there is no beat to be seen
ROUGH_LOG_SD, LOG_SD = 0.3, 0.12  # of an interval about the local one: of bumps, and of beats
TAIL = 4.0  # degrees of freedom of its Student distribution: breathing moves some beats far
GAP_COST = 3.0  # in log-likelihood: what leaving a gap costs
PREDECESSORS = 8  # candidates before one that may be the beat before it
ALIKE = 0.7  # a healthy beat correlates above this with its template
SOFTEN = 0.1  # of a log-likelihood: noise is not white, and beats differ in size
# A ring between two beats matches by half: without a limit, nothing would outweigh it in a clean
# signal. A lower one would take the heart's freedom in atrial fibrillation.
MOST_WEIGHT = 12.0
# By the mean correlation of a block's beats: the share that lay at a true beat, on simulated nights
# at 10, 3 and 0 dB. Chance alone gives a third.
CONFIDENCE_AT = (0.475, 0.525, 0.575, 0.625, 0.675, 0.725, 0.775, 0.85)
CONFIDENCE = (0.33, 0.41, 0.54, 0.75, 0.90, 0.95, 0.97, 0.99)
CLOSEST_S = 0.3  # no two beats are nearer


@dataclasses.dataclass(frozen=True)
class Beats:
    """Heartbeats of a BCG.

    Attributes:
      times_s: [M] J peaks, increasing.
      correlation: [M] of each beat with its template, at most 1; a healthy beat is above 0.7.
      confidence: [M] chance that a heartbeat lies there, by the mean correlation of the minute's
        beats. It takes for granted that there is a heart: in a minute of noise amid a night with
        one, it may reach 0.75. Minutes below 0.5 are left out.
    """

    times_s: NDArray[np.float64]
    correlation: NDArray[np.float64]
    confidence: NDArray[np.float64]


_NO_BEATS = Beats(np.empty(0), np.empty(0), np.empty(0))


def beat_energy(bcg: NDArray, rate_hz: float) -> NDArray[np.float64]:
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


def j_peaks(bcg: Series) -> Beats:
    """The heartbeats of a BCG alone; none in gaps and movements, nor where nothing fits.

    None at all where no beat-to-beat interval shows in the recording as a whole.

    Args:
      bcg: in any unit, of any offset and either polarity, at 25 Hz at least; 50 and more serve
        best. Times are from its first sample.

    Raises:
      ValueError: the rate leaves no heartbeat band.
    """
    if bcg.rate_hz < 25.0:
        raise ValueError(f"{bcg.rate_hz:g} Hz leave no heartbeat band; at least 25 Hz are needed")
    if bcg.duration_s < FRAME_S:
        return _NO_BEATS
    uniform = on_grid(bcg[:], RATE_HZ)
    values, gap = uniform.values, uniform.near_missing(0.5)
    view = _view(values, gap, *QUICK_HZ)
    if view.similar < SIMILAR_ENOUGH:
        view = max(view, _view(values, gap, *SLOW_HZ), key=lambda either: either.similar)
    if view.similar < MIN_SIMILAR:
        return _NO_BEATS
    heart, blind, envelope = view.heart, view.blind, view.envelope
    frame_s, interval_s = _local_interval(view.similar_FL, view.usual)
    heart_BN, envelope_BN = np.ascontiguousarray(_blocks(heart)), _blocks(envelope)
    blind_BN = _blocks(blind, True)
    starts_B = np.arange(len(heart_BN)) * BLOCK_S - MARGIN_S

    def row_of_beats(
        score_BN: NDArray, floor: float, offset: float, weight_B: NDArray, log_sd: float
    ) -> tuple[NDArray, NDArray]:
        """Block and time in it of the peaks that make the best row of beats."""
        times_BK, peaks_BK = _candidates(score_BN, floor)
        expected_BK = np.interp(times_BK + starts_B[:, None], frame_s, interval_s)
        gain_BK = weight_B[:, None] * (np.minimum(peaks_BK, offset + 0.8) - offset)
        block, number = np.nonzero(_best_row(times_BK, gain_BK, expected_BK, log_sd))
        return block, times_BK[block, number]

    spread_B = np.sqrt((envelope_BN**2).mean(1)) + 1e-6
    bump_BN, weight_B = envelope_BN / spread_B[:, None], np.full(len(heart_BN), 2.0)
    block, times = row_of_beats(bump_BN, 0.0, 0.3, weight_B, ROUGH_LOG_SD)
    template_BK, snr_B = _templates(heart_BN, blind_BN, block, times)
    energy_B = (template_BK**2).sum(1) + 1e-6
    # 1 where a beat of the template's own size lies; in white noise, the log-likelihood of such a
    # beat against none is snr * (match - 1/2).
    match_BN = _matched(heart_BN, template_BK) / energy_B[:, None]
    match_BN[blind_BN] = -1.0
    weight_B = np.minimum(SOFTEN * snr_B, MOST_WEIGHT)
    block, times = row_of_beats(match_BN, 0.25, 0.4, weight_B, LOG_SD)

    at = np.rint(times * RATE_HZ).astype(np.int64)
    power_BN = ndimage.uniform_filter1d(
        heart_BN**2, BEFORE + AFTER, axis=1, origin=(BEFORE - AFTER) // 2
    )
    norm = np.sqrt(energy_B[block] * (BEFORE + AFTER) * np.maximum(power_BN[block, at], 1e-9))
    correlation = np.clip(match_BN[block, at] * energy_B[block] / norm, 0.0, 1.0)
    count_B = np.bincount(block, minlength=len(heart_BN))
    mean_B = np.bincount(block, correlation, minlength=len(heart_BN)) / np.maximum(count_B, 1)
    confidence = np.interp(mean_B, CONFIDENCE_AT, CONFIDENCE)[block]
    kept = (times > MARGIN_S - 0.15) & (times < MARGIN_S + BLOCK_S + 0.15) & (confidence >= 0.5)
    times = starts_B[block] + times + _anchor_s(template_BK)[block]
    return _without_doubles(times[kept], correlation[kept], confidence[kept])


def _smooth(values: NDArray) -> NDArray[np.float32]:
    """Low-pass at some 3 Hz: two moving means of 0.14 s."""
    return ndimage.uniform_filter1d(ndimage.uniform_filter1d(values, 7), 7)


@dataclasses.dataclass(frozen=True)
class _View:
    """A BCG in one band; n samples at RATE_HZ, F frames of HOP_S, L lags at FRAME_HZ.

    Attributes:
      heart: [n] in units of the level around.
      blind: [n] where no beat can be seen.
      envelope: [n] of `heart`, less its moving mean.
      similar_FL: autocorrelation of the envelope around each frame.
      usual: lag of the night's beat interval.
      similar: highest peak of the night's mean of `similar_FL`; 0 where it has none.
    """

    heart: NDArray[np.float32]
    blind: NDArray[np.bool_]
    envelope: NDArray[np.float32]
    similar_FL: NDArray[np.float32]
    usual: int
    similar: float


def _view(values: NDArray, gap: NDArray, low_hz: float, high_hz: float) -> _View:
    """The BCG in a band, and how much it repeats itself there."""
    heart, blind = _heartbeat_band(values, gap, low_hz, high_hz)
    envelope = _smooth(np.abs(heart))
    envelope -= ndimage.uniform_filter1d(envelope, int(2 * RATE_HZ))
    envelope[blind] = 0.0
    similar_FL = _autocorrelation(envelope)
    return _View(heart, blind, envelope, similar_FL, *_usual_interval(similar_FL))


def _heartbeat_band(
    values: NDArray, gap: NDArray, low_hz: float, high_hz: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A band of the BCG in units of the level around; and where no beat can be seen.

    The level is the median over some minutes of the RMS over 1.5 s. Where the RMS is far above it
    the sleeper moves; where it is far below, the sensor is dead.
    """
    heart = bandpass(values, RATE_HZ, low_hz, high_hz)
    step = int(0.5 * RATE_HZ)
    count = len(heart) // step
    power = (heart[: count * step].reshape(count, step) ** 2).mean(1)
    rms = np.sqrt(np.maximum(ndimage.uniform_filter1d(power, 3), 0.0))
    per_block = min(60, count)
    blocks = count // per_block
    level = np.median(rms[: blocks * per_block].reshape(blocks, per_block), axis=1)
    level = ndimage.median_filter(level, min(3, blocks), mode="nearest")
    usual = np.median(level[level > 0]) if (level > 0).any() else 1.0
    usual = max(usual, 1e-9 * np.abs(values).max())  # less is rounding
    level = np.interp(np.arange(count), (np.arange(blocks) + 0.5) * per_block, level)
    level = np.maximum(level, 0.05 * usual)
    blind = (rms > MOVING * level) | (rms < DEAD * level)
    blind = ndimage.maximum_filter1d(blind, 3)
    tail = len(heart) - count * step
    level = np.append(np.repeat(level, step), np.full(tail, level[-1]))
    blind = np.append(np.repeat(blind, step), np.full(tail, blind[-1])) | gap
    return np.where(blind, 0.0, np.clip(heart / level, -6.0, 6.0)).astype(np.float32), blind


def _autocorrelation(envelope: NDArray) -> NDArray[np.float32]:
    """[F, L] of the envelope around each frame, at lags from 0 on; 1 at 0."""
    size, hop = int(FRAME_S * FRAME_HZ) + 1, int(HOP_S * FRAME_HZ)
    lags = int(LONGEST_S * FRAME_HZ) + 4
    padded = np.pad(envelope[:: int(RATE_HZ / FRAME_HZ)], size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    taper = np.hanning(size)
    frames = (frames - frames.mean(1, keepdims=True)) * taper.astype(np.float32)
    points = fft.next_fast_len(size + lags, real=True)
    spectrum = fft.rfft(frames, points, axis=1)
    similar = fft.irfft(spectrum.real**2 + spectrum.imag**2, points, axis=1)[:, :lags]
    of_taper = np.correlate(taper, taper, "full")[size - 1 : size - 1 + lags]
    similar /= np.maximum(similar[:, :1], 1e-9) * (of_taper / of_taper[0]).astype(np.float32)
    return ndimage.uniform_filter1d(similar, 9, axis=0, mode="nearest")


def _usual_interval(similar_FL: NDArray) -> tuple[int, float]:
    """The night's beat interval as a lag, and the height of the highest peak; 0 without a peak.

    Two intervals of an even heart may be more alike than one. But half of one falls between two
    beats, half of two on a beat: the peak that rises most above its half is the interval.
    """
    night = similar_FL.mean(0)
    lag = np.arange(int(SHORTEST_S * FRAME_HZ), int(LONGEST_S * FRAME_HZ) + 1)
    height = night[lag]
    is_peak = (height > night[lag - 1]) & (height >= night[lag + 1])
    rise = height - np.interp(0.5 * lag, np.arange(len(night)), night)
    usual = lag[np.argmax(np.where(is_peak, rise, -np.inf))]
    return int(usual), float(np.max(height, where=is_peak, initial=0.0))


def _local_interval(
    similar_FL: NDArray, usual: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Beat interval every HOP_S, looked for around the night's: times and intervals."""
    shortest, longest = int(SHORTEST_S * FRAME_HZ), int(LONGEST_S * FRAME_HZ)
    first = max(shortest, int(0.7 * usual))
    last = min(longest + 2, int(np.ceil(1.4 * usual)))
    peak = first + np.argmax(similar_FL[:, first : last + 1], axis=1)
    row = np.arange(len(peak))
    shift, _ = parabola(*(similar_FL[row, peak + step] for step in (-1, 0, 1)))
    interval = ndimage.median_filter((peak + shift) / FRAME_HZ, 5, mode="nearest")
    interval = ndimage.uniform_filter1d(interval, 3, mode="nearest")
    return row * int(HOP_S * FRAME_HZ) / FRAME_HZ, interval


def _blocks(values: NDArray, outside: float = 0.0) -> NDArray:
    """[B, N] blocks of BLOCK_S with a margin at either side, `outside` beyond the ends."""
    block, margin = int(BLOCK_S * RATE_HZ), int(MARGIN_S * RATE_HZ)
    count = -(-len(values) // block)
    padded = np.full(count * block + 2 * margin, outside, values.dtype)
    padded[margin : margin + len(values)] = values
    return np.lib.stride_tricks.sliding_window_view(padded, block + 2 * margin)[::block]


def _candidates(score_BN: NDArray, floor: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Peaks above a floor: [B, K] times in s and heights; a block with fewer ends in NaN, -inf."""
    inner = score_BN[:, 1:-1]
    is_peak = (inner > score_BN[:, :-2]) & (inner >= score_BN[:, 2:]) & (inner > floor)
    block, at = np.nonzero(is_peak)
    shift, height = parabola(*(score_BN[block, at + step] for step in (0, 1, 2)))
    count_B = is_peak.sum(1)
    number = np.arange(len(block)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
    shape = (len(score_BN), max(int(count_B.max()), 1))
    times_BK, heights_BK = np.full(shape, np.nan), np.full(shape, -np.inf)
    times_BK[block, number] = (at + 1 + shift) / RATE_HZ
    heights_BK[block, number] = height
    return times_BK, heights_BK


def _best_row(
    times_BK: NDArray, gain_BK: NDArray, interval_BK: NDArray, log_sd: float
) -> NDArray[np.bool_]:
    """[B, K] which candidates make the row with most gain, less the cost of odd intervals.

    Viterbi's algorithm over the candidates of all blocks at once. A candidate follows one of the
    PREDECESSORS before it, at a cost that grows with the log ratio of their distance to the local
    interval; or, at GAP_COST, any beat earlier than 1.2 intervals, or none.
    """
    blocks, count = times_BK.shape
    padded = np.pad(times_BK, ((0, 0), (PREDECESSORS, 0)), constant_values=np.nan)
    before_BKP = np.lib.stride_tricks.sliding_window_view(padded, PREDECESSORS, axis=1)[:, :count]
    ratio = ((times_BK[:, :, None] - before_BKP) / interval_BK[:, :, None]).astype(np.float32)
    ratio[np.isnan(ratio)] = 0.0
    cost = np.log1p((np.log(np.maximum(ratio, 0.1)) / log_sd) ** 2 / TAIL) * (0.5 * (TAIL + 1.0))
    cost[(ratio < 0.6) | (ratio > 1.5)] = np.inf
    far = ratio > 1.2
    cost[far] = np.minimum(cost[far], GAP_COST)
    cost_KPB = np.ascontiguousarray(cost.transpose(1, 2, 0))
    gain_KB = np.ascontiguousarray(gain_BK.T, np.float32)

    total_KB = np.full((PREDECESSORS + count, blocks), -np.inf, np.float32)
    came_from_KB = np.empty((count, blocks), np.int64)
    earlier_B, earlier_at_B = np.zeros(blocks, np.float32), np.full(blocks, -1)
    column = np.arange(blocks)
    for k in range(count):
        option_PB = total_KB[k : k + PREDECESSORS] - cost_KPB[k]
        which_B = np.argmax(option_PB, axis=0)
        near_B = option_PB[which_B, column]
        after_gap_B = earlier_B - GAP_COST
        total_KB[k + PREDECESSORS] = gain_KB[k] + np.maximum(near_B, after_gap_B)
        came_from_KB[k] = np.where(near_B >= after_gap_B, k + which_B - PREDECESSORS, earlier_at_B)
        higher = total_KB[k] > earlier_B  # too early now to be one of the next's predecessors
        earlier_B = np.where(higher, total_KB[k], earlier_B)
        earlier_at_B = np.where(higher, k - PREDECESSORS, earlier_at_B)

    chosen = np.zeros((blocks, count), bool)
    at_B = np.argmax(total_KB[PREDECESSORS:], axis=0)
    at_B = np.where(total_KB[PREDECESSORS + at_B, column] > 0, at_B, -1)
    while (at_B >= 0).any():
        row = np.flatnonzero(at_B >= 0)
        chosen[row, at_B[row]] = True
        at_B[row] = came_from_KB[at_B[row], row]
    return chosen


def _mean_beats(
    heart_BN: NDArray, block: NDArray, at: NDArray
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """[B, K] mean of the beats of each block, `at` increasing within one; and their number."""
    windows = np.lib.stride_tricks.sliding_window_view(heart_BN, BEFORE + AFTER, axis=1)
    edges = np.searchsorted(block, np.arange(len(heart_BN) + 1))
    count = np.diff(edges)
    mean = np.zeros((len(heart_BN), BEFORE + AFTER))
    if full := np.flatnonzero(count).tolist():
        picked = windows[block, at - BEFORE]
        sums = np.add.reduceat(picked, edges[full], axis=0, dtype=np.float64)
        mean[full] = sums / count[full, None]
    return mean.astype(np.float32), count


def _templates(
    heart_BN: NDArray, blind_BN: NDArray, block: NDArray, times: NDArray
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """[B, K] template of each block, and its energy over the noise of a sample.

    The beats are aligned to their mean, twice. A neighbour within two blocks whose template looks
    alike, moved by up to 0.1 s, joins in: that steadies the shape, and with it the point on it that
    stands for the beat, where noise is strong.
    """
    at = np.rint(times * RATE_HZ).astype(np.int64)
    for _ in range(2):
        room = (at >= BEFORE + 2 * SEARCH) & (at < heart_BN.shape[1] - AFTER - 2 * SEARCH)
        block, at = block[room], at[room]
        mean_BK, count_B = _mean_beats(heart_BN, block, at)
        windows = np.lib.stride_tricks.sliding_window_view(
            heart_BN, BEFORE + AFTER + 2 * SEARCH, axis=1
        )[block, at - BEFORE - SEARCH]
        of_beat = mean_BK[block]
        fit = [
            np.einsum("mk,mk->m", windows[:, step : step + BEFORE + AFTER], of_beat)
            for step in range(2 * SEARCH + 1)
        ]
        at = at + np.argmax(fit, axis=0) - SEARCH
    mean_BK, count_B = _mean_beats(heart_BN, block, at)

    seen_B = np.maximum((~blind_BN).sum(1), 1)
    power_B = (heart_BN**2).sum(1) / seen_B
    energy_B = (mean_BK**2).sum(1) + 1e-6

    def snr(energy_B: NDArray) -> NDArray[np.float64]:
        noise_B = np.maximum(power_B - energy_B * count_B / seen_B, 0.1 * power_B + 1e-9)
        return np.maximum(energy_B / noise_B, 1e-3)

    weight_B = snr(energy_B) * count_B
    sum_BK, total_B = mean_BK * weight_B[:, None], weight_B.copy()
    rows, moves = np.arange(len(mean_BK)), 5
    for step in (-2, -1, 1, 2):
        other = rows + step
        there = (other >= 0) & (other < len(rows))
        other = other.clip(0, len(rows) - 1)
        moved = np.lib.stride_tricks.sliding_window_view(
            np.pad(mean_BK[other], ((0, 0), (moves, moves))), BEFORE + AFTER, axis=1
        )
        alike = np.einsum("blk,bk->bl", moved, mean_BK)
        alike /= np.sqrt(energy_B * energy_B[other])[:, None]
        which = np.argmax(alike, axis=1)
        share = np.where(there & (alike[rows, which] > ALIKE), 0.7 * weight_B[other], 0.0)
        sum_BK += share[:, None] * moved[rows, which]
        total_B += share
    template_BK = (sum_BK / np.maximum(total_B, 1e-9)[:, None]).astype(np.float32)
    return template_BK, snr((template_BK**2).sum(1))


def _matched(heart_BN: NDArray, template_BK: NDArray) -> NDArray[np.float32]:
    """[B, N] sum over k of heart[n - BEFORE + k] * template[k]."""
    samples = heart_BN.shape[1]
    points = fft.next_fast_len(samples + BEFORE + AFTER, real=True)
    spectrum = fft.rfft(heart_BN, points, axis=1) * fft.rfft(template_BK, points, axis=1).conj()
    return np.roll(fft.irfft(spectrum, points, axis=1), BEFORE, axis=1)[:, :samples]


def _anchor_s(template_BK: NDArray) -> NDArray[np.float64]:
    """J on each template, from its middle: the largest wave, whichever its sign."""
    size = np.abs(template_BK)
    peak = np.argmax(size[:, 1:-1], axis=1) + 1
    row = np.arange(len(peak))
    shift, _ = parabola(size[row, peak - 1], size[row, peak], size[row, peak + 1])
    return (peak - BEFORE + shift) / RATE_HZ


def _without_doubles(times: NDArray, correlation: NDArray, confidence: NDArray) -> Beats:
    """In order of time, and of two that are nearer than CLOSEST_S the better one.

    Two blocks may both have the beat at their border.
    """
    order = np.argsort(times)
    while True:
        close = np.flatnonzero(np.diff(times[order]) < CLOSEST_S)
        if not len(close):
            return Beats(times[order], correlation[order], confidence[order])
        first_is_better = correlation[order[close]] >= correlation[order[close + 1]]
        order = np.delete(order, close + first_is_better)
