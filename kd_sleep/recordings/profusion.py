"""Stages from Compumedics Profusion, the software that scored SHHS: one code for each window.

NSRR hands these files out beside its own (`annotations-events-profusion`); they are what its
translator starts from.
"""

from __future__ import annotations

import os
import re
from xml.etree.ElementTree import Element

from kd_sleep.errors import RecordingError
from kd_sleep.recordings.annotation_files import read_xml
from kd_sleep.recordings.files import FETCH_AGAIN
from kd_sleep.recordings.scoring import WINDOW_MS, Run, Scoring, scoring_of
from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import class_of_rk_code

_MAX_WINDOWS = int(24 * 3600 / WINDOW_S)


def read_scoring(path: str | os.PathLike) -> Scoring:
    """Stages from a Profusion file (`…-profusion.xml`).

    Raises:
      RecordingError: for a file that is missing, no safe XML or none of Profusion's, holds no
        sleep stage or an unknown one, more than 24 hours of them, or windows of another length
        than 30 s.
    """
    return scoring_of(path, [_runs(path, root) for root in read_xml(path)])


def _runs(path: str | os.PathLike, root: Element) -> list[Run]:
    if root.tag != "CMPStudyConfig":
        raise RecordingError(
            path,
            f"is no Profusion file: its root is <{root.tag[:40]}>.",
            "Expected <CMPStudyConfig>.",
        )
    if len(root.findall("SleepStages")) > 1:
        raise RecordingError(path, "has several lists of sleep stages.", FETCH_AGAIN)
    stages = root.findall("SleepStages/*")
    if len(stages) > _MAX_WINDOWS:
        raise RecordingError(
            path, f"scores {len(stages)} windows, more than 24 hours.", "Leave this night out."
        )
    if stages:
        _check_epoch_length(path, root)
    return [_run(path, window, stage) for window, stage in enumerate(stages)]


def _check_epoch_length(path: str | os.PathLike, root: Element) -> None:
    lengths = {(length.text or "").strip() for length in root.findall("EpochLength")}
    try:
        fits = {float(length) for length in lengths} == {WINDOW_S}
    except ValueError:
        fits = False
    if not fits:
        raise RecordingError(
            path,
            f"scores epochs of {' and '.join(sorted(lengths))[:20] or 'unknown'} s instead of"
            f" {WINDOW_S:g}.",
            "Leave this night out: stages of other lengths are not supported.",
        )


def _run(path: str | os.PathLike, window: int, stage: Element) -> Run:
    text = (stage.text or "").strip()
    try:
        if stage.tag != "SleepStage" or not re.fullmatch("[0-9]{1,2}", text):
            raise ValueError(f"<{stage.tag[:20]}> {text[:20]!r} is no sleep stage")
        class_of_rk_code(int(text))
    except ValueError as error:
        raise RecordingError(
            path, f"sleep stage {window + 1}: {error}.", "Leave this night out."
        ) from None
    return Run(window * WINDOW_MS, (window + 1) * WINDOW_MS, int(text), text)
