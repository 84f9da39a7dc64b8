"""Room: of a batch, of the dataset, of a step; and what looking soft labels up spares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from kd_sleep.training.mesh import data_mesh, put
from kd_sleep.training.meter import Meter
from kd_sleep.training.run import Run
from kd_sleep.training.steps import create_state, make_predict

PART = "memory"
FLOAT32 = "all in float32"


def measure(preset: Preset, repeats: int) -> list[Row]:
    """Rows of bytes, and one of the time to look up a batch's soft labels."""
    run, mesh = student(preset), data_mesh()
    nights = synthetic_nights(4)
    columns = columns_of(run, nights)
    training = Training(run, example_batch(run), mesh)
    compiled = training.step.lower(training.state, training.batch).compile()
    temporary = compiled.memory_analysis()
    training()

    batch, window = training.batch, {name: column[0] for name, column in columns.items()}
    shhs = SHHS_NIGHTS * NIGHT_WINDOWS
    return [
        room("a batch on the device", batch),
        room("a window of the dataset, as training holds it", window),
        room(f"SHHS, {SHHS_NIGHTS:,} nights of 8 h", window, shhs),
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


def room(what: str, arrays: Mapping[str, Any], times: int = 1) -> Row:
    """Bytes of the arrays, so many times, against 4 bytes for every number in them."""
    ours = float(times * sum(array.nbytes for array in arrays.values()))
    theirs = 4.0 * times * sum(array.size for array in arrays.values())
    return Row(PART, what, FLOAT32, None, theirs / ours, None, ours, theirs, "B")


def lookup(preset: Preset, repeats: int) -> Row:
    """Soft labels of a batch out of memory, against asking the teacher again in every step."""
    run, mesh = student(preset), data_mesh()
    nights = synthetic_nights(4)
    crops = crops_of(run, nights)
    columns = columns_of(run, nights)
    soft = {name: columns[name] for name in ("teacher_logits", "label")}
    where = crops.sequences(0)
    teacher = Run(preset.teacher, preset.teacher_train)
    shown = gather(nights.columns((*teacher.columns, "label")), where, crops.length)
    params = create_state(teacher.module, preset.teacher_train, shown).params
    predict, batch = make_predict(teacher.module, mesh), put(shown, mesh)
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
