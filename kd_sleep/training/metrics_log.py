"""Training metrics, one row per logged step: JSONL for programs, TensorBoard for eyes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from numpy.typing import ArrayLike
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

METRICS, SPEED = "metrics.jsonl", "performance.jsonl"


class MetricsLog:
    """Appends rows to `metrics.jsonl` and scalars to `tensorboard/` in a work folder.

    `performance.jsonl` beside it says how fast the steps were: what differs from machine to machine
    stands apart from what does not. In a sweep values are lists, one entry to a member.
    """

    def __init__(self, workdir: Path | None, resume_step: int):
        """Rows after `resume_step` are dropped: the run is about to make them again.

        Without a folder, `rows` are all there is.
        """
        self.rows = [] if workdir is None else _kept(workdir, METRICS, resume_step)
        self._on = workdir is not None and jax.process_index() == 0  # one host writes
        if workdir is None or not self._on:
            return
        self._files = {name: _reopen(workdir / name, resume_step) for name in (METRICS, SPEED)}
        self._events = EventFileWriter(str(workdir / "tensorboard"))

    def write(
        self, step: int, metrics: Mapping[str, ArrayLike], performance: Mapping[str, float]
    ) -> None:
        row: dict[str, Any] = {name: np.asarray(value).tolist() for name, value in metrics.items()}
        self.rows.append({"step": step, **row})
        if not self._on:
            return
        for name, figures in ((METRICS, row), (SPEED, performance)):
            self._files[name].write(json.dumps({"step": step, **figures}) + "\n")
            self._files[name].flush()
        values = [
            Summary.Value(tag=tag, simple_value=float(entry))
            for name, value in {**row, **performance}.items()
            for tag, entry in (
                [(f"{name}/{member}", entry) for member, entry in enumerate(value)]
                if isinstance(value, list)
                else [(name, value)]
            )
        ]
        self._events.add_event(
            Event(step=step, wall_time=time.time(), summary=Summary(value=values))
        )

    def close(self) -> None:
        if self._on:
            for file in self._files.values():
                file.close()
            self._events.close()


def _kept(workdir: Path, name: str, resume_step: int) -> list[dict[str, Any]]:
    return [row for row in read_metrics(workdir, name) if row["step"] <= resume_step]


def _reopen(path: Path, resume_step: int) -> TextIO:
    kept = _kept(path.parent, path.name, resume_step)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
    partial.replace(path)
    return path.open("a")


def read_metrics(workdir: Path, name: str = METRICS) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, a last one that a killed run left half written aside."""
    path = workdir / name
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
