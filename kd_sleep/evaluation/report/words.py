"""Numbers and intervals as text, and the sentences that several sections share.

An interval is {"value", "low", "high"} as `scores.Bootstrap.interval` makes it; what is None is not
defined and reads –.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from kd_sleep.evaluation.report.systems import METRIC_LABELS
from kd_sleep.stages import STAGE_NAMES

Interval = Mapping[str, Any]
NOT_DEFINED: dict[str, float | None] = {"value": None, "low": None, "high": None}


def real(value: float | None, digits: int, *, sign: bool = False) -> str:
    """A number, with a real minus and no negative zero."""
    if value is None:
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def real_interval(interval: Interval | None, digits: int, *, sign: bool = False) -> tuple[str, str]:
    """Value and interval as text."""
    if interval is None:
        return "–", "–"
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    between = "–" if low is None else f"[{real(low, digits)}, {real(high, digits)}]"
    return real(value, digits, sign=sign), between


def show(interval: Interval, percent: bool = True) -> tuple[str, str]:
    """Value and interval of a share in % or of a coefficient."""

    def text(value: float) -> str:
        number = f"{100 * value:.1f}" if percent else f"{value:.2f}"
        return number.replace("100.0", "100").replace("-", "−")

    value, low, high = (interval[key] for key in ("value", "low", "high"))
    return (
        "–" if value is None else text(value),
        "–" if low is None else f"[{text(low)}, {text(high)}]",
    )


def points(interval: Interval) -> tuple[str, str]:
    """A difference of shares in points, with its sign."""
    scaled = {key: None if (x := interval[key]) is None else 100 * x for key in NOT_DEFINED}
    return real_interval(scaled, 1, sign=True)


def with_interval(interval: Interval | None, digits: int, *, sign: bool = False) -> str:
    """Value and interval on one line."""
    return " ".join(real_interval(interval, digits, sign=sign))


def aloud(interval: Interval) -> str:
    """A share in % for a text alternative."""
    if interval["value"] is None:
        return "not defined"
    value = f"{100 * interval['value']:.1f}"
    if interval["low"] is None:
        return value
    return f"{value} ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"


def is_clear(interval: Interval) -> bool:
    """Whether the interval excludes 0."""
    low, high = interval["low"], interval["high"]
    return low is not None and (low > 0 or high < 0)


def two_lines(texts: tuple[str, str], *, strong: bool = False) -> str:
    """A table's cell: the value, and below it the interval."""
    value, between = texts
    return f"{f'<b>{value}</b>' if strong else value}<small>{between}</small>"


def small_print(text: str) -> str:
    """A remark in small print; the text is not HTML yet."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def findings(texts: Iterable[str]) -> str:
    """Findings, one to a line; the texts are not HTML yet."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="findings">{items}</ul>' if items else ""


def cells(pooled: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A system's row: accuracy, kappa, macro F1, and the recall of every stage."""
    overall = [show(pooled[key], percent=key == "accuracy") for key in METRIC_LABELS]
    return overall + [show(pooled["recall"][stage]) for stage in STAGE_NAMES]


def data_line(data: Mapping[str, Any]) -> str:
    """Where the nights come from."""
    kind = "Simulated data" if data["simulated"] else "Data"
    return f"{kind}: {data['cohort']}, BCG {data['bcg_source']}."


def coverage(results: Mapping[str, Any]) -> str:
    """What the intervals are."""
    bootstrap, seeds = results["bootstrap"], results["data"]["seeds"]
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return (
        f"{100 * bootstrap['confidence']:g} % intervals from {bootstrap['draws']:,} bootstrap draws"
        f" over {bootstrap['subjects']} subjects; each model is one training run"
        f" ({named}), whose luck is not in them"
    )
