"""The step: what it learns from, in how many parts, on how many devices; traced once, donated."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_sleep.config import PRESETS, DistillConfig, StudentConfig, TrainConfig
from kd_sleep.datasets.batches import Sequences, gather
from kd_sleep.features.inputs import JJ_LEVEL, SUMMARY, TYPICAL_S
from kd_sleep.models.student import Student
from kd_sleep.schema import BCG_SAMPLES, MOVEMENT_SAMPLES, SERIES_SAMPLES
from kd_sleep.training import steps
from kd_sleep.training.mesh import data_mesh, put, replicated
from kd_sleep.training.steps import (
    create_state,
    distillation_objective,
    loss_settings,
    make_resident_step,
    make_train_step,
)


def a_batch(sequences=4, windows=8):
    """What a single-window student learns from, and the samples. A slow heart tells Deep."""
    rng = np.random.default_rng(0)
    shape = (sequences, windows)
    label = rng.integers(0, 4, shape).astype(np.int8)
    jj = 0.8 + 0.1 * label[..., None] + 0.01 * rng.normal(size=(*shape, SERIES_SAMPLES))
    summary = np.zeros((*shape, len(SUMMARY)), np.float32)
    summary[..., JJ_LEVEL] = TYPICAL_S
    return {
        "jj": jj.astype(np.float32),
        "beat_confidence": np.full(jj.shape, 0.9, np.float16),
        "breath": rng.normal(size=jj.shape).astype(np.float16),
        "movement": np.full((*shape, MOVEMENT_SAMPLES), np.nan, np.float16),
        "summary_window": summary,
        "bcg": (1000 * rng.normal(size=(*shape, BCG_SAMPLES)) * (1 + label[..., None])).astype(
            np.int16
        ),
        "bcg_scale": np.full(shape, 1e-3, np.float32),
        "bcg_missing": np.zeros(shape, np.float32),
        "rr_missing": np.zeros(shape, np.float32),
        "label": label,
        "valid_BL": np.ones(shape, bool),
        "teacher_logits": 4 * np.eye(4, dtype=np.float32)[label][:, :, None],  # one teacher
    }


@pytest.fixture
def batch():
    return a_batch()


def with_masks(batch):
    """Labels, BCG and beats missing here and there, more in some sequences than in others."""
    rng = np.random.default_rng(1)
    label = batch["label"].copy()
    label[0] = -1
    label[1, :5] = -1
    return batch | {
        "label": label,
        "rr_missing": rng.random(label.shape).astype(np.float32),
        "bcg_missing": (rng.random(label.shape) < 0.3).astype(np.float32),
    }


TRAIN = TrainConfig(steps=60, learning_rate=1e-2)
MODEL = StudentConfig(width=8, context_windows=0, dropout=0.0)
MODULE = Student(MODEL)
MESH = data_mesh()


class Toy(nn.Module):
    """A network that compiles in no time, for what a step does with any network."""

    def inputs(self, batch):
        return (batch,)

    @nn.compact
    def __call__(self, batch, *, train=False):
        bcg = batch["bcg"].astype(jnp.float32) * batch["bcg_scale"][..., None]
        loud = [jnp.abs(bcg).mean(-1), jnp.abs(bcg[..., :9]).max(-1), batch["jj"].mean(-1)]
        return nn.Dense(4)(nn.tanh(nn.Dense(8)(jnp.stack(loud, -1))))


def begin(module, train, batch, loss):
    return jax.device_put(create_state(module, train, batch, loss_settings(loss)), replicated(MESH))


def run(batch, count=1, train=TRAIN, loss=None, module=None):
    """State and metrics after `count` steps on one batch."""
    module, loss = module or Toy(), loss or DistillConfig()
    state = begin(module, train, batch, loss)
    step = make_train_step(distillation_objective(loss), train, MESH)
    on_device = put(batch, MESH)
    for _ in range(count):
        state, metrics = step(state, on_device)
    return jax.device_get(state), jax.device_get(metrics)


def assert_near(one, two, rtol=1e-4, atol=1e-6):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_it_learns_from_either_teacher(batch, alpha):
    _, first = run(batch, 1, loss=DistillConfig(alpha=alpha), module=MODULE)
    state, last = run(batch, 60, loss=DistillConfig(alpha=alpha), module=MODULE)
    prediction = np.asarray(MODULE.apply({"params": state.params}, *MODULE.inputs(batch))).argmax(
        -1
    )
    assert last["loss"] < 0.3 * first["loss"]
    assert (prediction == batch["label"]).mean() > 0.9


def test_one_trace_and_a_donated_state(batch):
    traces = []
    objective = distillation_objective(DistillConfig())

    def counting(*arguments):
        traces.append(1)
        return objective.loss(*arguments)

    step = make_train_step(dataclasses.replace(objective, loss=counting), TRAIN, MESH)
    first = begin(Toy(), TRAIN, batch, DistillConfig())
    state, _ = step(first, put(batch, MESH))
    for alpha in (0.1, 0.5):  # settings are values of the state, not constants of the program
        other = jax.device_put(jnp.float32(alpha), replicated(MESH))
        state = state.replace(settings=state.settings | {"alpha": other})
        state, _ = step(state, put(batch, MESH))
    assert len(traces) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))


def loss_of(batch, logits, loss=None):
    """The objective's loss with these logits in place of a network's."""
    loss = loss or DistillConfig()
    objective = distillation_objective(loss)
    weights = objective.weigh(batch)
    totals = {f"{name}_total": weight.sum() for name, weight in weights.items()}
    value, _ = objective.loss(logits, {**batch, **weights, **totals}, loss_settings(loss))
    return float(value)


def test_windows_without_bcg_teach_nothing(batch):
    logits = np.random.default_rng(1).normal(size=(4, 8, 4)).astype(np.float32)
    batch["bcg_missing"][0, 0] = 1.0
    before = loss_of(batch, logits)
    logits[0, 0] = 50.0, -50.0, 0.0, 0.0
    assert loss_of(batch, logits) == pytest.approx(before)


def test_a_teacher_without_beats_is_not_believed(batch):
    logits = np.zeros((4, 8, 4), np.float32)
    batch["rr_missing"][0, 0] = 1.0
    before = loss_of(batch, logits, DistillConfig(alpha=0.0))
    batch["teacher_logits"][0, 0] = 100.0, 0.0, 0.0, 0.0
    assert loss_of(batch, logits, DistillConfig(alpha=0.0)) == pytest.approx(before)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_batch(batch, parts):
    """Although some parts have few labels and others many."""
    batch = with_masks(batch)
    whole, in_parts = (run(batch, 3, dataclasses.replace(TRAIN, accumulate=n)) for n in (1, parts))
    assert_near(whole[0].params, in_parts[0].params, rtol=2e-3, atol=2e-5)
    assert_near(whole[1], in_parts[1], rtol=1e-3)


def test_bfloat16_keeps_float32_where_it_counts(batch):
    narrow = Student(MODEL, jnp.bfloat16)
    state, metrics = run(batch, 60, module=narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("float32")}
    assert metrics["loss"].dtype == np.float32
    logits = narrow.apply({"params": state.params}, *narrow.inputs(batch))
    assert logits.dtype == jnp.float32
    assert (np.asarray(logits).argmax(-1) == batch["label"]).mean() > 0.9
    # And it does compute in bfloat16.
    assert (
        "bf16"
        in jax.jit(narrow.apply).lower({"params": state.params}, *narrow.inputs(batch)).as_text()
    )


def test_the_moving_average_follows_the_parameters(batch):
    train = dataclasses.replace(TRAIN, ema_decay=0.5)
    state = begin(Toy(), train, batch, DistillConfig())
    average = jax.device_get(state.params)
    step = make_train_step(distillation_objective(DistillConfig()), train, MESH)
    for _ in range(3):
        state, _ = step(state, put(batch, MESH))
        average = jax.tree.map(
            lambda a, p: 0.5 * a + 0.5 * p, average, jax.device_get(state.params)
        )
    assert_near(state.average, average, rtol=1e-5)
    assert state.kept is state.average
    assert create_state(Toy(), TRAIN, batch).average is None


def test_many_steps_in_one_dispatch_are_as_many_steps(batch):
    """Columns on the device, gathered in the program, against batches from the host."""
    count, length = 3, 8
    objective, loss = distillation_objective(DistillConfig()), DistillConfig()
    columns = {
        name: array.reshape(32, *array.shape[2:])
        for name, array in with_masks(batch).items()
        if name != "valid_BL"
    }
    low = np.array([0, 8, 16, 24], np.int32)
    where = Sequences(low - 2, low, low + 8)  # two windows before each night's own
    stacked = Sequences(*(np.stack([array] * count) for array in where))
    train = dataclasses.replace(TRAIN, sequence_windows=length)
    state = begin(Toy(), train, batch, loss)
    state, metrics = make_resident_step(objective, train, MESH)(state, columns, stacked)

    host = gather(columns, where, length)
    expected, expected_metrics = run(host, count, train)
    assert_near(jax.device_get(state.params), expected.params, rtol=2e-3, atol=2e-5)
    assert_near(jax.device_get(metrics), expected_metrics, rtol=1e-3)


@pytest.mark.parametrize("name", PRESETS)
def test_every_presets_student_takes_a_step(batch, name):
    """Shapes alone: the accelerator's student is too large to run here."""
    preset = PRESETS[name]
    module, loss = Student(preset.student), preset.distill
    batch["summary_night"] = batch.pop("summary_window")
    state = jax.eval_shape(
        lambda: create_state(module, preset.student_train, batch, loss_settings(loss))
    )
    update = steps.make_update(distillation_objective(loss), preset.student_train)
    _, metrics = jax.eval_shape(update, state, batch)
    assert metrics["loss"].shape == ()
