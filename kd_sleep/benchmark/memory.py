"""Room: of a batch, of the dataset, of a step; and what looking soft labels up spares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd_sleep.benchmark.subject import (
    NIGHT_WINDOWS,
    SHHS_NIGHTS,
    Training,
    columns_of,
    crops_of,
    example_batch,
    student,
    synthetic_nights,
)
from kd_sleep.benchmark.timing import Row, compared, in_turns
from kd_sleep.config import Preset
from kd_sleep.datasets.batches import gather
from kd_sleep.models.teacher import Teacher
from kd_sleep.training.distill import TEACHER_COLUMNS, dtype_of
from kd_sleep.training.mesh import data_mesh, put
from kd_sleep.training.meter import Meter
from kd_sleep.training.steps import create_state, make_predict

PART = "memory"
FLOAT32 = "BCG in float32"


def measure(preset: Preset, repeats: int) -> list[Row]:
    """Rows of bytes, and one of the time to look up a batch's soft labels."""
    run, mesh = student(preset), data_mesh()
    nights = synthetic_nights(4)
    columns = columns_of(run, nights)
    training = Training(run, example_batch(run), mesh)
    compiled = training.step.lower(training.state, training.batch).compile()
    temporary = compiled.memory_analysis()
    training()

    on_device = sum(array.nbytes for array in training.batch.values())
    window, wide = bytes_of_a_window(columns), bytes_of_a_window(columns, bcg_as=np.float32)
    shhs = SHHS_NIGHTS * NIGHT_WINDOWS
    batch_wide = on_device + training.batch["bcg"].size * 2
    return [
        room("a batch on the device", on_device, batch_wide),
        room("a window of the dataset, as training holds it", window, wide),
        room(f"SHHS, {SHHS_NIGHTS:,} nights of 8 h", shhs * window, shhs * wide),
        Row(
            PART, "temporaries of a train step", unit="B",
            ours=None if temporary is None else float(temporary.temp_size_in_bytes),
            note="as XLA plans them",
        ),
        Row(
            PART, "peak resident memory of this process", unit="B",
            ours=1e9 * Meter(0).read()["host_memory_gb"],
            note="with all parts so far, and PyTorch if it was loaded",
        ),
        lookup(preset, repeats),
    ]  # fmt: skip


def room(what: str, ours: float, theirs: float) -> Row:
    return Row(PART, what, FLOAT32, None, theirs / ours, None, float(ours), float(theirs), "B")


def bytes_of_a_window(columns: dict[str, NDArray], bcg_as: type | None = None) -> int:
    """Of all columns [W, ...] of a student's dataset."""
    return sum(
        column[0].size * np.dtype(bcg_as if bcg_as and name == "bcg" else column.dtype).itemsize
        for name, column in columns.items()
    )


def lookup(preset: Preset, repeats: int) -> Row:
    """Soft labels of a batch out of memory, against asking the teacher again in every step."""
    run, mesh = student(preset), data_mesh()
    nights = synthetic_nights(4)
    crops = crops_of(run, nights)
    columns = columns_of(run, nights)
    soft = {name: columns[name] for name in ("teacher_logits", "label")}
    where = crops.sequences(0)
    shown = gather(nights.columns((*TEACHER_COLUMNS, "label")), where, crops.length)
    teacher = Teacher(preset.teacher, dtype_of(preset.teacher_train))
    params = create_state(teacher, preset.teacher_train, shown).params
    predict, batch = make_predict(teacher, mesh), put(shown, mesh)
    times = in_turns(
        {
            "looked up": lambda: gather(soft, where, crops.length),
            "asked": lambda: predict(params, batch),
        },
        repeats,
    )
    return compared(
        PART, "soft labels of a batch, looked up", "the teacher run on it",
        times["looked up"], times["asked"], 10.0, "per step; the teacher has its batch at hand",
    )  # fmt: skip
