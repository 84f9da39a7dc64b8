"""The loss against formulas written out by hand in float64, and in its corners."""

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
from jax.test_util import check_grads

from kd_sleep import losses
from kd_sleep.losses import (
    cross_entropy,
    decoupled_kl,
    distillation_loss,
    mix_teachers,
    standardise_logits,
    tempered_kl,
    weighted_mean,
)

DIRECTIONS = ("forward", "reverse", "js")
CLASS_WEIGHTS = (1.0, 2.5, 0.3, 4.0)
OPTIONS = {
    "plain": {},
    "reverse": {"direction": "reverse"},
    "js": {"direction": "js"},
    "smoothed": {"label_smoothing": 0.1},
    "class weights": {"class_weights": CLASS_WEIGHTS},
    "standardised": {"standardise": True},
    "decoupled": {"decoupled": (1.0, 8.0)},
    "teachers": {"teacher_weights": (1.0, 3.0)},
    "decoupled, standardised": {"decoupled": (0.5, 2.0), "standardise": True},
    "all but decoupled": {
        "direction": "js",
        "label_smoothing": 0.2,
        "class_weights": CLASS_WEIGHTS,
        "standardise": True,
        "teacher_weights": (2.0, 1.0),
    },
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def softmax64(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl64(p, q):
    return (p * np.log(p / q)).sum(-1)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 4, (6, 5)).astype(np.int32)
    student, teacher = 3 * rng.normal(size=(2, 6, 5, 4))
    return student, teacher, labels


@pytest.fixture
def weights(batch):
    """Real numbers, a third of them 0, other ones for each term."""
    rng = np.random.default_rng(2)
    label, kl = rng.uniform(0.1, 2.0, (2, 6, 5)) * (rng.random((2, 6, 5)) > 0.3)
    return {"label_weights": label, "kl_weights": kl}


def with_teachers(teacher, options):
    """The one teacher, or as many as `options` weigh, each of another mind."""
    if "teacher_weights" not in options:
        return teacher
    return np.stack([teacher, 0.5 * np.roll(teacher, 1, axis=-1) + 1.0])


def articles_formula(student, teacher, labels, alpha, temperature):
    """alpha × CE + (1-alpha) × T² × KL(teacher || student), in float64."""
    scored = labels >= 0
    ce = -np.log(softmax64(student)[scored, labels[scored]]).mean()
    p, q = softmax64(teacher / temperature), softmax64(student / temperature)
    return alpha * ce + (1 - alpha) * temperature**2 * kl64(p, q).mean()


def oracle(
    student, teacher, labels, alpha=0.3, temperature=4.0, *, label_weights=None, kl_weights=None,
    direction="forward", class_weights=None, label_smoothing=0.0, standardise=False,
    decoupled=None, teacher_weights=None,
):  # fmt: skip
    """The whole contract for finite logits: window by window, in float64."""
    ones = np.ones(labels.shape)
    label_weights = ones if label_weights is None else label_weights
    kl_weights = ones if kl_weights is None else kl_weights
    z_score = (lambda z: (z - z.mean()) / np.sqrt(z.var() + 1e-6)) if standardise else (lambda z: z)
    sums = dict.fromkeys(("ce", "ce_weight", "kl", "kl_weight"), 0.0)
    for at in np.ndindex(labels.shape):
        label, s = labels[at] if label_weights[at] else -1, student[at]
        if label >= 0:
            log_q = np.log(softmax64(s))
            ce = -(1 - label_smoothing) * log_q[label] - label_smoothing * log_q.mean()
            weight = label_weights[at] * (1 if class_weights is None else class_weights[label])
            sums["ce"] += weight * ce
            sums["ce_weight"] += weight
        q = softmax64(z_score(s) / temperature)
        if teacher_weights is None:
            p = softmax64(z_score(teacher[at]) / temperature)
        else:
            w = np.array(teacher_weights) / np.sum(teacher_weights)
            p = sum(
                w_m * softmax64(z_score(t[at]) / temperature)
                for w_m, t in zip(w, teacher, strict=True)
            )
        if decoupled is not None:
            c = label if label >= 0 else p.argmax()
            two_p, two_q = np.array([p[c], 1 - p[c]]), np.array([q[c], 1 - q[c]])
            others_p, others_q = np.delete(p, c) / two_p[1], np.delete(q, c) / two_q[1]
            kl = decoupled[0] * kl64(two_p, two_q) + decoupled[1] * kl64(others_p, others_q)
        elif direction == "js":
            kl = (kl64(p, (p + q) / 2) + kl64(q, (p + q) / 2)) / 2
        else:
            kl = kl64(p, q) if direction == "forward" else kl64(q, p)
        sums["kl"] += kl_weights[at] * kl
        sums["kl_weight"] += kl_weights[at]
    return (
        alpha * sums["ce"] / sums["ce_weight"]
        + (1 - alpha) * temperature**2 * sums["kl"] / sums["kl_weight"]
    )


SETTINGS = (
    "direction", "class_weights", "label_smoothing", "standardise", "decoupled", "teacher_weights"
)  # fmt: skip


@functools.partial(
    jax.jit, static_argnames=SETTINGS, compiler_options={"xla_llvm_disable_expensive_passes": True}
)
def compiled(student, teacher, labels, alpha, temperature, **options):
    loss = lambda s, t: distillation_loss(s, t, labels, alpha, temperature, **options)  # noqa: E731
    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(student, teacher)


def run(student, teacher, labels, alpha=0.3, temperature=4.0, **options):
    """((loss, aux), gradients to student and teacher); compiled once a shape and option."""
    ones = np.ones(labels.shape, np.float32)
    weights = {"label_weights": ones, "kl_weights": ones}
    return compiled(student, teacher, labels, alpha, temperature, **(weights | options))


def value_and_grad(*arguments, **options):
    (loss, _), (gradient, _) = run(*arguments, **options)
    return loss, gradient


# --- What it computes


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_it_is_the_articles_formula(batch, alpha, temperature):
    loss, _ = distillation_loss(*batch, alpha=alpha, temperature=temperature)
    assert float(loss) == pytest.approx(articles_formula(*batch, alpha, temperature), rel=1e-5)
    assert oracle(*batch, alpha, temperature) == pytest.approx(
        articles_formula(*batch, alpha, temperature), rel=1e-12
    )


@every_option
def test_value_and_gradient_are_the_oracles(batch, weights, options):
    student, teacher, labels = batch
    teacher = with_teachers(teacher, options)
    value, gradient = value_and_grad(student, teacher, labels, 0.4, 2.5, **weights, **options)
    assert float(value) == pytest.approx(
        oracle(student, teacher, labels, 0.4, 2.5, **weights, **options), rel=2e-5
    )
    step = 1e-5
    for at in np.ndindex(2, 5, 4):
        ends = []
        for sign in (1, -1):
            moved = student.copy()
            moved[at] += sign * step
            ends.append(oracle(moved, teacher, labels, 0.4, 2.5, **weights, **options))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(gradient[at]) == pytest.approx(slope, rel=1e-3, abs=2e-6)


def test_parts_add_up(batch):
    loss, aux = distillation_loss(*batch, alpha=0.3, temperature=4.0)
    expected = 0.3 * aux["cross_entropy"] + 0.7 * 16 * aux["kl"]
    assert set(aux) == {"cross_entropy", "kl", "label_weight", "kl_weight"}
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert int(aux["label_weight"]) == (batch[2] >= 0).sum()
    assert int(aux["kl_weight"]) == batch[2].size


def test_weights_in_aux_are_sums(batch, weights):
    labels = batch[2]
    _, aux = distillation_loss(*batch, **weights, class_weights=CLASS_WEIGHTS)
    per_window = weights["label_weights"] * np.where(
        labels >= 0, np.array(CLASS_WEIGHTS)[labels], 0
    )
    assert float(aux["label_weight"]) == pytest.approx(per_window.sum(), rel=1e-5)
    assert float(aux["kl_weight"]) == pytest.approx(weights["kl_weights"].sum(), rel=1e-5)


def test_kl_is_forward_and_not_its_reverse():
    student, teacher = np.array([[2.0, 0, 0, 0]]), np.array([[0, 0, 3.0, 3.0]])
    p, q = softmax64(teacher), softmax64(student)
    assert abs(kl64(p, q) - kl64(q, p)) > 0.5
    assert float(tempered_kl(student, teacher, 1.0)[0]) == pytest.approx(kl64(p, q)[0], rel=1e-5)


def test_reverse_is_forward_with_its_arguments_swapped_and_js_is_symmetric(batch):
    student, teacher, _ = batch
    np.testing.assert_allclose(
        tempered_kl(student, teacher, 2.0, direction="reverse"),
        tempered_kl(teacher, student, 2.0),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        tempered_kl(student, teacher, 2.0, direction="js"),
        tempered_kl(teacher, student, 2.0, direction="js"),
        rtol=1e-5,
    )


def test_js_of_opposites_is_log_2():
    one, other = np.array([[1e4, 0, 0, 0]]), np.array([[0, 1e4, 0, 0]])
    assert float(tempered_kl(one, other, 1.0, direction="js")[0]) == pytest.approx(np.log(2))


@pytest.mark.parametrize(("direction", "part"), [("forward", 2), ("reverse", 2), ("js", 8)])
def test_a_warm_teacher_is_matched_in_logits(batch, direction, part):
    """T² KL tends to half the variance of the logits' difference as T grows (Hinton 2015)."""
    student, teacher, _ = batch
    difference = student - teacher
    expected = ((difference - difference.mean(-1, keepdims=True)) ** 2).mean(-1) / part
    temperature = 300.0
    actual = temperature**2 * tempered_kl(student, teacher, temperature, direction=direction)
    np.testing.assert_allclose(actual, expected, rtol=0.05, atol=0.02)


def test_the_soft_gradient_is_hintons(batch):
    """dC/dz = T (q - p) for T² KL: equation 2 of the article, over the windows."""
    student, teacher, labels = batch
    _, gradient = value_and_grad(student, teacher, labels, 0.0, 4.0)
    expected = 4.0 * (softmax64(student / 4) - softmax64(teacher / 4)) / labels.size
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_soft_gradient_keeps_its_size_as_temperature_grows(batch, direction):
    def size(temperature):
        return float(
            jnp.linalg.norm(value_and_grad(*batch, 0.0, temperature, direction=direction)[1])
        )

    # Without T² the second would be a hundredth of the first.
    assert 0.4 < size(40.0) / size(8.0) < 2.5


def test_a_sure_teacher_gives_cross_entropy(batch):
    student = batch[0].reshape(-1, 4)
    sure = np.full_like(student, -np.inf)
    sure[:, 1] = 0.0
    np.testing.assert_allclose(
        tempered_kl(student, sure, 1.0),
        cross_entropy(student, np.ones(len(student), int)),
        rtol=1e-5,
    )


def test_decoupled_parts_make_kl(batch):
    student, teacher, labels = batch
    target, non_target = decoupled_kl(student, teacher, labels, 2.0)
    p = softmax64(teacher / 2.0)
    c = np.where(labels >= 0, labels, p.argmax(-1))
    p_target = np.take_along_axis(p, c[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        target + (1 - p_target) * non_target, tempered_kl(student, teacher, 2.0), rtol=1e-4
    )


def test_a_target_without_a_label_is_the_teachers_choice(batch):
    student, teacher, _ = batch
    none = np.full(student.shape[:-1], -1)
    for actual, expected in zip(
        decoupled_kl(student, teacher, none, 2.0),
        decoupled_kl(student, teacher, teacher.argmax(-1), 2.0),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)


def test_a_teacher_that_lets_no_other_class_be_says_nothing_of_them():
    student, sure = np.array([[1.0, 2.0, 3.0, 0.0]]), np.array([[0.0, -np.inf, -np.inf, -np.inf]])
    target, non_target = decoupled_kl(student, sure, np.array([0]), 1.0)
    assert float(non_target[0]) == 0
    assert float(target[0]) == pytest.approx(-np.log(softmax64(student)[0, 0]), rel=1e-5)


def test_standardised_logits_have_mean_0_and_variance_1(batch):
    z = np.array(standardise_logits(batch[0]))
    np.testing.assert_allclose(z.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(z.var(-1), 1, rtol=1e-4)


def test_standardised_kl_sees_neither_scale_nor_shift(batch):
    student, teacher, labels = batch
    options = {"standardise": True, "alpha": 0.0}
    loss, _ = distillation_loss(student, teacher, labels, **options)
    moved, _ = distillation_loss(7 * student - 3, 0.5 * teacher + 11, labels, **options)
    assert float(moved) == pytest.approx(float(loss), rel=1e-4)


def test_a_mixture_has_the_teachers_mean_probabilities(batch):
    teachers = np.stack(batch[:2])
    mixture = np.array(mix_teachers(teachers, [1, 3], 2.0), np.float64)
    expected = 0.25 * softmax64(teachers[0] / 2) + 0.75 * softmax64(teachers[1] / 2)
    np.testing.assert_allclose(softmax64(mixture / 2), expected, rtol=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("standardise", [False, True])
def test_equal_teachers_are_one(batch, direction, standardise):
    student, teacher, labels = batch
    options = {"direction": direction, "standardise": standardise}
    one, _ = distillation_loss(student, teacher, labels, **options)
    three, _ = distillation_loss(
        student, np.stack([teacher] * 3), labels, teacher_weights=(0.2, 0.0, 5.0), **options
    )
    assert float(three) == pytest.approx(float(one), rel=1e-5)


def test_a_teacher_of_no_weight_is_not_heard(batch):
    student, teacher, labels = batch
    teachers = np.stack([np.full_like(teacher, np.nan), teacher])
    value, gradient = value_and_grad(student, teachers, labels, teacher_weights=(0.0, 1.0))
    assert float(value) == pytest.approx(float(distillation_loss(*batch)[0]), rel=1e-5)
    assert jnp.isfinite(gradient).all()


# --- Torch


def test_torch_agrees(batch):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    student, teacher = (torch.tensor(x.reshape(-1, 4)) for x in batch[:2])
    labels = torch.tensor(batch[2].ravel(), dtype=torch.long)
    kl = functional.kl_div(
        functional.log_softmax(student / 4, -1), functional.softmax(teacher / 4, -1),
        reduction="batchmean",
    )  # fmt: skip
    for options, torchs in (
        ({}, {}),
        ({"label_smoothing": 0.1}, {"label_smoothing": 0.1}),
        ({"class_weights": CLASS_WEIGHTS}, {"weight": torch.tensor(CLASS_WEIGHTS).double()}),
    ):
        ce = functional.cross_entropy(student, labels, ignore_index=-1, **torchs)
        expected = float(0.3 * ce + 0.7 * 16 * kl)
        assert float(distillation_loss(*batch, **options)[0]) == pytest.approx(expected, rel=1e-5)


# --- Gradients


@pytest.mark.parametrize("options", ["plain", "js", "decoupled, standardised"])
def test_gradients(batch, options):
    student, teacher, labels = (x[:2] for x in batch)
    check_grads(
        jax.jit(lambda s: distillation_loss(s, teacher, labels, **OPTIONS[options])[0]),
        (jnp.asarray(student, jnp.float32),),
        order=1,
        modes=["fwd", "rev"],
        atol=3e-2,
        rtol=3e-2,
    )


@every_option
def test_the_teacher_gets_no_gradient(batch, options):
    student, teacher, labels = batch
    _, (_, gradient) = run(student, with_teachers(teacher, options), labels, **options)
    assert not gradient.any()


def test_no_part_gives_the_teacher_a_gradient(batch):
    student, teacher, labels = (jnp.asarray(x) for x in batch)
    for part in (
        *(lambda t, d=d: tempered_kl(student, t, 2.0, direction=d) for d in DIRECTIONS),
        lambda t: sum(decoupled_kl(student, t, labels, 2.0)),
        lambda t: mix_teachers(jnp.stack([t, t]), [1, 1], 2.0),
    ):
        assert not jax.grad(lambda t, part=part: part(t).sum())(teacher).any()


# --- alpha and T


@every_option
def test_the_loss_is_affine_in_alpha_both_ends_included(batch, options):
    student, teacher, labels = batch
    teacher = with_teachers(teacher, options)
    at = lambda alpha: value_and_grad(student, teacher, labels, alpha, 4.0, **options)  # noqa: E731
    (soft, soft_gradient), (hard, hard_gradient) = at(0.0), at(1.0)
    (_, aux), _ = run(student, teacher, labels, **options)
    assert float(soft) == pytest.approx(16 * float(aux["kl"]), rel=1e-5)
    assert float(hard) == pytest.approx(float(aux["cross_entropy"]), rel=1e-5)
    for alpha in (1e-6, 0.3, 1 - 1e-6):
        value, gradient = at(alpha)
        assert float(value) == pytest.approx(float((1 - alpha) * soft + alpha * hard), rel=1e-5)
        expected = (1 - alpha) * soft_gradient + alpha * hard_gradient
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_a_term_of_share_0_gives_no_gradient_however_large(batch):
    labels = np.array([0, 1])
    far = np.array([[1e4, -1e4, 0, 0], [0, 1.0, -np.inf, 0]])
    teacher = np.array([[-1e4, 1e4, 0, 0], [0, 0, 50.0, 0]])
    value, gradient = value_and_grad(far, teacher, labels, 1.0, 1.0)
    ce = jax.grad(lambda s: cross_entropy(s, labels).mean())(jnp.asarray(far))
    np.testing.assert_allclose(gradient, ce, atol=1e-7)
    assert float(value) == pytest.approx(float(cross_entropy(far, labels).mean()))
    value, gradient = value_and_grad(far, far, np.array([1, 2]), 0.0, 1.0)  # CE is 2e4 and 1e5
    assert float(value) == 0
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


@pytest.mark.parametrize("options", ["plain", "js", "decoupled"])
def test_settings_may_be_mapped_over(batch, options):
    options = OPTIONS[options]
    student, teacher, labels = batch
    teacher = with_teachers(teacher, options)
    alphas, temperatures = np.array([0.0, 0.3, 1.0]), np.array([1.0, 4.0, 0.5])
    at = lambda a, t: value_and_grad(student, teacher, labels, a, t, **options)  # noqa: E731
    values, gradients = jax.vmap(at)(alphas, temperatures)
    for n, (alpha, temperature) in enumerate(zip(alphas, temperatures, strict=True)):
        value, gradient = at(alpha, temperature)
        assert float(values[n]) == pytest.approx(float(value), rel=1e-5)
        np.testing.assert_allclose(gradients[n], gradient, atol=1e-5)


def test_it_traces_once_a_shape_and_takes_traced_settings(batch):
    traces = []

    @jax.jit
    def loss(student, teacher, labels, alpha, temperature, smoothing):
        traces.append(1)
        return distillation_loss(
            student, teacher, labels, alpha, temperature, label_smoothing=smoothing
        )[0]

    for alpha, smoothing in ((0.0, 0.0), (0.3, 0.0), (1.0, 0.1)):
        value = loss(*batch, alpha, 4.0, smoothing)
        expected = oracle(*batch, alpha, 4.0, label_smoothing=smoothing)
        assert float(value) == pytest.approx(expected, rel=1e-5)
    assert len(traces) == 1
    loss(*(x[:3] for x in batch), 0.3, 4.0, 0.0)
    assert len(traces) == 2


def test_what_is_not_asked_for_costs_nothing(batch):
    gradient = lambda s, t, y, **options: jax.grad(  # noqa: E731
        lambda s: distillation_loss(s, t, y, **options)[0]
    )(s)
    student, teacher, labels = (jnp.asarray(x) for x in batch)
    program = str(jax.make_jaxpr(gradient)(student, teacher, labels))
    for slow in ("gather", "scatter", "argmax", "rsqrt", "sort", "logaddexp", "while"):
        assert slow not in program
    explicit = jax.make_jaxpr(
        lambda *a: gradient(*a, direction="forward", label_smoothing=0.0, standardise=False)
    )
    assert str(explicit(student, teacher, labels)) == program


# --- Which windows count


@every_option
@pytest.mark.parametrize("rubbish", [0.0, np.nan, np.inf, -np.inf])
def test_a_mask_equals_leaving_windows_out(batch, options, rubbish):
    student, teacher, labels = (x.copy() for x in batch)
    expected = oracle(student[:4], with_teachers(teacher[:4], options), labels[:4], **options)
    keep = np.float32(np.arange(6)[:, None] + np.zeros(5) < 4)
    weights = {"label_weights": keep, "kl_weights": keep}
    _, gradient = value_and_grad(
        student, with_teachers(teacher, options), labels, **weights, **options
    )
    student[4:], teacher[4:] = rubbish, rubbish
    value, masked_gradient = value_and_grad(
        student, with_teachers(teacher, options), labels, **weights, **options
    )
    assert float(value) == pytest.approx(expected, rel=2e-5)
    np.testing.assert_array_equal(masked_gradient, gradient)
    assert gradient[:4].any()
    assert not gradient[4:].any()


def test_each_term_ignores_its_own_windows(batch):
    """A teacher of NaN where KL has no weight; a student of NaN where neither term has."""
    student, teacher, labels = (x.copy() for x in batch)
    kl_weights = np.ones(labels.shape)
    kl_weights[0] = 0
    labels[0] = [0, 1, 2, -1, -1]
    teacher[0] = np.nan
    student[0, 3:] = np.nan
    value, gradient = value_and_grad(student, teacher, labels, kl_weights=kl_weights)
    teacher[0], student[0, 3:] = 0, 0
    expected = oracle(student, teacher, labels, kl_weights=kl_weights)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert jnp.isfinite(gradient).all()
    assert gradient[0, :3].any()
    assert not gradient[0, 3:].any()


def test_a_class_of_weight_0_is_not_scored(batch):
    student, teacher, labels = (x.copy() for x in batch)
    labels[0, 0], student[0, 0], teacher[0, 0] = 2, np.nan, np.nan
    keep = np.ones(labels.shape)
    keep[0, 0] = 0
    options = {"class_weights": (1.0, 1.0, 0.0, 1.0), "kl_weights": keep}
    value, gradient = value_and_grad(student, teacher, labels, **options)
    assert jnp.isfinite(gradient).all()
    student[0, 0], teacher[0, 0] = 0, 0
    kept = np.where(labels == 2, -1, labels)
    assert float(value) == pytest.approx(oracle(student, teacher, kept, kl_weights=keep), rel=1e-5)


@every_option
def test_a_label_of_weight_0_is_no_label(batch, options):
    student, teacher, labels = batch
    teacher = with_teachers(teacher, options)
    keep = np.arange(6)[:, None] + np.zeros(5) < 4
    masked, _ = value_and_grad(student, teacher, labels, label_weights=keep, **options)
    erased, _ = value_and_grad(student, teacher, np.where(keep, labels, -7), **options)
    assert float(masked) == pytest.approx(float(erased), rel=1e-6)


@pytest.mark.parametrize("which", [0, 1])
@every_option
def test_nan_that_has_weight_is_seen(batch, which, options):
    arrays = [x.copy() for x in batch]
    arrays[which][2, 3, 1] = np.nan
    arrays[1] = with_teachers(arrays[1], options)
    loss, gradient = value_and_grad(*arrays, **options)
    assert jnp.isnan(loss)
    assert jnp.isnan(gradient).any()


def test_nan_in_a_weight_is_seen(batch):
    broken = np.full(batch[2].shape, np.nan)
    assert jnp.isnan(distillation_loss(*batch, kl_weights=broken)[0])
    assert jnp.isnan(distillation_loss(*batch, label_weights=broken)[0])


def test_the_order_of_windows_has_no_say(batch, weights):
    order = np.random.default_rng(1).permutation(6)
    shuffled, _ = distillation_loss(
        *(x[order] for x in batch), **{name: w[order] for name, w in weights.items()}
    )
    assert float(shuffled) == pytest.approx(float(distillation_loss(*batch, **weights)[0]), 1e-6)


def test_alpha_means_the_same_with_few_labels(batch):
    student, teacher, labels = batch
    few = np.where(np.arange(labels.size).reshape(labels.shape) == 0, 2, -1)
    loss, aux = distillation_loss(student, teacher, few, alpha=0.5)
    assert float(aux["cross_entropy"]) == pytest.approx(
        -np.log(softmax64(student[0, 0])[2]), rel=1e-5
    )
    assert float(loss) == pytest.approx(articles_formula(student, teacher, few, 0.5, 4.0), rel=1e-5)


@every_option
def test_nothing_to_learn_from_is_zero_and_not_nan(batch, options):
    student, teacher, labels = batch
    nothing = np.zeros(labels.shape)
    value, gradient = value_and_grad(
        student * np.nan, with_teachers(teacher, options) * np.nan, labels,
        label_weights=nothing, kl_weights=nothing, **options,
    )  # fmt: skip
    assert float(value) == 0.0
    assert not gradient.any()


def test_no_windows_are_nothing_to_learn_from(batch):
    assert float(distillation_loss(*(x[:0] for x in batch))[0]) == 0.0


@pytest.mark.parametrize("options", ["plain", "decoupled", "all but decoupled"])
def test_parts_of_a_batch_sum_to_the_whole(batch, weights, options):
    """Gradient accumulation over parts with unequal masks, the last without a label."""
    options = OPTIONS[options]
    student, teacher, labels = batch
    teacher = with_teachers(teacher, options)
    weights["label_weights"][4:] = 0
    whole = run(student, teacher, labels, **weights, **options)
    (value, aux), (gradient, _) = whole
    totals = {"label_total": aux["label_weight"], "kl_total": aux["kl_weight"]}
    parts = []
    for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
        few = {name: w[part] for name, w in weights.items()}
        few_teachers = teacher[..., part, :, :]
        parts.append(run(student[part], few_teachers, labels[part], **few, **options, **totals))
    assert sum(float(v) for (v, _), _ in parts) == pytest.approx(float(value), rel=1e-6)
    np.testing.assert_allclose(jnp.concatenate([g for _, (g, _) in parts]), gradient, atol=1e-6)
    for name in aux:  # the terms and their weights add up, too
        assert sum(float(a[name]) for (_, a), _ in parts) == pytest.approx(float(aux[name]), 1e-5)


def test_weighted_mean():
    values, weights = np.array([1.0, np.nan, 4.0]), np.array([1.0, 0.0, 2.0])
    assert float(weighted_mean(values, weights)) == 3.0
    assert float(weighted_mean(values, weights > 0)) == 2.5
    assert float(weighted_mean(values, weights, 4.5)) == 2.0
    assert float(weighted_mean(values, 0 * weights)) == 0.0


# --- Extremes


@pytest.mark.parametrize(
    ("options", "dtype"),
    [(options, jnp.float32) for options in OPTIONS]
    + [
        (options, jnp.bfloat16) for options in ("plain", "reverse", "js", "decoupled, standardised")
    ],
)
def test_extreme_logits_stay_finite(options, dtype):
    """Every kind of student with every kind of teacher and label, 30 windows at a time."""
    options = OPTIONS[options]
    inf = np.inf
    rows = np.array([
        [0, 0, 0, 0], [1, 2, 3, -4], [1e4, -1e4, 0, 0], [-1e4, -1e4, -1e4, -1e4], [1e4, 1e4, 0, 1],
        [-inf, 0, 1, 2], [1e4, -inf, -inf, -1e4], [-inf, -inf, -inf, 0], [-inf, -inf, -inf, -inf],
        [3, -1e9, 0, 1],
    ])  # fmt: skip
    cases = list(itertools.product(range(len(rows)), range(len(rows)), range(-1, 4)))
    cases = np.array(cases + cases[:10]).reshape(-1, 6, 5, 3).astype(np.int32)
    for temperature, case in itertools.product((0.05, 1.0, 4.0, 1e4), cases):
        s, t, labels = np.moveaxis(case, -1, 0)
        student, teacher = rows[s].astype(dtype), with_teachers(rows[t], options).astype(dtype)
        value, gradient = value_and_grad(student, teacher, labels, 0.3, temperature, **options)
        gradient = np.asarray(gradient)
        assert value.dtype == np.float32
        assert gradient.dtype == dtype
        assert np.isfinite(value)
        assert np.isfinite(gradient.astype(np.float32)).all()
        assert not gradient[~np.isfinite(rows[s])].any()


@every_option
@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_classes_that_cannot_be_are_as_if_not_there(batch, options, temperature):
    student, teacher, labels = (x.copy() for x in batch)
    labels[labels == 3] = 1
    few = dict(options)
    if "class_weights" in options:
        few["class_weights"] = CLASS_WEIGHTS[:3]
    teachers = np.stack([teacher, 2 * teacher]) if "teacher_weights" in options else teacher
    expected = oracle(student[..., :3], teachers[..., :3], labels, 0.3, temperature, **few)
    student[..., 3], teachers[..., 3] = -np.inf, -np.inf
    value, gradient = value_and_grad(student, teachers, labels, 0.3, temperature, **options)
    assert float(value) == pytest.approx(expected, rel=2e-5)
    assert jnp.isfinite(gradient).all()
    assert not gradient[..., 3].any()


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e6])
def test_no_temperature_makes_a_class_that_cannot_be(temperature):
    student, teacher = np.zeros((1, 2)), np.array([[0, -np.inf]])
    for mask in (teacher, mix_teachers(np.stack([teacher, teacher]), (1, 2), temperature)):
        value = tempered_kl(student, mask, temperature)
        assert float(value[0]) == pytest.approx(np.log(2), rel=1e-6)


def test_a_class_that_only_one_of_them_lets_be():
    """KL(p || q) is finite where p is 0, and large where q is: 1e5 times p."""
    student, teacher = np.array([[1.0, 2.0, 0.0]]), np.array([[0.0, 1.0, -np.inf]])
    p, q = softmax64(teacher), softmax64(student)
    expected = (p[0, :2] * np.log(p[0, :2] / q[0, :2])).sum()
    assert float(tempered_kl(student, teacher, 1.0)[0]) == pytest.approx(expected, rel=1e-5)
    ruled_out = float(tempered_kl(teacher, student, 1.0)[0])
    assert ruled_out == pytest.approx(1e5 * q[0, 2], rel=1e-3)
    middle = (p + q) / 2
    expected = 0.5 * ((p[0, :2] * np.log((p / middle)[0, :2])).sum() + kl64(q, middle)[0])
    js = tempered_kl(student, teacher, 1.0, direction="js")
    assert float(js[0]) == pytest.approx(expected, rel=1e-5)


def test_large_logits_keep_their_differences():
    """Both far from 0: only differences count, and few digits are lost."""
    student, teacher = (
        np.array([[8192.0, 8193, 8191.5, 8190]]),
        np.array([[-8000.0, -8001, -8e3, 0]]),
    )
    shifted = tempered_kl(student, teacher, 1.0)
    plain = tempered_kl(student - 8192, teacher, 1.0)
    np.testing.assert_allclose(shifted, plain, rtol=1e-6)
    np.testing.assert_allclose(plain, -np.log(softmax64(student)[:, 3]), rtol=1e-5)


logits = arrays(
    np.float32, (2, 4), elements=st.floats(-1e4, 1e4, width=32) | st.just(np.float32(-np.inf))
)  # fmt: skip
divergences = jax.jit(
    lambda s, t, temperature: [tempered_kl(s, t, temperature, direction=d) for d in DIRECTIONS]
)


@settings(max_examples=150, deadline=None)
@given(logits, logits, st.floats(0.125, 100, width=32))
def test_no_divergence_is_negative_and_js_is_at_most_log_2(student, teacher, temperature):
    for values in divergences(student, teacher, temperature):
        assert (values > -1e-5).all()
        assert jnp.isfinite(values).all()
    assert (values < np.log(2) + 1e-5).all()  # js, the last


@settings(max_examples=50, deadline=None)
@given(
    arrays(np.float32, (2, 4), elements=st.floats(-5, 5, width=32)),
    st.floats(0.25, 8, width=32),
    st.floats(-50, 50, width=32),
)
def test_a_z_score_sees_neither_scale_nor_shift(z, scale, shift):
    z = z + np.float32([0, 1, 5, -7])  # some spread
    moved = standardise_logits(np.float32(scale) * z + np.float32(shift))
    np.testing.assert_allclose(moved, standardise_logits(z), atol=1e-3)


def test_everything_is_float32_whatever_comes_in(batch):
    student, teacher, labels = batch
    labels = labels.astype(np.int64)
    for dtype, options in itertools.product(
        (np.float16, jnp.bfloat16, np.float64), OPTIONS.values()
    ):
        arrays = student.astype(dtype), with_teachers(teacher, options).astype(dtype)
        loss = functools.partial(
            distillation_loss, labels=labels, alpha=np.float64(0.3), temperature=np.float64(4),
            kl_weights=np.ones(labels.shape), **options,
        )  # fmt: skip
        for wide in (False, True):
            with jax.enable_x64(wide):
                value, aux = jax.eval_shape(loss, *arrays)
            assert {x.dtype for x in (value, *aux.values())} == {np.dtype(np.float32)}


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3)])
def test_any_leading_axes(shape):
    rng = np.random.default_rng(5)
    student, teacher = rng.normal(size=(2, *shape, 5))
    labels = rng.integers(0, 5, shape)
    loss, _ = distillation_loss(student, teacher, labels)
    assert float(loss) == pytest.approx(oracle(student, teacher, labels), rel=1e-5)


@pytest.mark.parametrize("options", ["plain", "standardised", "decoupled"])
def test_one_class_is_nothing_to_learn(options):
    only = np.ones((2, 1))
    value, gradient = value_and_grad(only, only, np.array([0, -1]), **OPTIONS[options])
    assert abs(float(value)) < 1e-5
    assert not gradient.any()


def test_many_classes_and_small_integers():
    student = np.random.default_rng(0).normal(size=(3, 200))
    labels = np.array([127, 3, -1], np.int8)
    assert float(cross_entropy(student, labels)[0]) == pytest.approx(
        -np.log(softmax64(student)[0, 127]), rel=1e-5
    )


# --- Errors


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"student_logits": np.zeros((5, 5, 4))}, ValueError, "student_logits and teacher_logits"),
        ({"teacher_logits": np.zeros((6, 5, 3))}, ValueError, r"got \(6, 5, 4\) and \(6, 5, 3\)"),
        ({"student_logits": np.zeros((6, 5, 4), int)}, TypeError, "student_logits: .*got int"),
        ({"teacher_logits": np.zeros((6, 5, 4), int)}, TypeError, "teacher_logits: .*got int"),
        ({"student_logits": np.float32(1)}, ValueError, "student_logits: expected shape"),
        ({"labels": np.zeros((6, 4), int)}, ValueError, "labels: expected shape"),
        ({"labels": np.zeros((6, 5))}, TypeError, "labels: expected integers"),
        ({"labels": np.zeros((6, 5), bool)}, TypeError, "labels: expected integers, got bool"),
        ({"labels": np.full((6, 5), 4)}, ValueError, "labels: expected at most 3, got 4"),
        ({"labels": [[0, 1, 2, 3, 9]] * 6}, ValueError, "labels: expected at most 3, got 9"),
        ({"alpha": 1.1}, ValueError, "alpha: .*got 1.1"),
        ({"alpha": -0.1}, ValueError, "alpha"),
        ({"alpha": float("nan")}, ValueError, "alpha"),
        ({"alpha": np.float32(2)}, ValueError, "alpha"),
        ({"alpha": np.array(-1.0)}, ValueError, "alpha"),
        ({"alpha": jnp.float32(1.5)}, ValueError, "alpha"),
        ({"alpha": np.array([0.1, 0.2])}, ValueError, r"alpha: expected a scalar, got shape \(2,"),
        ({"temperature": 0}, ValueError, "temperature"),
        ({"temperature": np.float64("nan")}, ValueError, "temperature"),
        ({"temperature": jnp.float32(-1)}, ValueError, "temperature"),
        ({"temperature": float("inf")}, ValueError, "temperature"),
        ({"label_smoothing": 1.0}, ValueError, "label_smoothing"),
        ({"label_smoothing": np.float32(-0.1)}, ValueError, "label_smoothing"),
        ({"kl_weights": np.ones(6)}, ValueError, "kl_weights"),
        ({"label_weights": np.ones((6, 5, 1))}, ValueError, "label_weights"),
        ({"class_weights": np.ones(3)}, ValueError, r"class_weights: expected shape \(4,\)"),
        ({"direction": "backward"}, ValueError, "direction: expected one of .*got 'backward'"),
        ({"decoupled": (1, 8), "direction": "js"}, ValueError, "decoupled"),
        ({"decoupled": (1, 8), "direction": "no"}, ValueError, "direction"),
        ({"decoupled": 8.0}, ValueError, "decoupled: expected a pair"),
        ({"decoupled": (1, 2, 3)}, ValueError, "decoupled: expected a pair"),
        ({"decoupled": (1, -8)}, ValueError, "decoupled: .*got -8"),
        ({"decoupled": (float("nan"), 1)}, ValueError, "decoupled"),
        ({"teacher_weights": np.ones(2)}, ValueError, r"teacher_logits: expected shape \[M"),
        ({"label_total": -1.0}, ValueError, "label_total"),
        ({"kl_total": np.ones(2)}, ValueError, "kl_total"),
    ],
)
def test_a_wrong_argument_is_named_at_trace_time(batch, change, error, word):
    arguments = dict(zip(("student_logits", "teacher_logits", "labels"), batch, strict=True))
    with pytest.raises(error, match=word):
        distillation_loss(**(arguments | change))
    logits = change.get("student_logits", arguments["student_logits"])
    others = {k: v for k, v in (arguments | change).items() if k != "student_logits"}
    with pytest.raises(error, match=word):
        jax.jit(lambda s: distillation_loss(s, **others)[0])(logits)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [np.nan, 1.0]])
def test_wrong_teacher_weights_are_named(batch, weights):
    student, teacher, labels = batch
    with pytest.raises(ValueError, match="teacher_weights"):
        distillation_loss(student, np.stack([teacher] * 2), labels, teacher_weights=weights)


def test_the_parts_check_their_arguments_too(batch):
    student, teacher, labels = batch
    for call, word in (
        (lambda: tempered_kl(student, teacher[:2], 1.0), "student_logits and teacher_logits"),
        (lambda: tempered_kl(student, teacher, 0.0), "temperature"),
        (lambda: tempered_kl(student, teacher, 1.0, direction="up"), "direction"),
        (lambda: decoupled_kl(student, teacher, labels + 4, 1.0), "labels"),
        (lambda: cross_entropy(student, labels[:2]), "labels"),
        (lambda: cross_entropy(student, labels, label_smoothing=2), "label_smoothing"),
        (lambda: mix_teachers(student, [1.0], 1.0), "teacher_weights"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="logits"):
        standardise_logits(labels)


@every_option
def test_a_traced_label_beyond_the_classes_is_nan_unless_it_has_no_weight(batch, options):
    student, teacher, labels = batch
    teacher = with_teachers(teacher, options)
    beyond = jnp.asarray(labels).at[1, 2].set(4)
    value, gradient = value_and_grad(student, teacher, beyond, **options)
    assert jnp.isnan(value)
    assert jnp.isnan(gradient).any()
    keep = np.ones(labels.shape)
    keep[1, 2] = 0
    value, gradient = value_and_grad(student, teacher, beyond, label_weights=keep, **options)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_the_docstrings_example_runs():
    assert doctest.testmod(losses).failed == 0
