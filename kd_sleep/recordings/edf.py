"""EDF (European Data Format, Kemp 1992): reads the wanted channels, writes files as SHHS has them.

edfio parses, calibrates and writes. What it leaves to its caller is done here. It takes a file that
is shorter than its header says for a short night, so the size is checked first: a download that
broke off must be refused. It joins the data records of a file with gaps (EDF+D,
https://www.edfplus.info/specs/edfplus.html), so each is put at the onset that its time-keeping
annotation gives, with NaN where nothing was recorded: no sample leaves its time. It reads numbers
as the standard writes them, so a header of another spelling is respelled before edfio sees it. And
it gives no start at all where an EDF+ field about it is odd; here the plain header's then counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import math
import mmap
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import edfio
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import files
from kd_sleep.recordings.files import FETCH_AGAIN
from kd_sleep.recordings.recording import Signal
from kd_sleep.schema import WINDOW_S

MAX_DURATION_S = 24 * 3600.0  # longer is no night; a few bytes of header could claim any length
MAX_SAMPLES = (
    2**26
)  # of a channel with its gaps: 12 h at 1.5 kHz; two records could claim any number
ONSET_ROUNDING_S = 0.010  # records may overlap by this much: some recorders write hundredths

# The time-keeping annotation that opens a record: its onset, at times a duration, then an empty
# text. Both numbers are of bounded length, so that junk is judged within `_ONSET_BYTES`.
_ONSET = re.compile(rb"([+-]\d{1,9}(?:[.,]\d{0,12})?)(?:\x15[\d.,]{0,20})?\x14\x14")
_ONSET_BYTES = 64

_START_BYTES = slice(168, 184)  # date, then time
_DATE = re.compile(r"(\d{1,2})\D(\d{1,2})\D(\d{4}|\d{1,2})", re.ASCII)
_TIME = re.compile(r"(\d{1,2})\D(\d{1,2})\D(\d{1,2})", re.ASCII)
_UNSET = datetime.datetime(1985, 1, 1)  # what writers put there that were given no start

# A number as recorders spell it: with a decimal comma, a blank after its sign, as 1E+2, as 100.0.
_NUMBER = re.compile(rb"([+-]?) *(\d+(?:[.,]\d*)?|[.,]\d+)([eE][+-]?\d{1,3})?")
# Width of each field, and what kind of number it holds: of the file, then of its signals.
_FIXED_FIELDS = (
    (8, None), (80, None), (80, None), (8, None), (8, None), (8, int), (44, None), (8, int),
    (8, float), (4, int),
)  # fmt: skip
_SIGNAL_FIELDS = (
    (16, None), (80, None), (8, None), (8, float), (8, float), (8, int), (8, int), (80, None),
    (8, int), (32, None),
)  # fmt: skip
MEND = "Correct this field with an editor of EDF headers, or leave this night out."

_T = TypeVar("_T", int, float)


@dataclasses.dataclass(frozen=True)
class EdfContents:
    """What `read_signals` took from a file.

    Attributes:
      start: local wall clock at the first sample; None where the header's date or time is unusable,
        or both are those of a header that was given none (1 January 1985, midnight).
      duration_s: length of the recording in seconds, gaps included.
      recording_text: the header's local recording identification.
      labels: of all ordinary channels in the file, as it spells them and in its order.
      signals: the wanted channels that were found, by the caller's names.
      notes: what a reader should know, in sentences: that the header tells no start.
    """

    start: datetime.datetime | None
    duration_s: float
    recording_text: str
    labels: tuple[str, ...]
    signals: dict[str, Signal]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where a file's data records lie, in bytes and in time.

    Attributes:
      header: as the standard spells it, for the file's own.
      records: number of data records, all of them in the file.
      record_s: seconds that each lasts.
      first_s: seconds from the header's start to the first record.
      onsets_s: float64 [records], seconds from the first record; None where they are back to back.
    """

    header: bytes
    records: int
    record_s: float
    first_s: float
    onsets_s: NDArray[np.float64] | None

    @property
    def duration_s(self) -> float:
        before_last = (
            (self.records - 1) * self.record_s
            if self.onsets_s is None
            else float(self.onsets_s[-1])
        )
        return before_last + self.record_s


@dataclasses.dataclass(frozen=True)
class Channel:
    """A channel's entry in an EDF header, without its samples.

    Attributes:
      label: at most 16 characters.
      unit: at most 8 characters; may be blank.
      rate_hz: samples per second, a whole number, since records last 1 s.
      physical_range: values in `unit` at the two ends of `digital_range`; may be inverted.
      digital_range: smallest and largest integer stored.
    """

    label: str
    unit: str
    rate_hz: int
    physical_range: tuple[float, float]
    digital_range: tuple[int, int]


def read_signals(path: str | os.PathLike, wanted: Mapping[str, Sequence[str]]) -> EdfContents:
    """Reads the wanted channels of an EDF file; the others are never decoded.

    Args:
      path: an EDF, EDF+C or EDF+D file.
      wanted: name -> labels under which files carry it, best first. Case and spaces do not matter.
        Where several channels bear the same label, the fastest is taken, and the first of those.

    Returns:
      The channels found, float32 in physical units, NaN in the gaps between records and nowhere
      else; a wanted name that no channel bears is absent.

    Raises:
      RecordingError: for a file that is missing, no EDF, damaged, without data or longer than
        `MAX_DURATION_S`, for part of a record more than promised, for records whose onsets are
        absent or overlap, and for a wanted channel whose ranges give it no scale.
    """
    layout = _layout(path)
    try:
        with _opened(path, layout.header) as edf:
            channels = {name: _choose(edf.signals, labels) for name, labels in wanted.items()}
            start = _start(edf, layout)
            return EdfContents(
                start=start,
                notes=() if start else (_no_start(layout),),
                duration_s=layout.duration_s,
                recording_text=edf.local_recording_identification,
                labels=edf.labels,
                signals={
                    name: _physical(path, channel, layout)
                    for name, channel in channels.items()
                    if channel is not None
                },
            )
    except RecordingError:
        raise
    except Exception as error:  # a header can be wrong in more ways than edfio has errors for
        raise RecordingError(path, f"is no readable EDF ({error}).", FETCH_AGAIN) from error


@contextlib.contextmanager
def _opened(path: str | os.PathLike, header: bytes) -> Iterator[edfio.Edf]:
    """The file as edfio has it, with this header in place of its own."""
    with files.opened(path) as file, warnings.catch_warnings():
        # edfio warns where size and header disagree, which was looked at before.
        warnings.simplefilter("ignore")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # the file stays as is
        content[: len(header)] = header
        yield edfio.read_edf(memoryview(content), lazy_load_data=True)


def read_annotations(
    path: str | os.PathLike,
) -> tuple[datetime.datetime | None, list[tuple[float, float, str]]]:
    """The annotations of an EDF+ file, with signals or without.

    Returns:
      Wall clock from which they count, None where the header's is unusable; onset in s, duration in
      s (30 where it tells none) and text of each, in order of time.

    Raises:
      RecordingError: for a file that is missing, no EDF, cut short, or without annotations.
    """
    header, size = _header(path)
    channels = len(header) // 256 - 1
    rates = header[256 + 216 * channels : 256 + 224 * channels]
    per_record = [
        _number(path, "samples per record", rates[8 * i : 8 * i + 8]) for i in range(channels)
    ]
    records = _number(path, "number of records", header[236:244])
    if size < len(header) + 2 * sum(per_record) * records:
        raise RecordingError(path, "is cut short.", FETCH_AGAIN)
    record_s = _number(path, "record duration", header[244:252], float)
    first_s, _ = _onsets(path, header, per_record, records, record_s)
    try:
        with _opened(path, header) as edf:
            found = [(a.onset, a.duration or WINDOW_S, a.text) for a in edf.annotations]
            start = _start(edf, _Layout(header, records, record_s, first_s, None))
    except Exception as error:  # a header can be wrong in more ways than edfio has errors for
        raise RecordingError(path, f"is no readable EDF ({error}).", FETCH_AGAIN) from error
    if not found:
        raise RecordingError(path, "holds no EDF+ annotations.", "Choose the file with the stages.")
    return start, found


def write_signals(
    path: str | os.PathLike,
    signals: Sequence[tuple[Channel, ArrayLike]],
    start: datetime.datetime,
    recording_text: str,
) -> None:
    """Writes a plain EDF file of 1-s records with a blank patient field; same input, same bytes.

    Args:
      path: replaced whole or not at all; its folder is made.
      signals: channels with their samples [seconds * rate_hz], in physical units, within their
        physical ranges; `saturated` clips what a recorder would.
      start: wall clock at the first sample, 1985 to 2084, to the second.
      recording_text: local recording identification, at most 80 characters; says who made the file.

    Raises:
      ValueError: for samples that are not finite, beyond their channel's range or not the same
        whole number of seconds in every channel, and for text or numbers that do not fit their
        header fields.
    """
    if not 1985 <= start.year <= 2084:
        raise ValueError(f"start={start}: EDF's two-digit years run from 1985 to 2084")
    written = edfio.Edf(
        [
            edfio.EdfSignal.from_digital(
                # edfio's ordinary constructor refuses SHHS's inverted effort ranges.
                _digital(channel, values),
                channel.rate_hz,
                label=channel.label,
                physical_dimension=channel.unit,
                physical_range=channel.physical_range,
                digital_range=channel.digital_range,
            )
            for channel, values in signals
        ],
        starttime=start.time(),
        data_record_duration=1,
    )
    # Without EDF+'s subfields, as SHHS: its patient field is blank.
    written.local_patient_identification = ""
    written.local_recording_identification = recording_text
    written.startdate = start.date()
    content = io.BytesIO()
    written.write(content)
    files.write_bytes(path, content.getbuffer())


def _layout(path: str | os.PathLike) -> _Layout:
    """Where the data records lie.

    Whole records beyond the promised ones are nobody's and stay unread; part of one is damage, and
    nobody can tell where. A promise of -1 is how a recorder marks a file that it never closed:
    there every whole record counts.
    """
    header, size = _header(path)
    channels = len(header) // 256 - 1
    rates = header[256 + 216 * channels : 256 + 224 * channels]
    record_s = _number(path, "record duration", header[244:252], float)
    per_record = [
        _number(path, "samples per record", rates[8 * i : 8 * i + 8]) for i in range(channels)
    ]
    if not (0 < record_s < math.inf) or min(per_record) < 0 or sum(per_record) == 0:
        raise RecordingError(path, "holds no sampled signals.", "Choose the file with the signals.")
    promised = _number(path, "number of records", header[236:244])
    present = (size - len(header)) // (2 * sum(per_record))
    records = present if promised == -1 else promised
    if records < 1:
        raise RecordingError(path, "holds no data records, only a header.", FETCH_AGAIN)
    if present < records:
        raise RecordingError(
            path, f"is cut short: {present} of {records} data records are there.", FETCH_AGAIN
        )
    surplus = (size - len(header)) % (2 * sum(per_record))
    if promised != -1 and surplus:
        raise RecordingError(
            path,
            f"has {surplus} bytes that are no whole data record: if they stand among the samples,"
            " all that follow are shifted.",
            FETCH_AGAIN,
        )
    first_s, onsets_s = _onsets(path, header, per_record, records, record_s)
    layout = _Layout(header, records, record_s, first_s, onsets_s)
    if layout.duration_s > MAX_DURATION_S:
        raise RecordingError(
            path,
            f"lasts {layout.duration_s / 3600:.4g} h by its header, no night.",
            "Cut the night out of it, or correct the header.",
        )
    return layout


def _onsets(
    path: str | os.PathLike, header: bytes, per_record: list[int], records: int, record_s: float
) -> tuple[float, NDArray[np.float64] | None]:
    """Onset of the first data record in the header's time, 0 where it tells none, and of each from
    the first one's; None where they are back to back.

    edfio reads annotations, but keeps those that tell the time to itself. A file may call itself
    continuous (EDF+C) and have gaps all the same: its last record's onset gives it away.
    """
    kind = header[192:197]
    labels = [header[256 + 16 * i : 272 + 16 * i].rstrip() for i in range(len(per_record))]
    if b"EDF Annotations" not in labels:
        if kind != b"EDF+D":
            return 0.0, None
        raise RecordingError(
            path,
            "is discontinuous (EDF+D), but has no annotations that say when its records start.",
            "Export it as EDF or EDF+C.",
        )
    channel = labels.index(b"EDF Annotations")
    first_byte = len(header) + 2 * sum(per_record[:channel])
    length = min(2 * per_record[channel], _ONSET_BYTES)

    with files.opened(path) as file:

        def onset_s(record: int) -> float:
            file.seek(first_byte + record * 2 * sum(per_record))
            match = _ONSET.match(file.read(length))
            return float(match[1].replace(b",", b".")) if match else math.nan

        first_s = onset_s(0)
        if kind != b"EDF+D":
            late_s = onset_s(records - 1) - first_s - (records - 1) * record_s
            if kind != b"EDF+C" or not late_s > record_s:
                return 0.0 if math.isnan(first_s) else first_s, None
        onsets_s = np.array([onset_s(record) for record in range(records)])
    unknown = np.flatnonzero(np.isnan(onsets_s))
    if unknown.size:
        raise RecordingError(
            path,
            f"has gaps, and its data record {unknown[0] + 1} of {records} does not say when it"
            " starts.",
            FETCH_AGAIN,
        )
    onsets_s -= first_s
    early = np.flatnonzero(np.diff(onsets_s) < record_s - min(ONSET_ROUNDING_S, 0.5 * record_s))
    if early.size:
        record = early[0] + 1
        raise RecordingError(
            path,
            f"has data records that overlap: number {record + 1} starts {onsets_s[record]:g} s"
            " after the first.",
            FETCH_AGAIN,
        )
    return first_s, onsets_s


def _header(path: str | os.PathLike) -> tuple[bytes, int]:
    """The header of a file that is EDF by its first look, respelled, and the file's size in bytes.

    Fields end at a NUL and are filled up with blanks. Numbers are respelled where what they say is
    beyond doubt; others stay as they are, and reading them names them.
    """
    with files.opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        fixed = _respelled(file.read(256), _FIXED_FIELDS)
        if not fixed:
            raise RecordingError(path, "is empty.", FETCH_AGAIN)
        if fixed[:1] == b"\xff":
            raise RecordingError(path, "is a BDF file.", "Convert it to EDF.")
        if fixed[:8] != b"0       "[: len(fixed)]:
            raise RecordingError(path, "is no EDF file.", "Convert it to EDF.")
        if len(fixed) < 256:
            raise RecordingError(path, f"ends inside its header, at byte {size}.", FETCH_AGAIN)
        channels = _number(path, "number of signals", fixed[252:256])
        if channels < 1 or _number(path, "header size", fixed[184:192]) != 256 * (channels + 1):
            raise RecordingError(
                path, f"has {channels} signals by a header of another size.", FETCH_AGAIN
            )
        header = fixed + _respelled(
            file.read(256 * channels), [f for f in _SIGNAL_FIELDS for _ in range(channels)]
        )
        if len(header) < 256 * (channels + 1):
            raise RecordingError(path, f"ends inside its header, at byte {size}.", FETCH_AGAIN)
        return header, size


def _respelled(data: bytes, fields: Iterable[tuple[int, type | None]]) -> bytes:
    """The part of a header that has these fields: the width of each, and what number it holds."""
    out, at = b"", 0
    for width, kind in fields:
        field = data[at : at + width]
        field = _plain(field, kind) if kind else field.split(b"\0")[0]
        out += field.ljust(width)
        at += width
    return out[: len(data)]


def _plain(field: bytes, kind: type) -> bytes:
    """A number as Python and edfio read it, or the field itself."""
    match = _NUMBER.fullmatch(field.strip(b"\0 \t\r\n").split(b"\0")[0].strip())
    if match is None:
        return field
    plain = match[1].replace(b"+", b"") + match[2].replace(b",", b".") + (match[3] or b"")
    if kind is int and not plain.lstrip(b"-").isdigit():
        value = float(plain)
        plain = b"%d" % value if value.is_integer() else field
    return plain if len(plain) <= 8 else field


def _number(
    path: str | os.PathLike, name: str, field: bytes, kind: Callable[[str], _T] = int
) -> _T:
    try:
        if b"_" not in field:  # Python's own way to part digits
            return kind(field.decode("ascii"))
    except ValueError:
        pass
    # Damage leaves no text; a recorder's own spelling comes again with every download.
    remedy = MEND if field.isascii() and field.decode().isprintable() else FETCH_AGAIN
    raise RecordingError(path, f"has {field!r} as its {name}.", remedy)


def _start(edf: edfio.Edf, layout: _Layout) -> datetime.datetime | None:
    """EDF+'s date where it tells one, else the header's, at the header's time."""
    text = layout.header[_START_BYTES].decode("latin-1")
    date, time = _DATE.fullmatch(text[:8].strip()), _TIME.fullmatch(text[8:].strip())
    if date is None or time is None:
        return None
    day, month, year = map(int, date.groups())
    if year < 100:  # from 1985 to 2084
        year += 1900 if year >= 85 else 2000
    with contextlib.suppress(Exception):  # "Startdate X", in any language, or none
        recorded = edf.recording.startdate
        day, month, year = recorded.day, recorded.month, recorded.year
    try:
        hour, minute, second = map(int, time.groups())
        start = datetime.datetime(year, month, day, hour, minute, second)
        return None if start == _UNSET else start + datetime.timedelta(seconds=layout.first_s)
    except (ValueError, OverflowError):
        return None


def _no_start(layout: _Layout) -> str:
    date, time = layout.header[_START_BYTES][:8], layout.header[_START_BYTES][8:]
    return f"The header tells no start: its date is {date!r}, its time {time!r}."


def _fold(label: str) -> str:
    return "".join(label.split()).lower()


def _choose(channels: Iterable[edfio.EdfSignal], labels: Sequence[str]) -> edfio.EdfSignal | None:
    for label in labels:
        same = [channel for channel in channels if _fold(channel.label) == _fold(label)]
        if same:
            return max(same, key=lambda channel: channel.sampling_frequency)  # first of equals
    return None


def _physical(path: str | os.PathLike, channel: edfio.EdfSignal, layout: _Layout) -> Signal:
    for name in ("physical_min", "physical_max", "digital_min", "digital_max"):
        try:
            getattr(channel, name)
        except ValueError as error:
            field = name.replace("_", " ") + "imum"
            raise RecordingError(
                path, f"channel {channel.label!r} has no number as its {field} ({error}).", MEND
            ) from None
    low, high = channel.physical_range
    if low == high or channel.digital_min >= channel.digital_max:
        raise RecordingError(
            path,
            f"channel {channel.label!r} has no scale: physical {low:g}..{high:g}"
            f" over digital {channel.digital_min}..{channel.digital_max}.",
            MEND,
        )
    per_record = channel.samples_per_data_record
    values = channel.data[: layout.records * per_record].astype(np.float32)
    if values.size == 0 or not np.isfinite(values).all():
        raise RecordingError(path, f"channel {channel.label!r} has no usable samples.", FETCH_AGAIN)
    if layout.onsets_s is not None:
        samples = layout.duration_s * channel.sampling_frequency
        if samples > MAX_SAMPLES:
            raise RecordingError(
                path,
                f"channel {channel.label!r} has {samples:.2g} samples, nearly all of them in gaps.",
                "Cut the night out of it, or correct the header.",
            )
        values = _placed(values.reshape(layout.records, per_record), layout)
    return Signal(values, channel.sampling_frequency, channel.physical_dimension, channel.label)


def _placed(records: NDArray[np.float32], layout: _Layout) -> NDArray[np.float32]:
    """One channel's records, [records, samples], each at its own onset; NaN between them.

    Every onset is rounded to a sample by itself, so that no error adds up over the night. Records
    that overlap by a rounding share a sample, which the later one keeps.
    """
    per_record = records.shape[1]
    first = np.rint(layout.onsets_s * (per_record / layout.record_s)).astype(np.int64)
    values = np.full(first[-1] + per_record, np.nan, np.float32)
    # Copied run by run: a night of 30,000 records has few gaps.
    starts = np.flatnonzero(np.diff(first, prepend=-1 - per_record) != per_record)
    for start, stop in zip(starts, [*starts[1:], len(first)], strict=True):
        run = records[start:stop].ravel()
        values[first[start] : first[start] + run.size] = run
    return values


def _digital(channel: Channel, values: ArrayLike) -> NDArray[np.int16]:
    """Stored integers of one channel, [seconds * rate_hz]."""
    physical = np.asarray(values, np.float64)
    if physical.ndim != 1 or physical.size % channel.rate_hz or not np.isfinite(physical).all():
        raise ValueError(
            f"{channel.label}: expected finite samples for whole seconds at {channel.rate_hz} Hz,"
            f" got shape {physical.shape}"
        )
    (low, high), (smallest, largest) = channel.physical_range, channel.digital_range
    stored = np.rint((physical - low) / (high - low) * (largest - smallest) + smallest)
    if stored.size and not smallest <= stored.min() <= stored.max() <= largest:
        raise ValueError(
            f"{channel.label}: samples from {physical.min():g} to {physical.max():g}"
            f" {channel.unit} do not fit its range {low:g} to {high:g}; widen the channel's range,"
            " scale the samples, or clip them with edf.saturated"
        )
    return stored.astype(np.int16)


def saturated(channel: Channel, values: ArrayLike) -> NDArray[np.float64]:
    """Samples clipped to the channel's physical range, as a recorder clips them."""
    low, high = sorted(channel.physical_range)
    return np.clip(np.asarray(values, np.float64), low, high)
