"""A night's signals, as arrays on one clock, to the fields of its record (`schema.NIGHT_FIELDS`).

The dataset's builder and `datasets.nights.Nights.from_arrays` both make them here. NumPy and SciPy
alone, and sleepecg where the beats of an ECG are looked for.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep import schema
from kd_sleep.features import rr
from kd_sleep.features.bcg import on_windows, prepared
from kd_sleep.features.series import bcg_series
from kd_sleep.signals import quality
from kd_sleep.signals.r_peaks import r_peaks, typed_beats
from kd_sleep.signals.timeseries import Series

MIN_BEATS_PER_MIN = 20.0  # fewer over the whole night, and there is no heart to be seen
MIN_ECG_HZ = 50.0  # slower, and a QRS complex is two samples
MAX_BEAT_GAP = 0.2  # share of the night that beats may leave uncovered at its ends


class NoHeartbeat(ValueError):
    """Beats that are no night's: too few, or of another length."""


def detected_beats(
    ecg: NDArray, rate_hz: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """The beats of an ECG.

    Args:
      ecg: [n] samples in any unit; NaN where missing.
      rate_hz: sampling rate, at least `MIN_ECG_HZ`.

    Returns:
      [M] times in s; [M] whether each is normal, as `typed_beats` has it; `quality.ecg_usable`.
    """
    times = r_peaks(ecg, rate_hz)
    usable = quality.ecg_usable(ecg, rate_hz, times)
    return *typed_beats(ecg, rate_hz, times, quality.in_usable(usable, times)), usable


def check_given_beats(times_s: NDArray, duration_s: float) -> None:
    """Raises NoHeartbeat where beats that somebody else found are not of a night this long."""
    if len(times_s) == 0:
        raise NoHeartbeat("there are no beats")
    uncovered = times_s[0] + max(duration_s - times_s[-1], 0.0)
    if uncovered > MAX_BEAT_GAP * duration_s or times_s[-1] > duration_s + 60:
        raise NoHeartbeat(
            f"its beats run from {times_s[0]:.0f} to {times_s[-1]:.0f} s of a recording of"
            f" {duration_s:.0f} s"
        )


def check_heart(normal: NDArray[np.bool_], duration_s: float) -> None:
    """Raises NoHeartbeat where a night shows no heart."""
    if normal.sum() < MIN_BEATS_PER_MIN * duration_s / 60.0:
        raise NoHeartbeat(
            f"it shows no heartbeat ({normal.sum()} normal beats in {duration_s / 3600:.1f} h)"
        )


def heart_fields(
    beats_s: NDArray, normal: NDArray[np.bool_] | None, windows: int
) -> dict[str, NDArray[np.float32]]:
    """tachogram, hrv and rr_missing of N windows; of no beats all of it is missing."""
    intervals = rr.nn_intervals(beats_s, normal)
    tachogram = rr.tachogram(intervals, windows)
    return {
        "tachogram": tachogram.astype(np.float32),
        "hrv": rr.hrv(intervals, tachogram).astype(np.float32),
        "rr_missing": np.isnan(tachogram).mean(1).astype(np.float32),
    }


def bcg_fields(bcg: Series, windows: int, samples: bool = True) -> dict[str, Any]:
    """The BCG's series, samples, scale, digest and quality.

    Args:
      bcg: on the night's clock, in any unit; `Series.without_flat`.
      windows: how many there are, N.
      samples: whether `bcg` is kept, or left empty.

    Raises:
      NoHeartbeatBand: as `features.bcg.prepared`.
    """
    uniform = on_windows(bcg, windows)
    ready = prepared(uniform)
    scale = max(float(np.abs(ready.values_NS).max()), 1.0) / 32767.0
    counts = np.rint(ready.values_NS / scale).astype(np.int16)
    snr_db = np.where(ready.usable_N, quality.snr_db(ready.values_NS, schema.BCG_HZ), np.nan)
    found = _bcg_fields(uniform, counts, scale, ready.missing_N, snr_db)
    return found if samples else found | {"bcg": counts[:0]}


def no_bcg_fields(windows: int) -> dict[str, Any]:
    """The same fields of a night without BCG."""
    empty = Series.of(np.full(windows * schema.BCG_SAMPLES, np.nan), schema.BCG_HZ)
    nothing = np.zeros((0, schema.BCG_SAMPLES), np.int16)
    return _bcg_fields(empty, nothing, 1.0, np.ones(windows), np.full(windows, np.nan))


def _bcg_fields(
    uniform: Series, counts: NDArray[np.int16], scale: float, missing_N: NDArray, snr_db_N: NDArray
) -> dict[str, Any]:
    series = bcg_series(uniform, len(missing_N)).fields()
    digest = hashlib.sha256(counts.tobytes() + np.float32(scale).tobytes())
    for array in series.values():
        digest.update(array.tobytes())
    return {
        **series,
        "bcg": counts,
        "bcg_scale": np.float32(scale),
        "bcg_digest": digest.hexdigest(),
        "bcg_missing": missing_N.astype(np.float32),
        "bcg_snr_db": snr_db_N.astype(np.float32),
    }
