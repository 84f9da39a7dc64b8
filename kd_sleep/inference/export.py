"""Writes a trained student as one .kdsleep file that needs neither flax nor its work folder.

The program is `jax.export`'s, for cpu, cuda and tpu, with B and L left open; weights are its
arguments, so that int8 ones are made float32 as they are loaded and the program is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from numpy.typing import NDArray

from kd_sleep import metrics
from kd_sleep.errors import ConfigError, ExportError
from kd_sleep.inference import container
from kd_sleep.inference.program import (
    FLOAT,
    INT8,
    SCALE,
    Program,
    Trained,
    Weights,
    bound,
    dequantised,
    of_content,
    trained,
)
from kd_sleep.provenance import versions
from kd_sleep.schema import BCG_SAMPLES
from kd_sleep.stages import NUM_STAGES

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # between the logits of a student and of its file


@dataclasses.dataclass(frozen=True)
class Exported:
    """What became of an export.

    Attributes:
      path: the file.
      size: its bytes.
      difference: largest difference of its logits from those of the student with the same weights.
      card: as of `Program`; "int8" is None for float32 weights, else it has "measured", and where
        that is true "split", "nights", "windows", "changed", the share of the windows whose stage
        is another, and "float32" and "int8" with "accuracy" and "kappa" on the scored ones.
    """

    path: Path
    size: int
    difference: float
    card: Mapping[str, Any]


def export_student(
    workdir: Path, out: Path, *, int8: bool = False, data_dir: Path | None = None
) -> Exported:
    """Writes the student of `workdir` to the file `out`, and runs the file before it is in place.

    Args:
      workdir: of `launch.distill_student`.
      out: the file; one that is there is replaced.
      int8: weights in int8, a quarter of their size.
      data_dir: a dataset, to measure on its validation nights what int8 costs.

    Raises:
      TrainingError: no trained student in the folder.
      ExportError: the file does not say what the student says.
    """
    if out.is_dir():
        raise ConfigError(f"--out={out} is a folder.", "Name a file, such as student.kdsleep.")
    if data_dir is not None and not int8:
        raise ConfigError(
            f"--data_dir={data_dir}: float32 weights have no cost to measure.", "Add --int8."
        )
    student = trained(workdir)
    arrays = quantised(student.weights) if int8 else dict(student.weights)
    about = None
    if int8:
        about = {"measured": False} if data_dir is None else int8_cost(student, data_dir)
    card = {
        **student.card,
        "weights": INT8 if int8 else FLOAT,
        "int8": about,
        "exported": {"platforms": list(PLATFORMS), "versions": versions()},
    }
    data = container.pack(container.Content(card, arrays, serialized(student)))
    loaded = of_content(container.unpack(data, out), out)
    difference = largest_difference(
        loaded, Program(card, bound(student.function, dequantised(arrays)))
    )
    if not difference < TOLERANCE:
        raise ExportError(
            out,
            f"not written: its logits would differ from the student's by {difference:.2g}.",
            "Please report this with the versions in the student's settings.json.",
        )
    container.write(out, data)
    return Exported(out, len(data), difference, card)


def serialized(student: Trained) -> bytes:
    """The student's program for `PLATFORMS`, any B and L from 1 on."""
    batch, length = export.symbolic_shape("b, l")
    program = export.export(jax.jit(student.function), platforms=PLATFORMS)(
        tuple(jax.ShapeDtypeStruct(w.shape, w.dtype) for w in student.weights.values()),
        jax.ShapeDtypeStruct((batch, length, BCG_SAMPLES), jnp.float32),
        jax.ShapeDtypeStruct((batch, length), jnp.float32),
    )
    return bytes(program.serialize())


def quantised(weights: Weights) -> dict[str, NDArray]:
    """Matrices and kernels [..., C] in int8, symmetric, each with its scales [C]; biases as is."""
    arrays: dict[str, NDArray] = {}
    for name, weight in weights.items():
        if weight.ndim < 2:
            arrays[name] = weight
            continue
        largest = np.abs(weight).max(axis=tuple(range(weight.ndim - 1)))
        scale = np.where(largest > 0.0, largest / 127.0, 1.0).astype(np.float32)
        arrays[name] = np.rint(weight / scale).astype(np.int8)
        arrays[name + SCALE] = scale
    return arrays


def largest_difference(one: Program, other: Program) -> float:
    """Of logits, and of the SQI where there is one, on noise of every size, some of it padding."""
    rng = np.random.default_rng(0)
    largest = 0.0
    for batch, length in ((1, 1), (2, 40)):
        sizes = np.exp(rng.uniform(-2.0, 6.0, (batch, length, 1)))
        bcg_BLS = (sizes * rng.normal(size=(batch, length, BCG_SAMPLES))).astype(np.float32)
        valid_BL = (np.arange(length) < [[length - 7 * row] for row in range(batch)]).astype(
            np.float32
        )
        for mine, theirs in zip(
            one.call(bcg_BLS, valid_BL), other.call(bcg_BLS, valid_BL), strict=True
        ):
            if np.isnan(theirs).all() and np.isnan(mine).all():  # no SQI
                continue
            largest = max(largest, float(np.abs(mine - theirs)[valid_BL > 0].max()))
    return largest


def int8_cost(student: Trained, data_dir: Path) -> dict[str, Any]:
    """What int8 weights cost on the validation nights: "int8" of the card."""
    from kd_sleep.datasets.nights import read_split

    nights = read_split(data_dir, "validation")
    said = {
        name: bound(student.function, weights)
        for name, weights in (
            (FLOAT, student.weights),
            (INT8, dequantised(quantised(student.weights))),
        )
    }
    counts = {name: np.zeros((NUM_STAGES, NUM_STAGES), np.int64) for name in said}
    windows = changed = 0
    for bcg_BLS, valid_BL, label_BL in _batches(nights):
        stages = {name: call(bcg_BLS, valid_BL)[0].argmax(-1) for name, call in said.items()}
        for name, stage_BL in stages.items():
            counts[name] += metrics.confusion_counts(label_BL, stage_BL, NUM_STAGES)
        windows += int(valid_BL.sum())
        changed += int(((stages[FLOAT] != stages[INT8]) & valid_BL).sum())
    return {
        "measured": True,
        "split": "validation",
        "nights": len(nights),
        "windows": windows,
        "changed": changed / windows,
    } | {
        name: {"accuracy": _number(metrics.accuracy(c)), "kappa": _number(metrics.kappa(c))}
        for name, c in counts.items()
    }


def _batches(nights: Any) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
    """BCG in heartbeat amplitudes, which windows are real, and their labels."""
    from kd_sleep.datasets.batches import whole_nights

    for batch in whole_nights(nights, ("bcg", "bcg_scale")):
        yield batch["bcg"] * batch["bcg_scale"][..., None], batch["valid_BL"], batch["label"]


def _number(value: Any) -> float | None:
    """None where there is none, as where one stage alone occurs: JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def summary(done: Exported) -> str:
    """What a person wants to know of an export, in a few lines."""
    data, cost = done.card["data"], done.card["int8"]
    nights = "nights that its folder does not tell"
    if data["nights"] is not None:
        kind = "simulated" if data["simulated"] else "recorded"
        nights = (
            f"{data['nights']} {kind} nights ({data['cohort']}, BCG {data['bcg_source']}),"
            f" {data['labelled_nights']} of them labelled"
        )
    lines = [
        f"{done.path}: {done.size / 1000:.0f} kB, {done.card['weights']} weights; its logits are"
        f" the student's to {done.difference:.0e}.",
        f"Trained on {nights}.",
    ]
    if cost and not cost["measured"]:
        lines.append("What int8 costs was not measured: give --data_dir.")
    elif cost:
        lines.append(
            f"int8 on {cost['nights']} validation nights, {cost['windows']} windows:"
            f" {100 * cost['changed']:.2f} % have another stage;"
            f" accuracy {_change(cost, 'accuracy')}, kappa {_change(cost, 'kappa')}."
        )
    return "\n".join(lines)


def _change(cost: Mapping[str, Any], score: str) -> str:
    before, after = cost[FLOAT][score], cost[INT8][score]
    return "not defined" if before is None or after is None else f"{before:.4f} -> {after:.4f}"
