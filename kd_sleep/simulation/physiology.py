"""A night's physiology: stages, beats, breathing and movement, before any sensor.

The hypnogram drives everything here. What leaves this module towards the sensors is a `Drive`,
which has no field for a stage: ECG and BCG can know of sleep only through beats, breath and
movement. Who sleeps is in `subject`, how in `hypnogram`, what heart and breath do in `autonomic`;
`validation` holds their sum against the literature.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from kd_sleep.schema import WINDOW_S
from kd_sleep.simulation import autonomic, hypnogram
from kd_sleep.simulation.autonomic import DRIVE_HZ, band_noise
from kd_sleep.simulation.subject import Subject, draw_subject
from kd_sleep.stages import Stage

__all__ = [
    "DRIVE_HZ",
    "SIMULATOR_VERSION",
    "Drive",
    "Physiology",
    "Subject",
    "band_noise",
    "draw_subject",
    "simulate_night",
]

SIMULATOR_VERSION = "1.1"  # frozen: any change of what a seed gives is another version


@dataclasses.dataclass(frozen=True)
class Drive:
    """What sensors can see of a body. Times in seconds from the start of the recording.

    Attributes:
      duration_s: length of the night.
      beat_times_s: [M] R times, increasing.
      beat_normal: [M] bool, False for ectopic beats.
      breathing: [duration * DRIVE_HZ] chest excursion, about ±1 at rest.
      movement: [duration * DRIVE_HZ] strength of body movement, 0 at rest, in heartbeat amplitudes.
    """

    duration_s: float
    beat_times_s: NDArray[np.float64]
    beat_normal: NDArray[np.bool_]
    breathing: NDArray[np.float64]
    movement: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Physiology:
    """A night before any sensor: what the body did (`latent`), what a scorer wrote; [N] int8."""

    latent: NDArray[np.int8]
    scored: NDArray[np.int8]
    drive: Drive


def simulate_night(
    rng: np.random.Generator, subject: Subject, hours: float, null: bool = False
) -> Physiology:
    """One night of `hours`, of `subject`, from lights off.

    Args:
      rng: the night's own. Stages and body draw from generators that it spawns.
      subject: who sleeps.
      hours: length of the recording.
      null: the body behaves as in Light all night, whatever the stages are: then nothing but time
        of night tells of them.
    """
    windows = int(hours * 3600.0 / WINDOW_S)
    samples = int(windows * WINDOW_S * DRIVE_HZ)
    stage_rng, body_rng = rng.spawn(2)
    latent = hypnogram.draw_stages(stage_rng, subject, windows)
    scored = hypnogram.score(stage_rng, latent)
    stages = np.full_like(latent, Stage.LIGHT) if null else latent
    events = autonomic.draw_events(body_rng, subject, stages, samples)
    rr_s, breathing = autonomic.heart_and_breath(body_rng, subject, stages, events)
    times, normal = autonomic.beats(body_rng, subject, rr_s)
    drive = Drive(windows * WINDOW_S, times, normal, breathing, events.movement)
    return Physiology(latent, scored, drive)
