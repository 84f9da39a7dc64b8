"""The nights that a report draws: best, median and worst, with a few seconds of their BCG.

They are chosen by rule, not by eye. Nights go by accuracy of the system that is on show: the first,
the (lower) median and the last. Of a night's windows the SQI chooses two: the one in the middle of
those that it flags, and the one in the middle of those that it keeps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep.datasets.nights import Nights
from kd_sleep.evaluation.report.systems import label
from kd_sleep.evaluation.scores import DISTILLED, TEACHER
from kd_sleep.features.bcg import MOST_MISSING
from kd_sleep.stages import STAGE_NAMES


@dataclasses.dataclass(frozen=True)
class Snippet:
    """A window of BCG to look at.

    Attributes:
      title: why this one, such as "a flagged window".
      start_window: its number in the night.
      bcg: [S] at 50 Hz, in heartbeat amplitudes.
      sqi: what the learned SQI gave it.
      scored, said: the scorer's stage and the student's, or "unscored".
    """

    title: str
    start_window: int
    bcg: NDArray[np.floating]
    sqi: float
    scored: str
    said: str


@dataclasses.dataclass(frozen=True)
class ReportNight:
    """One night to look at.

    Attributes:
      recording_id: its name.
      labels: [N] scored stages, -1 where unscored.
      probs: system -> [N, K] probabilities.
      bcg_snr_db: [N] power in 1-8 Hz over power in 10-20 Hz, dB; NaN where unknown.
      bcg_missing: [N] fraction of the window without BCG.
      why: this night and no other.
      sqi: [N] learned SQI in [0, 1]; None where the student has none.
      flag_below: windows of a lower SQI are flagged; None where no threshold was chosen.
      snippets: windows of its BCG.
    """

    recording_id: str
    labels: NDArray[np.integer]
    probs: Mapping[str, NDArray[np.floating]]
    bcg_snr_db: NDArray[np.floating]
    bcg_missing: NDArray[np.floating]
    why: str = "chosen by hand"
    sqi: NDArray[np.floating] | None = None
    flag_below: float | None = None
    snippets: Sequence[Snippet] = ()


def report_nights(
    results: Mapping[str, Any],
    nights: Nights,
    systems: Mapping[str, Sequence[NDArray[np.floating]]],
    sqi: Sequence[NDArray[np.floating]] | None = None,
    flag_below: float | None = None,
) -> list[ReportNight]:
    """Best, median and worst night of the distilled student, or of whatever else was scored.

    Args:
      results: what `scores.score` returned for these nights and systems.
      nights: R nights.
      systems: name -> probabilities [N_r, K] of each of the R nights.
      sqi: learned SQI [N_r] of each; None where there is none.
      flag_below: windows of a lower SQI are flagged.

    Returns:
      One to three nights: where one is best and worst at once it comes once, with all its reasons.
    """
    shown = next((n for n in (DISTILLED, TEACHER) if n in systems), next(iter(systems)))
    return [
        _night(nights.recording_ids.index(recording), shown, why, nights, systems, sqi, flag_below)
        for recording, why in chosen(results, shown).items()
    ]


def chosen(results: Mapping[str, Any], shown: str) -> dict[str, str]:
    """Recording -> why it is drawn, the best by accuracy of `shown` first."""
    ranked = sorted(
        (
            (row["accuracy"], row["recording_id"])
            for row in results["systems"][shown]["per_recording"]
            if row["accuracy"] is not None
        ),
        reverse=True,
    )
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    whys: dict[str, list[str]] = {}
    for why, place in places.items():
        whys.setdefault(ranked[place][1], []).append(why)
    by = f"night by accuracy of {label(shown)}"
    return {recording: f"{_and(why)} {by}" for recording, why in whys.items()}


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _night(
    row: int,
    shown: str,
    why: str,
    nights: Nights,
    systems: Mapping[str, Sequence[NDArray[np.floating]]],
    sqi: Sequence[NDArray[np.floating]] | None,
    flag_below: float | None,
) -> ReportNight:
    windows = slice(nights.first[row], nights.first[row] + nights.windows[row])
    night = ReportNight(
        recording_id=nights.recording_ids[row],
        labels=nights.label[windows],
        probs={name: probs[row] for name, probs in systems.items()},
        bcg_snr_db=nights.bcg_snr_db[windows],
        bcg_missing=nights.bcg_missing[windows],
        why=why,
        sqi=None if sqi is None else sqi[row],
        flag_below=flag_below,
    )
    return dataclasses.replace(night, snippets=_snippets(night, shown, nights, windows.start))


def _snippets(night: ReportNight, shown: str, nights: Nights, first: int) -> list[Snippet]:
    """A flagged and a good window, each the middle one of its kind by SQI."""
    if night.sqi is None or night.flag_below is None or nights.bcg is None:
        return []
    known = np.isfinite(night.sqi) & (night.bcg_missing < MOST_MISSING)
    flagged = night.sqi < night.flag_below
    found = []
    for title, kind in (("a flagged window", known & flagged), ("a good window", known & ~flagged)):
        of_kind = np.flatnonzero(kind)
        if not of_kind.size:
            continue
        window = int(of_kind[np.argsort(night.sqi[of_kind], kind="stable")[len(of_kind) // 2]])
        scored, said = int(night.labels[window]), int(night.probs[shown][window].argmax())
        found.append(
            Snippet(
                title=title,
                start_window=window,
                bcg=nights.bcg[first + window] * np.float64(nights.bcg_scale[first + window]),
                sqi=float(night.sqi[window]),
                scored=STAGE_NAMES[scored] if scored >= 0 else "unscored",
                said=STAGE_NAMES[said],
            )
        )
    return found
