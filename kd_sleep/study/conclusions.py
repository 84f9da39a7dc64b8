"""What a study says in words: by rule, from the numbers, whatever they are.

A gain or a loss is claimed where its interval excludes 0 (`scores.verdict`), a claim of the article
agrees where its figure lies inside the interval here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS, Interval, percent, verdict
from kd_sleep.stages import STAGE_NAMES

Found = Mapping[str, Any]
LETTER = "single_window"  # the article's student to the letter

# What the article claims; accuracies and differences in %.
TEACHER, BCG_ALONE, DISTILLED_CLAIM, GAIN = 85.0, 71.0, 79.0, 8.0
RECOVERED = 100.0 * GAIN / (TEACHER - BCG_ALONE)


def conclusions(study: Found) -> list[str]:
    """Sentences; the first three say the most."""
    main = _main(study)
    found = [
        _gain_sentence(study, main),
        _amounts_sentence(study),
        _stage_sentence(main),
        _lead_sentence(study, main),
        *_ablation_sentences(study["ablations"]),
        "The teacher labels softly nights whose stages it was trained on; that helps it there, and"
        " the students with it, by an amount that was not measured.",
    ]
    return [sentence for sentence in found if sentence]


def article_table(study: Found, ladder: Found | None = None) -> list[dict[str, str]]:
    """Each claim of the article beside what was found here: "claim", "here", "verdict".

    Args:
      study: results["study"].
      ladder: what `study.ladder.climb` returns; None without one.
    """
    main = _main(study)
    most = max((c["labelled_nights"] for c in study["cells"]), default=0)
    places = [
        ("one window, all labels", LETTER, most),
        (
            f"in context, {main['labelled_nights']} labelled nights",
            "context",
            main["labelled_nights"],
        ),
    ]

    def accuracy(loss: str) -> tuple[str, str]:
        shown, verdicts = [], []
        claim = BCG_ALONE if loss == HARD_LABELS else DISTILLED_CLAIM
        for words, shape, nights in places:
            cell = _cell(study, shape, nights, loss)
            if cell:
                shown.append(f"{words}: {percent(cell['scores']['accuracy'])}")
                verdicts.append(against(cell["scores"]["accuracy"], claim))
        return "; ".join(shown) or "not trained", "; ".join(dict.fromkeys(verdicts)) or "–"

    rows = [
        (
            f"ECG teacher {TEACHER:g} %",
            percent(study["teacher"]["accuracy"]),
            against(study["teacher"]["accuracy"], TEACHER),
        ),
        (f"BCG alone {BCG_ALONE:g} %", *accuracy(HARD_LABELS)),
        (f"distilled {DISTILLED_CLAIM:g} %", *accuracy(DISTILLED)),
    ]
    gains = [g for g in study["gains"] if g["labelled_nights"] in (most, main["labelled_nights"])]
    rows.append(
        (
            f"distillation gains {GAIN:g} points",
            "; ".join(f"{_place(g)}: {g['conclusion']}" for g in gains),
            _tally(gains),
        )
    )
    rows.append(
        (
            f"it recovers {RECOVERED:.0f} % of the teacher's lead",
            _recovered(main["teacher_lead_recovered"]),
            against(main["teacher_lead_recovered"], RECOVERED),
        )
    )
    rows.append(
        ("REM gains most", _stage_sentence(main), "yes" if gains_most(main) == "REM" else "no")
    )
    chosen = [c["alpha"] for c in study["cells"] if c["loss"] == DISTILLED and c["labelled_nights"]]
    if chosen:
        rows.append(
            (
                "alpha 0.3 is best on validation",
                f"chosen: {', '.join(f'{value:g}' for value in chosen)}",
                f"in {sum(value == 0.3 for value in chosen)} of {len(chosen)} students",
            )
        )
    for name, claim in (
        ("without T²", "without T² the teacher is underweighted"),
        ("T on probabilities", "T belongs on the logits"),
    ):
        row = next((r for r in study["ablations"]["rows"] if r["name"] == name), None)
        if row:
            rows.append(
                (claim, f"{name}: {row['conclusion']}", _harm(row["difference"]["accuracy"]))
            )
    if ladder:
        shown = "; ".join(f"{loss['name']} {bits(loss['change'])}" for loss in ladder["losses"])
        rows.append(("the gap left is the sensor's, not the model's", shown, _blame(ladder)))
    return [dict(zip(("claim", "here", "verdict"), row, strict=True)) for row in rows]


def gains_most(gain: Found) -> str | None:
    """The stage whose recall clearly gains most, or None where none clearly gains."""
    recalls = gain["differences"]["recall"]
    clear = {s: r["value"] for s, r in recalls.items() if r["low"] is not None and r["low"] > 0}
    return max(clear, key=lambda stage: clear[stage]) if clear else None


def bits(interval: Interval) -> str:
    """ "−0.12 [−0.15, −0.09] bits"."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None:
        return "not defined"
    between = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
    return f"{value:+.3f}{between} bits".replace("-", "−")


def against(interval: Interval, claim: float) -> str:
    """A share here against the article's figure in %."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None:
        return "not defined"
    if low is not None and high is not None and 100 * low <= claim <= 100 * high:
        return "agrees"
    return f"{abs(100 * value - claim):.1f} {'below' if 100 * value < claim else 'above'}"


def _main(study: Found) -> Found:
    """The gain of the handful in context, or of whatever there is."""
    wanted = study["ablations"]["labelled_nights"]
    in_context = [g for g in study["gains"] if g["student"] == "context"] or study["gains"]
    return min(in_context, key=lambda g: abs(g["labelled_nights"] - wanted))


def _cell(study: Found, shape: str, nights: int, loss: str) -> Found | None:
    wanted = (shape, nights, loss)
    found = (c for c in study["cells"] if (c["student"], c["labelled_nights"], c["loss"]) == wanted)
    return next(found, None)


def _place(gain: Found) -> str:
    shape = "one window" if gain["student"] == LETTER else "in context"
    return f"{shape}, {gain['labelled_nights']} labelled"


def _gain_sentence(study: Found, main: Found) -> str:
    pair = [
        _cell(study, main["student"], main["labelled_nights"], loss)
        for loss in (DISTILLED, HARD_LABELS)
    ]
    assert pair[0] is not None
    assert pair[1] is not None
    shown = [percent(cell["scores"]["accuracy"]) for cell in pair if cell]
    data = study["data"]
    nights = "simulated nights" if data["simulated"] else "nights"
    return (
        f"On {nights} of {data['subjects']} held-out subjects, with the stages of"
        f" {main['labelled_nights']} training nights, a student that sees a window's neighbours"
        f" reaches {shown[0]} distilled and {shown[1]} on hard labels alone, in the mean of"
        f" {len(study['seeds'])} training runs: {main['conclusion']}."
    )


def _amounts_sentence(study: Found) -> str:
    """For each shape of the student: with how many labelled nights it gains, loses, or neither."""
    parts = []
    for shape, words in (("context", "seeing its neighbours"), (LETTER, "on one window alone")):
        nights: dict[str, list[str]] = {"gains": [], "loses": [], "shows no gain": []}
        for gain in study["gains"]:
            if gain["student"] == shape:
                said = gain["conclusion"].split(" ")[0]
                kind = {"gain": "gains", "loss": "loses"}.get(said, "shows no gain")
                nights[kind].append(str(gain["labelled_nights"]))
        found = [f"{kind} with {_and(of)}" for kind, of in nights.items() if of]
        if found:
            parts.append(f"{words} the student {', '.join(found)} labelled nights")
    return f"By distillation, {'; '.join(parts)}."


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _stage_sentence(main: Found) -> str:
    recalls = main["differences"]["recall"]
    clear = [
        f"{stage} {verdict(recalls[stage])}"
        for stage in STAGE_NAMES
        if verdict(recalls[stage]).startswith(("gain", "loss"))
    ]
    most = gains_most(main)
    claim = (
        "REM gains most" if most == "REM" else f"{most} gains most" if most else "No stage gains"
    )
    return f"{claim}; clear changes of recall: {'; '.join(clear) or 'none'}."


def _lead_sentence(study: Found, main: Found) -> str:
    teacher = percent(study["teacher"]["accuracy"])
    recovered = main["teacher_lead_recovered"]
    share = f"Of its lead the distilled student recovers {_recovered(recovered)}."
    return f"The teacher, who has the ECG, reaches {teacher}. {recovered['reason'] or share}"


def _recovered(recovered: Found) -> str:
    return recovered["reason"] or percent(recovered)  # type: ignore[arg-type]


def _tally(gains: Sequence[Found]) -> str:
    shown = sum(g["conclusion"].startswith("gain") for g in gains)
    return f"a gain in {shown} of {len(gains)}"


def _ablation_sentences(ablations: Found) -> list[str]:
    if not ablations["rows"]:
        return []
    shown = "; ".join(f"{row['name']}: {row['conclusion']}" for row in ablations["rows"][1:])
    return [
        f"Against the loss as the article has it (alpha {ablations['alpha']:g}, T"
        f" {ablations['temperature']:g}, {ablations['labelled_nights']} labelled nights), accuracy"
        f" with one part changed: {shown}."
    ]


def _harm(difference: Interval) -> str:
    low, high = difference["low"], difference["high"]
    if low is None or high is None or low <= 0 <= high:
        return "no harm shown"
    return "it harms" if high < 0 else "it helps"


def _blame(ladder: Found) -> str:
    """Whether the way from the ECG to the beats found in the BCG loses more than the network."""
    sensor, network = ladder["parts"]["sensor"], ladder["parts"]["network"]
    of_network = "no part of its own" if network is None else bits(network)
    shown = f"sensor and detector {bits(sensor)}, network {of_network}"
    if ladder["inferred"]:
        shown += "; timing and detector rest on an inferred body"
    if not _is_loss(sensor):
        return f"no loss to the sensor shown: {shown}"
    if network is None or not _is_loss(network):
        return f"yes: {shown}"
    return f"{'mostly' if sensor['value'] < network['value'] else 'no'}: {shown}"


def _is_loss(change: Interval) -> bool:
    return change["high"] is not None and change["high"] < 0
