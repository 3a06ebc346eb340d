"""Exports a trained network as one file that needs no code of this project: uint8 frames in, probabilities out."""

import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from res3d_video.pipeline.clip import per_channel
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import temporary_of
from res3d_video.pipeline.ingest.transcode import fitted, stretched
from res3d_video.train.checkpoint import TrainedModel
from res3d_video.train.evaluation.prediction import settings_of
from res3d_video.train.step import probabilities_of

METADATA = "res3d.json"  # of a torch.export file; the same name is a key of ONNX's metadata
TOLERANCE = 1e-4  # of probabilities
BATCHES = (1, 3)  # clips, for the check

Runner = Callable[[np.ndarray], np.ndarray]  # frames [N, T, H, W, 3] to probabilities [N, K]


class FrameClassifier(nn.Module):
    """Resize, center crop, normalization, network, probabilities: uint8 RGB frames [N, T, H, W, 3] to [N, K].

    Args:
        resized: Height and width of the frames before the crop.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: TrainedModel, *, resized: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.loss, self.resized, self.crop = model.network, model.loss, resized, model.clip.crop_size
        for name, value in (("mean", model.mean), ("std", model.std)):
            self.register_buffer(name, torch.tensor(per_channel(value))[:, None, None])

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.permute(0, 1, 4, 2, 3).flatten(0, 1).float()  # [N × T, 3, H, W]
        if tuple(x.shape[2:]) != self.resized:
            x = F.interpolate(x, size=self.resized, mode="bilinear", antialias=True)
        top, left = ((side - self.crop) // 2 for side in self.resized)
        x = x[:, :, top : top + self.crop, left : left + self.crop]  # [N × T, 3, crop, crop]
        x = ((x - self.mean) / self.std).unflatten(0, (-1, frames.shape[1])).transpose(1, 2)  # [N, 3, T, crop, crop]
        return probabilities_of(self.network(x), loss=self.loss)


def resized_of(model: TrainedModel, *, height: int, width: int) -> tuple[int, int]:
    """The size to which frames of a height and width are resized, as in the network's training."""
    settings = settings_of(model)
    if settings.keep_aspect:
        content_width, content_height = fitted(width, height, settings.size)
    else:
        geometry = stretched(settings.size)
        content_width, content_height = geometry.content_width, geometry.content_height
    resize = model.clip.resize or settings.size
    return content_height * resize // settings.size, content_width * resize // settings.size


def export_model(model: TrainedModel, path: Path, *, kind: str, height: int, width: int) -> dict[str, Any]:
    """Write a model for frames of one size; read it back and compare its probabilities with the network's.

    Args:
        model: On the CPU.
        kind: "torch", for torch.export.load, or "onnx".
        height, width: Of its input frames, pixels.

    Returns:
        The metadata in the file: classes, and size and frames of a clip.

    Raises:
        UserError: The exported model gives other probabilities; no file is left.
    """
    classifier = FrameClassifier(model, resized=resized_of(model, height=height, width=width)).eval()
    about = {
        "classes": model.classes,
        "num_frames": model.clip.num_frames,
        "frame_stride": model.clip.frame_stride,
        "height": height,
        "width": width,
        "step": model.step,
    }
    temporary = temporary_of(path).with_suffix(path.suffix)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        example = torch.from_numpy(noise(2, about))
        (write_torch if kind == "torch" else write_onnx)(classifier, example, temporary, json.dumps(about))
        run = (read_torch if kind == "torch" else read_onnx)(temporary)
        for batch in BATCHES:
            frames = noise(batch, about)
            with torch.no_grad():
                wanted = classifier(torch.from_numpy(frames)).numpy()
            error = float(np.abs(run(frames) - wanted).max())
            if not error <= TOLERANCE:
                raise UserError(
                    f"{path}: its probabilities differ by {error:.2g}; try another version of torch or onnx"
                )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return about


def noise(batch: int, about: dict[str, Any]) -> np.ndarray:
    """Random frames uint8 [batch, T, H, W, 3], the same in every run."""
    shape = (batch, about["num_frames"], about["height"], about["width"], 3)
    return np.random.Generator(np.random.Philox(batch)).integers(256, size=shape, dtype=np.uint8)


def write_torch(classifier: nn.Module, example: Tensor, path: Path, about: str) -> None:
    """By torch.export, for any batch size."""
    program = torch.export.export(classifier, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch about weights that are not on a CPU; these are
        torch.export.save(program, path, extra_files={METADATA: about})


def read_torch(path: Path) -> Runner:
    """Load a file of `write_torch` as a function."""
    network = torch.export.load(path).module()
    return lambda frames: network(torch.from_numpy(frames)).detach().numpy()


def write_onnx(classifier: nn.Module, example: Tensor, path: Path, about: str) -> None:
    """By torch.onnx, for any batch size."""
    import onnxruntime  # noqa: F401 - it compares; fail before the work if it is missing
    import onnxscript  # noqa: F401 - torch.onnx needs it

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        program = torch.onnx.export(
            classifier,
            (example,),
            input_names=["frames"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[METADATA] = about
    program.save(path)


def read_onnx(path: Path) -> Runner:
    """Load a file of `write_onnx` as a function, with onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda frames: session.run(["probabilities"], {"frames": frames})[0]
