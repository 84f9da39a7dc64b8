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
}

# Names without a code: older NSRR translators, AASM, and EDF+ hypnograms. Compared after folding.
_CLASS_OF_NAME: dict[str, int] = {
    "wake": Stage.WAKE,
    "w": Stage.WAKE,
    "sro:wake": Stage.WAKE,
    "rem": Stage.REM,
    "r": Stage.REM,
    "remsleep": Stage.REM,
    "sro:remsleep": Stage.REM,
    "n1": Stage.LIGHT,
    "n2": Stage.LIGHT,
    "stage1sleep": Stage.LIGHT,
    "stage2sleep": Stage.LIGHT,
    "sro:stage1sleep": Stage.LIGHT,
    "sro:stage2sleep": Stage.LIGHT,
    "n3": Stage.DEEP,
    "n4": Stage.DEEP,
    "stage3sleep": Stage.DEEP,
    "stage4sleep": Stage.DEEP,
    "sro:stage3sleep": Stage.DEEP,
    "sro:stage4sleep": Stage.DEEP,
    "sro:stage34sleep": Stage.DEEP,
    "movement": UNSCORED,
    "sro:movement": UNSCORED,
    "unscored": UNSCORED,
    "sro:unscored": UNSCORED,
}

# What the simulator writes for a class: the NSRR concept of its most common R&K stage.
NSRR_CONCEPT_OF_CLASS: dict[int, str] = {
    Stage.WAKE: "Wake|0",
    Stage.REM: "REM sleep|5",
    Stage.LIGHT: "Stage 2 sleep|2",
    Stage.DEEP: "Stage 3 sleep|3",
    UNSCORED: "Unscored|9",
}


def class_of_rk_code(code: int) -> int:
    """Class of a Rechtschaffen & Kales code (0-6, 9).

    Raises:
      ValueError: for a code that no scorer uses; an unknown stage is never guessed.
    """
    try:
        return int(_CLASS_OF_RK_CODE[code])
    except KeyError:
        raise ValueError(f"unknown stage code {code}; known: {sorted(_CLASS_OF_RK_CODE)}") from None


def class_of_concept(concept: str) -> int:
    """Class of an annotation's concept, such as `Stage 2 sleep|2`, `SRO:Stage2Sleep` or `N2`.

    Raises:
      ValueError: for a concept that names no stage.
    """
    name, bar, code = concept.strip().rpartition("|")
    if bar and code.strip().isdigit():
        return class_of_rk_code(int(code))
    folded = "".join((name if bar else concept).split()).lower()
    try:
        return int(_CLASS_OF_NAME[folded])
    except KeyError:
        raise ValueError(f"unknown stage {concept!r}") from None
