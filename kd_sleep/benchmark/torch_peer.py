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

from kd_sleep.config import AugmentConfig, DistillConfig, Preset, StudentConfig, TrainConfig
from kd_sleep.features.inputs import FEATURES, JJ_LEVEL, MOVEMENT_LEVEL, SUMMARY
from kd_sleep.models.student import BEATS, scope
from kd_sleep.schema import MOVEMENT_SAMPLES, SERIES_SAMPLES
from kd_sleep.stages import NUM_STAGES

CHANNELS = 5  # of `series_channels`
Tensors = dict[str, torch.Tensor]


def norm(x: torch.Tensor) -> torch.Tensor:
    """`models.sequence.Norm`, with Flax's epsilon."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def pool(x: torch.Tensor) -> torch.Tensor:
    """Mean and maximum over the frames of a window."""
    return torch.cat([x.mean(1), x.amax(1)], dim=-1)


class Convolution(nn.Conv1d):
    """`models.series_network.StridedConv` and `models.sequence.Dilated`: [N, T, C] in and out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.mT).mT


class Context(nn.Module):
    """`models.sequence.Context`, not causal: residual convolutions over 1, 2, 4, … windows."""

    def __init__(self, width: int, context_windows: int):
        super().__init__()
        reaches = [2**layer for layer in range((context_windows + 1).bit_length() - 1)]
        self.dilated = nn.ModuleList(
            Convolution(width, width, 3, dilation=reach, padding=reach) for reach in reaches
        )
        denses = [nn.Linear(width, width) for _ in reaches]
        for dense in denses:
            nn.init.zeros_(dense.weight)
        self.denses = nn.ModuleList(denses)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        mask = valid[..., None].to(x.dtype)
        for dilated, dense in zip(self.dilated, self.denses, strict=True):
            x = x + dense(F.relu(dilated(norm(x) * mask)))
        return norm(x)


class SeriesNetwork(nn.Module):
    """`models.series_network.SeriesNetwork`: series [B, L, T, C] and features to logits_BLK."""

    def __init__(self, channels: int, features: int, config: StudentConfig):
        super().__init__()
        width, half = config.width, config.width // 2
        self.strided = nn.ModuleList(
            Convolution(before, after, size, stride=2, padding=size // 2)
            for before, after, size in ((channels, half, 9), (half, half, 5), (half, width, 5))
        )
        self.dense = nn.Linear(2 * width + features, width)
        self.dropout = nn.Dropout(config.dropout)
        self.context = Context(width, config.context_windows)
        self.out = nn.Linear(width, NUM_STAGES)

    def forward(
        self, series: torch.Tensor, features: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        x = series.flatten(0, 1)
        for strided in self.strided:
            x = F.relu(strided(x))
        x = norm(torch.cat([x.mean(1), x.amax(1)], dim=-1)).unflatten(0, valid.shape)
        x = self.dropout(self.dense(torch.cat([x, features], dim=-1)))
        return in_float32(self.out, self.context(x, valid))


def in_float32(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """As the JAX student has its last layers, whatever it computes in before."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


def series_channels(batch: Tensors, summary: torch.Tensor) -> torch.Tensor:
    """`models.student.series_channels`: [B, L, T, 5]."""
    jj = batch["jj"]
    there = jj.isfinite()
    relative = (jj / summary[..., JJ_LEVEL, None] - 1.0) * 10.0
    movement = batch["movement"].float() - summary[..., MOVEMENT_LEVEL, None]
    movement = movement.repeat_interleave(SERIES_SAMPLES // MOVEMENT_SAMPLES, dim=-1)
    channels = [relative.clamp(-10.0, 10.0), there, batch["beat_confidence"]]
    channels += [batch["breath"], movement]
    return torch.stack([channel.float() for channel in channels], dim=-1).nan_to_num(0.0)


class Student(nn.Module):
    """`models.student.Student` with the front end `beats`, not causal: a batch -> logits_BLK."""

    def __init__(self, config: StudentConfig):
        super().__init__()
        self.config = config
        self.network = SeriesNetwork(CHANNELS, len(SUMMARY[FEATURES]), config)

    def forward(self, batch: Tensors) -> torch.Tensor:
        summary = batch[f"summary_{scope(self.config)}"]
        return self.network(
            series_channels(batch, summary), summary[..., FEATURES], batch["valid_BL"]
        )


def load_flax(student: Student, params: Mapping[str, Any]) -> None:
    """Gives the student the parameters of a Flax `Student`.

    Flax numbers the layers of a kind within a module in the order in which they are called.
    """

    def fill(layers: list[Any], leaves: Mapping[str, Any], name: str) -> None:
        assert len(layers) == sum(key.startswith(f"{name}_") for key in leaves), name
        for number, layer in enumerate(layers):
            leaf = leaves[f"{name}_{number}"]
            leaf = leaf.get("Dense_0", leaf)
            layer = getattr(layer, "dense", layer)
            kernel = torch.tensor(np.asarray(leaf["kernel"])).T  # [out, in]
            if isinstance(layer, Convolution):
                kernel = kernel.unflatten(1, (*layer.kernel_size, -1)).mT
            with torch.no_grad():
                layer.weight.copy_(kernel)
                layer.bias.copy_(torch.tensor(np.asarray(leaf["bias"])))

    network, leaves = student.network, params["network"]
    fill(list(network.strided), leaves, "StridedConv")
    fill([network.dense, network.out], leaves, "Dense")
    around = leaves.get("Context_0", {})
    fill(list(network.context.dilated), around, "Dilated")
    fill(list(network.context.denses), around, "Dense")


def loss_of(logits: torch.Tensor, batch: Tensors, config: DistillConfig) -> torch.Tensor:
    """`distillation_objective` of one teacher: CE and T² KL, each a mean by its own weights."""
    alpha, t = config.alpha, config.temperature
    seen = batch["valid_BL"] * (1.0 - batch["bcg_missing"])
    label_weights = seen * (batch["label"] >= 0)
    kl_weights = seen * (1.0 - batch["rr_missing"])
    teacher = batch["teacher_logits"][:, :, 0]
    ce = F.cross_entropy(
        logits.flatten(0, 1), batch["label"].flatten(), ignore_index=-1, reduction="none"
    ).view_as(seen)
    log_q = F.log_softmax(logits / t, dim=-1)
    kl = F.kl_div(log_q, F.softmax(teacher / t, dim=-1), reduction="none").sum(-1)
    return alpha * mean_of(ce, label_weights) + (1.0 - alpha) * t**2 * mean_of(kl, kl_weights)


def mean_of(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean by weights; 0 where all of them are 0."""
    return (values * weights).sum() / weights.sum().clamp_min(1e-12)


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
            with torch.autocast(batch["label"].device.type, torch.bfloat16, enabled=lower):
                logits = student(batch)
            return loss_of(logits, batch, loss)

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


def lacks(preset: Preset) -> str:
    """What of these settings there is no PyTorch peer of; "" where there is one."""
    plain = dataclasses.replace(
        DistillConfig(),
        **{
            name: getattr(preset.distill, name)
            for name in ("alpha", "temperature", "labelled_nights", "label_seed")
        },
    )
    student, train = preset.student, preset.student_train
    if student.front_end != BEATS or student.causal or preset.distill != plain:
        return f"the PyTorch student has the front end {BEATS}, both directions, the plain loss"
    if train.ema_decay or train.accumulate > 1 or preset.augment != AugmentConfig():
        return "the PyTorch step neither averages parameters nor accumulates nor augments"
    return ""


class KDLoss(nn.Module):
    """The loss as torchdistill 1.1 has it (`torchdistill.losses.mid_level.KDLoss`), which has no
    weights: a mean over all windows."""

    def __init__(self, temperature: float, alpha: float):
        super().__init__()
        self.divergence = nn.KLDivLoss(reduction="batchmean")
        self.temperature, self.alpha = temperature, alpha
        self.cross_entropy = nn.CrossEntropyLoss(ignore_index=-1)

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        soft = self.divergence(
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
