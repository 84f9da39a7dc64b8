"""The loss against formulas written out by hand in float64, and in its corners.

Nearly all of the time is XLA's, so nearly every test runs one of a few programs: `run`, compiled
once an option, and `parts`, compiled once; both of windows [6, 5] of 4 classes.
"""

import doctest
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kd_sleep import losses
from kd_sleep.losses import (
    cross_entropy,
    distillation_loss,
    mix_teachers,
    tempered_kl,
    weighted_mean,
)

SHAPE = (6, 5, 4)
DIRECTIONS = ("forward", "reverse", "js")
OPTIONS = {
    "plain": {},
    "reverse": {"direction": "reverse"},
    "js": {"direction": "js"},
    "smoothed": {"label_smoothing": 0.1},
    "teachers": {"teachers": 2},
    "all of it": {"direction": "js", "label_smoothing": 0.2, "teachers": 2},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
quickly = {"xla_backend_optimization_level": 0}  # to compile; LLVM's level, not XLA's
traces = []


@functools.partial(jax.jit, static_argnames=("direction",), compiler_options=quickly)
def compiled(student, teacher, labels, options, **static):
    traces.append(1)
    loss = lambda s, t: distillation_loss(s, t, labels, **options, **static)  # noqa: E731
    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(student, teacher)


def prepared(student, teacher, labels, alpha=0.3, temperature=4.0, dtype=np.float32, **options):
    """Arguments of `compiled`, of the same types whatever the values: all is traced that can be."""
    ones = np.ones(labels.shape)
    options = {"label_weights": ones, "kl_weights": ones} | options
    static = {name: options.pop(name) for name in ("direction",) if name in options}
    teacher = teachers_of(teacher, student, options.pop("teachers", 1))
    options = jax.tree.map(np.float32, options | {"alpha": alpha, "temperature": temperature})
    return (student.astype(dtype), teacher.astype(dtype), np.int32(labels), options), static


def run(*arguments, **options):
    """(loss, gradient to the student, aux), having seen that the teacher gets no gradient."""
    arguments, static = prepared(*arguments, **options)
    (loss, aux), (gradient, to_teacher) = jax.device_get(compiled(*arguments, **static))
    assert not to_teacher.any()
    return loss, gradient, aux


@functools.partial(jax.jit, compiler_options=quickly)
def compiled_parts(student, teacher, labels, temperature):
    def all_parts(teacher):
        found = {d: tempered_kl(student, teacher, temperature, direction=d) for d in DIRECTIONS}
        found["mixture"] = mix_teachers(jnp.stack([student, teacher]), temperature)
        found["ce"] = cross_entropy(student, labels)
        return sum(x.sum() for x in found.values()), found

    return jax.grad(all_parts, has_aux=True)(teacher)


def parts(student, teacher, labels=0, temperature=1.0):
    """Each function of a window, of rows repeated to fill SHAPE; the teacher gets no gradient."""
    student, teacher = (np.float32(np.resize(x, SHAPE)) for x in (student, teacher))
    labels = np.int32(np.resize(labels, SHAPE[:-1]))
    to_teacher, found = compiled_parts(student, teacher, labels, np.float32(temperature))
    assert not np.any(to_teacher)
    return jax.device_get(found)


def teachers_of(teacher, student, teachers):
    """The one teacher, or two: a second with other logits."""
    if teachers == 1 or teacher.ndim > student.ndim:
        return teacher
    return np.stack([teacher, np.where(teacher > 0, -0.5 * teacher, 1.5 * teacher)])


def softmax64(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl64(p, q):
    return (p * np.log(p / q)).sum(-1)


def articles_formula(student, teacher, labels, alpha, temperature):
    """alpha × CE + (1-alpha) × T² × KL(teacher || student), in float64."""
    scored = labels >= 0
    ce = -np.log(softmax64(student)[scored, labels[scored]]).mean()
    p, q = softmax64(teacher / temperature), softmax64(student / temperature)
    return alpha * ce + (1 - alpha) * temperature**2 * kl64(p, q).mean()


def oracle(
    student, teacher, labels, alpha=0.3, temperature=4.0, *, label_weights=1.0, kl_weights=1.0,
    direction="forward", label_smoothing=0.0, teachers=1,
):  # fmt: skip
    """The whole contract for finite logits, in float64."""
    labels = np.where(np.broadcast_to(label_weights, labels.shape) == 0, -1, labels)
    of_label = labels[..., None] == np.arange(student.shape[-1])
    log_q = np.log(softmax64(student))
    ce = -(1 - label_smoothing) * (of_label * log_q).sum(-1) - label_smoothing * log_q.mean(-1)
    ce_weights = label_weights * of_label.sum(-1)  # 0 without a label
    p = softmax64(teachers_of(teacher, student, teachers) / temperature)
    q = softmax64(student / temperature)
    p = p.mean(0) if teachers > 1 else p
    if direction == "js":
        kl = (kl64(p, (p + q) / 2) + kl64(q, (p + q) / 2)) / 2
    else:
        kl = kl64(p, q) if direction == "forward" else kl64(q, p)
    soft = (kl_weights * kl).sum() / (kl_weights * np.ones_like(kl)).sum()
    hard = (ce_weights * ce).sum() / ce_weights.sum()
    return alpha * hard + (1 - alpha) * temperature**2 * soft


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    student, teacher = 3 * rng.normal(size=(2, *SHAPE))
    return student, teacher, rng.integers(-1, 4, SHAPE[:-1]).astype(np.int32)


@pytest.fixture
def weights():
    """Real numbers, a third of them 0, other ones for each term."""
    rng = np.random.default_rng(2)
    label, kl = rng.uniform(0.1, 2.0, (2, 6, 5)) * (rng.random((2, 6, 5)) > 0.3)
    return {"label_weights": label, "kl_weights": kl}


# --- What it computes


def test_it_is_the_articles_formula_and_its_soft_gradient_hintons(batch):
    """dC/dz = T (q - p) for T² KL: equation 2 of Hinton's article, over the windows."""
    student, teacher, labels = batch
    few = np.where(np.arange(30).reshape(6, 5) == 0, 2, -1)  # labels: alpha means the same
    for case in itertools.product((labels, few), (0.0, 0.3, 1.0), (1.0, 4.0, 20.0)):
        expected, (*_, alpha, temperature) = articles_formula(student, teacher, *case), case
        value, gradient, _ = run(student, teacher, *case)
        assert value == pytest.approx(expected, rel=1e-5)
        assert oracle(student, teacher, *case) == pytest.approx(expected, rel=1e-12)
        if alpha == 0:
            p, q = softmax64(teacher / temperature), softmax64(student / temperature)
            np.testing.assert_allclose(gradient, temperature * (q - p) / 30, atol=1e-6)


@every_option
def test_value_and_gradient_are_the_oracles(batch, weights, options):
    at = lambda s: oracle(s, *batch[1:], 0.4, 2.5, **weights, **options)  # noqa: E731
    value, gradient, aux = run(*batch, 0.4, 2.5, **weights, **options)
    assert value == pytest.approx(at(batch[0]), rel=2e-5)
    steps = 1e-5 * np.eye(gradient.size).reshape(-1, *SHAPE)
    slopes = [(at(batch[0] + step) - at(batch[0] - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(gradient.ravel(), slopes, rtol=1e-3, atol=2e-6)
    assert set(aux) == {"cross_entropy", "kl", "label_weight", "kl_weight"}
    assert value == pytest.approx(0.4 * aux["cross_entropy"] + 0.6 * 2.5**2 * aux["kl"], rel=1e-6)
    label_weight = (weights["label_weights"] * (batch[2] >= 0)).sum()
    assert aux["label_weight"] == pytest.approx(label_weight, rel=1e-5)
    assert aux["kl_weight"] == pytest.approx(weights["kl_weights"].sum(), rel=1e-5)

    order = np.random.default_rng(1).permutation(6)  # of windows, which has no say
    moved = {name: w[order] for name, w in weights.items()}
    shuffled, *_ = run(*(x[order] for x in batch), 0.4, 2.5, **moved, **options)
    assert shuffled == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("shape", [(), (2, 1, 3)])
def test_any_leading_axes_and_nothing_but_defaults(shape):
    student, teacher = np.random.default_rng(5).normal(size=(2, *shape, 5))
    labels = np.random.default_rng(6).integers(0, 5, shape)
    loss, _ = jax.jit(distillation_loss, compiler_options=quickly)(student, teacher, labels)
    assert float(loss) == pytest.approx(articles_formula(student, teacher, labels, 0.3, 4), 1e-5)


def test_reverse_is_forward_with_its_arguments_swapped_and_js_is_symmetric(batch):
    student, teacher, _ = batch
    one, other = parts(student, teacher, 0, 2.0), parts(teacher, student, 0, 2.0)
    p, q = softmax64(teacher / 2), softmax64(student / 2)
    assert np.abs(kl64(p, q) - kl64(q, p)).max() > 0.5
    np.testing.assert_allclose(one["forward"], kl64(p, q), rtol=1e-5)
    np.testing.assert_allclose(one["reverse"], other["forward"], rtol=1e-5)
    np.testing.assert_allclose(one["js"], other["js"], rtol=1e-5)
    opposites = parts([1e4, 0, 0, 0], [0, 1e4, 0, 0])
    np.testing.assert_allclose(opposites["js"], np.log(2), rtol=1e-6)


def test_a_sure_teacher_gives_cross_entropy(batch):
    found = parts(batch[0], [-np.inf, 0, -np.inf, -np.inf], 1)
    for part in ("forward", "ce"):
        np.testing.assert_allclose(found[part], -np.log(softmax64(batch[0])[..., 1]), rtol=1e-5)


def test_a_mixture_has_the_teachers_mean_probabilities(batch):
    mixture = np.float64(parts(*batch, 2.0)["mixture"])
    expected = 0.5 * softmax64(batch[0] / 2) + 0.5 * softmax64(batch[1] / 2)
    np.testing.assert_allclose(softmax64(mixture / 2), expected, rtol=1e-5)
    student, teacher, labels = batch
    two, *_ = run(student, np.stack([teacher, teacher]), labels)  # equal teachers are one
    assert two == pytest.approx(run(*batch)[0], rel=1e-5)


def test_torch_agrees(batch):
    functional = pytest.importorskip("torch").nn.functional
    from torch import tensor

    student, teacher = (tensor(x.reshape(-1, 4)) for x in batch[:2])
    log_p, log_q = (functional.log_softmax(x / 4, -1) for x in (teacher, student))
    kl = functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    for smoothing in (0.0, 0.1):
        ce = functional.cross_entropy(
            student, tensor(batch[2].ravel()).long(), ignore_index=-1, label_smoothing=smoothing
        )
        loss, *_ = run(*batch, label_smoothing=smoothing)
        assert loss == pytest.approx(float(0.3 * ce + 0.7 * 16 * kl), rel=1e-5)


# --- alpha and T


@every_option
def test_the_loss_is_affine_in_alpha_both_ends_included(batch, options):
    at = functools.partial(run, *batch, **options)
    (soft, soft_gradient, aux), (hard, hard_gradient, _) = at(0.0), at(1.0)
    assert soft == pytest.approx(16 * aux["kl"], rel=1e-5)
    assert hard == pytest.approx(aux["cross_entropy"], rel=1e-5)
    for alpha in (1e-6, 0.3, 1 - 1e-6):
        value, gradient, _ = at(alpha)
        assert value == pytest.approx((1 - alpha) * soft + alpha * hard, rel=1e-5)
        expected = (1 - alpha) * soft_gradient + alpha * hard_gradient
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_it_traces_once_a_shape_whatever_the_settings(batch, weights):
    options = OPTIONS["smoothed"]
    run(*batch, **options)
    before = len(traces)
    for alpha, temperature, smoothing in ((0.0, 4.0, 0.0), (0.3, 1.0, 0.3), (1.0, 7.0, 0.1)):
        others = {"label_smoothing": smoothing} | weights
        value, *_ = run(*batch, alpha, temperature, **others)
        assert value == pytest.approx(oracle(*batch, alpha, temperature, **others), rel=2e-5)
    assert len(traces) == before
    arguments, static = prepared(*(x[:3] for x in batch), **options)
    compiled.eval_shape(*arguments, **static)
    assert len(traces) == before + 1


def test_what_is_not_asked_for_costs_nothing(batch):
    def program(**options):
        loss = lambda s, t, y: distillation_loss(s, t, y, **options)[0]  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss))(*map(jnp.asarray, batch)))

    for slow in ("gather", "scatter", "argmax", "rsqrt", "sort", "logaddexp", "while"):
        assert slow not in program()
    assert program(direction="forward", label_smoothing=0.0) == program()


# --- Which windows count


@every_option
def test_a_mask_equals_leaving_windows_out(batch, options):
    student, teacher, labels = batch
    expected = oracle(*(x[:4] for x in batch), **options)
    keep = np.arange(6)[:, None] + np.zeros(5) < 4
    label_less, *_ = run(*batch, label_weights=keep, **options)
    erased, *_ = run(student, teacher, np.where(keep, labels, -7), **options)
    assert label_less == pytest.approx(erased, rel=1e-6)
    masks = {"label_weights": keep, "kl_weights": keep}
    _, gradient, _ = run(*batch, **masks, **options)
    assert gradient[:4].any()
    assert not gradient[4:].any()
    for rubbish in (0.0, np.nan, np.inf, -np.inf):
        student[4:], teacher[4:] = rubbish, rubbish
        value, masked_gradient, _ = run(*batch, **masks, **options)
        assert value == pytest.approx(expected, rel=2e-5)
        np.testing.assert_array_equal(masked_gradient, gradient)
    none = dict.fromkeys(masks, 0.0 * keep)  # to learn from: 0, and not NaN
    value, gradient, _ = run(student * np.nan, teacher * np.nan, labels, **none, **options)
    assert not np.any([value, *gradient.flat])


def test_each_term_ignores_its_own_windows(batch):
    """A teacher of NaN where KL has no weight; a student of NaN where neither term has."""
    student, teacher, labels = batch
    kl_weights = np.minimum(np.arange(6.0)[:, None] + np.zeros(5), 1)
    labels[0] = [0, 1, 2, -1, -1]
    expected = oracle(*batch, kl_weights=kl_weights)
    teacher[0], student[0, 3:] = np.nan, np.nan
    value, gradient, _ = run(*batch, kl_weights=kl_weights)
    assert value == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all()
    assert gradient[0, :3].any()
    assert not gradient[0, 3:].any()


@every_option
def test_nan_that_has_weight_is_seen(batch, options):
    for which, broken in ((0, np.nan), (1, np.nan), (2, 4)):  # a label beyond the classes, too
        arrays = [x.copy() for x in batch]
        arrays[which][1, 2] = broken
        loss, gradient, _ = run(*arrays, **options)
        assert np.isnan(loss)
        assert np.isnan(gradient).any()
    keep = np.arange(30).reshape(6, 5) != 7  # all but that label
    value, gradient, _ = run(*arrays, label_weights=keep, **options)
    assert np.isfinite([value, *gradient.flat]).all()
    for name in ("kl_weights", "label_weights"):
        assert np.isnan(run(*batch, **options, **{name: keep * np.nan})[0])


def test_parts_of_a_batch_sum_to_the_whole(batch, weights):
    """Gradient accumulation over parts with unequal masks, the last without a label."""
    options = OPTIONS["smoothed"]
    weights["label_weights"][4:] = 0
    value, gradient, aux = run(*batch, **weights, **options)
    totals = {"label_total": aux["label_weight"], "kl_total": aux["kl_weight"]}
    found = []
    for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
        few = {name: w[part] for name, w in weights.items()}
        found.append(run(*(x[part] for x in batch), **few, **options, **totals))
    assert sum(v for v, _, _ in found) == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(np.concatenate([g for _, g, _ in found]), gradient, atol=1e-6)
    for name in aux:  # the terms and their weights add up, too
        assert sum(a[name] for _, _, a in found) == pytest.approx(aux[name], rel=1e-5)


def test_weighted_mean_and_that_of_no_windows():
    values, weights = np.array([1.0, np.nan, 4.0]), np.array([1.0, 0.0, 2.0])
    assert run(np.ones((0, 4)), np.ones((0, 4)), np.ones(0))[0] == 0.0
    mean = jax.jit(weighted_mean, compiler_options=quickly)
    assert mean(values, weights) == 3.0
    assert mean(values, weights > 0) == 2.5
    assert mean(values, weights, 4.5) == 2.0
    assert mean(values, 0 * weights) == 0.0


# --- Extremes


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, np.float32) for name in OPTIONS] + [(name, jnp.bfloat16) for name in ("plain", "js")],
)
def test_extreme_logits_stay_finite(batch, name, dtype):
    """Every kind of student with every kind of teacher and label, 30 windows at a time."""
    inf = np.inf
    rows = np.array([
        [0, 0, 0, 0], [1, 2, 3, -4], [1e4, -1e4, 0, 0], [-1e4, -1e4, -1e4, -1e4], [1e4, 1e4, 0, 1],
        [-inf, 0, 1, 2], [1e4, -inf, -inf, -1e4], [-inf, -inf, -inf, 0], [-inf, -inf, -inf, -inf],
        [3, -1e9, 0, 1],
    ])  # fmt: skip
    cases = np.array(list(itertools.product(range(len(rows)), range(len(rows)), range(-1, 4))))
    for temperature, case in itertools.product((0.05, 4.0, 1e4), np.resize(cases, (17, 6, 5, 3))):
        s, t, labels = np.moveaxis(case, -1, 0)
        value, gradient, _ = run(rows[s], rows[t], labels, 0.3, temperature, dtype, **OPTIONS[name])
        assert (value.dtype, gradient.dtype) == (np.float32, dtype)
        assert np.isfinite([value, *np.float32(gradient).flat]).all()
        assert not gradient[~np.isfinite(rows[s])].any()
    rounded = [np.float64(x.astype(dtype)) for x in batch[:2]]  # and no digit more is lost
    value, *_ = run(*rounded, batch[2], dtype=dtype, **OPTIONS[name])
    assert value == pytest.approx(oracle(*rounded, batch[2], **OPTIONS[name]), rel=2e-5)


@every_option
def test_classes_that_cannot_be_are_as_if_not_there(batch, options):
    student, teacher, labels = batch
    labels[labels == 3] = 1
    for temperature in (0.3, 4.0):
        expected = oracle(student[..., :3], teacher[..., :3], labels, 0.3, temperature, **options)
        masked = (np.where(np.arange(4) == 3, -np.inf, x) for x in (student, teacher))
        value, gradient, _ = run(*masked, labels, 0.3, temperature, **options)
        assert value == pytest.approx(expected, rel=2e-5)
        assert np.isfinite(gradient).all()
        assert not gradient[..., 3].any()


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e6])
def test_no_temperature_makes_a_class_that_cannot_be(temperature):
    student, mask = [0, 0, -np.inf, 0], [0, -np.inf, -np.inf, -np.inf]
    for teacher in (mask, parts(mask, mask, 0, temperature)["mixture"]):
        value = parts(student, teacher, 0, temperature)["forward"]
        np.testing.assert_allclose(value, np.log(3), rtol=1e-6)


def test_a_class_that_only_one_of_them_lets_be():
    """KL(p || q) is finite where p is 0, and large where q is: 1e5 times p."""
    student, teacher = np.array([1.0, 2.0, 0.0, -1.0]), np.array([0.0, 1.0, -np.inf, -np.inf])
    p, q, found = softmax64(teacher), softmax64(student), parts(student, teacher)
    np.testing.assert_allclose(found["forward"], kl64(p[:2], q[:2]), rtol=1e-5)
    np.testing.assert_allclose(found["reverse"], 1e5 * q[2:].sum(), rtol=1e-3)
    middle = (p + q) / 2
    expected = 0.5 * (kl64(p[:2], middle[:2]) + kl64(q, middle))
    np.testing.assert_allclose(found["js"], expected, rtol=1e-5)
    # Large logits keep their differences.
    student, teacher = np.array([8192.0, 8193, 8191.5, 8190]), np.array([-8000.0, -8001, -8e3, 0])
    value = parts(student, teacher)["forward"]
    np.testing.assert_allclose(value, -np.log(softmax64(student)[3]), rtol=1e-5)


logits = arrays(
    np.float32, (2, 4), elements=st.floats(-1e4, 1e4, width=32) | st.just(np.float32(-np.inf))
)


@settings(max_examples=40, deadline=None)
@given(logits, logits, st.floats(0.125, 100, width=32))
def test_no_divergence_is_negative_and_js_is_at_most_log_2(student, teacher, temperature):
    found = parts(student, teacher, 0, temperature)
    for direction in DIRECTIONS:
        assert (found[direction] > -1e-5).all()
        assert np.isfinite(found[direction]).all()
    assert (found["js"] < np.log(2) + 1e-5).all()


@every_option
def test_everything_is_float32_whatever_comes_in(batch, options):
    for dtype, wide in ((np.float16, False), (jnp.bfloat16, True), (np.float64, True)):
        loss = functools.partial(
            distillation_loss, labels=np.int64(batch[2]), alpha=np.float64(0.3),
            temperature=np.float64(4), kl_weights=np.ones(SHAPE[:-1]),
            **{name: value for name, value in options.items() if name != "teachers"},
        )  # fmt: skip
        (student, teacher, *_), _ = prepared(*batch, dtype=dtype, **options)
        with jax.enable_x64(wide):
            program, (value, aux) = jax.make_jaxpr(loss, return_shape=True)(student, teacher)
        inside = {x.aval.dtype for equation in program.eqns for x in equation.outvars}
        assert not inside & {np.dtype(np.float16), np.dtype(jnp.bfloat16)}  # XLA may hide them
        assert {x.dtype for x in (value, *aux.values())} == {np.dtype(np.float32)}


def test_one_class_and_many_and_small_integers():
    only = np.ones((2, 1))  # nothing to learn
    value, gradient, _ = run(only, only, np.array([0, -1]), **OPTIONS["all of it"])
    assert abs(value) < 1e-5
    assert not gradient.any()
    student = np.random.default_rng(0).normal(size=(3, 200))
    labels = np.array([127, 3, -1], np.int8)
    values = jax.jit(cross_entropy, compiler_options=quickly)(student, labels)
    assert float(values[0]) == pytest.approx(-np.log(softmax64(student)[0, 127]), rel=1e-5)


# --- Errors

NAN, INF = np.nan, np.inf
WRONG = [
    ("student_logits", np.zeros((5, 5, 4)), r" and teacher_logits: .*\(5, 5, 4\) and \(6, 5, 4\)"),
    ("student_logits", np.float32(1), ": expected shape"),
    ("student_logits", np.zeros(SHAPE, int), ": expected floating logits, got int"),
    ("teacher_logits", np.zeros(SHAPE, int), ": expected floating logits, got int"),
    ("labels", np.zeros((6, 4), int), ": expected shape"),
    ("labels", np.zeros((6, 5)), ": expected integers, got float"),
    ("labels", np.zeros((6, 5), bool), ": expected integers, got bool"),
    ("labels", np.full((6, 5), 4), ": expected at most 3, got 4"),
    ("labels", [[0, 1, 2, 3, 9]] * 6, ": expected at most 3, got 9"),
    *(("alpha", x, ".*got") for x in (1.1, NAN, np.float32(2), np.array(-1.0), jnp.float32(1.5))),
    ("alpha", np.array([0.1, 0.2]), r": expected a scalar, got shape \(2,"),
    *(("temperature", x, ".*got") for x in (0, np.float64(NAN), jnp.float32(-1), INF)),
    *(("label_smoothing", x, ".*got") for x in (1.0, np.float32(-0.1))),
    ("kl_weights", np.ones(6), ": expected shape"),
    ("label_weights", np.ones((6, 5, 1)), ": expected shape"),
    ("direction", "backward", ": expected one of .*got 'backward'"),
    ("label_total", -1.0, ".*got"),
    ("kl_total", np.ones(2), ".*got"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_a_wrong_argument_is_named_at_trace_time(batch, name, value, message):
    arguments = dict(zip(("student_logits", "teacher_logits", "labels"), batch, strict=True))
    arguments[name] = value
    logits = arguments.pop("student_logits")
    error = TypeError if "floating" in message or "integers" in message else ValueError
    with pytest.raises(error, match=f"^{name}{message}"):
        jax.eval_shape(lambda s: distillation_loss(s, **arguments), logits)


def test_the_parts_check_their_arguments_too(batch):
    student, teacher, labels = batch
    for call, word in (
        (lambda: tempered_kl(student, teacher[:2], 1.0), "student_logits and teacher_logits"),
        (lambda: tempered_kl(student, teacher, 0.0), "temperature"),
        (lambda: cross_entropy(student, labels[:2]), "labels"),
        (lambda: cross_entropy(student, labels, label_smoothing=2), "label_smoothing"),
        (lambda: mix_teachers(student[:0], 1.0), r"\[M"),
    ):
        with pytest.raises(ValueError, match=word):
            jax.eval_shape(call)
    with pytest.raises(TypeError, match="logits"):
        cross_entropy(labels, labels[..., 0])


def test_the_docstrings_example_runs():
    assert doctest.testmod(losses).failed == 0
