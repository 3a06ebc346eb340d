"""Parameters and multiply-adds of a network, counted without computing anything."""

import functools

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from res3d_video.train.models import ModelConfig, build_model


@functools.cache
def count_costs(config: ModelConfig, *, num_classes: int, clip_shape: tuple[int, int, int, int]) -> tuple[int, int]:
    """Parameters of a network, and multiply-adds of one clip (3, T, H, W)."""
    with torch.device("meta"):
        model = build_model(config, num_classes=num_classes).eval()
    return count_parameters(model), count_multiply_adds(model, clip_shape=clip_shape)


def count_parameters(model: nn.Module) -> int:
    """Trained numbers; BN's running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: nn.Module, *, clip_shape: tuple[int, int, int, int]) -> int:
    """Of convolutions, shortcuts included, and fully connected layers; the model is on the device meta."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *clip_shape, device="meta"))
    return counter.get_total_flops() // 2  # the counter takes a multiply-add for two operations
