"""A simulated cohort on disk: SHHS's own folders, file formats and headers, and a BCG per night.

What is written can be read by anything that reads SHHS. Every EDF says in its recording field which
simulator made it, so that a dataset built from it says *simulated* wherever it goes. `truth/` holds
what no reader of the cohort may use: latent stages, beat times and the sensor's clock, for tests.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kd_sleep.config import CohortConfig, from_dict, to_dict
from kd_sleep.errors import ConfigError, DatasetError
from kd_sleep.parallel import map_nights
from kd_sleep.provenance import git_revision, versions, write_json
from kd_sleep.recordings import edf, shhs
from kd_sleep.recordings.beat_files import write_rpoints
from kd_sleep.recordings.stage_files import write_nsrr_stages
from kd_sleep.simulation import physiology, sensors

FIRST_ID = 200001  # where SHHS's own numbers start
BCG_CHANNEL = edf.Channel("BCG", "uV", 100, (-4000.0, 4000.0), (-32768, 32767))
BCG_GAIN = 10.0  # microvolt per heartbeat amplitude


@dataclasses.dataclass(frozen=True)
class Visit:
    """One night to simulate; `number` counts subjects from 0."""

    number: int
    visit: int

    @property
    def recording_id(self) -> str:
        return f"shhs{self.visit}-{FIRST_ID + self.number:06d}"


def visits_of(config: CohortConfig) -> list[Visit]:
    """Every subject's first visit, and the second of the last `second_visit_share` of them."""
    again = round(config.subjects * config.second_visit_share)
    first = [Visit(number, 1) for number in range(config.subjects)]
    return first + [Visit(number, 2) for number in range(config.subjects - again, config.subjects)]


def physiology_of(
    config: CohortConfig, visit: Visit
) -> tuple[physiology.Physiology, np.random.Generator]:
    """A night of the cohort before any sensor, and the generator that its sensors go on with.

    `config` and `visit` alone decide: it is the physiology that `write_night` writes.
    """
    person = np.random.default_rng([config.cohort_seed, visit.number])
    subject = physiology.draw_subject(person)
    rng = np.random.default_rng([config.cohort_seed, visit.number, visit.visit])
    hours = float(np.clip(rng.normal(config.hours, 0.5), 0.5 * config.hours, 1.3 * config.hours))
    return physiology.simulate_night(rng, subject, hours, config.null), rng


def true_drive(shhs_dir: str | os.PathLike, recording_id: str) -> physiology.Drive:
    """The drive that a simulated night was made from: what a real recording cannot tell.

    Simulated anew from the settings in the cohort's `simulation.json`.

    Args:
      shhs_dir: a folder that `write_cohort` wrote.
      recording_id: of one of its nights.

    Raises:
      DatasetError: no simulated cohort, one of another simulator or settings that this version
        does not have, or no such night in it.
    """
    card = Path(shhs_dir) / shhs.SIMULATION_CARD
    anew = "Simulate the cohort anew (kd-sleep simulate_cohort)."
    try:
        settings = dict(json.loads(card.read_text())["settings"])
        simulator = settings.pop("simulator")
    except FileNotFoundError as error:
        raise DatasetError(
            f"{os.fspath(shhs_dir)}: no simulated cohort, there is no {card.name}.",
            "Only a simulated night's true drive is known; name the cohort's folder.",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{card}: cannot be read as a cohort's settings.", anew) from error
    if simulator != physiology.SIMULATOR_VERSION:
        raise DatasetError(
            f"{card}: made by simulator {simulator}; this is {physiology.SIMULATOR_VERSION}, which"
            " gives other nights from the same seed.",
            anew,
        )
    try:
        config: CohortConfig = from_dict(CohortConfig, settings)
    except ConfigError as error:
        raise DatasetError(f"{card}: {error.problem}", error.remedy) from error
    visits = {visit.recording_id: visit for visit in visits_of(config)}
    if recording_id not in visits:
        raise DatasetError(
            f"{os.fspath(shhs_dir)}: {recording_id!r} is none of its {len(visits)} nights.",
            f"The first is {next(iter(visits))}.",
        )
    return physiology_of(config, visits[recording_id])[0].drive


def write_night(out: Path, config: CohortConfig, visit: Visit) -> str:
    """Simulates one night and writes its files; returns the recording id."""
    night, rng = physiology_of(config, visit)
    drive = night.drive
    files = shhs.paths_of(out, visit.recording_id, out / "bcg")
    assert files.rpoints_csv is not None  # paths_of names every file of a night
    assert files.bcg is not None
    start = datetime.datetime(1985, 1, 1, 22) + datetime.timedelta(seconds=int(rng.integers(3600)))
    text = f"{shhs.SIMULATOR} {physiology.SIMULATOR_VERSION}"

    channels = shhs.channels(visit.visit, config.signals)
    rate_hz = next(channel.rate_hz for channel in channels if channel.label == "ECG")
    body = {"ECG": sensors.ecg(rng, drive, rate_hz), **_slow_signals(rng, drive)}
    samples = [
        body.get(channel.label.upper(), _background(rng, channel, drive.duration_s))
        for channel in channels
    ]
    recorded = [(c, edf.saturated(c, values)) for c, values in zip(channels, samples, strict=True)]
    edf.write_signals(files.edf, recorded, start, text)
    write_nsrr_stages(files.stages_xml, night.scored, start.time(), drive.duration_s, software=text)
    if rng.random() < config.rpoints_share:
        types = np.where(drive.beat_normal, 1, 2)
        write_rpoints(files.rpoints_csv, drive.beat_times_s, types, files.subject_id, rate_hz)

    clock = sensors.draw_clock(rng)
    bcg = sensors.bcg(rng, drive, BCG_CHANNEL.rate_hz, clock, config.sensor)
    seconds = len(bcg.values) // BCG_CHANNEL.rate_hz
    values = BCG_GAIN * bcg.values[: seconds * BCG_CHANNEL.rate_hz]
    # The device's clock is wrong by clock.offset_s: its header says that it started with the ECG.
    edf.write_signals(files.bcg, [(BCG_CHANNEL, edf.saturated(BCG_CHANNEL, values))], start, text)

    truth = {
        "bcg_clock": dataclasses.asdict(clock),
        "bcg_snr_db": bcg.snr_db,
        "latent": night.latent.tolist(),
    }
    (out / "truth").mkdir(parents=True, exist_ok=True)
    (out / "truth" / f"{visit.recording_id}.json").write_text(json.dumps(truth) + "\n")
    beats = np.stack([drive.beat_times_s, bcg.j_times_s])
    np.save(out / "truth" / f"{visit.recording_id}-r-and-j.npy", beats)
    return visit.recording_id


def _slow_signals(rng: np.random.Generator, drive: physiology.Drive) -> dict[str, np.ndarray]:
    """Channels that breathing and beats move, by their label in capitals."""
    seconds = int(drive.duration_s)
    chest = 0.3 * drive.breathing + 0.02 * rng.normal(size=len(drive.breathing))
    belly = 0.35 * drive.breathing + 0.02 * rng.normal(size=len(drive.breathing))
    sway = np.clip(drive.movement / 50.0, 0.0, 1.0) * rng.normal(size=len(drive.movement))
    interval = np.diff(drive.beat_times_s)
    rate = np.interp(np.arange(seconds), drive.beat_times_s[1:], 60.0 / np.maximum(interval, 0.3))
    return {
        "THOR RES": chest + 0.5 * sway,
        "ABDO RES": belly + 0.5 * sway,
        "NEW AIR": 40.0 * drive.breathing,
        "AIRFLOW": 40.0 * drive.breathing,
        "H.R.": np.round(rate),
        "PR": np.round(rate),
        "SAO2": np.clip(np.round(96.0 + rng.normal(size=seconds)), 80.0, 100.0),
    }


def _background(rng: np.random.Generator, channel: edf.Channel, duration_s: float) -> np.ndarray:
    """A channel that the simulator has no model for: quiet noise, or the constant 0 of a status."""
    samples = int(duration_s) * channel.rate_hz
    if channel.rate_hz == 1:
        return np.zeros(samples)
    return 0.1 * max(channel.physical_range) * rng.normal(size=samples)


def write_cohort(out: Path, config: CohortConfig, workers: int = 0) -> Sequence[str]:
    """Writes every night of the cohort, `workers` at a time (0: one per core).

    The nights' bytes depend on `config` alone, not on `workers`. `simulation.json` claims the
    folder before the first night, and says at the end that the cohort is whole: then nothing is
    written again.

    Returns:
      The recording ids.

    Raises:
      ConfigError: the folder holds recordings of any other origin, such as a genuine SHHS.
    """
    settings = {"simulator": physiology.SIMULATOR_VERSION, **to_dict(config)}
    card, visits = out / shhs.SIMULATION_CARD, visits_of(config)
    if card.exists():
        found = json.loads(card.read_text())
        if found.get("settings") != settings:
            raise ConfigError(
                f"{out} holds another cohort: see {card.name}.", "Name another folder."
            )
        if found.get("complete"):
            return [visit.recording_id for visit in visits]
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(
            f"{out} is not empty and holds no simulated cohort.",
            "Name a new folder: a cohort's files have SHHS's own names.",
        )
    made = {"settings": settings, "versions": versions(), "git_revision": git_revision()}
    write_json(card, {"complete": False, **made})
    ids = list(
        map_nights(functools.partial(write_night, out, config), visits, workers, "Simulating")
    )
    write_json(card, {"complete": True, **made})
    return ids
