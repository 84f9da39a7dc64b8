"""Nothing is learned from nothing: broken links between signal and stage end at the floor.

The floor here is kappa 0: what is left is how much of each stage a night has, for which no signal
is needed.
"""

import dataclasses

import numpy as np
import pytest

from kd_sleep import metrics
from kd_sleep.config import DistillConfig, StudentConfig, TeacherConfig, TrainConfig
from kd_sleep.datasets.nights import Nights, read_split
from kd_sleep.training import distill, loop

TRAIN = TrainConfig(steps=150, batch_size=4, sequence_windows=48, evaluate_every=50)
TEACHER = TeacherConfig(width=16, context_windows=7)
FLOOR, CLEAR = 0.15, 0.30


def permuted_within_nights(nights: Nights) -> Nights:
    labels = [np.random.default_rng(row).permutation(n) for row, n in enumerate(nights.labels())]
    return dataclasses.replace(nights, label=np.concatenate(labels))


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
    return [read_split(data_dir, split) for split in ("validation", "test")]


@pytest.fixture(scope="module")
def teacher(data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("floors") / "teacher"
    distill.train_teacher(data_dir, out, TEACHER, TRAIN)
    return out


def test_a_teacher_of_permuted_labels_knows_nothing(
    data_dir, held_out, teacher, tmp_path, monkeypatch
):
    def kappa(workdir) -> float:
        module, params, _ = distill.load_teacher(workdir, held_out[0])
        columns = distill.TEACHER_COLUMNS
        return kappa_on(held_out, lambda nights: loop.predict(module, params, nights, columns))

    original = distill.read_split
    monkeypatch.setattr(
        distill,
        "read_split",
        lambda *args, **kwargs: permuted_within_nights(original(*args, **kwargs)),
    )
    distill.train_teacher(data_dir, tmp_path, TEACHER, TRAIN)
    assert kappa(teacher) > CLEAR
    assert abs(kappa(tmp_path)) < FLOOR


def test_a_student_given_another_nights_bcg_knows_nothing(data_dir, held_out, teacher, tmp_path):
    model = StudentConfig(width=16, context_windows=7)
    distill.train_student(data_dir, [teacher], tmp_path, model, DistillConfig(), TRAIN)
    module, params, _ = distill.load_student(tmp_path, held_out[0])

    def kappa(shift: int) -> float:
        def predicted(nights):
            others = np.roll(np.arange(len(nights)), shift)
            windows = np.concatenate(
                [  # a longer night takes a shorter one's BCG from its beginning again
                    nights.first[other] + np.arange(count) % nights.windows[other]
                    for other, count in zip(others, nights.windows, strict=True)
                ]
            )
            bcg = nights.columns(("bcg", "bcg_scale", "bcg_missing"))
            swapped = dataclasses.replace(nights, **{k: v[windows] for k, v in bcg.items()})
            return loop.predict(module, params, swapped, distill.STUDENT_COLUMNS)

        return kappa_on(held_out, predicted)

    assert kappa(0) > CLEAR
    assert abs(kappa(1)) < FLOOR
