"""A night's stages from a file of any kind: CSV, EDF+ annotations, XML of NSRR or Profusion.

A CSV has a column `stage` and a row for each 30-s window in order, or its times: `start_s` and,
where they differ from 30, `duration_s`. Stages are names: W, N1, N2, N3, R, or Wake, Light, Deep,
REM; ? or nothing where nobody scored. Numbers mean different stages to different programs, so they
are read under the column name `rk_code` alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from kd_sleep.errors import RecordingError
from kd_sleep.recordings import nsrr, profusion
from kd_sleep.recordings.annotation_files import read_xml
from kd_sleep.recordings.edf import read_annotations
from kd_sleep.recordings.scoring import WINDOW_MS, Run, Scoring, scoring_of
from kd_sleep.recordings.text_table import number, read_rows
from kd_sleep.stages import class_of_rk_code, rk_code_of_concept

_EDF_STAGE = "sleep stage "  # how EDF+ has its stages' names begin
_MORE_NAMES = {
    "1": 1, "2": 2, "3": 3, "4": 4, "s1": 1, "s2": 2, "s3": 3, "s4": 4, "light": 2, "deep": 3,
    "m": 6, "mt": 6, "?": 9, "": 9, "nan": 9, "unknown": 9,
}  # fmt: skip
_FARTHEST_S = 24 * 3600.0


@dataclasses.dataclass(frozen=True)
class StagesFound:
    """A scoring, and whether each of its stages stands with its time in the file."""

    scoring: Scoring
    timed: bool


def read_stages_of(
    path: str | os.PathLike, recording_start: datetime.datetime | None = None
) -> StagesFound:
    """Stages from the recording's start on.

    Args:
      path: `.csv`, `.tsv`, `.txt`, `.edf` or `.xml`.
      recording_start: clock at the night's first sample: an EDF+ file that starts at another time
        counts its stages from there. None takes them to start together.

    Raises:
      RecordingError: a file that is missing or unusable, a stage that is unknown, or runs that
        overlap.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".xml":
        if read_xml(path)[0].tag == "CMPStudyConfig":
            return StagesFound(profusion.read_scoring(path), False)
        return StagesFound(nsrr.read_scoring(path), True)
    if suffix == ".edf":
        start, annotations = read_annotations(path)
        late_s = 0.0
        if start is not None and recording_start is not None:
            late_s = (start - recording_start.replace(tzinfo=None)).total_seconds()
        runs = [
            _run(path, f"at {onset_s:g} s", onset_s + late_s, duration_s, text, _code_of_name)
            for onset_s, duration_s, text in annotations
            if _is_stage(text)
        ]
        return StagesFound(scoring_of(path, [_within(runs)]), True)
    if suffix in (".csv", ".tsv", ".txt"):
        return _from_csv(path)
    raise RecordingError(
        path,
        f"has the suffix {suffix!r}, which is no known format of stages.",
        "Known are .csv, .tsv, .txt, .edf (EDF+ annotations) and .xml (NSRR, Profusion).",
    )


def _from_csv(path: str | os.PathLike) -> StagesFound:
    rows = read_rows(path, ())
    names = rows[0][1]
    column = next((name for name in ("stage", "rk_code") if name in names), None)
    if column is None:
        raise RecordingError(
            path,
            f"has no column stage among {', '.join(names)[:200]}.",
            "Name it in the first line; below, a row for each 30-s window: W, N1, N2, N3 or R.",
        )
    blank = [row for (before, _), (row, _) in itertools.pairwise(rows) if row != before + 1]
    timed, read_code = "start_s" in names, _code_of_name if column == "stage" else _code_of_number
    if blank and not timed:
        raise RecordingError(
            path,
            f"has a blank line between its stages, above row {blank[0]}.",
            "Write ? for a window that nobody scored, or remove the line.",
        )
    runs = []
    for window, (row, cells) in enumerate(rows):
        start_s = number(cells["start_s"]) if timed else window * WINDOW_MS / 1000
        duration_s = number(cells.get("duration_s") or "30")
        runs.append(_run(path, f"row {row}", start_s, duration_s, cells[column], read_code))
    return StagesFound(scoring_of(path, [runs]), timed)


def _run(
    path: str | os.PathLike,
    where: str,
    start_s: float,
    duration_s: float,
    text: str,
    read_code: Callable[[str], int],
) -> Run:
    try:
        if not (abs(start_s) <= _FARTHEST_S and 0 < duration_s <= _FARTHEST_S):
            raise ValueError(f"it starts at {start_s:g} s and lasts {duration_s:g} s")
        start_ms = round(1000 * start_s)
        return Run(start_ms, start_ms + round(1000 * duration_s), read_code(text), text)
    except ValueError as error:
        raise RecordingError(
            path, f"{where}: {error}.", "Correct it, or leave this night out."
        ) from None


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


def _code_of_number(text: str) -> int:
    code = number(text)
    if not code.is_integer():
        raise ValueError(f"{text[:20]!r} is no code")
    class_of_rk_code(int(code))
    return int(code)


def _is_stage(text: str) -> bool:
    """EDF+ has stages as `Sleep stage W`, and `Movement time`; other annotations are events."""
    return text.lower().startswith((_EDF_STAGE, "movement time"))


def _within(runs: Sequence[Run]) -> list[Run]:
    """Runs of a scoring that began before the recording, less what lies before its start."""
    return [dataclasses.replace(r, start_ms=max(r.start_ms, 0)) for r in runs if r.stop_ms > 0]
