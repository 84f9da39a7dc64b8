"""The learned SQI: does it flag the windows where the student loses what the teacher knows?"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kd_sleep.evaluation.report.drawings import Line, Panel, Row, interval_plot, line_chart
from kd_sleep.evaluation.report.wording import (
    BETTER,
    WORSE,
    cell,
    change,
    findings,
    label,
    pair,
    real,
    share,
    small_print,
)
from kd_sleep.evaluation.results import Bin, Judged, Sqi
from kd_sleep.evaluation.selective import ORACLE, RANDOM
from kd_sleep.pages import INK, MUTED, details, figure_of, stage_chip, table_of
from kd_sleep.stages import STAGE_NAMES

SCORES = {  # name for readers, colour, style
    "learned": ("learned SQI", BETTER, "-"),
    "best_feature": ("best feature", WORSE, "-"),
    "signal": ("signal SQI", INK, "--"),
    "entropy": ("entropy", INK, "-"),
    RANDOM: ("random order", MUTED, "--"),
    ORACLE: ("oracle", MUTED, ":"),
}
LOSSES = {  # title, unit, its scale and digits
    "gap": ("Lost against the teacher", "bits per kept window", 1.0, 3),
    "error": ("Wrong stage", "% of the kept windows", 100.0, 1),
}
FEWEST_WINDOWS = 10  # of a bin: fewer say nothing about a share


def sqi_section(sqi: Sqi | None) -> str:
    """Risk-coverage curves, areas, the windows flagged, and calibration; nothing without an SQI."""
    if sqi is None:
        return ""
    flagged = 100 * (1 - sqi.coverage)
    judged = [(kind, sqi.judged[kind]) for kind in LOSSES if kind in sqi.judged]
    caption = (
        "Windows are dropped in the order of a score, the least trusted first (risk-coverage"
        " curves, read from the right). <b>Lost against the teacher</b>: KL divergence between"
        " teacher and student, in bits. <b>Learned SQI</b>: of"
        f" {escape(label(sqi.student))}, from BCG alone; it flags windows below"
        f" {real(sqi.flag_below, 2)}. <b>Best feature</b>: {escape(sqi.best_feature)}, the one that"
        " alone did best on validation. <b>Signal SQI</b>: signal-to-noise ratio, likeness of"
        " heartbeats, movement; nothing learned. <b>Entropy</b>: of the student's probabilities."
        " The <b>oracle</b> knows each window's loss. Upright line:"
        f" {flagged:.0f} % dropped, as the flag does on validation."
    )
    note = (
        "AURC: mean loss of the windows kept, over all shares kept; AUGRC: the same per window of"
        " all, which does not lean on the first few. Less is better. Way to the oracle: 0 % is"
        " entropy, 100 % the oracle. Bold: the 95 % interval excludes 0."
    )
    return "".join(
        [
            findings(sqi.conclusions),
            figure_of(
                line_chart(
                    "Loss against windows dropped",
                    [_curves(kind, each, flagged) for kind, each in judged],
                ),
                caption,
            ),
            *(_areas(kind, each) for kind, each in judged),
            small_print(note),
            *(_within_stages(kind, each) for kind, each in judged),
            _flags(sqi),
            _reliability(sqi.reliability),
        ]
    )


def _curves(kind: str, judged: Judged, flagged: float) -> Panel:
    title, unit, scale, digits = LOSSES[kind]
    lines = []
    for score, (name, colour, style) in SCORES.items():
        if score in judged.curves:
            coverage, risk = judged.curves[score]
            points = [(100 * (1 - c), scale * r) for c, r in zip(coverage, risk, strict=True)]
            at_flag = min(points, key=lambda point: abs(point[0] - flagged))
            spoken = f"{real(at_flag[1], digits)} at {flagged:.0f} % dropped"
            lines.append(Line(name, points, colour, style, spoken=spoken))
    return Panel(title, lines, "Windows dropped, %", unit, xlim=(0, 95), upright=flagged)


def _areas(kind: str, judged: Judged) -> str:
    """Areas of every score, and its way from the baseline to the oracle."""
    title, unit, scale, digits = LOSSES[kind]
    base = SCORES[judged.baseline][0]
    rows = []
    for name in [name for name in SCORES if name in judged.augrc]:
        augrc, compared = judged.augrc[name], name not in (judged.baseline, ORACLE)
        rows.append(
            [
                SCORES[name][0],
                cell(pair(judged.aurc[name].area, digits, scale)),
                cell(pair(augrc.area, digits, scale)),
                change(augrc.against_baseline, digits, scale) if compared else "–",
                change(augrc.way_to_oracle) if compared else "–",
            ]
        )
    heads = ["Score", "AURC", "AUGRC", f"AUGRC<small>minus {base}’s</small>"]
    heads.append(f"Way to the oracle<small>from {base}, %</small>")
    return table_of(heads, rows, "scores", f"<b>{title}</b>, {unit}: area under the curve")


def _within_stages(kind: str, judged: Judged) -> str:
    """Way to the oracle among a stage's own windows: flagging Wake alone earns nothing here."""
    stages = judged.augrc_by_stage
    rows = [
        [
            SCORES[name][0],
            *(change(stages[s][name].way_to_oracle) if stages[s] else "–" for s in STAGE_NAMES),
        ]
        for name in SCORES
        if name in judged.augrc and name not in (judged.baseline, ORACLE)
    ]
    caption = f"Way from {SCORES[judged.baseline][0]} to the oracle, % of AUGRC"
    listing = table_of(["Score", *map(stage_chip, STAGE_NAMES)], rows, "scores", caption)
    return details(f"Within each stage: {LOSSES[kind][0].lower()}", listing)


def _flags(sqi: Sqi) -> str:
    """Which stages the flagged windows are of, and what dropping them changes."""
    error, gap = sqi.rejection["error"], sqi.rejection["gap"]
    rows = [Row(stage, {"flag": error.flagged_by_stage[stage]}) for stage in STAGE_NAMES]
    before, after = (share(each)[0] for each in (error.risk_all, error.risk_kept))
    bits = " → ".join(real(each.value, 3) for each in (gap.risk_all, gap.risk_kept))
    text = (
        f"Flagged: {' '.join(share(error.flagged))} % of all windows. Errors in all windows → in"
        f" those kept: {before} → {after} %; bits lost: {bits}. Without the flagged windows a"
        " night's total sleep time would be off by"
        f" {' '.join(pair(error.sleep_left_out_min, 1, sign=True))} min, both as scored by hand."
    )
    plot = interval_plot(
        {"": rows}, "Windows of the stage that are flagged, %", {"flag": ("", INK)}
    )
    return f"<h3>Which stages are flagged</h3>{figure_of(plot, text)}"


def _reliability(bins: Sequence[Bin]) -> str:
    filled = [row for row in bins if row.windows >= FEWEST_WINDOWS]
    if not filled:
        return ""
    points = [(row.predicted, row.observed.value or 0.0) for row in filled]
    lines = [
        Line("", [(0, 0), (1, 1)], MUTED, ":"),
        Line(
            "", points, BETTER, marker="o", bars=[row.observed for row in filled],
            spoken=", ".join(f"SQI {x:.2f}: {y:.2f}" for x, y in points),
        ),
    ]  # fmt: skip
    panel = Panel("", lines, "Learned SQI", "Share of the teacher kept", xlim=(0, 1), ylim=(0, 1))
    caption = (
        "Does an SQI of 0.7 mean that 70 % is kept? The share of the teacher's information that"
        " the student keeps, 2 to the power of minus the bits between the two, against the SQI. On"
        " the dotted diagonal they agree; below it, the SQI is too high. Lines: 95 % intervals."
    )
    chart = line_chart("Share of the teacher that is kept", [panel], height=3.0)
    return f"<h3>Is the SQI calibrated?</h3>{figure_of(chart, caption)}"
