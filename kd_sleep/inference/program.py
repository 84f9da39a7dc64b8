"""A student's network at use: a pure function, its weights, and a card that says what it is.

`Program.of_trained` makes one of a trained student, which takes flax; `export.read_student` one of
an exported file, which needs jax, NumPy and SciPy alone.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep import schema
from kd_sleep.features import bcg, inputs, rr, series
from kd_sleep.inference import container
from kd_sleep.models.kept_share import KeptShare
from kd_sleep.signals import j_peaks
from kd_sleep.stages import STAGE_NAMES

if TYPE_CHECKING:  # flax is for students in training alone
    from kd_sleep.config import StudentConfig
    from kd_sleep.models.student import Student
    from kd_sleep.training.trained import Trained

Weights = Mapping[str, Any]  # float32 arrays by name
Shapes = Mapping[str, Sequence[int]]  # of a window, of a student's inputs by name
Function = Callable[[tuple, tuple, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A student ready to run.

    Attributes:
      card: plain JSON. "format"; "stages", the names of the K classes; "model", a StudentConfig;
        "inputs", the shape of a window of each input by name, in order; "reach", how many windows
        before and after one its logits depend on; "sqi", a `models.kept_share.KeptShare`, None
        where none was fitted; "preprocessing", as `preprocessing` has it; "data", what it was
        trained on (cohort, bcg_source, simulated, nights, labelled_nights, …; None where the folder
        does not have it); "distill" and "train", their configs; "teacher" and "student",
        fingerprints; "versions" and "git_revision" of the training.
      weights: of the network.
      function: (weights, inputs, valid_BL) -> logits_BLK, to be jitted; weights and inputs are
        tuples in the order of `weights` and of the card's "inputs".
    """

    card: Mapping[str, Any]
    weights: Weights
    function: Function

    @classmethod
    def of_trained(cls, trained: Trained) -> Program:
        """A student that was trained, in memory or from its folder."""
        from kd_sleep.models.student import Student

        module = trained.run.module
        assert isinstance(module, Student)
        card = card_of(trained.record, trained.settings, trained.name, module.config, trained.sqi)
        if started := trained.started():
            card["start"] = {"from": trained.settings["start"], "outcome": started}
        return cls.of_module(module, trained.params, card)

    @classmethod
    def of_module(cls, module: Student, params: Any, card: Mapping[str, Any]) -> Program:
        """A network with its parameters."""
        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        reads_samples = "bcg" in card["inputs"]

        def function(weights: tuple, arrays: tuple, valid_BL: jax.Array) -> jax.Array:
            # Padding may hold any finite number, since it is masked.
            shown = tuple(jnp.where(valid_BL[..., None] > 0, array, 1.0) for array in arrays)
            if reads_samples:  # and their scale, which is 1 in heartbeat amplitudes
                shown = (*shown, jnp.ones_like(valid_BL))
            params = jax.tree.unflatten(structure, weights)
            logits_BLK = module.apply({"params": params}, shown, valid_BL)
            assert isinstance(logits_BLK, jax.Array)  # and no mutable collections
            return logits_BLK

        weights = {
            jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, np.float32)
            for path, leaf in leaves
        }
        return cls(card, weights, function)

    @functools.cached_property
    def _run(self) -> tuple[Callable, tuple]:
        return jax.jit(self.function), jax.device_put(tuple(self.weights.values()))

    def call(self, inputs: Mapping[str, ArrayLike], valid_BL: ArrayLike) -> NDArray[np.float32]:
        """logits_BLK, on the host.

        Args:
          inputs: [B, L, …] by name, as `features.inputs.BcgWindows.inputs` makes them. Any B and L
            from 1 on; each new shape is compiled, for seconds.
          valid_BL: 0 for padding, whose inputs are not looked at.

        Raises:
          ValueError: as `checked`.
        """
        arrays, valid_BL = checked(inputs, valid_BL, self.card["inputs"])
        run, weights = self._run
        with jax.enable_x64(False):
            return np.asarray(run(weights, arrays, valid_BL))


def preprocessing() -> dict[str, Any]:
    """How a BCG becomes what a student is shown, as plain JSON.

    The schema's version, and every constant of the modules that make a student's inputs.
    """
    constants = {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in (bcg, series, inputs, rr, j_peaks)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int | float | str | tuple)
    }
    return json.loads(json.dumps({"schema": schema.SCHEMA_VERSION, **constants}))


def checked(
    inputs: Mapping[str, ArrayLike], valid_BL: ArrayLike, shapes: Shapes
) -> tuple[tuple[NDArray[np.float32], ...], NDArray[np.float32]]:
    """The inputs in order, and `valid_BL`, in float32.

    Raises:
      ValueError: other inputs than a student with these `shapes` takes, or no windows.
    """
    valid_BL = np.asarray(valid_BL, np.float32)
    if set(inputs) != set(shapes):
        raise ValueError(f"expected inputs {', '.join(shapes)}; got {', '.join(inputs)}")
    arrays = {name: np.asarray(inputs[name], np.float32) for name in shapes}
    for name, array in arrays.items():
        if valid_BL.ndim != 2 or array.shape != (*valid_BL.shape, *shapes[name]):
            shape = ", ".join(["B", "L", *map(str, shapes[name])])
            raise ValueError(
                f"expected {name} [{shape}] and valid [B, L],"
                f" got {list(array.shape)} and {list(valid_BL.shape)}"
            )
    if not valid_BL.size:
        raise ValueError("there are no windows")
    return tuple(arrays.values()), valid_BL


def card_of(
    record: Mapping[str, Any],
    settings: Mapping[str, Any],
    student: str,
    model: StudentConfig,
    sqi: KeptShare | None,
) -> dict[str, Any]:
    """A `Program.card`.

    Args:
      record: the folder's settings.json.
      settings: those of the training in it.
      student: fingerprint of its parameters.
      model: its network.
      sqi: its SQI, or None.
    """
    from kd_sleep.models.student import columns, reach

    before, after = reach(model)
    names = [name for name in columns(model) if name != "bcg_scale"]  # which is 1 at use
    unknown = dict.fromkeys(("cohort", "bcg_source", "simulated", "nights"))
    trained_on = settings.get("trained_on", {})
    return {
        "format": container.FORMAT,
        "stages": list(STAGE_NAMES),
        "model": settings["model"],
        "inputs": {name: list(inputs.INPUT_SHAPES[name]) for name in names},
        "reach": {"before": before, "after": after},
        "sqi": None if sqi is None else sqi.to_json(),
        "preprocessing": preprocessing(),
        "data": unknown
        | trained_on
        | {"labelled_nights": settings["labelled"], "digests": settings.get("data")},
        **{name: settings[name] for name in ("distill", "train", "teacher")},
        "student": student,
        **{name: record[name] for name in ("versions", "git_revision")},
    }
