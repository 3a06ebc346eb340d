"""Weights of others under our names: torchvision's video networks, and the authors' caffe networks.

torchvision's r3d_18, mc3_18 and r2plus1d_18 are the models of the same names here. The authors' released Res3D is
res3d18 and their C3D is c3d. Reading a .caffemodel takes caffe; there, this writes the .npz that `from_caffe` takes:

    np.savez(path, **{f"{name}.{i}": blob.data for name, blobs in net.params.items() for i, blob in enumerate(blobs)})
"""

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from res3d_video.pipeline.errors import UserError

# How our names begin, and torchvision's; the first that fits counts. The first {} is our number of a stage plus 1.
STAGE = r"stages\.(\d)\.(\d+)\."
TORCHVISION = [
    (rf"{STAGE}conv(\d)\.spatial\.", "layer{}.{}.conv{}.0.0."),
    (rf"{STAGE}conv(\d)\.bn\.", "layer{}.{}.conv{}.0.1."),
    (rf"{STAGE}conv(\d)\.temporal\.", "layer{}.{}.conv{}.0.3."),
    (rf"{STAGE}conv(\d)\.", "layer{}.{}.conv{}.0."),
    (rf"{STAGE}bn(\d)\.", "layer{}.{}.conv{}.1."),
    (rf"{STAGE}shortcut\.conv\.", "layer{}.{}.downsample.0."),
    (rf"{STAGE}shortcut\.bn\.", "layer{}.{}.downsample.1."),
    (r"head\.", "fc."),
]
TORCHVISION_STEM = {"stem.conv.": "stem.0.", "stem.bn.": "stem.1."}
TORCHVISION_FACTORISED_STEM = {
    "stem.conv.spatial.": "stem.0.",
    "stem.conv.bn.": "stem.1.",
    "stem.conv.temporal.": "stem.3.",
    "stem.bn.": "stem.4.",
}

COUNTED = "num_batches_tracked"  # BN's count of batches; with a fixed momentum nothing depends on it
BGR = {"stem.conv.weight", "convs.conv1a.conv.weight"}  # first convolutions: OpenCV's order of colours to ours


def from_torchvision(state: Mapping[str, Tensor], *, model: nn.Module) -> dict[str, Tensor]:
    """The state dict of `model` with the weights of torchvision's network of the same name.

    Clips are then scaled as torchvision has it: (pixel / 255 - mean) / std with a mean and std of each colour.

    Args:
        state: Of torchvision's r3d_18, mc3_18 or r2plus1d_18.
        model: r3d_18, mc3_18 or r2plus1d_18 of MODELS, with as many classes.

    Raises:
        ValueError: A weight is missing, left over, or has another shape.
    """
    ours = model.state_dict()
    stem = TORCHVISION_FACTORISED_STEM if "stem.conv.spatial.weight" in ours else TORCHVISION_STEM
    rules = [*((re.escape(name), theirs) for name, theirs in stem.items()), *TORCHVISION]
    left = dict(state)
    converted = {name: _take(left, _torchvision_name(name, rules), like=value) for name, value in ours.items()}
    _check_nothing_left(left, model=model)
    return converted


def from_caffe(blobs: Mapping[str, np.ndarray], *, model: nn.Module) -> dict[str, Tensor]:
    """The state dict of `model` with the weights of the authors' network.

    A caffe BatchNorm holds mean, variance and a factor to divide both by; the Scale layer after it has BN's scale and
    shift. Their first convolution reads blue, green, red, ours red, green, blue. Res3D takes pixels minus 128; C3D was
    trained on pixels minus a mean clip.

    Args:
        blobs: "layer.i" -> blob i of the layer: conv1.0, bn_conv1.0 to .2, scale_conv1.0 and .1, res2a_branch1.0, …,
            fc8.0, fc8.1; of C3D conv1a.0, conv1a.1, …, fc8.1, or fc8-1.1.
        model: res3d18, or any ResNet3d of their names; or c3d; with as many classes.

    Raises:
        ValueError: A blob is missing, left over, or has another shape.
    """
    left = {re.sub(r"^(fc\d)-1\.", r"\1.", name): torch.from_numpy(np.array(blob)) for name, blob in blobs.items()}
    for name in [name for name in left if re.match(r"bn.*\.2$", name)]:
        factor = left.pop(name).item()
        for statistic in (f"{name[:-1]}0", f"{name[:-1]}1"):
            if statistic in left:
                left[statistic] = left[statistic] / factor if factor else torch.zeros_like(left[statistic])
    converted = {}
    for name, value in model.state_dict().items():
        if name.endswith(COUNTED):
            converted[name] = torch.zeros_like(value, device="cpu")
            continue
        blob = _take(left, _caffe_name(name), like=value)
        converted[name] = blob.flip(1) if name in BGR else blob
    _check_nothing_left(left, model=model)
    return converted


def _torchvision_name(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, theirs in rules:
        if match := re.match(pattern, name):
            numbers = [int(number) for number in match.groups()]
            if numbers:
                numbers[0] += 1  # stages.0 is layer1
            return theirs.format(*numbers) + name[match.end() :]
    raise UserError(f"convert: {name} has no name in torchvision; use r3d_18, mc3_18 or r2plus1d_18")


# Parts of a layer: ours -> (prefix of the caffe layer, blob).
CAFFE_NORM = {
    "running_mean": ("bn", 0),
    "running_var": ("bn", 1),
    "weight": ("scale", 0),
    "bias": ("scale", 1),
}
CAFFE_BRANCH: dict[str, str] = {"conv1": "2a", "bn1": "2a", "conv2": "2b", "bn2": "2b", "shortcut": "1"}


def _caffe_name(name: str) -> str:
    """The blob of one of our weights.

    >>> _caffe_name("stages.0.1.conv2.weight"), _caffe_name("stages.3.0.shortcut.bn.running_var")
    ('res2b_branch2b.0', 'bn5a_branch1.1')
    >>> _caffe_name("stem.bn.bias"), _caffe_name("head.bias"), _caffe_name("convs.conv3b.conv.weight")
    ('scale_conv1.1', 'fc8.1', 'conv3b.0')
    """
    layer, _, part = name.rpartition(".")
    blob = {"weight": 0, "bias": 1}.get(part)
    if layer == "stem.conv":
        return "conv1.0"
    if layer == "stem.bn":
        prefix, blob = CAFFE_NORM[part]
        return f"{prefix}_conv1.{blob}"
    if layer == "head":
        return f"fc8.{blob}"
    if match := re.fullmatch(r"convs\.(conv\d[ab])\.conv|(fc\d)\.fc", layer):
        return f"{match[1] or match[2]}.{blob}"
    if match := re.fullmatch(r"stages\.(\d)\.(\d+)\.(conv1|bn1|conv2|bn2|shortcut)(\.conv|\.bn)?", layer):
        block = f"{int(match[1]) + 2}{chr(ord('a') + int(match[2]))}_branch{CAFFE_BRANCH[match[3]]}"
        if match[3].startswith("bn") or match[4] == ".bn":
            prefix, blob = CAFFE_NORM[part]
            return f"{prefix}{block}.{blob}"
        return f"res{block}.{blob}"
    raise UserError(f"convert: {name} has no name in the authors' caffe networks; use res3d18 or c3d")


def _take(left: dict[str, Tensor], name: str, *, like: Tensor) -> Tensor:
    """Take one weight out of `left`, in our number format; caffe may store vectors as 1x1x1xC."""
    if name not in left:
        raise UserError(f"convert: {name} is missing; the file is of another network than the model")
    value = left.pop(name)
    while value.dim() > like.dim() and value.shape[0] == 1:
        value = value[0]
    if value.shape != like.shape:
        raise UserError(
            f"convert: {name} is {list(value.shape)}, the model has {list(like.shape)} there; "
            "choose the model, width and number of classes that the weights are of"
        )
    return value.to(like.dtype)


def _check_nothing_left(left: Mapping[str, Tensor], *, model: nn.Module) -> None:
    if left:
        raise UserError(
            f"convert: {min(left)} has no place in this {type(model).__name__}; choose the model of these weights"
        )
