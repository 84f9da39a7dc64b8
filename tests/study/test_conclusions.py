"""Words follow from numbers by rule, whatever the numbers are."""

import dataclasses

import pytest

from kd_sleep.evaluation.results import (
    AblationRow,
    Ablations,
    Interval,
    LadderResult,
    Recovered,
    Rung,
    Scores,
    Study,
    StudyCell,
    StudyGain,
)
from kd_sleep.evaluation.scores import verdict
from kd_sleep.study.conclusions import against, article_table, conclusions, gains_most

STAGES = ("Wake", "REM", "Light", "Deep")


def interval(value, half=0.02):
    return Interval(value, value - half, value + half)


def scores(accuracy, rem=None):
    stages = dict.fromkeys(STAGES, interval(accuracy))
    recall = stages | {"REM": interval(accuracy if rem is None else rem)}
    overall = interval(accuracy), interval(accuracy - 0.3), interval(0.5)
    return Scores(*overall, recall, stages, stages)


def made(gain=0.08, rem=0.2):
    cells, gains = [], []
    for shape in ("context", "single_window"):
        for name, nights in (("all", 40), ("a handful", 6)):
            for loss, accuracy in (
                ("student_hard_labels", 0.71),
                ("student_distilled", 0.71 + gain),
            ):
                settings = (shape, name, nights, loss, 0.3, 4.0, 0.002, 0.0, 6, 0.4)
                cells.append(StudyCell(*settings, scores(accuracy), []))
            recall = {stage: interval(rem if stage == "REM" else 0.0) for stage in STAGES}
            differences = dataclasses.replace(scores(gain), recall=recall)
            lead = Recovered(*vars(interval(gain / 0.14, 0.1)).values())
            conclusion = verdict(interval(gain))
            gains.append(StudyGain(differences, conclusion, lead, shape, name, nights))
    loss = interval(-0.05)
    rows = [
        AblationRow(name, "", scores(0.7), loss, loss, "loss 5 points")
        for name in ("as it is", "without T²", "T on probabilities")
    ]
    ablations = Ablations("context", "a handful", 6, 0.3, 4.0, rows)
    floors = {"majority": scores(0.5)}
    return Study(True, 15, [0, 1], [0, 1], scores(0.85), floors, cells, gains, ablations)


def table(study, ladder=None):
    return {row.claim: row for row in article_table(study, ladder)}


def test_numbers_of_the_article_agree_with_the_article():
    verdicts = {claim: row.verdict for claim, row in table(made()).items()}
    assert verdicts["ECG teacher 85 %"] == "agrees"
    assert verdicts["BCG alone 71 %"] == "agrees"
    assert verdicts["distilled 79 %"] == "agrees"
    assert verdicts["REM gains most"] == "yes"
    assert verdicts["it recovers 57 % of the teacher's lead"] == "agrees"
    assert verdicts["distillation gains 8 points"] == "a gain in 4 of 4"
    assert verdicts["without T² the teacher is underweighted"] == "it harms"
    assert verdicts["alpha 0.3 is best on validation"] == "in 4 of 4 students"


def test_other_numbers_do_not():
    rows = table(made(gain=-0.1, rem=-0.3))
    assert rows["distilled 79 %"].verdict == "18.0 below"
    assert rows["REM gains most"].verdict == "no"
    assert rows["distillation gains 8 points"].verdict == "a gain in 0 of 4"
    words = conclusions(made(gain=-0.1, rem=-0.3))
    assert "loss 10.0 [8.0, 12.0] points" in words[0]
    assert "loses with 40 and 6 labelled nights" in words[1]
    assert "No stage gains" in words[2]


def test_a_difference_that_may_be_chance_is_none():
    words = conclusions(made(gain=0.01))
    assert "no gain shown" in words[0]
    assert "shows no gain with 40 and 6 labelled nights" in words[1]
    assert " gains" not in words[1]


def test_a_collapse_and_a_baseline_below_the_floor_are_in_the_first_sentence():
    study = made()
    assert "misses" not in conclusions(study)[0]
    assert "majority" not in conclusions(study)[0]
    cells = [
        dataclasses.replace(cell, scores=scores(0.4, rem=0.0))
        if (cell.student, cell.labelled_nights, cell.loss) == ("context", 6, "student_hard_labels")
        else cell
        for cell in study.cells
    ]
    first = conclusions(dataclasses.replace(study, cells=cells))[0]
    assert "on hard labels alone, but misses REM (recall below 1 %)" in first
    assert "no better than the majority stage (50.0 [48.0, 52.0] %)" in first


def test_the_stage_that_clearly_gains_most_is_named():
    gain = made().gains[0]
    assert gains_most(gain) == "REM"
    for deep, most in ((interval(0.5, half=0.6), "REM"), (interval(0.5, half=0.1), "Deep")):
        recall = gain.differences.recall | {"Deep": deep}  # the first may be chance
        differences = dataclasses.replace(gain.differences, recall=recall)
        assert gains_most(dataclasses.replace(gain, differences=differences)) == most
    none = dataclasses.replace(gain.differences, recall=dict.fromkeys(STAGES, Interval()))
    assert gains_most(dataclasses.replace(gain, differences=none)) is None


def test_a_lead_that_is_not_clear_says_why_in_one_sentence():
    study = made()
    unclear = Recovered(reason="The lead is not clear.")
    gains = [dataclasses.replace(gain, teacher_lead_recovered=unclear) for gain in study.gains]
    study = dataclasses.replace(study, gains=gains)
    assert conclusions(study)[3].endswith("The lead is not clear.")
    assert table(study)["it recovers 57 % of the teacher's lead"].verdict == "not defined"


@pytest.mark.parametrize(
    ("sensor", "network", "start"),
    [
        (interval(-0.2), interval(0.03), "yes: "),
        (interval(-0.2), interval(-0.01), "yes: "),  # the network's loss may be chance
        (interval(-0.2), None, "yes: "),
        (interval(-0.2), interval(-0.1), "mostly: "),
        (interval(-0.1), interval(-0.2), "no: "),
        (interval(-0.01), interval(0.0), "no loss to the sensor shown: "),
        (Interval(-0.2), None, "no loss to the sensor shown: "),
    ],
)
def test_the_gap_is_the_sensors_where_the_network_loses_less(sensor, network, start):
    change = interval(-0.1)
    rung = Rung("JJ", change, {}, change, {}, "loss", False, None, "noise", "of the bed")
    ladder = LadderResult("ECG", [rung], change, sensor, network)
    row = table(made(), ladder)["the gap left is the sensor's, not the model's"]
    assert row.here == "noise −0.100 [−0.120, −0.080] bits"
    assert row.verdict.startswith(start + "sensor and detector −")
    assert "inferred" not in row.verdict
    row = table(made(), dataclasses.replace(ladder, inferred=True))[row.claim]
    assert row.verdict.endswith("inferred body")


def test_a_claim_agrees_where_its_figure_lies_inside():
    found = [against(interval(value), 85.0) for value in (0.85, 0.86, 0.6, 0.9)]
    assert found == ["agrees", "agrees", "25.0 below", "5.0 above"]
