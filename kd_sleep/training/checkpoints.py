"""Checkpoints by Orbax: one that holds the newest state, to go on from, and the best, to use."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import struct

from kd_sleep.errors import TrainingError
from kd_sleep.training.steps import TrainState

# Orbax warns of every folder that it opens to read.
logging.getLogger("absl").addFilter(
    lambda record: record.levelno >= logging.ERROR or "orbax" not in record.pathname
)


class Progress(struct.PyTreeNode):
    """What a run has come to; in a sweep every leaf has a first axis of members.

    Attributes:
      state: after the newest step.
      best: the parameters with the highest validation kappa so far.
      best_kappa, best_step: float32 and int32 scalars; -inf and 0 before the first evaluation.
    """

    state: TrainState
    best: Any
    best_kappa: jax.Array
    best_step: jax.Array


def start_of(state: TrainState) -> Progress:
    """The progress of a run that has not made a step."""
    return Progress(state, jax.tree.map(jnp.copy, state.kept), jnp.float32(-jnp.inf), jnp.int32(0))


def keep_best(progress: Progress, kappa: jax.Array) -> Progress:
    """Takes the present parameters for the best where their kappa is higher."""
    better = kappa > progress.best_kappa
    return progress.replace(
        best=jax.tree.map(
            lambda new, old: jnp.where(better, new, old), progress.state.kept, progress.best
        ),
        best_kappa=jnp.where(better, kappa, progress.best_kappa),
        best_step=jnp.where(better, progress.state.step, progress.best_step).astype(jnp.int32),
    )


class Checkpoints:
    """The newest checkpoint of a run. One writer to a folder; readers open it `read_only`."""

    def __init__(self, folder: Path, *, read_only: bool = False):
        if read_only and not folder.is_dir():
            raise TrainingError(f"{folder}: no checkpoint here.", "Train first.")
        self._folder = folder
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=1,
                cleanup_tmp_directories=not read_only,  # what a killed run left half written
                create=not read_only,
                read_only=read_only,
            ),
        )

    def save(self, step: int, progress: Progress) -> None:
        """Saves in the background; a step becomes visible only once it is whole."""
        with jax.transfer_guard("allow"):  # Orbax copies to the host as it sees fit
            self._manager.save(step, args=ocp.args.StandardSave(progress), force=True)

    def latest_step(self) -> int:
        """The newest step; 0 where there is none."""
        return self._manager.latest_step() or 0

    def latest(self, like: Progress, sharding: jax.sharding.Sharding) -> Progress:
        """The newest progress, placed as `sharding` says, whatever machine saved it.

        Args:
          like: its shapes and dtypes.
          sharding: of every array.

        Raises:
          TrainingError: where nothing was saved, or by another architecture.
        """
        step = self._manager.latest_step()
        if step is None:
            raise TrainingError(f"{self._folder}: no checkpoint here.", "Train first.")
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
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like
        )
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def close(self) -> None:
        """Returns once everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array in a tree of arrays, or in Orbax's description of one."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(getattr(leaf, "shape", ()))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
