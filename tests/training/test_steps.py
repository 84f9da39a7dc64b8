"""The step: traced once, donated, and it learns."""

import jax
import numpy as np
import pytest

from kd_sleep.config import PRESETS, DistillConfig, StudentConfig, TrainConfig
from kd_sleep.models.student import Student
from kd_sleep.training.steps import create_state, make_distillation_loss, make_train_step


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (4, 8)).astype(np.int8)
    bcg = rng.normal(size=(4, 8, 1500))
    bcg *= 1 + label[..., None]  # loudness tells the label
    return {
        "bcg": (1000 * bcg).astype(np.int16),
        "bcg_scale": np.full((4, 8), 1e-3, np.float32),
        "bcg_missing": np.zeros((4, 8), np.float32),
        "rr_missing": np.zeros((4, 8), np.float32),
        "label": label,
        "valid_BL": np.ones((4, 8), bool),
        "teacher_logits": 4 * np.eye(4, dtype=np.float32)[label][:, :, None],  # one teacher
    }


TRAIN = TrainConfig(steps=60, learning_rate=1e-2)
MODULE = Student(StudentConfig(width=8, context_windows=0, dropout=0.0))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_it_learns_from_either_teacher(batch, alpha):
    state = create_state(MODULE, TRAIN, batch)
    step = make_train_step(make_distillation_loss(DistillConfig(alpha=alpha)))
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    prediction = np.asarray(MODULE.apply({"params": state.params}, batch)).argmax(-1)
    assert losses[-1] < 0.3 * losses[0]
    assert (prediction == batch["label"]).mean() > 0.9


def test_one_trace_and_a_donated_state(batch):
    traces = []
    loss = make_distillation_loss(DistillConfig())

    def counting(logits, batch):
        traces.append(1)
        return loss(logits, batch)

    step = make_train_step(counting)
    first = create_state(MODULE, TRAIN, batch)
    state, _ = step(first, batch)
    for _ in range(3):
        state, _ = step(state, batch)
    assert len(traces) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))


def test_windows_without_bcg_teach_nothing(batch):
    loss_of = make_distillation_loss(DistillConfig())
    logits = np.random.default_rng(1).normal(size=(4, 8, 4)).astype(np.float32)
    batch["bcg_missing"][0, 0] = 1.0
    before, _ = loss_of(logits, batch)
    logits[0, 0] = 50.0, -50.0, 0.0, 0.0
    after, _ = loss_of(logits, batch)
    assert float(before) == pytest.approx(float(after))


def test_a_teacher_without_beats_is_not_believed(batch):
    loss_of = make_distillation_loss(DistillConfig(alpha=0.0))
    logits = np.zeros((4, 8, 4), np.float32)
    batch["rr_missing"][0, 0] = 1.0
    before, _ = loss_of(logits, batch)
    batch["teacher_logits"][0, 0] = 100.0, 0.0, 0.0, 0.0
    after, _ = loss_of(logits, batch)
    assert float(before) == pytest.approx(float(after))


@pytest.mark.parametrize("name", PRESETS)
def test_every_presets_student_takes_a_step(batch, name):
    """Shapes alone: the accelerator's student is too large to run here."""
    preset = PRESETS[name]
    module = Student(preset.student)
    state = jax.eval_shape(lambda: create_state(module, preset.student_train, batch))
    step = make_train_step(make_distillation_loss(preset.distill))
    _, metrics = jax.eval_shape(step, state, batch)
    assert metrics["loss"].shape == ()
