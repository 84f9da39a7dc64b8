"""The loss against formulas written out by hand, and in its corners."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kd_sleep import losses
from kd_sleep.losses import cross_entropy, distillation_loss, tempered_kl


def softmax64(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 4, (6, 5)).astype(np.int32)
    student, teacher = 3 * rng.normal(size=(2, 6, 5, 4))
    return student, teacher, labels


def articles_formula(student, teacher, labels, alpha, temperature):
    """alpha × CE + (1-alpha) × T² × KL(teacher || student), in float64."""
    scored = labels >= 0
    ce = -np.log(softmax64(student)[scored, labels[scored]]).mean()
    p, q = softmax64(teacher / temperature), softmax64(student / temperature)
    kl = (p * np.log(p / q)).sum(-1).mean()
    return alpha * ce + (1 - alpha) * temperature**2 * kl


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_it_is_the_articles_formula(batch, alpha, temperature):
    loss, _ = distillation_loss(*batch, alpha=alpha, temperature=temperature)
    assert float(loss) == pytest.approx(articles_formula(*batch, alpha, temperature), rel=1e-5)


def test_parts_add_up(batch):
    loss, aux = distillation_loss(*batch, alpha=0.3, temperature=4.0)
    expected = 0.3 * aux["cross_entropy"] + 0.7 * 16 * aux["kl"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert int(aux["label_weight"]) == (batch[2] >= 0).sum()
    assert int(aux["kl_weight"]) == batch[2].size


def test_kl_is_forward_and_not_its_reverse():
    student, teacher = np.array([[2.0, 0, 0, 0]]), np.array([[0, 0, 3.0, 3.0]])
    p, q = softmax64(teacher), softmax64(student)
    forward, reverse = (p * np.log(p / q)).sum(), (q * np.log(q / p)).sum()
    assert abs(forward - reverse) > 0.5
    assert float(tempered_kl(student, teacher, 1.0)[0]) == pytest.approx(forward, rel=1e-5)


def test_a_warm_teacher_is_matched_in_logits(batch):
    """T² KL tends to half the variance of the logits' difference as T grows (Hinton 2015)."""
    student, teacher, _ = batch
    difference = student - teacher
    expected = ((difference - difference.mean(-1, keepdims=True)) ** 2).mean(-1) / 2
    temperature = 300.0
    actual = temperature**2 * tempered_kl(student, teacher, temperature)
    np.testing.assert_allclose(actual, expected, rtol=0.05, atol=0.01)


def test_gradients(batch):
    student, teacher, labels = (jnp.asarray(x[:2]) for x in batch)
    check_grads(
        lambda s: distillation_loss(s, teacher, labels)[0],
        (student.astype(jnp.float32),),
        order=1,
        modes=["rev"],
        atol=2e-2,
        rtol=2e-2,
    )


def test_the_teacher_gets_no_gradient(batch):
    student, teacher, labels = map(jnp.asarray, batch)
    gradient = jax.grad(lambda t: distillation_loss(student, t, labels)[0])(teacher)
    assert not gradient.any()


def test_the_soft_gradient_keeps_its_size_as_temperature_grows(batch):
    student, teacher, labels = map(jnp.asarray, batch)

    def size(temperature):
        loss = lambda s: distillation_loss(s, teacher, labels, 0.0, temperature)[0]  # noqa: E731
        return float(jnp.linalg.norm(jax.grad(loss)(student)))

    # Without T² the second would be a hundredth of the first.
    assert 0.5 < size(40.0) / size(4.0) < 2.0


def test_a_mask_equals_leaving_windows_out(batch):
    student, teacher, labels = batch
    keep = np.zeros(labels.shape, bool)
    keep[:4] = True
    masked, _ = distillation_loss(*batch, label_weights=keep, kl_weights=keep)
    sliced, _ = distillation_loss(student[:4], teacher[:4], labels[:4])
    assert float(masked) == pytest.approx(float(sliced), rel=1e-6)


def test_the_order_of_windows_has_no_say(batch):
    order = np.random.default_rng(1).permutation(6)
    shuffled, _ = distillation_loss(*(x[order] for x in batch))
    assert float(shuffled) == pytest.approx(float(distillation_loss(*batch)[0]), rel=1e-6)


def test_alpha_means_the_same_with_few_labels(batch):
    student, teacher, labels = batch
    few = np.where(np.arange(labels.size).reshape(labels.shape) == 0, 2, -1)
    loss, aux = distillation_loss(student, teacher, few, alpha=0.5)
    assert float(aux["cross_entropy"]) == pytest.approx(
        -np.log(softmax64(student[0, 0])[2]), rel=1e-5
    )
    assert float(loss) == pytest.approx(articles_formula(student, teacher, few, 0.5, 4.0), rel=1e-5)


def test_nothing_to_learn_from_is_zero_and_not_nan(batch):
    student, teacher, labels = map(jnp.asarray, batch)
    nothing = jnp.zeros(labels.shape)
    value, gradient = jax.value_and_grad(
        lambda s: distillation_loss(s, teacher, labels, label_weights=nothing, kl_weights=nothing)[
            0
        ]
    )(student)
    assert float(value) == 0.0
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_logits_stay_finite(dtype, size):
    student = jnp.array([[size, -size, 0, 0], [0, 0, size, -size]], dtype)
    teacher = student[:, ::-1]
    value, gradient = jax.value_and_grad(
        lambda s: distillation_loss(s, teacher, jnp.array([1, -1]), temperature=1.0)[0]
    )(student)
    assert value.dtype == jnp.float32
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient.astype(jnp.float32)).all()


def test_classes_that_cannot_be_are_minus_infinity_in_both():
    student = jnp.array([[1.0, 2.0, -jnp.inf, 0.0]])
    teacher = jnp.array([[0.0, 1.0, -jnp.inf, 3.0]])
    value, gradient = jax.value_and_grad(
        lambda s: distillation_loss(s, teacher, jnp.array([0]))[0]
    )(student)
    kept = [0, 1, 3]
    expected = articles_formula(
        np.array(student)[:, kept], np.array(teacher)[:, kept], np.array([0]), 0.3, 4.0
    )
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert jnp.isfinite(gradient).all()


def test_a_sure_teacher_gives_cross_entropy(batch):
    student = batch[0].reshape(-1, 4)
    sure = np.full_like(student, -np.inf)
    sure[:, 1] = 0.0
    np.testing.assert_allclose(
        tempered_kl(student, sure, 1.0),
        cross_entropy(student, np.ones(len(student), int)),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"student_logits": np.zeros((5, 5, 4))}, ValueError, "student_logits and teacher_logits"),
        ({"labels": np.zeros((6, 4), int)}, ValueError, "labels: expected shape"),
        ({"labels": np.zeros((6, 5))}, TypeError, "labels: expected integers"),
        ({"alpha": 1.1}, ValueError, "alpha"),
        ({"alpha": -0.1}, ValueError, "alpha"),
        ({"temperature": 0}, ValueError, "temperature"),
        ({"kl_weights": np.ones(6)}, ValueError, "kl_weights"),
    ],
)
def test_a_wrong_argument_is_named_at_trace_time(batch, change, error, word):
    arguments = dict(zip(("student_logits", "teacher_logits", "labels"), batch, strict=True))
    with pytest.raises(error, match=word):
        distillation_loss(**(arguments | change))


def test_it_traces_once_and_takes_traced_settings(batch):
    traces = []

    @jax.jit
    def loss(student, teacher, labels, alpha, temperature):
        traces.append(1)
        return distillation_loss(student, teacher, labels, alpha, temperature)[0]

    for alpha in (0.0, 0.3, 1.0):
        value = loss(*batch, alpha, 4.0)
        assert float(value) == pytest.approx(articles_formula(*batch, alpha, 4.0), rel=1e-5)
    assert len(traces) == 1


def test_torch_agrees(batch):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    student, teacher = (torch.tensor(x.reshape(-1, 4)) for x in batch[:2])
    labels = torch.tensor(batch[2].ravel(), dtype=torch.long)
    ce = functional.cross_entropy(student, labels, ignore_index=-1)
    kl = functional.kl_div(
        functional.log_softmax(student / 4, -1), functional.softmax(teacher / 4, -1),
        reduction="batchmean",
    )  # fmt: skip
    assert float(distillation_loss(*batch)[0]) == pytest.approx(
        float(0.3 * ce + 0.7 * 16 * kl), 1e-5
    )


def test_the_docstrings_example_runs():
    assert doctest.testmod(losses).failed == 0
