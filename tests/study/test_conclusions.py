"""Words follow from numbers by rule, whatever the numbers are."""

import copy

import pytest

from kd_sleep.study.conclusions import against, article_table, conclusions, gains_most

NOTHING = {"value": None, "low": None, "high": None}


def interval(value, half=0.02):
    return {"value": value, "low": value - half, "high": value + half}


def scores(accuracy):
    stages = {name: interval(accuracy) for name in ("Wake", "REM", "Light", "Deep")}
    return {
        "accuracy": interval(accuracy), "kappa": interval(accuracy - 0.3),
        "macro_f1": interval(0.5), "recall": stages, "precision": stages, "f1": stages,
    }  # fmt: skip


def made(gain=0.08, rem=0.2):
    from kd_sleep.evaluation.scores import verdict

    cells, gains = [], []
    for shape in ("context", "single_window"):
        for name, nights in (("all", 40), ("a handful", 6)):
            for loss, accuracy in (
                ("student_hard_labels", 0.71),
                ("student_distilled", 0.71 + gain),
            ):
                cells.append(
                    {"student": shape, "labelled": name, "labelled_nights": nights, "loss": loss,
                     "alpha": 0.3, "scores": scores(accuracy)}
                )  # fmt: skip
            recall = {
                s: interval(rem if s == "REM" else 0.0) for s in ("Wake", "REM", "Light", "Deep")
            }
            gains.append(
                {"student": shape, "labelled": name, "labelled_nights": nights,
                 "differences": {"accuracy": interval(gain), "recall": recall},
                 "teacher_lead_recovered": interval(gain / 0.14, 0.1) | {"reason": None},
                 "conclusion": verdict(interval(gain))}
            )  # fmt: skip
    row = {"text": "", "difference": {"accuracy": interval(-0.05)}, "conclusion": "loss 5 points"}
    return {
        "data": {"simulated": True, "subjects": 15}, "seeds": [0, 1],
        "teacher": scores(0.85), "cells": cells, "gains": gains,
        "ablations": {"labelled_nights": 6, "alpha": 0.3, "temperature": 4.0, "rows": [
            row | {"name": name} for name in ("as it is", "without T²", "T on probabilities")
        ]},
    }  # fmt: skip


def table(study, ladder=None):
    return {row["claim"]: row for row in article_table(study, ladder)}


def test_numbers_of_the_article_agree_with_the_article():
    rows = table(made())
    assert rows["ECG teacher 85 %"]["verdict"] == "agrees"
    assert rows["BCG alone 71 %"]["verdict"] == "agrees"
    assert rows["distilled 79 %"]["verdict"] == "agrees"
    assert rows["REM gains most"]["verdict"] == "yes"
    assert rows["it recovers 57 % of the teacher's lead"]["verdict"] == "agrees"
    assert rows["distillation gains 8 points"]["verdict"] == "a gain in 4 of 4"
    assert rows["without T² the teacher is underweighted"]["verdict"] == "it harms"
    assert rows["alpha 0.3 is best on validation"]["verdict"] == "in 4 of 4 students"


def test_other_numbers_do_not():
    rows = table(made(gain=-0.1, rem=-0.3))
    assert rows["distilled 79 %"]["verdict"] == "18.0 below"
    assert rows["REM gains most"]["verdict"] == "no"
    assert rows["distillation gains 8 points"]["verdict"] == "a gain in 0 of 4"
    words = conclusions(made(gain=-0.1, rem=-0.3))
    assert "loss 10.0 [8.0, 12.0] points" in words[0]
    assert "loses with 40 and 6 labelled nights" in words[1]
    assert "No stage gains" in words[2]


def test_a_difference_that_may_be_chance_is_none():
    words = conclusions(made(gain=0.01))
    assert "no gain shown" in words[0]
    assert "shows no gain with 40 and 6 labelled nights" in words[1]
    assert " gains" not in words[1]


def test_the_stage_that_clearly_gains_most_is_named():
    gain = made()["gains"][0]
    assert gains_most(gain) == "REM"
    gain = copy.deepcopy(gain)
    gain["differences"]["recall"]["Deep"] = interval(0.5, half=0.6)  # may be chance
    assert gains_most(gain) == "REM"
    gain["differences"]["recall"]["Deep"] = interval(0.5, half=0.1)
    assert gains_most(gain) == "Deep"
    gain["differences"]["recall"] = dict.fromkeys(("Wake", "REM", "Light", "Deep"), NOTHING)
    assert gains_most(gain) is None


def test_a_lead_that_is_not_clear_says_why_in_one_sentence():
    study = made()
    for gain in study["gains"]:
        gain["teacher_lead_recovered"] = NOTHING | {"reason": "The lead is not clear."}
    words = conclusions(study)
    assert words[3].endswith("The lead is not clear.")
    assert table(study)["it recovers 57 % of the teacher's lead"]["verdict"] == "not defined"


@pytest.mark.parametrize(
    ("sensor", "network", "said"),
    [
        (interval(-0.2), interval(0.03), "yes: "),
        (interval(-0.2), interval(-0.01), "yes: "),  # the network's loss may be chance
        (interval(-0.2), None, "yes: "),
        (interval(-0.2), interval(-0.1), "mostly: "),
        (interval(-0.1), interval(-0.2), "no: "),
        (interval(-0.01), interval(0.0), "no loss to the sensor shown: "),
        (interval(-0.2) | {"low": None, "high": None}, None, "no loss to the sensor shown: "),
    ],
)
def test_the_gap_is_the_sensors_where_the_network_loses_less(sensor, network, said):
    ladder = {
        "losses": [{"name": "noise", "change": interval(-0.1)}],
        "parts": {"sensor": sensor, "network": network},
        "inferred": False,
    }
    row = table(made(), ladder)["the gap left is the sensor's, not the model's"]
    assert row["here"] == "noise −0.100 [−0.120, −0.080] bits"
    assert row["verdict"].startswith(said + "sensor and detector −")
    assert "inferred" not in row["verdict"]
    row = table(made(), ladder | {"inferred": True})[row["claim"]]
    assert row["verdict"].startswith(said)
    assert row["verdict"].endswith("inferred body")


@pytest.mark.parametrize(
    ("value", "claim", "said"),
    [
        (0.85, 85.0, "agrees"),
        (0.86, 85.0, "agrees"),
        (0.6, 85.0, "25.0 below"),
        (0.9, 85.0, "5.0 above"),
    ],
)
def test_a_claim_agrees_where_its_figure_lies_inside(value, claim, said):
    assert against(interval(value), claim) == said
