"""The report's pictures: each function draws one and returns it as SVG that sits inside a page."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from kd_sleep import metrics
from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS, MAJORITY, TEACHER, TIME_OF_NIGHT
from kd_sleep.evaluation.sleep_measures import MEASURES
from kd_sleep.pages import INK, MUTED, NARROW, STAGE_COLOURS, WIDE, drawing
from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import STAGE_NAMES

SYSTEM_LABELS = {
    TEACHER: "Teacher (ECG)",
    DISTILLED: "Student, distilled (BCG)",
    HARD_LABELS: "Student, hard labels (BCG)",
    TIME_OF_NIGHT: "Floor: time of night",
    MAJORITY: "Floor: majority stage",
}
METRIC_LABELS = {"accuracy": "Accuracy", "kappa": "Kappa", "macro_f1": "Macro F1"}
CURVE_LABELS = {
    "loss": "Training loss",
    "validation_kappa": "Kappa on validation",
    "validation_accuracy": "Accuracy on validation",
}
DRAWN_MEASURES = ("tst_min", "waso_min", "rem_min")
FEWEST_WINDOWS = 10  # of a reliability diagram's bin: fewer say nothing about a share
RELIABLE_SNR_DB = 6.0  # above it, J peaks are found reliably; below 0 dB, most of them are not

_SYSTEM_COLOURS = {TEACHER: INK, DISTILLED: "#009E73", HARD_LABELS: "#D55E00"}


@dataclasses.dataclass(frozen=True)
class ReportNight:
    """One night to look at.

    Attributes:
      recording_id: its name.
      labels: [N] scored stages, -1 where unscored.
      probs: system -> [N, K] probabilities.
      bcg_snr_db: [N] power in 1-8 Hz over power in 10-20 Hz, dB; NaN where unknown.
      bcg_missing: [N] fraction of the window without BCG.
    """

    recording_id: str
    labels: NDArray[np.integer]
    probs: Mapping[str, NDArray[np.floating]]
    bcg_snr_db: NDArray[np.floating]
    bcg_missing: NDArray[np.floating]


def label(system: str) -> str:
    """A system's name for readers."""
    return SYSTEM_LABELS.get(system, system.replace("_", " "))


@drawing
def forest(distillation: Mapping[str, Any]) -> tuple[Figure, str]:
    """Distilled minus baseline, every metric with its interval, in points."""
    differences = distillation["differences"]
    rows = [(text, differences[key], INK) for key, text in METRIC_LABELS.items()]
    for stage, colour in STAGE_COLOURS.items():
        rows.append((f"{stage} recall", differences["recall"][stage], colour))
    figure = Figure((NARROW, 2.9), layout="constrained")
    axes = figure.subplots()
    for row, (_, interval, colour) in enumerate(rows):
        _whisker(axes, row, interval, colour)
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_yticks(range(len(rows)), [text for text, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("Points (hundredths), distilled − hard labels")
    axes.tick_params(axis="y", length=0)
    spoken = ", ".join(f"{text} {_spoken(interval)}" for text, interval, _ in rows)
    return figure, f"Distilled minus hard labels, in points: {spoken}."


def _whisker(axes: Axes, row: float, interval: Mapping[str, Any], colour: str) -> None:
    if interval["value"] is None:
        return
    if interval["low"] is not None:
        axes.plot([100 * interval["low"], 100 * interval["high"]], [row, row], color=colour, lw=2)
    axes.plot(100 * interval["value"], row, "o", color=colour, markersize=6)


def _spoken(interval: Mapping[str, Any]) -> str:
    if interval["value"] is None:
        return "not defined"
    value = f"{100 * interval['value']:.1f}"
    if interval["low"] is None:
        return value
    return f"{value} ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"


@drawing
def recall_bars(systems: Mapping[str, Any]) -> tuple[Figure, str]:
    """Recall of each stage, one panel a stage, one bar a system, with intervals."""
    names = list(systems)
    figure = Figure((NARROW, 4 * (0.42 + 0.22 * len(names))), layout="constrained")
    spoken = []
    panels = figure.subplots(len(STAGE_NAMES), sharex=True)
    for axes, (stage, colour) in zip(panels, STAGE_COLOURS.items(), strict=True):
        recalls = [systems[name]["pooled"]["recall"][stage] for name in names]
        for row, recall in enumerate(recalls):
            if recall["value"] is None:
                axes.text(1, row, "does not occur", va="center", color=MUTED, fontsize=9)
                continue
            axes.barh(row, 100 * recall["value"], color=colour, height=0.7)
            if recall["low"] is not None:
                axes.plot([100 * recall["low"], 100 * recall["high"]], [row, row], color=INK)
        axes.set_title(stage)
        axes.set_yticks(range(len(names)), [label(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        pairs = zip(names, recalls, strict=True)
        spoken.append(f"{stage}: " + ", ".join(f"{label(n)} {_spoken(r)}" for n, r in pairs))
    panels[-1].set_xlim(0, 100)
    panels[-1].set_xlabel("Recall, % of the stage's windows")
    return figure, f"Recall in percent. {'; '.join(spoken)}."


@drawing
def subject_spread(systems: Mapping[str, Any]) -> tuple[Figure, str]:
    """Accuracy of every subject under every system; a line follows a subject."""
    names = list(systems)
    by_subject = [_subject_accuracy(systems[name]["per_recording"]) for name in names]
    shares = np.array([[person[s] for s in sorted(person)] for person in by_subject])
    figure = Figure((NARROW, 0.8 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    axes.plot(100 * shares, rows, color=MUTED, linewidth=0.6, alpha=0.45)
    for row, name in enumerate(names):
        colour = _SYSTEM_COLOURS.get(name, MUTED)
        axes.plot(
            100 * shares[row], np.full(shares.shape[1], row), "o", color=colour, ms=4, alpha=0.7
        )
        axes.plot(100 * np.median(shares[row]), row, "|", color=INK, markersize=18, mew=2)
    axes.set_yticks(rows, [label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("Accuracy of a subject, %")
    spoken = ", ".join(
        f"{label(name)} {100 * row.min():.0f} to {100 * row.max():.0f}, median"
        f" {100 * np.median(row):.0f}"
        for name, row in zip(names, shares, strict=True)
    )
    return figure, f"Accuracy of {shares.shape[1]} subjects in percent: {spoken}."


def _subject_accuracy(per_recording: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    counts: dict[str, NDArray] = defaultdict(lambda: np.zeros((len(STAGE_NAMES),) * 2))
    for row in per_recording:
        if row["windows"]:
            counts[row["subject_id"]] += row["confusion"]
    return {subject: float(metrics.accuracy(total)) for subject, total in counts.items()}


@drawing
def night(night: ReportNight, names: Sequence[str]) -> tuple[Figure, str]:
    """A night: the scorer's hypnogram, each system's with its hypnodensity, then BCG quality."""
    hours = np.arange(len(night.labels) + 1) * WINDOW_S / 3600  # edges of the windows
    heights = [1.0] + [1.0, 0.8] * len(names) + [0.9]
    figure = Figure((WIDE, 1.0 + 1.05 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    draw_hypnogram(panels[0], hours, night.labels, "Scored by hand")
    _draw_quality(panels[-1], hours, night)
    spoken = []
    for hypnogram, density, name in zip(panels[1:-1:2], panels[2:-1:2], names, strict=True):
        probs_NK = np.asarray(night.probs[name], np.float64)
        counts = metrics.confusion_counts(night.labels, probs_NK.argmax(-1), len(STAGE_NAMES))
        agreement = (
            f"{100 * metrics.accuracy(counts):.0f} % agreement" if counts.any() else "no labels"
        )
        spoken.append(f"{label(name)}, {agreement}")
        draw_hypnogram(hypnogram, hours, probs_NK.argmax(-1), f"{label(name)}: {agreement}")
        _draw_density(density, hours, probs_NK)
    panels[-1].set_xlim(0, hours[-1])
    panels[-1].set_xlabel("Hours since the start of the recording")
    text = f"Recording {night.recording_id}, {hours[-1]:.1f} hours: scored hypnogram; "
    text += "; ".join(spoken) + ", each with its hypnodensity; BCG signal-to-noise ratio."
    return figure, text


def _draw_quality(axes: Axes, hours: NDArray, night: ReportNight) -> None:
    axes.stairs(night.bcg_snr_db, hours, baseline=None, color=INK, linewidth=0.8)
    axes.axhline(RELIABLE_SNR_DB, color=MUTED, linestyle=":", linewidth=1)
    missing = np.append(night.bcg_missing >= 0.5, False)
    axes.fill_between(
        hours, 0, 1, where=missing, step="post", transform=axes.get_xaxis_transform(),
        color=MUTED, alpha=0.35, linewidth=0,
    )  # fmt: skip
    axes.set_title("BCG quality")
    axes.set_ylabel("SNR, dB")


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


@drawing
def bland_altman(sleep: Mapping[str, Any], names: Sequence[str]) -> tuple[Figure, str]:
    """Difference against mean of system and scorer, a row for a measure, a column for a system.

    Args:
      sleep: what `sleep_measures.agreement` returns.
      names: of the systems to draw.
    """
    figure = Figure((NARROW, 0.5 + 1.75 * len(DRAWN_MEASURES)), layout="constrained")
    panels = figure.subplots(
        len(DRAWN_MEASURES), len(names), squeeze=False, sharex="row", sharey="row"
    )
    spoken = []
    for row, key in zip(panels, DRAWN_MEASURES, strict=True):
        title = f"{MEASURES[key].label}, {MEASURES[key].unit}"
        for axes, name in zip(row, names, strict=True):
            nights = [(r["scorer"][key], r["systems"][name][key]) for r in sleep["per_recording"]]
            found = sleep["systems"][name][key]
            _draw_agreement(axes, [n for n in nights if None not in n], found, name)
            spoken.append(f"{title}, {label(name)}: {_agreement_spoken(found)}")
        row[0].set_title(title)
        row[0].set_ylabel("System − scorer")
    for axes, name in zip(panels[-1], names, strict=True):
        axes.set_xlabel(f"Mean with scorer\n{label(name)}")
    return figure, f"Agreement of each night's sleep measures with the scorer. {'; '.join(spoken)}."


def _draw_agreement(
    axes: Axes, nights: Sequence[tuple[float, float]], found: Mapping[str, Any], name: str
) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.6)
    if not nights:
        text = "no night has it\nin both hypnograms"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
        axes.set_xticks([])
        return
    colour = _SYSTEM_COLOURS.get(name, MUTED)
    scorer, system = np.array(nights).T
    axes.plot((scorer + system) / 2, system - scorer, "o", color=colour, ms=4, alpha=0.6)
    for key, style in (("bias", "-"), ("lower", "--"), ("upper", "--")):
        if (value := found[key]["value"]) is not None:
            axes.axhline(value, color=colour, linestyle=style, linewidth=1.2)


def _agreement_spoken(found: Mapping[str, Any]) -> str:
    bias, lower, upper = (found[key]["value"] for key in ("bias", "lower", "upper"))
    if bias is None:
        return "not defined"
    limits = "" if lower is None else f", limits of agreement {lower:.1f} to {upper:.1f}"
    return f"mean difference {bias:.1f}{limits}"


@drawing
def reliability(calibration: Mapping[str, Any], names: Sequence[str]) -> tuple[Figure, str]:
    """Accuracy against confidence, a panel for a system, before and after its temperature.

    Args:
      calibration: what `calibration.calibration` returns.
      names: of the systems to draw.
    """
    figure = Figure((NARROW, 3.2), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    lines: dict[str, Line2D] = {}
    spoken = []
    for axes, name in zip(panels, names, strict=True):
        axes.plot([0, 100], [0, 100], ":", color=MUTED, linewidth=1)
        eces = []
        for when, colour, marker in (
            ("before", MUTED, "s"),
            ("after", _SYSTEM_COLOURS.get(name, INK), "o"),
        ):
            found = calibration["systems"][name][when]
            if found is None:
                continue
            lines.setdefault(when, _draw_bins(axes, found["reliability"], colour, marker))
            if (ece := found["ece"]["value"]) is not None:
                eces.append(f"{100 * ece:.1f} {when}")
        axes.set(xlim=(20, 101), ylim=(0, 101), xticks=range(25, 101, 25), yticks=range(0, 101, 25))
        axes.set_title(label(name).replace(" (", "\n("))
        axes.set_xlabel("Confidence, %")
        spoken.append(f"{label(name)}: {' and '.join(eces) or 'not defined'}")
    panels[0].set_ylabel("Accuracy, %")
    texts = [f"{when} the temperature" for when in lines]
    figure.legend(list(lines.values()), texts, loc="outside lower left", ncols=2)
    errors = "; ".join(spoken)
    return figure, f"Accuracy against confidence. Expected calibration error, %: {errors}."


def _draw_bins(axes: Axes, bins: Sequence[Mapping[str, Any]], colour: str, marker: str) -> Line2D:
    """Bins with enough windows, the line through them, and their intervals."""
    filled = [row for row in bins if row["windows"] >= FEWEST_WINDOWS]
    for row in filled:
        if row["accuracy"]["low"] is not None:
            ends = [100 * row["accuracy"]["low"], 100 * row["accuracy"]["high"]]
            axes.plot([100 * row["confidence"]] * 2, ends, color=colour, linewidth=0.8)
    points = [(100 * row["confidence"], 100 * row["accuracy"]["value"]) for row in filled]
    return axes.plot(*np.reshape(points, (-1, 2)).T, marker + "-", color=colour, ms=4)[0]


@drawing
def training_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Figure, str]:
    """Loss and validation scores against steps, one panel for each that any row has."""
    points = {
        (key, name): [
            (row["step"], row[key])
            for row in rows
            if row.get("step") is not None and row.get(key) is not None
        ]
        for key in CURVE_LABELS
        for name, rows in curves.items()
    }
    shown = [key for key in CURVE_LABELS if any(points[key, name] for name in curves)]
    figure = Figure((NARROW, 1.2 + 1.6 * len(shown)), layout="constrained")
    lines, spoken = {}, []
    panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    for axes, key in zip(panels, shown, strict=True):
        for name in curves:
            if track := points[key, name]:
                colour = _SYSTEM_COLOURS.get(name, MUTED)
                lines[name] = axes.plot(*zip(*track, strict=True), "o-", color=colour, ms=3)[0]
                spoken.append(f"{CURVE_LABELS[key]}, {label(name)}: last {track[-1][1]:.3g}")
        axes.set_title(CURVE_LABELS[key])
    panels[-1].set_xlabel("Step")
    figure.legend(lines.values(), map(label, lines), loc="outside upper left")
    return figure, f"Training curves. {'; '.join(spoken)}."


@drawing
def sweep_map(results: Mapping[str, Any]) -> tuple[Figure, str]:
    """Validation kappa over (alpha, T): mean over seeds, and its spread, in every cell.

    Args:
      results: what `training.sweep.train_sweep` returns.
    """
    cells = sweep_cells(results)
    alphas = sorted({alpha for alpha, _ in cells})
    temperatures = sorted({temperature for _, temperature in cells})
    chosen = results["chosen"]
    means = {cell: float(np.mean(kappas)) for cell, kappas in cells.items()}
    low, high = min(means.values()), max(means.values())
    figure = Figure((1.2 + 0.9 * len(temperatures), 1.0 + 0.55 * len(alphas)), layout="constrained")
    axes = figure.subplots()
    for (alpha, temperature), kappas in cells.items():
        # At alpha = 1 the temperature has no say: one cell for all.
        left, width = temperatures.index(temperature), 1
        if alpha == 1.0:
            left, width = 0, len(temperatures)
        row, mean = alphas.index(alpha), means[alpha, temperature]
        share = (mean - low) / (high - low) if high > low else 0.0
        best = (alpha, temperature) == (chosen["alpha"], chosen["temperature"])
        cell = Rectangle(
            (left - 0.47, row - 0.46),
            width - 0.06,
            0.92,
            facecolor=to_rgba(STAGE_COLOURS["Light"], 0.1 + 0.6 * share),
            edgecolor=INK if best else "none",
        )
        axes.add_patch(cell)
        spread = f"\n± {np.std(kappas, ddof=1):.3f}" if len(kappas) > 1 else ""
        centre = left + (width - 1) / 2
        axes.text(centre, row, f"{mean:.3f}{spread}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(temperatures)), [f"{value:g}" for value in temperatures])
    axes.set_yticks(range(len(alphas)), [f"{value:g}" for value in alphas])
    axes.set(xlim=(-0.5, len(temperatures) - 0.5), ylim=(len(alphas) - 0.5, -0.5))
    axes.set(xlabel="temperature T", ylabel="alpha", title="Kappa on validation")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    text = (
        f"Validation kappa over alpha and temperature, from {low:.3f} to {high:.3f}; the best cell"
        f" is alpha {chosen['alpha']:g}, T {chosen['temperature']:g}."
    )
    return figure, text


def sweep_cells(results: Mapping[str, Any]) -> dict[tuple[float, float], list[float]]:
    """Kappas of a sweep's seeds by (alpha, T)."""
    cells: dict[tuple[float, float], list[float]] = defaultdict(list)
    for member in results["members"]:
        cells[member["alpha"], member["temperature"]].append(member["validation_kappa"])
    return dict(cells)
