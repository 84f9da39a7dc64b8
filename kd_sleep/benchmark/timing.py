"""Times of peers, taken in turns in one process, and the rows that a benchmark consists of.

A speed stands as a ratio to a peer in the same run: what disturbs one peer of a shared machine
disturbs the other. So peers take turns, a slice of time each, every repeat gives a ratio of its
own, and their median is reported with its quartiles.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

SLICE_S = 0.2  # least length of a turn, against effects of another peer's threads
UNITS = (
    ("s", ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))),
    ("B", ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))),
)

Peer = Callable[[], Any]  # does the work once and returns something that can be waited for


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      part: of the benchmark.
      what: was measured.
      peer: what it is compared with; "" where it stands for itself.
      aim: the ratio wanted; None where there is no aim.
      ratio: above 1 is for us; None where there is no peer, or none could be had.
      quartiles: of the ratio over repeats, where it was measured in turns.
      ours, theirs: the figures behind the ratio, as of this machine.
      unit: of these: "s" per call, "B", "windows/s", "share" and the like.
      note: how it was measured, or why it was not.
    """

    part: str
    what: str
    peer: str = ""
    aim: float | None = None
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    ours: float | None = None
    theirs: float | None = None
    unit: str = "s"
    note: str = ""


def in_turns(peers: Mapping[str, Peer], repeats: int) -> dict[str, NDArray[np.float64]]:
    """Seconds per call [repeats] of each peer; the first calls, which compile, are left out."""
    calls = {name: _calls_in_a_slice(peer) for name, peer in peers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for repeat in range(repeats):
        # To and fro, so that a machine that grows slower favours nobody.
        for name in list(peers)[:: 1 if repeat % 2 else -1]:
            seconds[name].append(seconds_of(peers[name], calls[name]))
    return {name: np.array(values) for name, values in seconds.items()}


def seconds_of(peer: Peer, calls: int = 1) -> float:
    """Seconds per call, waited for at the end alone: a device may lag behind its host."""
    began = time.perf_counter()
    for _ in range(calls):
        result = peer()
    wait(result)
    return (time.perf_counter() - began) / calls


def wait(result: Any) -> None:
    """Until JAX's arrays, or PyTorch's scalar, are there."""
    if hasattr(result, "item") and not isinstance(result, (jax.Array, np.ndarray)):
        result.item()
    else:
        jax.block_until_ready(result)


def _calls_in_a_slice(peer: Peer) -> int:
    wait(peer())
    wait(peer())  # PyTorch's compiler looks twice
    return max(1, math.ceil(SLICE_S / seconds_of(peer)))


def compared(
    part: str,
    what: str,
    peer: str,
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    aim: float | None = None,
    note: str = "",
    work: float | None = None,
    unit: str = "s",
) -> Row:
    """A row from two peers' seconds, the ratio from each repeat's own pair.

    With `work`, the figures are work per second in `unit`.
    """
    low, middle, high = np.quantile(theirs / ours, (0.25, 0.5, 0.75)).tolist()
    a, b = (float(np.median(s if work is None else work / s)) for s in (ours, theirs))
    return Row(part, what, peer, aim, middle, (low, high), a, b, unit, note)


def goal(part: str, what: str, seconds: float, aim_s: float, note: str = "") -> Row:
    """A row of seconds against the seconds aimed at."""
    return Row(part, what, f"{aim_s:g} s", 1.0, aim_s / seconds, None, seconds, aim_s, "s", note)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of parts, which would disturb the benchmark's own."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def table(rows: Sequence[Row]) -> str:
    """The rows as text, ratios first."""
    lines = [
        "Ratios first: above 1 is for us; in brackets quartiles over repeats; then the aim.",
        "Absolute figures are of this machine, as it was.",
    ]
    part = ""
    for row in rows:
        if row.part != part:
            lines += ["", row.part]
            part = row.part
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}x"
        spread = "" if row.quartiles is None else "[{:.3g}, {:.3g}]".format(*row.quartiles)
        aim = "" if row.aim is None else f"{row.aim:g}x"
        against = f" against {row.peer}" if row.peer else ""
        lines.append(f"  {ratio:>7} {spread:<14} {aim:>5}  {row.what}{against}")
        figures = [
            f"{name} {figure(value, row.unit)}"
            for name, value in (("ours", row.ours), ("theirs", row.theirs))
            if value is not None
        ]
        below = "; ".join(filter(None, [", ".join(figures), row.note]))
        if below:
            lines.append(" " * 31 + below)
    return "\n".join(lines)


def figure(value: float, unit: str) -> str:
    """A number with three digits that count, in a unit of fitting size."""
    for base, scales in UNITS:
        if unit == base:
            size, name = next(
                ((size, name) for size, name in scales if abs(value) >= size), scales[-1]
            )
            return f"{value / size:.3g} {name}"
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{number} {unit}".rstrip()
