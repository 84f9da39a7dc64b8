"""Heartbeats to what the teacher sees: NN intervals, a tachogram per window, HRV per window.

RR is any interval between two beats; NN is one between normal beats, after cleaning. No step
rebuilds the clock by adding intervals up: an interval sits at the time of the beat that ends it,
and where beats are missing the tachogram is missing too.

Definitions follow the Task Force of the ESC and NASPE 1996,
https://doi.org/10.1161/01.CIR.93.5.1043.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from kd_sleep.schema import HRV_FEATURES, TACHOGRAM_HZ, WINDOW_S

# Beyond it no heart of a sleeper beats; NSRR's own HRV analysis drops > 2.5 s.
RR_RANGE_S = (0.3, 2.5)
ECTOPIC_CHANGE = 0.2  # of the local median: a change of a fifth marks an ectopic beat or a lost one
ECTOPIC_BEATS = 11  # intervals that the local median is over
MAX_GAP_S = 3.0  # the tachogram bridges one lost beat, no more
HRV_SPAN_WINDOWS = 11  # 5.5 min around a window: the Task Force's short-term recording, centred
MIN_SPAN_VALID = 0.5  # less of the span than this, and HRV is missing
SPANS_AT_ONCE = 32
BANDS_HZ = {"log_vlf": (0.0033, 0.04), "log_lf": (0.04, 0.15), "log_hf": (0.15, 0.4)}


@dataclasses.dataclass(frozen=True)
class Intervals:
    """The M-1 intervals between M beats: when each ended, how long it was, whether it is NN."""

    end_s: NDArray[np.float64]
    rr_s: NDArray[np.float64]
    normal: NDArray[np.bool_]


def nn_intervals(beat_times_s: NDArray, beat_normal: NDArray | None = None) -> Intervals:
    """RR intervals, those marked that lie in range, off ectopic beats, and near their local median.

    An interval that is too short ends in an early beat, or in none at all: the one after it, a
    pause of whatever length, is no NN interval either.

    An interval beyond `RR_RANGE_S` is a hole where beats are missing, and the median stays on its
    side of it: what the heart did before a hole is no measure of what it does after.

    Args:
      beat_times_s: [M] increasing.
      beat_normal: [M] False for ectopic beats and artefacts; None where unknown.
    """
    rr_s = np.diff(beat_times_s)
    if len(rr_s) == 0:
        return Intervals(np.empty(0), np.empty(0), np.empty(0, bool))
    median = _local_median(rr_s)
    normal = (rr_s >= RR_RANGE_S[0]) & (rr_s <= RR_RANGE_S[1])
    normal &= np.abs(rr_s - median) <= ECTOPIC_CHANGE * median
    early = rr_s < (1.0 - ECTOPIC_CHANGE) * median
    normal[1:] &= ~early[:-1]
    if beat_normal is not None:
        normal &= beat_normal[1:] & beat_normal[:-1]
    return Intervals(np.asarray(beat_times_s)[1:], rr_s, normal)


def _local_median(rr_s: NDArray) -> NDArray[np.float64]:
    """[M] median over `ECTOPIC_BEATS` intervals around each, from its own run between holes.

    Beyond a run's ends its first or last interval is repeated, so that it is over as many.
    """
    number = np.arange(len(rr_s))
    hole = rr_s > RR_RANGE_S[1]
    first = np.maximum.accumulate(np.where(hole, number + 1, 0))
    last = np.minimum.accumulate(np.where(hole, number - 1, len(rr_s) - 1)[::-1])[::-1]
    reach = ECTOPIC_BEATS // 2
    around = number[:, None] + np.arange(-reach, reach + 1)
    around = np.clip(around, first[:, None], np.maximum(first, last)[:, None])
    around[hole] = number[hole, None]  # a hole itself has no run
    return np.partition(rr_s[around], reach, axis=1)[:, reach]


def tachogram(intervals: Intervals, windows: int) -> NDArray[np.float64]:
    """NN interval in s on a 4 Hz grid, [windows, 120]; NaN where no two near ones bracket it.

    A straight line between beats keeps a value's dependence local; it leaves sinc^4(f * NN) of the
    power at frequency f, three quarters at 0.22 Hz and 60 beats a minute.
    """
    grid = np.arange(round(windows * WINDOW_S * TACHOGRAM_HZ)) / TACHOGRAM_HZ
    times, values = intervals.end_s[intervals.normal], intervals.rr_s[intervals.normal]
    if len(times) < 2:
        return np.full((windows, round(WINDOW_S * TACHOGRAM_HZ)), np.nan)
    series = np.interp(grid, times, values)
    after = np.searchsorted(times, grid, side="right").clip(1, len(times) - 1)
    bridged = times[after] - times[after - 1] <= MAX_GAP_S
    inside = (grid >= times[0]) & (grid <= times[-1])
    return _to_windows(np.where(bridged & inside, series, np.nan), TACHOGRAM_HZ, windows)


def hrv(intervals: Intervals, tachogram_NT: NDArray) -> NDArray[np.float64]:
    """HRV features [N, F], in `schema.HRV_FEATURES`' order, over 5.5 min centred on each window.

    Time-domain features use the NN intervals that end in the span, successive differences only
    between neighbours in time. Powers in s^2 are those of the span's tachogram, linearly detrended,
    under a Hann window; missing samples are left out of window and normalisation. NaN where less
    than half of the span is there. No beat further than 21 s outside the span plays a part.
    """
    windows = len(tachogram_NT)
    side_s = HRV_SPAN_WINDOWS * WINDOW_S / 2
    centre_s = (np.arange(windows) + 0.5) * WINDOW_S
    out = dict.fromkeys(HRV_FEATURES, np.full(windows, np.nan))

    times, nn_s = intervals.end_s[intervals.normal], intervals.rr_s[intervals.normal]
    first = np.searchsorted(times, centre_s - side_s)
    last = np.searchsorted(times, centre_s + side_s)

    def mean_over(values: NDArray, a: NDArray, b: NDArray) -> NDArray:
        total = np.concatenate([[0.0], np.cumsum(values)])
        count = b - a
        return np.divide(total[b] - total[a], count, out=np.full(windows, np.nan), where=count > 0)

    shift = float(np.median(nn_s)) if len(nn_s) else 0.0  # keeps the variance free of cancellation
    mean = mean_over(nn_s - shift, first, last)
    out["mean_nn_s"] = mean + shift
    out["sdnn_s"] = np.sqrt(np.maximum(mean_over((nn_s - shift) ** 2, first, last) - mean**2, 0.0))

    index = np.flatnonzero(intervals.normal)
    successive = np.diff(index) == 1
    step_s, step_end = np.diff(nn_s)[successive], times[1:][successive]
    # Both of a difference's intervals must end in the span.
    a = np.searchsorted(times[:-1][successive], centre_s - side_s)
    b = np.maximum(np.searchsorted(step_end, centre_s + side_s), a)
    out["rmssd_s"] = np.sqrt(mean_over(step_s**2, a, b))
    out["pnn50"] = mean_over((np.abs(step_s) > 0.050).astype(float), a, b)

    share, powers = _band_powers(_spans(tachogram_NT, HRV_SPAN_WINDOWS))
    for name, power in powers.items():
        out[name] = np.log(np.maximum(power, 1e-9))
    out["log_lf_hf"] = out["log_lf"] - out["log_hf"]
    table = np.stack([out[name] for name in HRV_FEATURES], axis=1)
    table[share < MIN_SPAN_VALID] = np.nan
    return table


def _band_powers(span_NT: NDArray) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Share of each span that is not NaN, and its power in s^2 per band.

    A sinusoid of amplitude A has a power of A^2 / 2, however little of it is there.
    """
    samples = span_NT.shape[1]
    frequency = fft.rfftfreq(samples, 1 / TACHOGRAM_HZ)
    bands = {
        name: slice(*np.searchsorted(frequency, edges_hz)) for name, edges_hz in BANDS_HZ.items()
    }
    time = np.arange(samples) - samples / 2
    moments_T3 = np.stack([np.ones(samples), time, time**2], axis=1)
    hann = np.hanning(samples)
    share = np.empty(len(span_NT))
    powers = {name: np.empty(len(span_NT)) for name in bands}
    # In blocks that a processor's cache holds, twice as fast as the whole night at once.
    for block in (slice(n, n + SPANS_AT_ONCE) for n in range(0, len(span_NT), SPANS_AT_ONCE)):
        x = span_NT[block]
        valid = np.isfinite(x)
        x = np.where(valid, x, 0.0)
        share[block] = valid.mean(1)
        # Least-squares line through the valid samples.
        count, sum_t, sum_tt = (valid @ moments_T3).T
        sum_x, sum_tx = (x @ moments_T3[:, :2]).T
        mean_t, mean_x = sum_t / np.maximum(count, 1), sum_x / np.maximum(count, 1)
        slope = (sum_tx - mean_t * sum_x) / np.maximum(sum_tt - mean_t * sum_t, 1e-12)
        x -= (mean_x - slope * mean_t)[:, None] + slope[:, None] * time
        weight = hann * valid
        spectrum = fft.rfft(x * weight, axis=1)
        scale = 2.0 / (samples * np.maximum((weight**2).sum(1), 1e-12))
        for name, band in bands.items():
            inside = spectrum[:, band]
            powers[name][block] = (inside.real**2 + inside.imag**2).sum(1) * scale
    return share, powers


def _to_windows(values: NDArray, rate_hz: float, windows: int) -> NDArray:
    """[windows, WINDOW_S * rate_hz] of a night's series; NaN where it is too short."""
    size = round(WINDOW_S * rate_hz)
    out = np.full(windows * size, np.nan)
    length = min(len(values), len(out))
    out[:length] = values[:length]
    return out.reshape(windows, size)


def _spans(windows_NT: NDArray, span_windows: int) -> NDArray:
    """[N, span_windows * T]: each window with its neighbours; NaN beyond the night's ends.

    Args:
      windows_NT: [N, T].
      span_windows: odd number of windows in a span.
    """
    side = span_windows // 2
    padded = np.pad(windows_NT, ((side, side), (0, 0)), constant_values=np.nan)
    view = np.lib.stride_tricks.sliding_window_view(padded, span_windows, axis=0)  # [N, T, span]
    return view.swapaxes(1, 2).reshape(len(windows_NT), -1)
