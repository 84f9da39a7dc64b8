"""An ECG of one night -> a stage for each of its windows, by a teacher.

teacher = kd_sleep.load_teacher("teacher")
night = teacher.stage(ecg=ecg, rate_hz=125.0)     # or teacher.stage(beat_times_s=times)
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from kd_sleep.datasets.nights import Nights, stack
from kd_sleep.errors import TrainingError
from kd_sleep.features import fields
from kd_sleep.features.bcg import MOST_MISSING
from kd_sleep.features.inputs import mean_nn_s
from kd_sleep.inference.saved import load_network, save_teacher
from kd_sleep.inference.staged_night import Stager, Staging
from kd_sleep.schema import RECORDED
from kd_sleep.stages import UNSCORED
from kd_sleep.training.seen_subjects import TRAINED_ON
from kd_sleep.training.trained import Trained


class StagingTeacher(Stager):
    """A teacher at use. `kd_sleep.fit_teacher` and `load_teacher` make one."""

    def __init__(self, trained: Trained):
        settings = trained.settings
        card = {
            "teacher": trained.name,
            "model": settings["model"],
            "data": settings.get(TRAINED_ON),
            "versions": trained.record["versions"],
        }
        if started := trained.started():
            card["start"] = {"from": settings["start"], "outcome": started}
        super().__init__(card, trained)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the teacher, with its folds, as one file that `load_teacher` reads."""
        save_teacher(self.trained, Path(path))

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
          The staged night, with NaN in what only a BCG tells, and no window flagged.

        Raises:
          DatasetError: arrays that are no ECG of a night; it names the argument.
          TrainingError: as `Trained.logits`.
        """
        if (ecg is None) == (beat_times_s is None):
            raise TrainingError("stage: expected ecg with rate_hz, or beat_times_s.")
        return self._staged(
            Nights.from_arrays(
                subject_ids=["night"],
                ecg=None if ecg is None else [ecg],
                ecg_rate_hz=rate_hz,
                beat_times_s=None if beat_times_s is None else [beat_times_s],
            )
        )

    def stage_beats(
        self, times_s: NDArray, normal: NDArray[np.bool_] | None, windows: int
    ) -> Staging:
        """Stages a night of N windows from beats and their types, as `features.night` finds them.

        Args:
          times_s: [M] increasing.
          normal: [M] False for ectopic beats and artefacts; None where unknown.
          windows: N.

        Raises:
          TrainingError: as `Trained.logits`.
        """
        record = {
            **dict.fromkeys(("recording_id", "subject_id"), "night"),
            "cohort": RECORDED,
            "bcg_source": "none",
            "label": np.full(windows, UNSCORED, np.int8),
            **fields.heart_fields(times_s, normal, windows),
            **fields.no_bcg_fields(windows),
        }
        return self._staged(stack([record]))

    def _staged(self, nights: Nights) -> Staging:
        (logits,) = self.trained.logits(nights)
        nn_s = mean_nn_s(nights.tachogram, nights.tachogram_valid, nights.hrv)
        probs, missing = softmax(logits.astype(np.float64), -1), nights.rr_missing
        heart_bpm = np.where(missing < MOST_MISSING, 60.0 / nn_s, np.nan)
        return Staging.of(probs, missing, heart_bpm, self.card)


def load_teacher(path: str | os.PathLike) -> StagingTeacher:
    """A teacher from the work folder that it was trained in, or from a file of its `save`.

    Raises:
      TrainingError: a folder without a trained teacher.
      ExportError: a file that cannot be used.
    """
    return StagingTeacher(load_network(path, "teacher"))
