"""What a benchmark ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax

from kd_sleep.provenance import provenance


def machine() -> dict[str, Any]:
    """Versions, processor, devices, threads and how busy the machine is."""
    found = provenance()
    try:
        found["versions"]["torch"] = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        found["versions"]["torch"] = "absent"
    return found | {
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": {"jax": cores(), "torch": cores()},
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "load_average": os.getloadavg()[0],
    }


def cores() -> int:
    """Processor cores that this process may use: as many threads has XLA, and is PyTorch given."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
