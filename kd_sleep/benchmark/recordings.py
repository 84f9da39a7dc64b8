"""Recording files to night records and back to windows: speed against peers, memory at scale."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_sleep import schema
from kd_sleep.benchmark.subject import SHHS_NIGHTS
from kd_sleep.benchmark.timing import Row, compared, in_turns
from kd_sleep.config import CohortConfig, DatasetConfig
from kd_sleep.features import rr
from kd_sleep.features.night import Exclusion, process_night
from kd_sleep.parallel import map_nights
from kd_sleep.recordings.edf import read_signals
from kd_sleep.recordings.shhs import ShhsFiles, find_nights
from kd_sleep.signals import quality
from kd_sleep.signals.r_peaks import r_peaks, typed_beats
from kd_sleep.simulation.cohort import write_cohort

PART = "recordings"
SPAN_BEFORE_S, SPAN_AFTER_S = 150, 180  # the peer's way to say 5.5 min around a window
# The peer's names of the features that we compute.
FEATURES = ["meanNN", "SDNN", "RMSSD", "pNN50", "VLF", "LF", "HF", "LF_HF_ratio"]
_PAIRED = DatasetConfig(bcg_source="paired")


def measure(
    repeats: int, hours: float = 8.0, few: int = 50, many: int = 500, pooled: int = 64
) -> list[Row]:
    """Rows of a night's way, of the pool and of memory, on simulated nights of `hours`.

    Args:
      repeats: turns that each peer takes.
      hours: length of a night.
      few, many: nights of the two builds whose memory is compared.
      pooled: nights that one process and two share.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = CohortConfig(subjects=4, hours=hours, second_visit_share=0.0, rpoints_share=0.0)
        with _quiet():
            write_cohort(root / "cohort", config)
        found = find_nights(root / "cohort", root / "cohort" / "bcg").nights
        # A short night in noise may be refused: its clock cannot be told.
        nights = [n for n in found if not isinstance(process_night(n, _PAIRED), Exclusion)]
        return [
            features(nights[0], repeats),
            *whole_night(nights, repeats),
            pool(nights, pooled),
            *memory(root, nights, few, many),
            *reading(root, nights, repeats),
        ]


def features(night: ShhsFiles, repeats: int) -> Row:
    """ECG file -> beats -> RR features of a night, against sleepecg's own way there."""
    import sleepecg
    from edfio import read_edf

    windows = len(_record(night)["label"])

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
        beats = (
            sleepecg.detect_heartbeats(ecg.data, ecg.sampling_frequency) / ecg.sampling_frequency
        )
        record = sleepecg.SleepRecord(
            sleep_stages=np.zeros(windows, int), sleep_stage_duration=30, heartbeat_times=beats
        )
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # it wants an hour for VLF
            return sleepecg.extract_features(
                [record], SPAN_BEFORE_S, SPAN_AFTER_S, feature_selection=FEATURES
            )

    with _quiet():
        times = in_turns({"ours": ours, "theirs": theirs}, repeats)
    return compared(
        PART, "ECG file to RR features of a night", "sleepecg", times["ours"], times["theirs"], 1.0,
        "ours checks the file and the ECG's quality, too; the same eight features and span",
    )  # fmt: skip


def whole_night(nights: Sequence[ShhsFiles], repeats: int) -> list[Row]:
    """Seconds of `process_night`, BCG aligned and all, and what they come to for SHHS."""
    works: dict[str, Callable[[], Any]] = {
        "paired": lambda: process_night(nights[0], _PAIRED),
        "simulated": lambda: process_night(nights[0], DatasetConfig()),
    }
    times = in_turns(works, max(1, repeats // 2))
    rows = []
    for source, seconds in times.items():
        one = float(np.median(seconds))
        minutes = SHHS_NIGHTS * one / 2 / 60
        note = f"{SHHS_NIGHTS:,} of them on 2 cores: {minutes:.0f} min"
        what = f"a night to a record, BCG {source}"
        rows.append(Row(PART, what, "0.6 s", 1.0, 0.6 / one, None, one, 0.6, "s", note))
    return rows


def pool(nights: Sequence[ShhsFiles], count: int) -> Row:
    """Nights a second of two processes against one, starting them included."""
    work = functools.partial(_only_windows, config=_PAIRED)
    todo = [nights[n % len(nights)] for n in range(count)]
    seconds = {}
    for workers in (1, 2):
        began = time.perf_counter()
        with _quiet():
            list(map_nights(work, todo, workers, "Benchmark"))
        seconds[workers] = time.perf_counter() - began
    return Row(
        PART, f"pool of 2 processes, {count} nights", "1 process", 1.8, seconds[1] / seconds[2],
        None, seconds[2], seconds[1], "s",
        f"once, with the start of the processes; {SHHS_NIGHTS:,} nights at this speed:"
        f" {SHHS_NIGHTS * seconds[2] / count / 60:.0f} min",
    )  # fmt: skip


def _record(night: ShhsFiles, config: DatasetConfig = _PAIRED) -> schema.NightRecord:
    record = process_night(night, config)
    if isinstance(record, Exclusion):
        raise RuntimeError(f"a simulated night was left out: {record}")
    return record


def _only_windows(night: ShhsFiles, config: DatasetConfig) -> int:
    return len(_record(night, config)["label"])


def memory(root: Path, nights: Sequence[ShhsFiles], few: int, many: int) -> list[Row]:
    """Peak memory of whole builds, the same nights under as many names, each in its own process."""
    peaks = {}
    for count in (few, many):
        shhs = root / f"links-{count}"
        for number in range(count):
            _link(nights[number % len(nights)], shhs, f"shhs1-{200001 + number:06d}")
        code = (
            "import json, resource, sys\n"
            "from kd_sleep.config import BuildConfig, DatasetConfig\n"
            "from kd_sleep.datasets import shhs_bcg\n"
            "config, how = DatasetConfig(bcg_source='paired'), BuildConfig(workers=2)\n"
            f"shhs_bcg.build({str(shhs)!r}, {str(root / f'data-{count}')!r}, config, how)\n"
            "peak = [resource.getrusage(who).ru_maxrss for who in"
            " (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]\n"
            "print(json.dumps(peak))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        peaks[count] = [
            1024.0 * kilobytes for kilobytes in json.loads(done.stdout.splitlines()[-1])
        ]
    return [
        Row(
            PART, f"peak memory of {who}, {many} nights", f"{few} nights", 1.0,
            peaks[few][place] / peaks[many][place], None,
            peaks[many][place], peaks[few][place], "B",
        )
        for place, who in enumerate(("the build's main process", "its largest worker"))
    ]  # fmt: skip


def _link(night: ShhsFiles, shhs: Path, recording_id: str) -> None:
    """The same files under another night's names."""
    assert night.bcg is not None
    folders = shhs / "polysomnography"
    names = {
        night.edf: folders / "edfs" / "shhs1" / f"{recording_id}.edf",
        night.stages_xml: folders
        / "annotations-events-nsrr"
        / "shhs1"
        / f"{recording_id}-nsrr.xml",
        night.bcg: shhs / "bcg" / f"{recording_id}.edf",
    }
    for source, target in names.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)


def reading(root: Path, nights: Sequence[ShhsFiles], repeats: int) -> list[Row]:
    """BCG windows read from night records, against one window a record, and an array in memory."""
    import tensorflow_datasets as tfds

    records = [_record(night) for night in nights]
    fields = {name: schema.NIGHT_FIELDS[name] for name in ("bcg", "label")}

    def written(name: str, examples: list[dict[str, Any]], one_window: bool) -> Any:
        features = {
            key: tfds.features.Tensor(
                shape=field.shape[1:] if one_window else (None, *field.shape[1:]),
                dtype=field.dtype,
                encoding="bytes" if field.shape[1:] or not one_window else "none",
            )
            for key, field in fields.items()
        }
        info = tfds.core.DatasetInfo(
            builder=tfds.core.DatasetIdentity(
                name=name, version=tfds.core.Version("1.0.0"), data_dir=str(root / name),
                module_name=__name__,
            ),
            features=tfds.features.FeaturesDict(features),
        )  # fmt: skip
        (root / name).mkdir()
        writer = tfds.core.SequentialWriter(info, 4096, file_format="array_record")
        writer.initialize_splits(["train"])
        writer.add_examples({"train": examples})
        writer.close_all()
        return tfds.builder_from_directory(root / name).as_data_source("train")

    whole = written("nights", [{key: r[key] for key in fields} for r in records], False)
    single = [{key: r[key][n] for key in fields} for r in records for n in range(len(r["label"]))]
    windows = written("windows", single, True)
    array = np.concatenate([r["bcg"] for r in records])
    order = np.random.default_rng(0).permutation(len(array))

    def all_nights() -> Any:
        return [whole[n]["bcg"] for n in range(len(whole))]

    def all_windows() -> Any:
        return [windows[int(n)]["bcg"] for n in order]

    def in_memory() -> Any:
        return array[order]

    times = in_turns(
        {"nights": all_nights, "windows": all_windows, "memory": in_memory}, max(1, repeats // 2)
    )
    speed = {name: len(array) / seconds for name, seconds in times.items()}

    def row(peer: str, said: str, aim: float | None) -> Row:
        low, middle, high = np.quantile(speed["nights"] / speed[peer], (0.25, 0.5, 0.75)).tolist()
        return Row(
            PART, "windows read from the dataset", said, aim, middle, (low, high),
            float(np.median(speed["nights"])), float(np.median(speed[peer])), "windows/s",
        )  # fmt: skip

    return [
        row("windows", "TFDS, one window a record", 3.0),
        row("memory", "an array in memory, shuffled", None),
    ]


@contextlib.contextmanager
def _quiet():
    """Progress bars of parts would stand in the benchmark's own."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
