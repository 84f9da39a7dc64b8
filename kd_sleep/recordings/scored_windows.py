"""A scorer's runs of stages, and what they say about the recording's 30-s windows."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from kd_sleep.errors import RecordingError
from kd_sleep.recordings.recording import LONGEST_S
from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import NUM_STAGES, UNSCORED, class_of_rk_code

WINDOW_MS = int(1000 * WINDOW_S)
_ROUNDING_MS = 500  # runs that overlap by less do so because their times were rounded
_SLEEP_CODES = {1, 2, 3, 4, 5}
MIN_ONE_KIND_WINDOWS = 120  # an hour of sleep all of one kind: nobody told the kinds apart
_FEWEST_COMPARED = 10  # windows scored twice; fewer say nothing of two scorings


@dataclasses.dataclass(frozen=True)
class Run:
    """A stretch of time that the scorer gave one stage.

    Attributes:
      start_ms: since the recording's start. Whole milliseconds, so that sums are exact.
      stop_ms: the first millisecond after it.
      code: Rechtschaffen & Kales code, a known one.
      name: the stage as the file names it.
    """

    start_ms: int
    stop_ms: int
    code: int
    name: str = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What a night's file of stages says.

    Attributes:
      labels: int8 [N], the class of each 30-s window from the recording's start to the last scored
        one. A window has the class that covers more than half of it; `UNSCORED` where there is
        none or the scorer wrote so.
      sleep_wake_only: whether the scorer separated sleep from wake but no stage of sleep from
        another. SHHS scored nights so where the EEG was too poor for stages, writing stage 2 for
        all sleep: such labels read like a night without REM or Deep, and would teach exactly that.
      timed: whether each stage stands with its time in the file; else one that is missing shifts
        all that follow.
      software: who made the file; blank where it does not say.
      start_time: wall clock at the recording's start; None where the file does not say.
    """

    labels: NDArray[np.int8]
    sleep_wake_only: bool
    timed: bool
    software: str = ""
    start_time: datetime.time | None = None


def scoring_of(
    path: str | os.PathLike,
    documents: Sequence[Sequence[Run]],
    *,
    timed: bool = True,
    software: str = "",
    start_time: datetime.time | None = None,
) -> Scoring:
    """Lays runs on the grid of windows that begins with the recording.

    Args:
      path: the file that they are from, for errors.
      documents: the runs of each document in the file, in any order. Documents without any do not
        count; the others have to agree.
      timed, software, start_time: see `Scoring`.

    Raises:
      RecordingError: for no run at all, runs that overlap with different stages or lie outside of
        24 hours, and documents that disagree.
    """
    scored = [_disjoint(path, runs) for runs in documents if runs]
    if not scored:
        raise RecordingError(path, "has no sleep stages.", "Leave this night out.")
    if any(runs != scored[0] for runs in scored[1:]):
        raise RecordingError(
            path,
            f"holds {len(scored)} scorings that disagree, joined in one file.",
            "Keep the right one, or leave this night out.",
        )
    # Codes, not classes: stages 1 and 2 are both Light, and a night that has both was staged.
    sleep = {run.code for run in scored[0]} & _SLEEP_CODES
    return Scoring(_on_windows(path, scored[0]), len(sleep) == 1, timed, software, start_time)


def labels_of_night(
    path: str | os.PathLike, scoring: Scoring, windows: int | None = None
) -> NDArray[np.int8]:
    """Labels, cut or padded to the number of windows that the night has.

    Args:
      path: the file that they are from, for errors.
      scoring: of the night.
      windows: of the night; None where the scoring alone tells.

    Raises:
      RecordingError: labels that tell sleep from wake only, outlast the night by more than one
        window, or fall short of it by more than one where they are not timed.
    """
    labels = scoring.labels
    if scoring.sleep_wake_only and np.count_nonzero(labels > 0) >= MIN_ONE_KIND_WINDOWS:
        raise RecordingError(
            path,
            "scores sleep and wake only, one kind of sleep.",
            "Leave this night out: its one code for sleep would be taken for Light.",
        )
    if windows is None:
        return labels
    if labels.size > windows + 1:
        raise RecordingError(
            path,
            f"stages {labels.size} windows where the night has {windows}.",
            "Check that all files are whole and of the same night.",
        )
    if not scoring.timed and labels.size < windows - 1:
        raise RecordingError(
            path,
            f"lists {labels.size} stages where the night has {windows} windows: if one is missing,"
            " all that follow are shifted.",
            "Take a file that times its stages, or leave this night out.",
        )
    kept = labels[:windows]
    return np.pad(kept, (0, windows - kept.size), constant_values=UNSCORED)


def disagreement(labels: NDArray[np.int8], others: NDArray[np.int8]) -> tuple[float, int]:
    """How two scorings of one night differ, over the windows that both score.

    Returns:
      The share of windows with different classes; and by how many windows `others` come later,
      0 unless that many at once leave less than half as large a share.
    """

    def share(late: int, fewest: int) -> float:
        first, second = labels[max(-late, 0) :], others[max(late, 0) :]
        size = min(len(first), len(second))
        both = (first[:size] != UNSCORED) & (second[:size] != UNSCORED)
        differ = (first[:size] != second[:size])[both]
        return float(differ.mean()) if differ.size >= max(_FEWEST_COMPARED, fewest) else math.inf

    at_once = share(0, 0)
    if not 0 < at_once < math.inf:  # none, or too few to tell
        return 0.0, 0
    reach, fewest = min(len(labels), len(others)) // 2, int((labels != UNSCORED).sum()) // 3
    shifted = {late: share(late, fewest) for late in range(-reach, reach + 1)}
    late = min(shifted, key=lambda late: (shifted[late], abs(late)))
    return at_once, late if shifted[late] < 0.5 * at_once else 0


def _disjoint(path: str | os.PathLike, runs: Iterable[Run]) -> list[Run]:
    """The runs in order of time, without overlaps; neighbours of one stage are one run."""
    ordered: list[Run] = []
    for run in sorted(runs, key=lambda run: (run.start_ms, run.stop_ms)):
        if not 0 <= run.start_ms < run.stop_ms <= 1000 * LONGEST_S:
            raise RecordingError(
                path,
                f"{_described(run)} lies outside any night.",
                "Correct the scoring, or leave this night out.",
            )
        last = ordered[-1] if ordered else None
        if last is None or run.start_ms > last.stop_ms:
            ordered.append(run)
        elif run.code == last.code:
            stop_ms = max(last.stop_ms, run.stop_ms)
            ordered[-1] = dataclasses.replace(last, stop_ms=stop_ms)
        elif min(last.stop_ms, run.stop_ms) - run.start_ms >= _ROUNDING_MS:
            raise RecordingError(
                path,
                f"{_described(run)} overlaps {_described(last)}.",
                "Correct the scoring, or leave this night out.",
            )
        elif run.stop_ms > last.stop_ms:
            ordered.append(dataclasses.replace(run, start_ms=last.stop_ms))
    return ordered


def _on_windows(path: str | os.PathLike, runs: Sequence[Run]) -> NDArray[np.int8]:
    """Classes of windows [N] from runs in order of time that do not overlap."""
    windows = -(-runs[-1].stop_ms // WINDOW_MS)
    covered_ms = np.zeros((windows, NUM_STAGES + 1), np.int64)  # UNSCORED, -1, is the last column
    for run in runs:
        first, last = run.start_ms // WINDOW_MS, (run.stop_ms - 1) // WINDOW_MS
        column = covered_ms[:, class_of_rk_code(run.code)]
        column[first : last + 1] += WINDOW_MS
        column[first] -= run.start_ms - first * WINDOW_MS
        column[last] -= (last + 1) * WINDOW_MS - run.stop_ms
    settled = 2 * covered_ms.max(axis=1) > WINDOW_MS
    if not settled.any():
        raise RecordingError(
            path, "has no sleep stages: none covers a window.", "Leave this night out."
        )
    labels = np.where(settled, covered_ms.argmax(axis=1), UNSCORED)
    labels[labels == NUM_STAGES] = UNSCORED
    return labels[: np.flatnonzero(settled)[-1] + 1].astype(np.int8)


def _described(run: Run) -> str:
    return f"stage {run.name!r} from {run.start_ms / 1000:g} to {run.stop_ms / 1000:g} s"
