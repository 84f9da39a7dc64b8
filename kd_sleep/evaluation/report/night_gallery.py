"""Nights to look at: the best, the median and the worst by accuracy, none picked by eye."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kd_sleep import metrics
from kd_sleep.datasets.nights import Nights
from kd_sleep.evaluation.report.drawings import hypnogram, stairs
from kd_sleep.evaluation.report.wording import WORSE, joined, label, shown_two
from kd_sleep.evaluation.results import Results
from kd_sleep.evaluation.scores import DISTILLED, TEACHER
from kd_sleep.features.bcg import MOST_MISSING
from kd_sleep.pages import MUTED, STAGE_COLOURS, WIDE, drawing, figure_of, stage_chip
from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import STAGE_NAMES

RELIABLE_SNR_DB = 6.0  # above it, J peaks are found reliably; below 0 dB, most of them are not


@dataclasses.dataclass(frozen=True)
class ReportNight:
    """One night to look at.

    Attributes:
      recording_id: its name.
      why: this night and no other.
      labels: [N] scored stages, -1 where unscored.
      probs: system -> [N, K] probabilities.
      bcg_snr_db: [N] power in 1-8 Hz over power in 10-20 Hz, dB; NaN where unknown.
      bcg_missing: [N] fraction of the window without BCG.
      sqi: [N] learned SQI in [0, 1]; None where the student has none.
      flag_below: windows of a lower SQI are flagged.
    """

    recording_id: str
    why: str
    labels: NDArray[np.integer]
    probs: Mapping[str, NDArray[np.floating]]
    bcg_snr_db: NDArray[np.floating]
    bcg_missing: NDArray[np.floating]
    sqi: NDArray[np.floating] | None = None
    flag_below: float | None = None


def report_nights(
    results: Results,
    nights: Nights,
    systems: Mapping[str, Sequence[NDArray[np.floating]]],
    sqi: Sequence[NDArray[np.floating]] | None = None,
    flag_below: float | None = None,
) -> list[ReportNight]:
    """Best, median and worst night of the distilled student, or of whatever else was scored.

    Args:
      results: of these nights and systems.
      nights: R nights.
      systems: name -> probabilities [N_r, K] of each of the R nights.
      sqi: learned SQI [N_r] of each; None where there is none.
      flag_below: windows of a lower SQI are flagged.

    Returns:
      One to three nights: where one is best and worst at once it comes once, with all its reasons.
    """
    shown = next((n for n in (DISTILLED, TEACHER) if n in systems), next(iter(systems)))
    found = []
    for recording, why in _chosen(results, shown).items():
        row = nights.recording_ids.index(recording)
        windows = slice(nights.first[row], nights.first[row] + nights.windows[row])
        found.append(
            ReportNight(
                recording,
                why,
                nights.label[windows],
                {name: probs[row] for name, probs in systems.items()},
                nights.bcg_snr_db[windows],
                nights.bcg_missing[windows],
                None if sqi is None else sqi[row],
                flag_below,
            )
        )
    return found


def _chosen(results: Results, shown: str) -> dict[str, str]:
    """Recording -> why it is drawn, the best by accuracy of `shown` first."""
    rows = results.systems[shown].per_recording
    ranked = sorted(
        ((row.accuracy, row.recording_id) for row in rows if row.accuracy is not None),
        reverse=True,
    )
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    whys: dict[str, list[str]] = {}
    for why, place in places.items():
        whys.setdefault(ranked[place][1], []).append(why)
    by = f"night by accuracy of {label(shown)}"
    return {recording: f"{joined(why)} {by}" for recording, why in whys.items()}


def nights_section(nights: Sequence[ReportNight]) -> str:
    """A picture of each night; nothing without nights."""
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
            " Learned SQI: the share of the teacher's information that the student is expected to"
            " keep; shaded, windows that it flags."
        )
    parts = [f"{legend}</p>"]
    for night in nights:
        name = f"<b>{escape(night.recording_id)}</b>"
        parts.append(f"<h3>{escape(night.why[:1].upper() + night.why[1:])}</h3>")
        parts.append(figure_of(night_strips(night), name, "wide"))
    return "".join(parts)


@drawing
def night_strips(night: ReportNight) -> tuple[Figure, str]:
    """The scorer's hypnogram, each system's with its probabilities, then the BCG's quality."""
    names = shown_two(night.probs)
    hours = np.arange(len(night.labels) + 1) * WINDOW_S / 3600
    qualities = 1 if night.sqi is None else 2
    heights = [1.0] + [1.0, 0.7] * len(names) + [0.8] * qualities
    figure = Figure((WIDE, 0.9 + 0.95 * sum(heights)), layout="constrained")
    panels = list(figure.subplots(len(heights), sharex=True, height_ratios=heights))
    hypnogram(panels[0], hours, night.labels, "Scored by hand")
    spoken = []
    for number, name in enumerate(names):
        probs_NK = np.asarray(night.probs[name], np.float64)
        counts = metrics.confusion_counts(night.labels, probs_NK.argmax(-1), len(STAGE_NAMES))
        agreement = f"{100 * metrics.accuracy(counts):.0f} % agreement" if counts.any() else ""
        title = f"{label(name)}: {agreement or 'no labels'}"
        hypnogram(panels[1 + 2 * number], hours, probs_NK.argmax(-1), title)
        _draw_probabilities(panels[2 + 2 * number], hours, probs_NK)
        spoken.append(title)
    quality = panels[1 + 2 * len(names)]
    stairs(quality, hours, night.bcg_snr_db, "BCG quality: power in 1–8 Hz over 10–20 Hz", "dB")
    quality.axhline(RELIABLE_SNR_DB, color=MUTED, linestyle=":", linewidth=1)
    _shade(quality, hours, night.bcg_missing >= MOST_MISSING, MUTED)
    if night.sqi is not None:
        spoken.append(_draw_sqi(panels[-1], hours, night, night.sqi))
    panels[-1].set_xlim(0, hours[-1])
    panels[-1].set_xlabel("Hours since the start of the recording")
    return figure, f"Recording {night.recording_id}, {hours[-1]:.1f} hours: {'; '.join(spoken)}."


def _draw_probabilities(axes: Axes, hours: NDArray, probs_NK: NDArray) -> None:
    """Stacked as the hypnogram is, Wake on top."""
    edges = np.append(probs_NK, probs_NK[-1:], axis=0)[:, ::-1]
    colours = list(STAGE_COLOURS.values())[::-1]
    axes.stackplot(hours, 100 * edges.T, colors=colours, step="post", linewidth=0)
    axes.set(ylim=(0, 100), yticks=[0, 50, 100], ylabel="%")


def _draw_sqi(axes: Axes, hours: NDArray, night: ReportNight, sqi: NDArray) -> str:
    """The learned SQI with its flags; returns its title."""
    title = "Learned SQI"
    if night.flag_below is not None:
        flagged = sqi < night.flag_below
        axes.axhline(night.flag_below, color=MUTED, linestyle=":", linewidth=1)
        _shade(axes, hours, flagged, WORSE)
        title += f": {100 * flagged.mean():.0f} % of the windows flagged"
    stairs(axes, hours, sqi, title, "SQI")
    axes.set(ylim=(0, 1), yticks=[0, 0.5, 1])
    return title


def _shade(axes: Axes, hours: NDArray, where: NDArray[np.bool_], colour: str) -> None:
    """Windows shaded over the whole height."""
    axes.fill_between(
        hours, 0, 1, where=np.append(where, False), step="post", color=colour, alpha=0.35,
        transform=axes.get_xaxis_transform(), linewidth=0,
    )  # fmt: skip
