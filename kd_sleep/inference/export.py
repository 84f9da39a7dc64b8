"""Writes a trained student as one .kdsleep file that needs neither flax nor its work folder.

The program is `jax.export`'s, for cpu, cuda and tpu, with B and L left open; weights are its
arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from numpy.typing import NDArray

from kd_sleep.errors import ConfigError, ExportError
from kd_sleep.features.inputs import JJ_LEVEL
from kd_sleep.inference import container
from kd_sleep.inference.program import (
    Program,
    PureStudent,
    Shapes,
    of_content,
    pure_student,
    trained,
)
from kd_sleep.provenance import versions

if TYPE_CHECKING:
    from kd_sleep.training.trained import Trained

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # between the logits of a student and of its file


@dataclasses.dataclass(frozen=True)
class Exported:
    """What became of an export.

    Attributes:
      path: the file.
      size: its bytes.
      difference: largest difference of its logits from those of the student with the same weights.
      card: as of `Program`.
    """

    path: Path
    size: int
    difference: float
    card: Mapping[str, Any]


def export_student(source: Path | Trained, out: Path) -> Exported:
    """Writes a student to the file `out`, and runs the file before it is in place.

    Args:
      source: a student, or the work folder of `kd-sleep distill_student`.
      out: the file; one that is there is replaced.

    Raises:
      TrainingError: no trained student in the folder.
      ExportError: the file's logits are not the student's.
    """
    if out.is_dir():
        raise ConfigError(f"--out={out} is a folder.", "Name a file, such as student.kdsleep.")
    student = pure_student(trained(source) if isinstance(source, Path) else source)
    card = {
        **student.card,
        "exported": {"platforms": list(PLATFORMS), "versions": versions()},
    }
    data = container.pack(container.Content(card, dict(student.weights), serialized(student)))
    loaded = of_content(container.unpack(data, out), out)
    difference = largest_difference(loaded, student.program())
    if not difference < TOLERANCE:
        raise ExportError(
            out,
            f"not written: its logits would differ from the student's by {difference:.2g}.",
            "Please report this with the versions in the student's settings.json.",
        )
    container.write(out, data)
    return Exported(out, len(data), difference, card)


def serialized(student: PureStudent) -> bytes:
    """The student's program for `PLATFORMS`, any B and L from 1 on."""
    arguments = open_arguments(student)
    with jax.enable_x64(False):
        exported = export.export(jax.jit(student.function), platforms=PLATFORMS)(*arguments)
    return bytes(exported.serialize())


def open_arguments(student: PureStudent) -> tuple[tuple, tuple, jax.ShapeDtypeStruct]:
    """What a student's function takes, by shape and dtype, with B and L left open."""
    batch, length = export.symbolic_shape("b, l")

    def floats(*shape: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    return (
        tuple(floats(*weight.shape) for weight in student.weights.values()),
        tuple(floats(batch, length, *shape) for shape in student.card["inputs"].values()),
        floats(batch, length),
    )


def largest_difference(one: Program, other: Program) -> float:
    """Of logits on noise of every size, some of it missing and some padding."""
    largest = 0.0
    for seed, (batch, length) in enumerate(((1, 1), (2, 40))):
        inputs, valid_BL = noise(other.card["inputs"], batch, length, seed)
        apart = np.abs(one.call(inputs, valid_BL) - other.call(inputs, valid_BL))
        largest = np.maximum(largest, apart[valid_BL > 0].max())  # NaN stays
    return float(largest)


def noise(
    shapes: Shapes, batch: int, length: int, seed: int
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Inputs [B, L, …] of a student, as wild as they come, and valid_BL, which ends in padding."""
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


def summary(done: Exported) -> str:
    """What a person wants to know of an export, in a few lines."""
    data = done.card["data"]
    nights = "nights that its folder does not name"
    if data["nights"] is not None:
        kind = "simulated" if data["simulated"] else "recorded"
        nights = (
            f"{data['nights']} {kind} nights ({data['cohort']}, BCG {data['bcg_source']}),"
            f" {data['labelled_nights']} of them labelled"
        )
    return (
        f"{done.path}: {done.size / 1000:.0f} kB; its logits are the student's to"
        f" {done.difference:.0e}.\nTrained on {nights}."
    )
