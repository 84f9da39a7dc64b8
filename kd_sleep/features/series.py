"""The three series of a BCG: heartbeats, breathing and movement.

    prepared BCG at 50 Hz -> beats     JJ tachogram at 4 Hz, beat confidence, HRV per window
                          -> breath    chest movement at 4 Hz, depth per window
                          -> movement  log level once a second

Training, staging and streams compute them by this one function. The JJ tachogram has the grid, the
cleaning and the HRV of the teacher's RR tachogram (`features.rr`), so that a student reads from a
BCG what its teacher reads from an ECG.

Gain, offset and polarity drop out of all series; a change of posture drops out of `jj` and
`breath`. NaN marks what is missing.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kd_sleep.features import rr
from kd_sleep.features.bcg import MOST_MISSING
from kd_sleep.schema import (
    BCG_HZ,
    BCG_SAMPLES,
    MOVEMENT_SAMPLES,
    SERIES_HZ,
    SERIES_SAMPLES,
    WINDOW_S,
)
from kd_sleep.signals.filters import bandpass
from kd_sleep.signals.j_peaks import Beats, j_peaks
from kd_sleep.signals.resampling import on_grid
from kd_sleep.signals.timeseries import Series

PIECE_WINDOWS = 40  # 20 minutes and more: in noise of any colour, none shows a heartbeat
BREATH_HZ = (0.1, 0.7)  # 6 to 42 breaths a minute
MOVEMENT_HZ = 1.0  # above breathing
LEVEL_S, LEVEL_FRAMES = 5.0, 13  # the breath's local level: the median RMS of 13 frames of 5 s
LARGEST_BREATH = 4.0  # in local RMS; a sine has 1.4
SILENT = 1e-3  # of the night's median level: less is rounding, not rest
BEAT_REACH_S = 2.0  # a beat's confidence holds for this long, at most


@dataclasses.dataclass(frozen=True)
class BcgSeries:
    """The series of N windows; names, units and shapes as in `schema.NIGHT_FIELDS`.

    Attributes:
      beats: J peaks, in s from the first window's start.
      jj: [N, 120] s, NN intervals of the J peaks on the 4 Hz grid; NaN where missing.
      jj_hrv: [N, F] HRV of 5.5 min around each window, as `rr.hrv`; NaN where missing.
      beat_confidence: [N, 120] correlation of the beat at hand with its template; 0 without one.
      breath: [N, 120] chest movement in its local RMS, of unknown sign; NaN where missing.
      breath_depth: [N] log of the breath's RMS over `unit`; NaN where missing.
      movement: [N, 30] log of each second's RMS above 1 Hz over `unit`; NaN where missing.
      unit: the median of that RMS, in the sensor's own unit.
    """

    beats: Beats
    jj: NDArray[np.float32]
    jj_hrv: NDArray[np.float32]
    beat_confidence: NDArray[np.float16]
    breath: NDArray[np.float16]
    breath_depth: NDArray[np.float32]
    movement: NDArray[np.float16]
    unit: float

    def fields(self) -> dict[str, NDArray]:
        """What a night's record holds of them."""
        return {name: getattr(self, name) for name in RECORD_FIELDS}


RECORD_FIELDS = ("jj", "jj_hrv", "beat_confidence", "breath", "breath_depth", "movement")


def bcg_series(bcg: Series, windows: int, unit: float | None = None) -> BcgSeries:
    """The series of a BCG.

    A window of which half or more is missing has no series, and no heartbeat is looked for there.

    Args:
      bcg: [N * BCG_SAMPLES] at `BCG_HZ` in any unit, as `features.bcg.on_windows` has it. Where a
        stream is under way, some multiple of `LEVEL_S` may lie behind the last window: filters and
        the search for beats go on into it.
      windows: how many there are, N.
      unit: level that `movement` and `breath_depth` are relative to; None takes the night's median.
    """
    inside = windows * BCG_SAMPLES
    missing_NS = bcg.missing[:inside].reshape(windows, -1)
    usable_N = missing_NS.mean(1) < MOST_MISSING
    gone = np.zeros(len(bcg), bool)
    gone[:inside] = np.repeat(~usable_N, BCG_SAMPLES)
    shown = bcg.without(gone)
    if not windows or not usable_N[-1]:
        shown = shown[:inside]
    beats = heartbeats(shown, usable_N)
    missing_NS = shown.missing[:inside].reshape(windows, -1)
    intervals = rr.nn_intervals(beats.times_s)
    jj_NT = rr.tachogram(intervals, windows)
    movement, unit = _movement(shown, unit)
    breath_NT, depth_N = _breath(shown, missing_NS, unit)
    return BcgSeries(
        beats=beats,
        jj=jj_NT.astype(np.float32),
        jj_hrv=rr.hrv(intervals, jj_NT).astype(np.float32),
        beat_confidence=_confidence(beats, windows).astype(np.float16),
        breath=breath_NT.astype(np.float16),
        breath_depth=depth_N.astype(np.float32),
        movement=movement[: windows * MOVEMENT_SAMPLES].reshape(windows, -1).astype(np.float16),
        unit=unit,
    )


def heartbeats(bcg: Series, usable_N: NDArray[np.bool_]) -> Beats:
    """The J peaks of a night's usable windows, in s from the first window's start.

    `j_peaks` finds none in a recording whose mean shows no heart, so it is not shown the gaps.
    Where it finds none, a heart may still show for a while: it looks into pieces.

    Args:
      bcg: at `BCG_HZ`, N windows, and what lies behind the last one if that is usable.
      usable_N: [N] windows that are looked into.
    """
    shown = np.ones(len(bcg), bool)
    shown[: len(usable_N) * BCG_SAMPLES] = np.repeat(usable_N, BCG_SAMPLES)
    there, count = bcg[shown], int(usable_N.sum())
    beats = j_peaks(there)
    if not len(beats.times_s) and count >= 2 * PIECE_WINDOWS:
        edges = np.linspace(0, count, count // PIECE_WINDOWS + 1).astype(np.int64)
        pieces = []
        for first, stop in itertools.pairwise(edges):
            found = j_peaks(there[first * BCG_SAMPLES : stop * BCG_SAMPLES])
            pieces.append(dataclasses.replace(found, times_s=found.times_s + first * WINDOW_S))
        beats = Beats(
            *(
                np.concatenate([getattr(found, field.name) for found in pieces])
                for field in dataclasses.fields(Beats)
            )
        )
    window = np.minimum((beats.times_s // WINDOW_S).astype(np.int64), max(count - 1, 0))
    moved_s = WINDOW_S * (np.flatnonzero(usable_N)[window] - window)
    return dataclasses.replace(beats, times_s=beats.times_s + moved_s)


def _confidence(beats: Beats, windows: int) -> NDArray[np.float64]:
    """[N, 120] correlation of the last beat before each sample; 0 where it is too long ago."""
    grid_s = np.arange(windows * SERIES_SAMPLES) / SERIES_HZ
    if not len(beats.times_s):
        return np.zeros((windows, SERIES_SAMPLES))
    last = np.searchsorted(beats.times_s, grid_s, side="right") - 1
    near = (last >= 0) & (grid_s - beats.times_s[last] <= BEAT_REACH_S)
    return np.where(near, beats.correlation[last], 0.0).reshape(windows, -1)


def _movement(bcg: Series, unit: float | None) -> tuple[NDArray[np.float64], float]:
    """Log level of each second over `unit`, NaN where half of it is missing; and the unit."""
    second = round(BCG_HZ)
    fast = bandpass(bcg.values, BCG_HZ, MOVEMENT_HZ, None)
    level = np.sqrt((fast**2).reshape(-1, second).mean(1))
    there = bcg.missing.reshape(-1, second).mean(1) < 0.5
    if unit is None:
        unit = float(np.median(level[there])) if there.any() else 0.0
    if unit <= 0.0:
        return np.full(len(level), np.nan), 0.0
    return np.where(there, np.log(np.maximum(level / unit, SILENT)), np.nan), unit


def _breath(
    bcg: Series, missing_NS: NDArray[np.bool_], unit: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Chest movement [N, 120] in its local RMS, and the log of each window's RMS over `unit`."""
    windows = len(missing_NS)
    chest = bandpass(on_grid(bcg, SERIES_HZ).values, SERIES_HZ, *BREATH_HZ)
    frame = round(LEVEL_S * SERIES_HZ)
    rms = np.sqrt((chest**2).reshape(-1, frame).mean(1))
    level = ndimage.median_filter(rms, LEVEL_FRAMES, mode="nearest")
    # Linear between the frames' middles: the level has no steps.
    place = (np.arange(len(chest)) + 0.5) / frame - 0.5
    smooth = np.interp(place, np.arange(len(level)), level)
    missing_NT = missing_NS[:, (np.arange(SERIES_SAMPLES) * BCG_HZ / SERIES_HZ).astype(np.int64)]
    if unit <= 0.0:
        return np.full(missing_NT.shape, np.nan), np.full(windows, np.nan)
    breath = np.clip(chest / np.maximum(smooth, SILENT * unit), -LARGEST_BREATH, LARGEST_BREATH)
    breath = breath[: windows * SERIES_SAMPLES].reshape(windows, -1)
    frames = round(WINDOW_S / LEVEL_S)
    depth_N = np.median(rms[: windows * frames].reshape(windows, -1), axis=1) / unit
    gone_N = missing_NT.mean(1) >= MOST_MISSING
    return (
        np.where(missing_NT, np.nan, breath),
        np.where(gone_N, np.nan, np.log(np.maximum(depth_N, SILENT))),
    )
