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
    known = np.isfinite(record["clock_confidence"])
    return {
        name: _rounded(factor * record[field]) if known else ""
        for name, field, factor in (
            ("clock_offset_s", "clock_offset", 1.0),
            ("clock_drift_ppm", "clock_drift", 1e6),
            ("clock_residual_ms", "clock_residual", 1e3),
            ("clock_confidence", "clock_confidence", 1.0),
        )
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
    by = "".join(f" Simulated by {escape(n)}: {count:,} nights." for n, count in made.items())
    what = (
        f"{len(rows):,} nights of {len({r['subject_id'] for r in rows}):,} people, cohort"
        f" {cohorts}, BCG {sources}.{by}"
    )
    badge = '<p class="badge">Simulated: no result on it is one on people.</p>' if made else ""
    body = "".join(
        (
            f"<h1>Dataset shhs_bcg</h1>{badge}<p>{what} Splits are by subject.</p>",
            section("What is in it", _counts(rows)),
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
        counts = [sum(r[name.lower()] for r in mine) for name in (*STAGE_NAMES, "unscored")]
        people = len({r["subject_id"] for r in mine})
        shares = [
            f"{count:,}<small>{100 * count / max(total, 1):.1f} %</small>" for count in counts
        ]
        lines.append([split, f"{len(mine):,}", f"{people:,}", f"{total:,}", *shares])
    return table_of(heads, lines, "scores")


def _left_out(left_out: Sequence[Mapping[str, str]]) -> str:
    if not left_out:
        return "<p>Nothing.</p>"
    counted = collections.Counter(one["reason"] for one in left_out)
    lines = [[escape(reason), str(count)] for reason, count in counted.most_common(20)]
    text = f"<p>{len(left_out):,} nights or files; which, and what to do: exclusions.csv.</p>"
    return text + table_of(["Reason", "Count"], lines, "")


@drawing
def quality_spread(rows: Sequence[Row]) -> tuple[Figure, str]:
    """Histograms over nights, one for each measure that any night has."""
    values = {name: np.array([r[name] for r in rows if r[name] != ""], float) for name in _MEASURES}
    shown = {name: found for name, found in values.items() if len(found)}
    figure = Figure((WIDE, 0.4 + 1.7 * ((len(shown) + 1) // 2)), layout="constrained")
    panels = figure.subplots((len(shown) + 1) // 2, 2, squeeze=False).ravel()
    described = []
    for axes, (name, found) in zip(panels, shown.items(), strict=False):
        low, high, middle = float(found.min()), float(found.max()), float(np.median(found))
        axes.hist(found, np.linspace(low, high if high > low else low + 1e-3, 25), color=MUTED)
        axes.axvline(middle, color=INK)
        axes.set_title(_MEASURES[name])
        axes.set_ylabel("Nights")
        described.append(f"{_MEASURES[name]}: median {middle:.3g}, from {low:.3g} to {high:.3g}")
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    return figure, f"Nights by their quality. {'; '.join(described)}."
