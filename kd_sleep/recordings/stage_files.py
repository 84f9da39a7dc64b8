"""Stages from files of any kind: CSV, EDF+ annotations, XML of NSRR or Profusion.

A CSV has a column `stage` and a row for each 30-s window in order, or its times: `start_s` and,
where they differ from 30, `duration_s`. Stages are names: W, N1, N2, N3, R, or Wake, Light, Deep,
REM; ? or nothing where nobody scored. Numbers mean different stages to different programs, so they
are read under the column name `rk_code` alone.

NSRR's XML is what its translator makes from Profusion's, of today's or an older version; Profusion
(Compumedics) is the software that scored SHHS, and its XML lists one code for each window.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import ArrayLike

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import files
from kd_sleep.recordings.edf import read_annotations
from kd_sleep.recordings.files import FETCH_AGAIN
from kd_sleep.recordings.recording import LONGEST_S
from kd_sleep.recordings.scored_windows import Run, Scoring, scoring_of
from kd_sleep.recordings.text_table import number, read_table
from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import NSRR_CONCEPT_OF_CLASS, class_of_rk_code, rk_code_of_concept

_EDF_STAGE = "sleep stage "  # how EDF+ has its stages' names begin
_MORE_NAMES = {
    "1": 1, "2": 2, "3": 3, "4": 4, "s1": 1, "s2": 2, "s3": 3, "s4": 4, "light": 2, "deep": 3,
    "m": 6, "mt": 6, "?": 9, "": 9, "nan": 9, "unknown": 9,
}  # fmt: skip
# Stages as the translator's older ontologies name them, and what ends in a code, as today's do.
_NSRR_STAGE = re.compile(
    r"(sro|sdo):(stage|wake|rem|rapideye|nonrapideye|movement(time)?$|unscored|artifactepoch)"
    r"|.*\|\s*\d+\s*$",
    re.IGNORECASE | re.DOTALL,
)
_SECONDS = re.compile(r"\d{1,9}(\.\d{0,20})?", re.ASCII)
_CLOCK = re.compile(r"(?:.*\s)?(\d\d)[.:](\d\d)[.:](\d\d)", re.ASCII)
_CORRECT = "Correct it, or leave this night out."


def read_scoring(
    path: str | os.PathLike, recording_start: datetime.datetime | None = None
) -> Scoring:
    """Stages from the recording's start on.

    Args:
      path: `.csv`, `.tsv`, `.txt`, `.edf` or `.xml`.
      recording_start: clock at the night's first sample: an EDF+ file that starts at another time
        counts its stages from there. None takes them to start together.

    Raises:
      RecordingError: a file that is missing or unusable; no stage, an unknown one, one whose name
        and code disagree or that is not within 24 hours; stages that overlap; windows of another
        length than 30 s; joined documents that disagree.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".xml":
        return _from_xml(path)
    if suffix == ".edf":
        return _from_edf(path, recording_start)
    if suffix in (".csv", ".tsv", ".txt"):
        return _from_csv(path)
    raise RecordingError(
        path,
        f"has the suffix {suffix!r}, which is no known format of stages.",
        "Known are .csv, .tsv, .txt, .edf (EDF+ annotations) and .xml (NSRR, Profusion).",
    )


def _run(
    path: str | os.PathLike,
    where: str,
    start_s: float | str,
    duration_s: float | str,
    text: str,
    read_code: Callable[[str], int],
) -> Run:
    try:
        start_s, duration_s = (
            _seconds(s) if isinstance(s, str) else s for s in (start_s, duration_s)
        )
        if not (abs(start_s) <= LONGEST_S and 0 < duration_s <= LONGEST_S):
            raise ValueError(f"it starts at {start_s:g} s and lasts {duration_s:g} s")
        start_ms = round(1000 * start_s)
        return Run(start_ms, start_ms + round(1000 * duration_s), read_code(text), text)
    except ValueError as error:
        raise RecordingError(path, f"{where}: {error}.", _CORRECT) from None


def _from_csv(path: str | os.PathLike) -> Scoring:
    table = read_table(path)
    column = next((name for name in ("stage", "rk_code") if name in table.columns), None)
    if column is None:
        raise RecordingError(
            path,
            f"has no column stage among {', '.join(table.names)[:200]}.",
            "Name it in the first line; below, a row for each 30-s window: W, N1, N2, N3 or R.",
        )
    blank = [row for before, row in itertools.pairwise(table.rows) if row != before + 1]
    timed, read_code = "start_s" in table.columns, _code_of_name if column == "stage" else _rk_code
    if blank and not timed:
        raise RecordingError(
            path,
            f"has a blank line between its stages, above row {blank[0]}.",
            "Write ? for a window that nobody scored, or remove the line.",
        )
    starts = table.numbers("start_s") if timed else WINDOW_S * np.arange(len(table.rows))
    lasting = table.columns.get("duration_s", [""] * len(table.rows))
    runs = [
        _run(path, f"row {row}", start_s, number(cell or f"{WINDOW_S}"), stage, read_code)
        for row, start_s, cell, stage in zip(
            table.rows, starts.tolist(), lasting, table.columns[column], strict=True
        )
    ]
    return scoring_of(path, [runs], timed=timed)


def _code_of_name(text: str) -> int:
    folded = "".join(text.lower().removeprefix(_EDF_STAGE).split())
    if text.strip().isdecimal():
        raise ValueError(
            f"stage {text[:20]!r} is a number, which programs give different meanings; write W, N1,"
            " N2, N3 or R, or name the column rk_code if 0 is wake, 1 to 4 are the sleep stages of"
            " Rechtschaffen & Kales, 5 is REM and 9 unscored"
        )
    code = _MORE_NAMES.get(folded.removeprefix("stage"))
    return rk_code_of_concept(folded) if code is None else code


def _rk_code(text: str) -> int:
    code = number(text)
    if not code.is_integer():
        raise ValueError(f"{text[:20]!r} is no code")
    class_of_rk_code(int(code))
    return int(code)


def _from_edf(path: str | os.PathLike, recording_start: datetime.datetime | None) -> Scoring:
    """`Sleep stage W` and `Movement time` are stages, other annotations are events."""
    start, annotations = read_annotations(path)
    late_s = 0.0
    if start is not None and recording_start is not None:
        late_s = (start - recording_start.replace(tzinfo=None)).total_seconds()
    runs = [
        _run(path, f"at {onset_s:g} s", onset_s + late_s, duration_s, text, _code_of_name)
        for onset_s, duration_s, text in annotations
        if text.lower().startswith((_EDF_STAGE, "movement time"))
    ]
    # Of a scoring that began before the recording, what lies before its start is left out.
    runs = [dataclasses.replace(r, start_ms=max(r.start_ms, 0)) for r in runs if r.stop_ms > 0]
    return scoring_of(path, [runs])


def _from_xml(path: str | os.PathLike) -> Scoring:
    roots = files.read_xml(path)
    if roots[0].tag == "CMPStudyConfig":
        return scoring_of(path, [_profusion_runs(path, root) for root in roots], timed=False)
    return scoring_of(
        path,
        [_nsrr_runs(path, root) for root in roots],
        software=(roots[0].findtext("SoftwareVersion") or "").strip(),
        start_time=_nsrr_start_time(roots[0]),
    )


def _profusion_runs(path: str | os.PathLike, root: Element) -> list[Run]:
    stages = root.findall("SleepStages/*")
    if len(root.findall("SleepStages")) > 1:
        raise RecordingError(path, "has several lists of sleep stages.", FETCH_AGAIN)
    if len(stages) > LONGEST_S / WINDOW_S:
        raise RecordingError(path, f"scores {len(stages)} windows, more than 24 hours.", _CORRECT)
    lengths = {(length.text or "").strip() for length in root.findall("EpochLength")}
    if stages and {number(length) for length in lengths} != {WINDOW_S}:
        raise RecordingError(
            path,
            f"scores epochs of {' and '.join(sorted(lengths))[:20] or 'unknown'} s instead of"
            f" {WINDOW_S:g}.",
            "Leave this night out: stages of other lengths are not supported.",
        )
    return [
        _run(
            path,
            f"sleep stage {n}",
            (n - 1) * WINDOW_S,
            WINDOW_S,
            f"{s.tag} {s.text}",
            _code_of_tag,
        )
        for n, s in enumerate(stages, start=1)
    ]


def _code_of_tag(text: str) -> int:
    match = re.fullmatch(r"SleepStage\s+([0-9]{1,2})\s*", text)
    if match is None:
        raise ValueError(f"{text[:30]!r} is no sleep stage")
    return _rk_code(match[1])


def _nsrr_runs(path: str | os.PathLike, root: Element) -> list[Run]:
    runs = []
    for event in root.iter("ScoredEvent"):
        concept = _field(path, event, "EventConcept")
        # Either tells a stage. Older translations give no type, and damage may hit one of the two.
        if "stag" in _field(path, event, "EventType").lower() or _NSRR_STAGE.match(concept):
            start, lasting = _field(path, event, "Start"), _field(path, event, "Duration")
            where = f"stage {concept[:40]!r} (start {start[:20]!r}, duration {lasting[:20]!r})"
            runs.append(_run(path, where, start, lasting, concept, rk_code_of_concept))
    return runs


def _field(path: str | os.PathLike, event: Element, tag: str) -> str:
    """Text of an event's child; blank where there is none."""
    texts = {(child.text or "").strip() for child in event.iterfind(tag)}
    if len(texts) > 1:
        raise RecordingError(path, f"an event has {len(texts)} different {tag}.", FETCH_AGAIN)
    return texts.pop() if texts else ""


def _seconds(text: str) -> float:
    if not _SECONDS.fullmatch(text):
        raise ValueError(f"{text[:20]!r} is no number of seconds")
    return float(text)


def _nsrr_start_time(root: Element) -> datetime.time | None:
    """Wall clock at the recording's start; None where the document gives none that can be."""
    for event in root.iter("ScoredEvent"):
        if (event.findtext("EventConcept") or "").strip() == "Recording Start Time":
            clock = _CLOCK.fullmatch((event.findtext("ClockTime") or "").strip())
            hour, minute, second = map(int, clock.groups()) if clock else (24, 0, 0)
            with contextlib.suppress(ValueError):
                return datetime.time(hour, minute, second)
    return None


def write_nsrr_stages(
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
