"""The learned SQI: does it flag the windows where the student loses what the teacher knows?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd_sleep.evaluation.report.marks import SMALL, label_ends, rows_of, whisker
from kd_sleep.evaluation.report.systems import label, plain
from kd_sleep.evaluation.report.words import (
    aloud,
    findings,
    is_clear,
    real,
    real_interval,
    show,
    small_print,
    two_lines,
)
from kd_sleep.evaluation.selective import ORACLE, RANDOM
from kd_sleep.pages import (
    INK,
    MUTED,
    NARROW,
    details,
    drawing,
    figure_of,
    stage_chip,
    table_of,
)
from kd_sleep.stages import STAGE_NAMES

SCORE_LABELS = {
    "learned": "learned SQI",
    "best_feature": "best feature",
    "signal": "signal SQI",
    "max_probability": "top probability",
    "entropy": "entropy",
    RANDOM: "chance",
    ORACLE: "oracle",
}
LOSSES = {
    "gap": ("Lost against the teacher", "bits per kept window", 1, 3),
    "error": ("Wrong stage", "% of the kept windows", 100, 1),
}  # title, unit, its scale and digits
MOST_FLAGGED = 0.95  # of the windows: what is left beyond is too few to say anything
FEWEST_WINDOWS = 10  # of a bin, as in the systems' own calibration

_STYLES: dict[str, tuple[str, str, float]] = {
    "learned": ("#009E73", "-", 2.2),
    "best_feature": ("#56B4E9", "-", 1.4),
    "signal": ("#0072B2", "-", 1.4),
    "max_probability": ("#CC79A7", "-", 1.4),
    "entropy": ("#D55E00", "-", 1.4),
    RANDOM: (MUTED, "--", 1.2),
    ORACLE: (INK, ":", 1.2),
}


def sqi_section(sqi: Mapping[str, Any] | None) -> str:
    """Curves, areas, what flags fall on, and calibration; nothing without a learned SQI."""
    if not sqi:
        return ""
    flag = sqi["flag_below"]
    chosen = "no threshold was chosen" if flag is None else f"flagged: SQI below {real(flag, 2)}"
    caption = (
        "Windows are dropped in the order of a score, the least trusted first; a good score makes"
        " what is left better at once. Lost against the teacher: the bits between what the ECG's"
        " teacher and the student say of a window (KL divergence). The lines meet at the left,"
        " where nothing is dropped."
        f" <b>Learned SQI</b>: of {escape(label(sqi['student']))}, from BCG alone ({chosen})."
        f" <b>Best feature</b>: {escape(sqi['best_feature'])}, of the SQI's features the one that"
        " alone did best on validation."
        " <b>Signal SQI</b>: signal-to-noise ratio, likeness of heartbeats, movement; nothing"
        " learned. <b>Entropy</b> and <b>top probability</b>: how unsure the student itself is."
        " <b>Chance</b> drops blindly. The <b>oracle</b> knows each window's loss: no score can be"
        f" better. Upright line: {100 * (1 - sqi['coverage']):.0f} % dropped, as on validation."
        " This is the risk-coverage curve with coverage counted from the right."
    )
    return "".join(
        [
            findings(sqi.get("conclusions", [])),
            figure_of(risk_curves(sqi["curves"], sqi["coverage"]), caption),
            *(_areas(kind, judged) for kind, judged in sqi["judged"].items()),
            small_print(
                "AURC: mean loss of the windows kept, over all shares kept; AUGRC: the same per"
                " window of all, which does not lean on the first few. Less is better. Way to the"
                " oracle: 0 % is the baseline, 100 % the oracle; below 0 the score is worse than"
                " the baseline. Bold: the 95 % interval excludes 0."
            ),
            *(details(f"Within each stage: {LOSSES[k][0].lower()}", _within_stages(k, judged))
              for k, judged in sqi["judged"].items() if judged["by_stage"]),
            _rejection(sqi),
            _calibration(sqi.get("reliability", [])),
        ]
    )  # fmt: skip


def score_label(score: str) -> str:
    """A score's name for readers."""
    return SCORE_LABELS.get(score, plain(score))


def _areas(kind: str, judged: Mapping[str, Any]) -> str:
    """Areas of every score, their difference to the baseline and way to the oracle."""
    title, unit, scale, digits = LOSSES[kind]
    base = score_label(judged["baseline"])
    heads = ["Score", "AURC", f"AURC<small>minus {base}’s</small>", "AUGRC"]
    heads += [
        f"AUGRC<small>minus {base}’s</small>",
        f"Way to the oracle<small>from {base}, %</small>",
    ]
    rows = []
    for name, areas in judged["pooled"]["scores"].items():
        row = [escape(score_label(name))]
        for area in areas.values():
            change = _times(area["against_baseline"], scale)
            row.append(two_lines(real_interval(_times(area["area"], scale), digits)))
            row.append(
                "–" if name == judged["baseline"]
                else two_lines(real_interval(change, digits, sign=True), strong=is_clear(change))
            )  # fmt: skip
        row.append("–" if name in (judged["baseline"], ORACLE) else _way(areas))
        rows.append(row)
    caption = f"<b>{title}</b>, {unit}: area under the curve"
    return table_of(heads, rows, "scores", caption)


def _way(areas: Mapping[str, Any]) -> str:
    way = areas["augrc"]["way_to_oracle"]
    return two_lines(show(way), strong=is_clear(way))


def _times(interval: Mapping[str, Any], scale: float) -> dict[str, float | None]:
    return {key: None if interval[key] is None else scale * interval[key]
            for key in ("value", "low", "high")}  # fmt: skip


def _within_stages(kind: str, judged: Mapping[str, Any]) -> str:
    """Way to the oracle among a stage's own windows: flagging Wake alone earns nothing here."""
    stages = judged["by_stage"]
    names = [n for n in judged["pooled"]["scores"] if n not in (judged["baseline"], ORACLE)]
    rows = [
        [
            escape(score_label(name)),
            *(_way(found["scores"][name]) if (found := stages[s])["scores"] else "–"
              for s in STAGE_NAMES),
        ]
        for name in names
    ]  # fmt: skip
    heads = ["Score", *map(stage_chip, STAGE_NAMES)]
    caption = (
        f"Way from {score_label(judged['baseline'])} to the oracle, % of AUGRC, among the windows"
        " of one stage"
    )
    return table_of(heads, rows, "scores", caption)


def _rejection(sqi: Mapping[str, Any]) -> str:
    """What goes with the windows that are dropped."""
    found = sqi["rejection"]
    if not found:
        return ""
    heads = ["Dropped by", "All<small>flagged, %</small>"]
    heads += [*(f"{stage_chip(s)}<small>flagged, %</small>" for s in STAGE_NAMES)]
    heads += ["Bits lost<small>all → kept</small>", "Errors<small>all → kept, %</small>"]
    heads += [
        "Sleep left out<small>min a night</small>",
        "Total sleep time<small>off by, min</small>",
    ]
    rows = []
    for name, dropped in found.items():
        tst, without = dropped["tst_min"], dropped["nights_without_kept"]
        left = f"<small>{without} nights have nothing left</small>" if without else ""
        rows.append(
            [
                escape(score_label(name)),
                two_lines(show(dropped["flagged"])),
                *(two_lines(show(dropped["flagged_by_stage"][s])) for s in STAGE_NAMES),
                _bits_kept(dropped["bits"]),
                _errors_kept(dropped["risk"]),
                two_lines(real_interval(tst["left_out"], 1, sign=True)),
                two_lines(
                    real_interval(tst["scaled_up"], 1, sign=True), strong=is_clear(tst["scaled_up"])
                )
                + left,
            ]
        )
    share = f"{100 * (1 - sqi['coverage']):.0f} %"
    caption = (
        "When the windows below a score's threshold are dropped, which stages do they come from?"
        f" Thresholds were chosen on validation, to flag {share} there: the upright line."
    )
    note = (
        "What is kept can look better while the night got worse. Sleep left out: total sleep time"
        " of the windows kept less that of all, both as scored by hand, so that even a perfect"
        " stager would be off by it. Total sleep time off by: the same when what is kept is scaled"
        " up to the night; a flag that falls on Wake makes a night look more asleep than it was."
    )
    return (
        "<h3>What goes with the flagged windows</h3>"
        + figure_of(flagged_shares(found, sqi["coverage"]), caption)
        + table_of(heads, rows, "scores")
        + small_print(note)
    )


def _bits_kept(risk: Mapping[str, Any]) -> str:
    """Bits lost a window, of all windows and of those kept."""
    return " → ".join(real(risk[key]["value"], 3) for key in ("all", "kept"))


def _errors_kept(risk: Mapping[str, Any]) -> str:
    """Share of wrong stages in all windows and in those kept, and the difference."""
    before, after = (show(risk[key])[0] for key in ("all", "kept"))
    change = " ".join(real_interval(_times(risk["change"], 100), 1, sign=True))
    return two_lines((f"{before} → {after}", change))


def _calibration(bins: Sequence[Mapping[str, Any]]) -> str:
    if not any(_drawn(row) for row in bins):
        return ""
    caption = (
        "Does an SQI of 0.7 mean that 70 % is kept? The share of what the teacher says that the"
        " student keeps, 2 to the power of minus the bits between the two, against what the learned"
        " SQI said of the window. On the dotted diagonal it means what it says; below it, the SQI"
        f" is too kind. Lines: 95 % intervals over subjects; bins of fewer than {FEWEST_WINDOWS}"
        " windows are left out."
    )
    return f"<h3>Does the SQI mean what it says?</h3>{figure_of(sqi_reliability(bins), caption)}"


def _drawn(row: Mapping[str, Any]) -> bool:
    return row["windows"] >= FEWEST_WINDOWS and None not in (row["sqi"], row["kept"]["value"])


@drawing
def risk_curves(curves: Mapping[str, Mapping[str, Any]], coverage: float) -> tuple[Figure, str]:
    """Loss of what is left against the share dropped, a panel for a loss.

    Args:
      curves: "gap" and "error", each score -> {"coverage", "risk"}.
      coverage: the share kept that the tables speak of.
    """
    kinds = [kind for kind in LOSSES if kind in curves]
    figure = Figure((NARROW, 0.3 + 2.3 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), sharex=True, squeeze=False)[:, 0]
    spoken = []
    for axes, kind in zip(panels, kinds, strict=True):
        title, unit, scale, digits = LOSSES[kind]
        ends, said = [], []
        for name in [n for n in SCORE_LABELS if n in curves[kind]]:
            end, at_coverage = _draw_curve(axes, curves[kind][name], name, scale, coverage)
            ends.append((end, score_label(name), _STYLES[name][0]))
            said.append(f"{score_label(name)} {real(at_coverage, digits)}")
        axes.axvline(100 * (1 - coverage), color=MUTED, linewidth=0.8)
        axes.set_title(title)
        axes.set_ylabel(unit.capitalize())
        axes.set_xlim(0, 100 * MOST_FLAGGED)
        label_ends(axes, ends)
        spoken.append(f"{title}, {unit}: {', '.join(said)}")
    panels[-1].set_xlabel("Windows dropped, %")
    share = 100 * (1 - coverage)
    return figure, f"Loss when {share:.0f} % of the windows are dropped. {'; '.join(spoken)}."


def _draw_curve(
    axes: Axes, curve: Mapping[str, Any], name: str, scale: float, coverage: float
) -> tuple[float, float]:
    """Draws a score's curve; returns its height at the right edge, and at the coverage."""
    colour, style, width = _STYLES[name]
    kept = np.asarray(curve["coverage"], np.float64)
    risk = scale * np.asarray(curve["risk"], np.float64)
    # NumPy interpolates on rising positions, as coverage is.
    end, at_coverage = np.interp([1 - MOST_FLAGGED, coverage], kept, risk)
    inside = kept > 1 - MOST_FLAGGED
    dropped = 100 * (1 - np.append(1 - MOST_FLAGGED, kept[inside]))
    axes.plot(dropped, np.append(end, risk[inside]), color=colour, linestyle=style, lw=width)
    return float(end), float(at_coverage)


@drawing
def flagged_shares(found: Mapping[str, Mapping[str, Any]], coverage: float) -> tuple[Figure, str]:
    """Share of each stage that is dropped, a row for a stage, a dot for a score."""
    figure = Figure((NARROW, 0.9 + 0.55 * len(STAGE_NAMES)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(100 * (1 - coverage), color=MUTED, linewidth=0.8)
    spoken, dots = [], []
    for number, (name, dropped) in enumerate(found.items()):
        colour = _STYLES[name][0] if name in _STYLES else INK
        shift = (number - (len(found) - 1) / 2) * 0.24
        for row, stage in enumerate(STAGE_NAMES):
            whisker(axes, row + shift, dropped["flagged_by_stage"][stage], colour)
        dots.append(axes.plot([], [], "o-", color=colour, ms=6, lw=2)[0])
        said = ", ".join(f"{s} {aloud(dropped['flagged_by_stage'][s])}" for s in STAGE_NAMES)
        spoken.append(f"{score_label(name)}: {said}")
    rows_of(axes, STAGE_NAMES)
    axes.set_xlim(left=0)
    axes.set_xlabel("Windows of the stage that are dropped, %")
    names = [score_label(name) for name in found]
    figure.legend(dots, names, loc="outside upper left", ncols=3, fontsize=SMALL)
    return figure, f"Share of each stage that is dropped, %. {'; '.join(spoken)}."


@drawing
def sqi_reliability(bins: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """Kept share against the SQI, with intervals."""
    drawn = [row for row in bins if _drawn(row)]
    figure = Figure((NARROW, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1)
    for row in drawn:
        if row["kept"]["low"] is not None:
            ends = [row["kept"]["low"], row["kept"]["high"]]
            axes.plot([row["sqi"]] * 2, ends, color=INK, linewidth=1.2)
    track = [(row["sqi"], row["kept"]["value"]) for row in drawn]
    axes.plot(*zip(*track, strict=True), "o-", color=_STYLES["learned"][0], ms=5)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("Learned SQI")
    axes.set_ylabel("Share of the teacher kept")
    spoken = "; ".join(f"SQI {x:.2f}: {y:.2f}" for x, y in track)
    return figure, f"Share of the teacher that is kept, by learned SQI. {spoken}."
