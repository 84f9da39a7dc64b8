"""A night's physiology: stages, beats, breathing and movement, before any sensor.

The hypnogram drives everything here. What leaves this module towards the sensors is a `Drive`,
which has no field for a stage: ECG and BCG can know of sleep only through beats, breath and
movement.

Each constant stands with its source; "unsourced" marks common knowledge. [Mixed-500] is a stage
chain of 500 mixed-age nights, [Penzel] is PMC5078504, both as collected in BUILD_NOTES.md.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import NUM_STAGES, Stage

SIMULATOR_VERSION = "0.1"
DRIVE_HZ = 10.0  # grid of breathing and movement; SHHS records effort at 10 Hz

_W, _R, _L, _D = Stage.WAKE, Stage.REM, Stage.LIGHT, Stage.DEEP

# Per 30 s, rows from, columns to, in the order Wake, REM, Light, Deep [Mixed-500].
TRANSITIONS = np.array(
    [
        [0.9138, 0.0073, 0.0783, 0.0006],
        [0.0363, 0.9361, 0.0276, 0.0000],
        [0.0421, 0.0135, 0.9094, 0.0349],
        [0.0098, 0.0006, 0.1120, 0.8776],
    ]
)

# By stage, in the order Wake, REM, Light, Deep.
HEART_RATE = np.array([1.06, 1.00, 0.98, 0.99])  # of the REM rate [Penzel]
BREATHING_RATE = np.array([1.02, 1.00, 0.95, 0.92])  # of the REM rate [Penzel]
RSA = np.array([0.90, 1.00, 1.33, 1.37])  # strength of respiratory sinus arrhythmia [Penzel]
LF_HF = np.array([2.0, 2.2, 1.3, 0.6])  # unsourced
BREATH_CV = np.array([0.25, 0.18, 0.10, 0.06])  # of breath intervals, unsourced
VLF_LF = np.array(
    [2.5, 2.0, 0.8, 0.4]
)  # slow power: 1/f-like in Wake and REM, little in NREM; unsourced
MOVEMENTS_PER_H = np.array([40.0, 7.0, 6.0, 1.5])  # large body movements, unsourced

# Two scorers agree on 82-88 % of windows. Rows: the latent stage; what a scorer writes far from a
# transition. Next to one, a scorer may put the boundary a window early or late instead.
SCORED_AS = np.array(
    [
        [0.94, 0.02, 0.04, 0.00],
        [0.02, 0.93, 0.05, 0.00],
        [0.02, 0.03, 0.90, 0.05],
        [0.00, 0.00, 0.11, 0.89],
    ]
)
BOUNDARY_SHIFT = 0.25  # chance that a window beside a transition is scored as its neighbour


@dataclasses.dataclass(frozen=True)
class Subject:
    """What stays with a person from night to night."""

    heart_rate_bpm: float
    rsa_s: float  # amplitude of RSA in REM
    breaths_per_min: float
    ectopic_per_h: float
    stage_response: float  # how strongly mean heart rate follows the stage; 0 in some people
    lf_hf_factor: float


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


def draw_subject(rng: np.random.Generator) -> Subject:
    """A person: heart rate 62 ± 9 bpm, RMSSD median 25 ms (log SD 0.5), 15 ± 2.5 breaths/min."""
    return Subject(
        heart_rate_bpm=float(np.clip(rng.normal(62.0, 9.0), 42.0, 95.0)),
        # A sinusoid of amplitude A at a quarter of the heart rate has an RMSSD of about A; RSA in
        # NREM, most of the night, is 1.33 times that in REM, and LF adds a fifth.
        rsa_s=float(np.clip(0.025 / 1.3 * np.exp(rng.normal(0.0, 0.5)), 0.004, 0.08)),
        breaths_per_min=float(np.clip(rng.normal(15.0, 2.5), 9.0, 22.0)),
        ectopic_per_h=float(np.exp(rng.normal(2.0, 1.2)) if rng.random() < 0.4 else 0.0),
        stage_response=float(np.clip(rng.normal(0.8, 0.4), 0.0, 1.6)),
        lf_hf_factor=float(np.exp(rng.normal(0.0, 0.4))),
    )


def _stage_chain(rng: np.random.Generator, windows: int) -> NDArray[np.int8]:
    """A Markov chain whose way into Deep fades, and into REM grows, in cycles of 90 min."""
    hours = np.arange(windows) * WINDOW_S / 3600.0
    cycle = np.sin(2 * np.pi * (hours - 1.17) / 1.5)  # first REM rises about 70 min in
    into_deep = (2.2 * np.exp(-hours / 2.0) + 0.25) * (1.0 - 0.4 * cycle)
    into_rem = np.clip(0.15 + 0.3 * hours, 0.0, 2.2) * (1.0 + 0.8 * cycle)
    into_rem[hours < 0.75] = 0.0
    uniform = rng.random(windows)
    stages = np.empty(windows, np.int8)
    state = int(_W)
    for n in range(windows):
        row = TRANSITIONS[state].copy()
        if state != _D:
            row[_D] *= into_deep[n]
        if state != _R:
            row[_R] *= into_rem[n]
        row[state] = max(0.0, 1.0 - (row.sum() - row[state]))  # the rest stays
        state = int(np.searchsorted(np.cumsum(row) / row.sum(), uniform[n]))
        stages[n] = min(state, NUM_STAGES - 1)
    return stages


def _score(rng: np.random.Generator, latent: NDArray[np.int8]) -> NDArray[np.int8]:
    """What a scorer writes: the latent stages through confusion and shifted boundaries."""
    cumulative = np.cumsum(SCORED_AS, axis=1)[latent]
    scored = (rng.random((len(latent), 1)) > cumulative).sum(1).clip(max=NUM_STAGES - 1)
    before, after = np.r_[latent[:1], latent[:-1]], np.r_[latent[1:], latent[-1:]]
    for neighbour in (before, after):
        moved = (neighbour != latent) & (rng.random(len(latent)) < BOUNDARY_SHIFT)
        scored = np.where(moved, neighbour, scored)
    return scored.astype(np.int8)


def band_noise(
    rng: np.random.Generator, samples: int, low_hz: float, high_hz: float, slope: float = 0.0
) -> NDArray[np.float64]:
    """Gaussian noise of unit variance in a band, power ~ 1 / f^slope, on the DRIVE_HZ grid."""
    frequency = np.fft.rfftfreq(samples, 1 / DRIVE_HZ)
    inside = (frequency >= low_hz) & (frequency <= high_hz) & (frequency > 0)
    inside[1] |= high_hz < frequency[1]  # a night shorter than the band's periods: its slowest wave
    spectrum = np.zeros(len(frequency), complex)
    gain = frequency[inside] ** (-slope / 2)
    spectrum[inside] = gain * (rng.normal(size=inside.sum()) + 1j * rng.normal(size=inside.sum()))
    values = np.fft.irfft(spectrum, samples)
    return values / (values.std() + 1e-12)


def _movement(
    rng: np.random.Generator, latent: NDArray[np.int8], samples: int
) -> NDArray[np.float64]:
    """Bursts of 3-15 s, 10-50 heartbeats strong, at a rate that depends on the stage."""
    rate = MOVEMENTS_PER_H[latent] * np.exp(rng.normal(0.0, 0.3))
    starts_by_window = rng.poisson(rate * WINDOW_S / 3600.0)
    movement = np.zeros(samples)
    for window in np.repeat(np.arange(len(latent)), starts_by_window):
        start = (window + rng.random()) * WINDOW_S
        length = np.clip(np.exp(rng.normal(np.log(6.0), 0.45)), 3.0, 15.0)
        a, b = int(start * DRIVE_HZ), min(int((start + length) * DRIVE_HZ), samples)
        if b - a > 2:
            burst = np.exp(rng.uniform(np.log(10.0), np.log(50.0))) * np.hanning(b - a)
            movement[a:b] = np.maximum(movement[a:b], burst)
    return movement


def _beats(
    rng: np.random.Generator, rr_s: NDArray[np.float64], ectopic_per_h: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Beat times by integral pulse frequency modulation of the interval rr(t), some ectopic.

    A beat falls where the integral of 1 / rr crosses an integer.
    """
    phase = np.concatenate([[0.0], np.cumsum(1.0 / rr_s) / DRIVE_HZ])
    clock = np.arange(len(phase)) / DRIVE_HZ
    times = np.interp(np.arange(rng.random(), phase[-1]), phase, clock)
    normal = np.ones(len(times), bool)
    chance = ectopic_per_h / 3600.0 * np.diff(times, append=times[-1:])
    early = np.flatnonzero(rng.random(len(times)) < chance)
    early = early[(early > 0) & (early < len(times) - 1)]
    early = early[np.diff(early, prepend=-9) > 1]  # never two in a row
    interval = times[early] - times[early - 1]
    times[early] -= interval * rng.uniform(0.25, 0.4, len(early))  # the pause after it compensates
    normal[early] = False
    return times, normal


def simulate_night(rng: np.random.Generator, subject: Subject, hours: float) -> Physiology:
    """One night of `hours`, of `subject`.

    The RR interval is a sum, RR(t) = mean(stage, clock) + VLF + LF + RSA + responses to movement,
    each with a size that depends on the stage; RSA is bound to the phase of breathing.
    Stage-dependent sizes glide over about 40 s.
    """
    windows = int(hours * 3600.0 / WINDOW_S)
    samples = int(windows * WINDOW_S * DRIVE_HZ)
    latent = _stage_chain(rng, windows)
    movement = _movement(rng, latent, samples)

    def by_stage(values: NDArray) -> NDArray[np.float64]:
        steps = np.repeat(values[latent], int(WINDOW_S * DRIVE_HZ))
        return ndimage.uniform_filter1d(steps.astype(float), int(40 * DRIVE_HZ), mode="nearest")

    def slow_factor(log_sd: float) -> NDArray[np.float64]:
        """A nuisance that no stage explains: wanders over tens of minutes."""
        return np.exp(log_sd * band_noise(rng, samples, 0.0, 1 / 900.0))

    hours_of = np.arange(samples) / DRIVE_HZ / 3600.0
    # Breathing: the rate changes from breath to breath (below 0.15 Hz) with the stage's CV.
    variation = by_stage(BREATH_CV) * band_noise(rng, samples, 0.0, 0.15)
    breaths_per_s = subject.breaths_per_min / 60.0 * by_stage(BREATHING_RATE) * np.exp(variation)
    phase = 2 * np.pi * np.cumsum(np.clip(breaths_per_s, 0.08, 0.6)) / DRIVE_HZ
    depth = np.exp(by_stage(BREATH_CV) * band_noise(rng, samples, 0.0, 0.1))
    breathing = depth * np.sin(phase)

    # Mean rate: stage (small, and absent in some people), a fall over the night, slow wandering.
    response = 1.0 + subject.stage_response * (by_stage(HEART_RATE) - 1.0)
    fall = np.exp(-0.012 * np.minimum(hours_of, 5.0)) * slow_factor(0.03)
    # A movement speeds the heart up by a tenth for some ten seconds.
    kernel = np.exp(-np.arange(int(30 * DRIVE_HZ)) / (8.0 * DRIVE_HZ))
    arousal = np.convolve(movement > 0, kernel / kernel.sum())[:samples]
    rate_bpm = subject.heart_rate_bpm * response * fall * (1.0 + 0.25 * arousal)

    rsa_s = subject.rsa_s * by_stage(RSA) * slow_factor(0.25)
    lf_sd_s = np.sqrt(by_stage(LF_HF) * subject.lf_hf_factor * rsa_s**2 / 2.0)
    vlf_sd_s = np.sqrt(by_stage(VLF_LF)) * lf_sd_s
    rr_s = (
        60.0 / rate_bpm
        + rsa_s * np.sin(phase)
        + lf_sd_s * band_noise(rng, samples, 0.04, 0.15)
        + vlf_sd_s * band_noise(rng, samples, 0.003, 0.04, slope=1.0)
    )
    times, normal = _beats(rng, np.clip(rr_s, 0.4, 1.9), subject.ectopic_per_h)
    drive = Drive(windows * WINDOW_S, times, normal, breathing, movement)
    return Physiology(latent, _score(rng, latent), drive)
