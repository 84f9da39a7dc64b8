"""Speed of nights: simulated, from files to records, staged alone and in a folder."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_sleep.benchmark.synthetic import SHHS_NIGHTS, write_student
from kd_sleep.benchmark.timing import Peer, Row, compared, goal, in_turns, quiet
from kd_sleep.config import CohortConfig, DatasetConfig, Preset
from kd_sleep.features import rr
from kd_sleep.features.night import Exclusion, process_night
from kd_sleep.inference.outputs import Reading, stage_file, stage_files
from kd_sleep.inference.staging import StagingError, StagingStudent, load_student
from kd_sleep.parallel import map_nights
from kd_sleep.recordings.edf import read_signals
from kd_sleep.recordings.shhs import ShhsFiles, find_nights
from kd_sleep.signals import quality
from kd_sleep.signals.r_peaks import r_peaks, typed_beats
from kd_sleep.simulation import sensors
from kd_sleep.simulation.cohort import write_cohort
from kd_sleep.simulation.physiology import draw_subject, simulate_night

SPAN_BEFORE_S, SPAN_AFTER_S = 150, 180  # 5.5 min around a window, as the peer has it
# The peer's names of the features that we compute.
FEATURES = ["meanNN", "SDNN", "RMSSD", "pNN50", "VLF", "LF", "HF", "LF_HF_ratio"]
_PAIRED, _NO_PICTURE = DatasetConfig(bcg_source="paired"), Reading(picture="none")
# A fresh process on one core, which reports its own CPU seconds and peak memory.
_COLD = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
import json, resource, time
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_compilation_cache_dir", sys.argv[4])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
import kd_sleep
from kd_sleep.inference.outputs import Reading, stage_file
student = kd_sleep.load_student(sys.argv[1])
stage_file(student, Path(sys.argv[2]), "night", Path(sys.argv[3]), Reading(picture="none"))
print(json.dumps({"cpu_s": time.process_time(),
                  "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


def recordings(repeats: int, hours: float = 8.0, pooled: int = 64) -> list[Row]:
    """Simulating a night; its files to a record; a pool of processes.

    Args:
      repeats: turns that each peer takes.
      hours: length of a night.
      pooled: nights that one process and two share.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = CohortConfig(subjects=4, hours=hours, second_visit_share=0.0, rpoints_share=0.0)
        with quiet():
            write_cohort(root / "cohort", config)
        found = find_nights(root / "cohort", root / "cohort" / "bcg").nights
        # A short night in noise may be refused: its clock cannot be determined.
        nights = [n for n in found if not isinstance(process_night(n, _PAIRED), Exclusion)]
        works = {
            "physiology, ECG and BCG of a night": lambda: _simulated(hours),
            "a night to a record, BCG paired": lambda: process_night(nights[0], _PAIRED),
            "a night to a record, BCG simulated": lambda: process_night(nights[0], DatasetConfig()),
        }
        times = in_turns(works, max(1, repeats // 2))
        aims = dict.fromkeys(works, 0.6) | {"physiology, ECG and BCG of a night": 0.5}
        rows = [
            goal("recordings", what, float(np.median(seconds)), aims[what])
            for what, seconds in times.items()
        ]
        return [
            features_of_ecg(nights[0], repeats),
            *rows,
            pool(nights, pooled),
        ]


def _simulated(hours: float) -> Any:
    rng = np.random.default_rng(0)
    drive = simulate_night(rng, draw_subject(rng), hours).drive
    return sensors.ecg(rng, drive, 125.0), sensors.bcg(rng, drive)


def features_of_ecg(night: ShhsFiles, repeats: int) -> Row:
    """ECG file -> beats -> RR features of a night, against sleepecg's own way there."""
    import sleepecg
    from edfio import read_edf

    windows = _windows_of_record(night)

    def ours() -> Any:
        ecg = read_signals(night.edf, {"ecg": ["ECG"]}).signals["ecg"]
        beats = r_peaks(ecg.values, ecg.rate_hz)
        usable = quality.ecg_usable(ecg.values, ecg.rate_hz, beats)
        quality.usable_share(usable, windows)
        at_beats = quality.in_usable(usable, beats)
        intervals = rr.nn_intervals(*typed_beats(ecg.values, ecg.rate_hz, beats, at_beats))
        return rr.hrv(intervals, rr.tachogram(intervals, windows))

    def theirs() -> Any:
        ecg = read_edf(night.edf).get_signal("ECG")
        beats = sleepecg.detect_heartbeats(ecg.data, ecg.sampling_frequency)
        record = sleepecg.SleepRecord(
            sleep_stages=np.zeros(windows, int),
            sleep_stage_duration=30,
            heartbeat_times=beats / ecg.sampling_frequency,
        )
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # it wants an hour for VLF
            return sleepecg.extract_features(
                [record], SPAN_BEFORE_S, SPAN_AFTER_S, feature_selection=FEATURES
            )

    with quiet():
        times = in_turns({"ours": ours, "theirs": theirs}, repeats)
    note = "ours also checks the file and the ECG's quality; the same eight features and span"
    what = "ECG file to RR features of a night"
    return compared("recordings", what, "sleepecg", times["ours"], times["theirs"], 1.0, note)


def _windows_of_record(night: ShhsFiles) -> int:
    record = process_night(night, _PAIRED)
    if isinstance(record, Exclusion):
        raise RuntimeError(f"a simulated night was left out: {record}")
    return len(record["label"])


def pool(nights: Sequence[ShhsFiles], count: int) -> Row:
    """Seconds of two processes against one, starting them included."""
    todo = [nights[n % len(nights)] for n in range(count)]
    seconds = {}
    for workers in (1, 2):
        began = time.perf_counter()
        with quiet():
            list(map_nights(_windows_of_record, todo, workers, "Benchmark"))
        seconds[workers] = time.perf_counter() - began
    minutes = SHHS_NIGHTS * seconds[2] / count / 60
    return Row(
        "recordings", f"pool of 2 processes, {count} nights", "1 process", 1.8,
        seconds[1] / seconds[2], None, seconds[2], seconds[1], "s",
        f"once, with the processes' start; {SHHS_NIGHTS:,} nights at this speed: {minutes:.0f} min",
    )  # fmt: skip


def staging(preset: Preset, repeats: int, hours: float = 8.0, nights: int = 100) -> list[Row]:
    """Staging by the preset's student, with made-up parameters: cold, warm, and a folder.

    Args:
      preset: whose student stages.
      repeats: turns.
      hours: length of a night.
      nights: in the folder.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = CohortConfig(subjects=4, hours=hours, second_visit_share=0.0)
        with quiet():
            write_cohort(root / "cohort", config)
        exported = root / "student.kdsleep"
        write_student(preset, exported)
        student = load_student(exported)
        beds = sorted((root / "cohort" / "bcg").glob("*.edf"))
        files = [path for path in beds if _stageable(student, path, root)]
        stage = functools.partial(stage_file, student, files[0], "warm", root)
        shapes = student.program.card["inputs"]
        inputs = {name: np.ones((round(hours * 120), *shape)) for name, shape in shapes.items()}
        works: dict[str, Peer] = {
            "files": lambda: stage(_NO_PICTURE),
            "picture": stage,
            "network": lambda: student.network(inputs),
        }
        times = {what: float(np.median(s)) for what, s in in_turns(works, repeats).items()}
        return [
            *cold(exported, files[0], root, max(1, repeats // 4)),
            goal("staging", "EDF to CSV, EDF+ and JSON, warm", times["files"], 0.45),
            Row("staging", "the same with a picture", ours=times["picture"]),
            Row("staging", "the network alone", ours=times["network"]),
            folder(exported, files, root, nights),
        ]


def _stageable(student: StagingStudent, path: Path, out: Path) -> bool:
    """Whether a night shows a heartbeat: some simulated ones are drowned in noise."""
    try:
        stage_file(student, path, "tried", out, _NO_PICTURE)
    except StagingError:
        return False
    return True


def cold(exported: Path, night: Path, root: Path, repeats: int) -> list[Row]:
    """A fresh process on one core; at first without anything compiled, then with a cache."""
    seconds, reports = [], []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _COLD, exported, night, root, root / "cache"],
            capture_output=True, text=True, check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        seconds.append(time.perf_counter() - began)
        reports.append(json.loads(done.stdout.splitlines()[-1]))
    what, note = "EDF to CSV, EDF+ and JSON, a fresh process on one core", "{:.2g} s of CPU"
    cached = float(np.median([report["cpu_s"] for report in reports[1:]]))
    first = note.format(reports[0]["cpu_s"])
    return [
        goal("staging", what, float(np.median(seconds[1:])), 2.0, note.format(cached)),
        goal("staging", f"{what}, nothing compiled before", seconds[0], 2.0, first),
        Row("staging", "peak memory of that process", ours=float(reports[-1]["peak"]), unit="B"),
    ]


def folder(exported: Path, files: list[Path], root: Path, nights: int) -> Row:
    """Nights of a folder a second, on all cores, the workers' start included."""
    (root / "many").mkdir()
    for number in range(nights):
        os.link(files[number % len(files)], root / "many" / f"{number}.edf")
    began = time.perf_counter()
    with quiet():
        done = list(stage_files(exported, [root / "many"], root / "out", _NO_PICTURE))
    speed = nights / (time.perf_counter() - began)
    failed = sum(bool(outcome.problem) for outcome in done)
    return Row(
        "staging", f"{nights} nights in a folder", "4 nights/s", 1.0, speed / 4.0, None, speed, 4.0,
        "nights/s", f"all cores, the processes' start included; {failed} not staged",
    )  # fmt: skip
