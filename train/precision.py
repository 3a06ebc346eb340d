"""Number formats and memory layout of the forward pass."""

from contextlib import AbstractContextManager

import torch
from torch import nn


def autocast(device: torch.device, *, enabled: bool = True) -> AbstractContextManager:
    """bfloat16 convolutions on a GPU (2.7 times the clips/s of float32 there); plain float32 on a CPU.

    Weights cast for one pass are not kept for another: each is used once, and a CUDA graph must hold its own casts.
    """
    enabled = enabled and device.type == "cuda"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


def channels_last(model: nn.Module) -> nn.Module:
    """Move convolution weights to channels-last memory, 3D and 2D alike; in place.

    Res3D gains 1.7 times the clips/s on an H100 in bfloat16, 1.2 to 1.9 times on two CPU cores in float32.
    """
    for parameter in model.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        elif parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def freeze_batch_norm(model: nn.Module) -> None:
    """Normalise with the running statistics and leave them alone; scale and shift still train."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.eval()
