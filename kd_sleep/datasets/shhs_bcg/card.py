"""The dataset's card: what is in it, night by night in `nights.csv`, at a glance in `card.html`."""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kd_sleep import schema
from kd_sleep.datasets.splits import SPLITS
from kd_sleep.pages import (
    INK,
    MUTED,
    NARROW,
    STAGE_COLOURS,
    WIDE,
    drawing,
    figure_of,
    page,
    section,
    stage_chip,
    table_of,
)
from kd_sleep.stages import STAGE_NAMES, UNSCORED

_MEASURES = {
    "rr_missing": "Share of the night without RR intervals",
    "ecg_quality": "Share of the ECG that is usable",
    "bcg_missing": "Share of the night without BCG",
    "bcg_snr_db": "BCG's SNR in the median window, dB",
    "clock_drift_ppm": "Drift of the BCG's clock, ppm",
    "clock_residual_ms": "Heartbeats about that clock, ms",
}

Row = Mapping[str, Any]


def row(split: str, record: schema.NightRecord) -> dict[str, Any]:
    """What `nights.csv` says of a night; empty where a measure does not apply."""
    labels = np.asarray(record["label"])
    stages = {
        name.lower(): int(np.count_nonzero(labels == stage))
        for stage, name in enumerate(STAGE_NAMES)
    }
    return {
        "recording_id": record["recording_id"],
        "subject_id": record["subject_id"],
        "visit": int(record["visit"]),
        "split": split,
        "cohort": record["cohort"],
        "bcg_source": record["bcg_source"],
        "simulator": record["simulator"],
        "windows": len(labels),
        **stages,
        "unscored": int(np.count_nonzero(labels == UNSCORED)),
        "rr_missing": _rounded(np.mean(record["rr_missing"])),
        "ecg_quality": _rounded(np.mean(record["ecg_quality"])),
        "bcg_missing": _rounded(np.mean(record["bcg_missing"])),
        "bcg_snr_db": _rounded(_median(record["bcg_snr_db"])),
        "rj_ms": _rounded(1e3 * _median(record["rj"])),
        **_clock(record),
    }


def _clock(record: schema.NightRecord) -> dict[str, float | str]:
    names = ("clock_offset_s", "clock_drift_ppm", "clock_residual_ms", "clock_confidence")
    factors = (1.0, 1e6, 1e3, 1.0)
    fields = ("clock_offset", "clock_drift", "clock_residual", "clock_confidence")
    known = np.isfinite(record["clock_confidence"])
    return {
        name: _rounded(factor * record[field]) if known else ""
        for name, field, factor in zip(names, fields, factors, strict=True)
    }


def _median(values: Any) -> float:
    known = np.asarray(values)[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _rounded(value: Any) -> float | str:
    return round(float(value), 4) if np.isfinite(value) else ""


def write_card(
    path: Path, rows: Sequence[Row], left_out: Sequence[Mapping[str, str]], made_by: Mapping
) -> None:
    """Writes the card as one HTML file.

    Args:
      path: where to write it.
      rows: of `row`, one per night.
      left_out: of exclusions.csv.
      made_by: settings, versions, command.
    """
    cohorts, sources = (
        escape(" and ".join(sorted({r[key] for r in rows}))) for key in ("cohort", "bcg_source")
    )
    made = collections.Counter(r["simulator"] for r in rows if r["simulator"] != "none")
    said = "".join(f" Simulated by {escape(n)}: {count:,} nights." for n, count in made.items())
    what = (
        f"{len(rows):,} nights of {len({r['subject_id'] for r in rows}):,} people, cohort"
        f" {cohorts}, BCG {sources}.{said}"
    )
    badge = '<p class="badge">Simulated: no result on it is one on people.</p>' if made else ""
    body = "".join(
        (
            f"<h1>Dataset shhs_bcg</h1>{badge}<p>{what} Splits are by subject.</p>",
            section(
                "What is in it",
                _counts(rows),
                figure_of(stage_bars(rows), "Shares of the scored windows."),
            ),
            section(
                "Quality, night by night",
                figure_of(
                    quality_spread(rows), "The line is the median night. All: nights.csv.", "wide"
                ),
            ),
            section("What was left out", _left_out(left_out)),
            section("How it was made", f"<pre>{escape(json.dumps(made_by, indent=2))}</pre>"),
        )
    )
    path.write_text(page("Dataset shhs_bcg", body), encoding="utf-8")


def _counts(rows: Sequence[Row]) -> str:
    heads = ["Split", "Nights", "People", "Windows", *map(stage_chip, STAGE_NAMES), "Unscored"]
    lines = []
    for split in SPLITS:
        mine = [r for r in rows if r["split"] == split]
        total = sum(r["windows"] for r in mine)
        counts = [sum(r[key] for r in mine) for key in (*_stage_keys(), "unscored")]
        lines.append(
            [
                split,
                f"{len(mine):,}",
                f"{len({r['subject_id'] for r in mine}):,}",
                f"{total:,}",
                *(
                    f"{count:,}<small>{100 * count / max(total, 1):.1f} %</small>"
                    for count in counts
                ),
            ]
        )
    return table_of(heads, lines, "scores")


def _stage_keys() -> list[str]:
    return [name.lower() for name in STAGE_NAMES]


def _left_out(left_out: Sequence[Mapping[str, str]]) -> str:
    if not left_out:
        return "<p>Nothing.</p>"
    counted = collections.Counter(one["reason"] for one in left_out)
    lines = [[escape(reason), str(count)] for reason, count in counted.most_common(20)]
    said = f"<p>{len(left_out):,} nights or files; which, and what to do: exclusions.csv.</p>"
    return said + table_of(["Reason", "Count"], lines, "")


@drawing
def stage_bars(rows: Sequence[Row]) -> tuple[Figure, str]:
    """Shares of the stages in each split."""
    figure = Figure((NARROW, 1.9), layout="constrained")
    axes = figure.subplots()
    spoken = []
    for place, split in enumerate(SPLITS):
        counts = np.array(
            [sum(r[key] for r in rows if r["split"] == split) for key in _stage_keys()]
        )
        shares = 100.0 * counts / max(counts.sum(), 1)
        left = np.cumsum(shares) - shares
        for name, share, start in zip(STAGE_NAMES, shares, left, strict=True):
            axes.barh(place, share, left=start, color=STAGE_COLOURS[name], height=0.7)
        told = ", ".join(f"{n} {s:.0f} %" for n, s in zip(STAGE_NAMES, shares, strict=True))
        spoken.append(f"{split}: {told}")
    axes.set_yticks(range(len(SPLITS)), SPLITS)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of scored windows")
    return figure, f"Stages in each split. {'; '.join(spoken)}."


@drawing
def quality_spread(rows: Sequence[Row]) -> tuple[Figure, str]:
    """Histograms over nights, one for each measure that any night has."""
    values = {name: np.array([r[name] for r in rows if r[name] != ""], float) for name in _MEASURES}
    shown = {name: found for name, found in values.items() if len(found)}
    figure = Figure((WIDE, 0.4 + 1.7 * ((len(shown) + 1) // 2)), layout="constrained")
    panels = figure.subplots((len(shown) + 1) // 2, 2, squeeze=False).ravel()
    spoken = []
    for axes, (name, found) in zip(panels, shown.items(), strict=False):
        low, high, middle = float(found.min()), float(found.max()), float(np.median(found))
        axes.hist(found, np.linspace(low, high if high > low else low + 1e-3, 25), color=MUTED)
        axes.axvline(middle, color=INK)
        axes.set_title(_MEASURES[name])
        axes.set_ylabel("Nights")
        spoken.append(f"{_MEASURES[name]}: median {middle:.3g}, from {low:.3g} to {high:.3g}")
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    return figure, f"Nights by their quality. {'; '.join(spoken)}."
