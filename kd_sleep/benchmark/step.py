"""The student's train step against the same step in PyTorch: forward, backward, clip, AdamW."""

from __future__ import annotations

import importlib.util

import jax

from kd_sleep.benchmark.machine import cores
from kd_sleep.benchmark.subject import Training, example_batch, sizes, student
from kd_sleep.benchmark.timing import Peer, Row, compared, in_turns
from kd_sleep.config import Preset
from kd_sleep.training.mesh import data_mesh
from kd_sleep.training.steps import Batch

PART = "step"
AIM = 1.5
EAGER, COMPILED = "PyTorch, eager", "PyTorch, torch.compile"
NO_TORCH = "torch is not installed (pip install 'kd_sleep[benchmark]')"


def measure(preset: Preset, repeats: int) -> list[Row]:
    """A row to each PyTorch peer; where one cannot be had, the row says why."""
    run = student(preset)
    batch = example_batch(run)
    what = f"student train step, {sizes(run)}, width {preset.student.width}"
    peers, absent = torch_peers(preset, batch)
    times = in_turns({"ours": Training(run, batch, data_mesh()), **peers}, repeats)
    rows = [compared(PART, what, name, times["ours"], times[name], AIM) for name in peers]
    return rows + [Row(PART, what, name, AIM, note=why) for name, why in absent.items()]


def torch_peers(preset: Preset, batch: Batch) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that can be had here; and why the others cannot."""
    if why := why_no_torch():
        return {}, dict.fromkeys((EAGER, COMPILED), why)
    from kd_sleep.benchmark import torch_peer

    if why := torch_peer.lacks(preset):
        return {}, dict.fromkeys((EAGER, COMPILED), why)
    torch_peer.use_threads(cores())
    device = torch_peer.device_like(jax.default_backend())
    on_device = torch_peer.to_torch(batch, device)
    peers: dict[str, Peer] = {}
    absent = {}
    for name in (EAGER, COMPILED):
        peer = torch_peer.Training(
            torch_peer.Student(preset.student).to(device),
            preset.distill,
            preset.student_train,
            on_device,
            compiled=name == COMPILED,
        )
        try:
            peer()
        except RuntimeError as error:  # torch.compile needs a C++ compiler, or Triton
            absent[name] = f"failed: {str(error).strip().splitlines()[0]}"
        else:
            peers[name] = peer
    return peers, absent


def why_no_torch() -> str:
    """Why PyTorch cannot compute where JAX does; "" where it can."""
    if importlib.util.find_spec("torch") is None:
        return NO_TORCH
    from kd_sleep.benchmark import torch_peer

    backend = jax.default_backend()
    return "" if torch_peer.device_like(backend) else f"this PyTorch has no {backend}"
