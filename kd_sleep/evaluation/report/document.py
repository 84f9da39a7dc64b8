"""The report: one HTML file that a sleep researcher can read, mail and print.

It needs no network and no other file. What it says in words follows from the numbers by the rule of
`scores.verdict`; figures that others published stand apart from ours; where the data was simulated
every section says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from kd_sleep.evaluation.report.ablations import ablations
from kd_sleep.evaluation.report.amounts import amounts
from kd_sleep.evaluation.report.calibration import calibration_section
from kd_sleep.evaluation.report.chosen_nights import ReportNight
from kd_sleep.evaluation.report.claims import claims, published
from kd_sleep.evaluation.report.gains import gains
from kd_sleep.evaluation.report.ladder import ladder_section
from kd_sleep.evaluation.report.nights import nights_section
from kd_sleep.evaluation.report.opening import opening
from kd_sleep.evaluation.report.sleep import sleep_section
from kd_sleep.evaluation.report.sqi import sqi_section
from kd_sleep.evaluation.report.stages import confusions, each_stage
from kd_sleep.evaluation.report.subjects import subjects
from kd_sleep.evaluation.report.training import training_section
from kd_sleep.pages import contents, details, page, section

TITLE = "Sleep stages from the ballistocardiogram"


def write_report(
    path: Path,
    results: Mapping[str, Any],
    nights: Sequence[ReportNight],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Writes the report as one HTML file.

    Args:
      path: where to write it.
      results: what `scores.score` returned, with "data" and "provenance" added, and
        "sleep_measures", "calibration", "sqi", "ladder" and "study" where there are any: a section
        without its results is left out.
      nights: the nights to draw; `chosen_nights.report_nights` chooses fair ones.
      curves: system -> rows with "step" and any of "loss", "validation_kappa" and
        "validation_accuracy".
    """
    study, simulated = results.get("study"), results["data"]["simulated"]
    parts = {
        "The article’s claims": claims(study, simulated=simulated),
        "How many nights need labels": amounts(study),
        "What distillation changed": gains(results),
        "What each part of the loss is worth": ablations(study),
        "What is lost from ECG to BCG": ladder_section(results.get("ladder")),
        "Which windows to trust": sqi_section(results.get("sqi")),
        "Nights": nights_section(nights),
        "Calibration": calibration_section(results),
        "From subject to subject": subjects(results),
        "Each stage": each_stage(results),
        "What is taken for what": confusions(results),
        "Sleep measures": sleep_section(results),
        "Training": training_section(curves),
        "How it was made": _provenance(results),
    }
    there = {title: html for title, html in parts.items() if html}
    tag = "simulated" if simulated else ""
    sections = [section(title, html, tag=tag) for title, html in there.items()]
    body = [opening(TITLE, results), contents(there), *sections[:-1], published(), sections[-1]]
    path.write_text(page(TITLE, "\n".join(body)), encoding="utf-8")


def _provenance(results: Mapping[str, Any]) -> str:
    blocks = {key: results[key] for key in ("data", "bootstrap", "provenance")}
    text = escape(json.dumps(blocks, indent=2, ensure_ascii=False, default=str))
    return details("Data, settings and versions", f"<pre>{text}</pre>")
