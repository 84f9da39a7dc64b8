"""Annotation files of the National Sleep Research Resource: stages (XML) and R points (CSV).

Sources: https://github.com/nsrr/shhs-documentation (pages/13-hrv-analysis.md for R points) and the
files that NSRR's translator makes from Compumedics Profusion exports.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import os

import defusedxml.ElementTree
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import files
from kd_sleep.recordings.files import FETCH_AGAIN
from kd_sleep.recordings.recording import RPoints
from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import NSRR_CONCEPT_OF_CLASS, UNSCORED, Stage, class_of_concept

_LONGEST_NIGHT_S = 24 * 3600.0  # a time beyond this is damage, and no reason to fill the memory
_SOMTE_HZ = 256.0  # the rate that Somté assumes in every file, whatever the ECG's own

_STAGE_TERMS = ("sro:stage", "sro:wake", "sro:rem", "sro:movement", "sro:unscored")

_RPOINT_COLUMNS = (
    "RPoint,Start,End,STLevel1,STSlope1,STLevel2,STSlope2,Manual,Type,Class,"
    "PPoint,PStart,PEnd,TPoint,TStart,TEnd,TemplateID,nsrrid,samplingrate,seconds,epoch,rpointadj"
)
_NORMAL = 1
_BEAT_TYPES = (0, _NORMAL, 2, 3)  # artifact, normal sinus, ventricular, supraventricular ectopic


@dataclasses.dataclass(frozen=True)
class _Run:
    """Windows [first, stop) that the scorer gave one stage."""

    first: int
    stop: int
    concept: str
    stage: int


def read_stages(path: str | os.PathLike) -> NDArray[np.int8]:
    """Stages from an NSRR annotation file (`…-nsrr.xml`).

    Returns:
      int8 [N], the class of each 30-s window from the recording's start to the last scored one;
      `UNSCORED` where the scorer wrote so and in the gaps between scored runs.

    Raises:
      RecordingError: for a file that is missing or no XML, declares entities, holds no sleep stage,
        names an unknown one, scores a window twice and differently, or times a stage off the 30-s
        grid or beyond 24 hours.
    """
    runs = _stage_runs(path)
    labels = np.full(max(run.stop for run in runs), UNSCORED, np.int8)
    taken = np.zeros(labels.size, bool)
    for run in runs:
        span = slice(run.first, run.stop)
        if np.any(labels[span][taken[span]] != run.stage):
            raise RecordingError(
                path,
                f"{run.concept!r} at {run.first * WINDOW_S:g} s overlaps a run of another stage.",
                "Correct the scoring, or leave this night out.",
            )
        labels[span] = run.stage
        taken[span] = True
    return labels


def is_sleep_wake_only(path: str | os.PathLike) -> bool:
    """Whether the scorer told sleep from wake but not one stage of sleep from another.

    SHHS scored nights so where the EEG was too poor for stages, writing stage 2 for all sleep. Such
    labels read like a night without REM or Deep, and would teach exactly that.

    Raises:
      RecordingError: as `read_stages`.
    """
    # Concepts, not classes: stages 1 and 2 are both Light, and a night that has both was staged.
    sleep = {run.concept for run in _stage_runs(path) if run.stage not in (Stage.WAKE, UNSCORED)}
    return len(sleep) == 1


def write_stages(
    path: str | os.PathLike, labels: ArrayLike, recording_start: datetime.time, duration_s: float
) -> None:
    """Writes stages as NSRR does: one event for each run. Same input, same bytes.

    Args:
      path: replaced whole or not at all; its folder is made.
      labels: classes [N], N > 0. Unscored windows are written too, so that reading gives N back.
      recording_start: wall clock at the first window.
      duration_s: length of the recording.

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
        "<SoftwareVersion>Compumedics</SoftwareVersion>\n"
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

    Raises:
      RecordingError: for a file that is missing, lacks the columns `seconds` or `Type`, holds no
        beats, or has a row that is no beat within 24 hours (names the line).
    """
    lines = _read_bytes(path).decode("windows-1252", errors="replace").split("\n")
    names = [name.strip().strip('"').lower() for name in lines[0].split(",")]
    try:
        at_seconds, at_type = names.index("seconds"), names.index("type")
    except ValueError:
        raise RecordingError(
            path, "has no columns 'seconds' and 'Type'.", "Expected an NSRR R-point file."
        ) from None
    times_s, normal = [], []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split(",")
        try:
            seconds, beat_type = float(cells[at_seconds]), int(cells[at_type])
            valid = 0 <= seconds <= _LONGEST_NIGHT_S and beat_type in _BEAT_TYPES
        except (ValueError, IndexError):
            valid = False
        if not valid:
            raise RecordingError(
                path, f"line {number} is no beat: {line.strip()[:80]!r}.", FETCH_AGAIN
            )
        times_s.append(seconds)
        normal.append(beat_type == _NORMAL)
    if not times_s:
        raise RecordingError(path, "holds no beats.", FETCH_AGAIN)
    order = np.lexsort((normal, times_s))  # by time; of equal times, normal beats last
    unique, first = np.unique(np.array(times_s)[order], return_index=True)
    return RPoints(times_s=unique, normal=np.array(normal)[order][first])


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


def _read_bytes(path: str | os.PathLike) -> bytes:
    with files.opened(path) as file:
        return file.read()


def _stage_runs(path: str | os.PathLike) -> list[_Run]:
    """All runs of stages in the file, in its order; at least one."""
    try:
        root = defusedxml.ElementTree.fromstring(_read_bytes(path))
    # Refused entities and unknown encodings are ValueErrors, and malformed XML is a SyntaxError.
    except (SyntaxError, ValueError, LookupError) as error:
        raise RecordingError(path, f"is no readable XML ({error!r}).", FETCH_AGAIN) from error
    runs = []
    for event in root.iter("ScoredEvent"):
        fields = {child.tag: (child.text or "").strip() for child in event}
        concept = fields.get("EventConcept", "")
        if _is_stage(fields.get("EventType", ""), concept):
            runs.append(_run(path, concept, fields.get("Start", ""), fields.get("Duration", "")))
    if not runs:
        raise RecordingError(path, "has no sleep stages.", "Leave this night out.")
    return runs


def _is_stage(event_type: str, concept: str) -> bool:
    if event_type:
        return event_type.lower().startswith("stages")
    # Older translations give no type, and an ontology's terms (SRO) for stages and apnoeas alike.
    return concept.lower().startswith(_STAGE_TERMS)


def _run(path: str | os.PathLike, concept: str, start: str, duration: str) -> _Run:
    where = f"stage {concept!r} (start {start!r}, duration {duration!r})"
    try:
        start_s, duration_s = float(start), float(duration)
        stage = class_of_concept(concept)
    except ValueError as error:
        raise RecordingError(path, f"{where}: {error}.", "Leave this night out.") from None
    stop_s = start_s + duration_s
    if not 0 <= start_s < stop_s <= _LONGEST_NIGHT_S:  # so written, nan and inf are refused as well
        raise RecordingError(path, f"{where} lies outside any night.", "Leave this night out.")
    if start_s % WINDOW_S or duration_s % WINDOW_S:
        raise RecordingError(
            path,
            f"{where} lies off the grid of {WINDOW_S:g}-s windows, which is not supported.",
            "Leave this night out.",
        )
    return _Run(int(start_s // WINDOW_S), int(stop_s // WINDOW_S), concept, stage)
