"""Weights of others as a checkpoint: with the clips they were trained on, and no run to go on with."""

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import read_text
from res3d_video.pipeline.shard_writer import sha256_of
from res3d_video.pipeline.typed_json import SchemaError, convert
from res3d_video.train.checkpoint import check_tensor, outline
from res3d_video.train.config import TrainConfig, to_dict
from res3d_video.train.models import MAX_WIDTH, ModelConfig
from res3d_video.train.models.convert import from_caffe, from_torchvision
from res3d_video.train.presets import SOURCES, Trained
from res3d_video.train.torch_file import read_torch_file, short

# What reading a damaged .npz raises.
DAMAGED = (OSError, ValueError, EOFError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)
MAX_PACKED, MAX_RATIO = 2**28, 100  # an array of more bytes than the first must not shrink more than the second
MAX_BYTES = 2**30  # of a file; the largest network, C3D, has 0.3 GB


class ImportFailed(UserError):
    """A file that does not hold the weights asked for; the message is one line."""


CONVERT: dict[str, Callable[..., dict[str, Tensor]]] = {"torchvision": from_torchvision, "caffe": from_caffe}


def import_weights(
    path: Path,
    *,
    source: str,
    model: str,
    classes: Sequence[str] | None = None,
    mean: float | tuple[float, ...] | None = None,
    std: float | tuple[float, ...] | None = None,
) -> dict[str, Any]:
    """The state of a checkpoint for `train.checkpoint.save_checkpoint`, at step 0.

    Width and number of classes are those of the weights.

    Args:
        path: A state dict of torchvision's, .pth; or the authors' blobs, .npz, as `from_caffe` has them.
        source: A key of SOURCES.
        model: A key of SOURCES[source].
        classes: Names by position; None for class_000, class_001, …
        mean, std: Of the pixels that the weights were trained on, where they are not those of `trained_on`.

    Raises:
        ImportFailed: The file is missing or damaged, or not of this source; or the classes do not fit its fc.
        ValueError: Its weights are not those of the model, or the source has no such model.
    """
    trained = trained_on(source, model)
    weights = (read_state_dict if source == "torchvision" else read_blobs)(path)
    num_classes, width = sizes(weights, path=path, source=source, model=model)
    if classes is not None and len(classes) != num_classes:
        raise ImportFailed(f"classes: {len(classes)} names for the {num_classes} outputs of {path}; give one for each")
    if classes is not None and len(set(classes)) < num_classes:
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise ImportFailed(f"classes: {twice} is there twice; give each class a name of its own")
    config = TrainConfig(
        model=ModelConfig(model, width=width),
        clip=trained.clip,
        mean=trained.mean if mean is None else mean,
        std=trained.std if std is None else std,
    )
    network, _ = outline(config.model, config.optim, num_classes=num_classes)
    return {
        "step": 0,
        "best_accuracy": -1.0,
        "model": CONVERT[source](weights, model=network),
        "optimizer": {},  # empty: no run to go on with
        "loader": {},
        "rng": torch.get_rng_state(),
        "config": to_dict(config),
        "data": {"name": f"{source}'s {model}", "fingerprint": sha256_of(path)},
        "classes": list(classes) if classes is not None else [f"class_{k:03}" for k in range(num_classes)],
    }


def trained_on(source: str, model: str) -> Trained:
    """What the weights of a source were trained on.

    Raises:
        ValueError: It has no such model.
    """
    if model not in SOURCES[source]:
        raise UserError(f"model: {source} has no {model}; choose one of {', '.join(SOURCES[source])}")
    return SOURCES[source][model]


def sizes(weights: Mapping[str, Any], *, path: Path, source: str, model: str) -> tuple[int, int]:
    """Classes, and channels of the first convolution, by the shapes of fc and, of C3D, conv1a.

    Raises:
        ImportFailed: It has no fc, or one that fits no width of the model.
    """
    names = {"torchvision": r"fc\.weight", "caffe": r"fc8(-1)?\.0"}[source]
    found = [name for name in weights if re.fullmatch(names, name)]
    if not found or weights[found[0]].ndim < 2:
        raise ImportFailed(f"{path}: has no weights of the fc under {source}'s name; choose the source they are from")
    num_classes, num_inputs = weights[found[0]].shape[-2:]
    width, rest = divmod(num_inputs, 64 if model == "c3d" else 8)
    if rest or not 1 <= width <= MAX_WIDTH:
        raise ImportFailed(f"{path}: the fc has {num_inputs} inputs, which no {model} has; choose the model it is of")
    return num_classes, width


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A .pth file of weights by name; runs no code of the file.

    Raises:
        ImportFailed: It is missing or damaged, or holds something else.
    """
    check_file(path)
    try:
        return read_torch_file(path, check_weights, max_legacy_bytes=MAX_BYTES)
    except (SchemaError, OSError) as error:
        raise ImportFailed(f"{path}: cannot be read ({error}); save model.state_dict() anew") from None


def check_weights(found: Any) -> dict[str, Tensor]:
    """Weights by name, or their outline on the device meta.

    Raises:
        SchemaError: It is something else, or a weight claims numbers that the file has not.
    """
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise SchemaError("not a dict of weights by name")
    weights = convert(found, dict[str, Tensor])
    for name, value in weights.items():
        if not value.is_floating_point() and value.dtype is not torch.int64:
            raise SchemaError(f"{name!r:.80}: {value.dtype}, must be floating point")
        check_tensor(f"{name!r:.80}", value, like=value)
    return weights


def read_blobs(path: Path) -> dict[str, np.ndarray]:
    """An .npz file of arrays by name.

    Raises:
        ImportFailed: It is missing or damaged, or no .npz.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {entry.filename.removesuffix(".npy"): read_array(archive, entry) for entry in archive.infolist()}
    except DAMAGED as error:
        raise ImportFailed(
            f"{path}: is no .npz of blobs ({short(error)}); train/models/convert.py has how to write one"
        ) from None


def read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """An array of floating point numbers, as many as the file holds.

    Raises:
        ValueError: They are not, or it is no such array.
    """
    if entry.file_size > max(MAX_PACKED, MAX_RATIO * entry.compress_size):
        raise ValueError(f"{entry.filename}: {entry.file_size} bytes packed into {entry.compress_size}")
    with archive.open(entry) as file:
        try:
            version = np.lib.format.read_magic(file)
            headers = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
            shape, _, dtype = headers[version != (1, 0)](file)
        except Exception as error:  # numpy raises ValueError, TypeError, SyntaxError, … for damaged headers
            raise ValueError(f"{entry.filename}: no array ({error!r:.60})") from None
        content = entry.file_size - file.tell()
    if dtype.kind != "f" or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != content:
        raise ValueError(f"{entry.filename}: {dtype!s:.40}, shape {shape!s:.40}, {content} bytes")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def read_classes(path: Path) -> list[str]:
    """Names of classes, one a line, by position; empty lines do not count."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def check_file(path: Path) -> None:
    """Raises ImportFailed where there is no file, or one too large to be weights."""
    if not path.is_file():
        raise ImportFailed(f"{path}: does not exist; give a file of weights")
    if path.stat().st_size > MAX_BYTES:
        raise ImportFailed(f"{path}: has {path.stat().st_size:,} bytes; weights have at most {MAX_BYTES:,}")
