"""The header of an EDF file, and where its data records lie in time.

Numbers are read as recorders spell them. A download that broke off is refused; records with gaps
between them (EDF+D) have the onsets that their time-keeping annotations give.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings.files import FETCH_AGAIN
from kd_sleep.recordings.recording import LONGEST_S

ONSET_ROUNDING_S = 0.010  # records may overlap by this much: some recorders write hundredths

# Fields and their widths: of the file, then of its signals, where each field has all signals' in a
# row.
_OF_FILE = {
    "version": 8, "patient": 80, "recording": 80, "date": 8, "time": 8, "header size": 8,
    "kind": 44, "number of records": 8, "record duration": 8, "number of signals": 4,
}  # fmt: skip
_OF_SIGNAL = {
    "label": 16, "transducer": 80, "unit": 8, "physical minimum": 8, "physical maximum": 8,
    "digital minimum": 8, "digital maximum": 8, "filter": 80, "samples per record": 8,
    "reserved": 32,
}  # fmt: skip
ANNOTATIONS = "EDF Annotations"
# A number as recorders spell it: with a decimal comma, a blank after its sign, as 1E+2, as 100.0.
_NUMBER = re.compile(r"([+-]?) *(\d+(?:[.,]\d*)?|[.,]\d+)([eE][+-]?\d{1,3})?", re.ASCII)
# An annotation: onset, at times a duration, then texts. One with an empty text first opens each
# record and tells its time. Both numbers are of bounded length, so that junk is judged soon.
_ANNOTATION = re.compile(
    rb"([+-]\d{1,9}(?:[.,]\d{0,12})?)(?:\x15([\d.,]{0,20}))?\x14([^\0]*?)\x14(?:\0|$)"
)

_Key = TypeVar("_Key")

MEND = "Correct this field with an editor of EDF headers, or leave this night out."


class EdfFile:
    """An open EDF file: the fields of its header as text, and where its data records lie in time.

    Attributes:
      fields: of the file, by name, without what follows a NUL.
      signals: the fields of each signal.
      per_record: samples in a record, of each signal.
      annotations: number of the signal that has the annotations; None without any.
      records: number of data records, all of them in the file; -1 in a file that was never closed.
    """

    def __init__(self, path: str | os.PathLike, file: BinaryIO):
        self.path, self.file, self.size = path, file, os.fstat(file.fileno()).st_size
        first = file.read(256)
        if not first:
            raise RecordingError(path, "is empty.", FETCH_AGAIN)
        if first[:1] == b"\xff":
            raise RecordingError(path, "is a BDF file.", "Convert it to EDF.")
        if first[:8].rstrip(b" \0") != b"0" and len(first) >= 8:
            raise RecordingError(path, "is no EDF file.", "Convert it to EDF.")
        cut = RecordingError(path, f"ends inside its header, at byte {self.size}.", FETCH_AGAIN)
        if len(first) < 256:
            raise cut
        self.fields = _fields(first, _OF_FILE)
        channels = self.integer("number of signals")
        self.bytes = 256 * (channels + 1)
        if channels < 1 or self.integer("header size") != self.bytes:
            raise RecordingError(
                path, f"has {channels} signals by a header of another size.", FETCH_AGAIN
            )
        rest = file.read(256 * channels)
        if len(rest) < 256 * channels:
            raise cut
        widths = {(name, k): width for name, width in _OF_SIGNAL.items() for k in range(channels)}
        texts = _fields(rest, widths)
        self.signals = [{name: texts[name, k] for name in _OF_SIGNAL} for k in range(channels)]
        self.per_record = [self.integer("samples per record", s) for s in self.signals]
        labels = [signal["label"] for signal in self.signals]
        self.annotations = labels.index(ANNOTATIONS) if ANNOTATIONS in labels else None
        self.records = self.integer("number of records")

    def number(self, name: str, signal: dict[str, str] | None = None) -> float:
        """A field's number.

        Raises:
          RecordingError: for a field that holds none.
        """
        text = (self.fields if signal is None else signal)[name]
        if match := _NUMBER.fullmatch(text.strip()):
            return float("".join(match.groups("")).replace(",", "."))
        raise self._no_number(name, signal)

    def integer(self, name: str, signal: dict[str, str] | None = None) -> int:
        """As `number`."""
        value = self.number(name, signal)
        if not value.is_integer():
            raise self._no_number(name, signal)
        return int(value)

    def _no_number(self, name: str, signal: dict[str, str] | None) -> RecordingError:
        text = (self.fields if signal is None else signal)[name]
        what = f"its {name}" if signal is None else f"the {name} of channel {signal['label']!r}"
        # Damage leaves no text; a recorder's own spelling comes again with every download.
        remedy = MEND if text.isascii() and text.isprintable() else FETCH_AGAIN
        return RecordingError(self.path, f"has {text!r} as {what}.", remedy)

    def annotations_of(self, record: int) -> list[tuple[float, float, bytes]]:
        """Onset in s, duration in s or NaN, and texts with byte 20 between them."""
        if self.annotations is None:
            return []
        before = sum(self.per_record[: self.annotations]) + record * sum(self.per_record)
        self.file.seek(self.bytes + 2 * before)
        data = self.file.read(2 * self.per_record[self.annotations])
        return [
            (_seconds(onset), _seconds(duration), texts)
            for onset, duration, texts in _ANNOTATION.findall(data)
        ]

    def onset_s(self, record: int) -> float:
        """When a record starts, by its first annotation, which has an empty text; else NaN."""
        onset_s, _, texts = next(iter(self.annotations_of(record)), (math.nan, 0.0, b""))
        return math.nan if texts and not texts.startswith(b"\x14") else onset_s


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a file's data records lie in time.

    Attributes:
      records: number of data records, all of them in the file.
      record_s: seconds that each lasts.
      first_s: seconds from the header's start to the first record.
      onsets_s: float64 [records], seconds from the first record; None where they are back to back.
    """

    records: int
    record_s: float
    first_s: float
    onsets_s: NDArray[np.float64] | None

    @property
    def duration_s(self) -> float:
        last_s = (self.records - 1) * self.record_s
        return (last_s if self.onsets_s is None else float(self.onsets_s[-1])) + self.record_s


def _fields(data: bytes, widths: Mapping[_Key, int]) -> dict[_Key, str]:
    stops = np.cumsum([*widths.values()]).tolist()
    return {
        name: data[stop - width : stop].split(b"\0")[0].decode("latin-1").rstrip()
        for (name, width), stop in zip(widths.items(), stops, strict=True)
    }


def layout_of(file: EdfFile) -> Layout:
    """Where the data records lie.

    Whole records beyond the promised ones are nobody's and stay unread; part of one is damage, and
    nobody can tell where. A promise of -1 is how a recorder marks a file that it never closed:
    there every whole record counts.
    """
    path, record_s = file.path, file.number("record duration")
    if not (0 < record_s < math.inf) or min(file.per_record) < 0 or not sum(file.per_record):
        raise RecordingError(path, "holds no sampled signals.", "Choose the file with the signals.")
    present, surplus = divmod(file.size - file.bytes, 2 * sum(file.per_record))
    records = present if file.records == -1 else file.records
    if records < 1:
        raise RecordingError(path, "holds no data records, only a header.", FETCH_AGAIN)
    if present < records:
        raise RecordingError(
            path, f"is cut short: {present} of {records} data records are there.", FETCH_AGAIN
        )
    if file.records != -1 and surplus:
        raise RecordingError(
            path,
            f"has {surplus} bytes that are no whole data record: if they stand among the samples,"
            " all that follow are shifted.",
            FETCH_AGAIN,
        )
    layout = Layout(records, record_s, *_onsets(file, records, record_s))
    if layout.duration_s > LONGEST_S:
        raise RecordingError(
            path,
            f"lasts {layout.duration_s / 3600:.4g} h by its header, no night.",
            "Cut the night out of it, or correct the header.",
        )
    return layout


def _onsets(
    file: EdfFile, records: int, record_s: float
) -> tuple[float, NDArray[np.float64] | None]:
    """Onset of the first data record in the header's time, 0 where it tells none, and of each from
    the first one's; None where they are back to back.

    A file may call itself continuous (EDF+C) and have gaps all the same: its last record's onset
    gives it away.
    """
    path, kind = file.path, file.fields["kind"][:5]
    if file.annotations is None:
        if kind != "EDF+D":
            return 0.0, None
        raise RecordingError(
            path,
            "is discontinuous (EDF+D), but has no annotations that say when its records start.",
            "Export it as EDF or EDF+C.",
        )
    first_s = file.onset_s(0)
    if kind != "EDF+D":
        late_s = file.onset_s(records - 1) - first_s - (records - 1) * record_s
        if kind != "EDF+C" or not late_s > record_s:
            return 0.0 if math.isnan(first_s) else first_s, None
    onsets_s = np.array([file.onset_s(record) for record in range(records)])
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


def _seconds(text: bytes) -> float:
    try:
        return float(text.replace(b",", b"."))
    except ValueError:
        return math.nan
