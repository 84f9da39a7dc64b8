"""The simulator: seconds of a night, and a night's files against raw."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kd_sleep.benchmark.timing import Row, in_turns
from kd_sleep.config import CohortConfig
from kd_sleep.recordings import edf, files, shhs
from kd_sleep.recordings.beat_files import write_rpoints
from kd_sleep.recordings.stage_files import write_nsrr_stages
from kd_sleep.simulation import cohort, physiology, sensors
from kd_sleep.simulation.physiology import Physiology

PART = "simulation"
ECG_HZ, BCG_HZ = 125.0, 100.0
NIGHT_AIM_S = 0.5  # body, ECG and BCG of 8 h
_START = datetime.datetime(1985, 1, 1, 22)


def measure(repeats: int, hours: float = 8.0) -> list[Row]:
    """Rows of a night's simulation and of its files.

    Args:
      repeats: turns that each peer takes.
      hours: length of a night.
    """
    subject = physiology.draw_subject(np.random.default_rng(0))

    def night(seed: int = 0) -> Physiology:
        return physiology.simulate_night(np.random.default_rng(seed), subject, hours)

    with tempfile.TemporaryDirectory() as name:
        return [
            *one_night(night, repeats, hours),
            writing(Path(name), night(), repeats, hours),
        ]


def one_night(night: Callable[[], Physiology], repeats: int, hours: float) -> list[Row]:
    """Seconds of a body, of its two sensors, and of all three against the aim."""
    drive = night().drive

    def sensed() -> tuple[np.ndarray, sensors.Bcg]:
        rng = np.random.default_rng(1)
        return sensors.ecg(rng, drive, ECG_HZ), sensors.bcg(rng, drive, BCG_HZ)

    times = in_turns({"body": night, "sensors": sensed}, repeats)
    body, both = (float(np.median(times[name])) for name in ("body", "sensors"))
    total = float(np.median(times["body"] + times["sensors"]))
    what = f"of a night of {hours:g} h"
    return [
        Row(PART, f"physiology {what}", ours=body, note="beats, breath and movement, NumPy"),
        Row(PART, f"ECG {ECG_HZ:g} Hz and BCG {BCG_HZ:g} Hz {what}", ours=both, note="NumPy"),
        Row(
            PART, f"physiology, ECG and BCG {what}", f"{NIGHT_AIM_S:g} s", 1.0, NIGHT_AIM_S / total,
            None, total, NIGHT_AIM_S,
        ),
    ]  # fmt: skip


def writing(root: Path, night: Physiology, repeats: int, hours: float) -> Row:
    """MB a second of a simulated night's SHHS files, against the same bytes as they are.

    Both go through `files.write_bytes`, without fsync: what is compared is making the bytes.
    """
    config = CohortConfig(subjects=1, hours=hours, second_visit_share=0.0, rpoints_share=1.0)
    recording_id = cohort.write_night(root / "made", config, cohort.Visit(0, 1))
    made = shhs.paths_of(root / "made", recording_id, root / "made" / "bcg")
    ours = shhs.paths_of(root / "ours", recording_id, root / "ours" / "bcg")
    channels = shhs.channels(1, config.signals)
    polysomnogram = _samples(made.edf, channels)
    assert made.bcg is not None  # paths_of names every file of a night
    bcg = _samples(made.bcg, (cohort.BCG_CHANNEL,))
    drive = night.drive
    types = np.where(drive.beat_normal, 1, 2)
    rate_hz = next(channel.rate_hz for channel in channels if channel.label == "ECG")

    def write() -> None:
        assert ours.rpoints_csv is not None
        assert ours.bcg is not None
        edf.write_signals(ours.edf, polysomnogram, _START, "simulated")
        write_nsrr_stages(ours.stages_xml, night.scored, _START.time(), drive.duration_s)
        write_rpoints(ours.rpoints_csv, drive.beat_times_s, types, ours.subject_id, rate_hz)
        edf.write_signals(ours.bcg, bcg, _START, "simulated")

    write()
    written = [path for path in (root / "ours").rglob("*") if path.is_file()]
    contents = {root / "raw" / path.relative_to(root): path.read_bytes() for path in written}
    megabytes = sum(map(len, contents.values())) / 1e6

    def raw() -> None:
        for path, content in contents.items():
            files.write_bytes(path, content)

    times = in_turns({"ours": write, "raw": raw}, repeats)
    low, middle, high = np.quantile(times["raw"] / times["ours"], (0.25, 0.5, 0.75)).tolist()
    return Row(
        PART, f"a night's files in SHHS's formats, {megabytes:.1f} MB", "their bytes as they are",
        None, middle, (low, high), megabytes / float(np.median(times["ours"])),
        megabytes / float(np.median(times["raw"])), "MB/s",
        "samples at hand; neither waits for the disk",
    )  # fmt: skip


def _samples(path: Path, channels: tuple[edf.Channel, ...]) -> list[tuple[edf.Channel, np.ndarray]]:
    """All channels of a written file, ready to be written again."""
    found = edf.read_signals(path, {channel.label: [channel.label] for channel in channels}).signals
    return [(channel, found[channel.label].values) for channel in channels]
