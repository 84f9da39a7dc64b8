"""A real BCG recording of a night, on its own clock.

| file | channels | rate | start |
|---|---|---|---|
| `.edf` | as labelled; EDF+D with gaps | header | header |
| `.csv`, `.tsv`, `.txt` | columns under a header line | time stamps, column `fs` | clock text |
| `.npy` | 1-D, or 2-D with time along the longer axis | `rate_hz=` | - |
| `.npz` | arrays by name, 1-D or 2-D | scalar `fs` or `rate_hz` | scalar `start` |
| `.h5`, `.hdf5`, `.hdf` | datasets at any depth, 1-D or 2-D | attribute `fs`, `rate_hz` | `start` |

Who gives `rate_hz=` may leave the rate out of any of them. CSV has `,`, `;` or tab between cells,
with `;` and tab also decimal commas. Empty cells, and steps between time stamps, are gaps and
become NaN. In HDF5, rate and start stand at the dataset, in a scalar dataset beside it, or above.

A CSV may also have the first row's cells alone for `Timestamp` and `fs`, as in the dataset of Li et
al. (Scientific Data 2024). Stamps that count from 1970 tell UTC, and not the sleeper's zone.

Of several channels the one named by the caller is taken; else those with a bed sensor's name; else
all but those whose names say something else (time, breathing, ECG, stages, ...). If several are
left, the best by `signals.quality.snr_db`.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import re

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import bcg_csv, bcg_formats
from kd_sleep.recordings.bcg_formats import Channel, Contents, Samples, fold
from kd_sleep.recordings.recording import LONGEST_S, SHORTEST_S, Signal
from kd_sleep.signals.filters import bridged, resample
from kd_sleep.signals.quality import snr_db

_FLAGS = "(--channel of stage_night, --bcg_channel of build_dataset)"
LOWEST_HZ = 50.0  # heartbeats and the noise band beside them reach up to 20 Hz
HIGHEST_HZ = bcg_formats.HIGHEST_HZ
_RATE_TOLERANCE = 0.01
_JUDGED_S = 7200.0  # of the night's middle, when channels are compared
_JUDGED_HZ = 100.0
_JUDGED_WINDOW_S = 10
_COARSE = 1e-5  # of the signal's spread: a hundredth of a heartbeat below breaths 100 times larger

_BED_SENSOR = ("bed", "mattress", "film", "loadcell", "piezo", "pvdf", "emfit")
_OTHER_WORDS = frozenset(
    ("t", "ts", "id", "no", "hr", "rr", "ibi", "spo", "sao", "ecg", "ekg", "eeg", "eog", "emg",
     "ppg", "pos", "ox", "stat", "abdo", "airflow", "new", "air")
)  # fmt: skip
_OTHER_STARTS = (
    "time", "date", "index", "sample", "unnamed", "resp", "breath", "thor", "abd", "temp", "humid",
    "label", "stage", "hypno", "sleep", "heart", "pulse", "pleth", "position", "light", "batter",
    "event", "marker", "annotation", "status", "trigger", "counter", "quality", "flag", "snor",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BcgRecording:
    """A night seen by a bed sensor.

    Attributes:
      signal: the BCG, in whatever unit, gain and polarity the sensor has; its label is the channel
        that was chosen.
      start: by the sensor's clock, which drifts against the sleep recorder's: local and naive, or
        aware where the file tells UTC; None where unusable.
      other_channels: labels of what else could have been read.
      notes: what a reader of the night should know, in sentences, such as how many samples are
        missing, or that the rate is a mean over coarse time stamps.
    """

    signal: Signal
    start: datetime.datetime | None
    other_channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_bcg(path: str | os.PathLike, channel: str = "", rate_hz: float = 0.0) -> BcgRecording:
    """Reads one BCG channel of a file; the module's docstring lists the formats.

    Values keep unit, gain and polarity. Infinite ones, and those beyond float32, are damage and
    become NaN; where float32 is too coarse for a large offset, the median is taken off. Notes say
    so.

    Args:
      path: its suffix tells the format, and its first bytes must agree.
      channel: its name; case and spaces do not matter, and of an HDF5 name the last part will do.
        Empty takes the only channel, or the best.
      rate_hz: samples per second, for a file that does not tell; 0 for one that does.

    Raises:
      RecordingError: for a file that is missing, damaged or of no known format; without the
        channel, or any that can be a BCG; without a rate, or with another than `rate_hz` by more
        than 1 %; outside 50 to 1000 Hz or 5 minutes to 24 hours; or that never changes.
    """
    contents = _contents(path)
    candidates = _candidates(path, contents, channel)
    best, best_db = None, -np.inf
    refused = []
    for candidate in candidates:
        try:
            signal, notes = _signal(path, candidate, candidate.load(), rate_hz)
        except RecordingError as error:
            refused.append(error)
            continue
        quality_db = _quality_db(signal) if len(candidates) > 1 else 0.0
        if best is None or quality_db > best_db:
            best, best_db = (candidate, signal, notes), quality_db
    if best is None:
        raise refused[0]
    chosen, signal, notes = best
    return BcgRecording(
        signal,
        contents.start,
        tuple(other.label for other in contents.channels if other is not chosen),
        notes,
    )


def _contents(path: str | os.PathLike) -> Contents:
    kind = bcg_formats.kind_of(path)
    reader = {
        "EDF": bcg_formats.edf_contents,
        "CSV": bcg_csv.csv_contents,
        "NPY": bcg_formats.npy_contents,
        "NPZ": bcg_formats.npz_contents,
        "HDF5": bcg_formats.hdf5_contents,
    }[kind]
    contents = reader(path)
    if not contents.channels:
        raise RecordingError(
            path, "has no channel of numbers that can be a signal.", "Choose the signal's file."
        )
    return contents


def _candidates(path: str | os.PathLike, contents: Contents, channel: str) -> list[Channel]:
    """The channels among which quality decides; at least one."""
    names = ", ".join(other.label for other in contents.channels[:20])
    if len(contents.channels) > 20:
        names += f" and {len(contents.channels) - 20} others"
    if fold(channel):
        named = [other for other in contents.channels if fold(channel) in _spellings(other.label)]
        if not named:
            raise RecordingError(
                path, f"has no channel {channel!r} among {names}.", f"Name one of these {_FLAGS}."
            )
        return named
    if len(contents.channels) == 1:
        return list(contents.channels)
    possible = [other for other in contents.channels if not _is_other(other.label)]
    if not possible:
        raise RecordingError(
            path, f"has no BCG channel among {names}.", f"Name the channel that is one {_FLAGS}."
        )
    return [other for other in possible if _is_bed_sensor(other.label)] or possible


def _spellings(label: str) -> set[str]:
    """A label as callers may write it: whole, without its unit, column or HDF5 groups."""
    bare = re.sub(r"\s*[\[(].*[\])]\s*$", "", label)
    return {fold(name) for name in (label, bare, label.split("/")[-1], bare.split("/")[-1])}


def _is_other(label: str) -> bool:
    words = re.findall(r"[a-z]+", re.sub(r"[\[(].*[\])]", "", label.split("/")[-1]).lower())
    return any(w in _OTHER_WORDS or w.startswith(_OTHER_STARTS) for w in words) or not label.strip()


def _is_bed_sensor(label: str) -> bool:
    return any(
        "bcg" in fold(part) or fold(part).startswith(("ballisto", *_BED_SENSOR))
        for part in label.split("/")
    )


def _signal(
    path: str | os.PathLike, channel: Channel, samples: Samples, rate_hz: float
) -> tuple[Signal, tuple[str, ...]]:
    """The channel as float32, checked."""
    what = f"channel {channel.label!r}"
    if not (samples.rate_hz or rate_hz):
        raise RecordingError(
            path, "does not tell its sampling rate.", "Give the rate in Hz (--bcg_rate_hz)."
        )
    if samples.rate_hz and rate_hz and abs(samples.rate_hz / rate_hz - 1.0) > _RATE_TOLERANCE:
        raise RecordingError(
            path,
            f"{what} has {samples.rate_hz:.6g} Hz, not the {rate_hz:g} Hz that were given.",
            "Give no rate, or correct the file.",
        )
    rate_hz = samples.rate_hz or rate_hz
    if not LOWEST_HZ <= rate_hz <= HIGHEST_HZ:
        raise RecordingError(
            path,
            f"{what} has {rate_hz:.6g} Hz.",
            f"BCG is needed at {LOWEST_HZ:g} to {HIGHEST_HZ:g} Hz.",
        )
    seconds = len(samples.values) / rate_hz
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise RecordingError(
            path,
            f"{what} lasts {seconds / 60:.4g} minutes.",
            "A recording of 5 minutes to 24 hours is needed.",
        )
    values, notes = _single(samples.values)
    missing = np.isnan(values)
    if missing.all():
        raise RecordingError(path, f"{what} has no samples, only gaps.", "Leave the night out.")
    if np.nanmax(values) == np.nanmin(values):
        raise RecordingError(
            path, f"{what} never changes.", "Check the sensor; leave the night out."
        )
    if missing.any():
        notes = (*notes, f"{missing.mean():.2%} of the samples are missing.")
    return Signal(values, rate_hz, samples.unit, channel.label), (*samples.notes, *notes)


def _single(values: NDArray) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """As float32, NaN for what is infinite or beyond it; less the median where that is needed."""
    if values.dtype == np.float32 and np.abs(values).max() < np.inf:  # NaN compares as False
        return np.ascontiguousarray(values), ()
    with np.errstate(invalid="ignore", over="ignore"):  # NaN of any kind are gaps
        exact = np.asarray(values, np.float64)
        damaged = np.abs(exact) > np.finfo(np.float32).max
    notes: tuple[str, ...] = ()
    if damaged.any():
        exact = np.where(damaged, np.nan, exact)
        notes = (f"{np.count_nonzero(damaged)} samples were infinite or beyond any sensor.",)
    single = exact.astype(np.float32)
    if not np.array_equal(single, exact, equal_nan=True):
        low, middle, high = np.nanpercentile(exact, (25, 50, 75))
        if np.spacing(np.float32(max(abs(low), abs(high)))) > _COARSE * (high - low):
            single = (exact - middle).astype(np.float32)
            notes = (*notes, f"The median {middle:.10g} was taken off, too large for float32.")
    return single, notes


def _quality_db(signal: Signal) -> float:
    """Median over the windows of the night's middle; -inf where no window can be judged."""
    size = min(len(signal.values), round(_JUDGED_S * signal.rate_hz))
    first = (len(signal.values) - size) // 2
    values, missing = bridged(signal.values[first : first + size])
    rate_hz = min(signal.rate_hz, _JUDGED_HZ)
    values = values / (np.abs(values).max() or 1.0)  # so that no square of it overflows
    values = resample(values, signal.rate_hz, rate_hz)
    window = round(_JUDGED_WINDOW_S * rate_hz)
    windows = values[: len(values) // window * window].reshape(-1, window)
    at = np.minimum(np.arange(windows.size) * signal.rate_hz / rate_hz, size - 1).astype(np.int64)
    whole = ~missing[at].reshape(windows.shape).any(1)
    if not whole.any():
        return -np.inf
    with np.errstate(divide="ignore"):
        ratios_db = snr_db(windows[whole], rate_hz)
    return float(np.nanmedian(ratios_db)) if np.isfinite(ratios_db).any() else -np.inf
