"""What the networks are shown beside the raw series: levels to read them by, and HRV.

A slow heart is no stage: tachograms are read relative to a reference level, and HRV as z-scores.
The teacher takes both from the whole night. A student's `scope` says which windows they come from:

    night    the whole night
    past     the window and those before it: a causal student
    window   the window alone: a single-window student, which gets no HRV, since its network reads
             the 30 s of the tachogram itself
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from kd_sleep.features.bcg import MOST_MISSING
from kd_sleep.features.rr import HRV_SPAN_WINDOWS
from kd_sleep.schema import BCG_SAMPLES, HRV_FEATURES, MOVEMENT_SAMPLES, SERIES_SAMPLES

SCOPES = ("night", "past", "window")
TYPICAL_S = 0.95  # NN interval of a sleeper: the reference where none is known
_RELATIVE, _LEVEL = 10.0, 5.0  # an NN interval against the night's median; that, against typical
LARGEST_Z = 5.0
# Columns of a student's summary of a window, in this order.
JJ_LEVEL, MOVEMENT_LEVEL = 0, 1  # s, and log units: references that the network subtracts
FEATURES = slice(2, None)
SUMMARISED = ("jj", "jj_hrv", "breath_depth", "movement")  # series that `summary` reads
SUMMARY = ("jj_level", "movement_level", *HRV_FEATURES, "level", "breath_depth", "missing")

# Shape of a window of everything that a student may be shown.
INPUT_SHAPES: dict[str, tuple[int, ...]] = {
    "jj": (SERIES_SAMPLES,),
    "beat_confidence": (SERIES_SAMPLES,),
    "breath": (SERIES_SAMPLES,),
    "movement": (MOVEMENT_SAMPLES,),
    "bcg": (BCG_SAMPLES,),
    **{f"summary_{scope}": (len(SUMMARY),) for scope in SCOPES},
}


@dataclasses.dataclass(frozen=True)
class BcgWindows:
    """What is known of a BCG's N windows before they are staged.

    Attributes:
      series: [N, …] as a night's record has them: `features.series.RECORD_FIELDS`.
      missing_N: share of each that is missing.
      snr_db_N: power in 1-8 Hz over power in 10-20 Hz; NaN where half or more is missing.
      bcg_NS: samples at `BCG_HZ` in heartbeat amplitudes, 0 where missing; None if not asked for.
    """

    series: Mapping[str, NDArray]
    missing_N: NDArray[np.float64]
    snr_db_N: NDArray[np.float64]
    bcg_NS: NDArray[np.float64] | None = None

    @property
    def usable_N(self) -> NDArray[np.bool_]:
        """Windows of which more than half is there."""
        return self.missing_N < MOST_MISSING

    def inputs(self, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """What a student is shown, [N, …] each, by names of `INPUT_SHAPES`."""
        shown: dict[str, NDArray] = {}
        for name in names:
            if name == "bcg":
                assert self.bcg_NS is not None
                shown[name] = self.bcg_NS
            elif name.startswith("summary_"):
                scope = name.removeprefix("summary_")
                shown[name] = summary(self.series, self.missing_N, scope)
            else:
                shown[name] = self.series[name]
        return {name: np.asarray(array, np.float32) for name, array in shown.items()}


def teacher_inputs(tachogram: NDArray, hrv: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Tachogram, its validity, and HRV, scaled by the night itself.

    Args:
      tachogram, hrv: of a night's record; see `schema.NIGHT_FIELDS`.

    Returns:
      The columns `tachogram`, `tachogram_valid` and `hrv` of `Nights`.
    """
    tachogram, hrv = np.asarray(tachogram), np.asarray(hrv)
    valid = np.isfinite(tachogram)
    level = float(np.median(tachogram[valid])) if valid.any() else 1.0
    relative = np.where(valid, (tachogram / level - 1.0) * _RELATIVE, 0.0)
    baseline = np.full((len(hrv), 1), (level - TYPICAL_S) * _LEVEL)
    return (
        np.clip(relative, -10.0, 10.0).astype(np.float32),
        valid,
        np.concatenate([_z_scores(hrv), baseline], axis=1).astype(np.float32),
    )


def mean_nn_s(tachogram: NDArray, valid: NDArray, hrv: NDArray) -> NDArray[np.float64]:
    """[N] mean NN interval of each window from what `teacher_inputs` made; NaN without one."""
    level_s = hrv[:, -1] / _LEVEL + TYPICAL_S
    count = valid.sum(1)
    relative = np.where(valid, tachogram, 0.0).sum(1) / np.maximum(count, 1)
    return np.where(count > 0, (1.0 + relative / _RELATIVE) * level_s, np.nan)


def summary(series: Mapping[str, NDArray], missing_N: NDArray, scope: str) -> NDArray[np.float32]:
    """[N, len(SUMMARY)] what a student is told of each window beside its series.

    Args:
      series: of a night's record: `SUMMARISED`.
      missing_N: [N] share of each window that is missing.
      scope: of `SCOPES`.
    """
    windows = len(missing_N)
    with np.errstate(invalid="ignore"):
        jj_N = median_by_window(series["jj"])
        movement_N = median_by_window(series["movement"])
    table = np.concatenate([series["jj_hrv"], series["breath_depth"][:, None]], axis=1)
    table = table.astype(np.float64)
    if scope == "night":
        levels = [np.full(windows, _median(values)) for values in (jj_N, movement_N)]
        z = _z_scores(table)
    elif scope == "past":
        levels = [_running_median(values) for values in (jj_N, movement_N)]
        # HRV of the 5.5 min that end with a window is that centred five windows before it.
        late = HRV_SPAN_WINDOWS // 2
        hrv = np.full_like(table[:, :-1], np.nan)
        hrv[late:] = table[: max(windows - late, 0), :-1]
        z = _running_z_scores(np.concatenate([hrv, table[:, -1:]], axis=1))
    else:
        levels = [jj_N, movement_N]
        z = np.zeros_like(table)
    jj_level = np.where(np.isfinite(levels[0]), levels[0], TYPICAL_S)
    movement_level = np.where(np.isfinite(levels[1]), levels[1], 0.0)
    columns = [
        jj_level,
        movement_level,
        *z[:, :-1].T,
        (jj_level - TYPICAL_S) * _LEVEL,
        z[:, -1],
        missing_N,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _median(values: NDArray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def median_by_window(values_NT: NDArray) -> NDArray[np.float64]:
    """[N] median of what is finite of each window [N, T]; NaN where nothing is."""
    ordered = np.sort(values_NT.astype(np.float64), axis=1)  # NaN last
    count = np.isfinite(ordered).sum(1)
    middle = np.maximum(count - 1, 0) // 2
    rows = np.arange(len(ordered))
    return 0.5 * (
        ordered[rows, middle] + ordered[rows, np.minimum(count // 2, len(ordered[0]) - 1)]
    )


def _running_median(values: NDArray) -> NDArray[np.float64]:
    """[N] median of the known values up to each; NaN before the first."""
    held: list[float] = []
    out = np.full(len(values), np.nan)
    for number, value in enumerate(values):
        if np.isfinite(value):
            bisect.insort(held, float(value))
        if held:
            out[number] = 0.5 * (held[(len(held) - 1) // 2] + held[len(held) // 2])
    return out


def _z_scores(table_NF: NDArray) -> NDArray[np.float64]:
    """[N, F] by mean and standard deviation of each column; 0 where missing."""
    there = np.isfinite(table_NF)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, table_NF, 0.0).sum(0) / count
    sd = np.sqrt(np.where(there, (table_NF - mean) ** 2, 0.0).sum(0) / count)
    z = np.where(there, (table_NF - mean) / np.maximum(sd, 1e-6), 0.0)
    return np.clip(z, -LARGEST_Z, LARGEST_Z)


def _running_z_scores(table_NF: NDArray) -> NDArray[np.float64]:
    """[N, F] as `_z_scores`, each row by the rows up to it."""
    there = np.isfinite(table_NF)
    values = np.where(there, table_NF, 0.0)
    count = np.maximum(np.cumsum(there, axis=0), 1)
    mean = np.cumsum(values, axis=0) / count
    square = np.cumsum(values**2, axis=0) / count
    sd = np.sqrt(np.maximum(square - mean**2, 0.0))
    # Of few windows the spread is not known yet: it is held up.
    z = np.where(there & (count >= 10), (table_NF - mean) / np.maximum(sd, 1e-3), 0.0)
    return np.clip(z, -LARGEST_Z, LARGEST_Z)
