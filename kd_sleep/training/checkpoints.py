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
    """Keeps two steps: the newest and the one with the highest validation kappa.

    One writer to a folder; readers, of which there may be many, open it `read_only`.
    """

    def __init__(self, folder: Path, *, read_only: bool = False):
        if read_only and not folder.is_dir():
            raise TrainingError(f"{folder}: no checkpoint here.", "Train first.")
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(1),
                preservation_policy.BestN(get_metric_fn=lambda metrics: metrics[METRIC], n=1),
            ]
        )
        self._folder = folder
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=lambda metrics: metrics[METRIC],
                cleanup_tmp_directories=not read_only,  # what a killed run left half written
                create=not read_only,
                read_only=read_only,
            ),
        )

    def save(self, step: int, state: Any, kappa: float) -> None:
        """Saves in the background; a step becomes visible only once it is whole."""
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics={METRIC: kappa})

    def latest_step(self) -> int:
        """The newest step; 0 where there is none."""
        return self._manager.latest_step() or 0

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
        saved, wanted = _shapes(self._manager.item_metadata(step)), _shapes(like)
        differing = [name for name in {*saved, *wanted} if saved.get(name) != wanted.get(name)]
        if differing:
            name = min(differing)
            raise TrainingError(
                f"{self._folder}: step {step} does not fit this model: {name} is"
                f" {saved.get(name, 'absent')} there and {wanted.get(name, 'absent')} here"
                f" ({len(differing)} arrays differ).",
                "It was trained with another architecture; use another --workdir.",
            )
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array in a tree of arrays, or in Orbax's description of one."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(getattr(leaf, "shape", ()))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
