"""Teacher and student: who sees which windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_sleep.config import StudentConfig, TeacherConfig
from kd_sleep.models.student import Student
from kd_sleep.models.teacher import Teacher
from kd_sleep.schema import BCG_SAMPLES, HRV_FEATURES, TACHOGRAM_SAMPLES


def a_batch(sequences=2, windows=12, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "tachogram": rng.normal(size=(sequences, windows, TACHOGRAM_SAMPLES)).astype(np.float32),
        "tachogram_valid": rng.random((sequences, windows, TACHOGRAM_SAMPLES)) > 0.1,
        "hrv": rng.normal(size=(sequences, windows, len(HRV_FEATURES) + 1)).astype(np.float32),
        "bcg": rng.integers(-900, 900, (sequences, windows, BCG_SAMPLES)).astype(np.int16),
        "bcg_scale": np.full((sequences, windows), 0.002, np.float32),
        "valid_BL": np.ones((sequences, windows), bool),
    }


def networks(context):
    return {
        "teacher": Teacher(TeacherConfig(width=8, context_windows=context)),
        "autocorrelation": Student(StudentConfig(width=8, context_windows=context)),
        "convolution": Student(
            StudentConfig(width=8, context_windows=context, front_end="convolution")
        ),
    }


def randomised(module, batch):
    """Parameters without the zeros that the residual branches start from."""
    params = jax.jit(module.init)(jax.random.PRNGKey(0), batch)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.PRNGKey(1), len(leaves))
    noisy = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)


def with_other_window(batch, window):
    """The same batch, all but `valid_BL` changed in one window."""
    other = a_batch(seed=9)
    out = dict(batch)
    for name in ("tachogram", "tachogram_valid", "hrv", "bcg"):
        out[name] = batch[name].copy()
        out[name][:, window] = other[name][:, window]
    return out


@pytest.mark.parametrize("name", networks(0))
@pytest.mark.parametrize("context", [0, 1, 3])
def test_a_window_sees_its_context_and_not_a_window_more(name, context):
    module, batch = networks(context)[name], a_batch()
    params = randomised(module, batch)
    logits = np.asarray(jax.jit(module.apply)(params, batch))
    changed = np.asarray(jax.jit(module.apply)(params, with_other_window(batch, 6)))
    assert logits.shape == (2, 12, 4)
    moved = np.abs(changed - logits).max((0, 2)) > 1e-6
    assert np.flatnonzero(moved).tolist() == list(range(6 - context, 6 + context + 1))


@pytest.mark.parametrize("name", networks(0))
def test_padding_changes_no_logit(name):
    module, batch = networks(3)[name], a_batch()
    params = randomised(module, batch)
    batch["valid_BL"][:, 8:] = False
    logits = np.asarray(jax.jit(module.apply)(params, batch))[:, :8]
    garbage = with_other_window(batch, slice(8, 12))
    np.testing.assert_allclose(jax.jit(module.apply)(params, garbage)[:, :8], logits, atol=1e-5)
    short = {key: value[:, :8] if value.ndim > 1 else value for key, value in batch.items()}
    np.testing.assert_allclose(jax.jit(module.apply)(params, short), logits, atol=1e-5)


def test_the_teacher_has_no_bcg_and_the_student_no_ecg():
    batch = a_batch()
    for name, module in networks(1).items():
        needed = (
            {"tachogram", "tachogram_valid", "hrv", "valid_BL"}
            if name == "teacher"
            else {"bcg", "bcg_scale", "valid_BL"}
        )
        jax.eval_shape(module.init, jax.random.PRNGKey(0), {key: batch[key] for key in needed})


def test_dropout_is_for_training_alone():
    module, batch = networks(1)["autocorrelation"], a_batch()
    params = randomised(module, batch)
    calm = module.apply(params, batch)
    np.testing.assert_array_equal(calm, module.apply(params, batch))
    key = {"dropout": jax.random.PRNGKey(0)}
    assert jnp.abs(module.apply(params, batch, train=True, rngs=key) - calm).max() > 1e-3
