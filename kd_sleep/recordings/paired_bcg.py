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
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import bcg_clock, bcg_csv, bcg_formats, time_stamps
from kd_sleep.recordings.bcg_clock import Clock
from kd_sleep.recordings.bcg_formats import Column, Contents, Samples
from kd_sleep.recordings.edf import fold
from kd_sleep.recordings.recording import LONGEST_S, SHORTEST_S, Signal
from kd_sleep.recordings.time_stamps import HIGHEST_HZ, TIME_NAMES, Stamps, ramp, time_name
from kd_sleep.schema import LOWEST_BCG_HZ
from kd_sleep.signals.quality import snr_db
from kd_sleep.signals.resampling import on_grid

RATE_TOLERANCE = 0.01
_RISES = "only rises or falls, or counts"
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


def read_bcg(
    path: str | os.PathLike,
    channel: str = "",
    rate_hz: float = 0.0,
    *,
    spelt: tuple[str, str] = ("channel=", "rate_hz="),
) -> BcgRecording:
    """Reads one BCG channel of a file; the module's docstring lists the formats.

    Values keep unit, gain and polarity. Infinite ones, and those beyond float32, are damage and
    become NaN; where float32 is too coarse for a large offset, the median is taken off. Notes say
    so.

    Args:
      path: its suffix tells the format, and its first bytes must agree.
      channel: its name; case and spaces do not matter, and of an HDF5 name the last part will do.
        Empty takes the only channel, or the best.
      rate_hz: samples per second, for a file that does not tell; 0 for one that does.
      spelt: how the caller's user writes `channel` and `rate_hz`, for advice in errors.

    Raises:
      RecordingError: for a file that is missing, damaged or of no known format; without the
        channel, or any that can be a BCG; without a rate, or with another than `rate_hz` by more
        than 1 %; outside 40 to 1000 Hz or 5 minutes to 24 hours; or that never changes.
    """
    contents = _contents(path)
    candidates = _candidates(path, contents, channel, spelt[0])
    clocks: dict[int, _Beside] = {}
    best, best_db = None, -np.inf
    refused = []
    for candidate in candidates:
        try:
            samples, start = _samples(path, contents, candidate, rate_hz, clocks)
            signal, notes = _signal(path, candidate.label, samples, rate_hz, spelt[1])
        except RecordingError as error:
            refused.append(error)
            continue
        quality_db = _quality_db(signal) if len(candidates) > 1 else 0.0
        if best is None or quality_db > best_db:
            best, best_db = (candidate, start, signal, notes), quality_db
    if best is None:
        raise next((error for error in refused if _RISES not in error.problem), refused[0])
    chosen, start, signal, notes = best
    others = tuple(other.label for other in contents.columns if other is not chosen)
    return BcgRecording(signal, start, others, notes)


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
    if not any(map(_may_be_signal, contents.columns)):
        times = [
            f"{column.label!r} holds times and no plain numbers" for column in contents.columns
        ]
        why = "; ".join([*contents.refused.values(), *times][:5])
        raise RecordingError(
            path,
            f"has no channel of numbers that can be a signal{': ' * bool(why)}{why}.",
            "Choose the signal's file, or save the signal as plain numbers in one.",
        )
    return contents


def _candidates(
    path: str | os.PathLike, contents: Contents, channel: str, flag: str
) -> list[Column]:
    """The channels among which quality decides; at least one."""
    columns = [column for column in contents.columns if _may_be_signal(column)]
    names = ", ".join(other.label for other in columns[:20])
    if len(columns) > 20:
        names += f" and {len(columns) - 20} others"
    if fold(channel):
        named = [other for other in columns if fold(channel) in _spellings(other.label)]
        if not named:
            why = [text for label, text in contents.refused.items() if fold(label) == fold(channel)]
            raise RecordingError(
                path,
                f"has no channel {channel!r} among {names}{': ' * bool(why)}{''.join(why)}.",
                f"Name one of these with {flag}.",
            )
        return named
    possible = [other for other in columns if not _is_other(other.label)]
    if len(columns) == 1 or not possible:
        possible = columns
        if len(columns) > 1:
            raise RecordingError(
                path, f"has no BCG channel among {names}.", f"Name the one with {flag}."
            )
    return [other for other in possible if _is_bed_sensor(other.label)] or possible


@np.errstate(all="ignore")  # damaged numbers may be as large as floats go
def _samples(
    path: str | os.PathLike,
    contents: Contents,
    column: Column,
    rate_hz: float,
    clocks: dict[int, _Beside],
) -> tuple[Samples, datetime.datetime | None]:
    """A channel on the clock of its rows, and when it starts."""
    stated_hz = _as_hz(path, column.label, contents.rate if column.rate is None else column.rate)
    start = contents.start if column.start is None else time_stamps.start_of(column.start)
    around = [] if column.rows in clocks else _possible_clocks(contents, column)
    values, *beside = contents.load([column, *around])
    samples = values if isinstance(values, Samples) else Samples(values, stated_hz)
    if ramp(samples.values):
        raise RecordingError(
            path, f"channel {column.label!r} {_RISES}: a clock or a count, no BCG.", "Name another."
        )
    if column.rows not in clocks:
        table = list(zip(around, beside, strict=True))
        clocks[column.rows] = _clock_beside(path, contents, table, stated_hz or rate_hz)
    clock, stamped, notes = clocks[column.rows]
    if clock is not None:
        if stated_hz and abs(clock.rate_hz / stated_hz - 1.0) > RATE_TOLERANCE:
            raise RecordingError(
                path,
                f"its time stamps tell {clock.rate_hz:.6g} Hz, what it says of its rate"
                f" {stated_hz:g} Hz.",
                "Remove the wrong one of them.",
            )
        samples = Samples(clock.spread(samples.values), clock.rate_hz)
    unit = re.fullmatch(r".*?\s*[\[(](.*?)[\])]\s*", column.label)
    if unit and not samples.unit and not unit[1].isdigit():
        samples = dataclasses.replace(samples, unit=unit[1])
    start = start or stamped
    if clock is not None and start is None:
        notes = (*notes, "Its time stamps count from no date: it has no start.")
    return dataclasses.replace(samples, notes=(*samples.notes, *notes)), start


def _as_hz(path: str | os.PathLike, label: str, stated: Any) -> float:
    if stated is None:
        return 0.0
    try:
        rate_hz = float(stated)
    except (ValueError, TypeError):
        rate_hz = -1.0
    if not 0 < rate_hz < np.inf:
        raise RecordingError(
            path, f"tells {str(stated)[:40]!r} as the rate of {label!r}.", "Correct it."
        )
    return rate_hz


def _possible_clocks(contents: Contents, column: Column) -> list[Column]:
    """The column beside a channel that is its clock by name or kind; else all that seem to rise."""
    beside = [c for c in contents.columns if c.rows == column.rows and c is not column]
    named = [c for c in beside if _is_time(c)]
    if named:  # the nearest in an HDF5 file's groups, and of several the one that moves most often
        here = column.label.split("/")[:-1]

        def rank(c: Column) -> tuple[bool, int]:
            return c.label.split("/")[:-1] == here, len(np.unique(c.peek))

        return [max(named, key=rank)]
    return [c for c in beside if c.peek.size and np.ptp(c.peek) > 0 and ramp(c.peek)]


_Beside = tuple[Clock | None, datetime.datetime | None, tuple[str, ...]]


def _clock_beside(
    path: str | os.PathLike,
    contents: Contents,
    table: Sequence[tuple[Column, Any]],
    stated_hz: float,
) -> _Beside:
    """The clock among columns, its start, and notes on those that only rise and are none."""
    rising = {}
    for column, values in table:
        named = _is_time(column)
        if not named and not ramp(values):
            continue
        stamps = values
        if not isinstance(values, Stamps):
            stamps = time_stamps.stamps_of(values, column.label, stated_hz, contents.row_name)
        if isinstance(stamps, Stamps):
            clock = bcg_clock.uniform_clock(path, stamps.seconds, contents.row_name)
            return clock, stamps.start, (*stamps.notes, *clock.notes)
        rising[column.label] = stamps
        if named or not stated_hz:
            raise RecordingError(
                path,
                f"column {column.label!r} may be its clock, but {stamps}.",
                "Name it by its unit, such as time_s or time_ms, or remove it and give the rate.",
            )
    notes = [
        f"Column {label!r} only rises, and is no clock: {why}." for label, why in rising.items()
    ]
    return None, None, tuple(notes)


def _is_time(column: Column) -> bool:
    return column.peek.dtype.kind in "SM" or time_name(column.label)[0] in TIME_NAMES


def _may_be_signal(column: Column) -> bool:
    return not _is_time(column) and column.peek.dtype.kind in "iuf"


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
    path: str | os.PathLike, label: str, samples: Samples, rate_hz: float, flag: str
) -> tuple[Signal, tuple[str, ...]]:
    """The channel as float32, checked."""
    what = f"channel {label!r}"
    if not (samples.rate_hz or rate_hz):
        raise RecordingError(
            path, "does not tell its sampling rate.", f"Give the rate in Hz with {flag}."
        )
    if samples.rate_hz and rate_hz and abs(samples.rate_hz / rate_hz - 1.0) > RATE_TOLERANCE:
        raise RecordingError(
            path,
            f"{what} has {samples.rate_hz:.6g} Hz, not the {rate_hz:g} Hz that were given.",
            "Give no rate, or correct the file.",
        )
    rate_hz = samples.rate_hz or rate_hz
    if not LOWEST_BCG_HZ <= rate_hz <= HIGHEST_HZ:
        raise RecordingError(
            path,
            f"{what} has {rate_hz:.6g} Hz.",
            f"BCG is needed at {LOWEST_BCG_HZ:g} to {HIGHEST_HZ:g} Hz.",
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
    return Signal(values, rate_hz, samples.unit, label), (*samples.notes, *notes)


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
    with np.errstate(invalid="ignore"):
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
    middle = signal.series[first : first + size]
    middle = on_grid(middle, min(signal.rate_hz, _JUDGED_HZ))
    values = middle.values / (np.abs(middle.values).max() or 1.0)  # or their squares overflow
    window = round(_JUDGED_WINDOW_S * middle.rate_hz)
    whole = len(values) // window * window
    windows = values[:whole].reshape(-1, window)
    there = ~middle.missing[:whole].reshape(windows.shape).any(1)
    if not there.any():
        return -np.inf
    with np.errstate(divide="ignore"):
        ratios_db = snr_db(windows[there], middle.rate_hz)
    return float(np.nanmedian(ratios_db)) if np.isfinite(ratios_db).any() else -np.inf
