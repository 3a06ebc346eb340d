"""The first convolution on three channels, and the same one on 2x2 blocks of pixels, which is faster on tensor cores.

Space to depth. Output row y of the stem is the sum over k = 0…6 of weight[k] · row[2y + k - 3]. Put rows in pairs,
row 2r + b = pair r's b-th, and number the pairs from y - 2 by a: 2y + k - 3 = 2(y - 2 + a) + b, so k = 2a + b - 1. With
b in {0, 1}, k = -1…6 is a = 0…3: four taps of stride 1 over pairs y - 2 … y + 1, hence two pairs of zeros before the
first and one after the last, and a weight of eight rows whose first, k = -1, is zero. Columns likewise. An odd last row
is paired with zeros, which the stem's own padding has there, too. So the result is the same except for rounding.
"""

import torch.nn.functional as F
from torch import Tensor, nn

BEFORE, AFTER = 4, 2  # pixels of padding: two pairs and one


class Stem:
    """A convolution of pixels that can work on 2x2 blocks of them, with the same weight.

    Attributes:
        folded_channels: Channels of a 2x2 block of pixels: 12, or 16 with zeros in a fourth color, as tensor cores need
            multiples of 8. None convolves pixels.
    """

    folded_channels: int | None = None
    weight: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, width, T, ceil(H/2), ceil(W/2)] of clips [N, 3, T, H, W]; without T of frames."""
        if self.folded_channels is None:
            return super().forward(pixels)  # type: ignore[misc]  # of the convolution
        blocks = fold_pixels(pixels, channels=self.folded_channels)  # [N, 12, T, ceil(H/2) + 3, ceil(W/2) + 3]
        weight = fold(self.weight, (1, 0, 1, 0), channels=self.folded_channels)  # [width, 12, 3, 4, 4]
        return F.conv3d(blocks, weight, padding=(1, 0, 0)) if pixels.dim() == 5 else F.conv2d(blocks, weight)


class StemConv3d(Stem, nn.Conv3d):
    """3 channels to `width`, 3x7x7, stride (1, 2, 2), padding (1, 3, 3), no bias (arXiv:1708.05038, Table 2)."""

    def __init__(self, width: int) -> None:
        super().__init__(3, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)


class StemConv2d(Stem, nn.Conv2d):
    """The same on single frames: 7x7, stride 2, padding 3."""

    def __init__(self, width: int) -> None:
        super().__init__(3, width, 7, stride=2, padding=3, bias=False)


def use_space_to_depth(model: nn.Module, *, channels: int | None) -> None:
    """Make the model's stem, if it is one of these, work on blocks of 12 or 16 channels; None is for pixels."""
    for module in model.modules():
        if isinstance(module, Stem):
            module.folded_channels = channels


def fold_pixels(pixels: Tensor, *, channels: int) -> Tensor:
    """Pad [N, 3, …, H, W] and put its 2x2 blocks into channels: [N, channels, …, ceil(H/2) + 3, ceil(W/2) + 3]."""
    height, width = pixels.shape[-2:]
    return fold(pixels, (BEFORE, AFTER + width % 2, BEFORE, AFTER + height % 2), channels=channels)


def fold(x: Tensor, padding: tuple[int, int, int, int], *, channels: int) -> Tensor:
    """2x2 blocks into channels, in channels-last memory; channel (2 · dy + dx) · C + c, where C is channels / 4.

    Args:
        x: [N, 3, …, H, W].
        padding: Zeros left, right, above and below; H and W become even.

    >>> import torch
    >>> fold(torch.arange(12.0).reshape(1, 3, 2, 2), (0, 0, 0, 0), channels=12).flatten().tolist()
    [0.0, 4.0, 8.0, 1.0, 5.0, 9.0, 2.0, 6.0, 10.0, 3.0, 7.0, 11.0]
    """
    between = (0, 0) * (x.dim() - 4)  # nothing around frames
    x = F.pad(x, (*padding, *between, 0, channels // 4 - x.shape[1]))  # [N, C, …, H, W]
    x = x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))  # [N, C, …, H/2, 2, W/2, 2]
    x = x.movedim((-3, -1, 1), (-3, -2, -1))  # [N, …, H/2, W/2, 2, 2, C]
    return x.flatten(-3).movedim(-1, 1)  # one copy
