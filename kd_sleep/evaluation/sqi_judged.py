"""Does the learned SQI flag the windows where the student fails? Against other scores.

A window's loss is measured in two ways, on nights that nothing was fitted on:

  gap     KL(teacher || student) in bits, both calibrated: the teacher's information that the
          student lost. Needs no label; the learned SQI predicts it.
  error   1 where the student's stage is not the scorer's.

Areas under the risk-coverage curves (`selective`) say how far an SQI comes on the way from the
student's entropy, which costs nothing, to an oracle that knows every window's loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kd_sleep.config import EvaluationConfig
from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation import selective
from kd_sleep.evaluation.results import Flagged, Judged, Sqi
from kd_sleep.evaluation.scores import percent
from kd_sleep.features.bcg import MOST_MISSING
from kd_sleep.models.kept_share import FEATURES, KeptShare
from kd_sleep.stages import STAGE_NAMES
from kd_sleep.training.fit_kept_share import gap_bits

LEARNED, BEST_FEATURE, ENTROPY = "learned", "best_feature", "entropy"


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
      nights: R nights.
      log_probs: [N, K] of each night, by the student, calibrated.
      teacher_log_probs: likewise by the teacher.
      features_WF: `models.kept_share.FEATURES` of all windows.
      sqi: the student's SQI.
      config: draws, coverage and seed of the bootstrap over subjects.
      student: its name.

    Raises:
      DatasetError: no window counts.
    """
    here = (nights.label >= 0) & (nights.bcg_missing < MOST_MISSING) & (nights.rr_missing < 1.0)
    if not here.any():
        raise DatasetError("No window of these nights is scored: there is no risk to measure.")
    subjects = np.repeat(np.array(nights.subject_ids), nights.windows)[here]
    gap = gap_bits(np.concatenate(teacher_log_probs), np.concatenate(log_probs))[here]
    error = (np.concatenate(log_probs).argmax(-1) != nights.label)[here].astype(np.float64)
    features_NF = features_WF[here]
    learned = sqi(features_NF)
    scores = {LEARNED: learned, ENTROPY: -features_NF[:, FEATURES.index(ENTROPY)]}
    if sqi.best_feature != ENTROPY:
        scores[BEST_FEATURE] = sqi.best_sign * features_NF[:, FEATURES.index(sqi.best_feature)]
    judged = {
        kind: selective.judge(loss, subjects, scores, config, baseline=ENTROPY)
        for kind, loss in (("gap", gap), ("error", error))
    }
    below = learned < sqi.flag_below
    flag = selective.flagged(below, nights.label[here], error, gap, subjects, config)
    conclusions = _conclusions(judged, flag, sqi.best_feature)
    return Sqi(student, sqi.flag_below, sqi.flagged, judged, flag, conclusions)


def _conclusions(judged: Mapping[str, Judged], flag: Flagged, best_feature: str) -> list[str]:
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
    single = judged["gap"].augrc.get(BEST_FEATURE)
    if single is not None and single.way_to_oracle.value is not None:
        sentences.append(
            f"The best single feature on validation, {best_feature}, comes"
            f" {percent(single.way_to_oracle, 0)} of that way in bits."
        )
    shares = ", ".join(f"{name} {percent(flag.by_stage[name], 0)}" for name in STAGE_NAMES)
    sentences.append(
        f"Its flag, chosen on validation, falls on {percent(flag.share, 0)} of the windows:"
        f" {shares} of the stages' own. A score without flagged windows is of another night, so"
        " they are flagged, not dropped."
    )
    return sentences
