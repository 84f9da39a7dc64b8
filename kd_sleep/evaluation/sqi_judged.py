"""Does an SQI earn its name? The learned one against single features and the signal SQI.

What a window costs is measured in two ways, on nights that nothing was fitted on:

  gap     KL(teacher || student) in bits, both calibrated: what of the teacher's information the
          student lost. Needs no label; the learned SQI predicts it.
  error   1 where the student's stage is not the scorer's.

An SQI is better the sooner it drops windows that cost much: areas under the risk-coverage curves
(`selective`), and how far it comes on the way from the student's entropy, which costs nothing, to
an oracle that knows every window's cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kd_sleep.config import EvaluationConfig
from kd_sleep.datasets.nights import Nights
from kd_sleep.evaluation import selective
from kd_sleep.evaluation.scores import Bootstrap, Interval, percent
from kd_sleep.features.bcg import MOST_MISSING
from kd_sleep.models.kept_share import FEATURES, KeptShare
from kd_sleep.schema import BCG_HZ
from kd_sleep.signals.sqi import signal_sqi
from kd_sleep.signals.timeseries import Series
from kd_sleep.stages import STAGE_NAMES
from kd_sleep.training.fit_kept_share import gap_bits, seen_weights

LEARNED, BEST_FEATURE, SIGNAL = "learned", "best_feature", "signal"
MAX_PROBABILITY, ENTROPY = "max_probability", "entropy"
_LOG_PROBS = slice(1, 1 + len(STAGE_NAMES))  # of FEATURES
POINTS = 100  # of a curve
BINS = 10  # of the SQI's reliability
HALF_WAY = 0.5  # from entropy to the oracle: what was aimed at


def confidences(features_WF: NDArray, sqi: KeptShare) -> dict[str, NDArray[np.float64]]:
    """Score -> [W], higher is better: the SQI, the best single feature and the student's own.

    The best single feature is left out where it is the entropy, which is there already.
    """
    found = {LEARNED: sqi(features_WF)}
    if sqi.best_feature != ENTROPY:
        found[BEST_FEATURE] = sqi.best_sign * features_WF[:, FEATURES.index(sqi.best_feature)]
    found[MAX_PROBABILITY] = features_WF[:, _LOG_PROBS].max(-1)
    found[ENTROPY] = -features_WF[:, FEATURES.index(ENTROPY)]
    return found


def thresholds(validation: Nights, features_WF: NDArray, sqi: KeptShare) -> dict[str, float]:
    """Score -> what lies below is flagged: the SQI's own flag, the same share of the others.

    Args:
      validation: nights with W windows.
      features_WF: theirs.
      sqi: the SQI.
    """
    seen = seen_weights(validation) > 0
    found = confidences(features_WF[seen], sqi)
    shares = {name: float(np.quantile(each, sqi.flagged)) for name, each in found.items()}
    return shares | {LEARNED: sqi.flag_below}


def judge_sqi(
    nights: Nights,
    log_probs: Sequence[NDArray[np.floating]],
    teacher_log_probs: Sequence[NDArray[np.floating]],
    features_WF: NDArray,
    sqi: KeptShare,
    flags: Mapping[str, float],
    config: EvaluationConfig,
    student: str,
) -> dict[str, Any]:
    """Judges the learned SQI on nights that neither it nor the student has seen.

    Windows count that somebody scored, of which half and more of the BCG is there, and in which the
    teacher had a heartbeat.

    Args:
      nights: R nights; the signal SQI is judged, too, where they have their BCG's samples.
      log_probs: [N, K] of each night, by the student, calibrated.
      teacher_log_probs: likewise by the teacher.
      features_WF: `models.kept_share.FEATURES` of all windows.
      sqi: the student's SQI.
      flags: thresholds of the scores, chosen on validation: see `thresholds`.
      config: draws, coverage and seed of the bootstrap over subjects.
      student: its name.

    Returns:
      Plain JSON: "student", "flag_below", "best_feature", "coverage" that the flags keep on
      validation, "windows"; "judged": for "gap" and "error", what `selective.judge` returns;
      "curves": for both, score -> {"coverage", "risk"}, at most `POINTS` each; "rejection":
      score -> what `selective.rejection` returns for errors, and "bits", its "risk" for the gap;
      "reliability": rows {"from", "to", "windows", "sqi", "kept": interval}; "flagged": interval of
      the flagged share; "spread", the SQI's 10th and 90th percentile; "conclusions", sentences.

    Raises:
      DatasetError: no window counts.
    """
    stages = np.concatenate(log_probs).argmax(-1)
    seen = (nights.bcg_missing < MOST_MISSING) & (nights.rr_missing < 1.0)
    stage = np.where(seen, nights.label, -1).astype(np.int8)
    subject = np.repeat(np.array(nights.subject_ids), nights.windows)
    night = np.repeat(np.array(nights.recording_ids), nights.windows)
    gap = gap_bits(np.concatenate(teacher_log_probs), np.concatenate(log_probs))
    losses = {"gap": gap, "error": (stages != nights.label).astype(np.float64)}
    confidence = confidences(features_WF, sqi)
    learned = confidence[LEARNED]
    if nights.bcg is not None:
        confidence[SIGNAL] = _signal_sqi(nights)
    windows = {
        kind: selective.JudgedWindows(loss, subject, stage, night) for kind, loss in losses.items()
    }
    judged = {
        kind: selective.judge(each, confidence, config, baseline=ENTROPY)
        for kind, each in windows.items()
    }
    here = stage >= 0
    names, of_subject, bootstrap = selective.subject_bootstrap(subject[here], config)
    flagged = _shares(bootstrap, of_subject, len(names), (learned < sqi.flag_below)[here])
    found = {
        "student": student,
        "flag_below": sqi.flag_below,
        "best_feature": sqi.best_feature,
        "coverage": 1.0 - sqi.flagged,
        "windows": int(here.sum()),
        "judged": judged,
        "curves": {
            kind: {name: _curve(loss[here], each[here]) for name, each in confidence.items()}
            | {
                selective.RANDOM: _curve(loss[here], np.zeros(here.sum())),
                selective.ORACLE: _curve(loss[here], -loss[here]),
            }
            for kind, loss in losses.items()
        },
        "rejection": {
            name: selective.rejection(windows["error"], confidence[name], flags[name], config)
            | {
                "bits": selective.rejection(windows["gap"], confidence[name], flags[name], config)[
                    "risk"
                ]
            }
            for name in (LEARNED, BEST_FEATURE, ENTROPY)
            if name in confidence
        },
        "reliability": _reliability(
            bootstrap, of_subject, len(names), learned[here], np.exp2(-gap[here])
        ),
        "flagged": flagged,
        "spread": np.quantile(learned[here], [0.1, 0.9]).tolist(),
    }
    found["conclusions"] = _conclusions(found)
    return found


def _signal_sqi(nights: Nights) -> NDArray[np.float64]:
    """[W] the signal SQI of every window, from the samples of its whole night."""
    assert nights.bcg is not None
    found = []
    for bcg, missing in zip(
        tqdm(nights.split(nights.bcg), desc="Signal SQI", unit="night"),
        nights.split(nights.bcg_missing),
        strict=True,
    ):
        gone = np.repeat(missing >= MOST_MISSING, bcg.shape[1])
        series = Series.of(bcg.ravel(), BCG_HZ, gone)
        found.append(signal_sqi(series).by_window(len(bcg)).score)
    return np.concatenate(found)


def _curve(loss_N: NDArray, confidence_N: NDArray) -> dict[str, list[float]]:
    curve = selective.risk_coverage(loss_N, confidence_N)
    # The first few windows are chance.
    first = min(len(loss_N) - 1, max(20, len(loss_N) // 100))
    at = np.unique(np.linspace(first, len(loss_N) - 1, POINTS).round().astype(np.int64))
    return {"coverage": curve.coverage[at].tolist(), "risk": curve.risk[at].tolist()}


def _shares(bootstrap: Bootstrap, subject_N: NDArray, subjects: int, values_N: NDArray) -> Interval:
    """The mean of a value over windows, with its interval."""
    sums = np.bincount(subject_N, values_N, subjects)
    counts = np.bincount(subject_N, minlength=subjects)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = bootstrap.draw(sums) / bootstrap.draw(counts)
    return bootstrap.interval(sums.sum() / max(counts.sum(), 1), drawn)


def _reliability(
    bootstrap: Bootstrap, subject_N: NDArray, subjects: int, sqi_N: NDArray, kept_N: NDArray
) -> list[dict[str, Any]]:
    """Whether windows of one SQI keep that share of the teacher, in bins of as many windows."""
    edges = np.unique(np.quantile(sqi_N, np.linspace(0.0, 1.0, BINS + 1)))
    place = np.clip(np.searchsorted(edges, sqi_N, side="right") - 1, 0, max(len(edges) - 2, 0))
    rows = []
    for number in np.unique(place):
        inside = place == number
        rows.append(
            {
                "from": float(edges[number]),
                "to": float(edges[min(number + 1, len(edges) - 1)]),
                "windows": int(inside.sum()),
                "sqi": float(sqi_N[inside].mean()),
                "kept": _shares(bootstrap, subject_N[inside], subjects, kept_N[inside]),
            }
        )
    return rows


def _conclusions(found: Mapping[str, Any]) -> list[str]:
    """Sentences by rule: a difference counts where its interval excludes 0."""
    sentences = []
    words = {"gap": "the bits lost against the teacher", "error": "wrong stages"}
    for kind, text in words.items():
        pooled = found["judged"][kind]["pooled"]["scores"]
        area = pooled[LEARNED]["augrc"]
        against = area["against_baseline"]
        low, high = against["low"], against["high"]
        if low is None or high is None or low <= 0 <= high:
            verdict = "no better than the student's own entropy, as far as these nights show"
        else:
            verdict = f"{'better' if high < 0 else 'worse'} than the student's own entropy"
        way = area["way_to_oracle"]
        share = "" if way["value"] is None else (
            f": it comes {percent(way, 0)} of the way from entropy to the oracle (AUGRC)"
        )  # fmt: skip
        sentences.append(f"In predicting {text} the learned SQI is {verdict}{share}.")
    scores = found["judged"]["gap"]["pooled"]["scores"]
    if BEST_FEATURE in scores:
        way = scores[BEST_FEATURE]["augrc"]["way_to_oracle"]
        if way["value"] is not None:
            sentences.append(
                f"The best single feature on validation, {found['best_feature']}, comes"
                f" {percent(way, 0)} of that way in bits."
            )
    way = found["judged"]["gap"]["pooled"]["scores"][LEARNED]["augrc"]["way_to_oracle"]["value"]
    if way is not None and way < HALF_WAY:
        low, high = found["spread"]
        sentences.append(
            "In bits that is less than half of the way. The oracle has the teacher's answer to each"
            " window; from the BCG alone an SQI predicts the mean loss of windows like it: 80 % of"
            f" the SQIs lie between {low:.2f} and {high:.2f}."
        )
    rejected = found["rejection"][LEARNED]
    shares = ", ".join(
        f"{name} {percent(rejected['flagged_by_stage'][name], 0)}" for name in STAGE_NAMES
    )
    sentences.append(
        f"Its flag, chosen on validation, falls on {percent(found['flagged'], 0)} of the windows:"
        f" {shares} of the stages' own."
    )
    left = rejected["tst_min"]["left_out"]
    if left["value"] is not None:
        sentences.append(
            "A night's total sleep time loses"
            f" {-left['value']:.0f} min by that, so windows are flagged, not dropped."
        )
    return sentences
