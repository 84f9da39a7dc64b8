"""The information ladder: what timing, detector, noise and network each cost between ECG and BCG.

Each rung is what one change makes of the same nights:

  Time of night             the floor
  RR from the ECG           the dataset's tachogram and HRV: the top
  JJ, every beat            each of these beats an RJ delay later: `sensors.bcg` on the
                            night's drive
  JJ found, BCG noise-free  `bcg_series` of a BCG without noise, rendered from the same drive
  JJ found in the BCG       the dataset's own
  + breath and movement     the dataset's own series, read by the plain student
  Student                   as the preset has it; left out where that is the rung above

One network family stands on all rungs but the first: `models.series_network` with the student's
width, context, dropout and training, on the labels of all training nights, calibrated on
validation. So what lies between two rungs is the change alone, and the steps add up to the gap.

Weights: in training every scored window weighs the same on every rung, whatever it misses. A window
without a beat gives the network zeros with validity 0, and is scored as any other: a rung cannot
do better by leaving out the windows where its sensor or detector fails.

Drive: a simulated cohort's BCG files were rendered from `cohort.true_drive`, and a dataset's
simulated BCG from `recorded_drive.drive_of`. There the noise-free and the dataset's BCG are of one
drive, and the step between them is noise. A recorded BCG has no known drive: the noise-free one
comes from what ECG and belts show of the body, and the step holds whatever they do not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from kd_sleep.config import DistillConfig, Preset, TeacherConfig
from kd_sleep.datasets.nights import Nights, open_split, read_split
from kd_sleep.datasets.splits import SPLITS
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation import scores
from kd_sleep.evaluation.bootstrap import ScoredNights
from kd_sleep.evaluation.held_out import readable
from kd_sleep.evaluation.information import Ladder
from kd_sleep.evaluation.results import LadderResult
from kd_sleep.features import rr
from kd_sleep.features.bcg import on_windows
from kd_sleep.features.inputs import teacher_inputs
from kd_sleep.features.night import heartbeats
from kd_sleep.features.series import bcg_series
from kd_sleep.metrics import best_temperature
from kd_sleep.models.student import BEATS
from kd_sleep.parallel import map_nights
from kd_sleep.recordings.night_files import NightFiles
from kd_sleep.recordings.shhs import find_nights
from kd_sleep.schema import SIMULATOR
from kd_sleep.signals.timeseries import Series
from kd_sleep.simulation import beds, sensors
from kd_sleep.simulation.cohort import true_drive
from kd_sleep.simulation.recorded_drive import BCG_SAMPLING_HZ, drive_of, rng_of
from kd_sleep.stages import NUM_STAGES
from kd_sleep.training.loop import fit, predict
from kd_sleep.training.run import Run, reads_samples
from kd_sleep.training.training_set import TrainingSet

TIME, ECG = "Time of night", "RR from the ECG"
DELAYED, NOISE_FREE, FOUND = "JJ, every beat", "JJ found, BCG noise-free", "JJ found in the BCG"
SERIES, STUDENT = "+ breath and movement", "Student"

# What each step below the ECG changes, and why.
LOSSES = {
    DELAYED: ("sensor timing", "a pulse reaches the bed by a delay that breath and tone change"),
    NOISE_FREE: ("detector", "beats that it misses or misplaces although there is no noise"),
    FOUND: ("noise", "of sensor, bed and room"),
    SERIES: ("breath and movement", "given back, with how sure each beat is"),
    STUDENT: ("network", "of the past alone, or of samples in place of series"),
}
INFERRED = (
    "sensor, bed and inferred body",
    "noise, and what ECG and belts do not show of the body",
)


def climb(data_dirs: Sequence[Path], shhs_dir: Path, workdir: Path, preset: Preset) -> LadderResult:
    """Makes every rung's nights, trains on them, and measures what each step costs.

    Args:
      data_dirs: folders of datasets.
      shhs_dir: the recordings that they were built from.
      workdir: of the ladder; the same call goes on with it.
      preset: sizes and training of the students, and how many seeds.

    Raises:
      DatasetError: a night of the dataset that `shhs_dir` does not have, no scored night, or a
        cohort of another simulator.
    """
    samples = reads_samples(preset.student)
    splits = {
        split: readable(read_split(data_dirs, split, samples=samples), True, True, split)
        for split in SPLITS
    }
    test, train = splits["test"], splits["train"]
    simulated, paired = SIMULATOR in train.cohort, train.bcg_source == "paired"
    folder = workdir / "jj"
    _make_series(splits, shhs_dir, folder, simulated and paired, preset.build.workers)

    time = scores.time_of_night_probs(train.labels(), ScoredNights.of(test))
    rungs, seeds = {TIME: np.log(np.concatenate(time))}, range(preset.study.ladder_seeds)
    for name in (ECG, DELAYED, NOISE_FREE, FOUND):
        shown = {
            split: _shown(nights, _series(name, nights, folder)) for split, nights in splits.items()
        }
        rungs[name] = _by_seed(name, shown, workdir, preset)
    plain = dataclasses.replace(preset.student, front_end=BEATS, causal=False)
    rungs[SERIES] = _by_seed(SERIES, splits, workdir, dataclasses.replace(preset, student=plain))
    if preset.student != plain:
        rungs[STUDENT] = _by_seed(STUDENT, splits, workdir, preset)

    prior = np.bincount(train.label[train.label >= 0], minlength=NUM_STAGES) + 1.0
    subjects = np.repeat(np.array(test.subject_ids), test.windows)
    log_prior = np.log(prior / prior.sum())
    ladder = Ladder(test.label, subjects, log_prior, rungs, top=ECG, gains={SERIES})
    ends = {name: rungs[name] for name in (ECG, FOUND)}
    sensor = dataclasses.replace(ladder, rungs=ends, gains=()).measure(preset.evaluation)
    inferred = paired and not simulated
    causes = LOSSES | ({FOUND: INFERRED} if inferred else {})
    found = ladder.measure(preset.evaluation)
    named = [
        dataclasses.replace(rung, cause=causes[rung.name][0], text=causes[rung.name][1])
        if rung.name in causes
        else rung
        for rung in found.rungs
    ]
    return dataclasses.replace(
        found,
        rungs=named,
        sensor=sensor.gap,
        network=named[-1].change if STUDENT in rungs else None,
        inferred=inferred,
        seeds=list(seeds),
        about=[
            f"Each rung: one network of the same family, {preset.student_train.steps} steps on the"
            f" stages of all {len(train)} training nights, calibrated on validation.",
            "The noise-free BCG is rendered from the heartbeats, breathing and movement that ECG"
            " and belts show of a recorded night, with simulated RJ delays. The step to the"
            " recorded BCG is therefore not noise alone: it holds all that was not inferred of the"
            " body."
            if inferred
            else "The noise-free and the dataset's BCG are of the same heartbeats, breathing and"
            " movement, so the step between them is noise.",
            "Timing and detector may give as well as take: the pulse's delay follows the breath,"
            " and where no beat is found, the body moved.",
        ],
    )


def _make_series(
    splits: Mapping[str, Nights], shhs_dir: Path, folder: Path, drive_known: bool, workers: int
) -> None:
    """Writes what the rungs between ECG and BCG need, a file per night; finished ones stay."""
    files = {night.recording_id: night for night in find_nights(shhs_dir).nights}
    names = [name for nights in splits.values() for name in nights.recording_ids]
    if absent := set(names) - set(files):
        raise DatasetError(
            f"{shhs_dir}: lacks {len(absent)} nights of the dataset, {min(absent)} the first.",
            "Name the folder that the dataset was built from with --shhs_dir.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    todo = [files[name] for name in names if not (folder / f"{name}.npz").exists()]
    write = functools.partial(_write_series, folder, shhs_dir if drive_known else None)
    for _ in map_nights(write, todo, workers, "Making rungs"):
        pass


def _write_series(folder: Path, cohort_dir: Path | None, files: NightFiles) -> None:
    """Writes jj [N, 120] in s and jj_hrv [N, F] of both made rungs, whole or not at all.

    Args:
      folder: to write into.
      cohort_dir: the simulated cohort whose drive is known; None infers the night's drive.
      files: of the night.
    """
    recording = files.read()
    beats, normal, _ = heartbeats(files, recording)
    if cohort_dir is None:
        drive = drive_of(recording, beats, normal)
    else:
        drive = true_drive(cohort_dir, files.recording_id)
    windows, quiet = len(recording.labels), beds.quiet(beds.SENSORS["mix"])
    bcg = sensors.bcg(rng_of(files.recording_id), drive, BCG_SAMPLING_HZ, sensor=quiet)
    # The ECG's own beats: what it misses, this rung misses, too.
    delay_s = np.interp(beats, drive.beat_times_s, bcg.j_times_s - drive.beat_times_s)
    intervals = rr.nn_intervals(beats + delay_s, normal)
    jj = rr.tachogram(intervals, windows)
    found = bcg_series(on_windows(Series.of(bcg.values, bcg.rate_hz), windows), windows)
    arrays = {
        f"{DELAYED} jj": jj.astype(np.float32),
        f"{DELAYED} hrv": rr.hrv(intervals, jj).astype(np.float32),
        f"{NOISE_FREE} jj": found.jj,
        f"{NOISE_FREE} hrv": found.jj_hrv,
    }
    partial = folder / f".{files.recording_id}.partial.npz"
    np.savez(partial, **arrays)  # type: ignore[arg-type]
    partial.replace(folder / f"{files.recording_id}.npz")


def _series(name: str, nights: Nights, folder: Path) -> Iterator[tuple[NDArray, NDArray]]:
    """Tachogram [N, 120] in s and HRV [N, F] of each night on an interval rung, in order."""
    if name in (ECG, FOUND):
        fields = ("tachogram", "hrv") if name == ECG else ("jj", "jj_hrv")
        splits = {place[:2] for place in nights.places if place}
        records = {key: open_split(*key, fields)[0] for key in splits}
        for place in nights.places:
            assert place is not None  # they were read from datasets
            record = records[place[:2]][place.position]
            yield record[fields[0]], record[fields[1]]
        return
    for recording_id, windows in zip(nights.recording_ids, nights.windows, strict=True):
        with np.load(folder / f"{recording_id}.npz", allow_pickle=False) as arrays:
            jj, hrv = arrays[f"{name} jj"], arrays[f"{name} hrv"]
        if len(jj) != windows:
            raise DatasetError(
                f"{recording_id}: its files have {len(jj)} windows, its record {windows}.",
                "Name the folder that the dataset was built from with --shhs_dir.",
            )
        yield jj, hrv


def _shown(nights: Nights, series: Iterable[tuple[NDArray, NDArray]]) -> Nights:
    """The nights with these intervals in place of the ECG's, every window of the same weight."""
    tachogram, valid, hrv = (
        np.concatenate(column)
        for column in zip(*(teacher_inputs(*of_night) for of_night in series), strict=True)
    )
    return dataclasses.replace(
        nights,
        tachogram=tachogram,
        tachogram_valid=valid,
        hrv=hrv,
        rr_missing=np.zeros_like(nights.rr_missing),
    )


def _by_seed(
    name: str, splits: Mapping[str, Nights], workdir: Path, preset: Preset
) -> NDArray[np.float64]:
    """[M, W, K] calibrated log-probabilities of a rung's predictors on the test nights."""
    seeds = range(preset.study.ladder_seeds)
    return np.stack([_log_probs(name, splits, workdir, preset, seed) for seed in seeds])


def _log_probs(
    name: str, splits: Mapping[str, Nights], workdir: Path, preset: Preset, seed: int
) -> NDArray[np.float64]:
    """[W, K] of one seed."""
    train, model = dataclasses.replace(preset.student_train, seed=seed), preset.student
    about = {"rung": name, "data": [splits[split].digest() for split in ("train", "validation")]}
    nights = splits["train"]
    if name in (SERIES, STUDENT):
        run = Run(model, train, DistillConfig(alpha=1.0))
        nights = dataclasses.replace(nights, bcg_missing=np.zeros_like(nights.bcg_missing))
    else:
        run = Run(TeacherConfig(model.width, model.context_windows, model.dropout), train)
    folder = "".join(letter if letter.isalnum() else "_" for letter in name)
    progress, _ = fit(
        run,
        TrainingSet(nights, splits["validation"], settings=about),
        workdir / "runs" / f"{folder}_{seed}",
        preset.execution,
    )
    logits = {
        split: np.concatenate(predict(run.module, progress.best, splits[split], run.columns))
        for split in ("validation", "test")
    }
    labels = splits["validation"].label
    temperature = best_temperature(logits["validation"][labels >= 0].T, labels[labels >= 0])
    return log_softmax(logits["test"].astype(np.float64) / temperature, axis=-1)
