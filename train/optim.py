"""SGD as the paper has it, and the learning rate as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import nn

from pipeline.errors import UserError
from pipeline.typed_json import Share, Size

Rate = Annotated[float, Meta(ge=0, le=1e6)]


@dataclass(frozen=True)
class OptimConfig:
    """SGD with momentum (the authors' solver files; paper.md 3.2).

    Attributes:
        lr: Base learning rate for the global batch; never rescaled behind your back.
        head_bias_lr_scale: The fc bias learns this much faster.
        weight_decay: On convolution and fc weights; BN scale and shift and the fc bias have none.
    """

    lr: Annotated[float, Meta(ge=0, le=1e30)] = 0.01
    momentum: Share = 0.9
    weight_decay: Rate = 5e-5
    head_bias_lr_scale: Rate = 2.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise UserError(f"lr: {self.lr} is not possible; choose a number above 0")


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate goes from step to step.

    Attributes:
        kind: "step" multiplies by `decay_factor` every `decay_every` steps; "cosine" ends at 0.
        decay_every: Steps, counted from step 0; warm-up steps are among them. Only for "step".
        warmup_steps: Steps of linear rise from lr / warmup_steps to lr.
    """

    kind: Literal["step", "cosine"] = "step"
    decay_every: Size = 20_000
    decay_factor: Share = 0.1
    warmup_steps: Size = 0

    def __post_init__(self) -> None:
        if self.kind not in ("step", "cosine"):
            raise UserError(f"schedule: {self.kind} does not exist; choose step or cosine")
        if self.decay_every < 1 or self.warmup_steps < 0:
            raise UserError(f"schedule: decay_every {self.decay_every}, warmup_steps {self.warmup_steps}; "
                             "choose at least 1 and at least 0")  # fmt: skip


def lr_at(step: int, schedule: ScheduleConfig, *, lr: float, num_steps: int) -> float:
    """Learning rate of the update that follows `step` finished updates.

    Args:
        step: 0-based.
        lr: The base learning rate.
        num_steps: Updates of the whole run; where a cosine ends. A step schedule does not depend on it.

    >>> lr_at(19_999, ScheduleConfig(), lr=0.01, num_steps=90_000)
    0.01
    >>> lr_at(20_000, ScheduleConfig(), lr=0.01, num_steps=90_000)
    0.001
    """
    if step < schedule.warmup_steps:
        return lr * (step + 1) / schedule.warmup_steps
    if schedule.kind == "step":
        return lr * schedule.decay_factor ** (step // schedule.decay_every)
    progress = (step - schedule.warmup_steps) / max(num_steps - schedule.warmup_steps, 1)
    return lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def build_optimizer(model: nn.Module, config: OptimConfig, *, fused: bool) -> torch.optim.SGD:
    """SGD over three groups: weights with decay; BN without; the fc bias without and with a faster rate."""
    decayed, undecayed, head_bias = [], [], []
    for name, parameter in model.named_parameters():
        if name == "head.bias":
            head_bias.append(parameter)
        elif parameter.dim() == 1:
            undecayed.append(parameter)
        else:
            decayed.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "lr_scale": 1.0},
        {"params": undecayed, "weight_decay": 0.0, "lr_scale": 1.0},
        {"params": head_bias, "weight_decay": 0.0, "lr_scale": config.head_bias_lr_scale},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr`, times each group's own scale, from the next update on."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
