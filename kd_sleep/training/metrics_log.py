"""What a run writes while it trains: metrics and speed as JSONL, scalars for TensorBoard."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from numpy.typing import ArrayLike
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

METRICS, SPEED = "metrics.jsonl", "performance.jsonl"
T = TypeVar("T")


class MetricsLog:
    """Appends rows to `metrics.jsonl` and scalars to `tensorboard/` in a work folder.

    `performance.jsonl` beside it has the speed, which differs between machines. In a sweep values
    are lists, one entry to a member.

    Attributes:
      rows: of `metrics.jsonl`; without a folder, all that is kept.
    """

    def __init__(self, workdir: Path | None, resume_step: int):
        """Rows after `resume_step` are dropped: the run is about to make them again."""
        self.rows: list[dict[str, Any]] = []
        self._files = {}
        if workdir is None:
            return
        kept = {
            name: [row for row in read_metrics(workdir, name) if row["step"] <= resume_step]
            for name in (METRICS, SPEED)
        }
        self.rows = kept[METRICS]
        if jax.process_index() > 0:  # one host writes
            return
        for name, rows in kept.items():
            partial = workdir / f".{name}.partial"
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
            self._files[name] = partial.replace(workdir / name).open("a")
        self._events = EventFileWriter(str(workdir / "tensorboard"))

    def write(
        self, step: int, metrics: Mapping[str, ArrayLike], performance: Mapping[str, float]
    ) -> None:
        row: dict[str, Any] = {name: np.asarray(value).tolist() for name, value in metrics.items()}
        self.rows.append({"step": step, **row})
        if not self._files:
            return
        for name, figures in ((METRICS, row), (SPEED, performance)):
            self._files[name].write(json.dumps({"step": step, **figures}) + "\n")
            self._files[name].flush()
        scalars: dict[str, float] = {}
        for name, value in {**row, **performance}.items():
            if isinstance(value, list):
                scalars |= {f"{name}/{member}": entry for member, entry in enumerate(value)}
            else:
                scalars[name] = value
        values = [Summary.Value(tag=tag, simple_value=entry) for tag, entry in scalars.items()]
        self._events.add_event(
            Event(step=step, wall_time=time.time(), summary=Summary(value=values))
        )

    def close(self) -> None:
        if self._files:
            for file in self._files.values():
                file.close()
            self._events.close()


def read_metrics(workdir: Path, name: str = METRICS) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, without a last one that a killed run left half written."""
    path = workdir / name
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Meter:
    """Times a loop of dispatches; the loop counts `steps` up."""

    def __init__(self, windows_a_step: int):
        self._windows = windows_a_step
        self._compile_s: float | None = None
        self.restart()

    def restart(self) -> None:
        """Begins a new reading."""
        self.steps = 0
        self._waited_s = self._compiling_s = 0.0
        self._began = time.perf_counter()

    def wait_for(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; counts the time until each of them is there."""
        while True:
            asked = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            self._waited_s += time.perf_counter() - asked
            yield item

    @contextlib.contextmanager
    def dispatch(self) -> Iterator[None]:
        """Around a call of the step; the first one, which compiles it, is kept apart."""
        began = time.perf_counter()
        yield
        if self._compile_s is None:
            self._compile_s = self._compiling_s = time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Figures since the last reading, once the device has caught up.

        windows_per_s and waiting_share (of the time, for input) leave compiling out.
        """
        seconds = time.perf_counter() - self._began - self._compiling_s
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {
            "windows_per_s": self.steps * self._windows / seconds,
            "waiting_share": self._waited_s / seconds,
            "compile_s": self._compile_s or 0.0,
            "host_memory_gb": peak * (1 if sys.platform == "darwin" else 1024) / 1e9,
        }
        on_device = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in on_device:
            found["device_memory_gb"] = on_device["peak_bytes_in_use"] / 1e9
        return found
