"""SGD as the paper has it."""

import torch
from torch import nn

from res3d_video.train.config import OptimConfig


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
