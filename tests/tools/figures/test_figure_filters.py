"""tools/figures/filters.py: colors, tiles, and where a known filter is on the page."""

from pathlib import Path

import numpy as np
import pytest
import torch

from res3d_video.tools.figures.filters import (
    FILTER_GAP,
    SLICE_GAP,
    as_colors,
    draw_filters,
    first_convolution,
    read_filters,
    tile,
)
from tests.tools.figures.made import pixels_of, write_checkpoint

GREY = [128, 128, 128]


def test_a_filter_is_normalised_over_all_of_its_slices_together() -> None:
    weight = np.zeros((2, 3, 2, 1, 1), np.float32)
    weight[0, 0, 0], weight[0, 1, 1] = 4.0, -1.0  # red in the first slice; a quarter of it, less green, in the second
    weight[1, 2, 1] = -0.01  # the other filter has its own largest weight
    assert as_colors(weight)[:, :, 0, 0].tolist() == [[[255, 128, 128], [128, 96, 128]], [GREY, [128, 128, 0]]]
    assert (as_colors(0 * weight) == 128).all()


def test_tiles_stand_row_by_row_with_slices_side_by_side_and_white_between() -> None:
    colors = np.arange(3 * 2 * 3, dtype=np.uint8).reshape(3, 2, 1, 1, 3)  # 3 filters of 2 slices of 1 pixel
    image = tile(colors, columns=2, scale=2)
    pair = 2 * 2 + SLICE_GAP
    assert image.shape == (2 * 2 + FILTER_GAP, 2 * pair + FILTER_GAP, 3)
    expected = np.full_like(image, 255)
    for k, (top, left) in enumerate([(0, 0), (0, pair + FILTER_GAP), (2 + FILTER_GAP, 0)]):
        for t in (0, 1):
            start = left + t * (2 + SLICE_GAP)
            expected[top : top + 2, start : start + 2] = colors[k, t, 0, 0]
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("res3d10", (4, 3, 3, 7, 7)),
        ("res2d18", (4, 3, 1, 7, 7)),
        ("rmc3", (4, 3, 1, 7, 7)),
        ("r2plus1d18", (11, 3, 1, 7, 7)),
        ("c3d", (4, 3, 3, 3, 3)),
        ("sr18-56", (4, 3, 3, 5, 5)),
    ],
)
def test_the_first_convolution_of_every_family_is_found(tmp_path: Path, model: str, shape: tuple) -> None:
    width = 16 if model == "r2plus1d18" else 4
    filters = read_filters(write_checkpoint(tmp_path / "run" / "latest.pt", model=model, width=width))
    count, _, *size = shape
    assert (filters.weight.shape, filters.step) == (shape, 1_500)
    network = f"{model}, width {width}, step 1,500, demo (run/latest.pt)"
    assert filters.text == f"{network}: {count} filters {size[0]}×{size[1]}×{size[2]}"


def test_networks_that_do_not_begin_with_filters_on_colours_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^f.pt: c takes 2 channels; only filters on RGB can be shown$"):
        first_convolution({"c": torch.zeros(4, 2, 3, 3)}, where="f.pt")
    with pytest.raises(ValueError, match=r"^f.pt: the network has no convolution"):
        first_convolution({"fc": torch.zeros(4, 2)}, where="f.pt")


def test_the_tile_of_a_known_filter_has_the_known_colors_on_the_page(tmp_path: Path) -> None:
    weight = torch.zeros(4, 3, 3, 7, 7)
    weight[2, 0, 0], weight[2, 1, 2] = 0.5, 0.5  # the third is red, then nothing, then green
    three = read_filters(write_checkpoint(tmp_path / "3d.pt", model="res3d10", weight=weight))
    two = read_filters(write_checkpoint(tmp_path / "2d.pt", model="res2d18"))
    draw_filters(tmp_path / "new" / "f.png", [three, two])
    page = pixels_of(tmp_path / "new" / "f.png")
    assert page.shape[1] == 1200
    for color in ([255, 128, 128], [128, 255, 128]):  # one slice each, and text is grey
        rows, columns = np.nonzero((page == color).all(axis=2))
        assert len(rows) > 0.8 * 42 * 42 * 0.5
        assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=3)
