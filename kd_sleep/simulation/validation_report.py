"""The validation table as text, CSV, JSON and a page with pictures."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kd_sleep.pages import (
    INK,
    MUTED,
    NARROW,
    STAGE_COLOURS,
    drawing,
    figure_of,
    page,
    section,
    table_of,
)
from kd_sleep.provenance import provenance, write_json
from kd_sleep.simulation import night_pictures, validation
from kd_sleep.simulation.physiology import SIMULATOR_VERSION
from kd_sleep.simulation.validation import Measured, Statistic
from kd_sleep.stages import STAGE_NAMES, Stage

_ORDER = (Stage.DEEP, Stage.LIGHT, Stage.REM, Stage.WAKE)  # from below


def validate(out: Path, nights: int = 200, workers: int = 0, seed: int = 0) -> list[Statistic]:
    """Simulates nights, measures them, and writes validation.html, .csv and .json to `out`.

    Beside them, ten_seconds.svg and night.svg: the first of the nights in pictures.

    Args:
      out: a folder; it is made.
      nights: to simulate.
      workers: processes; 0 takes one per core.
      seed: of the people and their nights.
    """
    measured, young = validation.simulate(nights, workers, seed)
    sensed = range(min(nights, validation.SENSOR_NIGHTS))
    drives = [validation.draw_night(seed, number)[1].drive for number in sensed]
    rows = validation.statistics(measured, young, drives, validation.PEOPLE, seed)
    out.mkdir(parents=True, exist_ok=True)
    entries = [dataclasses.asdict(row) | {"inside": row.inside} for row in rows]
    with (out / "validation.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, entries[0])
        writer.writeheader()
        writer.writerows(entries)
    about: dict[str, Any] = {"simulator": SIMULATOR_VERSION, "nights": nights, "seed": seed}
    write_json(out / "validation.json", about | {"statistics": entries, **provenance()})
    example = validation.draw_night(seed, 0)[1]
    night_pictures.write_pictures(out, example, seed)
    night = night_pictures.night_drawing(example, seed)
    (out / "validation.html").write_text(_html(rows, measured, night), encoding="utf-8")
    return rows


def _figure(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(row: Statistic) -> str:
    if row.p5 is None or row.p95 is None:
        return ""
    return f"[{_figure(row.p5)}, {_figure(row.p95)}]"


def text_table(rows: Sequence[Statistic]) -> str:
    """The table for a terminal, 100 columns wide; what lies outside is marked with an x."""
    lines = [f"{'':2}{'statistic':58}{'simulated':>10} {'[5 %, 95 %]':>15} {'published':>12}"]
    for row in rows:
        name = f"{row.group}: {row.name}" + (f", {row.unit}" if row.unit else "")
        published = f"{_figure(row.low)}-{_figure(row.high)}"
        mark = " " if row.inside else "x"
        lines.append(
            f"{mark} {name[:57]:58}{_figure(row.value):>10} {_spread(row):>15} {published:>12}"
        )
    outside = [row for row in rows if not row.inside]
    lines.append(f"{len(rows) - len(outside)} of {len(rows)} statistics lie inside.")
    lines += [f"x {row.name}: {row.note or 'no reason known'}" for row in outside]
    return "\n".join(lines)


def _html(rows: Sequence[Statistic], nights: Sequence[Measured], night: str) -> str:
    outside = [row for row in rows if not row.inside]
    unsourced = sum(row.source.startswith("unsourced") for row in rows)
    head = (
        f"<h1>The simulator against the literature</h1><p>Simulator {SIMULATOR_VERSION},"
        f" {len(nights)} nights of as many people. {len(rows) - len(outside)} of {len(rows)}"
        f" statistics lie inside their published range; {unsourced} rest on common knowledge"
        " without a source (<em>unsourced</em>). Brackets: 5th and 95th percentile over nights;"
        " <em>agrees</em>: the range taken from what was published. Nothing here was fitted to"
        " what a model makes of the nights.</p>"
    )
    if outside:
        items = "".join(
            f"<li>{escape(row.name)}: {escape(row.note or 'no reason known')}</li>"
            for row in outside
        )
        head += f"<p>Outside:</p><ul>{items}</ul>"
    drawn = section(
        "Pictures",
        figure_of(night, "One night: latent and scored stages, heart rate, breathing rate,"
                  " movements, and the RMS of the BCG's heartbeat band.", "wide"),
        figure_of(_by_hour(nights), "Scored stages by hour from lights off."),
        figure_of(_relative(rows), "Figures by stage, relative to REM: dots simulated, lines what"
                  " counts as agreeing."),
    )  # fmt: skip
    tables = []
    for group in dict.fromkeys(row.group for row in rows):
        cells = [
            [
                escape(row.name) + (f"<small>{escape(row.unit)}</small>" if row.unit else ""),
                f"{_figure(row.value)}<small>{_spread(row)}</small>",
                "inside" if row.inside else "<strong>outside</strong>",
                f"{_figure(row.low)}–{_figure(row.high)}",
                escape(row.published),
                escape(row.source) + (f"<small>{escape(row.note)}</small>" if row.note else ""),
            ]
            for row in rows
            if row.group == group
        ]
        # The verdict stands where a phone shows it without scrolling.
        heads = ["Statistic", "Simulated", "Verdict", "Agrees", "Published", "Source"]
        tables.append(section(group.capitalize(), table_of(heads, cells, "scores statistics")))
    return page("The simulator against the literature", head + drawn + "".join(tables))


@drawing
def _by_hour(nights: Sequence[Measured]) -> tuple[Figure, str]:
    figure = Figure(figsize=(NARROW, 3.0), layout="constrained")
    axes = figure.subplots()
    bins = np.zeros((48, 4))
    for night in nights:
        quarter = np.minimum(np.arange(len(night.scored)) // 30, 47)
        np.add.at(bins, (quarter, night.scored), 1)
    bins = bins[bins.sum(1) >= 0.5 * 30 * len(nights)]
    share = bins / bins.sum(1, keepdims=True)
    hours = (np.arange(len(share)) + 0.5) / 4.0
    axes.stackplot(
        hours,
        *[share[:, k] for k in _ORDER],
        colors=[STAGE_COLOURS[STAGE_NAMES[k]] for k in _ORDER],
        labels=[STAGE_NAMES[k] for k in _ORDER],
    )
    axes.set(xlabel="hours from lights off", ylabel="share of windows", ylim=(0, 1))
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    first = ", ".join(f"{STAGE_NAMES[k]} {share[4, k]:.0%}" for k in _ORDER)
    return figure, f"Shares of stages by hour; in the second hour {first}."


@drawing
def _relative(rows: Sequence[Statistic]) -> tuple[Figure, str]:
    figure = Figure(figsize=(NARROW, 5.4), layout="constrained")
    axes = figure.subplots()
    shown = [row for row in rows if row.name.endswith("against REM")]
    for y, row in enumerate(reversed(shown)):
        axes.plot([row.low, row.high], [y, y], lw=5, color=MUTED, alpha=0.4, solid_capstyle="butt")
        axes.plot(row.value, y, "o", ms=4, color=INK)
    names = [f"{row.group}: {row.name.removesuffix(' against REM')}" for row in reversed(shown)]
    axes.set_yticks(range(len(shown)), names)
    axes.axvline(1.0, lw=0.8, color=MUTED)
    axes.set_xscale("log", base=2)
    axes.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
    axes.set_xlabel("relative to REM")
    inside = sum(row.inside for row in shown)
    return figure, f"{inside} of {len(shown)} figures relative to REM lie in their range."
