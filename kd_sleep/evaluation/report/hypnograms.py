"""A night to look at: hypnograms, what is behind them, and how good its BCG was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kd_sleep import metrics
from kd_sleep.evaluation.report.chosen_nights import ReportNight
from kd_sleep.evaluation.report.marks import SMALL
from kd_sleep.evaluation.report.systems import label
from kd_sleep.pages import INK, MUTED, STAGE_COLOURS, WIDE, drawing
from kd_sleep.schema import BCG_HZ, WINDOW_S
from kd_sleep.stages import STAGE_NAMES

RELIABLE_SNR_DB = 6.0  # above it, J peaks are found reliably; below 0 dB, most of them are not
FLAGGED = "#D55E00"


@drawing
def night(night: ReportNight, names: Sequence[str]) -> tuple[Figure, str]:
    """A night: the scorer's hypnogram, each system's with its hypnodensity, then BCG quality."""
    hours = np.arange(len(night.labels) + 1) * WINDOW_S / 3600  # edges of the windows
    qualities = 1 if night.sqi is None else 2
    heights = [1.0] + [1.0, 0.7] * len(names) + [0.8] * qualities
    figure = Figure((WIDE, 0.9 + 0.95 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    draw_hypnogram(panels[0], hours, night.labels, "Scored by hand")
    densities = zip(panels[1:-qualities:2], panels[2:-qualities:2], names, strict=True)
    spoken = []
    for hypnogram, density, name in densities:
        probs_NK = np.asarray(night.probs[name], np.float64)
        counts = metrics.confusion_counts(night.labels, probs_NK.argmax(-1), len(STAGE_NAMES))
        agreement = (
            f"{100 * metrics.accuracy(counts):.0f} % agreement" if counts.any() else "no labels"
        )
        spoken.append(f"{label(name)}, {agreement}")
        draw_hypnogram(hypnogram, hours, probs_NK.argmax(-1), f"{label(name)}: {agreement}")
        _draw_density(density, hours, probs_NK)
    text = f"Recording {night.recording_id}, {hours[-1]:.1f} hours: scored hypnogram; "
    text += "; ".join(spoken) + ", each with its hypnodensity; BCG signal-to-noise ratio"
    _draw_snr(panels[-qualities], hours, night)
    if night.sqi is not None:
        text += f"; learned SQI, {_draw_sqi(panels[-1], hours, night, night.sqi)}"
    panels[-1].set_xlim(0, hours[-1])
    panels[-1].set_xlabel("Hours since the start of the recording")
    return figure, f"{text}."


def _draw_snr(axes: Axes, hours: NDArray, night: ReportNight) -> None:
    axes.stairs(night.bcg_snr_db, hours, baseline=None, color=INK, linewidth=0.8)
    axes.axhline(RELIABLE_SNR_DB, color=MUTED, linestyle=":", linewidth=1)
    _shade(axes, hours, night.bcg_missing >= 0.5, MUTED)
    axes.set_title("BCG quality: power in 1–8 Hz over 10–20 Hz")
    axes.set_ylabel("dB")


def _draw_sqi(axes: Axes, hours: NDArray, night: ReportNight, sqi: NDArray) -> str:
    """The learned SQI with what it flags, and that in words."""
    axes.stairs(sqi, hours, baseline=None, color=INK, linewidth=0.8)
    axes.set_ylim(0, 1.35)  # room for the snippets' numbers
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("SQI")
    said = "no threshold"
    if night.flag_below is not None:
        flagged = sqi < night.flag_below
        axes.axhline(night.flag_below, color=MUTED, linestyle=":", linewidth=1)
        _shade(axes, hours, flagged, FLAGGED)
        said = f"{100 * flagged.mean():.0f} % of the windows flagged"
    axes.set_title(f"Learned SQI: {said}")
    for number, snippet in enumerate(night.snippets, 1):
        at = (snippet.start_window + 0.5) * WINDOW_S / 3600
        axes.axvline(at, color=INK, linewidth=0.8)
        axes.annotate(
            str(number), (at, 1.2), (3, 0), textcoords="offset points", va="center",
            fontsize=SMALL, fontweight="bold",
        )  # fmt: skip
    return said


def _shade(axes: Axes, hours: NDArray, where: NDArray[np.bool_], colour: str) -> None:
    """Windows shaded over the whole height."""
    axes.fill_between(
        hours, 0, 1, where=np.append(where, False), step="post", color=colour, alpha=0.35,
        transform=axes.get_xaxis_transform(), linewidth=0,
    )  # fmt: skip


@drawing
def snippets(night: ReportNight) -> tuple[Figure, str]:
    """The night's BCG snippets, each on a scale of its own."""
    figure = Figure((WIDE, 0.5 + 1.15 * len(night.snippets)), layout="constrained")
    panels = figure.subplots(len(night.snippets), sharex=True, squeeze=False)[:, 0]
    spoken = []
    for number, (axes, snippet) in enumerate(zip(panels, night.snippets, strict=True), 1):
        seconds = np.arange(len(snippet.bcg)) / BCG_HZ
        axes.plot(seconds, snippet.bcg, color=INK, linewidth=0.7)
        hours = snippet.start_window * WINDOW_S / 3600
        said = (
            f"{snippet.title}: SQI {snippet.sqi:.2f}, scored {snippet.scored}, the student said"
            f" {snippet.said}"
        )
        axes.set_title(f"{number}, {said}, {hours:.2f} h")
        spoken.append(f"{said}, up to {np.abs(snippet.bcg).max(initial=0.0):.1f} heartbeats high")
    panels[-1].set_xlim(0, WINDOW_S)
    panels[-1].set_xlabel("Seconds")
    figure.supylabel("Heartbeat amplitudes", fontsize=10)
    return figure, f"BCG of recording {night.recording_id}: {'; '.join(spoken)}."


def draw_hypnogram(axes: Axes, hours: NDArray, stages: NDArray, title: str) -> None:
    """Steps with a coloured bar for every window; gaps where nobody scored."""
    levels = np.where(stages < 0, np.nan, stages)
    axes.plot(np.repeat(hours, 2)[1:-1], np.repeat(levels, 2), color=MUTED, linewidth=0.8)
    for stage, colour in enumerate(STAGE_COLOURS.values()):
        level = np.where(stages == stage, float(stage), np.nan)
        axes.plot(np.repeat(hours, 2)[1:-1], np.repeat(level, 2), color=colour, linewidth=3.5,
                  solid_capstyle="butt")  # fmt: skip
    axes.set_yticks(range(len(STAGE_NAMES)), STAGE_NAMES)
    axes.set_ylim(len(STAGE_NAMES) - 0.5, -0.5)
    axes.set_title(title)


def _draw_density(axes: Axes, hours: NDArray, probs_NK: NDArray) -> None:
    """Probabilities stacked as the hypnogram is, Wake on top."""
    edges = np.append(probs_NK, probs_NK[-1:], axis=0)[:, ::-1]
    colours = list(STAGE_COLOURS.values())[::-1]
    axes.stackplot(hours, 100 * edges.T, colors=colours, step="post", linewidth=0)
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 50, 100])
    axes.set_ylabel("%")
