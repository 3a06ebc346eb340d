"""Residual networks of arXiv:1708.05038: Res3D (Table 2), its 2D baseline, mixed 3D-2D and (2+1)D.

All are a stem, four groups of basic blocks, average pool, one fc. Res3D is not torchvision's r3d_18: the first block of
every stage has a projection shortcut, the first stage's too, as the authors' network files have it;
`first_projection=False` gives the identity there.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from res3d_video.train.models import BLOCKS
from res3d_video.train.models.stem import StemConv2d, StemConv3d

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

Stride = tuple[int, ...]  # (T, H, W), or (H, W) in a 2D network
ConvPair = Callable[..., tuple[nn.Module, nn.Module]]  # (in_channels, out_channels, stride=, bn_momentum=)


class Group(NamedTuple):
    """The blocks of one resolution: what makes the two convolutions of each, and the stride of the first."""

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

    The shortcut with `projection` is a 1x1x1 convolution and BN; otherwise the input itself.
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
        blocks: tuple[int, ...] = BLOCKS[18],
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
        self._init_weights(zero_init_gamma=zero_init_gamma)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits [N, K] of clips [N, 3, T, H, W]; the shapes below are those of Res3D, width 64."""
        x = self.stem(clips)  # [N, 64, T, H/2, W/2]
        x = self.stages(x)  # [N, 512, T/8, H/16, W/16]
        x = self.pool(x)  # [N, 512]
        return self.head(x)  # [N, K] logits

    def layers(self) -> dict[str, nn.Module]:
        """Names for `train.models.take_layers`."""
        layers: dict[str, nn.Module] = {"conv1": self.stem}
        for number, stage in enumerate(self.stages, start=2):
            layers |= {f"res{number}{chr(ord('a') + i)}": block for i, block in enumerate(stage.children())}
            layers[f"res{number}"] = stage
        return layers | {"pool5": self.pool, "fc8": self.head}

    def _init_weights(self, *, zero_init_gamma: bool) -> None:
        """The authors' fillers: convolutions MSRA fan-out, fc Gaussian 0.01 with bias 0; BN as torch has it."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
            elif isinstance(module, BasicBlock) and zero_init_gamma:
                nn.init.zeros_(module.bn2.weight)


RES3D_TIME = (1, 2, 2, 2)  # strides of the groups in time: 8 frames become 8, 4, 2, 1
SR18_TIME = (1, 2, 2, 1)  # 4 frames become 4, 2, 1, 1


def stem_conv(width: int, size: int = 7, stride: int = 2, *, num_frames: int = 3) -> nn.Conv3d:
    """The first convolution: `num_frames` x size x size pixels, stride (1, stride, stride)."""
    if (size, stride, num_frames) == (7, 2, 3):
        return StemConv3d(width)  # can work on blocks of pixels
    kernel, padding = (num_frames, size, size), (num_frames // 2, size // 2, size // 2)
    return nn.Conv3d(3, width, kernel, stride=(1, stride, stride), padding=padding, bias=False)


class ResNet3d(ResNet):
    """3D convolutions throughout.

    Args:
        time: Strides of the four groups in T.
        stem: Height and width of the first convolution's kernel, and its stride there; T is 3 and 1.
    """

    def __init__(
        self, *, time: Sequence[int] = RES3D_TIME, width: int = 64, stem: tuple[int, int] = (7, 2), **options: Any
    ) -> None:
        groups = [Group(plain_convs(3, 3, 3), (t, s, s)) for t, s in zip(time, (1, 2, 2, 2), strict=True)]
        super().__init__(stem_conv(width, *stem), groups, width=width, **options)


def sr18(**options: Any) -> ResNet3d:
    """The paper's net of the design search: 4 frames, one halving of time fewer (section 3.2)."""
    return ResNet3d(time=SR18_TIME, **options)


class ResNet2d(ResNet):
    """One frame in, one prediction out."""

    def __init__(self, *, width: int = 64, **options: Any) -> None:
        groups = [Group(plain_convs(3, 3), (s, s)) for s in (1, 2, 2, 2)]
        super().__init__(StemConv2d(width), groups, width=width, **options)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits [N, K] of clips [N, 3, 1, H, W]; ValueError for more than one frame."""
        if clips.shape[2] != 1:
            raise ValueError(f"clips: {clips.shape[2]} frames, but a 2D network takes 1; use num_frames 1")
        return super().forward(clips[:, :, 0])  # frames [N, 3, H, W]: a view, channels_last as the clips were


class MixedResNet(ResNet):
    """Res3D with some groups 2D: MCn, where the groups n … 5 are, and rMCn, where conv1 … n - 1 are (section 3.5).

    The paper gives no layer table of them; these are the authors' later definition (arXiv:1711.11248 and its code). A
    2D group convolves 1x3x3 and keeps every frame; pool5 averages over the frames that are left.

    Args:
        n: The group, 2 to 5, at which the kind changes.
        reverse: rMCn.
    """

    def __init__(self, *, n: int, reverse: bool = False, width: int = 64, **options: Any) -> None:
        groups = []
        for number, stride in zip((2, 3, 4, 5), (1, 2, 2, 2), strict=True):
            is_3d = (number >= n) == reverse
            groups.append(Group(plain_convs(3 if is_3d else 1, 3, 3), (stride if is_3d else 1, stride, stride)))
        super().__init__(stem_conv(width, num_frames=1 if reverse else 3), groups, width=width, **options)


# (2+1)D, the paper's 2.5D: each 3D convolution is a 2D one, then a 1D one in time. Layers as in the authors' later
# code: BN and ReLU between the two, as many channels there as keep the parameters of the 3D convolution.
STEM_MIDDLE = 45  # of conv1 at width 64, as the authors' code has it; to keep its parameters it would be 83


class Conv2Plus1d(nn.Sequential):
    """1 x size x size to `middle` channels, BN, ReLU, 3 x 1 x 1; no bias; padded to keep the size."""

    def __init__(
        self, in_channels: int, out_channels: int, *, middle: int, size: int, stride: Stride, bn_momentum: float
    ) -> None:
        spatial: dict[str, Any] = {"stride": (1, *stride[1:]), "padding": (0, size // 2, size // 2), "bias": False}
        temporal: dict[str, Any] = {"stride": (stride[0], 1, 1), "padding": (1, 0, 0), "bias": False}
        super().__init__(
            OrderedDict[str, nn.Module](
                spatial=nn.Conv3d(in_channels, middle, (1, size, size), **spatial),
                bn=nn.BatchNorm3d(middle, momentum=bn_momentum),
                relu=nn.ReLU(),
                temporal=nn.Conv3d(middle, out_channels, (3, 1, 1), **temporal),
            )
        )


def middle_channels(in_channels: int, out_channels: int) -> int:
    """Channels between the two convolutions: as many as keep the parameters of a 3x3x3 one.

    >>> middle_channels(64, 64)  # 64 · 144 · 9 + 144 · 64 · 3 = 110,592 = 64 · 64 · 27
    144
    """
    return 27 * in_channels * out_channels // (9 * in_channels + 3 * out_channels)


class R2Plus1d(ResNet):
    """Factorised convolutions throughout.

    With `alike` both convolutions of a block have the middle channels of the first, as in torchvision; otherwise each
    has its own, as in the authors' code. They differ where a block widens.
    """

    def __init__(self, *, width: int = 64, alike: bool = False, bn_momentum: float = 0.1, **options: Any) -> None:
        def convs(in_channels: int, out_channels: int, *, stride: Stride, **_: Any) -> tuple[nn.Module, nn.Module]:
            first = middle_channels(in_channels, out_channels)
            second = first if alike else middle_channels(out_channels, out_channels)
            shared: dict[str, Any] = {"size": 3, "bn_momentum": bn_momentum}
            return (
                Conv2Plus1d(in_channels, out_channels, middle=first, stride=stride, **shared),
                Conv2Plus1d(out_channels, out_channels, middle=second, stride=(1, 1, 1), **shared),
            )

        middle = max(1, STEM_MIDDLE * width // 64)
        stem = Conv2Plus1d(3, width, middle=middle, size=7, stride=(1, 2, 2), bn_momentum=bn_momentum)
        groups = [Group(convs, (s, s, s)) for s in (1, 2, 2, 2)]
        super().__init__(stem, groups, width=width, bn_momentum=bn_momentum, **options)
