"""The first convolution's filters: Figure 2 of arXiv:1708.05038."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.figures.plots import picture
from res3d_video.train.checkpoint import load_checkpoint

SLICE_PIXELS = 42  # about, across a slice of a filter
SLICE_GAP, FILTER_GAP = 2, 12  # pixels between a filter's slices, and between filters
WHITE = 255
WIDTH, BLOCK_HEIGHT = 1200, 50  # pixels of the page, and of what stands around an image
CAPTION = (
    "A filter is divided by its largest absolute weight: mid grey is 0, brighter is positive, darker negative, in red, "
    "green and blue.\nChange in time: the part of its squared weights that its mean over time does not have; 67% of "
    "three slices of random weights."
)


@dataclass(frozen=True, eq=False)
class Filters:
    """conv1 of a checkpoint.

    Attributes:
        weight: float32 [K, 3, T, H, W], colors in the order of the clips, red first; a 2D network has T = 1.
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

    def describe(self) -> str:
        """Such as "res3d18, width 64, step 90,000, ucf101 (run/latest.pt): 64 filters 3×7×7, …"."""
        count, _, num_slices, height, width = self.weight.shape
        place = "/".join(self.checkpoint.resolve().parts[-2:])
        text = f"{self.model}, width {self.width}, step {self.step:,}, {self.data} ({place}): {count} "
        if self.factorised:
            return text + f"spatial filters 1×{height}×{width} of the factorised conv1"
        if num_slices == 1:
            return text + f"filters {height}×{width} on single frames"
        share = float(time_share(self.weight).mean())
        return text + f"filters {num_slices}×{height}×{width}, slices side by side; change in time {share:.0%}"


def read_filters(checkpoint: Path) -> Filters:
    """The first convolution of any model of train.models.

    Raises:
        UserError: The file is missing, damaged or not a checkpoint; or its network does not begin with a convolution
            on three colors.
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
        UserError: There is none, or it does not take three colors; `where` begins the message.
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
    """Weights as colors: each filter over its largest absolute weight of all slices and colors; 0 is mid grey.

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
        uint8 [height, width, 3].
    """
    count, columns = len(colors), min(columns, len(colors))
    rows = -(-count // columns)
    slices = colors.repeat(scale, axis=2).repeat(scale, axis=3)  # [K, T, h, w, 3]
    slices = np.pad(slices, ((0, 0), (0, 0), (0, 0), (0, SLICE_GAP), (0, 0)), constant_values=WHITE)
    filters = slices.swapaxes(1, 2).reshape(count, slices.shape[2], -1, 3)  # [K, h, T·(w + gap), 3]
    around = (0, rows * columns - count), (0, FILTER_GAP), (0, FILTER_GAP - SLICE_GAP), (0, 0)
    filters = np.pad(filters, around, constant_values=WHITE)
    grid = filters.reshape(rows, columns, *filters.shape[1:]).swapaxes(1, 2)  # [rows, h, columns, w, 3]
    return grid.reshape(rows * filters.shape[1], -1, 3)[:-FILTER_GAP, :-FILTER_GAP]


def draw_filters(path: Path, networks: Sequence[Filters], *, title: str) -> None:
    """Write a PNG, an image a network below one another; a filter's slices in time stand side by side.

    Raises:
        BenchError: matplotlib is not installed.
    """
    images = []
    for network in networks:
        _, _, num_slices, height, width = network.weight.shape
        scale = max(1, round(SLICE_PIXELS / height))
        columns = max(1, (WIDTH - 40 + FILTER_GAP) // (num_slices * (width * scale + SLICE_GAP) + FILTER_GAP))
        whole = max(n for n in range(1, columns + 1) if len(network.weight) % n == 0)
        columns = whole if 4 * whole >= 3 * columns else columns  # full rows where they are nearly as long
        images.append(tile(as_colors(network.weight), columns=columns, scale=scale))
    heights = [len(image) + BLOCK_HEIGHT for image in images]
    with picture(path, title, size=(WIDTH, sum(heights) + 2 * BLOCK_HEIGHT)) as figure:
        panels = figure.subplots(len(images), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, network, image in zip(panels, networks, images, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_anchor("W")
            axes.set_axis_off()
            axes.set_title(network.describe(), loc="left", fontsize=11.5)
        figure.supxlabel(CAPTION, x=0.01, ha="left", fontsize=10.5, color="0.3")
