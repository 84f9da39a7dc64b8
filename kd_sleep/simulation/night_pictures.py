"""Two pictures of a simulated night: ten seconds of its signals, and all of it.

A seed gives the same files to the byte. ECG and BCG come from a sensor that is clearer than most.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from kd_sleep.pages import INK, MUTED, WIDE, drawing, drawing_file
from kd_sleep.schema import WINDOW_S
from kd_sleep.signals.filters import bandpass
from kd_sleep.simulation import beds, measures, sensors
from kd_sleep.simulation.physiology import DRIVE_HZ, Physiology
from kd_sleep.stages import STAGE_NAMES, Stage

ECG_HZ, BCG_HZ = 125.0, 100.0
SPAN_S = 10.0
HEART_HZ = (1.0, 12.0)  # what of a BCG is drawn: heartbeats without breathing, as a detector has it
# The clear ends of the film's own ranges, and breathing not much larger than heartbeats.
CLEAR_FILM = beds.fixed(
    beds.FILM,
    snr_db=11.0,
    noise_slope=1.5,
    vibration_db=-30.0,
    breathing_gain=1.5,
    breathing_noise=0.3,
)
_UPWARDS = (Stage.DEEP, Stage.LIGHT, Stage.REM, Stage.WAKE)


class Sensed(NamedTuple):
    """A night's ECG, [n] mV at ECG_HZ with R peaks upwards, and its BCG at BCG_HZ."""

    ecg: NDArray[np.float32]
    bcg: sensors.Bcg


def sense(night: Physiology, seed: int) -> Sensed:
    """ECG, and BCG of `CLEAR_FILM`, on the night's own clock."""
    ecg_rng, bcg_rng = np.random.default_rng([seed, 2]).spawn(2)
    ecg = sensors.ecg(ecg_rng, night.drive, ECG_HZ)
    at_r = np.clip((night.drive.beat_times_s * ECG_HZ).astype(int), 0, len(ecg) - 1)
    upright = ecg if np.median(ecg[at_r]) >= 0 else -ecg  # leads may be swapped
    return Sensed(upright, sensors.bcg(bcg_rng, night.drive, BCG_HZ, sensor=CLEAR_FILM))


def write_pictures(out: Path, night: Physiology, seed: int) -> None:
    """Writes ten_seconds.svg and night.svg to `out`, an existing folder; `seed` of the sensors."""
    sensed = sense(night, seed)
    (out / "ten_seconds.svg").write_text(_ten_seconds(night, sensed), encoding="utf-8")
    (out / "night.svg").write_text(_night_file(night, sensed), encoding="utf-8")


def night_drawing(night: Physiology, seed: int) -> str:
    """The whole night as inline SVG, for a page."""
    return _night_inline(night, sense(night, seed))


def quiet_start_s(night: Physiology, sensed: Sensed) -> float:
    """Start of the first ten seconds asleep, an hour or more into the night, that show a plain
    heartbeat: no movement within 20 s, no ectopic beat, the sensor on, and J peaks upwards."""
    drive = night.drive
    starts = np.arange(3600.0, drive.duration_s - 60.0, SPAN_S)
    for start_s in starts:
        asleep = night.latent[int(start_s // WINDOW_S)] in (Stage.LIGHT, Stage.DEEP)
        around = slice(int((start_s - 20.0) * DRIVE_HZ), int((start_s + 30.0) * DRIVE_HZ))
        times = drive.beat_times_s
        beats = (times > start_s - 2.0) & (times < start_s + SPAN_S + 2.0)
        ecg, bcg = (
            _span(sensed.ecg, ECG_HZ, start_s)[1],
            _span(sensed.bcg.values, BCG_HZ, start_s)[1],
        )
        there = np.count_nonzero(np.diff(ecg)) > len(ecg) / 2 and bcg.std() > 0
        plain = drive.beat_normal[beats].all() and sensed.bcg.upright[beats].all()
        if asleep and there and plain and not drive.movement[around].any():
            return float(start_s)
    return float(starts[0])


def _span(values: NDArray, rate_hz: float, start_s: float) -> tuple[NDArray, NDArray]:
    """Seconds from `start_s`, and the samples of ten seconds from there."""
    first = round(start_s * rate_hz)
    part = values[first : first + round(SPAN_S * rate_hz) + 1]
    return np.arange(len(part)) / rate_hz, part


@drawing_file
def _ten_seconds(night: Physiology, sensed: Sensed) -> tuple[Figure, str]:
    figure = Figure(figsize=(WIDE, 5.0), layout="constrained")
    ecg, bcg, rr = figure.subplots(3, 1, sharex=True, height_ratios=[1.2, 1.2, 0.8])
    start_s = quiet_start_s(night, sensed)
    times = night.drive.beat_times_s
    inside = (times >= start_s + 0.05) & (sensed.bcg.j_times_s <= start_s + SPAN_S - 0.05)
    r, j = times[inside] - start_s, sensed.bcg.j_times_s[inside] - start_s

    at, values = _span(sensed.ecg, ECG_HZ, start_s)
    ecg.plot(at, values, color=INK, lw=0.9)
    ecg.plot(r, _peak(at, values, r), "v", ms=5, color="#D55E00", label="R peaks")
    ecg.set_ylabel("ECG, mV")

    at, raw = _span(sensed.bcg.values, BCG_HZ, start_s)
    heart = bandpass(sensed.bcg.values, BCG_HZ, *HEART_HZ)
    heart = _span(heart, BCG_HZ, start_s)[1]
    bcg.plot(
        at, raw - raw.mean(), color=MUTED, lw=0.8, alpha=0.7, label="as sensed, with breathing"
    )
    bcg.plot(at, heart, color=INK, lw=0.9, label="1-12 Hz")
    tops = _peak(at, heart, j)
    bcg.plot(j, tops, "v", ms=5, color="#0072B2", label="J peaks")
    bcg.set_ylabel("BCG, heartbeats")

    rr.plot(r[1:], np.diff(r), "o-", ms=4, lw=0.9, color=INK)
    middle, half = np.diff(r).mean(), max(0.7 * np.ptp(np.diff(r)), 0.08)
    rr.set(ylabel="RR interval, s", xlabel="seconds", xlim=(0, SPAN_S))
    rr.set_ylim(middle - half, middle + half)
    for axes, room in ((ecg, 0.1), (bcg, 0.3)):
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + room * (high - low))
        axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1.0, 0.97), borderaxespad=0.0)
    delay_ms = _point_out_delay(ecg, bcg, float(r[3]), float(j[3]))
    low_ms, high_ms = 1e3 * np.diff(r).min(), 1e3 * np.diff(r).max()
    text = (
        f"Ten seconds of a simulated night on one time axis: an ECG with {len(r)} R peaks; the"
        " ballistocardiogram of a film under the mattress, with a J peak after each R peak, at the"
        f" one pointed out {delay_ms:.0f} ms later; and the RR intervals, {low_ms:.0f} to"
        f" {high_ms:.0f} ms."
    )
    figure.align_ylabels()
    return figure, text


def _peak(at: NDArray, values: NDArray, times: NDArray) -> NDArray:
    """The signal's top within 50 ms of each time: there stands the mark."""
    return np.array([values[np.abs(at - time) <= 0.05].max() for time in times])


def _point_out_delay(ecg: Axes, bcg: Axes, r: float, j: float) -> float:
    """Lines down from one R peak and its J peak, and the time between them in words."""
    for axes in (ecg, bcg):
        axes.axvline(r, color="#D55E00", lw=0.8, ls=":")
    bcg.axvline(j, color="#0072B2", lw=0.8, ls=":")
    low, high = bcg.get_ylim()
    level = high - 0.08 * (high - low)
    bcg.annotate("", (r, level), (j, level), arrowprops={"arrowstyle": "<->", "lw": 0.8,
                 "shrinkA": 0, "shrinkB": 0, "color": INK})  # fmt: skip
    delay_ms = 1e3 * (j - r)
    bcg.text(j + 0.06, level, f"RJ delay {delay_ms:.0f} ms", va="center", fontsize=9)
    return delay_ms


def _night(night: Physiology, sensed: Sensed) -> tuple[Figure, str]:
    figure = Figure(figsize=(WIDE, 6.6), layout="constrained")
    panels = figure.subplots(5, 1, sharex=True, height_ratios=[1.7, 1.5, 1.3, 1.0, 1.4])
    stages, heart, breath, movement, bcg = panels
    hours = (np.arange(len(night.latent)) + 0.5) * WINDOW_S / 3600.0
    level = np.array([_UPWARDS.index(Stage(k)) for k in range(len(Stage))])
    stages.plot(hours, level[night.scored] - 0.14, ds="steps-mid", color=MUTED, lw=0.7,
                label="scored")  # fmt: skip
    stages.plot(hours, level[night.latent], ds="steps-mid", color=INK, lw=1.1, label="latent")
    stages.set_yticks(range(4), [STAGE_NAMES[k] for k in _UPWARDS])
    stages.set_ylabel("stage")
    # Above the axes: the line has no corner that it leaves free.
    stages.legend(
        ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0, reverse=True
    )
    windows = len(night.latent)
    beats_s = night.drive.beat_times_s
    normal = night.drive.beat_normal
    rr = np.diff(beats_s)
    good = measures.clean(rr, normal[1:] & normal[:-1])
    rate = 60.0 / _per_window(beats_s[1:][good], rr[good], windows)
    heart.plot(hours, rate, color=INK, lw=0.9)
    heart.set_ylabel("beats/min")
    wave = night.drive.breathing
    starts_s = np.flatnonzero((wave[1:] > 0) & (wave[:-1] <= 0)) / DRIVE_HZ
    breaths = 60.0 / _per_window(starts_s[1:], np.diff(starts_s), windows)
    breath.plot(hours, breaths, color=INK, lw=0.9)
    breath.set_ylabel("breaths/min")
    strength = night.drive.movement.reshape(windows, -1).max(1)
    movement.vlines(hours[strength > 0], 0.0, strength[strength > 0], color=INK, lw=0.8)
    movement.set(ylabel="movement", yticks=[])
    bcg.plot(hours, _envelope(sensed.bcg.values, windows), color=INK, lw=0.8)
    bcg.set_yscale("log")
    bcg.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bcg.yaxis.set_minor_formatter(NullFormatter())
    bcg.set(ylabel="BCG, RMS", xlabel="hours from lights off", xlim=(0, hours[-1]))
    figure.align_ylabels(panels)
    shares = ", ".join(f"{STAGE_NAMES[k]} {np.mean(night.latent == k):.0%}" for k in Stage)
    text = (
        f"A simulated night of {windows * WINDOW_S / 3600:.1f} hours. Stages: {shares}. Heart rate"
        f" {np.nanpercentile(rate, 5):.0f} to {np.nanpercentile(rate, 95):.0f} beats a minute,"
        f" breathing {np.nanpercentile(breaths, 5):.0f} to {np.nanpercentile(breaths, 95):.0f}"
        f" breaths a minute, movement in {np.mean(strength > 0):.0%} of the windows, and the BCG's"
        " strength, which leaps with movements and steps where the posture changes."
    )
    return figure, text


_night_file = drawing_file(_night)
_night_inline = drawing(_night)


def _per_window(at_s: NDArray, values: NDArray, windows: int) -> NDArray[np.float64]:
    """Mean over the values in each window; NaN where there are none."""
    index = np.minimum((at_s / WINDOW_S).astype(int), windows - 1)
    count = np.bincount(index, minlength=windows)
    return np.bincount(index, values, windows) / np.where(count, count, np.nan)


def _envelope(bcg: NDArray, windows: int) -> NDArray[np.float64]:
    """RMS of the band of heartbeats in each window; NaN where the sensor gave nothing."""
    heart = bandpass(bcg, BCG_HZ, *HEART_HZ).reshape(windows, -1)
    rms = np.sqrt((heart.astype(np.float64) ** 2).mean(1))
    return np.where(rms > 0, rms, np.nan)
