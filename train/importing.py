"""Converts published weights to checkpoints: torchvision's video networks, and the authors' caffe networks.

torchvision's r3d_18, mc3_18 and r2plus1d_18 have the same names here. The authors' released Res3D is res3d18 and their
C3D is c3d. Reading a .caffemodel needs caffe, where this writes the .npz:

    np.savez(path, **{f"{name}.{i}": blob.data for name, blobs in net.params.items() for i, blob in enumerate(blobs)})
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from res3d_video.pipeline.errors import UserError, one_line
from res3d_video.pipeline.shard_writer import sha256_of
from res3d_video.pipeline.typed_json import SchemaError, convert
from res3d_video.train.checkpoint import check_tensor, outline
from res3d_video.train.config import TrainConfig, to_dict
from res3d_video.train.models import MAX_WIDTH, ModelConfig
from res3d_video.train.presets import SOURCES
from res3d_video.train.torch_file import read_torch_file

MAX_PACKED, MAX_RATIO = 2**28, 100  # an array of more bytes than the first must not shrink more than the second
MAX_BYTES = 2**30  # of a file; the largest network, C3D, has 0.3 GB


def import_weights(
    path: Path,
    *,
    source: str,
    model: str,
    classes: Sequence[str] | None = None,
    mean: float | tuple[float, ...] | None = None,
) -> dict[str, Any]:
    """The state of a checkpoint for `train.checkpoint.save_checkpoint`, at step 0 and without a run to resume.

    Width and number of classes are those of the weights; clips, mean and std those of their training.

    Args:
        path: A state dict of torchvision's, .pth; or the authors' blobs, .npz, as `from_caffe` has them.
        source: A key of SOURCES.
        model: A key of SOURCES[source].
        classes: Names by position; None for class_000, class_001, …
        mean: Of the pixels, if it differs from the source's.

    Raises:
        UserError: The file is damaged or not of this source or model, or the classes do not fit its fc.
    """
    if model not in SOURCES[source]:
        raise UserError(f"model: {source} has no {model}; choose one of {', '.join(SOURCES[source])}")
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: is no file of at most {MAX_BYTES:,} bytes; give a file of weights")
    trained = SOURCES[source][model]
    weights: dict[str, Any] = (read_state_dict if source == "torchvision" else read_blobs)(path)
    num_classes, width = sizes(weights, path=path, source=source, model=model)
    names = list(classes) if classes is not None else [f"class_{k:03}" for k in range(num_classes)]
    if len(names) != num_classes or len(set(names)) < num_classes:
        raise UserError(
            f"classes: {len(set(names))} names for the {num_classes} outputs of {path}; give a different one for each"
        )
    config = TrainConfig(
        model=ModelConfig(model, width=width),
        clip=trained.clip,
        mean=trained.mean if mean is None else mean,
        std=trained.std,
    )
    network, _ = outline(config.model, config.optim, num_classes=num_classes)
    convert_weights = from_torchvision if source == "torchvision" else from_caffe
    return {
        "step": 0,
        "best_accuracy": -1.0,
        "model": convert_weights(weights, model=network),
        "optimizer": {},  # empty: no run to resume
        "loader": {},
        "rng": torch.get_rng_state(),
        "config": to_dict(config),
        "data": {"name": f"{source}'s {model}", "fingerprint": sha256_of(path)},
        "classes": names,
    }


def sizes(weights: Mapping[str, Any], *, path: Path, source: str, model: str) -> tuple[int, int]:
    """Classes, and channels of the first convolution, by the shape of the fc."""
    names = {"torchvision": ("fc.weight",), "caffe": ("fc8.0", "fc8-1.0")}[source]
    fc = next((weights[name] for name in names if name in weights), None)
    if fc is None or fc.ndim < 2:
        raise UserError(f"{path}: has no weights of the fc under {source}'s name; choose the source they are from")
    num_classes, num_inputs = fc.shape[-2:]
    width, rest = divmod(num_inputs, 64 if model == "c3d" else 8)
    if rest or not 1 <= width <= MAX_WIDTH:
        raise UserError(f"{path}: the fc has {num_inputs} inputs, which no {model} has; choose the model it is of")
    return num_classes, width


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The weights of a .pth file by name; runs no code from the file."""
    try:
        return read_torch_file(path, check_weights, max_legacy_bytes=MAX_BYTES)
    except (SchemaError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); save model.state_dict() anew") from None


def check_weights(found: Any) -> dict[str, Tensor]:
    """Weights by name, or their outline on the device meta; SchemaError if one claims more data than the file has."""
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise SchemaError("not a dict of weights by name")
    weights = convert(found, dict[str, Tensor])
    for name, value in weights.items():
        if not value.is_floating_point() and value.dtype is not torch.int64:
            raise SchemaError(f"{name!r:.80}: {value.dtype}, must be floating point")
        check_tensor(f"{name!r:.80}", value, like=value)
    return weights


def read_blobs(path: Path) -> dict[str, np.ndarray]:
    """The floating-point arrays of an .npz file by name."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            for entry in archive.zip.infolist():
                if entry.file_size > max(MAX_PACKED, MAX_RATIO * entry.compress_size):
                    raise ValueError(f"{entry.filename}: {entry.file_size} bytes packed into {entry.compress_size}")
            blobs = {name: archive[name] for name in archive.files}
        for name, blob in blobs.items():
            if blob.dtype.kind != "f":
                raise ValueError(f"{name}: {blob.dtype!s:.40}")
    except Exception as error:  # numpy and zipfile raise nearly anything for a damaged file
        raise UserError(
            f"{path}: is no .npz of blobs ({one_line(error)}); train/importing.py has how to write one"
        ) from None
    return blobs


# Parts of our names, and torchvision's; the first that fits counts. stages.0 is layer1.
TORCHVISION = {
    r"stem\.conv\.spatial\.": "stem.0.",
    r"stem\.conv\.bn\.": "stem.1.",
    r"stem\.conv\.temporal\.": "stem.3.",
    r"stem\.conv\.": "stem.0.",
    r"stem\.bn\.": "stem.1.",  # stem.4. after a factorised convolution
    r"\.conv(\d)\.spatial\.": r".conv\1.0.0.",
    r"\.conv(\d)\.bn\.": r".conv\1.0.1.",
    r"\.conv(\d)\.temporal\.": r".conv\1.0.3.",
    r"\.conv(\d)\.": r".conv\1.0.",
    r"\.bn(\d)\.": r".conv\1.1.",
    r"\.shortcut\.conv\.": ".downsample.0.",
    r"\.shortcut\.bn\.": ".downsample.1.",
    r"head\.": "fc.",
}


def from_torchvision(state: Mapping[str, Tensor], *, model: nn.Module) -> dict[str, Tensor]:
    """The state dict of `model` with the weights of torchvision's network of the same name."""
    ours = model.state_dict()
    names = TORCHVISION | ({r"stem\.bn\.": "stem.4."} if "stem.conv.spatial.weight" in ours else {})

    def their_name(name: str) -> str:
        name = re.sub(r"stages\.(\d)", lambda stage: f"layer{int(stage[1]) + 1}", name)
        pattern = next((pattern for pattern in names if re.search(pattern, name)), "^")
        return re.sub(pattern, names.get(pattern, ""), name)

    left = dict(state)
    converted = {name: take_weight(left, their_name(name), like=value) for name, value in ours.items()}
    check_nothing_left(left, model=model)
    return converted


# Of a batch norm, ours -> (prefix of the caffe layer, blob); of a block, ours -> their branch.
CAFFE_NORM = {"running_mean": ("bn", 0), "running_var": ("bn", 1), "weight": ("scale", 0), "bias": ("scale", 1)}
CAFFE_BRANCH = {"conv1": "2a", "bn1": "2a", "conv2": "2b", "bn2": "2b", "shortcut": "1"}
BGR = ("stem.conv.weight", "convs.conv1a.conv.weight")  # first convolutions: OpenCV's order of colours to ours


def from_caffe(blobs: Mapping[str, np.ndarray], *, model: nn.Module) -> dict[str, Tensor]:
    """The state dict of `model`, a ResNet3d or C3d, with the weights of the authors' network.

    A caffe BatchNorm holds mean, variance and a factor to divide both by; the Scale layer after it has BN's scale and
    shift. Their first convolution reads blue, green, red, ours red, green, blue. Res3D takes pixels minus 128; C3D was
    trained on pixels minus a mean clip.

    Args:
        blobs: "layer.i" -> blob i of the layer: conv1.0, bn_conv1.0 to .2, scale_conv1.0 and .1, res2a_branch1.0, …,
            fc8.0, fc8.1; of C3D conv1a.0, conv1a.1, …, fc8.1, or fc8-1.1.
    """
    left = {re.sub(r"^(fc\d)-1\.", r"\1.", name): torch.from_numpy(np.array(blob)) for name, blob in blobs.items()}
    for name in [name for name in left if re.match(r"bn.*\.2$", name)]:
        factor = left.pop(name).item()
        for statistic in (f"{name[:-1]}0", f"{name[:-1]}1"):
            if statistic in left:
                left[statistic] = left[statistic] / factor if factor else torch.zeros_like(left[statistic])
    converted = {}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):  # with a fixed momentum nothing depends on it
            converted[name] = torch.zeros_like(value, device="cpu")
        else:
            blob = take_weight(left, caffe_name(name), like=value)
            converted[name] = blob.flip(1) if name in BGR else blob
    check_nothing_left(left, model=model)
    return converted


def caffe_name(name: str) -> str:
    """The blob of one of our weights.

    >>> caffe_name("stages.0.1.conv2.weight"), caffe_name("stages.3.0.shortcut.bn.running_var")
    ('res2b_branch2b.0', 'bn5a_branch1.1')
    >>> caffe_name("stem.bn.bias"), caffe_name("head.bias"), caffe_name("convs.conv3b.conv.weight")
    ('scale_conv1.1', 'fc8.1', 'conv3b.0')
    """
    layer, _, part = name.rpartition(".")
    block = re.match(r"stages\.(\d)\.(\d+)\.(\w+)", layer)
    if block:
        number, letter = int(block[1]) + 2, chr(ord("a") + int(block[2]))
        caffe = f"{number}{letter}_branch{CAFFE_BRANCH[block[3]]}"
    else:
        caffe = {"stem.conv": "conv1", "stem.bn": "_conv1", "head": "fc8"}.get(layer) or layer.split(".")[-2]
    if ".bn" in layer:
        prefix, number = CAFFE_NORM[part]
        return f"{prefix}{caffe}.{number}"
    return f"{'res' if block else ''}{caffe}.{int(part == 'bias')}"


def take_weight(left: dict[str, Tensor], name: str, *, like: Tensor) -> Tensor:
    """Remove one weight from `left` and convert it to the type of `like`; caffe may store vectors as 1x1x1xC."""
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


def check_nothing_left(left: Mapping[str, Tensor], *, model: nn.Module) -> None:
    if left:
        raise UserError(
            f"convert: {min(left)} has no place in this {type(model).__name__}; choose the model of these weights"
        )
