"""R(2+1)D, the 2.5D networks of arXiv:1708.05038, section 3.5: each 3D convolution is a 2D one, then a 1D one in time.

Layers as in the authors' later code: BN and ReLU between the two, as many channels there as keep the parameters of the
3D convolution.
"""

from collections import OrderedDict
from typing import Any

from torch import nn

from train.models.resnet import BLOCKS, ConvPair, Group, ResNet, Stride
from train.models.resnet3d import RES3D_STRIDES

STEM_MIDDLE = 45  # of conv1 at width 64, as the authors' code has it; to keep its parameters it would be 83


class Conv2Plus1d(nn.Sequential):
    """1 x size x size, BN, ReLU, 3 x 1 x 1; no bias; padded to keep the size.

    Args:
        middle: Channels between the two.
        stride: (T, H, W).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, middle: int, size: int, stride: Stride, bn_momentum: float
    ) -> None:
        time, height, width = stride
        pad = size // 2
        super().__init__(
            OrderedDict(
                spatial=nn.Conv3d(
                    in_channels, middle, (1, size, size), stride=(1, height, width), padding=(0, pad, pad), bias=False
                ),
                bn=nn.BatchNorm3d(middle, momentum=bn_momentum),
                relu=nn.ReLU(),
                temporal=nn.Conv3d(middle, out_channels, (3, 1, 1), stride=(time, 1, 1), padding=(1, 0, 0), bias=False),
            )
        )


def middle_channels(in_channels: int, out_channels: int) -> int:
    """Channels between the two convolutions: as many as keep the parameters of a 3x3x3 one.

    >>> middle_channels(64, 64)  # 64 · 144 · 9 + 144 · 64 · 3 = 110,592 = 64 · 64 · 27
    144
    """
    return 27 * in_channels * out_channels // (9 * in_channels + 3 * out_channels)


def factorised_convs(*, alike: bool) -> ConvPair:
    """The two factorised convolutions of a block; `alike` gives the second the middle channels of the first."""

    def convs(
        in_channels: int, out_channels: int, *, stride: Stride, bn_momentum: float
    ) -> tuple[nn.Module, nn.Module]:
        first = middle_channels(in_channels, out_channels)
        second = first if alike else middle_channels(out_channels, out_channels)
        return (
            Conv2Plus1d(in_channels, out_channels, middle=first, size=3, stride=stride, bn_momentum=bn_momentum),
            Conv2Plus1d(out_channels, out_channels, middle=second, size=3, stride=(1, 1, 1), bn_momentum=bn_momentum),
        )

    return convs


class R2Plus1d(ResNet):
    """Factorised convolutions throughout.

    Args:
        alike: Both convolutions of a block have the middle channels of the first, as in torchvision; otherwise each has
            its own, as in the authors' code. They differ where a block widens.
        options: num_classes, first_projection, zero_init_gamma, as in ResNet.
    """

    def __init__(
        self,
        *,
        blocks: tuple[int, ...] = BLOCKS[18],
        width: int = 64,
        alike: bool = False,
        bn_momentum: float = 0.1,
        **options: Any,
    ) -> None:
        middle = max(1, STEM_MIDDLE * width // 64)
        stem = Conv2Plus1d(3, width, middle=middle, size=7, stride=(1, 2, 2), bn_momentum=bn_momentum)
        groups = [Group(factorised_convs(alike=alike), stride) for stride in RES3D_STRIDES]
        super().__init__(stem, groups, blocks=blocks, width=width, bn_momentum=bn_momentum, **options)
