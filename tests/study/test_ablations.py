"""The mistaken losses are mistaken in one way each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from kd_sleep.config import DistillConfig
from kd_sleep.study import ablations as module
from kd_sleep.study.ablations import T_ON_PROBABILITIES, WITHOUT_T2, ablations
from kd_sleep.training.steps import distillation_objective, loss_settings

LOSS = DistillConfig(labelled_nights=6)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    shape = (2, 8)
    made = {
        "label": jnp.asarray(rng.integers(-1, 4, shape), jnp.int8),
        "teacher_logits": jnp.asarray(rng.normal(size=(*shape, 1, 4)) * 3, jnp.float32),
        "valid_BL": jnp.ones(shape),
        "bcg_missing": jnp.asarray(rng.random(shape), jnp.float32),
        "rr_missing": jnp.asarray(rng.random(shape), jnp.float32),
    }
    logits = jnp.asarray(rng.normal(size=(*shape, 4)) * 2, jnp.float32)
    weights = distillation_objective(LOSS).weigh(made)
    totals = {f"{name}_total": weight.sum() for name, weight in weights.items()}
    return logits, {**made, **weights, **totals}


def value_of(row, batch, logits=None):
    objective = row.objective or distillation_objective(row.loss)
    own, made = batch
    value, _ = objective.loss(own if logits is None else logits, made, loss_settings(row.loss))
    return value


def by_hand(batch, on_probabilities):
    """In NumPy: (alpha CE, (1 - alpha) KL without T^2)."""
    logits, made = (jax.tree.map(np.asarray, part) for part in batch)
    teacher = made["teacher_logits"][..., 0, :]
    p_in, q_in = (softmax(x, -1) if on_probabilities else x for x in (teacher, logits))
    p, log_q = softmax(p_in / 4.0, -1), log_softmax(q_in / 4.0, -1)
    kl = (p * (np.log(p) - log_q)).sum(-1)
    label = made["label"]
    ce = -np.take_along_axis(log_softmax(logits, -1), np.maximum(label, 0)[..., None], -1)[..., 0]
    weighted = [
        (values * weights).sum() / weights.sum()
        for values, weights in ((ce, made["label_weights"]), (kl, made["kl_weights"]))
    ]
    return 0.3 * weighted[0], 0.7 * weighted[1]


def row_of(name):
    return next(row for row in ablations(LOSS) if row.name == name)


def test_the_first_is_the_loss_itself_and_each_name_comes_once():
    rows = ablations(LOSS)
    assert rows[0].loss == LOSS
    assert rows[0].objective is None
    assert len({row.name for row in rows}) == len(rows) == 6


def test_without_t2_the_divergence_weighs_a_sixteenth(batch):
    hard, soft = by_hand(batch, on_probabilities=False)
    assert value_of(row_of(WITHOUT_T2), batch) == pytest.approx(hard + soft, rel=1e-5)
    assert value_of(ablations(LOSS)[0], batch) == pytest.approx(hard + 16 * soft, rel=1e-5)


def test_on_probabilities_the_targets_are_nearly_flat(batch):
    hard, soft = by_hand(batch, on_probabilities=True)
    assert value_of(row_of(T_ON_PROBABILITIES), batch) == pytest.approx(hard + 16 * soft, rel=1e-4)
    targets = softmax(np.eye(4) / 4.0, -1)
    assert targets.min() == pytest.approx(0.23, abs=0.005)
    assert targets.max() == pytest.approx(0.30, abs=0.005)


def test_the_mistakes_have_gradients_of_their_own(batch):
    gradients = {
        row.name: jax.grad(lambda logits, row=row: value_of(row, batch, logits))(batch[0])
        for row in ablations(LOSS)
    }
    assert all(np.isfinite(g).all() for g in gradients.values())
    norms = {name: float(jnp.linalg.norm(g)) for name, g in gradients.items()}
    assert len({round(norm, 6) for norm in norms.values()}) == len(norms)


def test_the_settings_make_the_others():
    rows = {row.name: row.loss for row in ablations(LOSS)}
    assert rows["alpha 0"].alpha == 0.0
    assert rows["alpha 1"].alpha == 1.0
    assert rows["reverse KL"].direction == "reverse"
    assert module.WITHOUT_T2 in rows
