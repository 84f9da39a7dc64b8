"""The student and its train step once more, in PyTorch: what the JAX step is measured against.

The same function of the same parameters: `load_flax` takes them from Flax, and a test compares
logits, loss and the parameters after several steps. Whoever changes `models/` changes this file.

The only file that imports torch (pip install 'kd_sleep[benchmark]').
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kd_sleep.config import DistillConfig, StudentConfig, TrainConfig
from kd_sleep.models.frontends import (
    FRAME_S,
    HOP_S,
    SLOW_FRAME,
    SLOW_HOP,
    SLOW_HZ,
    heart_matrices,
)
from kd_sleep.schema import BCG_HZ
from kd_sleep.stages import NUM_STAGES

Tensors = dict[str, torch.Tensor]


def norm(x: torch.Tensor) -> torch.Tensor:
    """`models.sequence.Norm`, with Flax's epsilon."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


class Shift(nn.Module):
    """`models.sequence.Shift`: thirds of the channels moved by `reach` places each way, mixed."""

    def __init__(self, width: int, reach: int = 1):
        super().__init__()
        self.third, self.reach = width // 3, reach
        self.dense = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places, third, reach = x.shape[1], self.third, self.reach
        padded = F.pad(x, (0, 0, reach, reach))
        before, after = padded[:, :places, :third], padded[:, 2 * reach :, 2 * third :]
        return self.dense(torch.cat([before, x[..., third : 2 * third], after], dim=-1))


def pool(x: torch.Tensor) -> torch.Tensor:
    """Mean and maximum over the frames of a window."""
    return torch.cat([x.mean(1), x.amax(1)], dim=-1)


class Autocorrelation(nn.Module):
    """`models.frontends.Autocorrelation`: [N, S] -> [N, width]."""

    forward_matrix: torch.Tensor
    back_matrix: torch.Tensor

    def __init__(self, width: int):
        super().__init__()
        forward, back = heart_matrices()
        self.register_buffer("forward_matrix", torch.from_numpy(forward), persistent=False)
        self.register_buffer("back_matrix", torch.from_numpy(back), persistent=False)
        self.heart = nn.Linear(back.shape[1] + 1, width)
        self.heart_shifts = nn.ModuleList(Shift(width) for _ in range(2))
        self.slow = nn.Linear(2 * SLOW_FRAME, width)
        self.slow_shift = Shift(width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, bcg: torch.Tensor) -> torch.Tensor:
        with torch.autocast(bcg.device.type, enabled=False):  # float32 in the JAX student, too
            correlation = self._correlation(bcg)
            slow = self._slow_frames(bcg)
        heart = self.heart(correlation)
        for shift in self.heart_shifts:
            heart = heart + shift(F.relu(norm(heart)))
        slow = F.relu(norm(self.slow(slow)))
        slow = F.relu(norm(self.slow_shift(slow)))
        return self.out(torch.cat([pool(F.relu(heart)), pool(slow)], dim=-1))

    def _correlation(self, bcg: torch.Tensor) -> torch.Tensor:
        frames = bcg.unfold(1, round(FRAME_S * BCG_HZ), round(HOP_S * BCG_HZ))
        cosine, sine = (frames @ self.forward_matrix).chunk(2, dim=-1)
        power = cosine**2 + sine**2
        energy = power.sum(-1, keepdim=True)
        correlation = power @ self.back_matrix / (energy + 1e-3)
        return torch.cat([2.0 * correlation, 0.3 * (torch.log(energy + 1e-3) - 8.0)], dim=-1)

    def _slow_frames(self, bcg: torch.Tensor) -> torch.Tensor:
        wave = bcg.reshape(len(bcg), -1, round(BCG_HZ / SLOW_HZ)).mean(-1)
        wave = wave - wave.mean(-1, keepdim=True)
        rms = torch.sqrt((wave**2).mean(-1, keepdim=True) + 1e-3)
        both = torch.stack([wave / rms, torch.arcsinh(wave) / 3.0], dim=1)
        side = SLOW_FRAME // 2
        frames = F.pad(both, (side, side)).unfold(2, SLOW_FRAME, SLOW_HOP)  # [N, 2, frames, taps]
        return frames.permute(0, 2, 3, 1).flatten(2)


class Context(nn.Module):
    """`models.sequence.Context`: residual shifts by 1, 2, 4, … windows."""

    def __init__(self, width: int, context_windows: int):
        super().__init__()
        layers = (context_windows + 1).bit_length() - 1
        self.shifts = nn.ModuleList(Shift(width, 2**layer) for layer in range(layers))
        self.denses = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        for dense in self.denses:
            nn.init.zeros_(dense.weight)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        mask = valid[..., None].to(x.dtype)
        for shift, dense in zip(self.shifts, self.denses, strict=True):
            x = x + dense(F.relu(shift(norm(x) * mask)))
        return norm(x)


class Student(nn.Module):
    """`models.student.Student` with the front end `autocorrelation`: a batch -> logits_BLK."""

    def __init__(self, config: StudentConfig):
        super().__init__()
        self.front_end = Autocorrelation(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.context = Context(config.width, config.context_windows)
        self.out = nn.Linear(config.width, NUM_STAGES)

    def forward(self, batch: Tensors) -> torch.Tensor:
        valid = batch["valid_BL"]
        bcg = batch["bcg"].float() * batch["bcg_scale"][..., None]
        x = self.front_end(bcg.flatten(0, 1)).unflatten(0, valid.shape)
        return self.out(self.context(self.dropout(x), valid).float())


def load_flax(student: Student, params: Mapping[str, Any]) -> None:
    """Gives the student the parameters of a Flax `Student`.

    Flax numbers the layers of a kind within a module in the order in which they are called.
    """

    def fill(layers: list[nn.Module], leaves: Mapping[str, Any], name: str) -> None:
        assert len(layers) == sum(key.startswith(f"{name}_") for key in leaves), name
        for number, layer in enumerate(layers):
            leaf = leaves[f"{name}_{number}"]
            if name == "Shift":
                layer, leaf = layer.dense, leaf["Dense_0"]
            with torch.no_grad():
                layer.weight.copy_(torch.tensor(np.asarray(leaf["kernel"].T)))
                layer.bias.copy_(torch.tensor(np.asarray(leaf["bias"])))

    front, leaves = student.front_end, params["Autocorrelation_0"]
    fill([front.heart, front.slow, front.out], leaves, "Dense")
    fill([*front.heart_shifts, front.slow_shift], leaves, "Shift")
    context, leaves = student.context, params["Context_0"]
    fill(list(context.denses), leaves, "Dense")
    fill(list(context.shifts), leaves, "Shift")
    fill([student.out], params, "Dense")


def loss_of(logits: torch.Tensor, batch: Tensors, alpha: float, t: float) -> torch.Tensor:
    """`distillation_objective` of one teacher: CE and T² KL, each a mean by its own weights."""
    seen = batch["valid_BL"] * (1.0 - batch["bcg_missing"])
    label_weights = seen * (batch["label"] >= 0)
    kl_weights = seen * (1.0 - batch["rr_missing"])
    teacher = batch["teacher_logits"][:, :, 0]
    ce = F.cross_entropy(
        logits.flatten(0, 1), batch["label"].flatten(), ignore_index=-1, reduction="none"
    )
    log_q = F.log_softmax(logits / t, dim=-1)
    kl = F.kl_div(log_q, F.softmax(teacher / t, dim=-1), reduction="none").sum(-1)
    ce = (ce * label_weights.flatten()).sum() / label_weights.sum().clamp_min(1e-12)
    kl = (kl * kl_weights).sum() / kl_weights.sum().clamp_min(1e-12)
    return alpha * ce + (1.0 - alpha) * t**2 * kl


def to_torch(batch: Mapping[str, Any], device: str) -> Tensors:
    """A batch on a device; labels as the int64 that PyTorch asks for."""
    tensors = {name: torch.tensor(np.asarray(array)).to(device) for name, array in batch.items()}
    return tensors | {"label": tensors["label"].long()}


class Training:
    """A student that takes a train step on a batch whenever it is called, and returns the loss.

    As one writes it for speed: fused AdamW, forward and loss compiled as one where `compiled`.
    `compute_dtype` is through autocast.
    """

    def __init__(
        self,
        student: Student,
        loss: DistillConfig,
        train: TrainConfig,
        batch: Tensors,
        *,
        compiled: bool = False,
    ):
        self.student, self.batch, self._clip_norm = student, batch, train.clip_norm
        self._optimizer = torch.optim.AdamW(
            student.parameters(),
            lr=train.learning_rate,
            weight_decay=train.weight_decay,
            fused=True,
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, schedule_of(train))
        lower = train.compute_dtype == "bfloat16"

        def forward(batch: Tensors) -> torch.Tensor:
            with torch.autocast(batch["bcg"].device.type, torch.bfloat16, enabled=lower):
                logits = student(batch)
            return loss_of(logits, batch, loss.alpha, loss.temperature)

        self._forward = torch.compile(forward) if compiled else forward

    def __call__(self) -> torch.Tensor:
        self._optimizer.zero_grad()
        loss = self._forward(self.batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), self._clip_norm)
        self._optimizer.step()
        self._schedule.step()
        return loss.detach()


def schedule_of(train: TrainConfig) -> Callable[[int], float]:
    """step -> share of the learning rate, as `training.steps.make_optimizer` has it."""
    warmup = max(1, round(train.steps * train.warmup_share))
    decay = max(train.steps, warmup + 1) - warmup

    def share(step: int) -> float:
        if step < warmup:
            return step / warmup
        return 0.5 * (1.0 + math.cos(math.pi * min((step - warmup) / decay, 1.0)))

    return share


def lacks(student: StudentConfig, loss: DistillConfig, train: TrainConfig) -> str:
    """What of these settings there is no PyTorch peer of; "" where there is one."""
    plain = dataclasses.replace(
        DistillConfig(),
        alpha=loss.alpha,
        temperature=loss.temperature,
        labelled_nights=loss.labelled_nights,
        label_seed=loss.label_seed,
    )
    if student.front_end != "autocorrelation" or loss != plain:
        return "the PyTorch student has the front end autocorrelation and the plain loss alone"
    if train.ema_decay or train.accumulate > 1:
        return "the PyTorch step neither averages parameters nor accumulates"
    return ""


class KDLoss(nn.KLDivLoss):
    """The loss as torchdistill 1.1 has it (`torchdistill.losses.mid_level.KDLoss`), which has no
    weights: a mean over all windows."""

    def __init__(self, temperature: float, alpha: float):
        super().__init__(reduction="batchmean")
        self.temperature, self.alpha = temperature, alpha
        self.cross_entropy = nn.CrossEntropyLoss(ignore_index=-1)

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        soft = super().forward(
            torch.log_softmax(student / self.temperature, dim=1),
            torch.softmax(teacher / self.temperature, dim=1),
        )
        hard = self.cross_entropy(student, targets)
        return self.alpha * hard + (1.0 - self.alpha) * self.temperature**2 * soft


def use_threads(count: int) -> None:
    """As many threads as XLA has; matrix products in the precision that JAX takes by default."""
    torch.set_num_threads(count)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU; float32 on a CPU


def device_like(backend: str) -> str:
    """PyTorch's name of what JAX computes on; "" where this PyTorch cannot."""
    if backend == "cpu":
        return "cpu"
    return "cuda" if backend == "gpu" and torch.cuda.is_available() else ""
