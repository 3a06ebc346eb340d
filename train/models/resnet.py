"""What all residual networks here share: a stem, four groups of basic blocks, average pool, one fc."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Basic blocks in conv2_x … conv5_x. 18 and 34 are Table 2 of arXiv:1708.05038; 10, 16 and 26 are further depths that it
# tries without printing block counts: 10 and 16 are from the authors' later code, 26 is arithmetic.
BLOCKS = {10: (1, 1, 1, 1), 16: (2, 2, 2, 1), 18: (2, 2, 2, 2), 26: (3, 3, 3, 3), 34: (3, 4, 6, 3)}

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

Stride = tuple[int, ...]  # (T, H, W), or (H, W) in a 2D network
ConvPair = Callable[..., tuple[nn.Module, nn.Module]]


class Group(NamedTuple):
    """The blocks of one resolution.

    Attributes:
        convs: Makes the two convolutions of a block: (in_channels, out_channels, stride=, bn_momentum=).
        stride: Of the group's first block.
    """

    convs: ConvPair
    stride: Stride


def plain_convs(*kernel: int) -> ConvPair:
    """Two convolutions with this kernel, (T, H, W) or (H, W), padded to keep the size, without bias."""
    conv, padding = CONV[len(kernel)], tuple(size // 2 for size in kernel)

    def convs(in_channels: int, out_channels: int, *, stride: Stride, **_: Any) -> tuple[nn.Module, nn.Module]:
        return (
            conv(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False),
            conv(out_channels, out_channels, kernel, padding=padding, bias=False),
        )

    return convs


class BasicBlock(nn.Module):
    """conv-BN-ReLU, conv-BN, plus shortcut, ReLU after the sum.

    Args:
        group: Kind of convolution, and the stride if this is the group's first block.
        projection: Shortcut of a 1x1x1 convolution and BN; otherwise the input itself.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, group: Group, projection: bool, bn_momentum: float
    ) -> None:
        super().__init__()
        conv, norm = CONV[len(group.stride)], NORM[len(group.stride)]
        conv1, conv2 = group.convs(in_channels, out_channels, stride=group.stride, bn_momentum=bn_momentum)
        self.conv1 = conv1  # this order is that of the optimizer's state in checkpoints
        self.bn1 = norm(out_channels, momentum=bn_momentum)
        self.conv2 = conv2
        self.bn2 = norm(out_channels, momentum=bn_momentum)
        self.shortcut: nn.Module = nn.Identity()
        if projection:
            stride, layers = group.stride, OrderedDict[str, nn.Module]()
            if stride == (2, 2):
                # https://github.com/uxlfoundation/oneDNN/issues/6035 (oneDNN 3.12.0, in torch 2.13.0): on a CPU, the
                # gradient of the weights of a strided 1x1 convolution, channels-last, of fewer channels than a vector
                # register holds (8 with AVX2, 16 with AVX-512) writes past its memory. Pooling single pixels takes the
                # same ones, exactly and no slower. 3D convolutions have another kernel. It goes with a torch whose
                # oneDNN has that fixed.
                stride, layers["take"] = (1, 1), nn.AvgPool2d(1, stride)
            layers["conv"] = conv(in_channels, out_channels, 1, stride=stride, bias=False)
            layers["bn"] = norm(out_channels, momentum=bn_momentum)
            self.shortcut = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))  # [N, C_out, T/s, H/s, W/s]
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.shortcut(x))


class MeanPool(nn.Module):
    """pool5: the mean of each channel, [N, C] of [N, C, …]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=tuple(range(2, x.dim())))


class ResNet(nn.Module):
    """Post-activation basic blocks, no max-pool, no dropout, average pool, one fc (arXiv:1708.05038, Table 2).

    Args:
        stem: The first convolution, 3 channels to `width`.
        groups: conv2_x … conv5_x.
        num_classes: K.
        blocks: Basic blocks of each group.
        width: Channels of conv1 and conv2_x; the later groups have 2, 4 and 8 times as many.
        first_projection: Projection shortcut in conv2_x too, as in the authors' files; False is the identity there, as
            in torchvision and VMZ.
        zero_init_gamma: Start every block as its shortcut (second BN's scale 0). Not in the paper.
        bn_momentum: Weight of a new batch in the running statistics. The authors' caffe files keep 0.999 of
            the old value and correct the bias; 0.001 without correction, as torch has it, would be far off
            after a short run, so the default is torch's 0.1.
    """

    def __init__(
        self,
        stem: nn.Module,
        groups: Sequence[Group],
        *,
        num_classes: int,
        blocks: tuple[int, ...],
        width: int,
        first_projection: bool = True,
        zero_init_gamma: bool = False,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        norm = NORM[len(groups[0].stride)]
        self.stem = nn.Sequential(OrderedDict(conv=stem, bn=norm(width, momentum=bn_momentum), relu=nn.ReLU()))
        self.stages = nn.Sequential()
        in_channels = width
        for number, (num_blocks, group) in enumerate(zip(blocks, groups, strict=True)):
            out_channels = width * 2**number
            later = group._replace(stride=(1,) * len(group.stride))
            stage = nn.Sequential()
            for block in range(num_blocks):
                stage.append(
                    BasicBlock(
                        in_channels,
                        out_channels,
                        group=group if block == 0 else later,
                        projection=block == 0 and (number > 0 or first_projection),
                        bn_momentum=bn_momentum,
                    )
                )
                in_channels = out_channels
            self.stages.append(stage)
        self.pool = MeanPool()
        self.head = nn.Linear(in_channels, num_classes)
        init_weights(self, zero_init_gamma=zero_init_gamma)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits [N, K] of clips [N, 3, T, H, W]; the shapes below are those of Res3D, width 64."""
        x = self.stem(clips)  # [N, 64, T, H/2, W/2]
        x = self.stages(x)  # [N, 512, T/8, H/16, W/16]
        x = self.pool(x)  # [N, 512]
        return self.head(x)  # [N, K] logits

    def layers(self) -> dict[str, nn.Module]:
        """Names for `train.models.layers.take_layers`."""
        layers: dict[str, nn.Module] = {"conv1": self.stem}
        for number, stage in enumerate(self.stages, start=2):
            layers |= {f"res{number}{chr(ord('a') + i)}": block for i, block in enumerate(stage.children())}
            layers[f"res{number}"] = stage
        return layers | {"pool5": self.pool, "fc8": self.head}


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
