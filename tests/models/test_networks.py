"""Teacher and student: which windows they see, and what missing data and offsets do to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_sleep.config import StudentConfig, TeacherConfig
from kd_sleep.features.inputs import JJ_LEVEL, MOVEMENT_LEVEL, SCOPES, SUMMARY
from kd_sleep.models import student as student_model
from kd_sleep.models import teacher as teacher_model
from kd_sleep.models.sequence import Dilated
from kd_sleep.models.series_network import StridedConv
from kd_sleep.models.student import Student
from kd_sleep.models.teacher import Teacher
from kd_sleep.schema import (
    BCG_SAMPLES,
    HRV_FEATURES,
    MOVEMENT_SAMPLES,
    SERIES_SAMPLES,
    TACHOGRAM_SAMPLES,
)

STUDENTS = {"beats": {}, "autocorrelation": {"front_end": "autocorrelation"}}
LENGTH, CHANGED = 20, 8


def a_batch(seed=0):
    """Two sequences of every column that a network is shown, a tenth of each series missing."""
    rng = np.random.default_rng(seed)

    def normal(*shape, mean=0.0, sd=1.0, dtype=np.float32):
        return (mean + sd * rng.normal(size=(2, LENGTH, *shape))).astype(dtype)

    def gappy(*shape, **kwargs):
        values = normal(*shape, **kwargs)
        return np.where(rng.random(values.shape) < 0.1, values.dtype.type(np.nan), values)

    summary = normal(len(SUMMARY))
    summary[..., JJ_LEVEL] = 0.95 + 0.05 * np.tanh(summary[..., JJ_LEVEL])
    return {
        "tachogram": normal(TACHOGRAM_SAMPLES),
        "tachogram_valid": rng.random((2, LENGTH, TACHOGRAM_SAMPLES)) > 0.1,
        "hrv": normal(len(HRV_FEATURES) + 1),
        "jj": gappy(SERIES_SAMPLES, mean=0.95, sd=0.05),
        "beat_confidence": rng.random((2, LENGTH, SERIES_SAMPLES)).astype(np.float16),
        "breath": gappy(SERIES_SAMPLES, dtype=np.float16),
        "movement": gappy(MOVEMENT_SAMPLES, dtype=np.float16),
        **{f"summary_{scope}": summary for scope in SCOPES},
        "bcg": rng.integers(-900, 900, (2, LENGTH, BCG_SAMPLES)).astype(np.int16),
        "bcg_scale": np.full((2, LENGTH), 0.002, np.float32),
        "valid_BL": np.ones((2, LENGTH), bool),
    }


def network(name, context, causal=False):
    if name == "teacher":
        return Teacher(TeacherConfig(width=8, context_windows=context))
    config = StudentConfig(width=8, context_windows=context, causal=causal, **STUDENTS[name])
    return Student(config)


def shown(module, batch):
    """What the network is said to need of a batch, and no column more."""
    if isinstance(module, Teacher):
        columns = teacher_model.COLUMNS
    else:
        columns = student_model.columns(module.config)
    return {name: batch[name] for name in (*columns, "valid_BL")}


def randomised(module, batch):
    """Parameters without the zeros that the residual branches start from."""
    inputs = module.inputs(batch) if isinstance(batch, dict) else (batch,)
    params = jax.jit(module.init)(jax.random.PRNGKey(0), *inputs)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.PRNGKey(1), len(leaves))
    noisy = [
        leaf + 0.2 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)


def logits_of(module, params, batch):
    return jax.jit(module.apply)(params, *module.inputs(batch))


def with_other_windows(batch, windows):
    """The same batch, all but `valid_BL` changed in these windows."""
    other, out = a_batch(seed=9), dict(batch)
    for name in set(batch) - {"valid_BL"}:
        out[name] = batch[name].copy()
        out[name][:, windows] = other[name][:, windows]
    return out


CASES = [
    *(("teacher", context, False) for context in (0, 3)),
    *((name, context, causal) for name in STUDENTS for context in (0, 3) for causal in (0, 1)),
]


@pytest.mark.parametrize(("name", "context", "causal"), CASES)
def test_a_window_sees_its_context_and_not_a_window_more(name, context, causal):
    """Every column is changed in one window. Without context that window's logits alone change; a
    causal network's never change before it."""
    module = network(name, context, bool(causal))
    batch = shown(module, a_batch())
    params = randomised(module, batch)
    logits = np.asarray(logits_of(module, params, batch))
    changed = np.asarray(logits_of(module, params, with_other_windows(batch, CHANGED)))
    assert logits.shape == (2, LENGTH, 4)
    moved = np.flatnonzero((changed != logits).any((0, 2)))
    before, after = (0, 2 * context) if causal else (context, context)
    assert moved.tolist() == list(range(CHANGED - before, CHANGED + after + 1))


@pytest.mark.parametrize("name", ["teacher", *STUDENTS])
@pytest.mark.parametrize("context", [0, 3])
def test_logits_do_not_depend_on_padding(name, context):
    module = network(name, context)
    batch = shown(module, a_batch())
    params = randomised(module, batch)
    batch["valid_BL"] = np.broadcast_to(np.arange(LENGTH) < CHANGED, (2, LENGTH))
    short = {key: value[:, :CHANGED] for key, value in batch.items()}
    logits = logits_of(module, params, short)
    for padded in (batch, with_other_windows(batch, slice(CHANGED, None))):
        found = logits_of(module, params, padded)[:, :CHANGED]
        np.testing.assert_allclose(found, logits, atol=2e-5)


@pytest.mark.parametrize("context", [0, 3])
def test_a_bcg_of_which_all_series_are_missing_gives_finite_logits_and_gradients(context):
    module = network("beats", context)
    batch = shown(module, a_batch())
    for name in ("jj", "breath", "movement"):
        batch[name] = np.full_like(batch[name], np.nan)
    batch["beat_confidence"] = np.zeros_like(batch["beat_confidence"])
    params = randomised(module, batch)

    def size(params):
        return (module.apply(params, *module.inputs(batch)) ** 2).sum()

    value, gradient = jax.jit(jax.value_and_grad(size))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_unit_of_the_movement_does_not_matter():
    """A gain of the BCG adds the same to the log level and to its reference."""
    module = network("beats", 3)
    batch = shown(module, a_batch())
    batch["movement"] = batch["movement"].astype(np.float32)
    params = randomised(module, batch)
    louder = batch | {"movement": batch["movement"] + 2.0}
    moved = logits_of(module, params, louder) - logits_of(module, params, batch)
    assert np.abs(moved).max() > 1e-2
    louder["summary_night"] = batch["summary_night"].copy()
    louder["summary_night"][..., MOVEMENT_LEVEL] += 2.0
    logits = [logits_of(module, params, each) for each in (batch, louder)]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4)


def test_dropout_is_for_training_alone():
    module = network("beats", 3)
    batch = shown(module, a_batch())
    params = randomised(module, batch)
    inputs = module.inputs(batch)
    still = module.apply(params, *inputs)
    np.testing.assert_array_equal(still, module.apply(params, *inputs))
    key = {"dropout": jax.random.PRNGKey(0)}
    assert jnp.abs(module.apply(params, *inputs, train=True, rngs=key) - still).max() > 1e-3


def convolved(params, x_NTC, width, stride, dilation, padding):
    """XLA's convolution with the kernel [size * C, width] of a matrix product on patches."""
    dense = params["params"]["Dense_0"]
    kernel = dense["kernel"].reshape(-1, x_NTC.shape[-1], width)
    out = jax.lax.conv_general_dilated(
        x_NTC, kernel, (stride,), [padding], rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )  # fmt: skip
    return out + dense["bias"][None, None]


@pytest.mark.parametrize(("size", "stride"), [(9, 2), (5, 2), (5, 1)])
def test_a_matrix_product_on_patches_is_a_strided_convolution(size, stride):
    x = np.random.default_rng(0).normal(size=(3, 20, 4)).astype(np.float32)
    module = StridedConv(6, size, stride)
    params = randomised(module, x)
    expected = convolved(params, x, 6, stride, 1, (size // 2, size // 2))
    np.testing.assert_allclose(module.apply(params, x), expected, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("reach", [1, 4])
def test_a_matrix_product_on_places_apart_is_a_dilated_convolution(reach, causal):
    x = np.random.default_rng(0).normal(size=(3, 20, 4)).astype(np.float32)
    module = Dilated(6, reach, causal=causal)
    params = randomised(module, x)
    padding = (2 * reach, 0) if causal else (reach, reach)
    expected = convolved(params, x, 6, 1, reach, padding)
    np.testing.assert_allclose(module.apply(params, x), expected, atol=1e-5)
