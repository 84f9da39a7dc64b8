"""A split in memory, and batches of window sequences drawn from it.

Which windows batch number `step` holds is a pure function of (seed, step): a run that was stopped
goes on with the very batches that it would have had, with no iterator to save.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep import schema
from kd_sleep.datasets.splits import assert_disjoint
from kd_sleep.errors import DatasetError
from kd_sleep.stages import UNSCORED

Batch = dict[str, NDArray]


@dataclasses.dataclass(frozen=True)
class Nights:
    """R nights side by side, padded at the end to the longest, N windows.

    Attributes:
      recording_ids, subject_ids: [R].
      windows: [R] how many windows each night has.
      label: [R, N] int8, UNSCORED beyond the night's end.
      tachogram: [R, N, T] float32, NN relative to the night's median, in tenths; 0 where missing.
      tachogram_valid: [R, N, T] bool.
      hrv: [R, N, F] float32, z-scores over the night, then the night's mean NN; 0 where missing.
      bcg: [R, N, S] int16; times bcg_scale [R] it is in heartbeat amplitudes.
      rr_missing, bcg_missing, bcg_snr_db: [R, N] float32.
      teacher_digest: [R] of what the teacher is shown; soft labels hold for it alone.
      cohort, bcg_source: where the nights and their BCG come from.
    """

    recording_ids: tuple[str, ...]
    subject_ids: tuple[str, ...]
    windows: NDArray[np.int64]
    label: NDArray[np.int8]
    tachogram: NDArray[np.float32]
    tachogram_valid: NDArray[np.bool_]
    hrv: NDArray[np.float32]
    rr_missing: NDArray[np.float32]
    bcg: NDArray[np.int16]
    bcg_scale: NDArray[np.float32]
    bcg_missing: NDArray[np.float32]
    bcg_snr_db: NDArray[np.float32]
    teacher_digest: tuple[str, ...]
    cohort: str
    bcg_source: str

    def __len__(self) -> int:
        return len(self.recording_ids)

    def select(self, rows: NDArray[np.int64] | list[int]) -> Nights:
        """These nights alone, in this order."""
        rows = np.asarray(rows, np.int64)
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                changes[field.name] = value[rows]
            elif isinstance(value, tuple):
                changes[field.name] = tuple(value[row] for row in rows)
        return dataclasses.replace(self, **changes)

    def digest(self) -> str:
        """Of everything that training reads: a run goes on with the very data it began with."""
        parts = [_digest(self.label), _digest(self.bcg), _digest(self.bcg_scale), self.bcg_source]
        return _digest(np.array([*parts, *self.recording_ids, *self.teacher_digest]))

    def labels(self) -> list[NDArray[np.int8]]:
        """Each night's labels, unpadded."""
        return [self.label[row, :count] for row, count in enumerate(self.windows)]


def bcg_source_of(data_dir: str | Path) -> str:
    """Which config of shhs_bcg lies under `data_dir`.

    Raises:
      DatasetError: where there is none, or more than one.
    """
    found = [
        name
        for name in schema.BCG_SOURCES
        if (Path(data_dir) / "shhs_bcg" / name / schema.SCHEMA_VERSION).is_dir()
    ]
    if not found:
        raise DatasetError(
            f"{data_dir}: no dataset shhs_bcg of version {schema.SCHEMA_VERSION}.",
            "Build one with `python -m launch.build_dataset`.",
        )
    if len(found) > 1:
        raise DatasetError(
            f"{data_dir}: two datasets, shhs_bcg/{' and shhs_bcg/'.join(found)}.",
            "Each needs a --data_dir of its own: move one of the two folders.",
        )
    return found[0]


def read_split(data_dir: str | Path, split: str) -> Nights:
    """Reads a split of `shhs_bcg` into memory.

    Raises:
      DatasetError: no dataset there, or one in which a subject is in two splits.
    """
    import tensorflow_datasets as tfds

    source = bcg_source_of(data_dir)
    folder = Path(data_dir) / "shhs_bcg" / source / schema.SCHEMA_VERSION
    builder = tfds.builder_from_directory(folder)
    subjects = (builder.info.metadata or {}).get("subjects", {})
    assert_disjoint(subjects)
    records = [dict(record) for record in builder.as_data_source(split=split)]
    for record in records:
        for name, field in schema.NIGHT_FIELDS.items():
            if field.dtype is str:
                record[name] = record[name].decode()
    stray = {record["subject_id"] for record in records} - set(subjects.get(split, ()))
    if stray:
        raise DatasetError(
            f"{folder}: {split} holds subjects that are not its own: {sorted(stray)}."
        )
    return stack(sorted(records, key=lambda record: record["recording_id"]))


def stack(records: list[dict]) -> Nights:
    """Nights from records as `schema.NIGHT_FIELDS` describes them."""
    longest = max(len(record["label"]) for record in records)

    def padded(arrays: list[NDArray], fill: float = 0) -> NDArray:
        out = np.full((len(arrays), longest, *arrays[0].shape[1:]), fill, arrays[0].dtype)
        for row, array in enumerate(arrays):
            out[row, : len(array)] = array
        return out

    shown = [_teacher_inputs(record) for record in records]
    return Nights(
        recording_ids=tuple(record["recording_id"] for record in records),
        subject_ids=tuple(record["subject_id"] for record in records),
        windows=np.array([len(record["label"]) for record in records]),
        label=padded([record["label"] for record in records], UNSCORED),
        tachogram=padded([tachogram for tachogram, _, _ in shown]),
        tachogram_valid=padded([valid for _, valid, _ in shown]),
        hrv=padded([hrv for _, _, hrv in shown]),
        rr_missing=padded([record["rr_missing"] for record in records], 1.0),
        bcg=padded([record["bcg"] for record in records]),
        bcg_scale=np.array([record["bcg_scale"] for record in records], np.float32),
        bcg_missing=padded([record["bcg_missing"] for record in records], 1.0),
        bcg_snr_db=padded([record["bcg_snr_db"] for record in records], np.nan),
        teacher_digest=tuple(_digest(*arrays) for arrays in shown),
        cohort=_one({record["cohort"] for record in records}),
        bcg_source=_one({record["bcg_source"] for record in records}),
    )


def _one(values: set[str]) -> str:
    return " and ".join(sorted(values))


def _digest(*arrays: NDArray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _teacher_inputs(record: dict) -> tuple[NDArray, NDArray, NDArray]:
    """Tachogram, its validity, and HRV, scaled by the night itself: a slow heart is no stage."""
    tachogram = np.asarray(record["tachogram"])
    valid = np.isfinite(tachogram)
    median = float(np.median(tachogram[valid])) if valid.any() else 1.0
    relative = np.where(valid, (tachogram / median - 1.0) * 10.0, 0.0)
    hrv = np.asarray(record["hrv"])
    there = np.isfinite(hrv)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, hrv, 0.0).sum(0) / count
    sd = np.sqrt(np.where(there, (hrv - mean) ** 2, 0.0).sum(0) / count)
    z = np.where(there, (hrv - mean) / np.maximum(sd, 1e-6), 0.0)
    baseline = np.full((len(hrv), 1), (median - 0.95) * 5.0)
    return (
        np.clip(relative, -10.0, 10.0).astype(np.float32),
        valid,
        np.concatenate([np.clip(z, -5.0, 5.0), baseline], axis=1).astype(np.float32),
    )


def crop(
    nights: Nights, rows: NDArray, starts: NDArray, length: int, columns: tuple[str, ...]
) -> Batch:
    """B sequences of L windows from `starts` on; `valid_BL` is False beyond a night's ends."""
    windows = starts[:, None] + np.arange(length)
    valid = (windows >= 0) & (windows < nights.windows[rows][:, None])
    index = (rows[:, None], windows.clip(0, nights.label.shape[1] - 1))
    batch: Batch = {name: getattr(nights, name)[index] for name in columns}
    if "bcg" in columns:
        batch["bcg_scale"] = nights.bcg_scale[rows]
    batch["label"] = np.where(valid, nights.label[index], UNSCORED).astype(np.int8)
    batch["valid_BL"] = valid
    return batch


@dataclasses.dataclass(frozen=True)
class Crops:
    """Batches of B sequences of L windows; in a pass through the data each window comes up once.

    A night is cut into ceil(windows / L) sequences whose grid is shifted anew in every pass; the
    sequences of all nights are then permuted.
    """

    windows: NDArray[np.int64]  # of each night
    batch_size: int
    length: int
    seed: int

    @property
    def per_pass(self) -> int:
        """Sequences in a pass."""
        return int(np.ceil(self.windows / self.length).sum())

    def __call__(self, step: int) -> tuple[NDArray, NDArray]:
        """Rows [B] and first windows [B] of batch number `step`, from 0."""
        places = step * self.batch_size + np.arange(self.batch_size)
        rows, starts = np.empty_like(places), np.empty_like(places)
        for number in np.unique(places // self.per_pass):
            mine = places // self.per_pass == number
            pass_rows, pass_starts = self._pass(int(number))
            rows[mine] = pass_rows[places[mine] % self.per_pass]
            starts[mine] = pass_starts[places[mine] % self.per_pass]
        return rows, starts

    def _pass(self, number: int) -> tuple[NDArray, NDArray]:
        rng = np.random.default_rng([self.seed, number])
        cuts = np.ceil(self.windows / self.length).astype(np.int64)
        shift = rng.integers(0, cuts * self.length - self.windows + 1)
        rows = np.repeat(np.arange(len(self.windows)), cuts)
        first = np.concatenate([[0], np.cumsum(cuts)[:-1]])
        starts = (np.arange(len(rows)) - first[rows]) * self.length - shift[rows]
        order = rng.permutation(len(rows))
        return rows[order], starts[order]


def whole_nights(nights: Nights, columns: tuple[str, ...], batch_size: int = 4) -> Iterator[Batch]:
    """All nights whole, in order, in batches of one shape; the last is padded with empty ones."""
    length = nights.label.shape[1]
    for first in range(0, len(nights), batch_size):
        rows = np.arange(first, first + batch_size)
        real = rows < len(nights)
        batch = crop(
            nights, rows.clip(max=len(nights) - 1), np.zeros(batch_size, np.int64), length, columns
        )
        batch["valid_BL"] &= real[:, None]
        batch["label"] = np.where(real[:, None], batch["label"], UNSCORED).astype(np.int8)
        yield batch
