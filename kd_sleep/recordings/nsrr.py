"""Annotation files of the National Sleep Research Resource: stages (XML) and R points (CSV).

Sources: https://github.com/nsrr/shhs-documentation (pages/13-hrv-analysis.md for R points) and the
files that NSRR's translator makes from Compumedics Profusion exports.
"""

from __future__ import annotations

import codecs
import csv
import datetime
import io
import itertools
import operator
import os
import re
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import files
from kd_sleep.recordings.annotation_files import read_bytes, read_xml
from kd_sleep.recordings.files import FETCH_AGAIN
from kd_sleep.recordings.recording import RPoints
from kd_sleep.recordings.scoring import Run, Scoring, scoring_of
from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import NSRR_CONCEPT_OF_CLASS, rk_code_of_concept

_LONGEST_NIGHT_S = 24 * 3600.0  # a time beyond this is damage
_SOMTE_HZ = 256.0  # the rate that Somté assumes in every file, whatever the ECG's own

# Stages as the translator's older ontologies name them, and what ends in a code, as today's do.
_STAGE_CONCEPT = re.compile(
    r"(sro|sdo):(stage|wake|rem|rapideye|nonrapideye|movement(time)?$|unscored|artifactepoch)"
    r"|.*\|\s*\d+\s*$",
    re.IGNORECASE | re.DOTALL,
)
_TIME = re.compile(r"\d{1,9}(\.\d{0,20})?", re.ASCII)
_CLOCK = re.compile(r"(?:.*\s)?(\d\d)[.:](\d\d)[.:](\d\d)", re.ASCII)

_RPOINT_COLUMNS = (
    "RPoint,Start,End,STLevel1,STSlope1,STLevel2,STSlope2,Manual,Type,Class,"
    "PPoint,PStart,PEnd,TPoint,TStart,TEnd,TemplateID,nsrrid,samplingrate,seconds,epoch,rpointadj"
)
_NORMAL = 1
_BEAT_TYPES = (0, _NORMAL, 2, 3)  # artifact, normal sinus, ventricular, supraventricular ectopic
_ROUNDING_S = 1 / 128
_MAX_BEATS = 500_000  # in 24 hours: 350 a minute


def read_scoring(path: str | os.PathLike) -> Scoring:
    """Stages from an NSRR annotation file (`…-nsrr.xml`), of today's or an older translator.

    Raises:
      RecordingError: for a file that is missing or no safe XML, holds no sleep stage, names an
        unknown one or one whose name and code disagree, scores a time twice and differently, times
        a stage beyond 24 hours, or joins documents that disagree.
    """
    documents = read_xml(path)
    return scoring_of(
        path,
        [_runs(path, root) for root in documents],
        software=(documents[0].findtext("SoftwareVersion") or "").strip(),
        start_time=_start_time(documents[0]),
    )


def read_stages(path: str | os.PathLike) -> NDArray[np.int8]:
    """The labels of `read_scoring`: int8 [N], the class of each 30-s window."""
    return read_scoring(path).labels


def write_stages(
    path: str | os.PathLike,
    labels: ArrayLike,
    recording_start: datetime.time,
    duration_s: float,
    software: str = "Compumedics",
) -> None:
    """Writes stages as NSRR does: one event for each run. Same input, same bytes.

    Args:
      path: replaced whole or not at all; its folder is made.
      labels: classes [N], N > 0. Unscored windows are written too, so that reading gives N back.
      recording_start: wall clock at the first window.
      duration_s: length of the recording.
      software: who made the file, in ASCII; a simulator names itself.

    Raises:
      ValueError: for no labels, or one that is no class.
    """
    classes = np.asarray(labels)
    if classes.size == 0 or not set(classes.tolist()) <= set(NSRR_CONCEPT_OF_CLASS):
        raise ValueError(f"labels: expected classes of at least one window, got {classes}")
    # -128 is no class: there is an edge before the first window and after the last.
    edges = np.flatnonzero(np.diff(classes, prepend=-128, append=-128))
    runs = [
        "<ScoredEvent>\n"
        "<EventType>Stages|Stages</EventType>\n"
        f"<EventConcept>{NSRR_CONCEPT_OF_CLASS[int(classes[first])]}</EventConcept>\n"
        f"<Start>{first * WINDOW_S:.1f}</Start>\n"
        f"<Duration>{(stop - first) * WINDOW_S:.1f}</Duration>\n"
        "</ScoredEvent>\n"
        for first, stop in itertools.pairwise(edges)
    ]
    text = (
        '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
        "<PSGAnnotation>\n"
        f"<SoftwareVersion>{escape(software)}</SoftwareVersion>\n"
        f"<EpochLength>{WINDOW_S:.0f}</EpochLength>\n"
        "<ScoredEvents>\n"
        "<ScoredEvent>\n"
        "<EventType/>\n"
        "<EventConcept>Recording Start Time</EventConcept>\n"
        "<Start>0</Start>\n"
        f"<Duration>{duration_s:.1f}</Duration>\n"
        f"<ClockTime>00.00.00 {recording_start:%H.%M.%S}</ClockTime>\n"
        "</ScoredEvent>\n"
        f"{''.join(runs)}"
        "</ScoredEvents>\n"
        "</PSGAnnotation>\n"
    )
    files.write_bytes(path, text.encode("ascii"))


def read_rpoints(path: str | os.PathLike) -> RPoints:
    """Heartbeats from an NSRR R-point file (`…-rpoint.csv`).

    Beats come in order of time. Of several at one time one stays, and it is normal only if all are.
    Where the columns are there, a beat's time has to agree with its `RPoint` (of Somté's 256 a
    second) and its `epoch`: NSRR does not say whether these count from 0 or 1, so both may be.

    Raises:
      RecordingError: for a file that is missing, no CSV or too large for a night, lacks the columns
        `seconds` or `Type`, holds no beats, or has a row that is no beat within 24 hours or
        contradicts itself (names the line).
    """
    data = read_bytes(path).removeprefix(codecs.BOM_UTF8)
    ends, commas = data.count(b"\n") + data.count(b"\r"), data.count(b",")
    if ends > 2 * _MAX_BEATS or commas > _MAX_BEATS * _RPOINT_COLUMNS.count(","):
        raise RecordingError(path, "has too many cells for a night's heartbeats.", FETCH_AGAIN)
    text = data.decode("windows-1252", errors="replace")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns, lines = _rpoint_cells(path, rows)
    except csv.Error as error:
        raise RecordingError(
            path, f"line {rows.line_num} is no CSV ({error}).", FETCH_AGAIN
        ) from None
    times_s, types = _numbers(columns["seconds"]), _numbers(columns["type"])
    # Cells that hold no number compare as false: no beat without a time, no contradiction either.
    is_beat = (times_s >= 0) & (times_s <= _LONGEST_NIGHT_S) & np.isin(types, _BEAT_TYPES)
    contradicts = np.zeros(len(times_s), bool)
    if "rpoint" in columns:
        contradicts |= np.abs(_numbers(columns["rpoint"]) / _SOMTE_HZ - times_s) > _ROUNDING_S
    if "epoch" in columns:
        contradicts |= np.abs(_numbers(columns["epoch"]) - times_s / WINDOW_S) > 1.001
    for at_fault, problem in ((~is_beat, "is no beat"), (contradicts, "contradicts itself")):
        if at_fault.any():
            row = int(np.argmax(at_fault))
            cells = ", ".join(f"{name} {cells[row][:20]!r}" for name, cells in columns.items())
            raise RecordingError(path, f"line {lines[row]} {problem}: {cells}.", FETCH_AGAIN)
    normal = types == _NORMAL
    order = np.lexsort((normal, times_s))  # by time; of equal times, normal beats last
    unique, first = np.unique(times_s[order], return_index=True)
    return RPoints(times_s=unique, normal=normal[order][first])


def _rpoint_cells(path: str | os.PathLike, rows: Any) -> tuple[dict[str, list[str]], list[int]]:
    """Cells of the columns that count, by their name in small letters, and each row's line."""
    names = [name.strip().lower() for name in next(rows, [])]
    if not {"seconds", "type"} <= set(names):
        raise RecordingError(
            path, "has no columns 'seconds' and 'Type'.", "Expected an NSRR R-point file."
        )
    wanted = [name for name in ("seconds", "type", "rpoint", "epoch") if name in names]
    pick = operator.itemgetter(*map(names.index, wanted))
    cells: list[str] = []  # one flat list: a tuple for each row would cost twice the time
    lines: list[int] = []
    for row in rows:
        if len(row) == len(names):
            cells.extend(pick(row))
            lines.append(rows.line_num)
        elif any(map(str.strip, row)):
            raise RecordingError(
                path,
                f"line {rows.line_num} is no beat: {len(row)} cells under {len(names)} names.",
                FETCH_AGAIN,
            )
    if not lines:
        raise RecordingError(path, "holds no beats.", FETCH_AGAIN)
    return {name: cells[at :: len(wanted)] for at, name in enumerate(wanted)}, lines


def _numbers(cells: Sequence[str]) -> NDArray[np.float64]:
    """float64 [n], NaN where a cell holds no number."""
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return np.array([_number(cell) for cell in cells])


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def write_rpoints(
    path: str | os.PathLike, times_s: ArrayLike, types: ArrayLike, nsrr_id: str, ecg_rate_hz: int
) -> None:
    """Writes heartbeats with all of NSRR's columns; what nobody measured is -1 or 0.

    Args:
      path: replaced whole or not at all; its folder is made.
      times_s: [M] seconds since the recording's start; they land on Somté's grid of 1/256 s.
      types: [M] 0 artifact, 1 normal sinus, 2 ventricular, 3 supraventricular ectopic beat.
      nsrr_id: the subject's, such as `200001`.
      ecg_rate_hz: the ECG's own rate.

    Raises:
      ValueError: for arrays of different lengths, a time below 0, or an unknown type.
    """
    points = np.rint(np.asarray(times_s, np.float64) * _SOMTE_HZ).astype(np.int64).tolist()
    kinds = np.asarray(types).tolist()
    if not set(kinds) <= set(_BEAT_TYPES) or min(points, default=0) < 0:
        raise ValueError(f"expected times from 0 on, and types among {_BEAT_TYPES}")
    rows = [_RPOINT_COLUMNS]
    for point, kind in zip(points, kinds, strict=True):
        seconds = point / _SOMTE_HZ  # a multiple of 2**-8: eight decimals are exact
        rows.append(
            f"{point},-1,-1,0,0,0,0,0,{kind},0,-1,-1,-1,-1,-1,-1,-1,{nsrr_id},{ecg_rate_hz},"
            f"{seconds:.8f},{int(seconds // WINDOW_S) + 1},{point * ecg_rate_hz / _SOMTE_HZ:.8f}"
        )
    files.write_bytes(path, "\n".join([*rows, ""]).encode("ascii"))


def _runs(path: str | os.PathLike, root: Element) -> list[Run]:
    """All runs of stages in a document, in its order."""
    runs = []
    for event in root.iter("ScoredEvent"):
        concept = _field(path, event, "EventConcept")
        # Either tells a stage. Older translations give no type, and damage may hit one of the two.
        if "stag" in _field(path, event, "EventType").lower() or _STAGE_CONCEPT.match(concept):
            runs.append(_run(path, event, concept))
    return runs


def _run(path: str | os.PathLike, event: Element, concept: str) -> Run:
    start, duration = _field(path, event, "Start"), _field(path, event, "Duration")
    try:
        start_ms, duration_ms = _milliseconds(start), _milliseconds(duration)
        code = rk_code_of_concept(concept)
    except ValueError as error:
        where = f"stage {concept[:40]!r} (start {start[:20]!r}, duration {duration[:20]!r})"
        raise RecordingError(path, f"{where}: {error}.", "Leave this night out.") from None
    return Run(start_ms, start_ms + duration_ms, code, concept)


def _field(path: str | os.PathLike, event: Element, tag: str) -> str:
    """Text of an event's child; blank where there is none."""
    texts = {(child.text or "").strip() for child in event.iterfind(tag)}
    if len(texts) > 1:
        raise RecordingError(path, f"an event has {len(texts)} different {tag}.", FETCH_AGAIN)
    return texts.pop() if texts else ""


def _milliseconds(text: str) -> int:
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text[:20]!r} is no number of seconds")
    return round(1000 * float(text))


def _start_time(root: Element) -> datetime.time | None:
    """Wall clock at the recording's start; None where the document gives none that can be."""
    for event in root.iter("ScoredEvent"):
        if (event.findtext("EventConcept") or "").strip() == "Recording Start Time":
            clock = _CLOCK.fullmatch((event.findtext("ClockTime") or "").strip())
            hour, minute, second = map(int, clock.groups()) if clock else (-1, -1, -1)
            if 0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60:
                return datetime.time(hour, minute, second)
    return None
