"""The 2D baseline of arXiv:1708.05038: Res3D with every 3D operation replaced by 2D, on one frame."""

from collections import OrderedDict

from torch import Tensor, nn

from train.models.resnet3d import BLOCKS, Stride, init_weights, make_stages
from train.models.stem import StemConv2d

STRIDES: tuple[Stride, ...] = ((1, 1), (2, 2), (2, 2), (2, 2))


class ResNet2d(nn.Module):
    """One frame in, one prediction out; arguments as in ResNet3d."""

    def __init__(
        self,
        *,
        num_classes: int,
        blocks: tuple[int, ...] = BLOCKS[18],
        width: int = 64,
        first_projection: bool = True,
        zero_init_gamma: bool = False,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(
                conv=StemConv2d(width),
                bn=nn.BatchNorm2d(width, momentum=bn_momentum),
                relu=nn.ReLU(),
            )
        )
        self.stages = make_stages(
            width, blocks=blocks, strides=STRIDES, first_projection=first_projection, bn_momentum=bn_momentum
        )
        self.head = nn.Linear(8 * width, num_classes)
        init_weights(self, zero_init_gamma=zero_init_gamma)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits [N, K] of clips [N, 3, 1, H, W].

        Raises:
            ValueError: The clips have more than one frame.
        """
        if clips.shape[2] != 1:
            raise ValueError(f"clips: {clips.shape[2]} frames, but a 2D network takes 1; use num_frames 1")
        x = self.stem(clips[:, :, 0])  # [N, 64, H/2, W/2]; a view, channels_last where the clips are channels_last_3d
        x = self.stages(x)  # [N, 512, H/16, W/16]
        x = x.mean(dim=(2, 3))  # [N, 512]
        return self.head(x)  # [N, K] logits
