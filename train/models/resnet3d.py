"""Res3D: residual networks of 3D convolutions on clips (arXiv:1708.05038, Table 2), any depth, width and resolution.

Not torchvision's r3d_18: the first block of every stage has a projection shortcut, the first stage's too, as
the authors' network files have it; `first_projection=False` gives the identity there.
"""

from typing import Any

from torch import nn

from train.models.resnet import BLOCKS, Group, ResNet, Stride, plain_convs
from train.models.stem import StemConv3d

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


class ResNet3d(ResNet):
    """3D convolutions throughout.

    Args:
        strides: Of the four stages, each (T, H, W).
        stem: Height and width of the first convolution's kernel, and its stride there; T is 3 and 1.
        options: num_classes, first_projection, zero_init_gamma, bn_momentum, as in ResNet. With the projection in the
            first stage depth 18 has 33,222,309 parameters for 101 classes, without it 33,218,085.
    """

    def __init__(
        self,
        *,
        blocks: tuple[int, ...] = BLOCKS[18],
        strides: tuple[Stride, ...] = RES3D_STRIDES,
        width: int = 64,
        stem: tuple[int, int] = (7, 2),
        **options: Any,
    ) -> None:
        groups = [Group(plain_convs(3, 3, 3), stride) for stride in strides]
        super().__init__(stem_conv(width, *stem), groups, blocks=blocks, width=width, **options)


def stem_conv(width: int, size: int, stride: int, *, num_frames: int = 3) -> nn.Conv3d:
    """The first convolution: `num_frames` x size x size pixels, stride (1, stride, stride)."""
    if (size, stride, num_frames) == (7, 2, 3):
        return StemConv3d(width)  # can work on blocks of pixels
    kernel, padding = (num_frames, size, size), (num_frames // 2, size // 2, size // 2)
    return nn.Conv3d(3, width, kernel, stride=(1, stride, stride), padding=padding, bias=False)
