"""The first screen: what was found, on what data, and the table of scores."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from kd_sleep.evaluation.report.systems import label, ordered
from kd_sleep.evaluation.report.words import cells, coverage, findings, show, small_print, two_lines
from kd_sleep.evaluation.scores import TEACHER, TIME_OF_NIGHT, verdict
from kd_sleep.pages import stage_chip, table_of
from kd_sleep.stages import STAGE_NAMES

FIRST = 3  # sentences of the first screen


def opening(title: str, results: Mapping[str, Any]) -> str:
    """Title, what kind of data this is, three sentences, the scores, and what else was found."""
    study = results.get("study")
    if study and study["conclusions"]:
        said = [escape(text) for text in study["conclusions"][:FIRST]]
        rest = findings(study["conclusions"][FIRST:])
    else:
        said, rest = _sentences(results), ""
    lead = "".join(f"<p>{sentence}</p>" for sentence in said)
    return (
        f"<header><h1>{title}</h1>{_badge(results['data'])}"
        f'<div class="lead">{lead}</div></header>{_scores(results)}'
        f"{f'<h3>What else was found</h3>{rest}' if rest else ''}"
    )


def _badge(data: Mapping[str, Any]) -> str:
    """What was measured on what."""
    held_out = (
        f"{data['recordings']:,} nights of {data['subjects']:,} subjects ({escape(data['split'])}"
        f" split), {data['windows']:,} scored 30-s windows; cohort: {escape(data['cohort'])}; BCG:"
        f" {escape(data['bcg_source'])}."
    )
    if not data["simulated"]:
        return f'<p class="note">Recorded data: {held_out}</p>'
    return (
        f'<p class="badge"><strong>Simulated data:</strong> {held_out} The numbers show how the'
        " method behaves on a model of sleepers, not how well it stages a patient.</p>"
    )


def _sentences(results: Mapping[str, Any]) -> list[str]:
    """What a single evaluation found, as HTML."""
    data, systems, distillation = results["data"], results["systems"], results["distillation"]
    main = distillation["distilled"] if distillation else next(iter(ordered(systems)))
    pooled = systems[main]["pooled"]
    kind = "<strong>simulated</strong>" if data["simulated"] else "recorded"
    said = [
        f"On {kind} data of {data['subjects']:,} subjects ({data['recordings']:,} nights,"
        f" {data['windows']:,} scored 30-s windows of the {escape(str(data['split']))} split),"
        f" the system <b>{escape(label(main))}</b> reaches an accuracy of"
        " <b>{} %</b> {}".format(*show(pooled["accuracy"]))
        + " and a kappa of <b>{}</b> {}.".format(*show(pooled["kappa"], percent=False))
    ]
    if distillation:
        recalls = distillation["differences"]["recall"]
        verdicts = {stage: verdict(recalls[stage]) for stage in STAGE_NAMES}
        clear = [f"{s} {text}" for s, text in verdicts.items() if text.startswith(("gain", "loss"))]
        said.append(
            "Against the same student without a teacher, both with labels on"
            f" {data['labelled_nights']:,} of {data['training_nights']:,} training nights (the"
            f" teacher learned from the stages of all of them, and {data['validation_nights']:,}"
            " scored validation nights chose every model's best step), its accuracy shows:"
            f" <b>{escape(distillation['conclusion'])}</b>; clear changes of recall:"
            f" {'; '.join(clear) or 'none'}."
        )
    others = [
        "{}: {} % {}".format(escape(label(name)), *show(systems[name]["pooled"]["accuracy"]))
        for name in (TEACHER, TIME_OF_NIGHT)
        if name in systems and name != main
    ]
    if others:
        said.append(f"The accuracies to compare with: {', '.join(others)}.")
    return said


def _scores(results: Mapping[str, Any]) -> str:
    heads = ["System", "Accuracy, %", "Kappa", "Macro F1"]
    heads += [f"{stage_chip(stage)}<small>recall, %</small>" for stage in STAGE_NAMES]
    rows = [
        [escape(label(name)), *map(two_lines, cells(system["pooled"]))]
        for name, system in ordered(results["systems"]).items()
    ]
    notes = [f"In brackets: {coverage(results)}, the same draws for every system."]
    notes += filter(None, [results["bootstrap"]["note"]])
    if unscored := results["unscored_recordings"]:
        notes.append(f"Without any label, in no score: {', '.join(unscored)}.")
    return table_of(heads, rows, "scores") + small_print(" ".join(notes))
