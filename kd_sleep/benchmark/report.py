"""The benchmark: its parts one after another, and a file with what they ran on."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from kd_sleep.benchmark import device_speed, night_speed, score_speed, train_speed
from kd_sleep.benchmark.timing import Row
from kd_sleep.config import Preset, to_dict
from kd_sleep.errors import ConfigError
from kd_sleep.provenance import provenance, write_json

PARTS = ("step", "loss", "sweep", "input", "device", "recordings", "scoring", "staging")


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
      nights: of `device`; 0 is SHHS's number, and skips the part on a CPU.
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
        "step": lambda: train_speed.step(preset, repeats),
        "loss": lambda: train_speed.loss(repeats),
        "sweep": lambda: train_speed.sweep(preset, repeats),
        "input": lambda: train_speed.loop_input(preset, repeats),
        "device": lambda: device_speed.measure(preset, repeats, nights),
        "recordings": lambda: night_speed.recordings(repeats),
        "scoring": lambda: score_speed.scoring(repeats),
        "staging": lambda: night_speed.staging(preset, repeats),
    }
    before = machine()
    rows = []
    if before["load_average"] >= 0.5 * before["cores"]:
        # PyTorch's threads wait for one another: on busy cores its loss took five times as long.
        note = f"load {before['load_average']:.1f} on {before['cores']} cores: no ratio is final"
        rows.append(Row("machine", "was busy when this began", note=note))
    for name in tqdm([part for part in PARTS if part in what], desc="Benchmark", unit="part"):
        rows += measures[name]()
    if out is not None:
        found = {
            "rows": [dataclasses.asdict(row) for row in rows],
            "repeats": repeats,
            "preset": to_dict(preset),
            "machine": before | {"load_average_at_the_end": os.getloadavg()[0]},
        }
        write_json(out / "benchmark.json", found)
    return rows


def machine() -> dict[str, Any]:
    """Versions, processor, devices and how busy the machine is."""
    found = provenance()
    try:
        found["versions"]["torch"] = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        found["versions"]["torch"] = "absent"
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    return found | {
        "cpu": cpu,
        "cores": os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count(),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "load_average": os.getloadavg()[0],
    }
