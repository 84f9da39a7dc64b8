"""What a sleep laboratory reads off a hypnogram, and how far a system's agrees with the scorer's.

Definitions follow the American Academy of Sleep Medicine's manual (Iber et al. 2007, "Parameters to
be reported for polysomnography"); `MEASURES` states each. Three rules are ours:

- **Lights off and on** are not in the recordings: the night runs from its first scored window to
  its last.
- **Unscored windows** are in nobody's minutes: whatever the scorer left out is left out of the
  system's hypnogram, too, so both are read off the same windows. The clock does not stop for
  them: a latency counts them.
- **What a night lacks has no time**: without sleep there is no sleep onset latency, no WASO and no
  REM latency, without REM no REM latency. They are NaN, and a night enters an agreement only where
  both hypnograms have the measure; the others are counted.

Agreement is Bland and Altman's: bias and 95 % limits, bias ± 1.96 SD of the differences. A subject
may have two nights, so the variance is the sum of the one between and the one within subjects, from
a one-way analysis of variance (Bland & Altman 2007,
https://doi.org/10.1080/10543400701329422). With one night each that is the plain variance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kd_sleep.config import EvaluationConfig
from kd_sleep.evaluation.bootstrap import Bootstrap, ScoredNights, number
from kd_sleep.evaluation.results import (
    Agreement,
    Interval,
    NightMeasures,
    SleepMeasures,
)
from kd_sleep.evaluation.scores import DISTILLED, HARD_LABELS, predicted_stages
from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import STAGE_NAMES, UNSCORED, Stage

LIMITS_SD = 1.96  # standard deviations that hold 95 % of a normal distribution
_WINDOW_MIN = WINDOW_S / 60


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number of a night: its name for readers, its unit and what it is."""

    label: str
    unit: str
    definition: str


MEASURES: dict[str, Measure] = {
    "tst_min": Measure("Total sleep time", "min", "minutes of REM, Light and Deep"),
    "se_percent": Measure(
        "Sleep efficiency", "%", "total sleep time as a share of all scored minutes"
    ),
    "sol_min": Measure(
        "Sleep onset latency", "min", "from the first scored window to the first window of sleep"
    ),
    "waso_min": Measure(
        "Wake after sleep onset",
        "min",
        "minutes of Wake after the first window of sleep, those after the last awakening included",
    ),
    "rem_latency_min": Measure(
        "REM latency", "min", "from the first window of sleep to the first window of REM"
    ),
    **{
        f"{stage.lower()}_min": Measure(stage, "min", f"all minutes of {stage}")
        for stage in STAGE_NAMES
    },
}


def sleep_measures(stages: NDArray[np.integer]) -> dict[str, NDArray[np.float64]]:
    """The measures of hypnograms.

    Args:
      stages: [..., N] a stage for each 30-s window, -1 where unscored; shorter nights end in -1.

    Returns:
      One array [...] for each of `MEASURES`, NaN where a night lacks what it is about.
    """
    stages = np.asarray(stages)
    scored, wake = stages != UNSCORED, stages == Stage.WAKE
    sleep, rem = scored & ~wake, stages == Stage.REM
    started, onset, first_rem = (_first(there) for there in (scored, sleep, rem))
    minutes = {
        f"{name.lower()}_min": _WINDOW_MIN * (stages == stage).sum(-1)
        for stage, name in enumerate(STAGE_NAMES)
    }
    # A comparison with NaN is False: without an onset nothing comes after it.
    after_onset = np.arange(stages.shape[-1]) > onset[..., np.newaxis]
    all_scored, tst = _WINDOW_MIN * scored.sum(-1), _WINDOW_MIN * sleep.sum(-1)
    anything, asleep = np.isfinite(started), np.isfinite(onset)
    measures = {
        "tst_min": tst,
        "se_percent": np.divide(
            100 * tst, all_scored, out=np.full(tst.shape, np.nan), where=anything
        ),
        "sol_min": _WINDOW_MIN * (onset - started),
        "waso_min": np.where(asleep, _WINDOW_MIN * (wake & after_onset).sum(-1), np.nan),
        "rem_latency_min": _WINDOW_MIN * (first_rem - onset),
        **minutes,
    }
    return {name: np.where(anything, measures[name], np.nan) for name in MEASURES}


def agreement(
    nights: ScoredNights,
    systems: Mapping[str, Sequence[NDArray[np.floating]]],
    config: EvaluationConfig,
) -> SleepMeasures:
    """How the systems' sleep measures agree with the scorer's, night by night.

    Args:
      nights: R nights with their labels.
      systems: name -> probabilities [N_r, K] for each of the R nights.
      config: draws, coverage and seed of the bootstrap over subjects.

    Raises:
      ValueError: where probabilities do not fit the nights or are not finite; it names the system
        and the recording.
      DatasetError: if no window of any night is scored.
    """
    bootstrap = Bootstrap.of(nights, config)
    labels_RN = _side_by_side(nights.labels)
    truth = sleep_measures(labels_RN)
    found = {}
    for name, probs in systems.items():
        stages_RN = _side_by_side(predicted_stages(name, probs, nights))
        found[name] = sleep_measures(np.where(labels_RN == UNSCORED, UNSCORED, stages_RN))
    errors = {
        system: {name: measures[name] - truth[name] for name in MEASURES}
        for system, measures in found.items()
    }
    return SleepMeasures(
        scorer={name: _mean(bootstrap, values_R) for name, values_R in truth.items()},
        systems={
            system: {name: _agreement(bootstrap, of[name]) for name in MEASURES}
            for system, of in errors.items()
        },
        distillation={
            name: _mean(
                bootstrap, np.abs(errors[DISTILLED][name]) - np.abs(errors[HARD_LABELS][name])
            )
            for name in MEASURES
        }
        if {DISTILLED, HARD_LABELS} <= set(errors)
        else None,
        per_recording=[
            NightMeasures(
                recording,
                _row(truth, place),
                {name: _row(measures, place) for name, measures in found.items()},
            )
            for place, recording in enumerate(nights.recording_ids)
        ],
    )


def _first(there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Index of the first True on the last axis, NaN without one."""
    return np.where(there.any(-1), there.argmax(-1), np.nan)


def _side_by_side(stages: Sequence[NDArray[np.integer]]) -> NDArray[np.int8]:
    """Nights of different lengths as one array [R, N], unscored after their end."""
    padded = np.full((len(stages), max(map(len, stages))), UNSCORED, np.int8)
    for row, night in zip(padded, stages, strict=True):
        row[: len(night)] = night
    return padded


def _row(measures: Mapping[str, NDArray], place: int) -> dict[str, float | None]:
    return {name: number(values_R[place]) for name, values_R in measures.items()}


def _known(bootstrap: Bootstrap, values_R: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Scored nights that have a value."""
    return bootstrap.scored & np.isfinite(values_R)


def _mean(bootstrap: Bootstrap, values_R: NDArray[np.float64]) -> Interval:
    """The mean over nights that have a value."""
    known = _known(bootstrap, values_R)
    sums_U2 = bootstrap.by_subject(np.stack([known, np.where(known, values_R, 0.0)], -1))
    mean, draws_D = (
        np.divide(sums[..., 1], sums[..., 0], out=np.full(sums.shape[:-1], np.nan),
                  where=sums[..., 0] > 0)
        for sums in (sums_U2.sum(0), bootstrap.draw(sums_U2))
    )  # fmt: skip
    return bootstrap.interval(mean, draws_D)


def _agreement(bootstrap: Bootstrap, differences_R: NDArray[np.float64]) -> Agreement:
    """Bias, limits and mean absolute error of differences, NaN where there is none."""
    known = _known(bootstrap, differences_R)
    # Around their own mean, so that the squares below lose no digits.
    centre = differences_R[known].mean() if known.any() else 0.0
    around = np.where(known, differences_R - centre, 0.0)
    count_U, sum_U, square_U = bootstrap.by_subject(np.stack([known, around, around**2], -1)).T
    # All that the analysis of variance needs adds up over subjects.
    mean_square_U = np.divide(sum_U**2, count_U, out=np.zeros_like(sum_U), where=count_U > 0)
    stats_U6 = np.stack(
        [count_U > 0, count_U, count_U**2, sum_U, mean_square_U, square_U], -1
    ).astype(np.float64)
    values, draws = _limits(stats_U6.sum(0), centre), _limits(bootstrap.draw(stats_U6), centre)
    bias, lower, upper = map(bootstrap.interval, values[:3], draws[:3])
    return Agreement(
        bias,
        lower,
        upper,
        mean_absolute_error=_mean(bootstrap, np.abs(differences_R)),
        sd=number(values[3]),
        nights=int(known.sum()),
        undefined=int((bootstrap.scored & ~known).sum()),
    )


def _limits(stats: NDArray[np.float64], centre: float) -> list[NDArray[np.float64]]:
    """Bias, limits of agreement and SD from sums over subjects [..., 6]; NaN with one subject.

    The variance of a difference is MSW + (MSB - MSW) / m, m being the nights of a subject on
    average. It is not cut off where MSB < MSW: the sum is unbiased as it is, and never negative,
    as m >= 1.
    """
    subjects, nights, nights_squared, total, between, squares = np.moveaxis(stats, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # undefined is NaN here
        mean = total / nights
        ms_between = np.maximum(between - total * mean, 0.0) / (subjects - 1)
        within = np.maximum(squares - between, 0.0)
        ms_within = np.where(nights > subjects, within / (nights - subjects), 0.0)
        per_subject = (nights - nights_squared / nights) / (subjects - 1)
        variance = ms_between / per_subject + ms_within * (1 - 1 / per_subject)
        sd = np.sqrt(np.where(subjects > 1, variance, np.nan))
    bias = np.where(subjects > 0, centre + mean, np.nan)
    return [bias, bias - LIMITS_SD * sd, bias + LIMITS_SD * sd, sd]
