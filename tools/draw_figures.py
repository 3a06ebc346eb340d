#!/usr/bin/env python3
"""Pictures of runs: filters of the first convolution, learning curves."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # docs/decisions/0004-threads-that-wait-sleep.md

import click
import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.plots import draw_curves, picture, read_curves
from res3d_video.train.terminal import Group, OutputFile

SLICE_PIXELS = 42  # approximate size of a slice
SLICE_GAP, FILTER_GAP = 2, 12  # pixels between the slices of a filter, and between filters
WHITE = 255
WIDTH, BLOCK_HEIGHT = 1200, 50  # pixels: of the picture, and above and below each network
CAPTION = (
    "A filter is divided by its largest absolute weight: mid grey is 0, brighter is positive, darker negative, in red, "
    "green and blue."
)
EPILOG = """\b
Examples:
  python tools/draw_figures.py filters --checkpoint runs/3d/latest.pt --checkpoint runs/2d/latest.pt --out filters.png
  python tools/draw_figures.py curves runs/3d runs/2d --out curves.png

\b
filters: conv1 as in Figure 2 of arXiv:1708.05038, a block per checkpoint; the slices of a filter are side by side.
curves: training loss and clip@1 of runs, also of those that are still running.
Needs matplotlib: pip install -e ".[bench]".
"""

SHOW = {"max_content_width": 110, "show_default": True}
OUT = click.option("--out", required=True, type=OutputFile(".png"), help="PNG to write.")


@click.group(cls=Group, context_settings=SHOW, epilog=EPILOG)
def main() -> None:
    """Pictures of runs: filters of the first convolution, learning curves."""


@main.command("filters")
@click.option(
    "--checkpoint", "checkpoints", required=True, multiple=True, type=click.Path(path_type=Path),
    help="A .pt file of a run; repeat for several networks.",
)  # fmt: skip
@OUT
def filters_command(*, checkpoints: tuple[Path, ...], out: Path) -> None:
    """Filters of conv1; of 3D networks all slices in time, of R(2+1)D the filters in space."""
    draw_filters(out, [read_filters(path) for path in checkpoints])
    click.echo(f"picture {out}")


@main.command("curves")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@OUT
def curves_command(*, runs: tuple[Path, ...], out: Path) -> None:
    """Learning curves: training loss and clip@1 of runs."""
    draw_curves(out, [read_curves(folder) for folder in runs])
    click.echo(f"picture {out}")


class Filters(NamedTuple):
    """The first convolution of a network, float32 [K, 3, T, H, W], RGB; and a line that describes it.

    A 2D network has T = 1; of a factorized convolution, it is the part in space.
    """

    weight: np.ndarray
    text: str


def read_filters(checkpoint: Path) -> Filters:
    """The first convolution of a checkpoint's network.

    Raises:
        UserError: The file is not a checkpoint, or its network does not begin with a convolution on three colors.
    """
    from res3d_video.train.checkpoint import load_checkpoint, weights_of  # torch is slow to import: not for --help

    state = load_checkpoint(checkpoint)
    weight = first_convolution(weights_of(state), where=str(checkpoint))
    model, place = state["config"]["model"], "/".join(checkpoint.resolve().parts[-2:])
    text = f"{model['name']}, width {model['width']}, step {state['step']:,}, {state['data']['name']} ({place}): "
    count, _, *size = weight.shape
    return Filters(weight, f"{text}{count} filters {'×'.join(map(str, size))}")


def first_convolution(weights: Mapping[str, Any], *, where: str) -> np.ndarray:
    """Weight of the first convolution among a network's parameters, float32 [K, 3, T, H, W].

    Raises:
        UserError: There is none, or it does not take three colors; the message begins with `where`.
    """
    for name, weight in weights.items():
        if weight.ndim in (4, 5):
            if weight.shape[1] != 3:
                raise UserError(f"{where}: {name} takes {weight.shape[1]} channels; only filters on RGB can be shown")
            values = weight.float().numpy()
            return values if values.ndim == 5 else values[:, :, None]
    raise UserError(
        f"{where}: the network has no convolution; choose a checkpoint of a model in python -m res3d_video.train.models"
    )


def as_colors(weight: np.ndarray) -> np.ndarray:
    """Weights [K, 3, T, H, W] as colors, uint8 [K, T, H, W, 3]: 128 for a weight of 0, and 255 for the largest
    absolute weight of the filter.

    >>> as_colors(np.array([0.5, -1.0, 0.0]).reshape(1, 3, 1, 1, 1)).ravel()
    array([191,   0, 128], dtype=uint8)
    """
    largest = np.abs(weight).max(axis=(1, 2, 3, 4), keepdims=True)
    scaled = weight / np.where(largest > 0, largest, 1)
    return np.moveaxis(np.rint(127.5 + 127.5 * scaled), 1, -1).astype(np.uint8)


def tile(colors: np.ndarray, *, columns: int, scale: int) -> np.ndarray:
    """One image of all filters, uint8 [height, width, 3], with white gaps.

    Args:
        colors: Filters, uint8 [K, T, H, W, 3].
        columns: Filters in a row.
        scale: Size of a weight in the image, pixels.
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


def draw_filters(path: Path, networks: Sequence[Filters]) -> None:
    """Write a PNG of all networks, one below the other; raises BenchError if matplotlib is not installed."""
    images = []
    for network in networks:
        _, _, num_slices, height, width = network.weight.shape
        scale = max(1, round(SLICE_PIXELS / height))
        columns = max(1, (WIDTH - 40 + FILTER_GAP) // (num_slices * (width * scale + SLICE_GAP) + FILTER_GAP))
        whole = max(n for n in range(1, columns + 1) if len(network.weight) % n == 0)
        columns = whole if 4 * whole >= 3 * columns else columns  # full rows, if they are nearly as long
        images.append(tile(as_colors(network.weight), columns=columns, scale=scale))
    heights = [len(image) + BLOCK_HEIGHT for image in images]
    with picture(path, "Filters of conv1", size=(WIDTH, sum(heights) + 2 * BLOCK_HEIGHT)) as figure:
        panels = figure.subplots(len(images), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, network, image in zip(panels, networks, images, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_anchor("W")
            axes.set_axis_off()
            axes.set_title(network.text, loc="left", fontsize=11.5)
        figure.supxlabel(CAPTION, x=0.01, ha="left", fontsize=10.5, color="0.3")


if __name__ == "__main__":
    main()
