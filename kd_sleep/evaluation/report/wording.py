"""Names, numbers and intervals as text, and the sentences that several sections share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TypeVar

from kd_sleep.evaluation.results import Interval, Results, Scores
from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS, MAJORITY, TEACHER, TIME_OF_NIGHT
from kd_sleep.pages import INK, MUTED
from kd_sleep.stages import STAGE_NAMES

SYSTEM_LABELS = {
    TEACHER: "Teacher (ECG)",
    DISTILLED: "Student, distilled (BCG)",
    HARD_LABELS: "Student, hard labels (BCG)",
    TIME_OF_NIGHT: "Floor: time of night",
    MAJORITY: "Floor: majority stage",
}
SHAPE_LABELS = {"context": "With context", "single_window": "Single window"}
LOSS_LABELS = {DISTILLED: "distilled", HARD_LABELS: "hard labels"}
# From Okabe & Ito's palette, but none of the stages' colours.
BETTER, WORSE = "#009E73", "#D55E00"
_COLOURS = {TEACHER: INK, DISTILLED: BETTER, HARD_LABELS: WORSE}

Pair = tuple[str, str]  # a value and its interval
T = TypeVar("T")


def label(name: str) -> str:
    """A system's, student's or loss's name for readers."""
    known = SYSTEM_LABELS | SHAPE_LABELS
    return known.get(name, name.replace("_", " "))


def colour_of(system: str) -> str:
    """A system's colour; grey for floors and whatever else there is."""
    return _COLOURS.get(system, MUTED)


def ordered(systems: Mapping[str, T]) -> dict[str, T]:
    """Teacher, students, floors, then whatever else was scored."""
    names = [name for name in SYSTEM_LABELS if name in systems]
    return {name: systems[name] for name in [*names, *(n for n in systems if n not in names)]}


def shown_two(systems: Iterable[str]) -> list[str]:
    """Teacher and distilled student, for pictures with room for two; else the first two there."""
    names = list(systems)
    return [name for name in (TEACHER, DISTILLED) if name in names] or names[:2]


def real(value: float | None, digits: int, *, sign: bool = False) -> str:
    """A number, with a real minus and no negative zero."""
    if value is None:
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def pair(
    interval: Interval | None, digits: int = 1, scale: float = 1.0, *, sign: bool = False
) -> Pair:
    """Value and interval as text."""
    found = (interval or Interval()).scaled(scale)
    between = f"[{real(found.low, digits)}, {real(found.high, digits)}]"
    return real(found.value, digits, sign=sign), "–" if found.low is None else between


def share(interval: Interval | None) -> Pair:
    """A share in %."""
    return pair(interval, 1, 100)


def cell(texts: Pair, *, strong: bool = False) -> str:
    """A table's cell: the value, and below it the interval."""
    value, between = texts
    return f"{f'<b>{value}</b>' if strong else value}<small>{between}</small>"


def change(interval: Interval, digits: int = 1, scale: float = 100.0) -> str:
    """A cell with a difference, bold where its interval excludes 0."""
    return cell(pair(interval, digits, scale, sign=True), strong=interval.is_clear)


def aloud(interval: Interval, digits: int = 1, scale: float = 100.0) -> str:
    """An interval for a text alternative."""
    found = interval.scaled(scale)
    if found.value is None:
        return "not defined"
    if found.low is None:
        return real(found.value, digits)
    between = f"{real(found.low, digits)} to {real(found.high, digits)}"
    return f"{real(found.value, digits)} ({between})"


def score_cells(scores: Scores) -> list[Pair]:
    """A system's row: accuracy, kappa, macro F1, and the recall of every stage."""
    overall = [share(scores.accuracy), pair(scores.kappa, 2), pair(scores.macro_f1, 2)]
    return overall + [share(scores.recall[stage]) for stage in STAGE_NAMES]


def joined(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def small_print(text: str) -> str:
    """A remark in small print; the text is not HTML yet."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def findings(texts: Iterable[str]) -> str:
    """Findings, one to a line; the texts are not HTML yet."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="findings">{items}</ul>' if items else ""


def data_line(cohort: str, bcg_source: str, simulated: bool) -> str:
    """Where the nights come from."""
    return f"{'Simulated data' if simulated else 'Data'}: {cohort}, BCG {bcg_source}."


def coverage(results: Results) -> str:
    """What the intervals cover."""
    runs = [run for system in results.systems.values() for run in system.runs]
    seeds = sorted({run.seed for run in runs} or set(results.data.seeds if results.data else []))
    draws = len({run.label_seed for run in runs})
    text = (
        f"{100 * results.bootstrap.confidence:g} % intervals from {results.bootstrap.draws:,}"
        f" bootstrap draws over {results.bootstrap.subjects} subjects"
    )
    if max((len(system.runs) for system in results.systems.values()), default=0) < 2:
        named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        return f"{text}; each model is one training run ({named}), whose luck is not in them"
    if draws > 1:
        return (
            f"{text}, and of the students over {len(seeds)} seeds and {draws} draws of the labelled"
            " nights (by Student's t, as these are few)"
        )
    return (
        f"{text}, and of the students over {len(seeds)} seeds (by Student's t, as these are few);"
        " the draw of the labelled nights is one, whose luck is not in them"
    )
