"""Checkpoints by Orbax: the latest, to go on from, and the best, to use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from kd_sleep.errors import TrainingError

METRIC = "validation_kappa"


class Checkpoints:
    """Keeps two steps: the newest and the one with the highest validation kappa."""

    def __init__(self, folder: Path):
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(1),
                preservation_policy.BestN(get_metric_fn=lambda metrics: metrics[METRIC], n=1),
            ]
        )
        self._folder = folder
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=lambda metrics: metrics[METRIC],
                cleanup_tmp_directories=True,  # what a killed run left half written
            ),
        )

    def save(self, step: int, state: Any, kappa: float) -> None:
        """Saves in the background; a step becomes visible only once it is whole."""
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics={METRIC: kappa})

    def latest(self, like: Any) -> tuple[int, Any] | None:
        """The newest step and its state, shaped like `like`; None where there is none."""
        step = self._manager.latest_step()
        return None if step is None else (step, self._restore(step, like))

    def best(self, like: Any) -> tuple[int, Any]:
        """The step with the highest validation kappa and its state.

        Raises:
          TrainingError: where nothing was saved, or by another architecture.
        """
        step = self._manager.best_step()
        if step is None:
            raise TrainingError(f"{self._folder}: no checkpoint here.", "Train first.")
        return step, self._restore(step, like)

    def _restore(self, step: int, like: Any) -> Any:
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
        except (ValueError, KeyError) as error:
            raise TrainingError(
                f"{self._folder}: step {step} does not fit this model ({error}).",
                "It was trained with another architecture; use another --workdir.",
            ) from error

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()
