"""A split in memory: the windows of all its nights end to end."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_sleep import schema
from kd_sleep.datasets import arrays
from kd_sleep.datasets.splits import assert_disjoint
from kd_sleep.errors import DatasetError
from kd_sleep.extras import optional_packages
from kd_sleep.features.inputs import SCOPES, summary, teacher_inputs


class Place(NamedTuple):
    """Where a night's record lies: which one of a split of a dataset."""

    data_dir: str
    split: str
    position: int


@dataclasses.dataclass(frozen=True)
class Nights:
    """R nights with W windows in all; night r holds windows `first[r]` to `first[r] + windows[r]`.

    Attributes:
      recording_ids, subject_ids: of each night.
      windows: [R] how many windows each night has.
      label: [W] int8.
      tachogram: [W, T] float32, NN relative to the night's median, in tenths; 0 where missing.
      tachogram_valid: [W, T] bool.
      hrv: [W, F + 1] float32, z-scores over the night, then the night's mean NN; 0 where missing.
      jj, beat_confidence, breath, movement: [W, …] a BCG's series, as `schema.NIGHT_FIELDS` has
        them; NaN where missing.
      summary_night, summary_past, summary_window: [W, F] float32, of the three scopes of
        `features.inputs.summary`.
      bcg: [W, S] int16; times bcg_scale [W] it is in heartbeat amplitudes. None if not read.
      rr_missing, bcg_missing, bcg_snr_db: [W] float32.
      teacher_digest: of what the teacher is shown of each night; soft labels hold for it alone.
      bcg_digest: of each night's BCG.
      places: of each night's record, from which the BCG's samples are streamed where `bcg` is None;
        None where it was read from no dataset.
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
    jj: NDArray[np.float32]
    beat_confidence: NDArray[np.float16]
    breath: NDArray[np.float16]
    movement: NDArray[np.float16]
    summary_night: NDArray[np.float32]
    summary_past: NDArray[np.float32]
    summary_window: NDArray[np.float32]
    bcg: NDArray[np.int16] | None
    bcg_scale: NDArray[np.float32]
    bcg_missing: NDArray[np.float32]
    bcg_snr_db: NDArray[np.float32]
    teacher_digest: tuple[str, ...]
    bcg_digest: tuple[str, ...]
    places: tuple[Place | None, ...]
    cohort: str
    bcg_source: str

    @classmethod
    def from_arrays(
        cls,
        *,
        subject_ids: Sequence[str | int],
        recording_ids: Sequence[str] | None = None,
        stages: arrays.PerNight = None,
        ecg: arrays.PerNight = None,
        ecg_rate_hz: arrays.Rates = None,
        beat_times_s: arrays.PerNight = None,
        bcg: arrays.PerNight = None,
        bcg_rate_hz: arrays.Rates = None,
        cohort: str = schema.RECORDED,
        bcg_samples: bool = False,
    ) -> Nights:
        """R nights from arrays, with the columns that the builder makes of files with the same.

        Each argument has an entry for each night, None where the night lacks it: a night may have
        an ECG alone, a BCG alone, or both, and stages or none. All arrays of a night begin at one
        moment and last equally long, to a window.

        Args:
          subject_ids: [R] of the people; visits of one share it. No subject may be in training and
            in validation or test.
          recording_ids: [R] texts, each once; None numbers the nights of each subject.
          stages: [N] integers each: Wake 0, REM 1, Light 2, Deep 3, none -1, one for 30 s.
          ecg: [n] each, in any unit and of either polarity; NaN, infinite or masked where missing.
            Finding its beats needs sleepecg.
          ecg_rate_hz: of all nights or of each, at least 50.
          beat_times_s: [M] increasing seconds each, in place of an ECG.
          bcg: [n] each, on the ECG's clock, in any unit; missing samples likewise.
          bcg_rate_hz: of all nights or of each, at least 40.
          cohort: "recorded", or what simulated the nights: results say so.
          bcg_samples: whether samples are kept, which the front end `autocorrelation` reads.

        Raises:
          DatasetError: an argument that cannot be used; it is named, with the night's number.
        """
        return stack(
            arrays.records(
                subject_ids,
                recording_ids,
                {"stages": stages, "ecg": ecg, "beat_times_s": beat_times_s, "bcg": bcg},
                ecg_rate_hz,
                bcg_rate_hz,
                cohort,
                bcg_samples,
            )
        )

    def __len__(self) -> int:
        return len(self.recording_ids)

    @property
    def first(self) -> NDArray[np.int64]:
        """[R] where each night begins."""
        return np.cumsum(self.windows) - self.windows

    def columns(self, names: tuple[str, ...]) -> dict[str, NDArray]:
        """Columns [W, ...] by name.

        Raises:
          DatasetError: the BCG's samples, which were not read.
        """
        if "bcg" in names and self.bcg is None:
            raise DatasetError(
                "These nights were read without the BCG's samples.",
                "Give Nights.from_arrays bcg_samples=True, or take the front end beats.",
            )
        return {name: getattr(self, name) for name in names}

    def split(self, column: NDArray) -> list[NDArray]:
        """A column [W, ...] night by night."""
        return np.split(column, np.cumsum(self.windows)[:-1])

    def labels(self) -> list[NDArray[np.int8]]:
        """Each night's labels."""
        return self.split(self.label)

    def select(self, rows: NDArray[np.int64] | list[int]) -> Nights:
        """These nights alone, in this order."""
        rows = np.asarray(rows, np.int64)
        taken = [np.arange(self.first[row], self.first[row] + self.windows[row]) for row in rows]
        windows = np.concatenate([np.zeros(0, np.int64), *taken])
        changes: dict[str, Any] = {"windows": self.windows[rows]}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray) and field.name != "windows":
                changes[field.name] = value[windows]
            elif isinstance(value, tuple):
                changes[field.name] = tuple(value[row] for row in rows)
        return dataclasses.replace(self, **changes)

    @property
    def has_ecg(self) -> NDArray[np.bool_]:
        """[R] whether any NN interval of a night is known."""
        return self._any(self.rr_missing < 1)

    @property
    def has_bcg(self) -> NDArray[np.bool_]:
        """[R] whether any of a night's BCG is there."""
        return self._any(self.bcg_missing < 1)

    @property
    def is_scored(self) -> NDArray[np.bool_]:
        """[R] whether any window of a night has a stage."""
        return self._any(self.label >= 0)

    def _any(self, windows_W: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.array([night.any() for night in self.split(windows_W)])

    def where(self, usable: NDArray[np.bool_]) -> Nights:
        """The nights that `usable` [R] names; these very nights where it is all of them."""
        return self if usable.all() else self.select(np.flatnonzero(usable))

    def origin(self) -> dict[str, Any]:
        """Where the nights come from, for results: cohort, bcg_source, and simulated or not."""
        simulated = schema.SIMULATOR in self.cohort or self.bcg_source == "simulated"
        return {"cohort": self.cohort, "bcg_source": self.bcg_source, "simulated": simulated}

    def digest(self) -> str:
        """Of everything that training reads: a run goes on with the very data it began with."""
        names = [*self.recording_ids, *self.teacher_digest, *self.bcg_digest, self.bcg_source]
        return _digest(np.array([_digest(self.label), *names]))


def bcg_source_of(data_dir: str | Path) -> str:
    """Which config of shhs_bcg lies under `data_dir`.

    Raises:
      DatasetError: where there is none, more than one, or one of another schema.
    """
    found = {
        name: sorted(path.name for path in (Path(data_dir) / "shhs_bcg" / name).glob("*.*.*"))
        for name in schema.BCG_SOURCES
    }
    current = [name for name, versions in found.items() if schema.SCHEMA_VERSION in versions]
    if not current:
        others = sorted({version for versions in found.values() for version in versions})
        if others:
            raise DatasetError(
                f"{data_dir}: shhs_bcg of version {', '.join(others)}; this kd_sleep reads"
                f" {schema.SCHEMA_VERSION}.",
                "Build it again with `kd-sleep build_dataset` and another --data_dir.",
            )
        raise DatasetError(
            f"{data_dir}: no dataset shhs_bcg of version {schema.SCHEMA_VERSION}.",
            "Build one with `kd-sleep build_dataset`.",
        )
    if len(current) > 1:
        raise DatasetError(
            f"{data_dir}: two datasets, shhs_bcg/{' and shhs_bcg/'.join(current)}.",
            "Each needs a --data_dir of its own: move one of the two folders.",
        )
    return current[0]


def open_split(
    data_dir: str | Path, split: str, fields: tuple[str, ...]
) -> tuple[Any, dict[str, list[str]]]:
    """Records of a split by position, these fields of the schema decoded; and subjects by split.

    Raises:
      DatasetError: no dataset there, or one in which a subject is in two splits.
    """
    with optional_packages():
        import tensorflow_datasets as tfds

    source = bcg_source_of(data_dir)
    folder = Path(data_dir) / "shhs_bcg" / source / schema.SCHEMA_VERSION
    builder = tfds.builder_from_directory(folder)
    subjects = (builder.info.metadata or {}).get("subjects", {})
    assert_disjoint(subjects)
    skipped = {
        name: tfds.decode.SkipDecoding() for name in schema.NIGHT_FIELDS if name not in fields
    }
    return builder.as_data_source(split=split, decoders=skipped), subjects


def read_split(
    data_dirs: str | Path | Sequence[str | Path], split: str, *, samples: bool = False
) -> Nights:
    """Reads a split of `shhs_bcg` into memory; of several datasets, their nights together.

    Args:
      data_dirs: folder of a dataset, or of several, with BCG or without.
      split: its name.
      samples: whether the BCG's samples are read, too, beside its series.

    Raises:
      DatasetError: no dataset there, one in which a subject is in two splits, one without the
        samples that are asked for, or a subject who is in another split of another dataset.
    """
    several = [data_dirs] if isinstance(data_dirs, str | Path) else list(data_dirs)
    where, records = ", ".join(map(str, several)), []
    together: dict[str, set[str]] = {}
    same: dict[str, list[dict[str, Any]]] = {}
    for data_dir in several:
        found, subjects = _records_of(data_dir, split, samples)
        for name, ids in subjects.items():
            together.setdefault(name, set()).update(ids)
        for record in found:
            same.setdefault(record["recording_id"], []).append(record)
        records += found
    assert_disjoint(together)
    for name, alike in same.items():
        if len({(one["bcg_digest"], one["tachogram"].tobytes()) for one in alike}) < len(alike):
            raise DatasetError(
                f"{where}: {name} is the same night in two of them.", "Name each dataset once."
            )
        for record in alike if len(alike) > 1 else ():  # cohorts may number their nights alike
            record["recording_id"] += f"@{Path(record['place'].data_dir).name}"
    if len({record["recording_id"] for record in records}) < len(records):
        raise DatasetError(
            f"{where}: two datasets with nights and a folder of one name.",
            "Name each dataset once, and rename one of two folders.",
        )
    if not records:
        raise DatasetError(
            f"{where}: no night in the split {split}.",
            "Build it from more subjects, or give --splits to `kd-sleep build_dataset`.",
        )
    return stack(records)


def _records_of(
    data_dir: str | Path, split: str, samples: bool
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """The records of one dataset's split in the order of their ids, and its subjects by split."""
    fields = tuple(name for name in schema.NIGHT_FIELDS if samples or name != "bcg")
    source, subjects = open_split(data_dir, split, fields)
    records = []
    for position, record in enumerate(source):
        found = {
            name: record[name].decode() if schema.NIGHT_FIELDS[name].dtype is str else record[name]
            for name in fields
        }
        records.append(found | {"place": Place(str(data_dir), split, position)})
        if samples and found["bcg_source"] != "none" and len(found["bcg"]) != len(found["label"]):
            raise DatasetError(
                f"{data_dir}: {found['recording_id']} was built without the BCG's samples, which"
                " this front end reads.",
                "Build it with --bcg_samples, or take --front_end=beats.",
            )
    if stray := {record["subject_id"] for record in records} - set(subjects.get(split, ())):
        raise DatasetError(
            f"{data_dir}: {split} holds subjects that are not its own: {sorted(stray)}."
        )
    return sorted(records, key=lambda record: record["recording_id"]), subjects


def joined(parts: Sequence[Nights]) -> Nights:
    """The nights of several splits, one after the other; without samples where a part has none."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(Nights):
        values = [getattr(part, field.name) for part in parts]
        if any(value is None for value in values):
            found[field.name] = None
        elif isinstance(values[0], str):
            found[field.name] = " and ".join(sorted({*values}))
        elif isinstance(values[0], tuple):
            found[field.name] = tuple(itertools.chain.from_iterable(values))
        else:
            found[field.name] = np.concatenate(values)
    return Nights(**found)


def stack(records: list[dict]) -> Nights:
    """Nights from records with the fields of `schema.NIGHT_FIELDS` that `Nights` holds.

    Takes the arrays out of them. Where some records have samples, the others get zeros.
    """
    shown = [teacher_inputs(record["tachogram"], record["hrv"]) for record in records]
    tachogram, valid, hrv = (np.concatenate(arrays) for arrays in zip(*shown, strict=True))
    windows = np.array([len(record["label"]) for record in records])
    summaries = {
        f"summary_{scope}": np.concatenate(
            [summary(record, record["bcg_missing"], scope) for record in records]
        )
        for scope in SCOPES
    }

    def joined(name: str) -> NDArray:
        """One after the other, each let go once it is copied: BCG is the bulk of memory."""
        field = schema.NIGHT_FIELDS[name]
        column: NDArray = np.empty((windows.sum(), *field.shape[1:]), field.dtype)
        place = 0
        for record, count in zip(records, windows, strict=True):
            values = record.pop(name)
            column[place : place + count] = values if len(values) else 0
            place += count
        return column

    def named(name: str) -> tuple[str, ...]:
        return tuple(record[name] for record in records)

    columns = (
        "label", "rr_missing", "jj", "beat_confidence", "breath", "movement", "bcg_missing",
        "bcg_snr_db",
    )  # fmt: skip
    return Nights(
        recording_ids=named("recording_id"),
        subject_ids=named("subject_id"),
        windows=windows,
        tachogram=tachogram,
        tachogram_valid=valid,
        hrv=hrv,
        **summaries,
        **{name: joined(name) for name in columns},
        bcg=joined("bcg") if any(len(record.get("bcg", ())) for record in records) else None,
        bcg_scale=np.repeat([np.float32(record["bcg_scale"]) for record in records], windows),
        teacher_digest=tuple(_digest(*arrays) for arrays in shown),
        bcg_digest=named("bcg_digest"),
        places=tuple(record.get("place") for record in records),
        cohort=" and ".join(sorted({*named("cohort")})),
        bcg_source=" and ".join(sorted({*named("bcg_source")})),
    )


def blank() -> Nights:
    """One night of one window with nothing in it: for the shapes of columns, without a dataset."""
    record = {
        name: np.ones((1, *field.shape[1:]), field.dtype) if field.shape else field.dtype()
        for name, field in schema.NIGHT_FIELDS.items()
    }
    return stack([record])


def _digest(*arrays: NDArray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
