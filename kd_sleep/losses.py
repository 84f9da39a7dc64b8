"""The distillation loss: cross-entropy to labels plus tempered KL to a teacher.

    L = alpha * CE(student, labels)
      + (1 - alpha) * T^2 * KL(softmax(teacher / T) || softmax(student / T))

Hinton, Vinyals & Dean 2015, https://arxiv.org/abs/1503.02531. T divides the logits, never the
probabilities; T^2 keeps the size of the soft gradient from vanishing as T grows. The published
formula that this package tests writes the arguments of KL in the order of a common library call;
the divergence meant, and computed here, is Hinton's KL(teacher || student).

Functions of one window (`cross_entropy`, `tempered_kl`, ...), one reduction (`weighted_mean`), and
their sum, `distillation_loss`. All of them compute in float32 whatever comes in.

A class that cannot be has a logit of -inf, or any at or below -1e5: its probability is exactly 0 at
every temperature, its log-probability finite, so that neither 0 * log 0 nor a gradient is ever NaN.
What should be infinite, such as KL where the student rules out what the teacher does not, is some
1e5 times the probability at stake.

Imports jax and NumPy alone. Shape suffixes: K classes, M teachers, "..." any leading axes (batch,
windows). A gradient reaches a student's logits alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Direction = Literal["forward", "reverse", "js"]

_IMPOSSIBLE = -1e5  # far below any real logit; exp of it is 0, and its squares are finite


def cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, label_smoothing: ArrayLike = 0.0
) -> jax.Array:
    """Cross-entropy per window, against labels that may be smoothed.

        (1 - eps) * -log q[label] + eps * mean over classes that can be of -log q,   q = softmax

    Szegedy et al. 2016, https://arxiv.org/abs/1512.00567.

    Args:
      logits: [..., K].
      labels: [...] integers; a negative label gives 0, whatever the logits. One of K or more is an
        error where it can be seen (NumPy arrays, lists) and gives NaN where it cannot (traced).
      label_smoothing: eps in [0, 1).

    Returns:
      [...] nats.

    Raises:
      ValueError: shapes that do not agree, a label of K or more, eps outside [0, 1).
      TypeError: logits that are not floating, labels that are not integers.
    """
    student = _logits("logits", logits)
    labels = _labels(labels, student.shape)
    epsilon = _scalar("label_smoothing", label_smoothing, "in [0, 1)", lambda x: 0 <= x < 1)
    # Safe logits go in where nothing is scored: the gradient of NaN is NaN, even times 0.
    student = jnp.where((labels >= 0)[..., None], student, 0.0)
    z = _shifted(_tempered(student, 1.0))
    log_norm = jnp.log(jnp.sum(jnp.exp(z), axis=-1))
    # A comparison fuses with the sums around it; a gather and the scatter of its gradient do not.
    values = log_norm - jnp.sum(jnp.where(_is_class(labels, z), z, 0.0), axis=-1)
    if isinstance(label_smoothing, jax.core.Tracer) or label_smoothing != 0:
        possible = ~_impossible(student)
        count = jnp.maximum(jnp.sum(possible, axis=-1, dtype=jnp.float32), 1.0)
        uniform = log_norm - jnp.sum(jnp.where(possible, z, 0.0), axis=-1) / count
        values = (1.0 - epsilon) * values + epsilon * uniform
    return jnp.where(labels >= 0, values, 0.0) * _nan_beyond(labels, z)


def tempered_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    temperature: ArrayLike,
    *,
    direction: Direction = "forward",
) -> jax.Array:
    """The divergence of tempered softmaxes per window, without T^2. No gradient to the teacher.

        p = softmax(teacher / T), q = softmax(student / T), m = (p + q) / 2
        forward:  KL(p || q)                          Hinton 2015: covers all that the teacher does
        reverse:  KL(q || p)                          settles on what the teacher is surest of
        js:       KL(p || m) / 2 + KL(q || m) / 2     symmetric, at most log 2

    Jensen-Shannon: Lin 1991, https://doi.org/10.1109/18.61115.

    Args:
      student_logits: [..., K].
      teacher_logits: [..., K].
      temperature: T > 0.
      direction: "forward", "reverse" or "js".

    Returns:
      [...] nats.

    Raises:
      ValueError: shapes that do not agree, T not above 0, an unknown direction.
      TypeError: logits that are not floating.
    """
    if direction not in get_args(Direction):
        raise ValueError(f"direction: expected one of {get_args(Direction)}, got {direction!r}")
    student = _logits("student_logits", student_logits)
    teacher = jax.lax.stop_gradient(_logits("teacher_logits", teacher_logits))
    _check_same_shape(student, teacher)
    temperature = _temperature(temperature)
    student, teacher = _tempered(student, temperature), _tempered(teacher, temperature)
    if direction == "forward":
        return _kl(teacher, student)
    if direction == "reverse":
        return _kl(student, teacher)
    log_q, log_p = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    middle = jnp.logaddexp(log_q, log_p)  # of m, but for log 2: a softmax does not see it
    return 0.5 * (_kl(log_p, middle) + _kl(log_q, middle))


def mix_teachers(teacher_logits: ArrayLike, temperature: ArrayLike) -> jax.Array:
    """Logits z of M teachers' mean probabilities at temperature T. No gradient.

        softmax(z / T) = mean over m of softmax(teacher[m] / T)

    Args:
      teacher_logits: [M, ..., K].
      temperature: T > 0, the one that the mixture will be divided by.

    Returns:
      [..., K], -inf for a class that all teachers exclude.

    Raises:
      ValueError: no axis of teachers, or T not above 0.
      TypeError: logits that are not floating.
    """
    z = jax.lax.stop_gradient(_logits("teacher_logits", teacher_logits))
    temperature = _temperature(temperature)
    if z.ndim < 2 or not z.shape[0]:
        raise ValueError(f"teacher_logits: expected shape [M, ..., K], got {z.shape}")
    log_p = jax.nn.log_softmax(_tempered(z, temperature))
    mixture = temperature * (jax.nn.logsumexp(log_p, axis=0) - math.log(z.shape[0]))
    return jnp.where(jnp.all(_impossible(z), axis=0), -jnp.inf, mixture)


def weighted_mean(
    values: ArrayLike, weights: ArrayLike, total: ArrayLike | None = None
) -> jax.Array:
    """sum(w * v) / total; 0 where all weights are 0. Values of weight 0 may be NaN.

    Args:
      values: [...].
      weights: [...], masks or real numbers, not negative.
      total: what to divide by; None is sum(w).

    Returns:
      A float32 scalar.
    """
    values, weights = jnp.asarray(values, jnp.float32), jnp.asarray(weights, jnp.float32)
    divisor = jnp.sum(weights) if total is None else jnp.asarray(total, jnp.float32)
    weighted = jnp.sum(jnp.where(weights == 0, 0.0, values * weights))
    return weighted / jnp.where(divisor == 0, 1.0, divisor)


def distillation_loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    alpha: ArrayLike = 0.3,
    temperature: ArrayLike = 4.0,
    *,
    label_weights: ArrayLike | None = None,
    kl_weights: ArrayLike | None = None,
    direction: Direction = "forward",
    label_smoothing: ArrayLike = 0.0,
    label_total: ArrayLike | None = None,
    kl_total: ArrayLike | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """alpha * CE + (1 - alpha) * T^2 * KL(teacher || student), each a mean over its own windows.

    A window without a label (-1) has no CE term but a KL term. Each term is divided by its own
    weights, so alpha means the same however few windows have a label. A window of weight 0 may hold
    NaN; NaN of any other weight reaches the loss. The loss is affine in alpha, both ends included.

    Args:
      student_logits: [..., K].
      teacher_logits: [..., K], or [M, ..., K] of M teachers (`mix_teachers`); gets no gradient.
      labels: [...] integers below K; a negative one means no label. A label of K or more is an
        error in a NumPy array or a list, and makes the loss NaN in a traced array.
      alpha: weight of the hard labels, in [0, 1]; may be traced, as may T.
      temperature: T > 0.
      label_weights: [...] weights or mask of the CE term; None is 1 everywhere.
      kl_weights: [...] weights or mask of the KL term; None is 1 everywhere.
      direction: "forward", "reverse" or "js"; see `tempered_kl`. T^2 goes with each.
      label_smoothing: eps in [0, 1); see `cross_entropy`.
      label_total: divides the weighted sum of CE; None is the sum of its weights. Where a batch is
        computed in parts, give each part the batch's sum of `label_weight`: losses and gradients of
        the parts then add up to the batch's.
      kl_total: the same for KL and `kl_weight`.

    Returns:
      The loss, a float32 scalar, and a dict of scalars: `cross_entropy` and `kl` (the two means,
      the second without T^2), `label_weight` and `kl_weight` (these windows' sums of weights).

    Raises:
      ValueError: shapes that do not agree, a label of K or more, an unknown direction; and, unless
        traced, alpha outside [0, 1], T not above 0, eps outside [0, 1) or a negative total.
      TypeError: logits that are not floating, labels that are not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.zeros((2, 4)), jnp.array([[2.0, 0, 0, 0], [0, 3.0, 0, 0]])
      >>> loss, aux = distillation_loss(student, teacher, jnp.array([0, -1]))
      >>> round(float(aux["cross_entropy"]), 4)  # log 4, from the one labelled window
      1.3863
    """
    student = _logits("student_logits", student_logits)
    teacher = _logits("teacher_logits", teacher_logits)
    several = teacher.ndim > student.ndim
    _check_same_shape(student, teacher[0] if several else teacher)
    labels = _labels(labels, student.shape)
    share = _scalar("alpha", alpha, "in [0, 1]", lambda x: 0 <= x <= 1)
    squared = _temperature(temperature) ** 2
    totals = [
        None if total is None else _scalar(name, total, "of at least 0, and finite", _not_negative)
        for name, total in (("label_total", label_total), ("kl_total", kl_total))
    ]

    ce_weights = _weights("label_weights", label_weights, labels.shape)
    ce_weights = jnp.where(labels >= 0, ce_weights, 0.0)
    scored = jnp.where(ce_weights == 0, -1, labels)
    ce = weighted_mean(
        cross_entropy(student, scored, label_smoothing=label_smoothing), ce_weights, totals[0]
    )

    divergence_weights = _weights("kl_weights", kl_weights, labels.shape)
    if kl_weights is not None:  # as in cross_entropy, before anything is computed from them
        counts = (divergence_weights != 0)[..., None]
        student, teacher = jnp.where(counts, student, 0.0), jnp.where(counts, teacher, 0.0)
    if several:
        teacher = mix_teachers(teacher, temperature)
    divergence = tempered_kl(student, teacher, temperature, direction=direction)
    kl = weighted_mean(divergence, divergence_weights, totals[1])

    aux = {
        "cross_entropy": ce,
        "kl": kl,
        "label_weight": jnp.sum(ce_weights),
        "kl_weight": jnp.sum(divergence_weights),
    }
    return share * ce + (1.0 - share) * squared * kl, aux


def _impossible(logits: jax.Array) -> jax.Array:
    """Which classes cannot be; not those of NaN, which is to be seen."""
    return logits <= _IMPOSSIBLE


def _tempered(logits: jax.Array, temperature: ArrayLike) -> jax.Array:
    """logits / T, -inf made finite: at least 1e5 below the rest, however warm T is."""
    floor = _IMPOSSIBLE * jnp.maximum(temperature, 1.0)
    return jnp.where(logits <= floor, floor, logits) / temperature


def _shifted(z: jax.Array) -> jax.Array:
    """Logits less their largest, which no softmax sees and exp asks for."""
    return z - jax.lax.stop_gradient(jnp.max(z, axis=-1, keepdims=True))


def _kl(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
    """KL(softmax(p_logits) || softmax(q_logits)) over the last axis, of finite logits."""
    p_logits, q_logits = _shifted(p_logits), _shifted(q_logits)
    p = jnp.exp(p_logits)  # not normalised
    p_sum, q_sum = jnp.sum(p, axis=-1), jnp.sum(jnp.exp(q_logits), axis=-1)
    mean_difference = jnp.sum(p * (p_logits - q_logits), axis=-1) / p_sum
    return mean_difference - jnp.log(p_sum) + jnp.log(q_sum)


def _is_class(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """[..., K]: True at each window's class."""
    return labels[..., None] == jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)


def _nan_beyond(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """A factor: NaN, of value and gradient, where a label is no class; else 1."""
    return jnp.where(labels < logits.shape[-1], 1.0, jnp.nan)


def _known(value: ArrayLike) -> np.ndarray | None:
    """The value where it is known at trace time, else None."""
    if isinstance(value, jax.core.Tracer):
        return None
    return np.asarray(jax.device_get(value))  # explicit: a transfer guard lets it pass


def _scalar(
    name: str, value: ArrayLike, expected: str, holds: Callable[[float], bool]
) -> jax.Array:
    if np.shape(value) != ():
        raise ValueError(f"{name}: expected a scalar, got shape {np.shape(value)}")
    known = _known(value)
    if known is not None and not holds(float(known)):
        raise ValueError(f"{name}: expected a value {expected}, got {value}")
    return jnp.asarray(value, jnp.float32)


def _temperature(value: ArrayLike) -> jax.Array:
    return _scalar("temperature", value, "above 0, and finite", lambda x: 0 < x < math.inf)


def _not_negative(value: float) -> bool:
    return 0 <= value < math.inf


def _logits(name: str, value: ArrayLike) -> jax.Array:
    logits = jnp.asarray(value)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"{name}: expected floating logits, got {logits.dtype}")
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise ValueError(f"{name}: expected shape [..., K], got {logits.shape}")
    return logits.astype(jnp.float32)


def _labels(value: ArrayLike, logits_shape: tuple[int, ...]) -> jax.Array:
    *windows, classes = logits_shape
    # A device's array is not fetched to be looked at: that would hold up whoever calls eagerly.
    if not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)):
        value = np.asarray(value)
        if np.issubdtype(value.dtype, np.integer) and value.size and value.max() >= classes:
            raise ValueError(f"labels: expected at most {classes - 1}, got {value.max()}")
    labels = jnp.asarray(value)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels: expected integers, got {labels.dtype}")
    if labels.shape != tuple(windows):
        raise ValueError(f"labels: expected shape {tuple(windows)}, got {labels.shape}")
    return labels.astype(jnp.int32)  # K may be more than int8 can hold


def _weights(name: str, value: ArrayLike | None, shape: tuple[int, ...]) -> jax.Array:
    if value is None:
        return jnp.ones(shape, jnp.float32)
    weights = jnp.asarray(value, jnp.float32)
    if weights.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {weights.shape}")
    return weights


def _check_same_shape(student: jax.Array, teacher: jax.Array) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            "student_logits and teacher_logits: expected one shape [..., K],"
            f" got {student.shape} and {teacher.shape}"
        )
