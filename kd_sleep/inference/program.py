"""A student ready to run: from the work folder it was trained in, or from an exported file.

An exported file needs jax, NumPy and SciPy alone; flax, optax, Orbax and TFDS are imported only
where a work folder is read.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kd_sleep import schema
from kd_sleep.errors import ExportError
from kd_sleep.features import bcg
from kd_sleep.inference import container
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES

if TYPE_CHECKING:  # flax is for work folders alone
    from kd_sleep.models.quality import Quality
    from kd_sleep.models.student import Student

Weights = Mapping[str, Any]  # float32 arrays by name
Function = Callable[[tuple, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
SCALE = ":scale"  # ends the name of the scales [C] of an int8 matrix [..., C]
FLOAT, INT8 = "float32", "int8"
# The only call out of XLA's own arithmetic that an exported student makes: of B and L, that they
# are what the program takes them for. A program that makes another is no student.
_ALLOWED_CALL = "custom_call @shape_assertion("


@dataclasses.dataclass(frozen=True)
class Program:
    """A student ready to run.

    Attributes:
      card: plain JSON. "format"; "stages", the names of the K classes; "model", a StudentConfig;
        "temperature", which logits are divided by for calibrated probabilities, 1.0 where none was
        fitted; "flag_below", the SQI below which a window is not to be trusted, None where the
        student has no SQI; "preprocessing", as `preprocessing` tells; "data", what it was trained
        on (cohort, bcg_source, simulated, nights, labelled_nights, …; None where the folder does
        not tell); "distill", "train", "augment", their configs; "teacher" and "student",
        fingerprints; "weights", float32 or int8; "versions" and "git_revision" of the training.
      call: (bcg_BLS, valid_BL) -> (logits_BLK, sqi_BL), float32 on the host. `bcg_BLS` is in
        heartbeat amplitudes at 50 Hz, 0 where missing; `valid_BL` is 0 for padding, whose BCG is
        not looked at. `sqi_BL` is in [0, 1], NaN where the student has no SQI. Any B and L from 1
        on; each new shape is compiled, for seconds.
    """

    card: Mapping[str, Any]
    call: Callable[[ArrayLike, ArrayLike], tuple[NDArray[np.float32], NDArray[np.float32]]]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A student in its work folder, as a pure function and what it reads.

    Attributes:
      function: (weights in order, bcg_BLS, valid_BL) -> (logits_BLK, sqi_BL), to be jitted.
      weights: of the network and of its SQI; nothing that only training needs.
      card: as of `Program`.
    """

    function: Function
    weights: Weights
    card: Mapping[str, Any]


def load_program(path: str | os.PathLike) -> Program:
    """A student from a work folder of `launch.distill_student`, or from an exported file.

    Raises:
      ExportError: nothing there, or a file that cannot be used.
      TrainingError: a folder without a trained student.
    """
    if Path(path).is_dir():
        student = trained(path)
        return Program(student.card, bound(student.function, student.weights))
    if not Path(path).exists():
        raise ExportError(
            path,
            "no student here.",
            "Name a work folder of `launch.distill_student`, or a file of `launch.export_student`.",
        )
    return of_content(container.read(path), path)


def preprocessing() -> dict[str, Any]:
    """How a BCG becomes what a student is shown (`features.bcg`), as plain JSON."""
    return {
        "schema": schema.SCHEMA_VERSION,
        "rate_hz": schema.BCG_HZ,
        "window_s": schema.WINDOW_S,
        "samples": schema.BCG_SAMPLES,
        "unit": "the night's median over windows of the RMS in heart_hz",
        "highpass_hz": bcg.HIGHPASS_HZ,
        "heart_hz": list(bcg.HEART_HZ),
        "largest": bcg.LARGEST,
        "flat_s": bcg.FLAT_S,
        "most_missing": bcg.MOST_MISSING,
    }


def bound(function: Function, weights: Weights) -> Callable:
    """`Program.call` of a function and its weights."""
    run, values = jax.jit(function), jax.device_put(tuple(weights.values()))

    def call(bcg_BLS: ArrayLike, valid_BL: ArrayLike) -> tuple[NDArray, NDArray]:
        bcg_BLS, valid_BL = np.asarray(bcg_BLS, np.float32), np.asarray(valid_BL, np.float32)
        if bcg_BLS.shape != (*valid_BL.shape, schema.BCG_SAMPLES) or valid_BL.ndim != 2:
            raise ValueError(
                f"expected bcg [B, L, {schema.BCG_SAMPLES}] and valid [B, L],"
                f" got {list(bcg_BLS.shape)} and {list(valid_BL.shape)}"
            )
        if not valid_BL.size:
            raise ValueError("there are no windows")
        logits_BLK, sqi_BL = run(values, bcg_BLS, valid_BL)
        return np.asarray(logits_BLK), np.asarray(sqi_BL)

    return call


def of_content(content: container.Content, path: str | os.PathLike) -> Program:
    """The student that an exported file holds; `path` is for its errors.

    Raises:
      ExportError: a program that is no student's, or a BCG prepared in another way than here.
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
            f"this student is shown a BCG prepared in another way: {'; '.join(differing)}.",
            f"Use the kd_sleep it is of ({_version(card)}), or train it again with this one.",
        )
    try:
        _check(card)
        weights = dequantised(content.arrays)
        return Program(card, bound(_deserialized(content.program, weights), weights))
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
    temperature, flag_below = card.get("temperature"), card.get("flag_below", "absent")
    if type(temperature) is not float or not 0.0 < temperature < math.inf:
        raise ValueError(f"its temperature is {temperature}")
    if flag_below is not None and not (type(flag_below) is float and math.isfinite(flag_below)):
        raise ValueError(f"its flag_below is {flag_below}")
    absent = [
        name
        for name in ("model", "data", "distill", "train", "versions")
        if not isinstance(card.get(name), dict)
    ]
    if absent:
        raise ValueError(f"its card has no {', '.join(absent)}")


def _version(card: Mapping[str, Any]) -> str:
    versions = card.get("versions")
    found = versions.get("kd_sleep") if isinstance(versions, dict) else None
    return found[:40] if isinstance(found, str) else "unknown"


def _deserialized(program: bytes, weights: Weights) -> Function:
    from jax import export

    exported = export.deserialize(bytearray(program))
    text = exported.mlir_module()
    if text.count("custom_call") != text.count(_ALLOWED_CALL):
        raise ValueError("it calls what no student calls")
    *taken, bcg_BLS, valid_BL = map(_described, exported.in_avals)
    if taken != [f"float32{list(array.shape)}" for array in weights.values()]:
        raise ValueError("it takes other weights than these")
    batch, length = exported.in_avals[-1].shape
    shapes = ([batch, length, schema.BCG_SAMPLES], [batch, length, NUM_STAGES], [batch, length])
    if [bcg_BLS, *map(_described, exported.out_avals), valid_BL] != [
        f"float32{shape}" for shape in (*shapes, shapes[2])
    ]:
        raise ValueError("it takes or gives other arrays than a student does")
    return exported.call


def _described(array: Any) -> str:
    return f"{np.dtype(array.dtype)}{list(array.shape)}"


def dequantised(arrays: Mapping[str, NDArray]) -> dict[str, NDArray[np.float32]]:
    """Float32 weights from arrays of which some are int8, each with its scales."""
    return {
        name: (array.astype(np.float32) * arrays[name + SCALE] if array.dtype == np.int8 else array)
        for name, array in arrays.items()
        if not (name.endswith(SCALE) and name.removesuffix(SCALE) in arrays)
    }


def trained(workdir: str | os.PathLike) -> Trained:
    """The student of a work folder.

    Raises:
      TrainingError: no trained student in the folder.
    """
    from kd_sleep.datasets.nights import blank
    from kd_sleep.training.distill import load_student
    from kd_sleep.training.soft_labels import fingerprint

    workdir = Path(workdir)
    module, params, settings = load_student(workdir, blank())
    name = fingerprint(params)
    quality, fitted = _quality(workdir, name) or (None, {"temperature": 1.0, "flag_below": None})
    function, weights = pure(module, params, quality)
    about = json.loads((workdir / "settings.json").read_text())
    return Trained(function, weights, _card(about, settings, name, fitted))


def pure(module: Student, params: Any, quality: Quality | None) -> tuple[Function, Weights]:
    """A student at use as `Trained.function` and `Trained.weights`."""
    from kd_sleep.models.quality import stage_with_quality
    from kd_sleep.models.student import Student

    student = Student(module.config, module.dtype)  # without what a hint adds in training
    example = _batch(jnp.zeros((1, 1, schema.BCG_SAMPLES)), jnp.ones((1, 1)))
    needed = jax.eval_shape(student.init, jax.random.PRNGKey(0), example)["params"]
    tree = {"student": {part: params[part] for part in needed}, "sqi": quality}
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)

    def function(
        weights: tuple, bcg_BLS: jax.Array, valid_BL: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        held = jax.tree.unflatten(structure, weights)
        batch = _batch(bcg_BLS, valid_BL)
        return stage_with_quality(student, held["student"], held["sqi"], batch)

    return function, {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, np.float32)
        for path, leaf in leaves
    }


def _batch(bcg_BLS: jax.Array, valid_BL: jax.Array) -> dict[str, jax.Array]:
    """A student's batch of BCG that is in heartbeat amplitudes already."""
    there = jnp.where(valid_BL[..., None] > 0, bcg_BLS, 0.0)
    return {"bcg": there, "bcg_scale": jnp.ones_like(valid_BL), "valid_BL": valid_BL}


def _quality(workdir: Path, student: str) -> tuple[Any, dict[str, Any]] | None:
    """The student's SQI, and what was fitted with it, where it was trained."""
    if not (workdir / "quality.json").exists():
        return None
    from kd_sleep.training.quality import load_quality

    return load_quality(workdir, student)


def _card(
    about: dict[str, Any], settings: dict[str, Any], student: str, fitted: Mapping[str, Any]
) -> dict[str, Any]:
    unknown = dict.fromkeys(("cohort", "bcg_source", "simulated", "nights"))
    return {
        "format": container.FORMAT,
        "stages": list(STAGE_NAMES),
        "model": settings["model"],
        "temperature": float(fitted["temperature"]),
        "flag_below": None if fitted["flag_below"] is None else float(fitted["flag_below"]),
        "preprocessing": preprocessing(),
        "data": unknown
        | settings.get("trained_on", {})
        | {"labelled_nights": settings["labelled"]},
        "distill": settings["distill"],
        "train": settings["train"],
        "augment": settings["augment"],
        "teacher": settings["teacher"],
        "student": student,
        "weights": FLOAT,
        "versions": about["versions"],
        "git_revision": about["git_revision"],
    }
