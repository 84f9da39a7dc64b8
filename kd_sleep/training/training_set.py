"""What a network is trained on: nights, the labels that it may see, and teachers' logits.

    data = TrainingSet.of_student(nights, validation, teachers).hiding(distill)

Each term of the loss uses the windows that it can: cross-entropy those with a label, the divergence
those whose ECG a teacher can read; a student needs a BCG for both. Nights that no term can use are
left out and listed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd_sleep.config import DistillConfig, ExecutionConfig, StudentConfig, TeacherConfig
from kd_sleep.datasets.nights import Nights, read_split
from kd_sleep.datasets.splits import assert_disjoint
from kd_sleep.errors import DatasetError, TrainingError
from kd_sleep.features.inputs import mean_nn_s, median_by_window
from kd_sleep.schema import SCHEMA_VERSION
from kd_sleep.stages import NUM_STAGES, UNSCORED
from kd_sleep.training.run import Run, reads_samples
from kd_sleep.training.seen_subjects import SEEN, TRAINED_ON, assert_unseen, seen
from kd_sleep.training.soft_labels import soft_labels

if TYPE_CHECKING:
    from kd_sleep.training.trained import Trained

_PERCENTILES = {"p01": 1, "p50": 50, "p99": 99}


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """Nights to learn from, and nights to choose the best step by.

    Attributes:
      nights: training nights; labels that may not be seen are hidden.
      validation: nights of other subjects.
      teacher_logits: [W, M, K] of M teachers on the training nights; None without teachers.
      settings: of teachers, data and start, for settings.json.
      seen: `seen_subjects.seen` of this set, of the teachers and of the start.
      given: ids of all recordings that were given, with those that are left out.
    """

    nights: Nights
    validation: Nights
    teacher_logits: NDArray[np.float32] | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    seen: tuple[dict[str, str], ...] = ()
    given: tuple[str, ...] = ()

    @property
    def about(self) -> dict[str, Any]:
        """`settings`, with a description of the data."""
        if not self.given:
            return self.settings
        description = {
            "schema": SCHEMA_VERSION,
            "validation_nights": len(self.validation),
            SEEN: list(self.seen),
            **self.nights.origin(),
            "nights": len(self.nights),
            "subjects": len(set(self.nights.subject_ids)),
            "snr_db": _range(self.nights.bcg_snr_db),
            "heart_bpm": _range(_heart_bpm(self.nights)),
            "left_out": sorted({*self.given} - {*self.nights.recording_ids}),
        }
        return self.settings | {TRAINED_ON: description}

    @classmethod
    def of_teacher(
        cls, nights: Nights, validation: Nights, start: Trained | None = None, **settings: Any
    ) -> TrainingSet:
        """Of nights with an ECG and stages.

        Raises:
          DatasetError: none of the training or validation nights, or a subject in both.
          TrainingError: a validation subject that `start` was trained on.
        """
        usable = nights.has_ecg & nights.is_scored
        if not usable.any():
            raise DatasetError(
                "nights: none of them has both an ECG and stages.",
                "A teacher learns from heartbeats and from the stages that a scorer gave.",
            )
        if not validation.has_ecg.any():
            raise DatasetError("validation: none of its nights has an ECG.")
        chosen_by = validation.where(validation.has_ecg)
        return cls._of(nights, nights.where(usable), chosen_by, [], start, settings)

    @classmethod
    def of_student(
        cls,
        nights: Nights,
        validation: Nights,
        teachers: Sequence[Trained],
        start: Trained | None = None,
    ) -> TrainingSet:
        """Of nights with a BCG.

        Raises:
          DatasetError: none of the training or validation nights, or a subject in both.
          TrainingError: a validation subject that a teacher or `start` was trained on, or teachers
            of other inputs than these nights have.
        """
        for name, given in (("nights", nights), ("validation", validation)):
            if not given.has_bcg.any():
                raise DatasetError(
                    f"{name}: a dataset without BCG, good for a teacher alone.",
                    "Build one with --bcg_source=paired or simulated.",
                )
        usable, chosen_by = (each.where(each.has_bcg) for each in (nights, validation))
        settings = {
            "teacher": "+".join(teacher.name for teacher in teachers),
            "folds": [len(teacher.folds) for teacher in teachers],
        }
        found = cls._of(nights, usable, chosen_by, teachers, start, settings)
        logits = soft_labels(teachers, usable) if teachers else None
        return dataclasses.replace(found, teacher_logits=logits)

    @classmethod
    def _of(
        cls,
        given: Nights,
        usable: Nights,
        validation: Nights,
        teachers: Sequence[Trained],
        start: Trained | None,
        settings: dict[str, Any],
    ) -> TrainingSet:
        """Checks that no validation subject was trained on."""
        assert_disjoint({"nights": usable.subject_ids, "validation": validation.subject_ids})
        settings = settings | {"data": [usable.digest(), validation.digest()]}
        if start is not None:
            settings["start"] = start.name
        entries = [seen(usable, validation)]
        for source in (*teachers, *([start] if start else [])):
            assert_unseen({str(source): source.settings}, {"validation": validation})
            known = source.settings[TRAINED_ON][SEEN]
            entries += [entry for entry in known if entry not in entries]
        return cls(usable, validation, None, settings, tuple(entries), given.recording_ids)

    def hiding(self, distill: DistillConfig) -> TrainingSet:
        """The same without the labels that a student of this loss may not see.

        Nights that no term of the loss can use then are left out. With alpha = 1 all batches come
        from labelled nights: the baseline's steps hold as many labelled windows as they can.

        Raises:
          TrainingError: as `labelled_rows`, or nothing to learn from: no teacher at alpha < 1.
        """
        if self.teacher_logits is None and distill.alpha < 1.0:
            raise TrainingError(
                f"alpha={distill.alpha:g}: there is no teacher to learn from.",
                "Give a teacher, or alpha 1 to learn from the labels alone.",
            )
        chosen = labelled_rows(self.nights, distill)
        hidden = np.repeat(~np.isin(np.arange(len(self.nights)), chosen), self.nights.windows)
        label = np.where(hidden, np.int8(UNSCORED), self.nights.label)
        nights = dataclasses.replace(self.nights, label=label)
        usable = nights.is_scored
        if distill.alpha < 1.0:
            usable |= nights.has_ecg
        if not usable.any():
            raise TrainingError(
                "nights: none of them has a label or an ECG that a teacher could read.",
                "Add nights with stages, or with an ECG beside the BCG.",
            )
        logits = self.teacher_logits
        return dataclasses.replace(
            self,
            nights=nights.where(usable),
            teacher_logits=None if logits is None else logits[np.repeat(usable, nights.windows)],
            settings=self.settings | {"labelled": len(chosen)},
        )

    def columns(self, run: Run) -> dict[str, NDArray]:
        """The arrays [W, ...] of a run's batches, without samples that were not read."""
        names = (*run.columns, "label")
        held = tuple(name for name in names if name != "bcg" or self.nights.bcg is not None)
        columns = self.nights.columns(held)
        if run.distill is None:
            return columns
        logits = self.teacher_logits
        if logits is None:
            logits = np.zeros((len(self.nights.label), 1, NUM_STAGES), np.float32)
        return columns | {"teacher_logits": logits}


def read_training(
    data_dirs: Sequence[Path],
    model: TeacherConfig | StudentConfig,
    execution: ExecutionConfig | None = None,
) -> tuple[Nights, Nights]:
    """Training and validation nights of datasets, with the samples that a network reads.

    With `dataset_in` = disk those of the training nights are left there.
    """
    samples = reads_samples(model)
    in_memory = samples and (execution is None or execution.dataset_in != "disk")
    return (
        read_split(data_dirs, "train", samples=in_memory),
        read_split(data_dirs, "validation", samples=samples),
    )


def labelled_rows(nights: Nights, distill: DistillConfig) -> NDArray[np.int64]:
    """Rows of the nights whose labels the student may see: `labelled_nights` of the scored ones.

    Nights are ranked by a hash of seed and id: a larger number keeps the nights of a smaller one.

    Raises:
      TrainingError: fewer scored training nights than that, or none at all at alpha = 1.
    """
    scored = np.flatnonzero(nights.is_scored).tolist()
    wanted = distill.labelled_nights or len(scored)
    if wanted > len(scored):
        raise TrainingError(
            f"--labelled_nights={wanted}: only {len(scored)} training nights are scored."
        )
    if wanted == 0 and distill.alpha == 1.0:
        raise TrainingError(
            "No training night is scored, and at alpha = 1 there is nothing else to learn from.",
            "Set --alpha below 1 to learn from the teacher.",
        )

    def rank(row: int) -> bytes:
        name = f"{distill.label_seed}:{nights.recording_ids[row]}"
        return hashlib.sha256(name.encode()).digest()

    return np.array(sorted(sorted(scored, key=rank)[:wanted]), np.int64)


def _range(values: NDArray) -> dict[str, float] | None:
    """Percentiles over windows: staging warns of nights outside them. None if unknown."""
    known = values[np.isfinite(values)]
    if not known.size:
        return None
    return {name: round(float(np.percentile(known, p)), 2) for name, p in _PERCENTILES.items()}


def _heart_bpm(nights: Nights) -> NDArray[np.float64]:
    """Heart rate of each window, of the ECG where there is one, else of the BCG."""
    nn_s = mean_nn_s(nights.tachogram, nights.tachogram_valid, nights.hrv)
    return 60.0 / np.where(np.isfinite(nn_s), nn_s, median_by_window(nights.jj))
