"""Each stage by itself: recall, precision, F1, and what is taken for what."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from matplotlib.figure import Figure

from kd_sleep.evaluation.report.marks import rows_of
from kd_sleep.evaluation.report.systems import label, ordered
from kd_sleep.evaluation.report.words import aloud, coverage, show, small_print, two_lines
from kd_sleep.pages import (
    INK,
    MUTED,
    NARROW,
    STAGE_COLOURS,
    drawing,
    figure_of,
    stage_chip,
    table_of,
)
from kd_sleep.stages import STAGE_NAMES


def each_stage(results: Mapping[str, Any]) -> str:
    """Recall as a picture, precision and F1 as tables."""
    systems = ordered(results["systems"])
    heads = ["System", *map(stage_chip, STAGE_NAMES)]
    tables = [
        table_of(
            heads,
            [
                [
                    escape(label(name)),
                    *(
                        two_lines(show(system["pooled"][key][stage], percent=key != "f1"))
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
        "Recall: the share of a stage's windows that were found. Precision: the share of the"
        " windows given a stage that are of it; – for a stage that was never given. F1: their"
        " harmonic mean."
    )
    caption = f"Bars: pooled windows. Lines: {coverage(results)}."
    return figure_of(recall_bars(systems), caption) + "".join(tables) + small_print(note)


def confusions(results: Mapping[str, Any]) -> str:
    """Every system's confusion matrix."""
    tables = []
    for name, system in ordered(results["systems"]).items():
        rows = [
            [stage_chip(stage), *(_heat(count, sum(counts)) for count in counts)]
            for stage, counts in zip(STAGE_NAMES, system["confusion"], strict=True)
        ]
        tables.append(table_of(["Scored", *STAGE_NAMES], rows, "confusion", escape(label(name))))
    note = (
        "Rows: the stage scored by hand. Columns: the stage the system gave, in % of the row and in"
        " windows."
    )
    return f'<div class="side">{"".join(tables)}</div>{small_print(note)}'


def _heat(count: int, total: int) -> str:
    share = count / total if total else 0.0
    text = f"{100 * share:.0f} %" if total else "–"
    return f'<span style="--share:{share:.2f}">{text}<small>{count:,}</small></span>'


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
        rows_of(axes, [label(name) for name in names])
        pairs = zip(names, recalls, strict=True)
        spoken.append(f"{stage}: " + ", ".join(f"{label(n)} {aloud(r)}" for n, r in pairs))
    panels[-1].set_xlim(0, 100)
    panels[-1].set_xlabel("Recall, % of the stage's windows")
    return figure, f"Recall in percent. {'; '.join(spoken)}."
