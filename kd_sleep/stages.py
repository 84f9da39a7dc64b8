"""Sleep stages: the four classes and every code that files use for them.

The order is the article's: Wake, REM, Light, Deep. Rechtschaffen & Kales stages 1 and 2 are Light,
3 and 4 are Deep; movement time and unscored windows carry `UNSCORED` and never enter a
cross-entropy or a score.
"""

from __future__ import annotations

import enum


class Stage(enum.IntEnum):
    """The four classes, in the order of the logits' last axis."""

    WAKE = 0
    REM = 1
    LIGHT = 2
    DEEP = 3


UNSCORED = -1
STAGE_NAMES = ("Wake", "REM", "Light", "Deep")
NUM_STAGES = len(STAGE_NAMES)

# Rechtschaffen & Kales codes as NSRR and Compumedics Profusion write them.
_CLASS_OF_RK_CODE: dict[int, int] = {
    0: Stage.WAKE,
    1: Stage.LIGHT,
    2: Stage.LIGHT,
    3: Stage.DEEP,
    4: Stage.DEEP,
    5: Stage.REM,
    6: UNSCORED,  # movement time
    9: UNSCORED,
    10: UNSCORED,  # artefact
}

# Names of the codes: NSRR's translator of today (`Stage 2 sleep|2`) and its two older ontologies
# (`SRO:Stage2Sleep`, `SDO:NonRapidEyeMovementSleep-N2`), AASM, and EDF+ hypnograms. Compared after
# folding, without the ontology's prefix. Stage 3 stands for AASM's N3 and for 3 and 4 together.
_RK_CODE_OF_NAME: dict[str, int] = {
    "wake": 0,
    "w": 0,
    "wakestate": 0,
    "n1": 1,
    "stage1sleep": 1,
    "nonrapideyemovementsleep-n1": 1,
    "n2": 2,
    "stage2sleep": 2,
    "nonrapideyemovementsleep-n2": 2,
    "n3": 3,
    "stage3sleep": 3,
    "stage34sleep": 3,
    "nonrapideyemovementsleep-n3": 3,
    "n4": 4,
    "stage4sleep": 4,
    "nonrapideyemovementsleep-n4": 4,
    "rem": 5,
    "r": 5,
    "remsleep": 5,
    "rapideyemovement": 5,
    "rapideyemovementsleep": 5,
    "movement": 6,
    "movementtime": 6,
    "unscored": 9,
    "unscoredepoch": 9,
    "artifactepoch": 10,
}

_LONGEST_CONCEPT = 80  # no name of a stage is half as long

# What the simulator writes for a class: the NSRR concept of its most common R&K stage.
NSRR_CONCEPT_OF_CLASS: dict[int, str] = {
    Stage.WAKE: "Wake|0",
    Stage.REM: "REM sleep|5",
    Stage.LIGHT: "Stage 2 sleep|2",
    Stage.DEEP: "Stage 3 sleep|3",
    UNSCORED: "Unscored|9",
}


def class_of_rk_code(code: int) -> int:
    """Class of a Rechtschaffen & Kales code (0-6, 9, 10).

    Raises:
      ValueError: for a code that no scorer uses; an unknown stage is never guessed.
    """
    try:
        return int(_CLASS_OF_RK_CODE[code])
    except KeyError:
        raise ValueError(f"unknown stage code {code}; known: {sorted(_CLASS_OF_RK_CODE)}") from None


def rk_code_of_concept(concept: str) -> int:
    """R&K code of an annotation's concept, such as `Stage 2 sleep|2`, `SRO:Stage2Sleep` or `N2`.

    Raises:
      ValueError: for a concept that names no stage, or whose name and code are of different ones.
    """
    if len(concept) > _LONGEST_CONCEPT:
        raise ValueError(f"unknown stage {concept[:40]!r}")
    name, *codes = concept.split("|")
    found = {_rk_code_of_name(name, concept)}
    for code in map(str.strip, codes):
        if code.isascii() and code.isdigit() and len(code) <= 2:
            class_of_rk_code(int(code))
            found.add(int(code))
        else:
            found.add(_rk_code_of_name(code, concept))
    if len(found) > 1:
        raise ValueError(f"unknown stage {concept[:40]!r}: its name and code disagree")
    return found.pop()


def _rk_code_of_name(name: str, concept: str) -> int:
    folded = "".join(name.split()).lower().removeprefix("sro:").removeprefix("sdo:")
    try:
        return _RK_CODE_OF_NAME[folded]
    except KeyError:
        raise ValueError(f"unknown stage {concept[:40]!r}") from None
