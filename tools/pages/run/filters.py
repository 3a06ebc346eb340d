"""conv1 of a run on a page: its filters as a grid that plays, one slice in time after the other."""

import io

import numpy as np

from res3d_video.tools.figures.filters import (
    Filters,
    as_colors,
    columns_that_fit,
    scale_of,
    tile,
    time_share,
)
from res3d_video.tools.pages.page import Markup, render
from res3d_video.tools.pages.player import Sprite, data_uri, player

WIDTH = 520  # pixels of a grid, about
FPS = 2.5  # slices a second, as the GIF of tools/draw_figures.py


def filter_sprite(weight: np.ndarray) -> tuple[Sprite, tuple[int, int]]:
    """Grids of all filters, one a slice in time, one below the other; and width and height of a grid, pixels.

    Args:
        weight: float32 [K, 3, T, H, W].
    """
    from PIL import Image

    colors = as_colors(weight)
    count, num_slices, height, width, _ = colors.shape
    scale = max(2, scale_of(max(height, width), count=count) * 2 // 3)
    columns = columns_that_fit(count, tile_width=width * scale, width=WIDTH)
    grids = [tile(colors[:, t : t + 1], columns=columns, scale=scale) for t in range(num_slices)]
    inside = tile(np.zeros_like(colors[:, :1]), columns=columns, scale=scale)[..., 0] == 0  # between filters: nothing
    alpha = np.where(inside, 255, 0).astype(np.uint8)
    pixels = np.concatenate([np.dstack([grid, alpha]) for grid in grids])
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, format="PNG", optimize=True)
    return Sprite(file.getvalue(), num_slices, "png"), (grids[0].shape[1], grids[0].shape[0])


def filter_figure(filters: Filters, *, name: str) -> Markup:
    """The filters of a run: a player, or a still picture of a network that looks at single frames."""
    sprite, size = filter_sprite(filters.weight)
    count, _, num_slices, height, width = filters.weight.shape
    what = (
        f"{count} filters of {num_slices}×{height}×{width}"
        if num_slices > 1
        else f"{count} filters of {height}×{width}"
    )
    about = f"{name}: {what}, step {filters.step:,}"
    if filters.factorised:
        about += "; those in space of a factorised convolution"
    if num_slices == 1:
        return render("picture.html", uri=data_uri(sprite.content, sprite.kind), text=f"{what} of {name}", size=size,
                      caption=f"{about}. They look at single frames, so nothing moves.")  # fmt: skip
    share = float(time_share(filters.weight).mean())
    return player(
        [sprite],
        [(0, t) for t in range(num_slices)],
        size=size,
        name=f"the filters of {name}",
        text=f"{what} of {name}, {100 * share:.0f} % of their squared weights change in time",
        caption=f"{about}; {100 * share:.0f} % of their squared weights change in time (of random ones "
        f"{100 * (1 - 1 / num_slices):.0f} %).",
        frame_names=[f"slice {t + 1} of {num_slices}" for t in range(num_slices)],
        fps=FPS,
    )
