"""Mixed 3D-2D networks (arXiv:1708.05038, section 3.5): Res3D with the later groups 2D, or the earlier ones.

The paper gives no layer table of them; these are the authors' later definition (arXiv:1711.11248 and its code): in MCn
the groups n … 5 are 2D, in rMCn, the reverse, conv1 … n - 1. A 2D group convolves 1x3x3 and keeps every frame; pool5
averages over the frames that are left.
"""

from typing import Any

from train.models.resnet import BLOCKS, Group, ResNet, plain_convs
from train.models.resnet3d import stem_conv

GROUPS = (2, 3, 4, 5)  # conv2_x … conv5_x


class MixedResNet(ResNet):
    """MCn and rMCn.

    Args:
        first_2d: n of MCn: this group and all after it are 2D. 2 to 5.
        first_3d: n of rMCn: this group and all after it are 3D, everything before is 2D. Give one of the two.
        options: num_classes, first_projection, zero_init_gamma, bn_momentum, as in ResNet.

    Raises:
        ValueError: n is not 2 to 5, or both or neither are given.
    """

    def __init__(
        self,
        *,
        first_2d: int | None = None,
        first_3d: int | None = None,
        blocks: tuple[int, ...] = BLOCKS[18],
        width: int = 64,
        **options: Any,
    ) -> None:
        given = [n for n in (first_2d, first_3d) if n is not None]
        if len(given) != 1 or given[0] not in GROUPS:
            raise ValueError(f"mixed: first_2d {first_2d}, first_3d {first_3d}; give one of them, 2, 3, 4 or 5")
        flat = [n >= first_2d if first_2d is not None else n < given[0] for n in GROUPS]
        groups = []
        for n, is_2d in zip(GROUPS, flat, strict=True):
            stride = 1 if n == 2 else 2
            time = 1 if is_2d else stride
            groups.append(Group(plain_convs(1 if is_2d else 3, 3, 3), (time, stride, stride)))
        stem = stem_conv(width, 7, 2, num_frames=1 if first_3d is not None else 3)
        super().__init__(stem, groups, blocks=blocks, width=width, **options)
