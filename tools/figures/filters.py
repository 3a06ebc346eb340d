"""The first convolution's filters as tiles of pixels: Figure 2 of arXiv:1708.05038. Pure numpy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.train.checkpoint import load_checkpoint

SLICE_PIXELS, FEW_SLICE_PIXELS = 42, 63  # about, as a filter's pixels become whole squares; and for few filters
FEW = 32
SLICE_GAP, FILTER_GAP = 2, 12  # pixels between a filter's slices, and between filters
WHITE = 255


@dataclass(frozen=True, eq=False)
class Filters:
    """conv1 of a checkpoint.

    Attributes:
        weight: float32 [K, 3, T, H, W], colours in the order of the clips, red first; a 2D network has T = 1.
        layer: Name of the parameter.
        factorised: The filters are those in space of a factorised convolution; BN, ReLU and one in time follow.
        model, width, step, data: Of the checkpoint; data is the dataset's name.
    """

    weight: np.ndarray
    layer: str
    factorised: bool
    model: str
    width: int
    step: int
    data: str
    checkpoint: Path

    @property
    def num_slices(self) -> int:
        """T."""
        return self.weight.shape[2]

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "checkpoint": str(self.checkpoint),
            "model": self.model,
            "width": self.width,
            "step": self.step,
            "data": self.data,
            "layer": self.layer,
            "factorised": self.factorised,
            "shape": list(self.weight.shape),
            "time_share": float(time_share(self.weight).mean()),
        }


def read_filters(checkpoint: Path) -> Filters:
    """The first convolution of any model of train.models.

    Raises:
        ValueError: The file is missing, damaged or not a checkpoint; or its network does not begin with a convolution
            on three colours.
    """
    state = load_checkpoint(checkpoint)
    layer, weight = first_convolution(state["model"], where=str(checkpoint))
    model = state["config"]["model"]
    return Filters(
        weight=weight,
        layer=layer,
        factorised=layer.replace(".spatial.", ".temporal.") in set(state["model"]) - {layer},
        model=model["name"],
        width=model["width"],
        step=state["step"],
        data=state["data"]["name"],
        checkpoint=checkpoint,
    )


def first_convolution(weights: Mapping[str, Any], *, where: str) -> tuple[str, np.ndarray]:
    """Name and weight, float32 [K, 3, T, H, W], of the first convolution among a network's parameters.

    Raises:
        ValueError: There is none, or it does not take three colours; `where` begins the message.
    """
    for name, weight in weights.items():
        if weight.ndim in (4, 5):
            if weight.shape[1] != 3:
                raise UserError(f"{where}: {name} takes {weight.shape[1]} channels; only filters on RGB can be shown")
            values = weight.float().numpy()
            return name, values if values.ndim == 5 else values[:, :, None]
    raise UserError(
        f"{where}: the network has no convolution; choose a checkpoint of a model in python -m res3d_video.train.models"
    )


def as_colors(weight: np.ndarray) -> np.ndarray:
    """Weights as colours: each filter over its largest absolute weight of all slices and colours; 0 is mid grey.

    Args:
        weight: [K, 3, T, H, W].

    Returns:
        uint8 [K, T, H, W, 3]; 255 is the largest absolute weight, 0 its negative; a filter of zeros is grey.

    >>> as_colors(np.array([0.5, -1.0, 0.0]).reshape(1, 3, 1, 1, 1)).ravel()
    array([191,   0, 128], dtype=uint8)
    """
    largest = np.abs(weight).max(axis=(1, 2, 3, 4), keepdims=True)
    scaled = weight / np.where(largest > 0, largest, 1)
    return np.moveaxis(np.rint(127.5 + 127.5 * scaled), 1, -1).astype(np.uint8)


def time_share(weight: np.ndarray) -> np.ndarray:
    """How much each filter sees of motion: the share of its squared weights that its mean over time does not have.

    Args:
        weight: [K, 3, T, H, W].

    Returns:
        float64 [K], 0 where all slices are the same, 1 where they sum to nothing.

    >>> time_share(np.array([[1.0, 1.0], [1.0, -1.0], [2.0, 0.0]]).reshape(3, 1, 2, 1, 1))
    array([0. , 1. , 0.5])
    """
    weight = weight.astype(np.float64)
    total, still = (weight**2).mean(axis=(1, 2, 3, 4)), (weight.mean(axis=2) ** 2).mean(axis=(1, 2, 3))
    return np.where(total > 0, 1 - still / np.where(total > 0, total, 1), 0.0)


def tile(colors: np.ndarray, *, columns: int, scale: int) -> np.ndarray:
    """One image of all filters, row by row; a filter's slices side by side; white between.

    Args:
        colors: uint8 [K, T, H, W, 3].
        columns: Filters in a row.
        scale: Pixels of the image across one of a filter's.

    Returns:
        uint8 [height, width, 3], of the size that `tiled_size` says.
    """
    count, num_slices, height, width, _ = colors.shape
    image_width, image_height = tiled_size(colors.shape, columns=columns, scale=scale)
    image = np.full((image_height, image_width, 3), WHITE, np.uint8)
    for k in range(count):
        top = k // columns * (height * scale + FILTER_GAP)
        left = k % columns * (filter_width(num_slices, width, scale=scale) + FILTER_GAP)
        for t in range(num_slices):
            start = left + t * (width * scale + SLICE_GAP)
            pixels = colors[k, t].repeat(scale, axis=0).repeat(scale, axis=1)
            image[top : top + height * scale, start : start + width * scale] = pixels
    return image


def tiled_size(shape: tuple[int, ...], *, columns: int, scale: int) -> tuple[int, int]:
    """Width and height in pixels of `tile` for filters [K, T, H, W, 3].

    >>> tiled_size((64, 3, 7, 7, 3), columns=8, scale=6)  # 8 · (3 · 42 + 2 · 2) + 7 · 12, 8 · 42 + 7 · 12
    (1124, 420)
    """
    count, num_slices, height, width = shape[:4]
    rows, columns = -(-count // columns), min(columns, count)
    return (
        columns * filter_width(num_slices, width, scale=scale) + (columns - 1) * FILTER_GAP,
        rows * height * scale + (rows - 1) * FILTER_GAP,
    )


def filter_width(num_slices: int, width: int, *, scale: int) -> int:
    """Pixels across a filter's slices and the gaps between them."""
    return num_slices * width * scale + (num_slices - 1) * SLICE_GAP


def scale_of(size: int, *, count: int) -> int:
    """Pixels of the image across one of a filter of `size` pixels: a slice is about 42 across, of few filters 63.

    >>> [size * scale_of(size, count=64) for size in (3, 5, 7, 11, 60)], 7 * scale_of(7, count=16)
    ([42, 40, 42, 44, 60], 63)
    """
    return max(1, round((FEW_SLICE_PIXELS if count <= FEW else SLICE_PIXELS) / size))


def columns_that_fit(count: int, *, tile_width: int, width: int) -> int:
    """Filters in a row: as many as fit, or fewer if then all rows are full or nearly.

    >>> columns_that_fit(64, tile_width=130, width=1152), columns_that_fit(64, tile_width=42, width=1152)
    (8, 16)
    >>> columns_that_fit(97, tile_width=130, width=1152), columns_that_fit(4, tile_width=130, width=1152)
    (8, 4)
    """
    most = max(1, min(count, (width + FILTER_GAP) // (tile_width + FILTER_GAP)))
    whole = max(n for n in range(1, most + 1) if count % n == 0)
    return whole if 4 * whole >= 3 * most else -(-count // -(-count // most))
