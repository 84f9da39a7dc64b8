"""The learned SQI: does it flag the windows where the student loses what the teacher knows?"""

from __future__ import annotations

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
from kd_sleep.evaluation.results import Flagged, Judged, Sqi
from kd_sleep.evaluation.selective import ORACLE, RANDOM
from kd_sleep.pages import INK, MUTED, figure_of, table_of
from kd_sleep.stages import STAGE_NAMES

SCORES = {  # name for readers, colour, style
    "learned": ("learned SQI", BETTER, "-"),
    "best_feature": ("best feature", WORSE, "-"),
    "entropy": ("entropy", INK, "-"),
    RANDOM: ("random order", MUTED, "--"),
    ORACLE: ("oracle", MUTED, ":"),
}
LOSSES = {  # title, unit, its scale and digits
    "gap": ("Lost against the teacher", "bits per kept window", 1.0, 3),
    "error": ("Wrong stage", "% of the kept windows", 100.0, 1),
}


def sqi_section(sqi: Sqi | None) -> str:
    """Risk-coverage curves, areas, and the windows flagged; nothing without an SQI."""
    if sqi is None:
        return ""
    dropped = 100 * sqi.flagged_on_validation
    judged = [(kind, sqi.judged[kind]) for kind in LOSSES if kind in sqi.judged]
    caption = (
        "Windows are dropped in the order of a score, the least trusted first (risk-coverage"
        " curves, read from the right). <b>Lost against the teacher</b>: KL divergence between"
        " teacher and student, in bits. <b>Learned SQI</b>: of"
        f" {escape(label(sqi.student))}, from BCG alone; it flags windows below"
        f" {real(sqi.flag_below, 2)}. <b>Best feature</b>: the one of its inputs that alone did"
        " best on validation. <b>Entropy</b>: of the student's probabilities. The <b>oracle</b>"
        f" knows each window's loss. Upright line: {dropped:.0f} % dropped, as the flag does on"
        " validation."
    )
    note = (
        "AURC: mean loss of the windows kept, over all shares kept; AUGRC: the same per window of"
        " all, which does not lean on the first few. Less is better. Way to the oracle: 0 % is"
        " entropy, 100 % the oracle. Bold: the 95 % interval excludes 0."
    )
    panels = [_curves(kind, each, dropped) for kind, each in judged]
    return "".join(
        [
            findings(sqi.conclusions),
            figure_of(line_chart("Loss against windows dropped", panels), caption),
            *(_areas(kind, each) for kind, each in judged),
            small_print(note),
            _flagged(sqi.flagged),
        ]
    )


def _curves(kind: str, judged: Judged, dropped: float) -> Panel:
    title, unit, scale, digits = LOSSES[kind]
    lines = []
    for score, (name, colour, style) in SCORES.items():
        if score in judged.curves:
            coverage, risk = judged.curves[score]
            points = [(100 * (1 - c), scale * r) for c, r in zip(coverage, risk, strict=True)]
            at_flag = min(points, key=lambda point: abs(point[0] - dropped))
            spoken = f"{real(at_flag[1], digits)} at {dropped:.0f} % dropped"
            lines.append(Line(name, points, colour, style, spoken=spoken))
    return Panel(title, lines, "Windows dropped, %", unit, xlim=(0, 95), upright=dropped)


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


def _flagged(flag: Flagged) -> str:
    """Which stages the flagged windows are of, and what is left without them."""
    rows = [Row(stage, {"flag": flag.by_stage[stage]}) for stage in STAGE_NAMES]
    before, after = (share(each)[0] for each in (flag.errors_all, flag.errors_kept))
    bits = " → ".join(real(each.value, 3) for each in (flag.bits_all, flag.bits_kept))
    text = (
        f"Flagged: {' '.join(share(flag.share))} % of all windows. Errors in all windows → in"
        f" those kept: {before} → {after} %; bits lost: {bits}. Flags do not fall on all stages"
        " alike: a score over what is kept can look better while the night got worse."
    )
    plot = interval_plot({"": rows}, "Flagged, % of the stage's windows", {"flag": ("", INK)})
    return f"<h3>Which stages are flagged</h3>{figure_of(plot, text)}"
