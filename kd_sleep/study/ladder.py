"""The information ladder from the ECG's intervals down to the BCG as it was recorded.

Each rung is what one change makes of the same nights:

  RR from the ECG      the dataset's own
  JJ, every beat       each beat an RJ delay later, as `simulation.sensors` draws it: autonomic
                       walk, breathing, posture
  JJ as detected       the same with beats missed and misplaced, as by published detectors
  BCG, clean           the waveform that these very heartbeats, this breathing and these movements
                       make in a sensor without noise
  BCG as recorded      the dataset's own

Predictors on all rungs are of one family: the teacher's or the student's encoder, the same width,
context and training, on all labels, calibrated on validation. So what lies between two rungs is the
change alone, and the losses add up to the gap. From intervals to a waveform the encoder has to find
by itself what a detector gave: that step is the price of capacity, or, where it is a gain, what the
waveform holds beside intervals, such as breath and movement.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from kd_sleep.config import DistillConfig, Preset, to_dict
from kd_sleep.datasets.nights import Nights, read_split, teacher_inputs
from kd_sleep.datasets.splits import SPLITS
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.information import Ladder
from kd_sleep.features import rr
from kd_sleep.features.bcg import prepared
from kd_sleep.features.night import heartbeats
from kd_sleep.metrics import best_temperature
from kd_sleep.parallel import map_nights
from kd_sleep.recordings.shhs import NightFiles, find_nights, read_recording
from kd_sleep.schema import BCG_HZ
from kd_sleep.signals.filters import resample
from kd_sleep.simulation import beds, sensors
from kd_sleep.simulation.recorded_drive import drive_of
from kd_sleep.stages import NUM_STAGES
from kd_sleep.training.distill import student_run, student_settings, teacher_run
from kd_sleep.training.loop import fit, predict

TIME = "Time of night"
ECG, JITTERED, DETECTED = "RR from the ECG", "JJ, every beat", "JJ as detected"
CLEAN, RECORDED = "BCG, clean", "BCG as recorded"
# Overnight detectors: 91 % of intervals found, MAE 34 ms in the lab (PMC11704055). An interval
# needs both its beats; Gaussian errors of two beats, each of SD s, have a mean absolute difference
# of 2 s / sqrt(pi).
MISSED = 1.0 - np.sqrt(0.91)
BEAT_ERROR_S = 0.034 * np.sqrt(np.pi) / 2.0
SIMULATED_HZ = 100.0
LARGEST_COUNT = 32767.0

# What each step down costs, and why.
LOSSES = {
    JITTERED: ("sensor timing", "a pulse reaches the bed by a delay that breath and tone change"),
    DETECTED: ("detector", "9 % of the intervals missed, beats misplaced by 30 ms"),
    CLEAN: ("capacity", "the network has to find the beats itself, and gets breath and movement"),
    RECORDED: ("noise", "of sensor, bed and room"),
}


def climb(data_dir: Path, shhs_dir: Path, workdir: Path, preset: Preset) -> dict[str, Any]:
    """Makes every rung's nights, trains on them, and measures what each step costs.

    Args:
      data_dir: folder of the dataset.
      shhs_dir: the recordings that it was built from.
      workdir: of the ladder; the same call goes on with it.
      preset: sizes and training of the students, and how many seeds.

    Returns:
      What `Ladder.measure` returns, with "losses": {"name", "text", "change", "by_stage"} each, in
      bits a window, "seeds", and "about", sentences.

    Raises:
      DatasetError: a night of the dataset that `shhs_dir` does not have, or no scored night.
    """
    splits = {split: read_split(data_dir, split) for split in SPLITS}
    files = {night.recording_id: night for night in find_nights(shhs_dir).nights}
    absent = {name for nights in splits.values() for name in nights.recording_ids} - set(files)
    if absent:
        raise DatasetError(
            f"{shhs_dir}: lacks {len(absent)} nights of the dataset, {min(absent)} the first.",
            "Name the folder that the dataset was built from with --shhs_dir.",
        )
    made = {
        split: _rungs_of(nights, files, workdir / "nights", preset.build.workers)
        for split, nights in splits.items()
    }
    test, train = splits["test"], splits["train"]
    truth = scores.ScoredNights.of(test)
    time = np.log(np.concatenate(scores.time_of_night_probs(train.labels(), truth)))
    seeds = range(preset.study.ladder_seeds)
    rungs = {TIME: time[None]} | {
        name: np.stack(
            [
                _said({split: made[split][name] for split in SPLITS}, name, workdir, preset, seed)
                for seed in seeds
            ]
        )
        for name in (ECG, *LOSSES)
    }
    prior = np.bincount(train.label[train.label >= 0], minlength=NUM_STAGES) + 1.0
    subjects = np.repeat(np.array(test.subject_ids), test.windows)
    ladder = Ladder(test.label, subjects, np.log(prior / prior.sum()), rungs, top=ECG)
    found = ladder.measure(preset.evaluation)
    found["losses"] = [
        {
            "name": LOSSES[step["to"]][0],
            "text": LOSSES[step["to"]][1],
            "change": step["change"],
            "by_stage": step["by_stage"],
        }
        for step in found["steps"]
        if step["to"] in LOSSES
    ]
    found["seeds"] = list(seeds)
    found["about"] = [
        f"Each rung: one network of the same family, {preset.student_train.steps} steps on the"
        f" stages of all {len(train)} training nights, calibrated on validation.",
        "Intervals and clean BCG are made from this night's recorded heartbeats, breathing and"
        " movement; only the last rung is the BCG of the dataset.",
    ]
    return found


def _rungs_of(
    nights: Nights, files: Mapping[str, NightFiles], folder: Path, workers: int
) -> dict[str, Nights]:
    """The same nights on every rung; what is made stays in `folder`, a file for each night."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.npz" for name in nights.recording_ids}
    todo = [files[name] for name, path in paths.items() if not path.exists()]
    for _ in map_nights(functools.partial(_write_rungs, folder), todo, workers, "Making rungs"):
        pass

    def joined(prefix: str, columns: tuple[str, ...]) -> Nights:
        parts: dict[str, list[NDArray]] = {column: [] for column in columns}
        for (name, path), windows in zip(paths.items(), nights.windows, strict=True):
            with np.load(path, allow_pickle=False) as arrays:
                for column in columns:
                    parts[column].append(_cut(arrays[f"{prefix}{column}"], windows, name))
        changed = {column: np.concatenate(arrays) for column, arrays in parts.items()}
        return dataclasses.replace(nights, **changed)  # type: ignore[arg-type]

    intervals = ("tachogram", "tachogram_valid", "hrv", "rr_missing")
    return {
        ECG: nights,
        JITTERED: joined("jittered_", intervals),
        DETECTED: joined("detected_", intervals),
        CLEAN: joined("clean_", ("bcg", "bcg_scale", "bcg_missing")),
        RECORDED: nights,
    }


def _cut(array: NDArray, windows: int, name: str) -> NDArray:
    if len(array) != windows:
        raise DatasetError(
            f"{name}: its files have {len(array)} windows, its record {windows}.",
            "Name the folder that the dataset was built from with --shhs_dir.",
        )
    return array


def _write_rungs(folder: Path, files: NightFiles) -> None:
    """Makes what the rungs between ECG and BCG need of one night, whole or not at all."""
    recording = read_recording(files)
    beats, normal, _ = heartbeats(files, recording)
    windows = len(recording.labels)
    seed = int.from_bytes(hashlib.sha256(files.recording_id.encode()).digest()[:8], "big")
    rng = np.random.default_rng([seed, 1])
    drive = drive_of(recording, beats, normal)
    body = sensors.prepare(drive, SIMULATED_HZ)
    source = sensors.NumpySource(rng)
    draws = sensors.draw_bcg(source, body, beds.quiet(beds.SENSORS["mix"]), SIMULATED_HZ)
    j_times = beats + sensors.rj_delay_s(draws, body).astype(np.float64)
    found = rng.random(len(beats)) >= MISSED
    heard = (j_times + BEAT_ERROR_S * rng.normal(size=len(beats)))[found]
    order = np.argsort(heard, kind="stable")
    arrays = _intervals("jittered_", j_times, normal, windows)
    arrays |= _intervals("detected_", heard[order], normal[found][order], windows)
    values = sensors.render_bcg(draws, body, SIMULATED_HZ)[: int(body.samples)]
    shown = prepared(resample(values, SIMULATED_HZ, BCG_HZ), windows)
    scale = max(float(np.abs(shown.values_NS).max()), 1.0) / LARGEST_COUNT
    arrays["clean_bcg"] = np.rint(shown.values_NS / scale).astype(np.int16)
    arrays["clean_bcg_scale"] = np.full(windows, scale, np.float32)
    arrays["clean_bcg_missing"] = shown.missing_N.astype(np.float32)
    partial = folder / f".{files.recording_id}.partial.npz"
    np.savez(partial, **arrays)  # type: ignore[arg-type]
    partial.replace(folder / f"{files.recording_id}.npz")


def _intervals(
    prefix: str, beat_times_s: NDArray, normal: NDArray, windows: int
) -> dict[str, NDArray]:
    """Columns of `Nights` that a teacher reads, of these beats."""
    intervals = rr.nn_intervals(beat_times_s, normal)
    tachogram = rr.tachogram(intervals, windows)
    missing = np.isnan(tachogram).mean(1).astype(np.float32)
    shown = teacher_inputs(tachogram, rr.hrv(intervals, tachogram))
    return {
        f"{prefix}{name}": array
        for name, array in zip(
            ("tachogram", "tachogram_valid", "hrv", "rr_missing"), (*shown, missing), strict=True
        )
    }


def _said(
    splits: Mapping[str, Nights], name: str, workdir: Path, preset: Preset, seed: int
) -> NDArray[np.float64]:
    """[W, K] calibrated log-probabilities of a rung's predictor on the test nights."""
    train = dataclasses.replace(preset.student_train, seed=seed)
    about = {"rung": name, "data": [splits[split].digest() for split in ("train", "validation")]}
    if name in (CLEAN, RECORDED):
        loss = DistillConfig(alpha=1.0)
        settings = student_settings(about, preset.student, loss, train, preset.augment)
        run, more = student_run(settings), _no_teacher(splits["train"])
    else:
        model = dataclasses.replace(
            preset.teacher,
            width=preset.student.width,
            context_windows=preset.student.context_windows,
            dropout=preset.student.dropout,
        )
        run, more = teacher_run({"model": to_dict(model), "train": to_dict(train), **about}), {}
    folder = workdir / "runs" / f"{name.replace(' ', '_').replace(',', '')}_{seed}"
    progress = fit(
        run, splits["train"], splits["validation"], folder, preset.execution, more_columns=more
    )
    logits = {
        split: np.concatenate(predict(run.module, progress.best, splits[split], run.columns))
        for split in ("validation", "test")
    }
    labels = splits["validation"].label
    temperature = best_temperature(logits["validation"][labels >= 0].T, labels[labels >= 0])
    return log_softmax(logits["test"].astype(np.float64) / temperature, axis=-1)


def _no_teacher(nights: Nights) -> dict[str, NDArray]:
    """The column that the student's loss reads, for a student without a teacher."""
    return {"teacher_logits": np.zeros((len(nights.label), 1, NUM_STAGES), np.float32)}
