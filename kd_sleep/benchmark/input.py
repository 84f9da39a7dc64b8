"""The loop with its feed from the host's memory, against the step alone on a batch at hand."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from kd_sleep.benchmark.subject import (
    COHORT_NIGHTS,
    Training,
    example_batch,
    student,
    synthetic_nights,
    training_set,
)
from kd_sleep.benchmark.timing import Row, in_turns
from kd_sleep.config import ExecutionConfig, Preset
from kd_sleep.training.loop import fit
from kd_sleep.training.mesh import data_mesh
from kd_sleep.training.metrics_log import SPEED, read_metrics

PART = "input"


def measure(preset: Preset, repeats: int, nights: int = COHORT_NIGHTS) -> list[Row]:
    """Windows a second in `training.loop.fit` on a cohort of noise, and the share spent waiting."""
    run = student(preset)
    every = min(100, run.train.evaluate_every)  # steps in a reading
    train = dataclasses.replace(run.train, steps=every * (repeats + 1), evaluate_every=every)
    run = dataclasses.replace(run, train=train)
    alone = {"alone": Training(run, example_batch(run), data_mesh())}
    seconds = [in_turns(alone, repeats)["alone"]]  # before, and after
    cohort, validation = synthetic_nights(nights), synthetic_nights(1, 64, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        data, execution = training_set(cohort, validation), ExecutionConfig(dataset_in="host")
        fit(run, data, Path(folder), execution)
        readings = read_metrics(Path(folder), SPEED)[1:]  # the first one starts the feed
    seconds.append(in_turns(alone, repeats)["alone"])
    windows = train.batch_size * train.sequence_windows
    theirs = windows / float(np.median(np.concatenate(seconds)))
    ours = np.array([reading["windows_per_s"] for reading in readings])
    low, middle, high = np.quantile(ours / theirs, (0.25, 0.5, 0.75)).tolist()
    waiting = float(np.median([reading["waiting_share"] for reading in readings]))
    return [
        Row(
            PART, f"loop on {nights} nights in the host's memory", "the step alone on one batch",
            0.95, middle, (low, high), float(np.median(ours)), theirs, "windows/s",
            "not in turns: the step alone before and after the loop",
        ),
        Row(PART, "share of the loop's time spent waiting for input", ours=waiting, unit=""),
    ]  # fmt: skip
