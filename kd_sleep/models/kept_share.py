"""The learned SQI: the predicted share of the teacher's information that a student retains.

    kept = 2 ** -KL(teacher || student)        KL in bits, both calibrated

1 where the student's probabilities are the teacher's, towards 0 where the BCG lost the information.
A logistic regression predicts the share from `FEATURES`, which need no teacher;
`training.fit_kept_share` fits it. Each window's features are of that window alone, so the SQI of a
causal student is causal.

NumPy and SciPy alone: an exported student imports this module.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from kd_sleep.stages import STAGE_NAMES

FEATURES = (
    "entropy",  # of the student, bits
    *(f"log2 p({stage})" for stage in STAGE_NAMES),
    *(f"p({stage})" for stage in STAGE_NAMES[:-1]),  # the last is the rest to 1
    "beat confidence",  # mean over the window
    "share with an interval",  # of the window, JJ
    "SNR, dB",
    "missing share",
)
SMALLEST_P = 1e-3  # of a stage, in its logarithm
SNR_DB = (-5.0, 25.0)  # the SNR is clipped to this range
UNKNOWN_SNR_DB = 0.0  # where the SNR is not known
LARGEST_Z = 4.0  # a feature's distance from its mean, in standard deviations, is clipped to this


def window_features(
    log_probs_NK: ArrayLike,
    jj_NT: ArrayLike,
    beat_confidence_NT: ArrayLike,
    missing_N: ArrayLike,
    snr_db_N: ArrayLike,
) -> NDArray[np.float64]:
    """[N, len(FEATURES)] of N windows, of one night or several.

    Args:
      log_probs_NK: [N, K] natural logarithms of the student's calibrated probabilities:
        log_softmax(logits / `KeptShare.temperature`).
      jj_NT: [N, T] s, JJ intervals; NaN where missing.
      beat_confidence_NT: [N, T] correlation of the beat at hand with its template.
      missing_N: [N] share of each window's samples that is missing.
      snr_db_N: [N] dB, `signals.quality.snr_db`; NaN where unknown.
    """
    log_probs = np.asarray(log_probs_NK, np.float64)
    probs = np.exp(log_probs)
    snr_db = np.asarray(snr_db_N, np.float64)
    columns = [
        -(probs * np.maximum(log_probs, -1e3)).sum(-1) / np.log(2.0),
        *(np.maximum(log_probs, np.log(SMALLEST_P)) / np.log(2.0)).T,
        *probs[:, :-1].T,
        np.asarray(beat_confidence_NT, np.float64).mean(-1),
        np.isfinite(np.asarray(jj_NT)).mean(-1),
        np.clip(np.where(np.isfinite(snr_db), snr_db, UNKNOWN_SNR_DB), *SNR_DB),
        np.asarray(missing_N, np.float64),
    ]
    return np.stack(columns, axis=1)


@dataclasses.dataclass(frozen=True)
class KeptShare:
    """A logistic regression of the kept share on `FEATURES`, and what it was fitted with.

        sqi = sigmoid(weights . clip((features - mean) / scale, -4, 4) + bias)

    Attributes:
      weights, mean, scale: one number for each of `FEATURES`.
      bias: a number.
      temperature: divides the student's logits; fitted on validation.
      teacher_temperature: likewise of the teacher's.
      flag_below: windows of a smaller SQI are not to be trusted.
      flagged: share of the validation windows below it, by out-of-fold predictions.
      best_feature: of `FEATURES`, the best SQI on validation of those that are one feature alone.
      best_sign: 1.0 where windows of a larger `best_feature` keep more, else -1.0.
      student, teacher: fingerprints of their parameters.
    """

    weights: tuple[float, ...]
    bias: float
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    temperature: float
    teacher_temperature: float
    flag_below: float
    flagged: float
    best_feature: str
    best_sign: float
    student: str
    teacher: str

    def __call__(self, features_NF: ArrayLike) -> NDArray[np.float64]:
        """[N] the SQI, in [0, 1]: the share expected; of `window_features`."""
        z_NF = standardised(features_NF, self.mean, self.scale)
        return expit(z_NF @ np.asarray(self.weights) + self.bias)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` reads it."""
        found = dataclasses.asdict(self)
        lists = {name: list(found[name]) for name in ("weights", "mean", "scale")}
        return {"features": list(FEATURES), **found, **lists}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> KeptShare:
        """Reads what `to_json` returned.

        Raises:
          ValueError: an SQI of other features than `FEATURES`, or a field that is absent, unknown,
            of another type or not finite.
        """
        if not isinstance(found, Mapping) or found.get("features") != list(FEATURES):
            raise ValueError(
                "an SQI of other features than this kd_sleep computes; fit it again by the command"
                " that trained the student"
            )
        values = {name: value for name, value in found.items() if name != "features"}
        fields = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        if differing := sorted({*values} ^ {*fields}):
            raise ValueError(f"its SQI has unknown or absent fields: {', '.join(differing)}")
        for name, kind in fields.items():
            value = values[name]
            if kind.startswith("tuple"):
                fits = isinstance(value, list | tuple) and len(value) == len(FEATURES)
                if not fits or not all(map(_is_number, value)):
                    raise ValueError(f"its SQI's {name}: expected {len(FEATURES)} finite numbers")
                values[name] = tuple(map(float, value))
            elif not (isinstance(value, str) if kind == "str" else _is_number(value)):
                raise ValueError(f"its SQI's {name} is {value!r}; expected {kind}")
        if min(values["temperature"], values["teacher_temperature"], *values["scale"]) <= 0.0:
            raise ValueError("its SQI's temperatures and scales have to be above 0")
        if values["best_feature"] not in FEATURES:
            raise ValueError(f"its SQI's best_feature is {values['best_feature']!r}")
        return cls(**values)


def standardised(features_NF: ArrayLike, mean_F: ArrayLike, scale_F: ArrayLike) -> NDArray:
    """[N, F] distance of each feature from its mean, in standard deviations, clipped."""
    z_NF = (np.asarray(features_NF, np.float64) - np.asarray(mean_F)) / np.asarray(scale_F)
    return np.clip(z_NF, -LARGEST_Z, LARGEST_Z)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
