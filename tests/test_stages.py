"""Codes and names of stages to the four classes."""

import pytest

from kd_sleep import stages
from kd_sleep.stages import UNSCORED, Stage


def class_of(concept):
    return stages.class_of_rk_code(stages.rk_code_of_concept(concept))


def test_classes_are_in_the_articles_order():
    assert stages.STAGE_NAMES == ("Wake", "REM", "Light", "Deep")
    assert [Stage.WAKE, Stage.REM, Stage.LIGHT, Stage.DEEP] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("code", "expected"),
    [(0, 0), (1, 2), (2, 2), (3, 3), (4, 3), (5, 1), (6, UNSCORED), (9, UNSCORED), (10, UNSCORED)],
)
def test_rechtschaffen_and_kales_codes(code, expected):
    assert stages.class_of_rk_code(code) == expected


@pytest.mark.parametrize(
    ("concept", "expected"),
    [
        ("Wake|0", Stage.WAKE),
        ("Stage 1 sleep|1", Stage.LIGHT),
        ("Stage 4 sleep|4", Stage.DEEP),
        ("REM sleep|5", Stage.REM),
        ("Movement|6", UNSCORED),
        ("Unscored|9", UNSCORED),
        ("SRO:Stage2Sleep", Stage.LIGHT),
        ("SRO:RapidEyeMovement", Stage.REM),
        ("SRO:MovementTime", UNSCORED),
        ("SRO:UnscoredEpoch", UNSCORED),
        ("SRO:ArtifactEpoch", UNSCORED),
        ("SDO:WakeState", Stage.WAKE),
        ("SDO:NonRapidEyeMovementSleep-N1", Stage.LIGHT),
        ("SDO:NonRapidEyeMovementSleep-N4", Stage.DEEP),
        ("SDO:RapidEyeMovementSleep", Stage.REM),
        ("N2|N2", Stage.LIGHT),
        (" N3 ", Stage.DEEP),
    ],
)
def test_concepts(concept, expected):
    assert class_of(concept) == expected


@pytest.mark.parametrize(
    "concept",
    [
        "",
        "Stage 7 sleep|7",
        "Wake|7",
        "Hypopnea|2",
        "2",
        "Wake|",
        "Wake|" + 5000 * "0",
        "Stage 5",
        "|",
    ],
)
def test_unknown_stage_is_never_guessed(concept):
    with pytest.raises(ValueError, match="unknown stage"):
        class_of(concept)


@pytest.mark.parametrize("concept", ["Stage 2 sleep|3", "Stage 2 sleep|1", "Wake|REM", "REM|5|0"])
def test_a_name_and_a_code_that_disagree_are_no_stage(concept):
    with pytest.raises(ValueError, match="name and code disagree"):
        class_of(concept)


def test_what_the_simulator_writes_reads_back():
    for label, concept in stages.NSRR_CONCEPT_OF_CLASS.items():
        assert class_of(concept) == label
