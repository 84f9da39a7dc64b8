"""The learned SQI: a head on a trained student that tells how much of the teacher it keeps.

A window's *kept share* is

    kept = 2 ** -KL(teacher || student)        (KL in bits of calibrated probabilities)

1 where the student says what the teacher says, towards 0 where the BCG lost it. The head sees what
the student makes of the BCG, its embedding and its logits, and predicts the share: in [0, 1],
higher is better, and neither ECG nor label is needed at use. `training.quality` trains it.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from kd_sleep.models.student import Student

HIDDEN = 32


class QualityHead(nn.Module):
    """Embedding [..., C] and logits [..., K] -> the logit [...] of the expected kept share."""

    @nn.compact
    def __call__(self, embedding: jax.Array, logits: jax.Array) -> jax.Array:
        log_probs = nn.log_softmax(logits)
        entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1, keepdims=True)
        x = jnp.concatenate([embedding, jnp.maximum(log_probs, -10.0), entropy], axis=-1)
        x = nn.relu(nn.Dense(HIDDEN)(x))
        x = nn.relu(nn.Dense(HIDDEN)(x))
        return nn.Dense(1, kernel_init=nn.initializers.zeros_init())(x)[..., 0]


class Quality(struct.PyTreeNode):
    """What a student's folder holds of its SQI.

    Attributes:
      params: of the head.
      scale, shift: sqi = sigmoid(scale * logit + shift), fitted on validation nights.
    """

    params: Any
    scale: jax.Array
    shift: jax.Array


def stage_with_quality(
    student: Student, params: Any, quality: Quality | None, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """A student at use.

    Args:
      student: the network.
      params: its parameters.
      quality: its SQI; None where it has none.
      batch: the student's columns and `valid_BL`.

    Returns:
      logits_BLK, and sqi_BL in [0, 1], higher is better; NaN without an SQI.
    """
    logits_BLK, embedding_BLC = embed(student, params, batch)
    if quality is None:
        return logits_BLK, jnp.full(logits_BLK.shape[:2], jnp.nan)
    logit_BL = QualityHead().apply({"params": quality.params}, embedding_BLC, logits_BLK)
    assert isinstance(logit_BL, jax.Array)
    return logits_BLK, nn.sigmoid(quality.scale * logit_BL + quality.shift)


def embed(
    student: Student, params: Any, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """logits_BLK, and the embedding_BLC that they are read from."""
    logits_BLK, sown = student.apply({"params": params}, batch, mutable=["sown"])
    return logits_BLK, sown["sown"]["embedding"][0]
