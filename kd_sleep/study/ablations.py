"""Losses with a part taken out or put wrong, to see what the part is for.

The article names two mistakes. Without T^2 the gradient of the divergence is weaker by 1 / T^2, and
hard labels rule. Dividing probabilities by T where logits are meant gives nearly flat targets: with
K = 4 and T = 4 no probability leaves 0.23 to 0.30.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from kd_sleep.config import DistillConfig
from kd_sleep.losses import cross_entropy, tempered_kl, weighted_mean
from kd_sleep.training.steps import Objective, distillation_objective

WITHOUT_T2, T_ON_PROBABILITIES = "without T²", "T on probabilities"


@dataclasses.dataclass(frozen=True)
class Ablation:
    """One departure from the distilled student's loss.

    Attributes:
      name, text: for the table.
      loss: settings.
      objective: the mistaken loss, where no setting makes it.
    """

    name: str
    text: str
    loss: DistillConfig
    objective: Objective | None = None


def ablations(loss: DistillConfig) -> list[Ablation]:
    """The loss itself, then each departure from it."""

    def setting(**changes: object) -> DistillConfig:
        return dataclasses.replace(loss, **changes)  # type: ignore[arg-type]

    return [
        Ablation(
            "as it is",
            f"alpha {loss.alpha:g}, T {loss.temperature:g} on logits, T², KL(teacher ‖ student)",
            loss,
        ),
        Ablation(
            WITHOUT_T2, "the divergence weighs 1/T² of what it should", loss, _mistaken(loss, False)
        ),
        Ablation(
            T_ON_PROBABILITIES,
            "softmax(softmax(logits) / T) in place of softmax(logits / T)",
            loss,
            _mistaken(loss, True),
        ),
        Ablation("alpha 0", "the teacher alone, no label", setting(alpha=0.0)),
        Ablation("alpha 1", "hard labels alone, no teacher", setting(alpha=1.0)),
        Ablation("reverse KL", "KL(student ‖ teacher)", setting(direction="reverse")),
    ]


def _mistaken(loss: DistillConfig, on_probabilities: bool) -> Objective:
    """alpha CE + (1 - alpha) KL with one mistake: no T^2, or T on softmax's outputs (with T^2)."""

    def value(logits_BLK, batch, settings):
        alpha, temperature = settings["alpha"], settings["temperature"]
        student, teacher = logits_BLK, jnp.mean(batch["teacher_logits"], axis=-2)
        if on_probabilities:
            student, teacher = jax.nn.softmax(student), jax.nn.softmax(teacher)
        divergence = tempered_kl(student, teacher, temperature)
        kl = weighted_mean(divergence, batch["kl_weights"], batch["kl_weights_total"])
        ce = weighted_mean(
            cross_entropy(logits_BLK, batch["label"]),
            batch["label_weights"],
            batch["label_weights_total"],
        )
        factor = temperature**2 if on_probabilities else 1.0
        return alpha * ce + (1.0 - alpha) * factor * kl, {"cross_entropy": ce, "kl": kl}

    return Objective(distillation_objective(loss).weigh, value)
