"""What was scored, as a reader meets it: names, order and colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS, MAJORITY, TEACHER, TIME_OF_NIGHT
from kd_sleep.pages import INK, MUTED

SYSTEM_LABELS = {
    TEACHER: "Teacher (ECG)",
    DISTILLED: "Student, distilled (BCG)",
    HARD_LABELS: "Student, hard labels (BCG)",
    TIME_OF_NIGHT: "Floor: time of night",
    MAJORITY: "Floor: majority stage",
}
METRIC_LABELS = {"accuracy": "Accuracy", "kappa": "Kappa", "macro_f1": "Macro F1"}
SHAPE_LABELS = {"context": "With context", "single_window": "Single window"}
LOSS_LABELS = {HARD_LABELS: "hard labels", DISTILLED: "distilled"}  # as a student was trained

_COLOURS = {TEACHER: INK, DISTILLED: "#009E73", HARD_LABELS: "#D55E00"}


def label(system: str) -> str:
    """A system's name for readers."""
    return SYSTEM_LABELS.get(system, plain(system))


def shape_label(student: str) -> str:
    """A student's shape for readers."""
    return SHAPE_LABELS.get(student, plain(student))


def plain(name: str) -> str:
    """A name without underscores."""
    return name.replace("_", " ")


def colour_of(system: str) -> str:
    """A system's colour; grey for floors and whatever else there is."""
    return _COLOURS.get(system, MUTED)


def ordered(systems: Mapping[str, Any]) -> dict[str, Any]:
    """Teacher, students, floors, then whatever else was scored."""
    names = [name for name in SYSTEM_LABELS if name in systems]
    return {name: systems[name] for name in [*names, *(n for n in systems if n not in names)]}


def shown_two(systems: Mapping[str, Any]) -> list[str]:
    """Teacher and distilled student, for pictures with room for two; else the first two there."""
    return [name for name in (TEACHER, DISTILLED) if name in systems] or list(systems)[:2]
