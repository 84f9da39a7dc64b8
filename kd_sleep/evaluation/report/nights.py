"""Nights to look at: the best, the median and the worst, none picked by eye."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kd_sleep.evaluation.report import hypnograms
from kd_sleep.evaluation.report.chosen_nights import ReportNight
from kd_sleep.evaluation.report.hypnograms import RELIABLE_SNR_DB
from kd_sleep.evaluation.report.systems import shown_two
from kd_sleep.pages import figure_of, stage_chip
from kd_sleep.stages import STAGE_NAMES


def nights_section(nights: Sequence[ReportNight]) -> str:
    """Each night with a few seconds of its BCG; nothing without nights."""
    if not nights:
        return ""
    legend = (
        f'<p class="note">{" ".join(map(stage_chip, STAGE_NAMES))}. Below a system\'s hypnogram:'
        " the probabilities behind it. BCG quality: dotted,"
        f" {RELIABLE_SNR_DB:g} dB, above which heartbeats are found reliably; grey, at least half"
        " of the window is missing."
    )
    if any(night.sqi is not None for night in nights):
        legend += (
            " Learned SQI: the share of what the ECG's teacher knows that the student is expected"
            " to keep; shaded, windows that it flags. The numbered ones are shown below the night:"
            " the middle one by SQI of those flagged, and of those kept."
        )
    return f"{legend}</p>" + "".join(map(_night, nights))


def _night(night: ReportNight) -> str:
    title = f"<h3>{escape(night.why[:1].upper() + night.why[1:])}</h3>"
    caption = f"<b>{escape(night.recording_id)}</b>"
    drawn = figure_of(hypnograms.night(night, shown_two(night.probs)), caption, "wide")
    if night.snippets:
        caption = f"<b>{escape(night.recording_id)}</b>, 30 s of BCG each; mind the scales."
        drawn += figure_of(hypnograms.snippets(night), caption, "wide")
    return title + drawn
