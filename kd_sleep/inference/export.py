"""A trained student as one .kdsleep file that needs neither flax nor its work folder, and back.

The program is `jax.export`'s, for cpu, cuda and tpu, with B and L left open; weights are its
arguments. Reading needs jax, NumPy and SciPy alone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from numpy.typing import NDArray

from kd_sleep.errors import ConfigError, ExportError
from kd_sleep.features.inputs import INPUT_SHAPES, JJ_LEVEL
from kd_sleep.inference import container
from kd_sleep.inference.program import Function, Program, Shapes, Weights, preprocessing
from kd_sleep.models.kept_share import KeptShare
from kd_sleep.provenance import versions
from kd_sleep.recordings.files import write_bytes
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # between the logits of a student and of its file
# The only call out of XLA's own arithmetic that an exported student makes: of B and L, that they
# are what the program takes them for. A program that makes another is no student.
_ALLOWED_CALL = "custom_call @shape_assertion("
_CARD_PARTS = ("model", "inputs", "reach", "data", "distill", "train", "versions")


@dataclasses.dataclass(frozen=True)
class Exported:
    """What became of an export: the file, its bytes and card, and how far its logits differ."""

    path: Path
    size: int
    difference: float
    card: Mapping[str, Any]

    def __str__(self) -> str:
        data = self.card["data"]
        nights = "nights that its folder does not name"
        if data["nights"] is not None:
            kind = "simulated" if data["simulated"] else "recorded"
            nights = (
                f"{data['nights']} {kind} nights ({data['cohort']}, BCG {data['bcg_source']}),"
                f" {data['labelled_nights']} of them labelled"
            )
        return (
            f"{self.path}: {self.size / 1000:.0f} kB; its logits are the student's to"
            f" {self.difference:.0e}.\nTrained on {nights}."
        )


def export_student(student: Program, out: Path) -> Exported:
    """Writes a student to the file `out`, and runs the file before it is in place.

    Args:
      student: of a training.
      out: the file; one that is there is replaced.

    Raises:
      ExportError: the file's logits are not the student's.
    """
    if out.is_dir():
        raise ConfigError(f"--out={out} is a folder.", "Name a file, such as student.kdsleep.")
    card = {**student.card, "exported": {"platforms": list(PLATFORMS), "versions": versions()}}
    data = container.pack(container.Content(card, student.weights, serialized(student)))
    loaded = of_content(container.unpack(data, out), out)
    difference = largest_difference(loaded.call, student)
    if not difference < TOLERANCE:
        raise ExportError(
            out,
            f"not written: its logits would differ from the student's by {difference:.2g}.",
            "Please report this with the versions in the student's settings.json.",
        )
    write_bytes(out, data)
    return Exported(out, len(data), difference, card)


def read_student(path: str | os.PathLike) -> Program:
    """The student of an exported file.

    Raises:
      ExportError: nothing there, or a file that cannot be used.
    """
    if not Path(path).exists():
        raise ExportError(
            path,
            "no student here.",
            "Name a student's work folder, or a file of `kd-sleep export_student`.",
        )
    return of_content(container.read(path), path)


def of_content(content: container.Content, path: str | os.PathLike) -> Program:
    """The student that an exported file holds; `path` is for its errors.

    Raises:
      ExportError: a program that is no student's, or inputs made in another way than here.
    """
    card = content.card
    if card.get("kind") == "teacher":
        raise ExportError(path, "holds a teacher.", "Name a file of `kd-sleep export_student`.")
    found = card.get("versions")
    made_by = found.get("kd_sleep") if isinstance(found, dict) else None
    made_by = made_by[:40] if isinstance(made_by, str) else "unknown"
    here, there = preprocessing(), card.get("preprocessing")
    if there != here:
        there = there if isinstance(there, dict) else {}
        differing = [
            f"{name} {there.get(name)} there, {here.get(name)} here"
            for name in sorted({*there, *here})
            if there.get(name) != here.get(name)
        ]
        raise ExportError(
            path,
            f"this student's inputs are made in another way: {'; '.join(differing)}.",
            f"Use the kd_sleep it is of ({made_by}), or train it again with this one.",
        )
    try:
        _check(card)
        function = _deserialized(content.program, content.arrays, card["inputs"])
        student = Program(card, content.arrays, function)
        _ = student._run
        return student
    except Exception as error:  # whatever jax makes of bytes that are no program
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ExportError(
            path,
            f"its program cannot be used by jax {jax.__version__}: {reason}.",
            f"Export it again; it is of kd_sleep {made_by}.",
        ) from error


def _check(card: Mapping[str, Any]) -> None:
    """Raises ValueError where a card lacks what running a student takes."""
    if card.get("stages") != list(STAGE_NAMES):
        raise ValueError("its stages are others")
    if absent := [name for name in _CARD_PARTS if not isinstance(card.get(name), dict)]:
        raise ValueError(f"its card has no {', '.join(absent)}")
    shapes = card["inputs"]
    unknown = {name: s for name, s in shapes.items() if tuple(s) != INPUT_SHAPES.get(name)}
    if unknown or not shapes:
        raise ValueError(f"it takes inputs that nobody makes: {unknown}")
    reach = card["reach"]
    if set(reach) != {"before", "after"} or not all(
        type(n) is int and n >= 0 for n in reach.values()
    ):
        raise ValueError(f"its reach is {reach}")
    if card.get("sqi") is not None:
        KeptShare.from_json(card["sqi"])


def serialized(student: Program) -> bytes:
    """The student's program for `PLATFORMS`, any B and L from 1 on."""
    with jax.enable_x64(False):
        exported = export.export(jax.jit(student.function), platforms=PLATFORMS)(
            *open_arguments(student)
        )
    return bytes(exported.serialize())


def _deserialized(program: bytes, weights: Weights, inputs: Shapes) -> Function:
    exported = export.deserialize(bytearray(program))
    text = exported.mlir_module()
    if text.count("custom_call") != text.count(_ALLOWED_CALL):
        raise ValueError("it calls what no student calls")

    def described(array: Any) -> str:
        return f"{np.dtype(array.dtype)}{list(array.shape)}"

    taken = list(map(described, exported.in_avals))
    if taken[: len(weights)] != [f"float32{list(array.shape)}" for array in weights.values()]:
        raise ValueError("it takes other weights than these")
    batch, length = exported.in_avals[-1].shape
    shapes = [[batch, length, *shape] for shape in (*inputs.values(), (), (NUM_STAGES,))]
    if [*taken[len(weights) :], *map(described, exported.out_avals)] != [
        f"float32{shape}" for shape in shapes
    ]:
        raise ValueError("it takes or gives other arrays than a student does")
    return exported.call


def open_arguments(student: Program) -> tuple[tuple, tuple, jax.ShapeDtypeStruct]:
    """What a student's function takes, by shape and dtype, with B and L left open."""
    batch, length = export.symbolic_shape("b, l")

    def floats(*shape: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    return (
        tuple(floats(*weight.shape) for weight in student.weights.values()),
        tuple(floats(batch, length, *shape) for shape in student.card["inputs"].values()),
        floats(batch, length),
    )


def largest_difference(call: Callable, student: Program) -> float:
    """Of what is called like `student`, on noise of every size, some missing and some padding."""
    largest = 0.0
    for seed, (batch, length) in enumerate(((1, 1), (2, 40))):
        inputs, valid_BL = noise(student.card["inputs"], batch, length, seed)
        apart = np.abs(call(inputs, valid_BL) - student.call(inputs, valid_BL))
        largest = np.maximum(largest, apart[valid_BL > 0].max())  # NaN stays
    return float(largest)


def noise(
    shapes: Shapes, batch: int, length: int, seed: int
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Inputs [B, L, …] of a student, of every size, and valid_BL, which ends in padding."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for name, shape in shapes.items():
        values = rng.normal(size=(batch, length, *shape))
        if name == "bcg":
            values *= np.exp(rng.uniform(-2.0, 6.0, (batch, length, 1)))
        elif name.startswith("summary_"):
            values[..., JJ_LEVEL] = np.exp(0.2 * values[..., JJ_LEVEL])  # s
        elif name != "beat_confidence":
            values = np.exp(0.2 * values) if name == "jj" else values
            values[rng.random(values.shape) < 0.1] = np.nan
        inputs[name] = values.astype(np.float32)
    valid_BL = np.arange(length) < [[length - 7 * row] for row in range(batch)]
    return inputs, valid_BL.astype(np.float32)
