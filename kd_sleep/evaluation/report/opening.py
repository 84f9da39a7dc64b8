"""The first screen of the report, and the same for a terminal: what was found, on what data."""

from __future__ import annotations

import textwrap
from html import escape

from kd_sleep.evaluation.report.wording import (
    cell,
    coverage,
    data_line,
    findings,
    label,
    ordered,
    pair,
    score_cells,
    share,
    small_print,
)
from kd_sleep.evaluation.results import Data, Results
from kd_sleep.evaluation.scores import (
    HARD_LABELS,
    MAJORITY,
    TEACHER,
    TIME_OF_NIGHT,
    below_floor,
    clear_changes,
    missed_stages,
    percent,
)
from kd_sleep.pages import stage_chip, table_of
from kd_sleep.stages import STAGE_NAMES

FIRST = 3  # sentences of the first screen


def opening(title: str, results: Results) -> str:
    """Title, kind of data, three sentences, the scores, and what else was found."""
    assert results.data is not None
    if results.study is not None and results.study.conclusions:
        sentences = [escape(text) for text in results.study.conclusions[:FIRST]]
        rest = findings(results.study.conclusions[FIRST:])
    else:
        sentences, rest = _sentences(results, results.data), ""
    lead = "".join(f"<p>{sentence}</p>" for sentence in sentences)
    return (
        f"<header><h1>{title}</h1>{_badge(results.data)}"
        f'<div class="lead">{lead}</div></header>{_scores(results)}'
        f"{f'<h3>What else was found</h3>{rest}' if rest else ''}"
    )


def _badge(data: Data) -> str:
    held_out = (
        f"{data.recordings:,} nights of {data.subjects:,} subjects ({escape(data.split)} split),"
        f" {data.windows:,} scored 30-s windows; cohort: {escape(data.cohort)}; BCG:"
        f" {escape(data.bcg_source)}."
    )
    if not data.simulated:
        return f'<p class="note">Recorded data: {held_out}</p>'
    return (
        f'<p class="badge"><strong>Simulated data:</strong> {held_out} The numbers show how the'
        " method behaves on a model of sleepers, not how well it stages a patient.</p>"
    )


def _sentences(results: Results, data: Data) -> list[str]:
    """What a single evaluation found, as HTML."""
    systems, gain = ordered(results.systems), results.distillation
    students = [name for name in systems if name not in (TEACHER, TIME_OF_NIGHT, MAJORITY)]
    main = (students or [*systems])[0]
    scores = systems[main].pooled
    kind = "<strong>simulated</strong>" if data.simulated else "recorded"
    sentences = [
        f"On {kind} data of {data.subjects:,} subjects ({data.recordings:,} nights of the"
        f" {escape(data.split)} split), the system <b>{escape(label(main))}</b> reaches an accuracy"
        " of <b>{} %</b> {}".format(*share(scores.accuracy))
        + " and a kappa of <b>{}</b> {}".format(*pair(scores.kappa, 2))
        + f"{missed_stages(scores)}."
    ]
    if gain is not None:
        floor = MAJORITY in systems and below_floor(
            systems[HARD_LABELS].pooled, systems[MAJORITY].pooled
        )
        sentences.append(
            "Against the same student without a teacher, both with labels on"
            f" {data.labelled_nights:,} of {data.training_nights:,} training nights (the"
            f" teacher learned from the stages of all of them, and {data.validation_nights:,}"
            " scored validation nights chose every model's best step), its accuracy shows:"
            f" <b>{escape(gain.conclusion)}</b>; clear changes of recall:"
            f" {clear_changes(gain.differences)}.{f' {floor}' if floor else ''}"
        )
    others = [
        f"{escape(label(name))}: {percent(systems[name].pooled.accuracy)}"
        for name in (TEACHER, TIME_OF_NIGHT, MAJORITY)
        if name in systems and name != main
    ]
    if others:
        sentences.append(f"The accuracies to compare with: {'; '.join(others)}.")
    return sentences


def _scores(results: Results) -> str:
    heads = ["System", "Accuracy, %", "Kappa", "Macro F1"]
    heads += [f"{stage_chip(stage)}<small>recall, %</small>" for stage in STAGE_NAMES]
    rows = [
        [escape(label(name)), *map(cell, score_cells(system.pooled))]
        for name, system in ordered(results.systems).items()
    ]
    notes = [f"In brackets: {coverage(results)}, the same draws for every system."]
    notes += filter(None, [results.bootstrap.note])
    if results.unscored_recordings:
        notes.append(f"Without any label, in no score: {', '.join(results.unscored_recordings)}.")
    return table_of(heads, rows, "scores") + small_print(" ".join(notes))


def table(results: Results) -> str:
    """The scores as plain text for a terminal, 100 columns wide."""
    data = results.data
    assert data is not None
    heads = ["accuracy, %", "kappa", "macro F1", *(f"{stage} recall, %" for stage in STAGE_NAMES)]
    rows = {n: score_cells(system.pooled) for n, system in ordered(results.systems).items()}
    lines = [
        f"{data_line(data.cohort, data.bcg_source, data.simulated)}"
        f" {data.split.capitalize()} split, {data.subjects} subjects, {data.recordings} nights.",
        "",
    ]
    for block in (slice(0, 3), slice(3, None)):
        lines.append(" " * 20 + "".join(f"{head:>20}" for head in heads[block]))
        for name, row in rows.items():
            texts = [f"{value} {interval}" for value, interval in row[block]]
            texts = [text if len(text) < 20 else text.replace(", ", ",") for text in texts]
            lines.append(f"{name:<20.20}" + "".join(f" {text:>19}" for text in texts))
        lines.append("")
    if results.distillation is not None:
        conclusion = results.distillation.conclusion
        lines.append(f"Distilled against hard labels, accuracy: {conclusion}.")
    lines.append(textwrap.fill(f"{coverage(results)}.", 100))
    lines.append(textwrap.fill(results.bootstrap.note or "", 100))
    return "\n".join(lines).rstrip()
