"""An ECG of one night -> a stage for each of its windows, by a teacher.

teacher = kd_sleep.load_teacher("teacher")
night = teacher.stage(ecg=ecg, rate_hz=125.0)     # or teacher.stage(beat_times_s=times)
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from kd_sleep.datasets.nights import Nights
from kd_sleep.errors import TrainingError
from kd_sleep.features.bcg import MOST_MISSING
from kd_sleep.features.inputs import mean_nn_s
from kd_sleep.inference.staging import Staging
from kd_sleep.stages import UNSCORED
from kd_sleep.training.trained import Trained, load_trained


class StagingTeacher:
    """A teacher at use. `kd_sleep.fit_teacher` and `load_teacher` make one.

    Attributes:
      trained: the network with its training.
    """

    def __init__(self, trained: Trained):
        self.trained = trained

    def started(self) -> str:
        """Whether fine-tuning improved validation, in a sentence; "" of a teacher trained anew."""
        return self.trained.started()

    def stage(
        self,
        ecg: ArrayLike | None = None,
        rate_hz: float | None = None,
        *,
        beat_times_s: ArrayLike | None = None,
    ) -> Staging:
        """Stages a night. Windows of which half or more has no NN interval get no stage.

        Args:
          ecg: [n] samples in any unit and of either polarity; NaN where missing. Finding its beats
            needs sleepecg.
          rate_hz: samples per second, at least 50.
          beat_times_s: [M] increasing seconds, in place of an ECG.

        Returns:
          `staging.Staging` with NaN in what only a BCG tells, and no window flagged.

        Raises:
          DatasetError: arrays that are no ECG of a night; it names the argument.
          TrainingError: as `Trained.logits`.
        """
        if (ecg is None) == (beat_times_s is None):
            raise TrainingError("stage: expected ecg with rate_hz, or beat_times_s.")
        nights = Nights.from_arrays(
            subject_ids=["night"],
            ecg=None if ecg is None else [ecg],
            ecg_rate_hz=rate_hz,
            beat_times_s=None if beat_times_s is None else [beat_times_s],
        )
        (logits,) = self.trained.logits(nights)
        usable = nights.rr_missing < MOST_MISSING
        probs = np.where(usable[:, None], softmax(logits.astype(np.float64), -1), np.nan)
        unknown = np.full(len(usable), np.nan)
        nn_s = mean_nn_s(nights.tachogram, nights.tachogram_valid, nights.hrv)
        settings = self.trained.settings
        return Staging(
            stages=np.where(usable, logits.argmax(-1), UNSCORED).astype(np.int8),
            probs=probs.astype(np.float32),
            sqi=unknown.astype(np.float32),
            signal_sqi=unknown,
            flagged=np.zeros(len(usable), bool),
            flagged_by="of an ECG none is",
            missing=nights.rr_missing.astype(np.float64),
            amplitude=unknown,
            heart_bpm=np.where(usable, 60.0 / nn_s, np.nan),
            breaths_per_min=unknown,
            snr_db=unknown,
            warnings=(),
            card={
                "teacher": self.trained.name,
                "model": settings["model"],
                "data": settings.get("trained_on"),
                "versions": self.trained.record["versions"],
            },
        )


def load_teacher(path: str | os.PathLike) -> StagingTeacher:
    """A teacher from the work folder that it was trained in.

    Raises:
      TrainingError: a folder without a trained teacher.
    """
    return StagingTeacher(load_trained(path, "teacher"))
