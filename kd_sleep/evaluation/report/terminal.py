"""The scores for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from kd_sleep.evaluation.report.systems import ordered
from kd_sleep.evaluation.report.words import cells, coverage, data_line
from kd_sleep.stages import STAGE_NAMES


def table(results: Mapping[str, Any]) -> str:
    """The scores as plain text for a terminal, 100 columns wide."""
    heads = ["accuracy, %", "kappa", "macro F1", *(f"{stage} recall, %" for stage in STAGE_NAMES)]
    rows = {name: cells(system["pooled"]) for name, system in ordered(results["systems"]).items()}
    data = results["data"]
    lines = [
        f"{data_line(data)} {data['split'].capitalize()} split, {data['subjects']} subjects,"
        f" {data['recordings']} nights.",
        "",
    ]
    for block in (slice(0, 3), slice(3, None)):
        lines.append(" " * 20 + "".join(f"{head:>20}" for head in heads[block]))
        for name, row in rows.items():
            texts = (f"{value} {interval}" for value, interval in row[block])
            lines.append(f"{name:<20.20}" + "".join(f"{text:>20}" for text in texts))
        lines.append("")
    if distillation := results["distillation"]:
        lines.append(f"Distilled against hard labels, accuracy: {distillation['conclusion']}.")
    lines.append(textwrap.fill(f"{coverage(results)}.", 100))
    lines.append(textwrap.fill(results["bootstrap"]["note"] or "", 100))
    return "\n".join(lines).rstrip()
