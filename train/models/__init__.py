"""The models by name. A new family is a file in this folder and lines in MODELS.

Commands read MODELS for their options, so torch is imported only when a network is built.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.settings import check_fields, described

if TYPE_CHECKING:
    from torch import Tensor, nn

# Basic blocks in conv2_x … conv5_x. 18 and 34 are Table 2 of arXiv:1708.05038, which also tries 10, 16 and 26 without
# giving their blocks: 10 and 16 are from the authors' later code, 26 follows by arithmetic.
BLOCKS = {10: (1, 1, 1, 1), 16: (2, 2, 2, 1), 18: (2, 2, 2, 2), 26: (3, 3, 3, 3), 34: (3, 4, 6, 3)}


@dataclass(frozen=True)
class Model:
    """One line of MODELS.

    Attributes:
        network: "module.constructor" in this folder; all models take clips NCTHW.
        arguments: Of the constructor, besides num_classes, width, zero_init_gamma and bn_momentum.
        width: Default channels of conv1.
        num_frames: Frames of the paper's clips for it.
        crop_size: Height and width of those clips, pixels.
        fixed: Which of num_frames and crop_size must have these values.
    """

    network: str
    arguments: dict[str, Any] = field(default_factory=dict)
    width: int = 64
    num_frames: int = 8
    crop_size: int = 112
    fixed: tuple[str, ...] = ()


MAX_WIDTH = 1024  # 8.5 G parameters
DEPTH_WIDTHS = {10: 97, 16: 85, 26: 51, 34: 46}  # parameters within 1.2 % of SR18's; the paper's own widths not found
MIXED_WIDTHS = {2: 110, 3: 109, 4: 104, 5: 90}  # likewise, of MC2 … MC5
REVERSED_WIDTHS = {2: 64, 3: 64, 4: 65, 5: 70}  # and of rMC2 … rMC5

RES3D, SR18, MIXED, R2PLUS1D = "resnet.ResNet3d", "resnet.sr18", "resnet.MixedResNet", "resnet.R2Plus1d"
ResNet2d = partial(Model, "resnet.ResNet2d", num_frames=1, fixed=("num_frames",))
TORCHVISION: dict[str, Any] = {"first_projection": False}

MODELS: dict[str, Model] = {
    # Table 2: Res3D
    **{f"res3d{depth}": Model(RES3D, {"blocks": blocks}) for depth, blocks in BLOCKS.items()},
    # section 3.4, Table 5: resolution; the stem's kernel and stride as the text has them, and, -table5, the stride that
    # the table's multiply-adds need
    "sr18": Model(SR18, num_frames=4),
    "sr18-56": Model(SR18, {"stem": (5, 1)}, num_frames=4, crop_size=56),
    "sr18-224": Model(SR18, {"stem": (11, 4)}, num_frames=4, crop_size=224),
    "sr18-56-table5": Model(SR18, {"stem": (5, 2)}, num_frames=4, crop_size=56),
    "sr18-224-table5": Model(SR18, {"stem": (11, 2)}, num_frames=4, crop_size=224),
    # section 3.6, Table 7: depth at one number of parameters; depth 18 is sr18
    **{f"sr{d}-33m": Model(SR18, {"blocks": BLOCKS[d]}, width=k, num_frames=4) for d, k in DEPTH_WIDTHS.items()},
    # section 3.5, Table 6: kinds of convolution
    **{f"mc{n}": Model(MIXED, {"n": n}, width=k) for n, k in MIXED_WIDTHS.items()},
    **{f"rmc{n}": Model(MIXED, {"n": n, "reverse": True}, width=k) for n, k in REVERSED_WIDTHS.items()},
    "r2plus1d18": Model(R2PLUS1D),
    "r2plus1d34": Model(R2PLUS1D, {"blocks": BLOCKS[34]}),
    # Table 3: single frames
    "res2d18": ResNet2d(),
    "res2d34": ResNet2d({"blocks": BLOCKS[34]}),
    "res2d18-33m": ResNet2d(width=110),
    # section 4
    "c3d": Model("c3d.C3d", num_frames=16, fixed=("num_frames", "crop_size")),
    # torchvision's networks under its names; train/importing.py reads their weights
    "r3d_18": Model(RES3D, TORCHVISION, num_frames=16),
    "mc3_18": Model(MIXED, {"n": 3} | TORCHVISION, num_frames=16),
    "r2plus1d_18": Model(R2PLUS1D, {"alike": True} | TORCHVISION, num_frames=16),
}


@dataclass(frozen=True)
class ModelConfig:
    """Which network; `name` is a key of MODELS, and a `width` of None becomes that model's own."""

    name: str = "res3d18"
    width: int | None = described(
        None, "Channels of its first stage; the later ones have 2, 4, 8 times as many.", 1, MAX_WIDTH
    )
    zero_init_gamma: bool = described(False, "Every residual block starts as its shortcut.")
    bn_momentum: float = described(0.1, "Weight of a new batch in BN's running statistics.", 0, 1)

    def __post_init__(self) -> None:
        if self.name not in MODELS:
            raise UserError(f"model: {self.name} does not exist; choose one of {', '.join(MODELS)}")
        check_fields(self)
        if self.width is None:
            object.__setattr__(self, "width", MODELS[self.name].width)


def build_model(config: ModelConfig, *, num_classes: int) -> "nn.Module":
    """A newly initialized network; draws from torch's global random generator."""
    model = MODELS[config.name]
    module, constructor = model.network.split(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), constructor)(
        num_classes=num_classes,
        width=config.width,
        zero_init_gamma=config.zero_init_gamma,
        bn_momentum=config.bn_momentum,
        **model.arguments,
    )


@cache
def count_costs(config: ModelConfig, *, num_classes: int, clip_shape: tuple[int, int, int, int]) -> tuple[int, int]:
    """Parameters, and multiply-adds of one clip (3, T, H, W): convolutions, shortcuts included, and fully connected."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = build_model(config, num_classes=num_classes).eval()
        model(torch.zeros(1, *clip_shape))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters, counter.get_total_flops() // 2  # the counter takes a multiply-add for two operations


def check_clip(name: str, *, num_frames: int, crop_size: int) -> None:
    """Refuse clips that the model does not accept, before it is built."""
    model = MODELS[name]
    for what, value in (("num_frames", num_frames), ("crop_size", crop_size)):
        if what in model.fixed and value != getattr(model, what):
            raise UserError(f"{what}: {value}, but {name} takes {getattr(model, what)} alone; use that")


def take_layers(model: "nn.Module", clips: "Tensor", layers: Sequence[str]) -> "dict[str, Tensor]":
    """Run the model once on clips [N, 3, T, H, W] and return the outputs of some layers, each after its ReLU.

    Layers are named as in the authors' network files. Residual networks: conv1; res2a, res2b, … of single blocks;
    res2 to res5, the last block's output of a stage (at depth 18 res5 is res5b); pool5; fc8; prob. C3D: conv1a to
    conv5b, pool1 to pool5, fc6, fc7, fc8, prob. A model changed by `model.compile()` may ignore the hooks: pass an
    uncompiled one, in eval mode.

    Returns:
        In the order of `layers`. Of Res3D on 8 frames of 112x112: res5b [N, 512, 1, 7, 7], pool5 [N, 512], fc8 [N, K]
        logits, prob [N, K] their softmax. 2D networks have no T. C3D: pool5 [N, 8192], fc6 and fc7 [N, 4096].

    Raises:
        UserError: The model has no such layer.
    """
    modules: dict[str, nn.Module] = cast(Any, model).layers()  # in the order of the forward pass
    for name in layers:
        if name not in modules and name != "prob":
            raise UserError(f"layers: {name} does not exist; this model has {', '.join([*modules, 'prob'])}")
    outputs: dict[str, Tensor] = {}

    def keep(module: "nn.Module", _inputs: Any, output: "Tensor") -> None:
        outputs.update((name, output) for name in layers if modules.get(name) is module)

    hooks = [modules[name].register_forward_hook(keep) for name in set(layers) - {"prob"}]
    try:
        logits = model(clips)
    finally:
        for hook in hooks:
            hook.remove()
    outputs["prob"] = logits.float().softmax(dim=1)
    return {name: outputs[name] for name in layers}
