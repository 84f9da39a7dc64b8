"""EDF and EDF+ (https://www.edfplus.info/specs): reads the wanted channels, writes as SHHS's files.

edfio writes. Reading stands here, because a recording needs what edfio leaves to its caller: a
download that broke off is refused; records with gaps between them (EDF+D) are put at the onsets
that their time-keeping annotations give, with NaN where nothing was recorded; numbers are read as
recorders spell them; and an odd EDF+ field about the start leaves the plain header's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import math
import os
import re
from collections.abc import Mapping, Sequence

import edfio
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import files
from kd_sleep.recordings.edf_layout import ANNOTATIONS, MEND, EdfFile, Layout, layout_of
from kd_sleep.recordings.files import FETCH_AGAIN
from kd_sleep.recordings.recording import Signal
from kd_sleep.schema import WINDOW_S

MAX_SAMPLES = 2**26  # of a channel with its gaps, 12 h at 1.5 kHz: two records can declare any gap
_DATE = re.compile(r"(\d{1,2})\D(\d{1,2})\D(\d{4}|\d{1,2})", re.ASCII)
_TIME = re.compile(r"(\d{1,2})\D(\d{1,2})\D(\d{1,2})", re.ASCII)
_PLUS_DATE = re.compile(r"Startdate (\d\d)-([A-Za-z]{3})-(\d{4})( .*)?", re.ASCII)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NO_DATE = datetime.date(1985, 1, 1)  # what writers put there that were given none


@dataclasses.dataclass(frozen=True)
class EdfContents:
    """What `read_signals` took from a file.

    Attributes:
      start: local wall clock at the first sample; on 1 January 1985 where the header has a time and
        no date; None where it has no time, or both are those of a header that was given none.
      duration_s: length of the recording in seconds, gaps included.
      recording_text: the header's local recording identification.
      labels: of all ordinary channels in the file, as it spells them and in its order.
      signals: the wanted channels that were found, by the caller's names.
      notes: what a reader should know, in sentences: that the header has no start or no date.
    """

    start: datetime.datetime | None
    duration_s: float
    recording_text: str
    labels: tuple[str, ...]
    signals: dict[str, Signal]
    notes: tuple[str, ...] = ()


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
      RecordingError: for a file that is missing, no EDF, damaged, without data or longer than 24 h,
        for part of a record more than promised, for records whose onsets are absent or overlap,
        and for a wanted channel whose ranges give it no scale.
    """
    with files.opened(path) as opened:
        file = EdfFile(path, opened)
        layout = layout_of(file)
        start, notes = _start(file, layout.first_s)
        ordinary = {
            k: signal["label"]
            for k, signal in enumerate(file.signals)
            if signal["label"] != ANNOTATIONS
        }
        signals = {}
        for name, spellings in wanted.items():
            same = ([k for k in ordinary if fold(ordinary[k]) == fold(s)] for s in spellings)
            if found := next(filter(None, same), None):
                fastest = max(found, key=file.per_record.__getitem__)  # the first of equals
                signals[name] = _signal(file, layout, fastest)
    return EdfContents(
        start=start,
        notes=notes,
        duration_s=layout.duration_s,
        recording_text=file.fields["recording"],
        labels=tuple(ordinary.values()),
        signals=signals,
    )


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
    with files.opened(path) as opened:
        file = EdfFile(path, opened)
        if file.size < file.bytes + 2 * sum(file.per_record) * file.records:
            raise RecordingError(path, "is cut short.", FETCH_AGAIN)
        first_s = file.onset_s(0)
        first_s = 0.0 if math.isnan(first_s) else first_s
        found = [
            (
                onset_s - first_s,
                lasting_s if lasting_s > 0 else WINDOW_S,
                text.decode("utf-8", "replace"),
            )
            for record in range(file.records)
            for onset_s, lasting_s, texts in file.annotations_of(record)
            for text in texts.split(b"\x14")
            if text
        ]
    if not found:
        raise RecordingError(path, "holds no EDF+ annotations.", "Choose the file with the stages.")
    return _start(file, first_s)[0], sorted(found)


def fold(label: str) -> str:
    """A label as it is compared: case and spaces do not matter."""
    return "".join(label.split()).lower()


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


def _start(file: EdfFile, first_s: float) -> tuple[datetime.datetime | None, tuple[str, ...]]:
    """EDF+'s date where it tells one, else the header's, at the header's time; notes of a doubt."""
    text, clock = file.fields["date"], file.fields["time"]
    time_match, date_match = _TIME.fullmatch(clock.strip()), _DATE.fullmatch(text.strip())
    date, time = _NO_DATE, None
    if time_match:
        with contextlib.suppress(ValueError):
            time = datetime.time(*map(int, time_match.groups()))  # type: ignore[arg-type]
    note = f"The header's date {text!r} is none: its start is a time of day."
    if date_match:
        day, month, year = map(int, date_match.groups())
        if year < 100:  # from 1985 to 2084
            year += 1900 if year >= 85 else 2000
        with contextlib.suppress(ValueError):
            date, note = datetime.date(year, month, day), ""
    plus = _PLUS_DATE.fullmatch(file.fields["recording"])
    if plus and plus[2].lower() in _MONTHS:
        with contextlib.suppress(ValueError):
            month = 1 + _MONTHS.index(plus[2].lower())
            date, note = datetime.date(int(plus[3]), month, int(plus[1])), ""
    if time is not None and (date, time) != (_NO_DATE, datetime.time()):
        with contextlib.suppress(OverflowError):
            start = datetime.datetime.combine(date, time) + datetime.timedelta(seconds=first_s)
            return start, (note,) if note else ()
    return None, (f"The header tells no start: its date is {text!r}, its time {clock!r}.",)


def _signal(file: EdfFile, layout: Layout, channel: int) -> Signal:
    path, fields = file.path, file.signals[channel]
    label, per_record = fields["label"], file.per_record[channel]
    low, high = (file.number(f"physical {end}", fields) for end in ("minimum", "maximum"))
    smallest, largest = (file.integer(f"digital {end}", fields) for end in ("minimum", "maximum"))
    if low == high or smallest >= largest:
        raise RecordingError(
            path,
            f"channel {label!r} has no scale: physical {low:g}..{high:g} over digital"
            f" {smallest:g}..{largest:g}.",
            MEND,
        )
    rate_hz = per_record / layout.record_s
    if layout.onsets_s is not None and layout.duration_s * rate_hz > MAX_SAMPLES:
        raise RecordingError(
            path,
            f"channel {label!r} has {layout.duration_s * rate_hz:.2g} samples, nearly all of them"
            " in gaps.",
            "Cut the night out of it, or correct the header.",
        )
    shape = (layout.records, sum(file.per_record))
    stored = np.memmap(file.file, "<i2", "r", file.bytes, shape)
    first = sum(file.per_record[:channel])
    with np.errstate(all="ignore"):
        gain = (high - low) / (largest - smallest)
        scaled = (stored[:, first : first + per_record] + (high / gain - largest)) * gain
        records = scaled.astype(np.float32)
    if records.size == 0 or not np.isfinite(records).all():
        raise RecordingError(path, f"channel {label!r} has no usable samples.", FETCH_AGAIN)
    values = records.ravel() if layout.onsets_s is None else _placed(records, layout)
    return Signal(values, rate_hz, fields["unit"], label)


def _placed(records: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
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
