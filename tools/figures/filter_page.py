"""Filters of several networks on one page, a block each; as a PNG, or as a GIF whose frames are the slices in time."""

import math
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.bench.chart import DPI, picture
from res3d_video.tools.figures.filters import (
    Filters,
    as_colors,
    columns_that_fit,
    filter_width,
    scale_of,
    tile,
    tiled_size,
    time_share,
)

WIDTH, MARGIN = 1200, 24  # pixels
TITLE_HEIGHT, BLOCK_TITLE_HEIGHT, BLOCK_GAP, CAPTION_HEIGHT, LINE_HEIGHT = 16, 30, 26, 74, 20
SLICE_MS = 400  # of the GIF
CAPTION_CHARACTERS = 150  # in a line
CAPTION = (
    "Each filter is divided by its largest absolute weight over all of its slices and colours: mid grey is 0, brighter "
    "is positive, darker negative, in red, green and blue. Filters stand in the order of their channels."
)
ABOUT_TIME = (
    " Change in time: the part of a filter's squared weights that is not in its mean over time, averaged over the "
    "filters; 67% of three slices of random weights."
)


class Block(NamedTuple):
    """Where a network's filters stand on the page.

    Attributes:
        columns, scale: For `tile`.
        top: Of the image, pixels from the page's top.
    """

    columns: int
    scale: int
    top: int
    height: int


def lay_out(shapes: Sequence[tuple[int, ...]], *, title_lines: int = 1) -> tuple[list[Block], int]:
    """Blocks below one another, and the height of the page in pixels.

    Args:
        shapes: [K, T, H, W, 3] of each network's filters.
    """
    blocks, top = [], MARGIN + TITLE_HEIGHT + LINE_HEIGHT * (title_lines - 1)
    for shape in shapes:
        scale = scale_of(shape[2], count=shape[0])
        across = filter_width(shape[1], shape[3], scale=scale)
        columns = columns_that_fit(shape[0], tile_width=across, width=WIDTH - 2 * MARGIN)
        height = tiled_size(shape, columns=columns, scale=scale)[1]
        top += BLOCK_TITLE_HEIGHT
        blocks.append(Block(columns, scale, top, height))
        top += height + BLOCK_GAP
    return blocks, top + CAPTION_HEIGHT


def draw_filters(path: Path, networks: Sequence[Filters], *, title: str) -> None:
    """Write a PNG; a filter's slices in time stand side by side.

    Raises:
        BenchError: matplotlib is not installed.
        ValueError: There is no network.
    """
    draw_page(path, networks, [as_colors(filters.weight) for filters in networks], title=title)


def animate_filters(path: Path, networks: Sequence[Filters], *, title: str) -> None:
    """Write a GIF that shows one slice in time after the other and begins anew; 2D filters stay as they are.

    Raises:
        BenchError: matplotlib is not installed.
        ValueError: There is no network, or none has more than one slice.
    """
    num_frames = math.lcm(*(filters.num_slices for filters in networks))
    if networks and num_frames == 1:
        raise UserError(f"{path}: no filter has more than one slice in time; add a 3D network's checkpoint")
    colors = [as_colors(filters.weight) for filters in networks]
    with tempfile.TemporaryDirectory() as folder:
        pages = []
        for t in range(num_frames):
            pages.append(Path(folder) / f"{t}.png")
            shown = [c[:, t % c.shape[1], None] for c in colors]
            draw_page(pages[-1], networks, shown, title=title)
        write_gif(path, pages)


def write_gif(path: Path, pages: Sequence[Path]) -> None:
    """Pictures of one size, one after the other, without end."""
    from PIL import Image  # comes with matplotlib

    images = [Image.open(page).convert("RGB") for page in pages]
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=SLICE_MS, loop=0)


def draw_page(path: Path, networks: Sequence[Filters], colors: Sequence[np.ndarray], *, title: str) -> None:
    """One page; `colors` are uint8 [K, T, H, W, 3], for each network what is shown of it."""
    if not networks:
        raise UserError("filters: there is no network; give at least one checkpoint")
    blocks, height = lay_out([c.shape for c in colors], title_lines=title.count("\n") + 1)
    with picture(path, "", size=(WIDTH, height)) as figure:
        write(figure, title, left=MARGIN, top=10, fontsize=14)  # picture's would move with the height
        for filters, shown, block in zip(networks, colors, blocks, strict=True):
            image = tile(shown, columns=block.columns, scale=block.scale)
            figure.figimage(image, MARGIN, height - block.top - block.height)  # pixel for pixel
            write(figure, describe(filters, num_shown=shown.shape[1]), left=MARGIN, top=block.top - 24, fontsize=11.5)
        caption = CAPTION + (ABOUT_TIME if any(filters.num_slices > 1 for filters in networks) else "")
        caption = "\n".join(textwrap.wrap(caption, CAPTION_CHARACTERS))
        write(figure, caption, left=MARGIN, top=height - CAPTION_HEIGHT, fontsize=10.5, color="0.3")


def write(figure: Any, text: str, *, left: int, top: int, **look: Any) -> None:
    """Text at a place in pixels from the figure's upper left corner."""
    width, height = figure.get_size_inches() * DPI
    figure.text(left / width, 1 - top / height, text, va="top", **look)


def describe(filters: Filters, *, num_shown: int) -> str:
    """The title of a block, as "res3d18, width 64, step 90,000, ucf101 (run/latest.pt): 64 filters 3×7×7, …".

    Args:
        num_shown: Slices of a filter in this picture, all or one.
    """
    count, _, num_slices, height, width = filters.weight.shape
    place = "/".join(filters.checkpoint.resolve().parts[-2:])
    text = f"{filters.model}, width {filters.width}, step {filters.step:,}, {filters.data} ({place}): {count} "
    if filters.factorised:
        return text + f"spatial filters 1×{height}×{width} of the factorised conv1"
    if num_slices == 1:
        return text + f"filters {height}×{width} on single frames"
    how = "slices in time side by side" if num_shown > 1 else "one slice in time after the other"
    share = float(time_share(filters.weight).mean())
    return text + f"filters {num_slices}×{height}×{width}, {how}; change in time {share:.0%}"
