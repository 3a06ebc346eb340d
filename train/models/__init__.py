"""The models by name. A new family is a file beside this one and lines in MODELS."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from pipeline.errors import UserError
from pipeline.typed_json import Share
from train.models.c3d import C3d
from train.models.resnet import BLOCKS, SR18_STRIDES, MixedResNet, R2Plus1d, ResNet2d, ResNet3d


@dataclass(frozen=True)
class Model:
    """One line of MODELS.

    Attributes:
        build: Constructor (num_classes=, width=, zero_init_gamma=, bn_momentum=); all models take clips NCTHW.
        width: Channels of conv1 unless another width is asked for.
        num_frames: Frames of the paper's clips for it.
        crop_size: Height and width of those clips, pixels.
        fixed: Which of num_frames and crop_size it takes no other value of.
    """

    build: Callable[..., nn.Module]
    width: int = 64
    num_frames: int = 8
    crop_size: int = 112
    fixed: tuple[str, ...] = ()


MAX_WIDTH = 1024  # 8.5 G parameters
DEPTH_WIDTHS = {10: 97, 16: 85, 26: 51, 34: 46}  # parameters within 1.2 % of SR18's; the paper's own widths not found
MIXED_WIDTHS = {2: 110, 3: 109, 4: 104, 5: 90}  # likewise, of MC2 … MC5
REVERSED_WIDTHS = {2: 64, 3: 64, 4: 65, 5: 70}  # and of rMC2 … rMC5

SR18 = partial(ResNet3d, strides=SR18_STRIDES)  # the paper's 4-frame net of the design search
OneFrameModel = partial(Model, num_frames=1, fixed=("num_frames",))

MODELS: dict[str, Model] = {
    # Table 2: Res3D
    **{f"res3d{depth}": Model(partial(ResNet3d, blocks=blocks)) for depth, blocks in BLOCKS.items()},
    # section 3.4, Table 5: resolution; the stem's kernel and stride as the text has them, and, -table5, the stride that
    # the table's multiply-adds need
    "sr18": Model(SR18, num_frames=4),
    "sr18-56": Model(partial(SR18, stem=(5, 1)), num_frames=4, crop_size=56),
    "sr18-224": Model(partial(SR18, stem=(11, 4)), num_frames=4, crop_size=224),
    "sr18-56-table5": Model(partial(SR18, stem=(5, 2)), num_frames=4, crop_size=56),
    "sr18-224-table5": Model(partial(SR18, stem=(11, 2)), num_frames=4, crop_size=224),
    # section 3.6, Table 7: depth at one number of parameters; depth 18 is sr18
    **{f"sr{d}-33m": Model(partial(SR18, blocks=BLOCKS[d]), width=k, num_frames=4) for d, k in DEPTH_WIDTHS.items()},
    # section 3.5, Table 6: kinds of convolution
    **{f"mc{n}": Model(partial(MixedResNet, first_2d=n), width=k) for n, k in MIXED_WIDTHS.items()},
    **{f"rmc{n}": Model(partial(MixedResNet, first_3d=n), width=k) for n, k in REVERSED_WIDTHS.items()},
    "r2plus1d18": Model(R2Plus1d),
    "r2plus1d34": Model(partial(R2Plus1d, blocks=BLOCKS[34])),
    # Table 3: single frames
    "res2d18": OneFrameModel(ResNet2d),
    "res2d34": OneFrameModel(partial(ResNet2d, blocks=BLOCKS[34])),
    "res2d18-33m": OneFrameModel(ResNet2d, width=110),
    # section 4
    "c3d": Model(C3d, num_frames=16, fixed=("num_frames", "crop_size")),
    # torchvision's networks under its names; train/models/convert.py reads their weights
    "r3d_18": Model(partial(ResNet3d, first_projection=False), num_frames=16),
    "mc3_18": Model(partial(MixedResNet, first_2d=3, first_projection=False), num_frames=16),
    "r2plus1d_18": Model(partial(R2Plus1d, alike=True, first_projection=False), num_frames=16),
}


@dataclass(frozen=True)
class ModelConfig:
    """Which network.

    Attributes:
        name: A key of MODELS.
        width: Channels of conv1 and conv2_x, k; later stages have 2k, 4k, 8k. None becomes the model's own.
        zero_init_gamma: Every residual block starts as its shortcut.
        bn_momentum: Weight of a new batch in BN's running statistics.
    """

    name: str = "res3d18"
    width: int | None = None
    zero_init_gamma: bool = False
    bn_momentum: Share = 0.1

    def __post_init__(self) -> None:
        if self.name not in MODELS:
            raise UserError(f"model: {self.name} does not exist; choose one of {', '.join(MODELS)}")
        if self.width is None:
            object.__setattr__(self, "width", MODELS[self.name].width)
        elif not 1 <= self.width <= MAX_WIDTH:
            raise UserError(f"width: {self.width} is not possible; choose 1 to {MAX_WIDTH} channels")


def build_model(config: ModelConfig, *, num_classes: int) -> nn.Module:
    """The freshly initialised network; draws from torch's global random generator."""
    return MODELS[config.name].build(
        num_classes=num_classes,
        width=config.width,
        zero_init_gamma=config.zero_init_gamma,
        bn_momentum=config.bn_momentum,
    )


def check_clip(name: str, *, num_frames: int, crop_size: int) -> None:
    """Refuse clips that the model cannot take, before anything is built.

    Raises:
        ValueError: Says which value, and the one it takes.
    """
    model = MODELS[name]
    if "num_frames" in model.fixed and num_frames != model.num_frames:
        wanted = "one frame" if model.num_frames == 1 else f"{model.num_frames} frames"
        raise UserError(f"num_frames: {num_frames}, but {name} takes {wanted}; use {model.num_frames}")
    if "crop_size" in model.fixed and crop_size != model.crop_size:
        raise UserError(f"crop_size: {crop_size}, but {name} takes {model.crop_size} pixels; use {model.crop_size}")
