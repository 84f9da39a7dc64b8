"""The benchmark as a whole: the parts one after another, a table and a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from kd_sleep.benchmark import (
    input,
    loss,
    memory,
    recordings,
    scale,
    scoring,
    simulation,
    staging,
    step,
    sweep,
)
from kd_sleep.benchmark.machine import machine
from kd_sleep.benchmark.subject import SHHS_NIGHTS
from kd_sleep.benchmark.timing import Row
from kd_sleep.config import Preset, to_dict
from kd_sleep.errors import ConfigError
from kd_sleep.provenance import write_json

PARTS = (
    "step", "loss", "sweep", "input", "memory", "scale", "recordings", "simulation", "scoring",
    "staging",
)  # fmt: skip


def benchmark(
    preset: Preset,
    what: Sequence[str] = PARTS,
    repeats: int = 11,
    nights: int = 0,
    out: Path | None = None,
) -> list[Row]:
    """Measures these parts.

    Args:
      preset: whose student, teacher and batch are measured.
      what: of `PARTS`.
      repeats: turns that each peer takes.
      nights: of `scale`; 0 is SHHS's number, and skips the part on a CPU.
      out: folder of benchmark.json; None writes nothing.

    Raises:
      ConfigError: a part that there is not.
    """
    unknown = sorted(set(what) - set(PARTS))
    if unknown:
        raise ConfigError(
            f"--what={','.join(unknown)}: no part of the benchmark.", f"Take {', '.join(PARTS)}."
        )
    measures: dict[str, Callable[[], list[Row]]] = {
        "step": lambda: step.measure(preset, repeats),
        "loss": lambda: loss.measure(repeats),
        "sweep": lambda: sweep.measure(preset, repeats),
        "input": lambda: input.measure(preset, repeats),
        "memory": lambda: memory.measure(preset, repeats),
        "scale": lambda: _scale(preset, repeats, nights),
        "recordings": lambda: recordings.measure(repeats),
        "simulation": lambda: simulation.measure(repeats),
        "scoring": lambda: scoring.measure(repeats),
        "staging": lambda: staging.measure(preset, repeats),
    }
    before = machine()
    rows = _warning(before["load_average"], before["cores"])
    for name in tqdm([part for part in PARTS if part in what], desc="Benchmark", unit="part"):
        rows += measures[name]()
    if out is not None:
        write_json(out / "benchmark.json", as_json(rows, before, preset, repeats))
    return rows


def _warning(load: float, cores: int) -> list[Row]:
    """A row that says so where others compute here, too.

    It does not spoil all peers alike: PyTorch's threads wait for one another after every operation,
    which cost its loss a factor of five on two busy cores.
    """
    if load < 0.5 * cores:
        return []
    note = f"load {load:.1f} on {cores} cores: no ratio below is final"
    return [Row("machine", "was busy when this began", note=note)]


def _scale(preset: Preset, repeats: int, nights: int) -> list[Row]:
    if jax.default_backend() == "cpu" and not nights:
        note = "skipped on a CPU; a small one is --what=scale --nights=8"
        return [Row(scale.PART, "a dataset of SHHS's size on the device", note=note)]
    return scale.measure(preset, repeats, nights or SHHS_NIGHTS)


def as_json(
    rows: Sequence[Row], before: dict[str, Any], preset: Preset, repeats: int
) -> dict[str, Any]:
    """All that benchmark.json holds; the load tells whether the machine was ours alone."""
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "repeats": repeats,
        "preset": to_dict(preset),
        "machine": before | {"load_average_at_the_end": machine()["load_average"]},
    }
