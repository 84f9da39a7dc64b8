"""Nothing is learned from nothing: broken links between signal and stage end at the floor.

The floor here is kappa 0: what is left is how much of each stage a night has, for which no signal
is needed.
"""

import dataclasses

import folders
import numpy as np
import pytest

from kd_sleep import metrics
from kd_sleep.config import DistillConfig, StudentConfig, TeacherConfig, TrainConfig
from kd_sleep.datasets.nights import Nights, read_split
from kd_sleep.features.inputs import TYPICAL_S
from kd_sleep.training.loop import predict
from kd_sleep.training.trained import load_trained

TRAIN = TrainConfig(steps=150, batch_size=4, sequence_windows=48, evaluate_every=50)
TEACHER = TeacherConfig(width=16, context_windows=7)
FLOOR, CLEAR = 0.15, 0.30


def telling(nights: Nights) -> Nights:
    """ECG and BCG of a heart that beats at its stage's own rate: ten nights are enough for it."""
    rng = np.random.default_rng(len(nights.label))
    stage_s = np.array([0.7, 0.85, 1.0, 1.15])[nights.label][:, None]
    nn = (stage_s + 0.03 * rng.normal(size=nights.jj.shape)).astype(np.float32)
    return dataclasses.replace(
        nights,
        jj=nn,
        tachogram=10.0 * (nn / np.float32(TYPICAL_S) - 1.0),
        tachogram_valid=np.ones_like(nights.tachogram_valid),
        hrv=np.zeros_like(nights.hrv),
    )


def permuted_within_nights(nights: Nights) -> Nights:
    labels = [np.random.default_rng(row).permutation(n) for row, n in enumerate(nights.labels())]
    return dataclasses.replace(nights, label=np.concatenate(labels))


def read_as(patch: pytest.MonkeyPatch, change) -> None:
    """Every split that is trained on is changed when it is read."""
    patch.setattr(folders, "read_split", lambda *args, **how: change(read_split(*args, **how)))


def kappa_on(held_out: list[Nights], predicted) -> float:
    """Kappa of the nights of several splits together; `predicted` gives a split's logits."""
    counts = sum(
        metrics.confusion_counts(label, logits.argmax(-1), 4)
        for nights in held_out
        for label, logits in zip(nights.labels(), predicted(nights), strict=True)
    )
    return float(metrics.kappa(counts))


@pytest.fixture(scope="module")
def held_out(data_dir) -> list[Nights]:
    return [telling(read_split(data_dir, split)) for split in ("validation", "test")]


@pytest.fixture(scope="module")
def teacher(data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("floors") / "teacher"
    with pytest.MonkeyPatch.context() as patch:
        read_as(patch, telling)
        folders.train_teacher(data_dir, out, TEACHER, TRAIN)
    return out


def test_a_teacher_of_permuted_labels_knows_nothing(
    data_dir, held_out, teacher, tmp_path, monkeypatch
):
    def kappa(workdir) -> float:
        return kappa_on(held_out, load_trained(workdir, "teacher").logits)

    read_as(monkeypatch, lambda nights: permuted_within_nights(telling(nights)))
    folders.train_teacher(data_dir, tmp_path, TEACHER, TRAIN)
    assert kappa(teacher) > CLEAR
    assert abs(kappa(tmp_path)) < FLOOR


def test_a_student_given_the_bcg_of_other_windows_knows_nothing(
    data_dir, held_out, teacher, tmp_path, monkeypatch
):
    read_as(monkeypatch, telling)
    model = StudentConfig(width=16, context_windows=7)
    folders.train_student(data_dir, [teacher], tmp_path, model, DistillConfig(), TRAIN)
    student = load_trained(tmp_path, "student")
    columns = student.run.columns

    def kappa(shuffled: bool) -> float:
        def predicted(nights):
            windows = np.arange(len(nights.label))
            if shuffled:
                windows = np.random.default_rng(0).permutation(windows)
            bcg = nights.columns(tuple(name for name in columns if name != "rr_missing"))
            swapped = dataclasses.replace(nights, **{k: v[windows] for k, v in bcg.items()})
            return predict(student.run.module, student.params, swapped, columns)

        return kappa_on(held_out, predicted)

    assert kappa(shuffled=False) > CLEAR
    assert abs(kappa(shuffled=True)) < FLOOR
