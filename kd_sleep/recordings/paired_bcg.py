"""A real BCG recording of a night, on its own clock."""

from __future__ import annotations

import dataclasses
import datetime
import os

import numpy as np

from kd_sleep.errors import RecordingError
from kd_sleep.recordings.edf import read_signals
from kd_sleep.recordings.recording import Signal

_LABELS = ("BCG", "Bed", "Mattress", "Film", "Load cell")
_LOWEST_RATE_HZ = 40.0  # the noise band that quality is judged against reaches up to 20 Hz


@dataclasses.dataclass(frozen=True)
class BcgRecording:
    """A night seen by a bed sensor.

    Attributes:
      signal: the BCG, in whatever unit the sensor has.
      start: by the sensor's clock, which drifts against the sleep recorder's; None where unusable.
    """

    signal: Signal
    start: datetime.datetime | None


def read_bcg(path: str | os.PathLike) -> BcgRecording:
    """Reads the BCG channel of an EDF file: the one named so, or else the only one there is.

    Raises:
      RecordingError: for a file that is missing or unusable, without a BCG channel, slower than
        40 Hz, or with a signal that never changes.
    """
    edf = read_signals(path, {"bcg": _LABELS})
    if not edf.signals and len(edf.labels) == 1:
        edf = read_signals(path, {"bcg": edf.labels})
    if not edf.signals:
        raise RecordingError(
            path,
            f"has no BCG channel among {', '.join(edf.labels)}.",
            f"Name it one of {', '.join(_LABELS)}.",
        )
    signal = edf.signals["bcg"]
    if signal.rate_hz < _LOWEST_RATE_HZ:
        raise RecordingError(
            path,
            f"channel {signal.label!r} has {signal.rate_hz:g} Hz.",
            f"BCG is needed at {_LOWEST_RATE_HZ:g} Hz or more.",
        )
    if np.ptp(signal.values) == 0:
        raise RecordingError(
            path,
            f"channel {signal.label!r} never changes.",
            "Check the sensor; leave the night out.",
        )
    return BcgRecording(signal, edf.start)
