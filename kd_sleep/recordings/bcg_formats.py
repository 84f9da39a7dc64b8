"""Files that bed sensors' recordings come in: what channels they hold, read one at a time.

EDF, NPY, NPZ and HDF5 stand here, CSV in `bcg_csv`; `paired_bcg` has the table of them all. What
can be no signal and no clock (masks, text, pictures, links to other files) is no column. A file is
never trusted: nothing is unpickled, no other file is opened because this one names it, and sizes
that it declares are checked before memory is taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.extras import optional_packages
from kd_sleep.recordings import files
from kd_sleep.recordings.edf import fold, read_signals
from kd_sleep.recordings.files import FETCH_AGAIN
from kd_sleep.recordings.recording import LONGEST_S
from kd_sleep.recordings.time_stamps import HIGHEST_HZ, start_of

if TYPE_CHECKING:
    import h5py

RATE_NAMES = frozenset(
    ("fs", "rate", "rate_hz", "sampling_rate", "sampling_rate_hz", "sample_rate", "sfreq")
)
START_NAMES = frozenset(("start", "start_time", "starttime", "start_datetime"))
_MOST_CHANNELS = 64
_MOST_BYTES = 4 * 2**30  # of an array on disk, which is read by the channel
_MOST_NPZ_BYTES = 2**30  # of an array in an archive, which is unpacked whole
_MOST_CHUNK_BYTES = 2**28  # HDF5 unpacks a chunk whole
_MOST_OBJECTS = 10_000
_PEEKED = 5000
_SHORTEST_ARRAY = 1000  # fewer numbers along its longer axis, and an array holds no signal

_KIND_OF_SUFFIX = {
    ".edf": "EDF",
    ".csv": "CSV",
    ".tsv": "CSV",
    ".txt": "CSV",
    ".npy": "NPY",
    ".npz": "NPZ",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".hdf": "HDF5",
}
SUFFIXES = tuple(_KIND_OF_SUFFIX)
_MAGIC = (
    (b"\x93NUMPY", "NPY"),
    (b"PK\x03\x04", "NPZ"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"0       ", "EDF"),
    (b"\xffBIOSEMI", "BDF"),
    (b"\x1f\x8b", "gzip"),
    (b"%PDF", "PDF"),
    (b"MATLAB 5.0", "MAT"),
)


@dataclasses.dataclass(frozen=True)
class Samples:
    """One channel as its file has it.

    Attributes:
      values: [n] numbers of any kind; NaN where the file has a gap.
      rate_hz: samples per second; 0 where the file does not tell.
      unit: as the file spells it; blank where it says none.
      notes: what a reader of the night should know, in sentences.
    """

    values: NDArray
    rate_hz: float
    unit: str = ""
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Column:
    """Numbers or time stamps that can be read, a row per sample.

    Attributes:
      label: its name as the file spells it.
      peek: its first rows, of the dtype that a clock or a signal has there; none where the file has
        no clock of its own among its columns.
      place: where it stands, for the format's reader.
      rows: columns for which this is the same lie beside each other.
      rate: what tells its rate, unchecked; None where nothing does.
      start: the same for the clock at its first sample.
    """

    label: str
    peek: NDArray
    place: Any
    rows: int = 0
    rate: Any = None
    start: Any = None


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
      columns: in the file's order.
      load: reads some of them in one pass: [rows] numbers or time stamps each, or whole samples.
      refused: why a part of the file can be no signal, by its name.
      rate: what tells the rate of all columns, unchecked.
      start: clock at the first sample: local and naive, or aware where the file tells UTC; None
        where it tells none.
      row_name: what a row is called in errors.
    """

    columns: tuple[Column, ...]
    load: Callable[[Sequence[Column]], list[Any]]
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rate: Any = None
    start: datetime.datetime | None = None
    row_name: Callable[[int], str] = "row {}".format


def kind_of(path: str | os.PathLike) -> str:
    """EDF, CSV, NPY, NPZ or HDF5: by the suffix, to which the first bytes must agree.

    Raises:
      RecordingError: for a file that is missing or empty, has another suffix, or is something else
        than its suffix says.
    """
    suffix = Path(path).suffix
    kind = _KIND_OF_SUFFIX.get(suffix.lower())
    if kind is None:
        raise RecordingError(
            path,
            f"has the suffix {suffix!r}, which is no known format.",
            f"Known are {', '.join(SUFFIXES)}.",
        )
    with files.opened(path) as file:
        head = file.read(16)
    if not head:
        raise RecordingError(path, "is empty.", FETCH_AGAIN)
    found = next((name for magic, name in _MAGIC if head.startswith(magic)), "")
    if found and found != kind:
        known = next((s for s, name in _KIND_OF_SUFFIX.items() if name == found), "")
        other = "a ZIP or NPZ" if found == "NPZ" else f"of the format {found}"
        raise RecordingError(
            path,
            f"is named {suffix} but is {other}.",
            f"Rename it to {known}." if known else f"Convert it to {suffix}.",
        )
    # HDF5 may begin after a user block, and EDF has its own words for what is none.
    if not found and kind in ("NPY", "NPZ"):
        raise RecordingError(path, f"is named {suffix} but is no {kind} file.", FETCH_AGAIN)
    return kind


@contextlib.contextmanager
def readable(path: str | os.PathLike, kind: str) -> Iterator[None]:
    """Turns whatever a library raises over a damaged file into a RecordingError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RecordingError:
        raise
    except Exception as error:  # a file can be damaged in more ways than libraries have errors for
        text = f"{type(error).__name__}: {str(error)[:200]}"
        raise RecordingError(path, f"is no readable {kind} ({text}).", FETCH_AGAIN) from error


def edf_contents(path: str | os.PathLike) -> Contents:
    """Every ordinary channel of an EDF file; of several with the same label the fastest."""

    def load(wanted: Sequence[Column]) -> list[Samples]:
        found = read_signals(path, {column.label: (column.label,) for column in wanted}).signals
        signals = [found[column.label] for column in wanted]
        return [Samples(s.values, s.rate_hz, s.unit, edf.notes) for s in signals]

    edf = read_signals(path, {})
    distinct = {fold(label): label for label in reversed(edf.labels)}
    labels = dict.fromkeys(label for label in edf.labels if distinct[fold(label)] == label)
    return Contents(
        tuple(Column(label, np.empty(0), label) for label in labels), load, start=edf.start
    )


def npy_contents(path: str | os.PathLike) -> Contents:
    """The array of an NPY file, mapped and not read: one column, or one per shorter axis."""

    def mapped(_: str = "") -> NDArray:
        return np.load(path, mmap_mode="r", allow_pickle=False)

    with readable(path, "NPY"):
        array = mapped()
        problem = _problem(array.shape, array.dtype, _MOST_BYTES)
        if problem:
            return Contents((), _loader(path, "NPY", mapped), {"array": f"its array {problem}"})
        return Contents(tuple(_columns("array", array, array.shape)), _loader(path, "NPY", mapped))


def npz_contents(path: str | os.PathLike) -> Contents:
    """The arrays of an NPZ file that can be signals or clocks, by name, with its rate and start."""

    def array(name: str) -> NDArray:
        # NumPy leaves a file open that it opened and could not read.
        with files.opened(path) as file, np.load(file, allow_pickle=False) as archive:
            return archive[name]

    columns: list[Column] = []
    rates: dict[str, Any] = {}
    refused: dict[str, str] = {}
    start: datetime.datetime | None = None
    with readable(path, "NPZ"):
        for name, (shape, dtype) in _npz_shapes(path, refused).items():
            size = int(np.prod(shape, dtype=object))
            if fold(name) in RATE_NAMES and size == 1 and not dtype.hasobject:
                rates[name] = array(name).reshape(-1)[0]
            elif fold(name) in START_NAMES and size == 1 and not dtype.hasobject:
                start = start_of(array(name).reshape(-1)[0])
            elif problem := _problem(shape, dtype, _MOST_NPZ_BYTES):
                refused[name] = f"array {name!r} {problem}"
            elif max(shape) >= _SHORTEST_ARRAY:
                columns += _columns(name, array(name), shape)
    if len(set(map(str, rates.values()))) > 1:
        raise RecordingError(
            path, f"tells several rates: {rates}.", "Leave one of them in the file."
        )
    rate = next(iter(rates.values()), None)
    return Contents(tuple(columns), _loader(path, "NPZ", array), refused, rate, start)


def _npz_shapes(
    path: str | os.PathLike, refused: dict[str, str]
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """What each array of an archive declares to be; its size must be what the archive declares."""
    shapes = {}
    with files.opened(path) as whole, zipfile.ZipFile(whole) as archive:
        if len(archive.infolist()) > _MOST_OBJECTS:
            raise RecordingError(path, "holds too many arrays.", "Leave the signals alone in it.")
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                continue
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                if version == (1, 0):
                    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                else:
                    shape, _, dtype = np.lib.format.read_array_header_2_0(file)
                offset = file.tell()
            declared = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if not dtype.hasobject and declared != member.file_size - offset:
                refused[name] = f"array {name!r} is not of the size that it declares"
            else:
                shapes[name] = shape, dtype
    return shapes


def hdf5_contents(path: str | os.PathLike) -> Contents:
    """The datasets of an HDF5 file that can be signals or clocks, at any depth, by full names."""
    with optional_packages():
        import h5py

    def load(wanted: Sequence[Column]) -> list[NDArray]:
        with readable(path, "HDF5"), h5py.File(path, "r") as file:
            return _loader(path, "HDF5", file.__getitem__)(wanted)

    columns: list[Column] = []
    refused: dict[str, str] = {}
    with readable(path, "HDF5"), h5py.File(path, "r") as file:
        for name in _dataset_names(path, file, refused):
            dataset = file[name]
            if dataset.shape and max(dataset.shape) >= _SHORTEST_ARRAY:
                if problem := _dataset_problem(dataset):
                    refused[name] = f"dataset {name!r} {problem}"
                    continue
                rate, start = _first(dataset, RATE_NAMES), _first(dataset, START_NAMES)
                columns += [
                    dataclasses.replace(column, rate=rate, start=start)
                    for column in _columns(name, dataset, dataset.shape)
                ]
    return Contents(tuple(columns), load, refused)


def _dataset_names(path: str | os.PathLike, file: h5py.File, refused: dict[str, str]) -> list[str]:
    """Full names of all datasets in the file itself, each once, in the file's order."""
    import h5py

    names: list[str] = []
    seen = {h5py.h5o.get_info(file.id).addr}
    groups = [file["/"]]
    while groups:
        group = groups.pop(0)
        for key in group:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                refused[key] = f"entry {key!r} lies in another file"
            if not isinstance(link, h5py.HardLink):
                continue  # a soft link only names again what a hard one has
            entry = group[key]
            address = h5py.h5o.get_info(entry.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > _MOST_OBJECTS:
                raise RecordingError(path, "holds too many entries.", "Leave the signals alone.")
            if isinstance(entry, h5py.Group):
                groups.append(entry)
            elif isinstance(entry, h5py.Dataset):
                names.append(entry.name)
    return names


def _dataset_problem(dataset: h5py.Dataset) -> str:
    """Why a dataset can be no signal; empty where it can."""
    if dataset.is_virtual or dataset.external:
        return "lies in another file"
    problem = _problem(dataset.shape, dataset.dtype, _MOST_BYTES)
    if problem:
        return problem
    if dataset.id.get_storage_size() == 0:
        return "is declared but empty"
    chunk = int(np.prod(dataset.chunks or (1,), dtype=object)) * dataset.dtype.itemsize
    return f"is packed in pieces of {chunk} bytes" if chunk > _MOST_CHUNK_BYTES else ""


def _first(dataset: h5py.Dataset, names: frozenset[str]) -> Any:
    """The nearest scalar of one of these names: an attribute, or a dataset beside, upwards."""
    import h5py

    place: h5py.Dataset | h5py.Group = dataset
    while True:
        for key in place.attrs:
            if fold(key) in names:
                space = place.attrs.get_id(key).get_space()
                if space.get_simple_extent_npoints() == 1:
                    return np.asarray(place.attrs[key]).reshape(-1)[0]
        for key in place if isinstance(place, h5py.Group) else ():
            if fold(key) in names and isinstance(place.get(key, getlink=True), h5py.HardLink):
                beside = place[key]
                scalar = isinstance(beside, h5py.Dataset) and beside.size == 1
                if scalar and not (beside.is_virtual or beside.external):
                    return np.asarray(beside[()]).reshape(-1)[0]
        if place.name == "/":
            return None
        place = place.parent


def _problem(shape: tuple[int, ...], dtype: np.dtype, most_bytes: int) -> str:
    """Why an array can be no signal and no clock, by what it declares; empty where it can."""
    if dtype.kind not in "iufM" or dtype.names is not None:
        return f"holds {dtype} and no plain numbers"
    if len(shape) not in (1, 2):
        return f"has {len(shape)} axes, not [samples] or [samples, channels]"
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    too_long = max(shape) > LONGEST_S * HIGHEST_HZ
    if too_long or (len(shape) == 2 and min(shape) > _MOST_CHANNELS) or size > most_bytes:
        return (
            f"is declared as {' x '.join(map(str, shape))} ({size / 2**30:.3g} GiB), beyond 24 h at"
            f" {HIGHEST_HZ:g} Hz, {_MOST_CHANNELS} channels and {most_bytes // 2**30} GiB"
        )
    return "holds nothing" if min(shape) == 0 else ""


def _columns(name: str, array: Any, shape: tuple[int, ...]) -> Iterator[Column]:
    """Those of an array: [n], or 2-D with time along the longer axis; column k is `name[k]`."""
    if len(shape) == 1:
        yield Column(name, np.asarray(array[:_PEEKED]), (name, slice(None)), shape[0])
        return
    rows = max(shape)
    for k in range(min(shape)):
        at = (slice(None), k) if shape[0] >= shape[1] else (k, slice(None))
        first = tuple(slice(_PEEKED) if part == slice(None) else part for part in at)
        yield Column(f"{name}[{k}]", np.asarray(array[first]), (name, at), rows)


def _loader(
    path: str | os.PathLike, kind: str, array: Callable[[str], Any]
) -> Callable[[Sequence[Column]], list[NDArray]]:
    """Reads columns of arrays, which `array` gives by name."""

    def load(wanted: Sequence[Column]) -> list[NDArray]:
        with readable(path, kind):
            return [
                np.ascontiguousarray(array(column.place[0])[column.place[1]]) for column in wanted
            ]

    return load
