"""The distillation loss: cross-entropy to labels plus tempered KL to a teacher.

    L = alpha * CE(student, labels)
      + (1 - alpha) * T^2 * KL(softmax(teacher / T) || softmax(student / T))

Hinton, Vinyals & Dean 2015, https://arxiv.org/abs/1503.02531. T divides the logits, never the
probabilities; T^2 keeps the size of the soft gradient from vanishing as T grows. The published
formula that this package tests writes the arguments of KL in the order of a common library call;
the divergence meant, and computed here, is Hinton's KL(teacher || student).

Imports jax and optax only. Shape suffixes: K classes, "..." any leading axes (batch, windows).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """-log softmax(logits)[label] per window, in float32.

    Args:
      logits: [..., K].
      labels: [...] integers; a negative label gives 0.

    Returns:
      [...] nats.
    """
    labels = jnp.asarray(labels)
    values = optax.losses.softmax_cross_entropy_with_integer_labels(
        jnp.asarray(logits, jnp.float32), jnp.maximum(labels, 0)
    )
    return jnp.where(labels >= 0, values, 0.0)


def tempered_kl(
    student_logits: ArrayLike, teacher_logits: ArrayLike, temperature: ArrayLike
) -> jax.Array:
    """KL(softmax(teacher / T) || softmax(student / T)) per window, in float32, without T^2.

    Finite, with finite gradients, where the teacher gives a class no probability at all (a logit of
    -inf). No gradient reaches the teacher.

    Args:
      student_logits: [..., K].
      teacher_logits: [..., K].
      temperature: T > 0.

    Returns:
      [...] nats.
    """
    student = jnp.asarray(student_logits, jnp.float32) / temperature
    teacher = jax.lax.stop_gradient(jnp.asarray(teacher_logits, jnp.float32)) / temperature
    log_q, log_p = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    p = jnp.exp(log_p)
    # 0 * log 0 = 0; the inner `where` keeps -inf out of the product, whose gradient would be NaN.
    difference = jnp.where(p > 0, log_p, 0.0) - jnp.where(p > 0, log_q, 0.0)
    return jnp.sum(p * difference, axis=-1)


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """sum(w * v) / sum(w); 0 where all weights are 0."""
    total = jnp.sum(weights)
    return jnp.sum(jnp.where(weights > 0, values * weights, 0.0)) / jnp.where(total > 0, total, 1.0)


def distillation_loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    alpha: ArrayLike = 0.3,
    temperature: ArrayLike = 4.0,
    *,
    label_weights: ArrayLike | None = None,
    kl_weights: ArrayLike | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """alpha * CE + (1 - alpha) * T^2 * KL(teacher || student), each a mean over its own windows.

    A window without a label (-1) has no CE term and still a KL term; because each term is divided
    by its own weight, alpha means the same however few windows carry a label. `alpha` and
    `temperature` may be traced, for instance to train several of them in one program.

    Args:
      student_logits: [..., K].
      teacher_logits: [..., K]; gets no gradient.
      labels: [...] integers in -1..K-1; -1 means no label.
      alpha: weight of the hard labels, in [0, 1].
      temperature: T > 0.
      label_weights: [...] weights or mask of the CE term; None is 1 everywhere.
      kl_weights: [...] weights or mask of the KL term; None is 1 everywhere.

    Returns:
      The loss, a float32 scalar, and a dict of scalars: `cross_entropy` and `kl` (the two means,
      the second without T^2), `label_weight` and `kl_weight` (the sums they were divided by).

    Raises:
      ValueError: shapes that do not agree, alpha outside [0, 1], T not above 0.
      TypeError: labels that are not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.zeros((2, 4)), jnp.array([[2.0, 0, 0, 0], [0, 3.0, 0, 0]])
      >>> loss, aux = distillation_loss(student, teacher, jnp.array([0, -1]))
      >>> round(float(aux["cross_entropy"]), 4)  # log 4, from the one labelled window
      1.3863
    """
    student_logits, teacher_logits = jnp.asarray(student_logits), jnp.asarray(teacher_logits)
    labels = jnp.asarray(labels)
    if student_logits.shape != teacher_logits.shape or student_logits.ndim < 1:
        raise ValueError(
            "student_logits and teacher_logits: expected one shape [..., K],"
            f" got {student_logits.shape} and {teacher_logits.shape}"
        )
    if labels.shape != student_logits.shape[:-1]:
        raise ValueError(f"labels: expected shape {student_logits.shape[:-1]}, got {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels: expected integers, got {labels.dtype}")
    if isinstance(alpha, (int, float)) and not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a value in [0, 1], got {alpha}")
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise ValueError(f"temperature: expected a value above 0, got {temperature}")

    def weights_of(weights: ArrayLike | None, name: str) -> jax.Array:
        if weights is None:
            return jnp.ones(labels.shape, jnp.float32)
        weights = jnp.asarray(weights, jnp.float32)
        if weights.shape != labels.shape:
            raise ValueError(f"{name}: expected shape {labels.shape}, got {weights.shape}")
        return weights

    label_weights = weights_of(label_weights, "label_weights") * (labels >= 0)
    kl_weights = weights_of(kl_weights, "kl_weights")
    ce = weighted_mean(cross_entropy(student_logits, labels), label_weights)
    kl = weighted_mean(tempered_kl(student_logits, teacher_logits, temperature), kl_weights)
    loss = jnp.asarray(alpha * ce + (1.0 - alpha) * jnp.float32(temperature) ** 2 * kl)
    aux = {
        "cross_entropy": ce,
        "kl": kl,
        "label_weight": jnp.sum(label_weights),
        "kl_weight": jnp.sum(kl_weights),
    }
    return loss, aux
