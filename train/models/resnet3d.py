"""Res3D: residual networks of 3D convolutions on clips (arXiv:1708.05038, Table 2), any depth and width.

Not torchvision's r3d_18: the first block of every stage has a projection shortcut, the first stage's too, as
the authors' network files have it; `first_projection=False` gives the identity there.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from train.models.stem import StemConv3d

# Basic blocks in conv2_x … conv5_x. 18 and 34 are Table 2; 10, 16 and 26 are further depths that it tries
# without printing block counts: 10 and 16 are from the authors' later code, 26 is arithmetic.
BLOCKS = {10: (1, 1, 1, 1), 16: (2, 2, 2, 1), 18: (2, 2, 2, 2), 26: (3, 3, 3, 3), 34: (3, 4, 6, 3)}

Stride = tuple[int, ...]
RES3D_STRIDES: tuple[Stride, ...] = (
    (1, 1, 1),
    (2, 2, 2),
    (2, 2, 2),
    (2, 2, 2),
)  # T: 8, 8, 4, 2, 1 for 8 frames
SR18_STRIDES: tuple[Stride, ...] = (
    (1, 1, 1),
    (2, 2, 2),
    (2, 2, 2),
    (1, 2, 2),
)  # T: 4, 4, 2, 1, 1 for 4 frames

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class BasicBlock(nn.Module):
    """conv-BN-ReLU, conv-BN, plus shortcut, ReLU after the sum; in 2 or 3 dimensions, as long as `stride`.

    Args:
        stride: Of the first convolution and of the projection, (T, H, W) or (H, W).
        projection: Shortcut of a 1x1x1 convolution and BN; otherwise the input itself.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: Stride,
        projection: bool,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        conv, norm = CONV[len(stride)], NORM[len(stride)]
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(out_channels, momentum=bn_momentum)
        self.conv2 = conv(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = norm(out_channels, momentum=bn_momentum)
        self.shortcut: nn.Module = nn.Identity()
        if projection:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=conv(in_channels, out_channels, 1, stride=stride, bias=False),
                    bn=norm(out_channels, momentum=bn_momentum),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))  # [N, C_out, T/s, H/s, W/s]
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.shortcut(x))


def make_stages(
    width: int,
    *,
    blocks: tuple[int, ...],
    strides: tuple[Stride, ...],
    first_projection: bool,
    bn_momentum: float,
) -> nn.Sequential:
    """conv2_x … conv5_x: `width`, then 2, 4 and 8 times as many channels; the first block strides."""
    stages = nn.Sequential()
    in_channels = width
    for number, (num_blocks, stride) in enumerate(zip(blocks, strides, strict=True)):
        out_channels = width * 2**number
        stage = nn.Sequential()
        for block in range(num_blocks):
            stage.append(
                BasicBlock(
                    in_channels,
                    out_channels,
                    stride=stride if block == 0 else (1,) * len(stride),
                    projection=block == 0 and (number > 0 or first_projection),
                    bn_momentum=bn_momentum,
                )
            )
            in_channels = out_channels
        stages.append(stage)
    return stages


class ResNet3d(nn.Module):
    """Post-activation basic blocks, no max-pool, no dropout, average pool, one fc (paper section 3, Table 2).

    Args:
        num_classes: K.
        blocks: Basic blocks of the four stages.
        strides: Of the four stages, each (T, H, W).
        width: Channels of conv1 and conv2_x; the later stages have 2, 4 and 8 times as many.
        first_projection: Projection shortcut in the first stage too, as in the authors' files (33,222,309
            parameters for 101 classes); False is torchvision's identity (33,218,085).
        zero_init_gamma: Start every block as its shortcut (second BN's scale 0). Not in the paper.
        bn_momentum: Weight of a new batch in the running statistics. The authors' caffe files keep 0.999 of
            the old value and correct the bias; 0.001 without correction, as torch has it, would be far off
            after a short run, so the default is torch's 0.1.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        blocks: tuple[int, ...] = BLOCKS[18],
        strides: tuple[Stride, ...] = RES3D_STRIDES,
        width: int = 64,
        first_projection: bool = True,
        zero_init_gamma: bool = False,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(
                conv=StemConv3d(width),
                bn=nn.BatchNorm3d(width, momentum=bn_momentum),
                relu=nn.ReLU(),
            )
        )
        self.stages = make_stages(
            width, blocks=blocks, strides=strides, first_projection=first_projection, bn_momentum=bn_momentum
        )
        self.head = nn.Linear(8 * width, num_classes)
        init_weights(self, zero_init_gamma=zero_init_gamma)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits [N, K] of clips [N, 3, T, H, W]; the shapes below are those of width 64."""
        x = self.stem(clips)  # [N, 64, T, H/2, W/2]
        x = self.stages(x)  # [N, 512, T/8, H/16, W/16]
        x = x.mean(dim=(2, 3, 4))  # [N, 512]
        return self.head(x)  # [N, K] logits


def init_weights(model: nn.Module, *, zero_init_gamma: bool) -> None:
    """The authors' fillers: convolutions MSRA fan-out, fc Gaussian 0.01 with bias 0; BN as torch has it."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
        elif isinstance(module, BasicBlock) and zero_init_gamma:
            nn.init.zeros_(module.bn2.weight)
