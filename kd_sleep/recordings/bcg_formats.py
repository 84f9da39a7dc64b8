"""Files that bed sensors' recordings come in: what channels they hold, read one at a time.

EDF, NPY, NPZ and HDF5 stand here, CSV in `bcg_csv`; `paired_bcg` has the table of them all. A file
is never trusted: nothing is unpickled, no other file is opened because this one names it, and sizes
that it declares are checked before memory is taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.extras import optional_packages
from kd_sleep.recordings import files
from kd_sleep.recordings.edf import read_signals
from kd_sleep.recordings.files import FETCH_AGAIN
from kd_sleep.recordings.recording import LONGEST_S

if TYPE_CHECKING:
    import h5py

HIGHEST_HZ = 1000.0
RATE_NAMES = frozenset(
    ("fs", "rate", "rate_hz", "sampling_rate", "sampling_rate_hz", "sample_rate", "sfreq")
)
START_NAMES = frozenset(("start", "start_time", "starttime", "start_datetime"))
_MOST_CHANNELS = 64
_MOST_BYTES = 4 * 2**30  # of an array on disk, which is read by the channel
_MOST_NPZ_BYTES = 2**30  # of an array in an archive, which is unpacked whole
_MOST_CHUNK_BYTES = 2**28  # HDF5 unpacks a chunk whole
_MOST_OBJECTS = 10_000
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
# Wall-clock text; day first and month first look alike, so the year must lead.
_CLOCK_TEXT = re.compile(
    r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:T| +)"
    r"(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:[.,](\d{1,9}))?)?\s*(Z|[+-]\d{2}:?\d{2})?"
)
_UNIX_UNIT = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3), (1e8, 1.0))  # from 1973 on


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
class Channel:
    """A channel that can be read: its name as the file spells it."""

    label: str
    load: Callable[[], Samples]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
      channels: in the file's order.
      start: clock at the first sample: local and naive, or aware where the file tells UTC; None
        where it tells none.
    """

    channels: tuple[Channel, ...]
    start: datetime.datetime | None = None


def fold(name: str) -> str:
    """A name as it is compared: case and spaces do not matter."""
    return "".join(name.split()).lower()


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


def clock_time(text: str) -> tuple[datetime.datetime, datetime.timedelta | None] | None:
    """Wall clock as written, year first, and its distance from UTC where that stands there.

    Returns:
      None for text that is no such time.
    """
    match = _CLOCK_TEXT.fullmatch(text.strip())
    if match is None:
        return None
    *numbers, fraction, zone = match.groups()
    try:
        year, month, day, hour, minute, second = (int(number or 0) for number in numbers)
        microsecond = int((fraction or "").ljust(6, "0")[:6])
        wall = datetime.datetime(year, month, day, hour, minute, second, microsecond)
    except ValueError:
        return None
    if zone is None:
        return wall, None
    if zone == "Z":
        return wall, datetime.timedelta()
    sign = -1 if zone[0] == "-" else 1
    return wall, sign * datetime.timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))


def start_of(stamp: Any) -> datetime.datetime | None:
    """Clock of a first stamp: local and naive, or aware where it is known in UTC alone.

    Stamps that count from 1970, and text in UTC, do not tell the sleeper's clock.
    """
    text = stamp.decode("ascii", "replace") if isinstance(stamp, bytes) else str(stamp)
    try:
        number = float(text)
    except ValueError:
        clock = clock_time(text)
        if clock is None:
            return None
        wall, zone = clock
        return wall if zone is None or zone else wall.replace(tzinfo=datetime.UTC)
    for smallest, per_s in _UNIX_UNIT:
        if smallest <= number < 1e20:
            try:
                return datetime.datetime.fromtimestamp(number / per_s, datetime.UTC)
            except (ValueError, OverflowError, OSError):
                break
    return None


def edf_contents(path: str | os.PathLike) -> Contents:
    """Every ordinary channel of an EDF file; of several with the same label the fastest."""

    def load(label: str) -> Callable[[], Samples]:
        def read() -> Samples:
            signal = read_signals(path, {"bcg": (label,)}).signals["bcg"]
            return Samples(signal.values, signal.rate_hz, signal.unit)

        return read

    edf = read_signals(path, {})
    distinct = {fold(label): label for label in reversed(edf.labels)}
    labels = [label for label in edf.labels if distinct[fold(label)] == label]
    channels = tuple(Channel(label, load(label)) for label in dict.fromkeys(labels))
    return Contents(channels, edf.start)


def npy_contents(path: str | os.PathLike) -> Contents:
    """The array of an NPY file, mapped and not read: one channel, or one per shorter axis."""

    def mapped() -> NDArray:
        return np.load(path, mmap_mode="r", allow_pickle=False)

    with readable(path, "NPY"):
        array = mapped()
        _check_signal(path, "its array", array.shape, array.dtype, _MOST_BYTES)
        return Contents(
            _channels(path, "NPY", "array", array.shape, 0.0, lambda index: mapped()[index])
        )


def npz_contents(path: str | os.PathLike) -> Contents:
    """The arrays of an NPZ file that can be signals, by name, with its rate and start."""

    def loader(name: str) -> Callable[[Any], NDArray]:
        def read(index: Any) -> NDArray:
            # NumPy leaves a file open that it opened and could not read.
            with files.opened(path) as file, np.load(file, allow_pickle=False) as archive:
                return archive[name][index]

        return read

    found: list[tuple[str, tuple[int, ...]]] = []
    rates: dict[str, float] = {}
    start: datetime.datetime | None = None
    with (
        readable(path, "NPZ"),
        files.opened(path) as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        shapes = _npz_shapes(path)
        for name, (shape, dtype) in shapes.items():
            size = int(np.prod(shape, dtype=object))
            if fold(name) in RATE_NAMES and size == 1:
                rates[name] = _rate(path, name, archive[name])
            elif fold(name) in START_NAMES and size == 1:
                start = start_of(archive[name].reshape(-1)[0])
            elif max(shape, default=0) >= _SHORTEST_ARRAY:
                _check_signal(path, f"array {name!r}", shape, dtype, _MOST_NPZ_BYTES)
                found.append((name, shape))
        if len(set(rates.values())) > 1:
            raise RecordingError(
                path, f"tells several rates: {rates}.", "Leave one of them in the file."
            )
        rate_hz = next(iter(rates.values()), 0.0)
        channels = [
            channel
            for name, shape in found
            for channel in _channels(path, "NPZ", name, shape, rate_hz, loader(name))
        ]
    return Contents(tuple(channels), start)


def _npz_shapes(path: str | os.PathLike) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """What each array of an archive declares to be; its size must be what the archive declares."""
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        if len(archive.infolist()) > _MOST_OBJECTS:
            raise RecordingError(path, "holds too many arrays.", "Leave the signals alone in it.")
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                continue
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                if version == (1, 0):
                    header = np.lib.format.read_array_header_1_0(file)
                else:
                    header = np.lib.format.read_array_header_2_0(file)
                offset = file.tell()
            shape, _, dtype = header
            declared = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if not dtype.hasobject and declared != member.file_size - offset:
                raise RecordingError(
                    path, f"array {name!r} is not of the size that it declares.", FETCH_AGAIN
                )
            shapes[name] = shape, dtype
    return shapes


def hdf5_contents(path: str | os.PathLike) -> Contents:
    """The datasets of an HDF5 file that can be signals, at any depth, by their full names."""
    with optional_packages():
        import h5py

    def loader(name: str) -> Callable[[Any], NDArray]:
        def read(index: Any) -> NDArray:
            with h5py.File(path, "r") as file:
                return file[name][index]

        return read

    channels: list[Channel] = []
    start: datetime.datetime | None = None
    with readable(path, "HDF5"), h5py.File(path, "r") as file:
        for name in _dataset_names(path, file):
            dataset = file[name]
            numeric = dataset.dtype.kind in "iuf" and dataset.dtype.names is None
            if not numeric or max(dataset.shape or (0,), default=0) < _SHORTEST_ARRAY:
                continue
            _check_dataset(path, name, dataset)
            rate_hz = _first(path, dataset, RATE_NAMES)
            told = _first(path, dataset, START_NAMES)
            if told is not None and start is None:
                start = start_of(told)
            rate = 0.0 if rate_hz is None else _rate(path, name, rate_hz)
            channels += _channels(path, "HDF5", name, dataset.shape, rate, loader(name))
    return Contents(tuple(channels), start)


def _dataset_names(path: str | os.PathLike, file: h5py.File) -> list[str]:
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
                raise RecordingError(
                    path,
                    f"its entry {key!r} lies in another file.",
                    "Copy the data into one file.",
                )
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


def _check_dataset(path: str | os.PathLike, name: str, dataset: h5py.Dataset) -> None:
    if dataset.is_virtual or dataset.external:
        raise RecordingError(
            path, f"dataset {name!r} lies in another file.", "Copy the data into one file."
        )
    if dataset.id.get_storage_size() == 0:
        raise RecordingError(path, f"dataset {name!r} is declared but empty.", FETCH_AGAIN)
    _check_signal(path, f"dataset {name!r}", dataset.shape, dataset.dtype, _MOST_BYTES)
    chunk = int(np.prod(dataset.chunks or (1,), dtype=object)) * dataset.dtype.itemsize
    if chunk > _MOST_CHUNK_BYTES:
        raise RecordingError(
            path, f"dataset {name!r} is packed in pieces of {chunk} bytes.", "Write smaller chunks."
        )


def _first(path: str | os.PathLike, dataset: h5py.Dataset, names: frozenset[str]) -> Any:
    """The nearest scalar of one of these names: an attribute, or a dataset beside, upwards."""
    import h5py

    place: h5py.Dataset | h5py.Group = dataset
    while True:
        for key in place.attrs:
            if fold(key) in names:
                space = place.attrs.get_id(key).get_space()
                if space.get_simple_extent_npoints() == 1:
                    return np.asarray(place.attrs[key]).reshape(-1)[0]
        if isinstance(place, h5py.Group):
            for key in place:
                if fold(key) not in names:
                    continue
                if isinstance(place.get(key, getlink=True), h5py.HardLink):
                    beside = place[key]
                    if isinstance(beside, h5py.Dataset) and beside.size == 1:
                        if beside.is_virtual or beside.external:
                            raise RecordingError(
                                path, f"dataset {beside.name!r} lies in another file.", FETCH_AGAIN
                            )
                        return np.asarray(beside[()]).reshape(-1)[0]
        if place.name == "/":
            return None
        place = place.parent


def _rate(path: str | os.PathLike, name: str, told: Any) -> float:
    try:
        rate_hz = float(np.asarray(told).reshape(-1)[0])
    except (ValueError, TypeError):
        rate_hz = -1.0
    if not 0 < rate_hz < np.inf:
        raise RecordingError(
            path, f"tells {str(told)[:40]!r} as the rate of {name!r}.", "Correct it."
        )
    return rate_hz


def _check_signal(
    path: str | os.PathLike, what: str, shape: tuple[int, ...], dtype: np.dtype, most_bytes: int
) -> None:
    """Refuses arrays that are no signals, and sizes that no night has, before they are read."""
    if dtype.kind not in "iuf" or dtype.names is not None:
        raise RecordingError(
            path,
            f"{what} holds {dtype} and no plain numbers.",
            "Save the signal as an array of integers or floats.",
        )
    if len(shape) not in (1, 2):
        raise RecordingError(
            path, f"{what} has {len(shape)} axes.", "Save it as [samples] or [samples, channels]."
        )
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    too_long = max(shape) > LONGEST_S * HIGHEST_HZ
    if too_long or (len(shape) == 2 and min(shape) > _MOST_CHANNELS) or size > most_bytes:
        raise RecordingError(
            path,
            f"{what} is declared as {' x '.join(map(str, shape))} ({size / 2**30:.3g} GiB).",
            f"At most 24 h at {HIGHEST_HZ:g} Hz, {_MOST_CHANNELS} channels and"
            f" {most_bytes // 2**30} GiB are read.",
        )


def _channels(
    path: str | os.PathLike,
    kind: str,
    name: str,
    shape: tuple[int, ...],
    rate_hz: float,
    read: Callable[[Any], NDArray],
) -> tuple[Channel, ...]:
    """Channels of an array: [n], or 2-D with time along the longer axis; column k is `name[k]`."""

    def load(index: Any) -> Callable[[], Samples]:
        def samples() -> Samples:
            with readable(path, kind):
                return Samples(np.ascontiguousarray(read(index)), rate_hz)

        return samples

    if len(shape) == 1:
        return (Channel(name, load(slice(None))),)
    time_first = shape[0] >= shape[1]
    return tuple(
        Channel(f"{name}[{k}]", load((slice(None), k) if time_first else (k, slice(None))))
        for k in range(min(shape))
    )
