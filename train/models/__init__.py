"""The models by name. A new one is a file beside this one and a line in MODELS."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from train.models.resnet2d import ResNet2d
from train.models.resnet3d import BLOCKS, SR18_STRIDES, ResNet3d

# name -> constructor(num_classes=, width=, zero_init_gamma=, bn_momentum=); all take clips NCTHW
MODELS: dict[str, Callable[..., nn.Module]] = {
    **{f"res3d{depth}": partial(ResNet3d, blocks=blocks) for depth, blocks in BLOCKS.items()},
    "sr18": partial(ResNet3d, strides=SR18_STRIDES),  # the paper's 4-frame net of the design search
    "res2d18": partial(ResNet2d, blocks=BLOCKS[18]),
    "res2d34": partial(ResNet2d, blocks=BLOCKS[34]),
}
ONE_FRAME_MODELS = frozenset({"res2d18", "res2d34"})


@dataclass(frozen=True)
class ModelConfig:
    """Which network.

    Attributes:
        name: A key of MODELS.
        width: Channels of conv1 and conv2_x, k; later stages have 2k, 4k, 8k.
        zero_init_gamma: Every residual block starts as its shortcut.
        bn_momentum: Weight of a new batch in BN's running statistics.
    """

    name: str = "res3d18"
    width: int = 64
    zero_init_gamma: bool = False
    bn_momentum: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in MODELS:
            raise ValueError(f"model: {self.name} does not exist; choose one of {', '.join(MODELS)}")
        if self.width < 1:
            raise ValueError(f"width: {self.width} is not possible; a model has at least 1 channel")


def build_model(config: ModelConfig, *, num_classes: int) -> nn.Module:
    """The freshly initialised network; draws from torch's global random generator."""
    return MODELS[config.name](
        num_classes=num_classes,
        width=config.width,
        zero_init_gamma=config.zero_init_gamma,
        bn_momentum=config.bn_momentum,
    )
