"""Sleep measures: how far each system's nights are from the scorer's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd_sleep.evaluation.report.systems import colour_of, label, ordered, shown_two
from kd_sleep.evaluation.report.words import (
    coverage,
    is_clear,
    real,
    real_interval,
    small_print,
    two_lines,
    with_interval,
)
from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS
from kd_sleep.evaluation.sleep_measures import MEASURES
from kd_sleep.pages import MUTED, NARROW, details, drawing, figure_of, table_of

DRAWN_MEASURES = ("tst_min", "waso_min", "rem_min")


def sleep_section(results: Mapping[str, Any]) -> str:
    """Bias and limits of agreement of every measure; nothing where none were taken."""
    sleep = results.get("sleep_measures")
    if sleep is None:
        return ""
    systems = ordered(sleep["systems"])
    heads = ["Measure", "Scorer<small>mean</small>", *(escape(label(name)) for name in systems)]
    rows = []
    for key, measure in MEASURES.items():
        scorer = sleep["scorer"][key]
        row = [
            f"{measure.label}<small>{measure.unit}</small>",
            f"{real(scorer['mean']['value'], 1)}{_of_nights(scorer['nights'], results)}",
        ]
        for system in systems.values():
            found = system[key]
            limits = f"[{real(found['lower']['value'], 1)}, {real(found['upper']['value'], 1)}]"
            limits = "–" if found["lower"]["value"] is None else limits
            row.append(
                f"{real(found['bias']['value'], 1)}<small>{limits}</small>"
                f"{_of_nights(found['nights'], results)}"
            )
        rows.append(row)
    listing = table_of(heads, rows, "scores", "System − scorer: mean [95 % limits of agreement]")
    words = "".join(f"<li>{m.label}: {m.definition}</li>" for m in MEASURES.values())
    note = (
        "Read off the windows that the scorer scored, after the manual of the American Academy of"
        " Sleep Medicine; lights off and on are not known, so a night runs from its first scored"
        " window to its last. The limits hold 95 % of nights if differences are normal; where"
        " subjects have two nights, they count the variance within and between subjects. Where not"
        " every night has a measure in both hypnograms, the number that has is given."
    )
    caption = (
        "Each dot is a night: the mean of system and scorer against their difference. Solid, the"
        " mean difference; dashed, the 95 % limits of agreement."
    )
    return "".join(
        [
            listing,
            small_print(note),
            _sleep_errors(sleep["distillation"]),
            figure_of(bland_altman(sleep, shown_two(systems)), caption),
            details("What each measure is", f"<ul>{words}</ul>"),
            _sleep_intervals(systems, results),
        ]
    )


def _of_nights(nights: int, results: Mapping[str, Any]) -> str:
    """How many nights a number stands for, where they are not all that are scored."""
    scored = results["data"]["recordings"] - len(results["unscored_recordings"])
    return "" if nights == scored else f"<small>{nights} of {scored} nights</small>"


def _sleep_errors(differences: Mapping[str, Any] | None) -> str:
    """Where distillation clearly changed how far a night's measures are off."""
    if differences is None:
        return ""
    clear = [
        f"{measure.label} {with_interval(differences[key], 1)} {measure.unit}"
        for key, measure in MEASURES.items()
        if is_clear(differences[key])
    ]
    return (
        f"<p>Mean absolute error of <b>{escape(label(DISTILLED))}</b> minus that of"
        f" <b>{escape(label(HARD_LABELS))}</b> on the same nights, below 0 where the distilled"
        f" student is nearer to the scorer; clear changes: {'; '.join(clear) or 'none'}.</p>"
    )


def _sleep_intervals(systems: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    parts = {
        "Mean difference": "bias",
        "Lower limit": "lower",
        "Upper limit": "upper",
        "Mean absolute error": "mean_absolute_error",
    }
    tables = [
        table_of(
            ["Measure", *parts],
            [
                [
                    f"{measure.label}<small>{measure.unit}</small>",
                    *(two_lines(real_interval(system[key][part], 1)) for part in parts.values()),
                ]
                for key, measure in MEASURES.items()
            ],
            "scores",
            escape(label(name)),
        )
        for name, system in systems.items()
    ]
    note = small_print(f"{coverage(results)}.")
    return details("Intervals of every limit, and errors", *tables, note)


@drawing
def bland_altman(sleep: Mapping[str, Any], names: Sequence[str]) -> tuple[Figure, str]:
    """Difference against mean of system and scorer, a row for a measure, a column for a system.

    Args:
      sleep: what `sleep_measures.agreement` returns.
      names: of the systems to draw.
    """
    figure = Figure((NARROW, 0.5 + 1.75 * len(DRAWN_MEASURES)), layout="constrained")
    panels = figure.subplots(
        len(DRAWN_MEASURES), len(names), squeeze=False, sharex="row", sharey="row"
    )
    spoken = []
    for row, key in zip(panels, DRAWN_MEASURES, strict=True):
        title = f"{MEASURES[key].label}, {MEASURES[key].unit}"
        for axes, name in zip(row, names, strict=True):
            nights = [(r["scorer"][key], r["systems"][name][key]) for r in sleep["per_recording"]]
            found = sleep["systems"][name][key]
            _draw_agreement(axes, [n for n in nights if None not in n], found, name)
            spoken.append(f"{title}, {label(name)}: {_agreement_spoken(found)}")
        row[0].set_title(title)
        row[0].set_ylabel("System − scorer")
    for axes, name in zip(panels[-1], names, strict=True):
        axes.set_xlabel(f"Mean with scorer\n{label(name)}")
    return figure, f"Agreement of each night's sleep measures with the scorer. {'; '.join(spoken)}."


def _draw_agreement(
    axes: Axes, nights: Sequence[tuple[float, float]], found: Mapping[str, Any], name: str
) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.6)
    if not nights:
        text = "no night has it\nin both hypnograms"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
        axes.set_xticks([])
        return
    colour = colour_of(name)
    scorer, system = np.array(nights).T
    axes.plot((scorer + system) / 2, system - scorer, "o", color=colour, ms=4, alpha=0.6)
    for key, style in (("bias", "-"), ("lower", "--"), ("upper", "--")):
        if (value := found[key]["value"]) is not None:
            axes.axhline(value, color=colour, linestyle=style, linewidth=1.2)


def _agreement_spoken(found: Mapping[str, Any]) -> str:
    bias, lower, upper = (found[key]["value"] for key in ("bias", "lower", "upper"))
    if bias is None:
        return "not defined"
    limits = "" if lower is None else f", limits of agreement {lower:.1f} to {upper:.1f}"
    return f"mean difference {bias:.1f}{limits}"
