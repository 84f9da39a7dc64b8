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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep.config import EvaluationConfig
from kd_sleep.evaluation.scores import (
    DISTILLED,
    HARD_LABELS,
    Bootstrap,
    ScoredNights,
    number,
    predicted_stages,
)
from kd_sleep.schema import WINDOW_S
from kd_sleep.stages import STAGE_NAMES, UNSCORED, Stage

LIMITS_SD = 1.96  # standard deviations that hold 95 % of a normal distribution
_WINDOW_MIN = WINDOW_S / 60
_INTERVALS = ("bias", "lower", "upper")


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
    *,
    distilled: str = DISTILLED,
    baseline: str = HARD_LABELS,
) -> dict[str, Any]:
    """How the systems' sleep measures agree with the scorer's, night by night.

    Args:
      nights: R nights with their labels.
      systems: name -> probabilities [N_r, K] for each of the R nights.
      config: draws, coverage and seed of the bootstrap over subjects.
      distilled, baseline: whose absolute errors are compared, where both are there.

    Returns:
      Plain JSON, None where a number is not defined; an interval is {"value", "low", "high"}:
        "definitions": measure -> {"label", "unit", "definition"}
        "scorer": measure -> {"mean": interval, "nights": how many have it}
        "systems": name -> measure -> {"bias", "lower", "upper", "mean_absolute_error": intervals,
          "sd", "nights": where both have the measure, "undefined": scored nights where one lacks
          it}; bias is system - scorer, lower and upper are the limits of agreement
        "distillation": None without both students, else measure -> interval of the mean absolute
          error, distilled - baseline, on the nights where both have it: below 0 is a gain
        "per_recording": {"recording_id", "subject_id", "scorer": {measure: value},
          "systems": {name: {measure: value}}}

    Raises:
      ValueError: where probabilities do not fit the nights or are not finite; it names the system
        and the recording.
      DatasetError: if no window of any night is scored.
    """
    bootstrap = Bootstrap.of(nights, config)
    labels_RN = _side_by_side(nights.labels)
    truth = sleep_measures(labels_RN)
    found = {
        name: sleep_measures(
            np.where(
                labels_RN == UNSCORED,
                UNSCORED,
                _side_by_side(predicted_stages(name, probs, nights)),
            )
        )
        for name, probs in systems.items()
    }
    compared = distilled in found and baseline in found
    return {
        "definitions": {name: dataclasses.asdict(measure) for name, measure in MEASURES.items()},
        "scorer": {name: _mean(bootstrap, values_R) for name, values_R in truth.items()},
        "systems": {
            system: {name: _agreement(bootstrap, measures[name] - truth[name]) for name in MEASURES}
            for system, measures in found.items()
        },
        "distillation": {
            name: _difference_of_errors(
                bootstrap,
                found[distilled][name] - truth[name],
                found[baseline][name] - truth[name],
            )
            for name in MEASURES
        }
        if compared
        else None,
        "per_recording": [
            {
                "recording_id": recording,
                "subject_id": subject,
                "scorer": _row(truth, place),
                "systems": {name: _row(measures, place) for name, measures in found.items()},
            }
            for place, (recording, subject) in enumerate(
                zip(nights.recording_ids, nights.subject_ids, strict=True)
            )
        ],
    }


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


def _mean(bootstrap: Bootstrap, values_R: NDArray[np.float64]) -> dict[str, Any]:
    """The mean over nights that have the measure."""
    sums_U = bootstrap.by_subject(_sums(values_R))
    mean, draws_D = (_share(sums) for sums in (sums_U.sum(0), bootstrap.draw(sums_U)))
    return {"mean": bootstrap.interval(mean, draws_D), "nights": int(sums_U[:, 0].sum())}


def _sums(values_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a mean is made of, [R, 2]: whether there is a value, and the value."""
    there = np.isfinite(values_R)
    return np.stack([there, np.where(there, values_R, 0.0)], -1)


def _share(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """sums[..., 1] / sums[..., 0], NaN where nothing was counted."""
    return np.divide(
        sums[..., 1], sums[..., 0], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 0] > 0
    )


def _agreement(bootstrap: Bootstrap, differences_R: NDArray[np.float64]) -> dict[str, Any]:
    """Bias, limits and mean absolute error of differences, NaN where there is none."""
    there = bootstrap.scored & np.isfinite(differences_R)
    # Around their own mean, so that the squares below lose no digits.
    centre = differences_R[there].mean() if there.any() else 0.0
    around = np.where(there, differences_R - centre, 0.0)
    sums_U = bootstrap.by_subject(
        np.stack([there, around, around**2, np.where(there, np.abs(differences_R), 0.0)], -1)
    )
    count_U, sum_U, square_U, absolute_U = sums_U.T
    # All that the analysis of variance needs adds up over subjects.
    stats_U6 = np.stack(
        [
            count_U > 0,
            count_U,
            count_U**2,
            sum_U,
            np.divide(sum_U**2, count_U, out=np.zeros_like(sum_U), where=count_U > 0),
            square_U,
        ],
        -1,
    )
    errors_U = np.stack([count_U, absolute_U], -1)
    values = _limits(stats_U6.sum(0), centre)
    draws = _limits(bootstrap.draw(stats_U6), centre)
    return {
        **{name: bootstrap.interval(values[name], draws[name]) for name in _INTERVALS},
        "mean_absolute_error": bootstrap.interval(
            _share(errors_U.sum(0)), _share(bootstrap.draw(errors_U))
        ),
        "sd": number(values["sd"]),
        "nights": int(there.sum()),
        "undefined": int((bootstrap.scored & ~there).sum()),
    }


def _limits(stats: NDArray[np.float64], centre: float) -> dict[str, NDArray[np.float64]]:
    """Bias and limits of agreement from sums over subjects [..., 6]; NaN with one subject.

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
    return {
        "bias": bias,
        "lower": bias - LIMITS_SD * sd,
        "upper": bias + LIMITS_SD * sd,
        "sd": sd,
    }


def _difference_of_errors(
    bootstrap: Bootstrap, distilled_R: NDArray[np.float64], baseline_R: NDArray[np.float64]
) -> dict[str, float | None]:
    """Mean |distilled| - |baseline| over the nights that have both, paired by subject."""
    sums_U = bootstrap.by_subject(_sums(np.abs(distilled_R) - np.abs(baseline_R)))
    return bootstrap.interval(_share(sums_U.sum(0)), _share(bootstrap.draw(sums_U)))
