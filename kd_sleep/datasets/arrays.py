"""Nights that are arrays in memory: checked, and made into records by the builder's functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.errors import DatasetError
from kd_sleep.features import fields
from kd_sleep.features.bcg import NoHeartbeatBand
from kd_sleep.schema import LOWEST_BCG_HZ, WINDOW_S
from kd_sleep.signals.timeseries import Series
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES, UNSCORED

PerNight = Sequence[ArrayLike | None] | None  # an array or None for each night
Rates = float | Sequence[float | None] | None  # of all nights, or of each
SLACK_S = WINDOW_S  # that two recordings of one night may differ by in length


def records(
    subject_ids: Sequence[str | int],
    recording_ids: Sequence[str] | None,
    signals: Mapping[str, PerNight],
    ecg_rate_hz: Rates,
    bcg_rate_hz: Rates,
    cohort: str,
    bcg_samples: bool,
) -> list[dict[str, Any]]:
    """What `Nights.from_arrays` takes, as records that `datasets.nights.stack` takes.

    `signals` are its arguments stages, ecg, beat_times_s and bcg, by name.
    """
    subjects = [str(name) for name in subject_ids]
    if not subjects or isinstance(subject_ids, str) or not all(subjects):
        raise DatasetError("subject_ids: expected a name for each night, at least one.")
    names = list(recording_ids) if recording_ids is not None else _numbered(subjects)
    _assert_count("recording_ids", names, len(subjects))
    if len(set(names)) != len(names) or not all(isinstance(n, str) and n for n in names):
        raise DatasetError("recording_ids: expected texts, each once.")
    given = {name: _arrays(name, value, len(subjects)) for name, value in signals.items()}
    ecg_hz = _rates("ecg_rate_hz", ecg_rate_hz, given["ecg"], fields.MIN_ECG_HZ)
    bcg_hz = _rates("bcg_rate_hz", bcg_rate_hz, given["bcg"], LOWEST_BCG_HZ)
    found = []
    for row, (name, subject) in enumerate(zip(names, subjects, strict=True)):
        arrays = {signal: values[row] for signal, values in given.items()}
        night = _Night(row, ecg_hz[row], bcg_hz[row], **arrays)
        ids = {"recording_id": name, "subject_id": subject, "cohort": cohort}
        found.append(ids | night.fields(bcg_samples))
    return found


@dataclasses.dataclass(frozen=True)
class _Night:
    """One night's arrays, all of which begin at one moment."""

    row: int
    ecg_hz: float
    bcg_hz: float
    stages: NDArray | None
    ecg: NDArray | None
    beat_times_s: NDArray | None
    bcg: NDArray | None

    def fields(self, bcg_samples: bool) -> dict[str, Any]:
        windows = self._windows()
        label = np.full(windows, UNSCORED) if self.stages is None else self.stages
        heart, bcg = self._heart(windows), self._bcg(windows, bcg_samples)
        return {"label": label.astype(np.int8), **heart, **bcg}

    def _wrong(self, name: str, problem: str, remedy: str = "") -> DatasetError:
        return DatasetError(f"{name}[{self.row}]: {problem}.", remedy)

    def _windows(self) -> int:
        """How many windows the night has: those of its stages, else the complete ones."""
        if self.ecg is not None and self.beat_times_s is not None:
            raise self._wrong("beat_times_s", "this night has an ECG, too", "Give one of the two.")
        if self.ecg is None and self.beat_times_s is None and self.bcg is None:
            raise self._wrong("ecg", "this night has no ECG, no beat times and no BCG")
        lengths_s = {}
        if self.ecg is not None:
            lengths_s["ecg"] = len(self.ecg) / self.ecg_hz
        if self.bcg is not None:
            lengths_s["bcg"] = len(self.bcg) / self.bcg_hz
        if self.stages is not None:
            first, seconds = "stages", len(self.stages) * WINDOW_S
        elif lengths_s:
            first, seconds = next(iter(lengths_s.items()))
        else:
            assert self.beat_times_s is not None
            first, seconds = "beat_times_s", float(self.beat_times_s[-1])
        for name, length_s in lengths_s.items():
            if abs(length_s - seconds) > SLACK_S:
                raise self._wrong(
                    name,
                    f"it lasts {length_s:.0f} s at this rate, {first} {seconds:.0f} s",
                    "All of a night begins and ends together: is the rate right? Put NaN where a"
                    f" signal is missing, {UNSCORED} where a stage is.",
                )
        count = int(seconds / WINDOW_S + 1e-9)
        if count < 1:
            raise self._wrong(first, f"it holds no window of {WINDOW_S:.0f} s")
        return count

    def _heart(self, windows: int) -> dict[str, NDArray[np.float32]]:
        seconds = windows * WINDOW_S
        beats, normal = np.empty(0), None
        try:
            if self.beat_times_s is not None:
                beats = self.beat_times_s.astype(np.float64)
                fields.check_given_beats(beats, seconds)
                fields.check_heart(np.ones(len(beats), bool), seconds)
            elif self.ecg is not None:
                beats, normal, _ = fields.detected_beats(self.ecg, self.ecg_hz)
                fields.check_heart(normal, seconds)
        except fields.NoHeartbeat as error:
            name = "beat_times_s" if self.ecg is None else "ecg"
            raise self._wrong(name, str(error), "Is the rate right? Leave the night out.") from None
        return fields.heart_fields(beats, normal, windows)

    def _bcg(self, windows: int, samples: bool) -> dict[str, Any]:
        if self.bcg is None:
            return {"bcg_source": "none", **fields.no_bcg_fields(windows)}
        bcg = Series.of(self.bcg, self.bcg_hz).without_flat()
        try:
            return {"bcg_source": "paired", **fields.bcg_fields(bcg, windows, samples)}
        except NoHeartbeatBand as error:
            problem = str(error).rstrip(".")
            raise self._wrong("bcg", problem, "Leave this night's BCG out (None).") from None


def _numbered(subjects: Sequence[str]) -> list[str]:
    """A name for each night: the subject's, and which of the subject's nights it is."""
    return [f"{name}-{subjects[: row + 1].count(name)}" for row, name in enumerate(subjects)]


def _assert_count(name: str, values: Sequence, nights: int) -> None:
    if len(values) != nights:
        raise DatasetError(f"{name}: expected one for each of {nights} nights, got {len(values)}.")


def _arrays(name: str, values: PerNight, nights: int) -> list[NDArray | None]:
    """The argument's arrays, each of one axis and of numbers."""
    if values is None:
        return [None] * nights
    _assert_count(name, values, nights)
    return [None if value is None else _array(name, n, value) for n, value in enumerate(values)]


def _array(name: str, row: int, value: ArrayLike) -> NDArray:
    where, array = f"{name}[{row}]", np.asanyarray(value)
    if isinstance(array, np.ma.MaskedArray):
        real = np.ma.filled(array.astype(np.float64), np.nan)
        array = real if array.mask.any() else array.data
    if array.ndim != 1 or not array.size:
        raise DatasetError(f"{where}: expected an array [n], got {list(array.shape)}.")
    kinds, numbers = ("iu", "integers") if name == "stages" else ("iuf", "real numbers")
    if array.dtype.kind not in kinds:
        raise DatasetError(f"{where}: expected {numbers}, got {array.dtype}.")
    if name == "stages" and not UNSCORED <= array.min() <= array.max() < NUM_STAGES:
        names = ", ".join(f"{text} {stage}" for stage, text in enumerate(STAGE_NAMES))
        raise DatasetError(
            f"{where}: {array.min()} to {array.max()}; expected {names}, none {UNSCORED}."
        )
    if name == "beat_times_s":
        if not np.isfinite(array).all() or array[0] < 0 or (np.diff(array) <= 0).any():
            raise DatasetError(f"{where}: expected finite times in s, from 0 on, that increase.")
    elif array.dtype.kind == "f":
        array = np.where(np.isfinite(array), array, array.dtype.type(np.nan))
    return array


def _rates(name: str, rates: Rates, arrays: Sequence[Any], least_hz: float) -> list[float]:
    """A rate for each night; 0 where it has no such array."""
    each: Any = [rates] * len(arrays) if np.ndim(rates) == 0 else list(rates)  # type: ignore[arg-type]
    _assert_count(name, each, len(arrays))
    found = []
    for row, (rate, array) in enumerate(zip(each, arrays, strict=True)):
        good = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
        if array is not None and not (good and least_hz <= rate < np.inf):
            raise DatasetError(
                f"{name}: {rate} of night {row}; expected at least {least_hz:g} samples a second."
            )
        found.append(0.0 if array is None else float(rate))
    return found
