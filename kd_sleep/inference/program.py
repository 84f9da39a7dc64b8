"""A student ready to run: from the work folder it was trained in, or from an exported file.

An exported file needs jax, NumPy and SciPy alone; flax, optax, Orbax and TFDS are imported only
where a work folder is read.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep import schema
from kd_sleep.errors import ExportError
from kd_sleep.features import bcg, inputs, rr, series
from kd_sleep.inference import container
from kd_sleep.models.kept_share import KeptShare
from kd_sleep.signals import j_peaks
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES
from kd_sleep.training.mesh import default_platform

if TYPE_CHECKING:  # flax is for students in training alone
    from kd_sleep.config import StudentConfig
    from kd_sleep.models.student import Student
    from kd_sleep.training.trained import Trained

Weights = Mapping[str, Any]  # float32 arrays by name
Shapes = Mapping[str, Sequence[int]]  # of a window, of a student's inputs by name
Function = Callable[[tuple, tuple, jax.Array], jax.Array]
# The only call out of XLA's own arithmetic that an exported student makes: of B and L, that they
# are what the program takes them for. A program that makes another is no student.
_ALLOWED_CALL = "custom_call @shape_assertion("


@dataclasses.dataclass(frozen=True)
class Program:
    """A student ready to run.

    Attributes:
      card: plain JSON. "format"; "stages", the names of the K classes; "model", a StudentConfig;
        "inputs", the shape of a window of each input by name, in order; "reach", how many windows
        before and after one its logits depend on; "sqi", a `models.kept_share.KeptShare`, None
        where none was fitted; "preprocessing", as `preprocessing` has it; "data", what it was
        trained on (cohort, bcg_source, simulated, nights, labelled_nights, …; None where the folder
        does not have it); "distill", "train", "augment", their configs; "teacher" and "student",
        fingerprints; "versions" and "git_revision" of the training.
      call: (inputs, valid_BL) -> logits_BLK, float32 on the host. `inputs` are [B, L, …] by name,
        as `features.inputs.student_inputs` makes them; `valid_BL` is 0 for padding, whose inputs
        are not looked at. Any B and L from 1 on; each new shape is compiled, for seconds.
    """

    card: Mapping[str, Any]
    call: Callable[[Mapping[str, ArrayLike], ArrayLike], NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class PureStudent:
    """A trained student as a pure function and what it reads.

    Attributes:
      function: (weights, inputs, valid_BL) -> logits_BLK, to be jitted; weights and inputs are
        tuples in the order of `weights` and of the card's "inputs".
      weights: of the network.
      card: as of `Program`.
    """

    function: Function
    weights: Weights
    card: Mapping[str, Any]

    def program(self) -> Program:
        """Ready to run."""
        return Program(self.card, bound(self.function, self.weights, self.card["inputs"]))


def load_program(path: str | os.PathLike) -> Program:
    """A student from a work folder of `kd-sleep distill_student`, or from an exported file.

    Raises:
      ExportError: nothing there, or a file that cannot be used.
      TrainingError: a folder without a trained student.
      ConfigError: JAX_PLATFORMS names what is absent.
    """
    default_platform()
    if Path(path).is_dir():
        return pure_student(trained(path)).program()
    if not Path(path).exists():
        raise ExportError(
            path,
            "no student here.",
            "Name a student's work folder, or a file of `kd-sleep export_student`.",
        )
    return of_content(container.read(path), path)


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


def bound(function: Function, weights: Weights, shapes: Shapes) -> Callable:
    """`Program.call` of a function, its weights and the shapes of its inputs."""
    run, values = jax.jit(function), jax.device_put(tuple(weights.values()))

    def call(inputs: Mapping[str, ArrayLike], valid_BL: ArrayLike) -> NDArray[np.float32]:
        arrays, valid_BL = checked(inputs, valid_BL, shapes)
        with jax.enable_x64(False):
            return np.asarray(run(values, arrays, valid_BL))

    return call


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


def of_content(content: container.Content, path: str | os.PathLike) -> Program:
    """The student that an exported file holds; `path` is for its errors.

    Raises:
      ExportError: a program that is no student's, or inputs made in another way than here.
    """
    card = content.card
    here, there = preprocessing(), card.get("preprocessing")
    if there != here:
        said = there if isinstance(there, dict) else {}
        differing = [
            f"{name} {said.get(name)} there, {here.get(name)} here"
            for name in sorted({*said, *here})
            if said.get(name) != here.get(name)
        ]
        raise ExportError(
            path,
            f"this student's inputs are made in another way: {'; '.join(differing)}.",
            f"Use the kd_sleep it is of ({_version(card)}), or train it again with this one.",
        )
    try:
        _check(card)
        function = _deserialized(content.program, content.arrays, card["inputs"])
        return Program(card, bound(function, content.arrays, card["inputs"]))
    except Exception as error:  # whatever jax makes of bytes that are no program
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ExportError(
            path,
            f"its program cannot be used by jax {jax.__version__}: {reason}.",
            f"Export it again; it is of kd_sleep {_version(card)}.",
        ) from error


def _check(card: Mapping[str, Any]) -> None:
    """Raises ValueError where a card lacks what running a student takes."""
    if card.get("stages") != list(STAGE_NAMES):
        raise ValueError("its stages are others")
    absent = [
        name
        for name in ("model", "inputs", "reach", "data", "distill", "train", "versions")
        if not isinstance(card.get(name), dict)
    ]
    if absent:
        raise ValueError(f"its card has no {', '.join(absent)}")
    unknown = {
        name: shape
        for name, shape in card["inputs"].items()
        if tuple(shape) != inputs.INPUT_SHAPES.get(name)
    }
    if unknown or not card["inputs"]:
        raise ValueError(f"it takes inputs that nobody makes: {unknown}")
    reach = card["reach"]
    if set(reach) != {"before", "after"} or not all(
        type(n) is int and n >= 0 for n in reach.values()
    ):
        raise ValueError(f"its reach is {reach}")
    if card.get("sqi") is not None:
        KeptShare.from_json(card["sqi"])


def _version(card: Mapping[str, Any]) -> str:
    versions = card.get("versions")
    found = versions.get("kd_sleep") if isinstance(versions, dict) else None
    return found[:40] if isinstance(found, str) else "unknown"


def _deserialized(program: bytes, weights: Weights, inputs: Shapes) -> Function:
    from jax import export

    exported = export.deserialize(bytearray(program))
    text = exported.mlir_module()
    if text.count("custom_call") != text.count(_ALLOWED_CALL):
        raise ValueError("it calls what no student calls")
    taken = list(map(_described, exported.in_avals))
    if taken[: len(weights)] != [f"float32{list(array.shape)}" for array in weights.values()]:
        raise ValueError("it takes other weights than these")
    batch, length = exported.in_avals[-1].shape
    shapes = [[batch, length, *shape] for shape in (*inputs.values(), (), (NUM_STAGES,))]
    if [*taken[len(weights) :], *map(_described, exported.out_avals)] != [
        f"float32{shape}" for shape in shapes
    ]:
        raise ValueError("it takes or gives other arrays than a student does")
    return exported.call


def _described(array: Any) -> str:
    return f"{np.dtype(array.dtype)}{list(array.shape)}"


def trained(workdir: str | os.PathLike) -> Trained:
    """The student of a work folder.

    Raises:
      TrainingError: no trained student in the folder, or an SQI that is not its own.
    """
    from kd_sleep.training.trained import load_trained

    default_platform()
    return load_trained(Path(workdir), "student")


def pure_student(student: Trained) -> PureStudent:
    """A trained student, in memory or from its folder, at use."""
    from kd_sleep.models.student import Student

    module = student.run.module
    assert isinstance(module, Student)
    function, weights = pure(module, student.params)
    card = card_of(student.record, student.settings, student.name, module.config, student.sqi)
    if started := student.started():
        card["start"] = {"from": student.settings["start"], "outcome": started}
    return PureStudent(function, weights, card)


def input_shapes(config: StudentConfig) -> dict[str, tuple[int, ...]]:
    """The shape of a window of each of a student's inputs, by name."""
    from kd_sleep.models.student import columns

    # `bcg_scale` is 1 at use: the samples come in heartbeat amplitudes.
    return {name: inputs.INPUT_SHAPES[name] for name in columns(config) if name != "bcg_scale"}


def pure(module: Student, params: Any) -> tuple[Function, Weights]:
    """A student at use as `PureStudent.function` and `PureStudent.weights`."""
    shapes = input_shapes(module.config)

    def inputs_of(arrays: tuple, valid_BL: jax.Array) -> tuple[tuple, jax.Array]:
        there = valid_BL[..., None] > 0
        # Any finite number: padding is masked. A student of samples reads their scale, too.
        shown = tuple(jnp.where(there, array, 1.0) for array in arrays)
        return (*shown, jnp.ones_like(valid_BL)) if "bcg" in shapes else shown, valid_BL

    leaves, structure = jax.tree_util.tree_flatten_with_path(params)

    def function(weights: tuple, arrays: tuple, valid_BL: jax.Array) -> jax.Array:
        params = jax.tree.unflatten(structure, weights)
        logits_BLK = module.apply({"params": params}, *inputs_of(arrays, valid_BL))
        assert isinstance(logits_BLK, jax.Array)  # and no mutable collections
        return logits_BLK

    return function, {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, np.float32)
        for path, leaf in leaves
    }


def card_of(
    about: Mapping[str, Any],
    settings: Mapping[str, Any],
    student: str,
    model: StudentConfig,
    sqi: KeptShare | None,
) -> dict[str, Any]:
    """A `Program.card`.

    Args:
      about: the folder's settings.json.
      settings: those of the training in it.
      student: fingerprint of its parameters.
      model: its network.
      sqi: what the folder holds of it, or None.
    """
    from kd_sleep.models.student import reach

    before, after = reach(model)
    unknown = dict.fromkeys(("cohort", "bcg_source", "simulated", "nights"))
    return {
        "format": container.FORMAT,
        "stages": list(STAGE_NAMES),
        "model": settings["model"],
        "inputs": {name: list(shape) for name, shape in input_shapes(model).items()},
        "reach": {"before": before, "after": after},
        "sqi": None if sqi is None else sqi.to_json(),
        "preprocessing": preprocessing(),
        "data": unknown
        | settings.get("trained_on", {})
        | {"labelled_nights": settings["labelled"]},
        "distill": settings["distill"],
        "train": settings["train"],
        "augment": settings["augment"],
        "teacher": settings["teacher"],
        "student": student,
        "versions": about["versions"],
        "git_revision": about["git_revision"],
    }
