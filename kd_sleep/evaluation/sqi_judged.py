"""Does the learned SQI flag the windows where the student fails? Against other scores.

A window's loss is measured in two ways, on nights that nothing was fitted on:

  gap     KL(teacher || student) in bits, both calibrated: the teacher's information that the
          student lost. Needs no label; the learned SQI predicts it.
  error   1 where the student's stage is not the scorer's.

Areas under the risk-coverage curves (`selective`) say how far an SQI comes on the way from the
student's entropy, which costs nothing, to an oracle that knows every window's loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kd_sleep.config import EvaluationConfig
from kd_sleep.datasets.nights import Nights
from kd_sleep.evaluation import selective
from kd_sleep.evaluation.bootstrap import Bootstrap
from kd_sleep.evaluation.results import Bin, Judged, Rejection, Sqi
from kd_sleep.evaluation.scores import percent
from kd_sleep.features.bcg import MOST_MISSING
from kd_sleep.models.kept_share import FEATURES, KeptShare
from kd_sleep.schema import BCG_HZ
from kd_sleep.signals.sqi import signal_sqi
from kd_sleep.signals.timeseries import Series
from kd_sleep.stages import STAGE_NAMES
from kd_sleep.training.fit_kept_share import gap_bits

LEARNED, BEST_FEATURE, SIGNAL, ENTROPY = "learned", "best_feature", "signal", "entropy"
BINS = 10  # of the SQI's reliability
HALF_WAY = 0.5  # from entropy to the oracle: the aim


def judge_sqi(
    nights: Nights,
    log_probs: Sequence[NDArray[np.floating]],
    teacher_log_probs: Sequence[NDArray[np.floating]],
    features_WF: NDArray,
    sqi: KeptShare,
    config: EvaluationConfig,
    student: str,
) -> Sqi:
    """Judges the learned SQI, and the flag that ships with it, on nights of new subjects.

    Windows count that somebody scored, of which half and more of the BCG is there, and in which the
    teacher had a heartbeat.

    Args:
      nights: R nights; the signal SQI is judged, too, where they have their BCG's samples.
      log_probs: [N, K] of each night, by the student, calibrated.
      teacher_log_probs: likewise by the teacher.
      features_WF: `models.kept_share.FEATURES` of all windows.
      sqi: the student's SQI.
      config: draws, coverage and seed of the bootstrap over subjects.
      student: its name.

    Raises:
      DatasetError: no window counts.
    """
    seen = (nights.bcg_missing < MOST_MISSING) & (nights.rr_missing < 1.0)
    stage = np.where(seen, nights.label, -1).astype(np.int8)
    subject = np.repeat(np.array(nights.subject_ids), nights.windows)
    night = np.repeat(np.array(nights.recording_ids), nights.windows)
    gap = gap_bits(np.concatenate(teacher_log_probs), np.concatenate(log_probs))
    error = (np.concatenate(log_probs).argmax(-1) != nights.label).astype(np.float64)
    learned = sqi(features_WF)
    scores = {LEARNED: learned}
    if sqi.best_feature != ENTROPY:
        scores[BEST_FEATURE] = sqi.best_sign * features_WF[:, FEATURES.index(sqi.best_feature)]
    if nights.bcg is not None:
        scores[SIGNAL] = _signal_sqi(nights)
    scores[ENTROPY] = -features_WF[:, FEATURES.index(ENTROPY)]
    windows = {
        kind: selective.JudgedWindows(loss, subject, stage, night)
        for kind, loss in (("gap", gap), ("error", error))
    }
    judged = {
        kind: selective.judge(each, scores, config, baseline=ENTROPY)
        for kind, each in windows.items()
    }
    rejected = {
        kind: selective.rejection(each, learned, sqi.flag_below, config)
        for kind, each in windows.items()
    }
    here = stage >= 0
    spread = np.quantile(learned[here], [0.1, 0.9]).tolist()
    return Sqi(
        student,
        sqi.flag_below,
        sqi.best_feature,
        1.0 - sqi.flagged,
        judged,
        rejected,
        _reliability(subject[here], learned[here], np.exp2(-gap[here]), config),
        spread,
        _conclusions(judged, rejected["error"], sqi.best_feature, spread),
    )


def _signal_sqi(nights: Nights) -> NDArray[np.float64]:
    """[W] the signal SQI of every window, from the samples of its whole night."""
    assert nights.bcg is not None
    found = []
    for bcg, missing in zip(
        nights.split(nights.bcg), nights.split(nights.bcg_missing), strict=True
    ):
        gone = np.repeat(missing >= MOST_MISSING, bcg.shape[1])
        series = Series.of(bcg.ravel(), BCG_HZ, gone)
        found.append(signal_sqi(series).by_window(len(bcg)).score)
    return np.concatenate(found)


def _reliability(
    subject_N: NDArray, sqi_N: NDArray, kept_N: NDArray, config: EvaluationConfig
) -> list[Bin]:
    """Whether windows of one SQI keep that share of the teacher, in bins of as many windows."""
    names, subject, bootstrap = Bootstrap.of_windows(subject_N, config)
    edges = np.unique(np.quantile(sqi_N, np.linspace(0.0, 1.0, BINS + 1)))
    place = np.clip(np.searchsorted(edges, sqi_N, side="right") - 1, 0, max(len(edges) - 2, 0))
    rows = []
    for number in np.unique(place):
        inside = place == number
        sums = np.bincount(subject[inside], kept_N[inside], len(names))
        counts = np.bincount(subject[inside], minlength=len(names))
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw without such a window
            drawn = bootstrap.draw(sums) / bootstrap.draw(counts)
        mean = sums.sum() / counts.sum()
        rows.append(
            Bin(int(counts.sum()), float(sqi_N[inside].mean()), bootstrap.interval(mean, drawn))
        )
    return rows


def _conclusions(
    judged: dict[str, Judged], rejected: Rejection, best_feature: str, spread: list[float]
) -> list[str]:
    """Sentences by rule: a difference counts where its interval excludes 0."""
    sentences = []
    words = {"gap": "the bits lost against the teacher", "error": "wrong stages"}
    for kind, text in words.items():
        area = judged[kind].augrc[LEARNED]
        against = area.against_baseline
        if against.is_clear and against.high is not None:
            result = f"{'better' if against.high < 0 else 'worse'} than the student's own entropy"
        else:
            result = "no better than the student's own entropy, as far as these nights show"
        if area.way_to_oracle.value is not None:
            way = percent(area.way_to_oracle, 0)
            result += f": it comes {way} of the way from entropy to the oracle (AUGRC)"
        sentences.append(f"In predicting {text} the learned SQI is {result}.")
    ways = {name: each.way_to_oracle for name, each in judged["gap"].augrc.items()}
    if BEST_FEATURE in ways and ways[BEST_FEATURE].value is not None:
        sentences.append(
            f"The best single feature on validation, {best_feature}, comes"
            f" {percent(ways[BEST_FEATURE], 0)} of that way in bits."
        )
    if (ways[LEARNED].value or 0.0) < HALF_WAY and ways[LEARNED].value is not None:
        sentences.append(
            "In bits that is less than half of the way. The oracle has the teacher's answer to each"
            " window; from the BCG alone an SQI predicts the mean loss of windows like it: 80 % of"
            f" the SQIs lie between {spread[0]:.2f} and {spread[1]:.2f}."
        )
    shares = ", ".join(
        f"{name} {percent(rejected.flagged_by_stage[name], 0)}" for name in STAGE_NAMES
    )
    sentences.append(
        f"Its flag, chosen on validation, falls on {percent(rejected.flagged, 0)} of the windows:"
        f" {shares} of the stages' own. Dropping them would shorten a night's total sleep time by"
        f" {-(rejected.sleep_left_out_min.value or 0.0):.0f} min, so they are flagged, not dropped."
    )
    return sentences
