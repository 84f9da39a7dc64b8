"""The report of an evaluation: one HTML file that a sleep researcher can read, mail and print.

It needs no network and no other file. What it says in words follows from the numbers by the rule of
`scores.verdict`; figures that others published stand apart from ours.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from kd_sleep.evaluation import plots
from kd_sleep.evaluation.plots import SYSTEM_LABELS, ReportNight, label
from kd_sleep.evaluation.scores import (
    DISTILLED,
    HARD_LABELS,
    TEACHER,
    TIME_OF_NIGHT,
    median_recording,
    verdict,
)
from kd_sleep.evaluation.sleep_measures import MEASURES
from kd_sleep.pages import figure_of, page, section, stage_chip, table_of
from kd_sleep.stages import STAGE_NAMES

TITLE = "Sleep stages from the ballistocardiogram"

# System, sensor, test data, accuracy and kappa, as their authors give them; four stages each.
PUBLISHED = (
    ("Jones 2024, whole night", "ECG", "five NSRR cohorts", "84.2", "0.77"),
    ("Sridhar 2020, whole night", "heart rate from ECG", "SHHS", "77", "0.66"),
    ("SleepPPG-Net", "PPG", "MESA, CFS", "–", "0.75"),
    ("SleepNetZero", "heart rate, breath, movement", "PSG", "80.3", "0.72"),
    ("SleepNetZero", "BCG pads", "265 users", "69.7", "0.59"),
    ("Claim of the article: teacher", "ECG", "SHHS", "85", "–"),
    ("Claim of the article: BCG alone", "BCG", "not stated", "71", "–"),
    ("Claim of the article: distilled", "BCG", "not stated", "79", "–"),
)


def write_report(
    path: Path,
    results: Mapping[str, Any],
    night: ReportNight,
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Writes the report as one HTML file.

    Args:
      path: where to write it.
      results: what `scores.score` returned, with "data" and "provenance" added, and
        "sleep_measures" and "calibration" where there are any.
      night: the night to draw; `scores.median_recording` names a fair one.
      curves: system -> rows with "step" and any of "loss", "validation_kappa" and
        "validation_accuracy".
    """
    systems = _ordered(results["systems"])
    sections = [
        _summary(results),
        _scores(results, systems),
        _published(),
        _distillation(results["distillation"]),
        _confusions(systems),
        _stages(systems, results),
        _night(night, results),
        _sleep(results.get("sleep_measures"), results),
        _calibration(results.get("calibration"), results),
        section(
            "From subject to subject",
            figure_of(
                plots.subject_spread(systems),
                "A dot is a subject with all of their nights, a thin line follows one subject from"
                " system to system, the upright bar is the median subject.",
            ),
            _recordings(systems),
        ),
        _curves(curves),
        _provenance(results),
    ]
    path.write_text(page(TITLE, "\n".join(sections)), encoding="utf-8")


def table(results: Mapping[str, Any]) -> str:
    """The scores as plain text for a terminal, 100 columns wide."""
    heads = ["accuracy, %", "kappa", "macro F1", *(f"{stage} recall, %" for stage in STAGE_NAMES)]
    rows = {name: _cells(system["pooled"]) for name, system in _ordered(results["systems"]).items()}
    data = results["data"]
    lines = [
        f"{_where(data)} {data['split'].capitalize()} split, {data['subjects']} subjects,"
        f" {data['recordings']} nights.",
        "",
    ]
    for block in (slice(0, 3), slice(3, None)):
        lines.append(" " * 20 + "".join(f"{head:>20}" for head in heads[block]))
        for name, cells in rows.items():
            texts = (f"{value} {interval}" for value, interval in cells[block])
            lines.append(f"{name:<20.20}" + "".join(f"{text:>20}" for text in texts))
        lines.append("")
    if distillation := results["distillation"]:
        lines.append(f"Distilled against hard labels, accuracy: {distillation['conclusion']}.")
    lines.append(textwrap.fill(f"{_coverage(results)}.", 100))
    lines.append(textwrap.fill(results["bootstrap"]["note"] or "", 100))
    return "\n".join(lines).rstrip()


def _where(data: Mapping[str, Any]) -> str:
    kind = "Simulated data" if data["simulated"] else "Data"
    return f"{kind}: {data['cohort']}, BCG {data['bcg_source']}."


def sweep_table(results: Mapping[str, Any]) -> str:
    """A sweep's cells as plain text for a terminal."""
    lines = [_where(results["data"]), ""]
    lines.append(f"{'alpha':>8}{'T':>8}{'kappa on validation':>24}{'seeds':>8}")
    for (alpha, temperature), kappas in sorted(plots.sweep_cells(results).items()):
        spread = f" ± {np.std(kappas, ddof=1):.3f}" if len(kappas) > 1 else ""
        shown = "any" if alpha == 1.0 else f"{temperature:g}"
        text = f"{np.mean(kappas):.3f}{spread}"
        lines.append(f"{alpha:>8g}{shown:>8}{text:>24}{len(kappas):>8}")
    chosen = results["chosen"]
    lines.append(
        f"Chosen: alpha {chosen['alpha']:g}, T {chosen['temperature']:g}, seed {chosen['seed']},"
        f" kappa {chosen['validation_kappa']:.3f} at step {chosen['step']}."
    )
    return "\n".join(lines)


def write_sweep_page(path: Path, results: Mapping[str, Any]) -> None:
    """The heat map and the table of a sweep as one HTML file."""
    body = section(
        f"{len(results['members'])} students in one program",
        f"<p>{escape(_where(results['data']))} Labels of {results['labelled_nights']} nights.</p>",
        figure_of(plots.sweep_map(results), "Mean over seeds ± standard deviation."),
        f"<pre>{escape(sweep_table(results))}</pre>",
    )
    path.write_text(page(TITLE, body), encoding="utf-8")


def _ordered(systems: Mapping[str, Any]) -> dict[str, Any]:
    """Teacher, students, floors, then whatever else was scored."""
    names = [name for name in SYSTEM_LABELS if name in systems]
    return {name: systems[name] for name in [*names, *(n for n in systems if n not in names)]}


def _show(interval: Mapping[str, Any], percent: bool = True) -> tuple[str, str]:
    """Value and interval as text; – for what is not defined."""

    def text(value: float) -> str:
        number = f"{100 * value:.1f}" if percent else f"{value:.2f}"
        return number.replace("100.0", "100").replace("-", "−")

    value, low, high = (interval[key] for key in ("value", "low", "high"))
    return (
        "–" if value is None else text(value),
        "–" if low is None else f"[{text(low)}, {text(high)}]",
    )


def _cells(pooled: Mapping[str, Any]) -> list[tuple[str, str]]:
    overall = [_show(pooled[key], percent=key == "accuracy") for key in plots.METRIC_LABELS]
    return overall + [_show(pooled["recall"][stage]) for stage in STAGE_NAMES]


def _coverage(results: Mapping[str, Any]) -> str:
    bootstrap = results["bootstrap"]
    return (
        f"{100 * bootstrap['confidence']:g} % intervals from {bootstrap['draws']:,} bootstrap draws"
        f" over {bootstrap['subjects']} subjects; each model is one training run"
        f" ({_seeds(results)}), whose luck is not in them"
    )


def _seeds(results: Mapping[str, Any]) -> str:
    seeds = results["data"]["seeds"]
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


# --- HTML. Every string that is not ours passes through `escape` on its way in. ---


def _two_lines(texts: tuple[str, str]) -> str:
    return "{}<small>{}</small>".format(*texts)


def _summary(results: Mapping[str, Any]) -> str:
    """The title and what was found, in three sentences."""
    data, systems, distillation = results["data"], results["systems"], results["distillation"]
    main = distillation["distilled"] if distillation else next(iter(_ordered(systems)))
    pooled = systems[main]["pooled"]
    kind = "<strong>simulated</strong>" if data["simulated"] else "recorded"
    sentences = [
        f"On {kind} data of {data['subjects']:,} subjects ({data['recordings']:,} nights,"
        f" {data['windows']:,} scored 30-s windows of the {escape(str(data['split']))} split),"
        f" the system <b>{escape(label(main))}</b> reaches an accuracy of"
        " <b>{} %</b> {}".format(*_show(pooled["accuracy"]))
        + " and a kappa of <b>{}</b> {}.".format(*_show(pooled["kappa"], percent=False))
    ]
    if distillation:
        recalls = distillation["differences"]["recall"]
        verdicts = {stage: verdict(recalls[stage]) for stage in STAGE_NAMES}
        clear = [f"{s} {text}" for s, text in verdicts.items() if text.startswith(("gain", "loss"))]
        sentences.append(
            "Against the same student without a teacher, both with labels on"
            f" {data['labelled_nights']:,} of {data['training_nights']:,} training nights (the"
            f" teacher learned from the stages of all of them, and {data['validation_nights']:,}"
            " scored validation nights chose every model's best step), its accuracy shows:"
            f" <b>{distillation['conclusion']}</b>; clear changes of recall:"
            f" {'; '.join(clear) or 'none'}."
        )
    others = [
        "{}: {} % {}".format(escape(label(name)), *_show(systems[name]["pooled"]["accuracy"]))
        for name in (TEACHER, TIME_OF_NIGHT)
        if name in systems and name != main
    ]
    if others:
        sentences.append(f"The accuracies to compare with: {', '.join(others)}.")
    badge = ""
    if data["simulated"]:
        badge = (
            '<p class="badge"><strong>Simulated data.</strong>'
            f" Cohort: {escape(str(data['cohort']))}; BCG: {escape(str(data['bcg_source']))}."
            " The numbers show how the method behaves on a model of sleepers, not how well it"
            " stages a patient.</p>"
        )
    lead = "".join(f"<p>{sentence}</p>" for sentence in sentences)
    return f"<h1>Sleep stages from the ballistocardiogram</h1>{badge}{lead}"


def _scores(results: Mapping[str, Any], systems: Mapping[str, Any]) -> str:
    heads = ["System", "Accuracy, %", "Kappa", "Macro F1"]
    heads += [f"{stage_chip(stage)}<small>recall, %</small>" for stage in STAGE_NAMES]
    rows = [
        [escape(label(name)), *map(_two_lines, _cells(system["pooled"]))]
        for name, system in systems.items()
    ]
    notes = [f"In brackets: {_coverage(results)}, the same draws for every system."]
    notes += filter(None, [results["bootstrap"]["note"]])
    if unscored := results["unscored_recordings"]:
        notes.append(f"Without any label, in no score: {', '.join(unscored)}.")
    note = f'<p class="note">{escape(" ".join(notes))}</p>'
    return table_of(heads, rows, "scores") + note


def _published() -> str:
    note = (
        "None of this was computed here: other people, sensors, scorers and splits. Do not read it"
        " against the table above. The article's three figures are its claims, not reproduced here."
    )
    heads = ["System", "Sensor", "Tested on", "Accuracy, %", "Kappa"]
    return (
        f'<aside><h2>Published by others, for orientation</h2><p class="note">{note}</p>'
        f"{table_of(heads, PUBLISHED, 'published')}</aside>"
    )


def _distillation(distillation: Mapping[str, Any] | None) -> str:
    if distillation is None:
        text = "<p>Only one kind of student was scored, so there is no difference to show.</p>"
        return section("What distillation changed", text)
    recovered = distillation["teacher_lead_recovered"]
    share = "{} % {} of the teacher's lead in accuracy is recovered.".format(*_show(recovered))
    return section(
        "What distillation changed",
        figure_of(
            plots.forest(distillation),
            f"{escape(label(distillation['distilled']))} minus"
            f" {escape(label(distillation['baseline']))}, on the same subjects and draws. A change"
            " is claimed only where a line stays clear of 0."
            f" {escape(recovered['reason'] or share)}",
        ),
    )


def _confusions(systems: Mapping[str, Any]) -> str:
    tables = []
    for name, system in systems.items():
        rows = [
            [stage_chip(stage), *(_heat(count, sum(counts)) for count in counts)]
            for stage, counts in zip(STAGE_NAMES, system["confusion"], strict=True)
        ]
        tables.append(table_of(["Scored", *STAGE_NAMES], rows, "confusion", escape(label(name))))
    return section(
        "What is taken for what",
        f'<div class="side">{"".join(tables)}</div>',
        '<p class="note">Rows: the stage scored by hand. Columns: the stage the system gave, in %'
        " of the row and in windows.</p>",
    )


def _stages(systems: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    heads = ["System", *map(stage_chip, STAGE_NAMES)]
    tables = [
        table_of(
            heads,
            [
                [
                    escape(label(name)),
                    *(
                        _two_lines(_show(system["pooled"][key][stage], percent=key != "f1"))
                        for stage in STAGE_NAMES
                    ),
                ]
                for name, system in systems.items()
            ],
            "scores",
            caption,
        )
        for key, caption in (("precision", "Precision, %"), ("f1", "F1"))
    ]
    note = (
        '<p class="note">Recall: the share of a stage\'s windows that were found. Precision: the'
        " share of the windows given a stage that are of it; – for a stage that was never given."
        " F1: their harmonic mean.</p>"
    )
    caption = f"Bars: pooled windows. Lines: {_coverage(results)}."
    return section("Each stage", figure_of(plots.recall_bars(systems), caption), *tables, note)


def _heat(count: int, total: int) -> str:
    share = count / total if total else 0.0
    text = f"{100 * share:.0f} %" if total else "–"
    return f'<span style="--share:{share:.2f}">{text}<small>{count:,}</small></span>'


def _night(night: ReportNight, results: Mapping[str, Any]) -> str:
    names = [n for n in (TEACHER, DISTILLED) if n in night.probs] or list(night.probs)
    why = "chosen by hand"
    shown = next((name for name in (DISTILLED, TEACHER) if name in results["systems"]), None)
    if shown and night.recording_id == median_recording(results, shown):
        why = f"median in accuracy of {label(shown)}: neither its best night nor its worst"
    caption = (
        f"<b>{escape(night.recording_id)}</b>, {why}."
        f" {' '.join(map(stage_chip, STAGE_NAMES))}. BCG quality: power in 1–8 Hz over 10–20 Hz;"
        f" dotted, {plots.RELIABLE_SNR_DB:g} dB, above which heartbeats are found reliably; shaded,"
        " at least half of the window is missing. Below a hypnogram: the probabilities behind it."
    )
    return section("One night", figure_of(plots.night(night, names), caption, "wide"))


def _sleep(sleep: Mapping[str, Any] | None, results: Mapping[str, Any]) -> str:
    """Sleep measures: how far each system's nights are from the scorer's."""
    if sleep is None:
        return ""
    systems = _ordered(sleep["systems"])
    names = [name for name in (TEACHER, DISTILLED) if name in systems] or list(systems)[:2]
    heads = ["Measure", "Scorer<small>mean</small>", *(escape(label(name)) for name in systems)]
    rows = []
    for key, measure in MEASURES.items():
        scorer = sleep["scorer"][key]
        row = [
            f"{measure.label}<small>{measure.unit}</small>",
            f"{_real(scorer['mean']['value'], 1)}{_of_nights(scorer['nights'], results)}",
        ]
        for system in systems.values():
            found = system[key]
            limits = f"[{_real(found['lower']['value'], 1)}, {_real(found['upper']['value'], 1)}]"
            limits = "–" if found["lower"]["value"] is None else limits
            row.append(
                f"{_real(found['bias']['value'], 1)}<small>{limits}</small>"
                f"{_of_nights(found['nights'], results)}"
            )
        rows.append(row)
    listing = table_of(heads, rows, "scores", "System − scorer: mean [95 % limits of agreement]")
    words = "".join(f"<li>{m.label}: {m.definition}</li>" for m in MEASURES.values())
    note = (
        "Read off the windows that the scorer scored, after the manual of the American Academy of"
        " Sleep Medicine; lights off and on are not known, so a night runs from its first scored"
        " window to its last. The limits hold 95 % of nights if differences are normal; where"
        " subjects have two nights, they count the variance within and between subjects. Where not"
        " every night has a measure in both hypnograms, the number that has is given."
    )
    caption = (
        "Each dot is a night: the mean of system and scorer against their difference. Solid, the"
        " mean difference; dashed, the 95 % limits of agreement."
    )
    return section(
        "Sleep measures",
        listing,
        f'<p class="note">{escape(note)}</p>',
        _sleep_errors(sleep["distillation"]),
        figure_of(plots.bland_altman(sleep, names), caption),
        f"<details><summary>What each measure is</summary><ul>{words}</ul></details>",
        _sleep_intervals(systems, results),
    )


def _of_nights(nights: int, results: Mapping[str, Any]) -> str:
    """How many nights a number stands for, where they are not all that are scored."""
    scored = results["data"]["recordings"] - len(results["unscored_recordings"])
    return "" if nights == scored else f"<small>{nights} of {scored} nights</small>"


def _sleep_errors(differences: Mapping[str, Any] | None) -> str:
    """Where distillation clearly changed how far a night's measures are off."""
    if differences is None:
        return ""
    clear = [
        f"{measure.label} {_with_interval(differences[key], 1)} {measure.unit}"
        for key, measure in MEASURES.items()
        if (low := differences[key]["low"]) is not None
        and (low > 0 or differences[key]["high"] < 0)
    ]
    return (
        f"<p>Mean absolute error of <b>{escape(label(DISTILLED))}</b> minus that of"
        f" <b>{escape(label(HARD_LABELS))}</b> on the same nights, below 0 where the distilled"
        f" student is nearer to the scorer; clear changes: {'; '.join(clear) or 'none'}.</p>"
    )


def _sleep_intervals(systems: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    parts = {
        "Mean difference": "bias",
        "Lower limit": "lower",
        "Upper limit": "upper",
        "Mean absolute error": "mean_absolute_error",
    }
    tables = [
        table_of(
            ["Measure", *parts],
            [
                [
                    f"{measure.label}<small>{measure.unit}</small>",
                    *(_two_lines(_real_interval(system[key][part], 1)) for part in parts.values()),
                ]
                for key, measure in MEASURES.items()
            ],
            "scores",
            escape(label(name)),
        )
        for name, system in systems.items()
    ]
    note = f'<p class="note">{escape(_coverage(results))}.</p>'
    return (
        "<details><summary>Intervals of every limit, and errors</summary>"
        f"{''.join(tables)}{note}</details>"
    )


def _calibration(calibration: Mapping[str, Any] | None, results: Mapping[str, Any]) -> str:
    """Whether probabilities mean what they say."""
    if calibration is None:
        return ""
    systems, fitted = _ordered(calibration["systems"]), calibration["validation"]
    names = [name for name in (TEACHER, DISTILLED) if name in systems] or list(systems)[:2]
    heads = ["System", "T"]
    for score in ("NLL", "Brier", "ECE, %"):
        heads += [f"{score}<small>before</small>", f"{score}<small>after</small>"]
    rows, notes = [], []
    for name, system in systems.items():
        row = [escape(label(name)), _real(system["temperature"], 2)]
        for key in ("nll", "brier", "ece"):
            for when in ("before", "after"):
                found = system[when] and system[when][key]
                shown = _show(found) if found and key == "ece" else _real_interval(found, 3)
                row.append(_two_lines(shown))
        rows.append(row)
        if system["note"]:
            notes.append(f"{label(name)}: {system['note']}")
    validation = (
        "No temperature was fitted."
        if fitted is None
        else f"One temperature T for each system divides its logits, fitted on"
        f" {fitted['windows']:,} windows of {fitted['recordings']:,} validation nights by NLL; it"
        " changes no prediction."
    )
    bins = calibration["bins"]["number"]
    note = (
        f"{validation} Lower is better. NLL: mean of −log p of the scored stage, in nats. Brier:"
        " squared distance between probabilities and truth, summed over stages, 0 to 2. ECE: mean"
        f" distance between confidence and accuracy over {bins} bins of equal width of the highest"
        f" probability; with few windows it is too high. {' '.join(notes)}"
    )
    caption = (
        "How often the most probable stage is right, against the probability it was given."
        " On the dotted diagonal they agree; below it a system is too sure of itself. Bins of fewer"
        f" than {plots.FEWEST_WINDOWS} windows are left out. Lines: {_coverage(results)}."
    )
    return section(
        "Calibration",
        table_of(heads, rows, "scores"),
        f'<p class="note">{escape(note)}</p>',
        _calibration_change(calibration["distillation"]),
        figure_of(plots.reliability(calibration, names), caption),
    )


def _calibration_change(differences: Mapping[str, Any] | None) -> str:
    """The two students' difference, after the temperature where there is one."""
    if differences is None:
        return ""
    when = "after" if differences["after"] else "before"
    found = differences[when]
    texts = [f"NLL {_with_interval(found['nll'], 3)}", f"Brier {_with_interval(found['brier'], 3)}"]
    ece = " ".join(_show(found["ece"]))
    return (
        f"<p><b>{escape(label(DISTILLED))}</b> minus <b>{escape(label(HARD_LABELS))}</b>, {when}"
        f" the temperature: {escape(', '.join(texts))}, ECE {ece} points; below 0 is better.</p>"
    )


def _real(value: float | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _real_interval(interval: Mapping[str, Any] | None, digits: int) -> tuple[str, str]:
    """Value and interval as text; – for what is not defined."""
    if interval is None:
        return "–", "–"
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    between = "–" if low is None else f"[{_real(low, digits)}, {_real(high, digits)}]"
    return _real(value, digits), between


def _with_interval(interval: Mapping[str, Any], digits: int) -> str:
    return " ".join(_real_interval(interval, digits))


def _recordings(systems: Mapping[str, Any]) -> str:
    rows = [
        [
            escape(first["recording_id"]),
            escape(first["subject_id"]),
            f"{first['windows']:,}",
            *("–" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}" for row in night),
        ]
        for night in zip(*(s["per_recording"] for s in systems.values()), strict=True)
        for first in night[:1]
    ]
    heads = ["Recording", "Subject", "Windows", *(escape(label(name)) for name in systems)]
    listing = table_of(heads, rows, "scores", "Accuracy, %")
    return f"<details><summary>Every recording</summary>{listing}</details>"


def _curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    if not any(set(row) & set(plots.CURVE_LABELS) for rows in curves.values() for row in rows):
        return ""
    caption = "Losses of two systems are not comparable: each has terms of its own."
    return section("Training", figure_of(plots.training_curves(curves), caption))


def _provenance(results: Mapping[str, Any]) -> str:
    blocks = {key: results[key] for key in ("data", "bootstrap", "provenance")}
    text = escape(json.dumps(blocks, indent=2, ensure_ascii=False, default=str))
    return section(
        "How it was made",
        f"<details><summary>Data, settings and versions</summary><pre>{text}</pre></details>",
    )
