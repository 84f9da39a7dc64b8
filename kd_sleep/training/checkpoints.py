"""Checkpoints by Orbax: each holds the newest state, to go on from, and the best, to use."""

from __future__ import annotations

import logging
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import struct

from kd_sleep.errors import TrainingError
from kd_sleep.training.steps import TrainState

# Orbax warns of every folder that it opens to read.
logging.getLogger("absl").addFilter(
    lambda record: record.levelno >= logging.ERROR or "orbax" not in record.pathname
)

COPY_AGAIN = "Copy the folder again from where it is whole, or delete it and train again."


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
    """The newest two checkpoints of a run. One writer to a folder; readers open it `read_only`.

    Attributes:
      damage: what `latest` found damaged and left out, to follow a sentence; empty for nothing.
    """

    def __init__(self, folder: Path, *, read_only: bool = False):
        if folder.exists() and not folder.is_dir():
            raise TrainingError(
                f"{folder}: is a file, expected a folder of checkpoints.", COPY_AGAIN
            )
        if read_only and not folder.is_dir():
            raise TrainingError(f"{folder}: no checkpoint here.", "Train first.")
        self._folder, self._read_only, self.damage = folder, read_only, ""
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2,
                cleanup_tmp_directories=not read_only,  # what a killed run left half written
                create=not read_only,
                read_only=read_only,
            ),
        )

    def save(self, step: int, progress: Progress) -> None:
        """Saves in the background; a step becomes visible only once it is complete."""
        with jax.transfer_guard("allow"):  # Orbax copies to the host as it sees fit
            self._manager.save(step, args=ocp.args.StandardSave(progress), force=True)

    def latest_step(self) -> int:
        """The newest step, sound or not; 0 where there is none."""
        return self._manager.latest_step() or 0

    def latest(
        self, like: Progress, sharding: jax.sharding.Sharding
    ) -> tuple[int, Progress] | None:
        """Step and progress of the newest sound checkpoint; None where nothing was saved.

        A writer removes damaged ones that are newer.

        Args:
          like: its shapes and dtypes.
          sharding: of every array, whatever machine saved it.

        Raises:
          TrainingError: a checkpoint of another architecture, or all of them damaged.
        """
        self._manager.wait_until_finished()
        damaged: dict[int, str] = {}
        found: tuple[int, Progress] | None = None
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = step, self._restored(step, like, sharding)
                break
            except (TrainingError, MemoryError, jax.errors.JaxRuntimeError):
                raise
            except Exception as error:  # whatever Orbax makes of files that are not whole
                if isinstance(error, PermissionError) or "PERMISSION_DENIED" in str(error):
                    raise TrainingError(
                        f"{self._folder}: no permission to read step {step}.",
                        "Give yourself the right to read the folder, or copy it as its owner.",
                    ) from error
                damaged[step] = textwrap.shorten(str(error), 100, placeholder=" …")
        if damaged:
            steps = " and ".join(f"step {step} ({reason})" for step, reason in damaged.items())
            self.damage = f"; damaged: {steps}"
            if found is None:
                raise TrainingError(
                    f"{self._folder}: no sound checkpoint{self.damage}.", COPY_AGAIN
                )
            if not self._read_only:
                text = f"{self._folder}: goes on from step {found[0]}{self.damage}."
                print(text, file=sys.stderr)
                for broken in damaged:
                    self._manager.delete(broken)
        return found

    def _restored(self, step: int, like: Progress, sharding: jax.sharding.Sharding) -> Progress:
        """The progress saved at a step; raises anything where it is damaged."""
        _assert_readable(self._folder.absolute() / str(step) / "default")
        saved, wanted = _shapes(self._manager.item_metadata(step)), _shapes(like)
        if not saved:
            raise ValueError("the list of its arrays is absent")
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
        progress = self._manager.restore(step, args=ocp.args.StandardRestore(like))
        if not jax.jit(_is_finite)((progress.state, progress.best)):
            raise ValueError("its arrays are not finite")
        return progress

    def close(self) -> None:
        """Returns once everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _assert_readable(folder: Path) -> None:
    """Reads every value, one after the other: Orbax leaves tasks behind where a read fails."""
    values = ts.KvStore.open({"driver": "ocdbt", "base": f"{folder.as_uri()}/"}).result()
    names = values.list().result()
    if not names:
        raise ValueError("no arrays in it")
    for name in names:
        values.read(name).result()


def _is_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array in a tree of arrays, or in Orbax's description of one."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(getattr(leaf, "shape", ()))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
