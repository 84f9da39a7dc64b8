"""Conclusions of a study in words: by rule, from the numbers, whatever they are.

A gain or a loss is claimed where its interval excludes 0 (`scores.verdict`); a claim of the article
agrees where its figure lies inside the interval here.
"""

from __future__ import annotations

from kd_sleep.evaluation.report.wording import joined
from kd_sleep.evaluation.results import (
    Ablations,
    Claim,
    Interval,
    LadderResult,
    Recovered,
    Study,
    StudyCell,
    StudyGain,
)
from kd_sleep.evaluation.scores import (
    DISTILLED,
    HARD_LABELS,
    MAJORITY,
    below_floor,
    clear_changes,
    missed_stages,
    percent,
)
from kd_sleep.study.ablations import T_ON_PROBABILITIES, WITHOUT_T2

ARTICLE_SHAPE = "single_window"  # the article's student to the letter

# What the article claims; accuracies and differences in %.
TEACHER, BCG_ALONE, DISTILLED_CLAIM, GAIN = 85.0, 71.0, 79.0, 8.0
RECOVERED = 100.0 * GAIN / (TEACHER - BCG_ALONE)


def conclusions(study: Study) -> list[str]:
    """Sentences; the first three say the most."""
    main = _main(study)
    lead = main.teacher_lead_recovered
    found = [
        _gain_sentence(study, main),
        _amounts_sentence(study),
        _stage_sentence(main),
        f"The teacher, who has the ECG, reaches {percent(study.teacher.accuracy)}."
        f" {lead.reason or f'Of its lead the distilled student recovers {percent(lead)}.'}",
        *_ablation_sentences(study.ablations),
    ]
    return [sentence for sentence in found if sentence]


def article_table(study: Study, ladder: LadderResult | None = None) -> list[Claim]:
    """Each claim of the article beside what was found here."""
    main = _main(study)
    most = max((cell.labelled_nights for cell in study.cells), default=0)
    gains = [gain for gain in study.gains if gain.labelled_nights in (most, main.labelled_nights)]
    shown = sum(gain.conclusion.startswith("gain") for gain in gains)
    rows = [
        Claim(
            f"ECG teacher {TEACHER:g} %",
            percent(study.teacher.accuracy),
            against(study.teacher.accuracy, TEACHER),
        ),
        _accuracy_claim(study, main, most, HARD_LABELS, f"BCG alone {BCG_ALONE:g} %", BCG_ALONE),
        _accuracy_claim(
            study, main, most, DISTILLED, f"distilled {DISTILLED_CLAIM:g} %", DISTILLED_CLAIM
        ),
        Claim(
            f"distillation gains {GAIN:g} points",
            "; ".join(f"{_place(gain)}: {gain.conclusion}" for gain in gains),
            f"a gain in {shown} of {len(gains)}",
        ),
        Claim(
            f"it recovers {RECOVERED:.0f} % of the teacher's lead",
            _recovered(main.teacher_lead_recovered),
            against(main.teacher_lead_recovered, RECOVERED),
        ),
        Claim(
            "REM gains most", _stage_sentence(main), "yes" if gains_most(main) == "REM" else "no"
        ),
    ]
    alphas = [cell.alpha for cell in study.cells if cell.loss == DISTILLED and cell.labelled_nights]
    if alphas:
        chosen = f"chosen: {', '.join(f'{value:g}' for value in alphas)}"
        times = f"in {sum(value == 0.3 for value in alphas)} of {len(alphas)} students"
        rows.append(Claim("alpha 0.3 is best on validation", chosen, times))
    claims = {
        WITHOUT_T2: "without T² the teacher is underweighted",
        T_ON_PROBABILITIES: "T belongs on the logits",
    }
    for row in study.ablations.rows:
        if row.name in claims:
            here = f"{row.name}: {row.conclusion}"
            rows.append(Claim(claims[row.name], here, _harm(row.accuracy_change)))
    if ladder is not None:
        steps = "; ".join(f"{r.cause} {bits(r.change)}" for r in ladder.rungs if r.cause)
        rows.append(Claim("the gap left is the sensor's, not the model's", steps, _blame(ladder)))
    return rows


def gains_most(gain: StudyGain) -> str | None:
    """The stage whose recall clearly gains most, or None where none clearly gains."""
    clear = {
        stage: recall.value
        for stage, recall in gain.differences.recall.items()
        if recall.value is not None and recall.value > 0 and recall.is_clear
    }
    return max(clear, key=lambda stage: clear[stage]) if clear else None


def bits(interval: Interval) -> str:
    """ "−0.12 [−0.15, −0.09] bits"."""
    if interval.value is None:
        return "not defined"
    between = "" if interval.low is None else f" [{interval.low:+.3f}, {interval.high:+.3f}]"
    return f"{interval.value:+.3f}{between} bits".replace("-", "−")


def against(interval: Interval, claim: float) -> str:
    """A share here against the article's figure in %."""
    found = interval.scaled(100)
    if found.value is None:
        return "not defined"
    if found.low is not None and found.high is not None and found.low <= claim <= found.high:
        return "agrees"
    return f"{abs(found.value - claim):.1f} {'below' if found.value < claim else 'above'}"


def _main(study: Study) -> StudyGain:
    """The gain of the handful in context, or of whatever there is."""
    wanted = study.ablations.labelled_nights
    in_context = [gain for gain in study.gains if gain.student == "context"] or study.gains
    return min(in_context, key=lambda gain: abs(gain.labelled_nights - wanted))


def _cell(study: Study, shape: str, nights: int, loss: str) -> StudyCell | None:
    for cell in study.cells:
        if (cell.student, cell.labelled_nights, cell.loss) == (shape, nights, loss):
            return cell
    return None


def _place(gain: StudyGain) -> str:
    shape = "one window" if gain.student == ARTICLE_SHAPE else "in context"
    return f"{shape}, {gain.labelled_nights} labelled"


def _gain_sentence(study: Study, main: StudyGain) -> str:
    nights = "simulated nights" if study.simulated else "nights"
    distilled, baseline = (
        _cell(study, main.student, main.labelled_nights, loss) for loss in (DISTILLED, HARD_LABELS)
    )
    assert distilled is not None
    assert baseline is not None
    floor = MAJORITY in study.floors and below_floor(baseline.scores, study.floors[MAJORITY])
    sees = "one window" if main.student == ARTICLE_SHAPE else "a window's neighbours"
    return (
        f"On {nights} of {study.subjects} held-out subjects, with the stages of"
        f" {main.labelled_nights} training nights, a student that sees {sees} reaches"
        f" {percent(distilled.scores.accuracy)} distilled{missed_stages(distilled.scores)} and"
        f" {percent(baseline.scores.accuracy)} on hard labels alone"
        f"{missed_stages(baseline.scores)}, in the mean of {len(distilled.runs)} training runs:"
        f" {main.conclusion}.{f' {floor}' if floor else ''}"
    )


def _amounts_sentence(study: Study) -> str:
    """For each shape of the student: with how many labelled nights it gains, loses, or neither."""
    parts = []
    for shape, words in (
        ("context", "seeing its neighbours"),
        (ARTICLE_SHAPE, "on one window alone"),
    ):
        nights: dict[str, list[str]] = {"gains": [], "loses": [], "shows no gain": []}
        for gain in study.gains:
            if gain.student == shape:
                first = gain.conclusion.split(" ")[0]
                kind = {"gain": "gains", "loss": "loses"}.get(first, "shows no gain")
                nights[kind].append(str(gain.labelled_nights))
        found = [f"{kind} with {joined(of)}" for kind, of in nights.items() if of]
        if found:
            parts.append(f"{words} the student {', '.join(found)} labelled nights")
    return f"By distillation, {'; '.join(parts)}."


def _stage_sentence(main: StudyGain) -> str:
    most = gains_most(main)
    claim = f"{most} gains most" if most else "No stage gains"
    return f"{claim}; clear changes of recall: {clear_changes(main.differences)}."


def _recovered(recovered: Recovered) -> str:
    return recovered.reason or percent(recovered)


def _accuracy_claim(
    study: Study, main: StudyGain, most: int, loss: str, claim: str, figure: float
) -> Claim:
    """Of one kind of student: as the article has it, and in context with few labels."""
    shown, verdicts = [], []
    for words, shape, nights in (
        ("one window, all labels", ARTICLE_SHAPE, most),
        (f"in context, {main.labelled_nights} labelled nights", "context", main.labelled_nights),
    ):
        cell = _cell(study, shape, nights, loss)
        if cell is not None:
            shown.append(f"{words}: {percent(cell.scores.accuracy)}")
            verdicts.append(against(cell.scores.accuracy, figure))
    verdict = "; ".join(dict.fromkeys(verdicts)) or "–"
    return Claim(claim, "; ".join(shown) or "not trained", verdict)


def _ablation_sentences(ablations: Ablations) -> list[str]:
    if not ablations.rows:
        return []
    shown = "; ".join(f"{row.name}: {row.conclusion}" for row in ablations.rows[1:])
    return [
        f"Against the loss as the article has it (alpha {ablations.alpha:g}, T"
        f" {ablations.temperature:g}, {ablations.labelled_nights} labelled nights), accuracy"
        f" with one part changed: {shown}."
    ]


def _harm(difference: Interval) -> str:
    if not difference.is_clear or difference.high is None:
        return "no harm shown"
    return "it harms" if difference.high < 0 else "it helps"


def _blame(ladder: LadderResult) -> str:
    """Whether the way from the ECG to the beats found in the BCG loses more than the network."""
    sensor, network = ladder.sensor, ladder.network
    of_network = "no part of its own" if network is None else bits(network)
    shown = f"sensor and detector {bits(sensor)}, network {of_network}"
    if ladder.inferred:
        shown += "; timing and detector rest on an inferred body"
    if not _is_loss(sensor):
        return f"no loss to the sensor shown: {shown}"
    if network is None or not _is_loss(network):
        return f"yes: {shown}"
    larger = (sensor.value or 0.0) < (network.value or 0.0)
    return f"{'mostly' if larger else 'no'}: {shown}"


def _is_loss(change: Interval) -> bool:
    return change.high is not None and change.high < 0
