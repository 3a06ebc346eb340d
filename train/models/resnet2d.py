"""The 2D baseline of arXiv:1708.05038: Res3D with every 3D operation replaced by 2D, on one frame."""

from typing import Any

from torch import Tensor

from train.models.resnet import BLOCKS, Group, ResNet, Stride, plain_convs
from train.models.stem import StemConv2d

STRIDES: tuple[Stride, ...] = ((1, 1), (2, 2), (2, 2), (2, 2))


class ResNet2d(ResNet):
    """One frame in, one prediction out; `options` as in ResNet."""

    def __init__(self, *, blocks: tuple[int, ...] = BLOCKS[18], width: int = 64, **options: Any) -> None:
        groups = [Group(plain_convs(3, 3), stride) for stride in STRIDES]
        super().__init__(StemConv2d(width), groups, blocks=blocks, width=width, **options)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits [N, K] of clips [N, 3, 1, H, W].

        Raises:
            ValueError: The clips have more than one frame.
        """
        if clips.shape[2] != 1:
            raise ValueError(f"clips: {clips.shape[2]} frames, but a 2D network takes 1; use num_frames 1")
        return super().forward(clips[:, :, 0])  # frames [N, 3, H, W]: a view, channels_last as the clips were
