"""Outputs of named layers, for features: what a layer is called is the same in every family."""

from collections.abc import Sequence
from typing import Protocol, cast

from torch import Tensor, nn

from res3d_video.pipeline.errors import UserError


class HasLayers(Protocol):
    """What every model of MODELS has."""

    def layers(self) -> dict[str, nn.Module]:
        """Layer names in the order of the forward pass, and the module whose output each one is."""


def layer_names(model: nn.Module) -> list[str]:
    """Layers that `take_layers` can give, first to last, under the names of the authors' network files.

    Residual networks: conv1; res2a, res2b, … of single blocks; res2 to res5, the last block's output of a stage (at
    depth 18 res5 is res5b); pool5; fc8; prob. C3D: conv1a to conv5b, pool1 to pool5, fc6, fc7, fc8, prob.
    """
    return [*cast(HasLayers, model).layers(), "prob"]


def take_layers(model: nn.Module, clips: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Run the model once and keep some layers; each after its ReLU.

    The model runs as it is: call `model.eval()` first, and wrap this in `torch.inference_mode()` where no gradient is
    wanted. A model that `model.compile()` changed may ignore the hooks: take an uncompiled one.

    Args:
        clips: [N, 3, T, H, W].
        layers: Names out of `layer_names`.

    Returns:
        One tensor a name, in the order of `layers`. Of the paper's Res3D on 8 frames of 112x112: res5b
        [N, 512, 1, 7, 7], pool5 [N, 512], fc8 [N, K] logits, prob [N, K] their softmax. 2D networks have no T.
        C3D: pool5 [N, 8192], fc6 and fc7 [N, 4096].

    Raises:
        ValueError: The model has no such layer, or takes other clips.
    """
    modules = cast(HasLayers, model).layers()
    unknown = [name for name in layers if name not in modules and name != "prob"]
    if unknown:
        raise UserError(f"layers: {unknown[0]} does not exist; this model has {', '.join(layer_names(model))}")
    found: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        hooks.append(modules[name].register_forward_hook(lambda _module, _inputs, output: found.update({name: output})))

    hooks: list = []
    try:
        for name in dict.fromkeys(layers):
            if name != "prob":
                keep(name)
        logits = model(clips)
    finally:
        for hook in hooks:
            hook.remove()
    if "prob" in layers:
        found["prob"] = logits.float().softmax(dim=1)
    return {name: found[name] for name in layers}
