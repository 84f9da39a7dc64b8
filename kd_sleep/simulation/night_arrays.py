"""Simulated nights as arrays, to try things on without a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from kd_sleep.schema import BCG_HZ
from kd_sleep.simulation import physiology, sensors

COHORT = f"kd_sleep simulator {physiology.SIMULATOR_VERSION}"


def simulated_arrays(
    subjects: Iterable[int], hours: float = 6.0, sensor: str = "mix", bcg: bool = True
) -> dict[str, Any]:
    """A night of each subject, as `kd_sleep.Nights.from_arrays` takes them.

    Args:
      subjects: numbers; the same number is the same person and night.
      hours: length of the nights.
      sensor: under the bed: film, load_cell or mix.
      bcg: whether there is one.

    Returns:
      subject_ids, beat_times_s, stages, bcg with bcg_rate_hz, and cohort.
    """
    nights = []
    for number in subjects:
        rng = np.random.default_rng([number, 1])
        person = physiology.draw_subject(np.random.default_rng(number))
        night = physiology.simulate_night(rng, person, hours)
        values = sensors.bcg(rng, night.drive, BCG_HZ, sensor=sensor).values if bcg else None
        nights.append((str(number), night.drive.beat_times_s, night.scored, values))
    names, beats, stages, samples = zip(*nights, strict=True)
    return {
        "subject_ids": names,
        "beat_times_s": beats,
        "stages": stages,
        "bcg": samples,
        "bcg_rate_hz": BCG_HZ,
        "cohort": COHORT,
    }
