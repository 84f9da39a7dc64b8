"""Bed sensors: the ranges that a night draws its own from. Sources stand in `sensors`."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

Array = Any  # of NumPy or JAX


class Range(NamedTuple):
    """What a night draws one value from: uniform between two values, or uniform in their logs."""

    low: float
    high: float
    log: bool = False

    def at(self, uniform: Array) -> Array:
        """The value at a quantile; NumPy or JAX."""
        if self.log:
            return self.low * (self.high / self.low) ** uniform
        return self.low + (self.high - self.low) * uniform

    def hull(self, other: Range) -> Range:
        """From the lower of both ranges to the higher."""
        return Range(min(self.low, other.low), max(self.high, other.high), self.log)


@dataclasses.dataclass(frozen=True)
class Sensor:
    """Ranges that each night draws its sensor from. Amplitudes are in heartbeats (J = 1).

    Attributes:
      complex_hz: frequency of the IJK complex.
      ring_s: time constant of its ring-down.
      breathing_gain: size of a breath of excursion 1.
      path_lag_s: belly after chest: two paths to the sensor, whose weights change with posture.
      breathing_noise: of body and mattress, in the band of breathing; RMS over `breathing_gain`.
      coupling_hz: corner of the first-order high-pass; a load cell is nearly DC-coupled.
      snr_db: heartbeat power over sensor noise power in 1-8 Hz, mean of the night.
      noise_slope: the noise's power falls as 1 / f^slope up to 10 Hz, and is white above.
      vibration_hz: of a fan, a pump, a building.
      vibration_db: its power over that of the noise in 1-8 Hz.
      snoring: loudest noise of a snored breath over the sensor noise.
      saturation: the largest value that the sensor can show.
      dropouts_per_h: of 5-60 s.
      posture_log_sd: spread of log gain between postures.
      flip: chance that a posture turns the beats upside down.
      weight_step: change of the load on the sensor at a change of posture.
      movement_gain: what the sensor makes of a movement; a log SD of 0.7 between movements on top.
      partner: the same of somebody else's movements in the bed.
    """

    complex_hz: Range
    ring_s: Range
    breathing_gain: Range
    path_lag_s: Range
    breathing_noise: Range
    coupling_hz: Range
    snr_db: Range
    noise_slope: Range
    vibration_hz: Range
    vibration_db: Range
    snoring: Range
    saturation: Range
    dropouts_per_h: Range
    posture_log_sd: Range
    flip: Range
    weight_step: Range
    movement_gain: Range
    partner: Range

    def hull(self, other: Sensor) -> Sensor:
        """Ranges that span those of both."""
        fields = dataclasses.fields(self)
        return Sensor(*(getattr(self, f.name).hull(getattr(other, f.name)) for f in fields))


FILM = Sensor(
    complex_hz=Range(2.5, 6.5),
    ring_s=Range(0.13, 0.24),
    breathing_gain=Range(0.5, 5.0, log=True),
    path_lag_s=Range(0.0, 0.6),
    breathing_noise=Range(0.3, 1.1, log=True),
    coupling_hz=Range(0.05, 0.3, log=True),
    snr_db=Range(-5.0, 11.0),
    noise_slope=Range(0.5, 1.5),
    vibration_hz=Range(6.0, 30.0),
    vibration_db=Range(-30.0, 0.0),
    snoring=Range(0.01, 2.0, log=True),
    saturation=Range(50.0, 200.0, log=True),
    dropouts_per_h=Range(0.02, 0.3),
    posture_log_sd=Range(0.2, 0.5),
    flip=Range(0.1, 0.3),
    weight_step=Range(20.0, 150.0, log=True),
    movement_gain=Range(0.3, 2.0, log=True),
    partner=Range(0.01, 0.4, log=True),
)
# Four posts carry the whole bed: less of posture and of distance to the sensor, more of all else in
# the room; the bed's frame rings longer.
LOAD_CELL = Sensor(
    complex_hz=Range(3.0, 6.0),
    ring_s=Range(0.16, 0.30),
    breathing_gain=Range(0.5, 5.0, log=True),
    path_lag_s=Range(0.0, 0.6),
    breathing_noise=Range(0.3, 1.1, log=True),
    coupling_hz=Range(0.0001, 0.001, log=True),
    snr_db=Range(-5.0, 11.0),
    noise_slope=Range(0.5, 1.5),
    vibration_hz=Range(6.0, 30.0),
    vibration_db=Range(-25.0, 0.0),
    snoring=Range(0.01, 1.0, log=True),
    saturation=Range(200.0, 400.0, log=True),
    dropouts_per_h=Range(0.01, 0.1),
    posture_log_sd=Range(0.1, 0.35),
    flip=Range(0.0, 0.15),
    weight_step=Range(10.0, 100.0, log=True),
    movement_gain=Range(0.5, 2.0, log=True),
    partner=Range(0.03, 0.8, log=True),
)
SENSORS = {"film": FILM, "load_cell": LOAD_CELL, "mix": FILM.hull(LOAD_CELL)}


def quiet(sensor: Sensor) -> Sensor:
    """The same sensor where it and the room add nothing: what is left is the sleeper's own."""
    nothing = 1e-6
    return dataclasses.replace(
        sensor,
        snr_db=Range(60.0, 60.0),
        vibration_db=Range(-60.0, -60.0),
        breathing_noise=Range(nothing, nothing),
        snoring=Range(nothing, nothing),
        partner=Range(nothing, nothing),
        dropouts_per_h=Range(nothing, nothing),
    )
