"""What a sleep laboratory would measure in a night: stages, heart, breathing, movement.

Every function returns names and values: floats of the night, and arrays [4] by stage under names
that end in `_by`. Figures by stage are of the scored stages, as published ones are. Heart figures
leave out, by the same rule as the teacher's features, intervals off their local median.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from kd_sleep.schema import WINDOW_S
from kd_sleep.simulation.autonomic import DRIVE_HZ
from kd_sleep.simulation.physiology import Drive, Physiology
from kd_sleep.stages import NUM_STAGES, Stage

_PER_MIN = 60.0 / WINDOW_S
PIECE_WINDOWS = 10  # 5 min of one stage: the Task Force's short-term recording
MIN_PIECE_WINDOWS = 8  # of that stage in it
DFA_SCALES = np.unique(np.round(np.geomspace(20, 75, 7)).astype(int))  # beats, above a breath
DFA_MIN_BEATS = 300
SYNC_S = 30.0  # shortest spell of synchronisation, and the span of its mean (Bartsch 2007)
# Resultant of n times the breath's phase at the beats, over SYNC_S: an SD of a fifth of a turn.
SYNC_STRENGTH = float(np.exp(-0.5 * (2 * np.pi / 5) ** 2))
SLOW_BREATHS_PER_MIN, FAST_BREATHS_PER_MIN = 12.0, 16.0
PHASE_MIN_BEATS = 300
OF_SLEEP = (
    "latency_min", "waso_min", "asleep_min", "rem_latency_min", "deep_share", "rem_share",
    "light_share", "deep_first_third", "deep_last_third", "rem_last_third", "changes_per_h",
)  # fmt: skip
Numbers = dict[str, Any]


def bouts(stages: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
    """Stage and length in windows of each bout."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(stages)) + 1])
    return stages[starts], np.diff(np.concatenate([starts, [len(stages)]]))


def of_stages(scored: NDArray[np.int8]) -> Numbers:
    """Sleep's architecture; NaN for what a night without sleep, or REM, does not have.

    Also `transitions` [4, 4], `bouts` (lengths in windows, by stage) and `wake_within`, those of
    awakenings.
    """
    counts = np.bincount(scored, minlength=NUM_STAGES)
    asleep = np.flatnonzero(scored != Stage.WAKE)
    transitions = np.zeros((NUM_STAGES, NUM_STAGES))
    np.add.at(transitions, (scored[:-1], scored[1:]), 1)
    kind, length = bouts(scored)
    out: Numbers = {
        "transitions": transitions,
        "bouts": [length[kind == stage] for stage in range(NUM_STAGES)],
        "wake_within": length[1:-1][kind[1:-1] == Stage.WAKE],
        "wake_share": counts[Stage.WAKE] / len(scored),
    }
    out |= dict.fromkeys(OF_SLEEP, float("nan"))
    if len(asleep) == 0:
        return out
    onset, end = asleep[0], asleep[-1] + 1
    out["latency_min"] = onset / _PER_MIN
    out["asleep_min"] = len(asleep) / _PER_MIN
    out["waso_min"] = (end - onset - len(asleep)) / _PER_MIN
    for name, stage in (("deep", Stage.DEEP), ("rem", Stage.REM), ("light", Stage.LIGHT)):
        out[f"{name}_share"] = counts[stage] / len(asleep)
    period = scored[onset:end]
    third = len(period) // 3
    if counts[Stage.DEEP]:
        out["deep_first_third"] = (period[:third] == Stage.DEEP).sum() / counts[Stage.DEEP]
        out["deep_last_third"] = (period[-third:] == Stage.DEEP).sum() / counts[Stage.DEEP]
    if counts[Stage.REM]:
        out["rem_last_third"] = (period[-third:] == Stage.REM).sum() / counts[Stage.REM]
        out["rem_latency_min"] = (np.flatnonzero(scored == Stage.REM)[0] - onset) / _PER_MIN
    three = np.array([0, 1, 2, 2])[scored]  # Wake, REM, NREM
    out["changes_per_h"] = (np.diff(three) != 0).sum() / (len(asleep) / _PER_MIN / 60.0)
    return out


def clean(rr_s: NDArray, normal: NDArray) -> NDArray[np.bool_]:
    """Which intervals lie in range and within a fifth of the median of eleven."""
    median = ndimage.median_filter(rr_s, 11, mode="nearest")
    near = np.abs(rr_s - median) <= 0.2 * median
    return normal & near & (rr_s >= 0.3) & (rr_s <= 2.5)


def rmssd(rr_s: NDArray, good: NDArray) -> float:
    """Root mean square of differences between neighbouring intervals, in ms."""
    both = good[1:] & good[:-1]
    return float(1000.0 * np.sqrt(np.mean(np.diff(rr_s)[both] ** 2))) if both.any() else np.nan


def dfa(series: NDArray, scales: NDArray = DFA_SCALES) -> float:
    """Exponent of second-order detrended fluctuation analysis over `scales`."""
    profile = np.cumsum(series - series.mean())
    fluctuation = []
    for scale in scales:
        pieces = profile[: len(profile) // scale * scale].reshape(-1, scale)
        basis, _ = np.linalg.qr(np.vander(np.arange(scale) / scale, 3))
        rest = pieces - (pieces @ basis) @ basis.T
        fluctuation.append(np.sqrt(np.mean(rest**2)))
    return float(np.polyfit(np.log(scales), np.log(fluctuation), 1)[0])


def _by_stage(values: NDArray, stage: NDArray) -> NDArray[np.float64]:
    """Mean per stage, [4]; NaN for a stage that is not there."""
    out = np.full(NUM_STAGES, np.nan)
    for k in range(NUM_STAGES):
        mine = values[(stage == k) & np.isfinite(values)]
        if len(mine):
            out[k] = mine.mean()
    return out


def _pieces(scored: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First window and stage of each 5-min piece that is nearly all of one stage."""
    starts = np.arange(0, len(scored) - PIECE_WINDOWS + 1, PIECE_WINDOWS // 2)
    view = np.lib.stride_tricks.sliding_window_view(scored, PIECE_WINDOWS)[starts]
    counts = (view[:, :, None] == np.arange(NUM_STAGES)).sum(1)
    pure = counts.max(1) >= MIN_PIECE_WINDOWS
    return starts[pure], counts.argmax(1)[pure]


def of_heart(night: Physiology) -> Numbers:
    """Heart rate and its variability, over the night and by stage."""
    drive, scored = night.drive, night.scored
    end, rr = drive.beat_times_s[1:], np.diff(drive.beat_times_s)
    good = clean(rr, drive.beat_normal[1:] & drive.beat_normal[:-1])
    stage = scored[np.minimum((end / WINDOW_S).astype(int), len(scored) - 1)]
    out: Numbers = {
        "heart_rate": 60.0 / rr[good].mean(),
        "rmssd": rmssd(rr, good),
        "rr_p1": float(np.percentile(rr[good], 1)),
        "rr_p99": float(np.percentile(rr[good], 99)),
        "slope": spectrum_slope(end[good], rr[good]),
        "heart_rate_by": _by_stage(60.0 / rr[good], stage[good]),
    }
    first, kind = _pieces(scored)
    grid = np.arange(PIECE_WINDOWS * WINDOW_S * 4) / 4.0
    window = np.hanning(len(grid))
    frequency = np.fft.rfftfreq(len(grid), 0.25)
    rows = []
    for start in first * WINDOW_S:
        mine = slice(*np.searchsorted(end, [start, start + grid[-1]]))
        times, values, keep = end[mine], rr[mine], good[mine]
        if keep.sum() < 150 or keep.mean() < 0.7:
            rows.append([np.nan] * 4)
            continue
        even = signal.detrend(np.interp(start + grid, times[keep], values[keep]))
        power = np.abs(np.fft.rfft(even * window)) ** 2 * 2 / (len(grid) * (window**2).sum())
        lf = power[(frequency >= 0.04) & (frequency < 0.15)].sum()
        hf = power[(frequency >= 0.15) & (frequency < 0.4)].sum()
        rows.append([60.0 / values[keep].mean(), even.std(), lf, hf])
    pieces = np.array(rows).reshape(-1, 4)
    out["pieces"] = (kind, np.log(pieces))
    out["sdnn_by"] = _by_stage(1000.0 * pieces[:, 1], kind)
    out["hf_by"] = np.exp(_by_stage(np.log(1e6 * pieces[:, 3]), kind))
    out["lf_hf_by"] = np.exp(_by_stage(np.log(pieces[:, 2] / pieces[:, 3]), kind))

    # DFA needs unbroken stretches of one stage: bad intervals are bridged, as laboratories do.
    bridged = np.interp(np.arange(len(rr)), np.flatnonzero(good), rr[good])
    exponents: list[list[float]] = [[] for _ in range(NUM_STAGES)]
    edges = np.concatenate([[0], np.flatnonzero(np.diff(stage)) + 1, [len(stage)]])
    for a, b in itertools.pairwise(edges):
        if b - a >= DFA_MIN_BEATS:
            exponents[stage[a]].append(dfa(bridged[a:b]))
    out["dfa_by"] = np.array([np.mean(e) if e else np.nan for e in exponents])
    return out


def of_breath(night: Physiology) -> Numbers:
    """Breathing's rate and regularity, RSA, and synchronisation, by stage."""
    drive, scored = night.drive, night.scored
    wave = drive.breathing
    up = np.flatnonzero((wave[1:] > 0) & (wave[:-1] <= 0))
    starts = (up + wave[up] / (wave[up] - wave[up + 1])) / DRIVE_HZ
    length, at = np.diff(starts), starts[1:]
    stage = scored[np.minimum((at / WINDOW_S).astype(int), len(scored) - 1)]
    out: Numbers = {"breaths": 60.0 / np.median(length)}
    out["breaths_by"] = 60.0 / _by_stage(length, stage)
    first, kind = _pieces(scored)
    cv, rate = np.full(len(first), np.nan), np.full(len(first), np.nan)
    for row, start in enumerate(first * WINDOW_S):
        mine = length[slice(*np.searchsorted(at, [start, start + PIECE_WINDOWS * WINDOW_S]))]
        if len(mine) > 20:
            cv[row], rate[row] = mine.std() / mine.mean(), 60.0 / mine.mean()
    out["breath_cv_by"] = _by_stage(cv, kind)
    out["breath_pieces"] = np.log(np.stack([rate, cv], axis=1))

    # The breath's phase at each beat: a line between the starts of breaths.
    beats = drive.beat_times_s
    phase = 2 * np.pi * np.interp(beats, starts, np.arange(len(starts)))
    rr = np.diff(beats)
    window = np.minimum((beats / WINDOW_S).astype(int), len(scored) - 1)
    good = clean(rr, drive.beat_normal[1:] & drive.beat_normal[:-1])
    fast = np.where(good, rr - ndimage.uniform_filter1d(rr, 9), 0.0)
    turned = fast * np.exp(1j * phase[1:])
    count = np.maximum(np.bincount(window[1:], minlength=len(scored)), 1)
    together = np.bincount(window[1:], turned.real, len(scored)) + 1j * np.bincount(
        window[1:], turned.imag, len(scored)
    )
    out["rsa_by"] = _by_stage(1000.0 * 2.0 * np.abs(together) / count, scored)
    out |= _rsa_phase(drive, starts, fast, good)

    bound = np.zeros(len(beats), bool)
    span = max(int(SYNC_S / np.median(rr)), 4)
    for n in range(2, 8):
        strength = np.abs(
            ndimage.uniform_filter1d(np.cos(n * phase), span)
            + 1j * ndimage.uniform_filter1d(np.sin(n * phase), span)
        )
        strong = strength > SYNC_STRENGTH
        bound |= ndimage.binary_opening(strong, np.ones(span, bool))
    out["sync_by"] = _by_stage(bound.astype(float), scored[window])
    return out


def _rsa_phase(
    drive: Drive, starts: NDArray, fast: NDArray, good: NDArray[np.bool_]
) -> dict[str, float]:
    """How RR follows the chest, each interval at its middle.

    Args:
      drive: the night's.
      starts: [B] s, where breaths begin: the chest passes its middle upwards.
      fast: [M - 1] s, RR less its local mean.
      good: [M - 1] which of them count.

    Returns:
      Correlation of RR with the chest; the lag in s from the chest's peak to the shortest RR; the
      same as a phase in degrees in slow and in fast breaths. NaN where there are too few.
    """
    middle = (drive.beat_times_s[1:] + drive.beat_times_s[:-1]) / 2.0
    good = good & (middle > starts[0]) & (middle < starts[-1])
    middle, fast = middle[good], fast[good]
    chest = np.interp(middle, np.arange(len(drive.breathing)) / DRIVE_HZ, drive.breathing)
    turn = np.exp(2j * np.pi * np.interp(middle, starts, np.arange(len(starts))))
    breath_s = np.diff(starts)[np.searchsorted(starts, middle) - 1]

    def behind(who: NDArray[np.bool_]) -> float:
        if who.sum() < PHASE_MIN_BEATS:
            return float("nan")
        return float(np.degrees(np.angle(1j * np.sum((fast * turn)[who]))))

    rate = 60.0 / breath_s
    return {
        "rsa_correlation": float(np.corrcoef(chest, fast)[0, 1]),
        "rsa_lag_s": behind(rate > 0) / 360.0 * float(np.median(breath_s)),
        "rsa_behind_slow": behind(rate < SLOW_BREATHS_PER_MIN),
        "rsa_behind_fast": behind(rate > FAST_BREATHS_PER_MIN),
    }


def of_movement(night: Physiology) -> Numbers:
    """Movements per hour by stage and asleep, and their mean length."""
    moving = np.concatenate([[False], night.drive.movement > 0, [False]])
    edges = np.flatnonzero(np.diff(moving.astype(int)))
    start, stop = edges[::2] / DRIVE_HZ, edges[1::2] / DRIVE_HZ
    scored = night.scored
    at = scored[np.minimum((start / WINDOW_S).astype(int), len(scored) - 1)]
    hours = np.bincount(scored, minlength=NUM_STAGES) * WINDOW_S / 3600.0
    count = np.bincount(at, minlength=NUM_STAGES)
    with np.errstate(invalid="ignore"):
        by = np.where(hours > 0.1, count / np.maximum(hours, 1e-9), np.nan)
    asleep = at != Stage.WAKE
    return {
        "movements_by": by,
        "movements_asleep": count[1:].sum() / max(hours[1:].sum(), 1e-9),
        "movement_s": float((stop - start)[asleep].mean()) if asleep.any() else np.nan,
    }


def spectrum_slope(end_s: NDArray, rr_s: NDArray) -> float:
    """Exponent of power ~ 1 / f^slope of RR in 0.001-0.02 Hz, holes left out (Lomb-Scargle)."""
    bins = ((end_s - end_s[0]) / 10.0).astype(int)
    count = np.bincount(bins)
    there = count > 0
    mean = np.bincount(bins, rr_s)[there] / count[there]
    time = 10.0 * np.flatnonzero(there)
    frequency = np.geomspace(0.001, 0.02, 120)
    power = signal.lombscargle(time, signal.detrend(mean), 2 * np.pi * frequency)
    smooth = np.log(power.reshape(12, 10).mean(1))
    centre = np.log(frequency).reshape(12, 10).mean(1)
    return float(-np.polyfit(centre, smooth, 1)[0])
