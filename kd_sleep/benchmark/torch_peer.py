"""The student's train step and the loss in PyTorch: what JAX's are measured against.

A function of the student's own parameters, by their Flax names; a test compares logits, loss,
gradients and the parameters after several steps. The only file that imports torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

from kd_sleep.config import DistillConfig, Preset, StudentConfig, TrainConfig
from kd_sleep.features.inputs import FEATURES, JJ_LEVEL, MOVEMENT_LEVEL
from kd_sleep.models.student import BEATS, scope
from kd_sleep.schema import MOVEMENT_SAMPLES, SERIES_SAMPLES

Tensors = dict[str, torch.Tensor]


def from_flax(params: Mapping[str, Any]) -> Tensors:
    """A Flax student's parameters by path, in PyTorch's layout: [out, in], of convolutions
    [out, in, taps]."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(key.key for key in path)
        tensor = torch.tensor(np.asarray(leaf))
        if name.endswith("kernel"):
            tensor = tensor.T
        for layer, taps in {"StridedConv_0": 9, "StridedConv": 5, "Dilated": 3}.items():
            if layer in name and name.endswith("kernel"):
                tensor = tensor.unflatten(1, (taps, -1)).mT
                break
        found[name] = tensor.contiguous()
    return found


def norm(x: torch.Tensor) -> torch.Tensor:
    """`models.sequence.Norm`, with Flax's epsilon."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def series_channels(batch: Tensors, summary: torch.Tensor) -> torch.Tensor:
    """`models.student.series_channels`: [B, L, T, 5]."""
    jj = batch["jj"]
    relative = (jj / summary[..., JJ_LEVEL, None] - 1.0) * 10.0
    movement = batch["movement"].float() - summary[..., MOVEMENT_LEVEL, None]
    movement = movement.repeat_interleave(SERIES_SAMPLES // MOVEMENT_SAMPLES, dim=-1)
    channels = [relative.clamp(-10.0, 10.0), jj.isfinite(), batch["beat_confidence"]]
    channels += [batch["breath"], movement]
    return torch.stack([channel.float() for channel in channels], dim=-1).nan_to_num(0.0)


def logits_of(params: Tensors, batch: Tensors, config: StudentConfig) -> torch.Tensor:
    """`models.student.Student` with the front end `beats`, not causal, training: logits_BLK."""
    summary, valid = batch[f"summary_{scope(config)}"], batch["valid_BL"]
    mask = valid[..., None].float()

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        name = f"network/{name}"
        return F.linear(x, params[f"{name}/kernel"], params[f"{name}/bias"])

    def convolved(x: torch.Tensor, name: str, **how: int) -> torch.Tensor:
        name = f"network/{name}/Dense_0"
        made = F.conv1d(x.mT, params[f"{name}/kernel"], params[f"{name}/bias"], **how)
        return F.relu(made.mT)

    x = series_channels(batch, summary).flatten(0, 1)
    for number, taps in enumerate((9, 5, 5)):
        x = convolved(x, f"StridedConv_{number}", stride=2, padding=taps // 2)
    x = norm(torch.cat([x.mean(1), x.amax(1)], dim=-1)).unflatten(0, valid.shape)
    x = F.dropout(dense(torch.cat([x, summary[..., FEATURES]], dim=-1), "Dense_0"), config.dropout)
    for layer in range((config.context_windows + 1).bit_length() - 1):
        reach = 2**layer
        y = norm(x) * mask
        y = convolved(y, f"Context_0/Dilated_{layer}", dilation=reach, padding=reach)
        x = x + dense(y, f"Context_0/Dense_{layer}")
    with torch.autocast(x.device.type, enabled=False):  # as JAX has its last layer
        return dense(norm(x).float(), "Dense_1")


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


class Training:
    """The preset's student, which takes a train step on a batch whenever it is called.

    As one writes it for speed: fused AdamW, forward and loss compiled as one where `compiled`.
    `compute_dtype` is through autocast.

    Raises:
      NotImplementedError: settings that there is no PyTorch peer of.
    """

    def __init__(
        self, preset: Preset, params: Any, batch: Mapping[str, Any], *, compiled: bool = False
    ):
        assert_supported(preset)
        device, train = device_for_jax(), preset.student_train
        made = {name: tensor.to(device) for name, tensor in from_flax(params).items()}
        self.params = {name: tensor.requires_grad_() for name, tensor in made.items()}
        self._clip_norm = train.clip_norm
        tensors = {name: torch.tensor(np.asarray(array)) for name, array in batch.items()}
        tensors["label"] = tensors["label"].long()
        self.batch = {name: tensor.to(device) for name, tensor in tensors.items()}
        self._optimizer = torch.optim.AdamW(
            self.params.values(), train.learning_rate, weight_decay=train.weight_decay, fused=True
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, schedule_of(train))
        lower = train.compute_dtype == "bfloat16"

        def loss(params: Tensors, batch: Tensors) -> torch.Tensor:
            with torch.autocast(device, torch.bfloat16, enabled=lower):
                logits = logits_of(params, batch, preset.student)
            return loss_of(logits, batch, preset.distill)

        self.loss = torch.compile(loss) if compiled else loss

    def __call__(self) -> torch.Tensor:
        self._optimizer.zero_grad()
        loss = self.loss(self.params, self.batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params.values(), self._clip_norm)
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


def assert_supported(preset: Preset) -> None:
    """Raises NotImplementedError where the preset's student or loss has no PyTorch peer."""
    kept = ("alpha", "temperature", "labelled_nights", "label_seed")
    plain = DistillConfig(**{name: getattr(preset.distill, name) for name in kept})
    student, train = preset.student, preset.student_train
    if student.front_end != BEATS or student.causal or preset.distill != plain:
        raise NotImplementedError(
            f"the PyTorch student has the front end {BEATS}, both directions, the plain loss"
        )
    if train.ema_decay or train.accumulate > 1:
        raise NotImplementedError("the PyTorch step neither averages parameters nor accumulates")


def loss_step(
    student: Any, teacher: Any, labels: Any, alpha: float, temperature: float, compiled: bool
) -> Callable[[], torch.Tensor]:
    """Value and gradient of torchdistill 1.1's `KDLoss`, which has no weights, whenever called."""
    device = device_for_jax()
    logits = torch.tensor(student).to(device).requires_grad_()
    targets, soft = torch.tensor(labels).long().to(device), torch.tensor(teacher).to(device)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        log_q = torch.log_softmax(logits / temperature, dim=1)
        divergence = F.kl_div(log_q, torch.softmax(soft / temperature, 1), reduction="batchmean")
        hard = F.cross_entropy(logits, targets, ignore_index=-1)
        return alpha * hard + (1.0 - alpha) * temperature**2 * divergence

    function = torch.compile(loss) if compiled else loss

    def call() -> torch.Tensor:
        logits.grad = None
        value = function(logits)
        value.backward()
        return value.detach()

    return call


def device_for_jax() -> str:
    """PyTorch's name of the device that JAX computes on, given as many threads as XLA has.

    Matrix products are in the precision that JAX takes by default: TF32 on a GPU, float32 on a CPU.

    Raises:
      RuntimeError: this PyTorch has no such device.
    """
    backend = jax.default_backend()
    if backend != "cpu" and not (backend == "gpu" and torch.cuda.is_available()):
        raise RuntimeError(f"this PyTorch has no {backend}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(cores or 1)
    torch.set_float32_matmul_precision("high")
    return "cpu" if backend == "cpu" else "cuda"
