"""C3D (Tran et al. 2015, arXiv:1412.0767), which arXiv:1708.05038 compares Res3D with: eight convolutions, three fc."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

# Channels of each convolution, times width; groups end in a max-pool. The authors' files (C3D v1.0, Sports-1M).
GROUPS = ((("1a", 1),), (("2a", 2),), (("3a", 4), ("3b", 4)), (("4a", 8), ("4b", 8)), (("5a", 8), ("5b", 8)))


class C3d(nn.Module):
    """Clips of 16 frames of 112x112, which fc6 fixes, no BN; 78,409,573 parameters for 101 classes, 79,991,015 for 487.

    Args:
        width: Channels of conv1a, 64 in the paper; fc6 and fc7 have 64 times as many.
        options: zero_init_gamma and bn_momentum, which change nothing: there is no BN.
    """

    def __init__(self, *, num_classes: int, width: int = 64, **options: Any) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        in_channels = 3
        for number, group in enumerate(GROUPS, start=1):
            for name, factor in group:
                conv = nn.Conv3d(in_channels, factor * width, 3, padding=1)
                self.convs.add_module(f"conv{name}", nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU())))
                in_channels = factor * width
            size = (1 if number == 1 else 2, 2, 2)
            self.convs.add_module(f"pool{number}", nn.MaxPool3d(size, ceil_mode=True))  # caffe rounds up: 7 to 4
        self.flatten = nn.Flatten()
        self.fc6 = nn.Sequential(OrderedDict(fc=nn.Linear(in_channels * 4 * 4, 64 * width), relu=nn.ReLU()))
        self.dropout6 = nn.Dropout(0.5)
        self.fc7 = nn.Sequential(OrderedDict(fc=nn.Linear(64 * width, 64 * width), relu=nn.ReLU()))
        self.dropout7 = nn.Dropout(0.5)
        self.head = nn.Linear(64 * width, num_classes)
        self._init_weights()

    def forward(self, clips: Tensor) -> Tensor:
        """Logits [N, K] of clips [N, 3, 16, 112, 112]; the shapes below are those of width 64."""
        x = self.convs(clips)  # [N, 512, 1, 4, 4]
        x = self.flatten(x)  # [N, 8192]
        x = self.dropout6(self.fc6(x))  # [N, 4096]
        x = self.dropout7(self.fc7(x))  # [N, 4096]
        return self.head(x)  # [N, K] logits

    def layers(self) -> dict[str, nn.Module]:
        """Names for `train.models.take_layers`; pool5 is flat, [N, 8192]."""
        convs = dict(self.convs.named_children())
        return {**convs, "pool5": self.flatten, "fc6": self.fc6, "fc7": self.fc7, "fc8": self.head}

    def _init_weights(self) -> None:
        """The authors' fillers: Gaussian 0.01, in fc6 and fc7 0.005; biases 1, in conv1a and fc8 0."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.normal_(module.weight, std=0.005 if name in ("fc6.fc", "fc7.fc") else 0.01)
                assert module.bias is not None
                nn.init.constant_(module.bias, 0.0 if name in ("convs.conv1a.conv", "head") else 1.0)
