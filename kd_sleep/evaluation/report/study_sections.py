"""Sections of a study: claims, amounts of labels, gains, ablations, the information ladder."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kd_sleep.evaluation.information import BY_CHANCE
from kd_sleep.evaluation.report.drawings import Line, Panel, Row, Styles, interval_plot, line_chart
from kd_sleep.evaluation.report.wording import (
    LOSS_LABELS,
    aloud,
    cell,
    change,
    colour_of,
    findings,
    label,
    ordered,
    pair,
    real,
    score_cells,
    share,
    small_print,
)
from kd_sleep.evaluation.results import (
    Gain,
    Interval,
    LadderResult,
    Results,
    Scores,
    Study,
    StudyCell,
    StudyGain,
)
from kd_sleep.evaluation.scores import MAJORITY, TEACHER, TIME_OF_NIGHT
from kd_sleep.pages import INK, MUTED, details, figure_of, stage_chip, table_of
from kd_sleep.stages import STAGE_NAMES

_LEVELS = {TEACHER: "-", TIME_OF_NIGHT: ":", MAJORITY: "--"}
_BESIDE = 0.09  # of a step of the x axis, between the two losses
_CLAIMED = "A change is claimed only where a line stays clear of 0."


def claims_section(study: Study | None) -> str:
    """The article's sentences, each beside what was found; nothing without a study."""
    if study is None or not study.article:
        return ""
    here = "Found here, simulated" if study.simulated else "Found here"
    rows = [[escape(row.claim), escape(row.here), escape(row.verdict)] for row in study.article]
    note = (
        "The article: “Knowledge distillation: teaching a BCG model with ECG labels”. Its figures"
        " are of other people, sensors and splits, which it does not describe: what can be compared"
        " is the direction and the rough size, not the last digit."
    )
    return table_of(["The article says", here, "So"], rows, "claims") + small_print(note)


# --- How many nights need labels ---


def amounts_section(study: Study | None) -> str:
    """The curve of accuracy and kappa, and a table of the cells; nothing without a study."""
    if study is None or not study.cells:
        return ""
    amounts = sorted({(cell.labelled_nights, cell.labelled) for cell in study.cells})
    shapes = list(dict.fromkeys(cell.student for cell in study.cells))
    named = "; ".join(f"{nights:,}: {name}" for nights, name in amounts)
    runs = f"{len(study.seeds)} seeds"
    if len(study.label_seeds) > 1:
        runs += f" and, where labels are few, {len(study.label_seeds)} draws of the labelled nights"
    caption = (
        "Students by how many training nights have scored stages; steps along the axis are not to"
        " scale. <b>Distilled</b>: the teacher's soft labels on all training nights besides;"
        " <b>hard labels</b>: those scored stages alone. Large dots: means over"
        f" {runs}, with 95 % intervals over subjects and runs; small dots: each run. Level lines:"
        " the teacher (solid), the time of night (dotted) and the majority stage (dashed)."
        f" {escape(named)}."
    )
    panels = [
        _amount_panel(study, metric, shape, [nights for nights, _ in amounts])
        for metric in ("accuracy", "kappa")
        for shape in shapes
    ]
    chart = line_chart("Students by labelled nights", panels, columns=len(shapes), height=2.3)
    return figure_of(chart, caption) + details("Every student and training run", _cells(study))


def _levels(study: Study) -> dict[str, Scores]:
    return ordered({TEACHER: study.teacher, **study.floors})


def _amount_panel(study: Study, metric: str, shape: str, amounts: Sequence[int]) -> Panel:
    scale = 100.0 if metric == "accuracy" else 1.0
    lines = []
    for number, (loss, name) in enumerate(LOSS_LABELS.items()):
        shift = (number - 0.5) * _BESIDE
        cells = [cell for cell in study.cells if (cell.student, cell.loss) == (shape, loss)]
        cells.sort(key=lambda cell: cell.labelled_nights)
        found = [
            (amounts.index(cell.labelled_nights) + shift, getattr(cell.scores, metric), cell)
            for cell in cells
            if getattr(cell.scores, metric).value is not None
        ]
        points = [(x, scale * interval.value) for x, interval, _ in found]
        bars = [interval.scaled(scale) for _, interval, _ in found]
        spoken = ", ".join(
            f"{cell.labelled_nights} nights {aloud(interval)}"
            for _, interval, cell in found
            if metric == "accuracy"
        )
        lines.append(Line(name, points, colour_of(loss), "-", "o", bars, spoken))
        dots = [
            (x + 4 * shift, scale * value)
            for x, _, cell in found
            for run in cell.runs
            if (value := getattr(run, metric)) is not None
        ]
        lines.append(Line("", dots, colour_of(loss), "", "."))
    levels = [
        (scale * value, INK if name == TEACHER else MUTED, _LEVELS.get(name, "--"))
        for name, scores in _levels(study).items()
        if (value := getattr(scores, metric).value) is not None
    ]
    return Panel(
        label(shape) if metric == "accuracy" else "",
        lines,
        "Labelled nights",
        "Accuracy, %" if metric == "accuracy" else "Kappa",
        levels,
        xlim=(-0.5, len(amounts) - 0.5),
        xticks={place: f"{nights:,}" for place, nights in enumerate(amounts)},
    )


def _cells(study: Study) -> str:
    heads = ["Student", "Labelled nights", "Loss", "Accuracy, %", "Kappa", "Macro F1"]
    heads += [f"{stage_chip(stage)}<small>recall, %</small>" for stage in STAGE_NAMES]
    heads += ["Chosen<small>alpha; T; learning rate; smoothing; of</small>", "Validation kappa"]
    heads += ["Each run<small>accuracy, %; kappa; seed; label seed</small>"]
    rows = [
        [
            *_place(each),
            escape(LOSS_LABELS.get(each.loss, each.loss)),
            *map(cell, score_cells(each.scores)),
            f"{each.alpha:g}; {each.temperature:g}; {each.learning_rate:g};"
            f" {each.label_smoothing:g}; {each.tried}",
            real(each.validation_kappa, 3),
            "".join(
                f"<small>{share(Interval(run.accuracy))[0]}; {real(run.kappa, 2)}; {run.seed};"
                f" {run.label_seed}</small>"
                for run in each.runs
            ),
        ]
        for each in study.cells
    ]
    rows += [
        [escape(label(name)), "", "", *map(cell, score_cells(level)), "", "", ""]
        for name, level in _levels(study).items()
    ]
    note = (
        "Settings were chosen by kappa on validation nights, for each student by itself, among as"
        " many for hard labels as for distillation; no test night had a say. alpha: weight of the"
        " scored stages against the teacher's soft labels; T: the temperature both are compared at."
    )
    return table_of(heads, rows, "scores") + small_print(note)


def _place(each: StudyCell | StudyGain) -> list[str]:
    nights = f"{each.labelled_nights:,}<small>{escape(each.labelled)}</small>"
    return [escape(label(each.student)), nights]


# --- What distillation changed ---


def gains_section(results: Results) -> str:
    """Of one pair of students, or of every pair of a study."""
    if results.study is not None and results.study.gains:
        return _study_gains(results.study.gains)
    gain = results.distillation
    if gain is None:
        return "<p>Only one kind of student was scored, so there is no difference to show.</p>"
    rows = [
        Row(name, {"gain": interval})
        for name, interval in (
            ("Accuracy", gain.differences.accuracy),
            ("Kappa", gain.differences.kappa),
            ("Macro F1", gain.differences.macro_f1),
            *((f"{stage} recall", gain.differences.recall[stage]) for stage in STAGE_NAMES),
        )
    ]
    plot = interval_plot({"": rows}, "Points, distilled − hard labels", {"gain": ("", INK)})
    return figure_of(plot, f"On the same subjects and draws. {_CLAIMED} {escape(_lead(gain))}")


def _lead(gain: Gain) -> str:
    recovered = gain.teacher_lead_recovered
    share_of = "{} % {} of the teacher's lead in accuracy is recovered.".format(*share(recovered))
    return recovered.reason or share_of


def _study_gains(gains: Sequence[StudyGain]) -> str:
    shapes = list(dict.fromkeys(gain.student for gain in gains))
    by_nights: dict[int, list[StudyGain]] = {}
    for gain in sorted(gains, key=lambda gain: gain.labelled_nights):
        by_nights.setdefault(gain.labelled_nights, []).append(gain)
    panels = {
        stage: [
            Row(
                f"{nights:,} labelled nights",
                {gain.student: gain.differences.recall[stage] for gain in of_nights},
            )
            for nights, of_nights in by_nights.items()
        ]
        for stage in STAGE_NAMES
    }
    styles: Styles = {
        shape: (label(shape), INK if number == 0 else MUTED) for number, shape in enumerate(shapes)
    }
    plot = interval_plot(panels, "Points of recall, distilled − hard labels", styles)
    by_stage = (
        "Change of each stage's recall, the same student and the same labelled nights."
        f" {_CLAIMED} The article says that REM gains most."
    )
    rows = []
    for gain in gains:
        changes = gain.differences
        numbers = [change(each) for each in (changes.accuracy, changes.kappa, changes.macro_f1)]
        numbers += [change(changes.recall[stage]) for stage in STAGE_NAMES]
        recovered = cell(share(gain.teacher_lead_recovered))
        rows.append([*_place(gain), *numbers, recovered, escape(gain.conclusion)])
    heads = ["Student", "Labelled nights", "Accuracy", "Kappa", "Macro F1"]
    heads += [f"{stage_chip(stage)}<small>recall</small>" for stage in STAGE_NAMES]
    heads += ["Teacher’s lead recovered, %", "So, in accuracy"]
    reasons = dict.fromkeys(gain.teacher_lead_recovered.reason or "" for gain in gains)
    note = (
        "Points: hundredths of accuracy, kappa, F1 and recall. Bold: the 95 % interval excludes 0."
        " Teacher’s lead recovered: 0 % is hard labels, 100 % the teacher."
        f" {' '.join(filter(None, reasons))}"
    )
    listing = table_of(heads, rows, "scores worded", "Distilled minus hard labels, points")
    return figure_of(plot, by_stage) + listing + small_print(note)


# --- What each part of the loss is worth ---


def ablations_section(study: Study | None) -> str:
    """Forest and table; nothing where none were run."""
    if study is None or not study.ablations.rows:
        return ""
    found = study.ablations
    caption = (
        f"The distilled student ({escape(label(found.student)).lower()},"
        f" {found.labelled_nights:,} labelled nights, alpha {found.alpha:g}, T"
        f" {found.temperature:g}) with one thing changed, minus itself as it is. Right of 0 the"
        f" change helps. {_CLAIMED}"
    )
    plot = interval_plot(
        {
            "": [
                Row(row.name, {"accuracy": row.accuracy_change, "kappa": row.kappa_change})
                for row in found.rows[1:]
            ]
        },
        "Points (hundredths), changed − as it is",
        {"accuracy": ("accuracy", INK), "kappa": ("kappa", MUTED)},
    )
    rows = [
        [
            f"{escape(row.name)}<small>{escape(row.text)}</small>",
            cell(share(row.scores.accuracy)),
            cell(pair(row.scores.kappa, 2)),
            change(row.accuracy_change),
            change(row.kappa_change),
            escape(row.conclusion),
        ]
        for row in found.rows
    ]
    heads = ["Changed", "Accuracy, %", "Kappa", "Accuracy<small>difference, points</small>"]
    heads += ["Kappa<small>difference, points</small>", "So"]
    return figure_of(plot, caption) + table_of(heads, rows, "scores worded wordy")


# --- What is lost from ECG to BCG ---


def ladder_section(ladder: LadderResult | None) -> str:
    """Bits on every rung, and what each step changes; nothing without a ladder."""
    if ladder is None:
        return ""
    runs = f", each rung {len(ladder.seeds)} training runs" if len(ladder.seeds) > 1 else ""
    sensor = " ".join(pair(ladder.sensor, 3, sign=True))
    caption = (
        "Usable information: by how much a system of one and the same kind raises the probability"
        " of the scored stage, in bits per 30-s window; 0 is knowing how common each stage is."
        f" Lines: 95 % intervals over subjects and seeds{runs}. From <b>{escape(ladder.top)}</b> to"
        f" <b>{escape(ladder.rungs[-1].name)}</b>: {' '.join(pair(ladder.gap, 3, sign=True))} bits,"
        f" of which up to the beats found in the BCG {sensor}."
    )
    rows = [
        Row(rung.name, {"bits": rung.bits}, remark=_step(rung.change, rung.contrary))
        for rung in ladder.rungs
    ]
    plot = interval_plot(
        {"": rows}, "Usable information, bits per window", {"bits": ("", INK)}, scale=1.0, digits=3
    )
    table = []
    for rung in ladder.rungs:
        cause = f"<small>{escape(f'{rung.cause}: {rung.text}')}</small>" if rung.cause else ""
        table.append(
            [
                escape(rung.name) + cause,
                cell(pair(rung.bits, 3)),
                change(rung.change, 3, 1.0),
                *(change(rung.change_by_stage[stage], 3, 1.0) for stage in STAGE_NAMES),
            ]
        )
    heads = ["Shown<small>and what changed</small>", "Bits per window", "Step"]
    heads += [f"{stage_chip(stage)}<small>step</small>" for stage in STAGE_NAMES]
    noted = {rung.name: rung.note for rung in ladder.rungs if rung.note}
    notes = list(dict.fromkeys(note.removesuffix(BY_CHANCE) for note in noted.values()))
    notes += [
        f"It may be chance at {name}: the interval includes 0."
        for name, note in noted.items()
        if note.endswith(BY_CHANCE)
    ]
    return "".join(
        [
            findings(ladder.about),
            figure_of(plot, caption),
            table_of(heads, table, "scores wordy"),
            small_print(" ".join(notes)),
        ]
    )


def _step(interval: Interval, contrary: bool) -> str:
    return real(interval.value, 3, sign=True) + ("\nunexpected" if contrary else "")
