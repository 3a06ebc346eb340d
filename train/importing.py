"""Weights of others as a checkpoint: with the clips they were trained on, and no run to go on with."""

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.clip import ClipSpec
from pipeline.errors import UserError
from pipeline.shard_writer import sha256_of
from train.config import TrainConfig, to_dict
from train.models import BLOCKS, ModelConfig, build_model
from train.models.convert import from_caffe, from_torchvision

PIXEL = 255  # torchvision scales pixels to 0…1 first
TORCHVISION_MEAN, TORCHVISION_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # of every video model


class ImportFailed(UserError):
    """A file that does not hold the weights asked for; the message is one line."""


@dataclass(frozen=True)
class Trained:
    """What weights were trained on.

    Attributes:
        mean, std: Clips are (pixel - mean) / std, pixels 0…255; one value or three, RGB.
        note: What a checkpoint cannot say of it; empty for nothing.
    """

    clip: ClipSpec
    mean: float | tuple[float, ...] = 128.0
    std: float | tuple[float, ...] = 1.0
    note: str = ""


# torchvision: 16 frames of videos at 15 frames/s, half of what most have. (x / 255 - m) / s is (x - 255 m) / (255 s).
KINETICS = Trained(
    ClipSpec(num_frames=16, frame_stride=2),
    mean=tuple(PIXEL * value for value in TORCHVISION_MEAN),
    std=tuple(PIXEL * value for value in TORCHVISION_STD),
)
RES3D = Trained(ClipSpec(num_frames=8, frame_stride=2))  # the authors' network files, as the paper's section 4
C3D = Trained(
    ClipSpec(num_frames=16, frame_stride=1),
    note="C3D was trained on pixels minus the mean clip of Sports-1M, each place and frame its own value; one value a "
    "colour stands for it here, so outputs differ a little from the authors', most where that clip is not uniform",
)
SOURCES: dict[str, dict[str, Trained]] = {
    "torchvision": dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18"), KINETICS),
    "caffe": {**{f"res3d{depth}": RES3D for depth in BLOCKS}, "c3d": C3D},
}
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
    network: nn.Module = build_model(config.model, num_classes=num_classes)
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
    if rest or not width:
        raise ImportFailed(f"{path}: the fc has {num_inputs} inputs, which no {model} has; choose the model it is of")
    return num_classes, width


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A .pth file of weights by name; runs no code of the file.

    Raises:
        ImportFailed: It is missing or damaged, or holds something else.
    """
    check_is_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … for damaged files
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ImportFailed(f"{path}: cannot be read ({reason[0][:120]}); save model.state_dict() anew") from None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ImportFailed(f"{path}: is not a dict of weights by name; save model.state_dict() alone")
    return state


def read_blobs(path: Path) -> dict[str, np.ndarray]:
    """An .npz file of arrays by name.

    Raises:
        ImportFailed: It is missing or damaged, or no .npz.
    """
    check_is_file(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ImportFailed(
            f"{path}: is no .npz of blobs ({error}); train/models/convert.py has how to write one"
        ) from None


def read_classes(path: Path) -> list[str]:
    """Names of classes, one a line, by position; empty lines do not count."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def check_is_file(path: Path) -> None:
    """Raises ImportFailed where there is no file."""
    if not path.is_file():
        raise ImportFailed(f"{path}: does not exist; give a file of weights")
