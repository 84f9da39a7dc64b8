"""A night's stages: latent ones, and what a scorer makes of them.

A semi-Markov process: sleep comes in cycles of NREM and REM whose parts have lengths of their own;
within NREM, Deep bouts use up a pressure that decays over the night; awakenings interrupt it all,
at a rate that depends on the stage, for a time with a heavy tail. The recording begins at lights
off and ends some time after the last awakening. SHHS's figures are of a person's first night with
sensors on, at home, and so is every night here: the wake of a first night is in them.

[Mixed-500] is a stage chain of 500 mixed-age nights as collected in BUILD_NOTES.md; [SHHS-2]
Chronobiology in Medicine 5(2), 2023, table 1; [Lo] PNAS 2004;101:17545, wake bouts follow a power
law; "unsourced" marks common knowledge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kd_sleep.schema import WINDOW_S
from kd_sleep.simulation.subject import Subject
from kd_sleep.stages import NUM_STAGES, Stage

_PER_MIN = 60.0 / WINDOW_S

LATENCY_MIN = (25.5, 28.9)  # to the first window of sleep, mean and SD [SHHS-2]
# From the last awakening to the end: awake in bed, and until the sensors are off; unsourced.
END_MIN = (42.0, 32.0)

# Sleep, without the wake in it, by cycle; the last one repeats. A cycle is some 90 min; REM latency
# 96 ± 61 min [SHHS-2], in whose spread some people miss the first REM episode.
NREM_MIN = (74.0, 74.0, 68.0, 64.0)
NREM_LOG_SD = 0.25
REM_MIN = (12.0, 22.0, 29.0, 32.0)
REM_LOG_SD = 0.35
FIRST_REM_MISSED = 0.12

DEEP_DECAY_H = 2.6  # of the pressure for Deep; most of it lies in the first third of the night
DEEP_BOUT = 8.0  # windows; [Mixed-500] 8.2, at 67 years 4 (PMC4857208)
LIGHT_IN_DEEP = 5.0  # windows of Light between two Deep bouts, unsourced
LIGHT_FIRST = 14.0  # windows of Light before the first Deep bout of a cycle, unsourced
LIGHT_IN_REM = (0.02, 3.0)  # chance per REM window, and its length, unsourced

# Chance per window of waking: [Mixed-500] 0.036 in REM, 0.042 in Light, 0.010 in Deep, of which
# scorers put in some by themselves.
AWAKENING = np.array([0.0, 0.032, 0.037, 0.008])
NIGHT_LOG_SD = 0.3  # of one person's awakenings from night to night, unsourced
WAKE_EXPONENT = 2.0  # of the density of wake bouts' lengths; [Lo] 2.2 in healthy people
WAKE_MAX = 160.0  # windows
REM_AFTER_WAKE = 0.5  # of awakenings from REM, straight back; the rest through Light

# A scorer is wrong in runs, and mistakes a stage for one that is near. Chance per window, beside a
# window of the other stage; the latent stage in rows. It fades over NEAR_WINDOWS to FAR of it. Two
# scorers then agree on 82-88 % of windows; which stages are mistaken: 10.5664/jcsm.9538.
CONFUSION = np.array(
    [
        [0.00, 0.05, 0.14, 0.00],
        [0.04, 0.00, 0.14, 0.00],
        [0.05, 0.07, 0.00, 0.14],
        [0.00, 0.00, 0.30, 0.00],
    ]
)
CONFUSION_RUN = 4.0  # windows, mean
NEAR_WINDOWS = 5.0
FAR = 0.08
# Mean distance, in windows, at which a scorer puts the border between two stages.
BORDER_SHIFT = np.array(
    [
        [0.0, 0.7, 0.5, 1.0],
        [0.7, 0.0, 1.2, 1.0],
        [0.5, 1.2, 0.0, 1.2],
        [1.0, 1.0, 1.2, 0.0],
    ]
)

Bout = tuple[int, int]  # stage, windows


def _lognormal(rng: np.random.Generator, mean: float, sd: float) -> float:
    """A draw of a lognormal of that mean and SD."""
    variance = np.log1p((sd / mean) ** 2)
    return float(np.exp(rng.normal(np.log(mean) - variance / 2, np.sqrt(variance))))


def _bout_lengths(rng: np.random.Generator, windows: int, mean: float) -> NDArray[np.int64]:
    """`windows` split at random into bouts of about `mean`, none empty."""
    pieces = min(max(1, round(windows / mean)), windows)
    borders = np.sort(rng.choice(np.arange(1, windows), pieces - 1, replace=False))
    return np.diff(np.concatenate([[0], borders, [windows]]))


def _undisturbed(rng: np.random.Generator, subject: Subject, windows: int) -> list[Bout]:
    """Sleep's bouts as they would be if nothing woke the sleeper, at least `windows` of them."""
    bouts: list[Bout] = []
    slept = cycle = 0
    missed = rng.random() < FIRST_REM_MISSED
    # Deep windows per cycle, as if the night had 6.3 h of sleep [SHHS-2].
    weights = np.exp(-1.5 * np.arange(4) / DEEP_DECAY_H)
    deep_night = subject.deep_share * 6.3 * 60.0 * _PER_MIN * np.exp(0.2 * rng.normal())
    while slept < windows:
        nrem_min = NREM_MIN[min(cycle, 3)] * np.exp(NREM_LOG_SD * rng.normal())
        nrem = max(4, round(nrem_min * _PER_MIN))
        pressure = np.exp(-slept / _PER_MIN / 60.0 / DEEP_DECAY_H) / weights.sum()
        deep = min(round(deep_night * pressure * np.exp(0.2 * rng.normal())), int(0.8 * nrem))
        first = min(1 + int(rng.gamma(3.0, LIGHT_FIRST / 3.0)), nrem - deep - 1)
        part: list[Bout] = [(Stage.LIGHT, first)]
        left = nrem - first - deep
        for length in _bout_lengths(rng, deep, DEEP_BOUT) if deep else ():
            gap = min(1 + int(rng.exponential(LIGHT_IN_DEEP)), left)
            part += [(Stage.DEEP, int(length)), (Stage.LIGHT, gap)]
            left -= gap
        part.append((Stage.LIGHT, left))
        if not (cycle == 0 and missed):
            rem_min = (
                REM_MIN[min(cycle, 3)] * subject.rem_factor * np.exp(REM_LOG_SD * rng.normal())
            )
            rem = max(2, round(rem_min * _PER_MIN))
            for length in _bout_lengths(rng, rem, 1.0 / LIGHT_IN_REM[0]):
                part += [
                    (Stage.REM, int(length)),
                    (Stage.LIGHT, 1 + int(rng.exponential(LIGHT_IN_REM[1]))),
                ]
        bouts += part
        slept += sum(length for _, length in part)
        cycle += 1
    return bouts


def _wake_bout(rng: np.random.Generator) -> int:
    """Windows of one awakening: a power law cut off at WAKE_MAX."""
    steep = WAKE_EXPONENT - 1.0
    tail = WAKE_MAX**-steep
    return int(np.ceil((tail + (1.0 - tail) * rng.random()) ** (-1.0 / steep) - 0.5).clip(min=1))


def draw_stages(rng: np.random.Generator, subject: Subject, windows: int) -> NDArray[np.int8]:
    """The latent stages of one night, [windows]; all Wake where no sleep came in time."""
    night = subject.wake_factor * np.exp(NIGHT_LOG_SD * rng.normal())
    # Who wakes often also takes long to fall asleep.
    before = 1 + round(_lognormal(rng, *LATENCY_MIN) * _PER_MIN * 0.95 * min(np.sqrt(night), 2.0))
    after = round(_lognormal(rng, *END_MIN) * _PER_MIN)
    asleep = windows - before - after
    bouts: list[Bout] = [(Stage.WAKE, before)]
    spent = 0
    for stage, planned in _undisturbed(rng, subject, max(asleep, 1)):
        length = planned
        while length > 0 and spent < asleep:
            until = int(rng.geometric(min(AWAKENING[stage] * night, 0.5)))
            if until >= length:
                bouts.append((stage, length))
                spent += length
                break
            wake = _wake_bout(rng)
            bouts += [(stage, until), (Stage.WAKE, wake)]
            spent += until + wake
            length -= until
            if stage == Stage.DEEP or (stage == Stage.REM and rng.random() > REM_AFTER_WAKE):
                light = 1 + int(rng.exponential(3.0))
                bouts.append((Stage.LIGHT, light))
                spent += light
    stages = np.repeat(*np.array(bouts, np.int64).T).astype(np.int8)[: max(windows - after, 0)]
    return np.concatenate([stages, np.full(windows - len(stages), Stage.WAKE, np.int8)])


def score(rng: np.random.Generator, latent: NDArray[np.int8]) -> NDArray[np.int8]:
    """A scorer's stages: borders shifted, and runs of windows mistaken for a near stage."""
    windows = len(latent)
    borders = np.flatnonzero(np.diff(latent)) + 1
    shift = BORDER_SHIFT[latent[borders - 1], latent[borders]]
    size = rng.geometric(1.0 / (1.0 + shift)) - 1
    moved = borders + size * rng.choice([-1, 1], len(borders))
    # A border that overtakes the next swallows the bout between them.
    moved = np.maximum.accumulate(np.clip(moved, 0, windows))
    starts = np.concatenate([[0], moved]).astype(np.int64)
    stage_of_bout = latent[np.concatenate([[0], borders])]
    bout = np.searchsorted(starts, np.arange(windows), side="right") - 1
    scored = stage_of_bout[bout].copy()

    nearness = np.zeros((windows, NUM_STAGES))
    for stage in np.unique(latent):
        distance = ndimage.distance_transform_edt(latent != stage)
        nearness[:, stage] = np.exp(-distance / NEAR_WINDOWS)
    chance = CONFUSION[scored] * (FAR + (1.0 - FAR) * nearness) / CONFUSION_RUN
    cumulative = np.cumsum(chance, axis=1)
    other = (rng.random((windows, 1)) > cumulative).sum(1)
    for start in np.flatnonzero(other < NUM_STAGES):
        stop = start + int(rng.geometric(1.0 / CONFUSION_RUN))
        same = bout[start : min(stop, windows)] == bout[start]  # a run ends with its bout
        scored[start : start + same.sum()] = other[start]
    return scored.astype(np.int8)
