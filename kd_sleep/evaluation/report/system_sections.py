"""Sections on every system that was scored: sleep measures, stages, subjects, calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep import metrics
from kd_sleep.evaluation.report.drawings import Line, Panel, Row, interval_plot, line_chart
from kd_sleep.evaluation.report.wording import (
    cell,
    colour_of,
    coverage,
    label,
    ordered,
    pair,
    real,
    share,
    shown_two,
    small_print,
)
from kd_sleep.evaluation.results import Calibration, Interval, Results, SleepMeasures, SystemScores
from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS
from kd_sleep.evaluation.sleep_measures import MEASURES
from kd_sleep.pages import INK, MUTED, details, figure_of, stage_chip, table_of
from kd_sleep.stages import STAGE_NAMES

DRAWN_MEASURES = ("tst_min", "waso_min", "rem_min")
FEWEST_WINDOWS = 10  # of a reliability diagram's bin: fewer say nothing about a share
CURVE_LABELS = {
    "loss": "Training loss",
    "validation_kappa": "Kappa on validation",
    "validation_accuracy": "Accuracy on validation",
}


# --- Sleep measures ---


def sleep_section(results: Results) -> str:
    """Bias and limits of agreement of every measure; nothing where none were taken."""
    sleep = results.sleep_measures
    if sleep is None:
        return ""
    systems = ordered(sleep.systems)
    scored = sum(row.scorer["tst_min"] is not None for row in sleep.per_recording)
    rows = []
    for key, measure in MEASURES.items():
        row = [f"{measure.label}<small>{measure.unit}</small>", real(sleep.scorer[key].value, 1)]
        for system in systems.values():
            found = system[key]
            limits = Interval(found.bias.value, found.lower.value, found.upper.value)
            missing = "" if found.nights == scored else f"{found.nights} of {scored} nights"
            row.append(cell(pair(limits, 1)) + (f"<small>{missing}</small>" if missing else ""))
        rows.append(row)
    heads = ["Measure", "Scorer<small>mean</small>", *(escape(label(name)) for name in systems)]
    listing = table_of(heads, rows, "scores", "System − scorer: mean [95 % limits of agreement]")
    words = "".join(f"<li>{m.label}: {m.definition}</li>" for m in MEASURES.values())
    note = (
        "Read off the windows that the scorer scored, after the manual of the American Academy of"
        " Sleep Medicine; lights off and on are not known, so a night runs from its first scored"
        " window to its last. Limits: bias ± 1.96 SD of the differences, within and between"
        " subjects. Where not every night has a measure, the number that has is given."
    )
    caption = (
        "Each dot is a night: the mean of system and scorer against their difference. Solid, the"
        " mean difference; dashed, the 95 % limits of agreement."
    )
    chart = line_chart(
        "Agreement of each night's sleep measures with the scorer",
        [
            _bland_altman(sleep, key, name, "" if number else MEASURES[key].label)
            for key in DRAWN_MEASURES
            for number, name in enumerate(shown_two(systems))
        ],
        columns=len(shown_two(systems)),
        height=1.8,
    )
    return "".join(
        [
            listing,
            small_print(note),
            _absolute_errors(sleep),
            figure_of(chart, caption),
            details("What each measure is", f"<ul>{words}</ul>"),
        ]
    )


def _bland_altman(sleep: SleepMeasures, key: str, name: str, title: str) -> Panel:
    found, colour = sleep.systems[name][key], colour_of(name)
    points = [
        ((ours + theirs) / 2, ours - theirs)
        for row in sleep.per_recording
        if (ours := row.systems[name][key]) is not None and (theirs := row.scorer[key]) is not None
    ]
    levels = [
        (interval.value, colour, style)
        for interval, style in ((found.bias, "-"), (found.lower, "--"), (found.upper, "--"))
        if interval.value is not None
    ]
    limits = pair(Interval(found.bias.value, found.lower.value, found.upper.value), 1)
    spoken = f"{MEASURES[key].label} {' '.join(limits)} {MEASURES[key].unit}"
    clouds = [Line(label(name), points, colour, "", "o", spoken=spoken)]
    axis = f"Difference, {MEASURES[key].unit}"
    return Panel(title, clouds, "Mean", axis, [(0, MUTED, "-"), *levels])


def _absolute_errors(sleep: SleepMeasures) -> str:
    """Where distillation clearly changed how far a night's measures are off."""
    if sleep.distillation is None:
        return ""
    clear = [
        f"{measure.label} {' '.join(pair(sleep.distillation[key], 1))} {measure.unit}"
        for key, measure in MEASURES.items()
        if sleep.distillation[key].is_clear
    ]
    return (
        f"<p>Mean absolute error of <b>{escape(label(DISTILLED))}</b> minus that of"
        f" <b>{escape(label(HARD_LABELS))}</b> on the same nights, below 0 where the distilled"
        f" student is nearer to the scorer; clear changes: {'; '.join(clear) or 'none'}.</p>"
    )


# --- Stages ---


def stages_section(results: Results) -> str:
    """Recall and precision as a picture, F1 as a table, and confusion matrices."""
    systems = ordered(results.systems)
    styles = {"recall": ("recall", INK), "precision": ("precision", MUTED)}
    panels = {
        stage: [
            Row(label(name), {key: getattr(s.pooled, key)[stage] for key in styles})
            for name, s in systems.items()
        ]
        for stage in STAGE_NAMES
    }
    caption = (
        "Recall: the share of a stage's windows that were found. Precision: the share of the"
        " windows given a stage that are of it; not defined for a stage that was never given."
        f" Lines: {coverage(results)}."
    )
    rows = [
        [escape(label(name)), *(cell(pair(s.pooled.f1[stage], 2)) for stage in STAGE_NAMES)]
        for name, s in systems.items()
    ]
    listing = table_of(["System", *map(stage_chip, STAGE_NAMES)], rows, "scores", "F1")
    plot = interval_plot(panels, "% of windows", styles, levels=())
    return figure_of(plot, caption) + listing + _confusions(systems)


def _confusions(systems: Mapping[str, SystemScores]) -> str:
    tables = []
    for name, system in systems.items():
        rows = [
            [stage_chip(stage), *(_heat(count, sum(counts)) for count in counts)]
            for stage, counts in zip(STAGE_NAMES, system.confusion, strict=True)
        ]
        tables.append(table_of(["Scored", *STAGE_NAMES], rows, "confusion", escape(label(name))))
    note = "Rows: the stage scored by hand. Columns: the stage predicted, % of the row and windows."
    if any(len(system.runs) > 1 for system in systems.values()):
        note += " Of a system of several training runs, this is the first."
    return f'<h3>Confusion</h3><div class="side">{"".join(tables)}</div>{small_print(note)}'


def _heat(count: int, total: int) -> str:
    part = count / total if total else 0.0
    text = f"{100 * part:.0f} %" if total else "–"
    return f'<span style="--share:{part:.2f}">{text}<small>{count:,}</small></span>'


# --- Subjects ---


def subjects_section(results: Results) -> str:
    """How far subjects lie apart, and every recording by itself."""
    systems = ordered(results.systems)
    rows = []
    for name, system in systems.items():
        accuracies = _by_subject(system)
        quartiles = np.quantile(accuracies, [0.5, 0.25, 0.75]).tolist()
        rows.append(Row(label(name), {"median": Interval(*quartiles)}, (100 * accuracies).tolist()))
    plot = interval_plot({"": rows}, "Accuracy, %", {"median": ("median", INK)}, levels=())
    caption = "A small dot is a subject with all of their nights; large, the median, and quartiles."
    recordings = [
        [
            escape(first.recording_id),
            escape(first.subject_id),
            f"{first.windows:,}",
            *(real(None if row.accuracy is None else 100 * row.accuracy, 1) for row in night),
        ]
        for night in zip(*(system.per_recording for system in systems.values()), strict=True)
        for first in night[:1]
    ]
    heads = ["Recording", "Subject", "Windows", *(escape(label(name)) for name in systems)]
    listing = table_of(heads, recordings, "scores", "Accuracy, %")
    return figure_of(plot, caption) + details("Every recording", listing)


def _by_subject(system: SystemScores) -> NDArray[np.float64]:
    """Accuracy of every subject."""
    counts: dict[str, NDArray] = defaultdict(lambda: np.zeros((len(STAGE_NAMES),) * 2))
    for row in system.per_recording:
        if row.windows:
            counts[row.subject_id] += row.confusion
    return metrics.accuracy(np.stack(list(counts.values())))


# --- Calibration ---


def calibration_section(results: Results) -> str:
    """Scores before and after a temperature, and reliability; nothing where none was measured."""
    found = results.calibration
    if found is None:
        return ""
    systems = ordered(found.systems)
    heads = ["System", "T"]
    for score in ("NLL", "Brier", "ECE, %"):
        heads += [f"{score}<small>before</small>", f"{score}<small>after</small>"]
    rows, notes = [], []
    for name, system in systems.items():
        row = [escape(label(name)), real(system.temperature, 2)]
        for key in ("nll", "brier", "ece"):
            for scores in (system.before, system.after):
                interval = getattr(scores, key, None)
                row.append(cell(share(interval) if key == "ece" else pair(interval, 3)))
        rows.append(row)
        if system.note:
            notes.append(f"{label(name)}: {system.note}")
    fitted = "No temperature was fitted."
    if found.validation_nights:
        fitted = (
            "One temperature T for each system divides its logits, fitted on"
            f" {found.validation_windows:,} windows of {found.validation_nights:,} validation"
            " nights by NLL; it changes no prediction."
        )
    note = (
        f"{fitted} Lower is better. NLL: mean of −log p of the scored stage, in nats. Brier:"
        " squared distance between probabilities and truth, summed over stages, 0 to 2. ECE: mean"
        f" distance between confidence and accuracy over {found.bins} bins of equal width; with"
        f" few windows it is too high. {' '.join(notes)}"
    )
    caption = (
        "How often the most probable stage is right, against the probability it was given. On the"
        " dotted diagonal they agree; below it a system is too sure of itself. Bins of fewer than"
        f" {FEWEST_WINDOWS} windows are left out. Lines: {coverage(results)}."
    )
    shown = shown_two(systems)
    chart = line_chart(
        "Accuracy against confidence, with the expected calibration error",
        [_reliability(found, name) for name in shown],
        columns=len(shown),
        height=2.6,
    )
    text = ""
    if found.distillation is not None:
        nll, brier = (" ".join(pair(found.distillation[key], 3)) for key in ("nll", "brier"))
        text = (
            f"<p><b>{escape(label(DISTILLED))}</b> minus <b>{escape(label(HARD_LABELS))}</b>: NLL"
            f" {nll}, Brier {brier}, ECE {' '.join(share(found.distillation['ece']))} points; below"
            " 0 is better.</p>"
        )
    return figure_of(chart, caption) + table_of(heads, rows, "scores") + small_print(note) + text


def _reliability(found: Calibration, name: str) -> Panel:
    system = found.systems[name]
    lines = [Line("", [(0, 0), (100, 100)], MUTED, ":")]
    for when, scores, colour, marker in (
        ("before the temperature", system.before, MUTED, "s"),
        ("after", system.after, colour_of(name), "o"),
    ):
        if scores is None:
            continue
        filled = [row for row in scores.reliability if row.windows >= FEWEST_WINDOWS]
        points = [(100 * row.predicted, 100 * (row.observed.value or 0)) for row in filled]
        bars = [row.observed.scaled(100) for row in filled]
        spoken = f"{share(scores.ece)[0]} %"
        lines.append(Line(when, points, colour, "-", marker, bars, spoken))
    title = label(name).replace(" (", "\n(")
    return Panel(title, lines, "Confidence, %", "Accuracy, %", xlim=(20, 101), ylim=(0, 101))


# --- Training ---


def training_section(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Loss and validation scores against steps; nothing where nothing was logged."""
    panels = []
    for key, title in CURVE_LABELS.items():
        tracks = {
            name: [
                (row["step"], row[key])
                for row in rows
                if row.get("step") is not None and row.get(key) is not None
            ]
            for name, rows in curves.items()
        }
        lines = [
            Line(label(name), track, colour_of(name), "-", "o", spoken=f"last {track[-1][1]:.3g}")
            for name, track in tracks.items()
            if track
        ]
        if lines:
            panels.append(Panel(title, lines, "Step"))
    if not panels:
        return ""
    caption = "Losses of two systems are not comparable: each has terms of its own."
    return figure_of(line_chart("Training curves", panels, height=1.8), caption)
