"""Staging a night from its EDF to its CSV: cold, warm, and a folder of nights; memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from kd_sleep.benchmark.recordings import _quiet
from kd_sleep.benchmark.timing import Row
from kd_sleep.config import CohortConfig, Preset, to_dict
from kd_sleep.datasets.batches import whole_nights
from kd_sleep.datasets.nights import blank
from kd_sleep.inference import container
from kd_sleep.inference.export import serialized
from kd_sleep.inference.outputs import Reading, stage_file, stage_files
from kd_sleep.inference.program import Program, card_of
from kd_sleep.inference.staging import StagingError, StagingStudent, load_student
from kd_sleep.models.student import Student, columns
from kd_sleep.provenance import versions
from kd_sleep.recordings.files import write_bytes
from kd_sleep.simulation.cohort import write_cohort

PART = "staging"
AIM_COLD_S, AIM_WARM_S = 2.0, 0.1
# One core, as the aim has it; what a fresh process takes is told from inside and from outside.
_COLD = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
import json, resource, time
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_compilation_cache_dir", sys.argv[4])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
import kd_sleep
from kd_sleep.inference.outputs import Reading, stage_file
student = kd_sleep.load_student(sys.argv[1])
stage_file(student, Path(sys.argv[2]), "night", Path(sys.argv[3]), Reading(picture="none"))
print(json.dumps({"cpu_s": time.process_time(),
                  "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


def measure(preset: Preset, repeats: int, hours: float = 8.0, nights: int = 100) -> list[Row]:
    """Rows of the preset's student, with made-up parameters, on simulated nights.

    Args:
      preset: whose student stages.
      repeats: turns.
      hours: length of a night.
      nights: in the folder.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = CohortConfig(subjects=4, hours=hours, second_visit_share=0.0)
        with _quiet():
            write_cohort(root / "cohort", config)
        exported = root / "student.kdsleep"
        write_student(preset, exported)
        student = load_student(exported)
        files = [
            path
            for path in sorted((root / "cohort" / "bcg").glob("*.edf"))
            if _stageable(student, path, root)
        ]
        return [
            *cold(exported, files[0], root, max(1, repeats // 4)),
            *warm(student, files[0], root, repeats),
            folder(exported, files, root, nights),
        ]


def write_student(preset: Preset, path: Path) -> None:
    """An exported student with parameters as they are before training: speed is the same."""
    module = Student(preset.student)
    example = next(whole_nights(blank(), columns(preset.student), 1))
    params = module.init(jax.random.PRNGKey(0), *module.inputs(example))["params"]
    settings = {
        "model": to_dict(preset.student),
        "distill": to_dict(preset.distill),
        "train": to_dict(preset.student_train),
        "augment": to_dict(preset.augment),
        "teacher": "none",
        "labelled": 0,
    }
    about = {"versions": versions(), "git_revision": "unknown"}
    card = card_of(about, settings, "parameters are made up", preset.student, None)
    student = Program.of_module(module, params, card)
    write_bytes(path, container.pack(container.Content(card, student.weights, serialized(student))))


def _stageable(student: StagingStudent, path: Path, out: Path) -> bool:
    """Whether a night shows a heartbeat: some simulated ones are drowned in noise."""
    try:
        stage_file(student, path, "tried", out, Reading(picture="none"))
    except StagingError:
        return False
    return True


def cold(exported: Path, night: Path, root: Path, repeats: int) -> list[Row]:
    """A fresh process on one core; at first without anything compiled, then with what was kept."""
    rows = []
    for number in range(repeats + 1):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _COLD, exported, night, root, root / "cache"],
            capture_output=True, text=True, check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        seconds = time.perf_counter() - began
        rows.append((seconds, json.loads(done.stdout.splitlines()[-1])))
        if number == 0:
            first_s, first = rows.pop()
    seconds = float(np.median([seconds for seconds, _ in rows]))
    cpu_s = float(np.median([told["cpu_s"] for _, told in rows]))
    what = "EDF to CSV, EDF+ and JSON, a fresh process on one core"
    return [
        Row(
            PART, what, f"{AIM_COLD_S:g} s", 1.0, AIM_COLD_S / seconds, None, seconds, AIM_COLD_S,
            "s", f"imports, reading, all of it; {cpu_s:.2g} s of CPU",
        ),
        Row(
            PART, f"{what}, nothing compiled before", f"{AIM_COLD_S:g} s", 1.0,
            AIM_COLD_S / first_s, None, first_s, AIM_COLD_S, "s", f"{first['cpu_s']:.2g} s of CPU",
        ),
        Row(
            PART, "peak memory of that process", ours=float(rows[-1][1]["peak"]), unit="B",
        ),
    ]  # fmt: skip


def warm(student: StagingStudent, night: Path, root: Path, repeats: int) -> list[Row]:
    """A process that has staged before, with and without the picture, and the network alone."""
    rows = []
    shapes = student.program.card["inputs"]
    inputs = {name: np.ones((960, *shape)) for name, shape in shapes.items()}
    for what, aim, work in (
        (
            "EDF to CSV, EDF+ and JSON, warm",
            AIM_WARM_S,
            lambda: stage_file(student, night, "warm", root, Reading(picture="none")),
        ),
        ("the same with a picture", None, lambda: stage_file(student, night, "warm", root)),
        ("the network alone, 960 windows", None, lambda: student.network(inputs)),
    ):
        work()
        seconds, cpu = [], []
        for _ in range(repeats):
            began, began_cpu = time.perf_counter(), time.process_time()
            work()
            seconds.append(time.perf_counter() - began)
            cpu.append(time.process_time() - began_cpu)
        median = float(np.median(seconds))
        peer, ratio = (f"{aim:g} s", aim / median) if aim else ("", None)
        note = f"{np.median(cpu):.2g} s of CPU"
        goal = 1.0 if aim else None
        rows.append(Row(PART, what, peer, goal, ratio, None, median, aim, "s", note))
    return rows


def folder(exported: Path, files: list[Path], root: Path, nights: int) -> Row:
    """Nights of a folder a second, on all cores, the workers' start included."""
    (root / "many").mkdir()
    for number in range(nights):
        os.link(files[number % len(files)], root / "many" / f"{number}.edf")
    began = time.perf_counter()
    with _quiet():
        done = list(stage_files(exported, [root / "many"], root / "out", Reading(picture="none")))
    seconds = time.perf_counter() - began
    failed = sum(bool(outcome.problem) for outcome in done)
    return Row(
        PART, f"{nights} nights in a folder", ours=nights / seconds, unit="nights/s",
        note=f"all cores, the processes' start included; {failed} not staged",
    )  # fmt: skip
