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
    time_share,
)
from tests.tools.figures.made import pixels_of, write_checkpoint

GREY = [128, 128, 128]


def test_a_filter_is_normalised_over_all_of_its_slices_together() -> None:
    weight = np.zeros((2, 3, 2, 1, 1), np.float32)
    weight[0, 0, 0], weight[0, 1, 1] = 4.0, -1.0  # red in the first slice; a quarter of it, less green, in the second
    weight[1, 2, 1] = -0.01  # the other filter has its own largest weight
    assert as_colors(weight)[:, :, 0, 0].tolist() == [[[255, 128, 128], [128, 96, 128]], [GREY, [128, 128, 0]]]


def test_a_filter_of_zeros_is_grey_and_so_is_its_share_of_time_nothing() -> None:
    weight = np.zeros((1, 3, 3, 2, 2), np.float32)
    assert (as_colors(weight) == 128).all()
    assert time_share(weight).tolist() == [0.0]


def test_random_filters_of_three_slices_change_in_time_by_two_thirds() -> None:
    weight = np.random.default_rng(0).normal(size=(200, 3, 3, 7, 7))
    assert time_share(weight).mean() == pytest.approx(2 / 3, abs=0.01)


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


def test_the_first_convolution_of_every_family_is_found(tmp_path: Path) -> None:
    found = {}
    for model in ("res3d10", "res2d18", "mc3", "rmc3", "r2plus1d18", "c3d", "sr18-56"):
        width = 16 if model == "r2plus1d18" else 4
        filters = read_filters(write_checkpoint(tmp_path / f"{model}.pt", model=model, width=width))
        found[model] = (filters.layer, filters.weight.shape, filters.factorised)
        assert (filters.model, filters.width, filters.step, filters.data) == (model, width, 1_500, "demo")
    assert found == {
        "res3d10": ("stem.conv.weight", (4, 3, 3, 7, 7), False),
        "res2d18": ("stem.conv.weight", (4, 3, 1, 7, 7), False),
        "mc3": ("stem.conv.weight", (4, 3, 3, 7, 7), False),
        "rmc3": ("stem.conv.weight", (4, 3, 1, 7, 7), False),
        "r2plus1d18": ("stem.conv.spatial.weight", (11, 3, 1, 7, 7), True),
        "c3d": ("convs.conv1a.conv.weight", (4, 3, 3, 3, 3), False),
        "sr18-56": ("stem.conv.weight", (4, 3, 3, 5, 5), False),
    }


def test_networks_that_do_not_begin_with_filters_on_colours_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^f.pt: c takes 2 channels; only filters on RGB can be shown$"):
        first_convolution({"c": torch.zeros(4, 2, 3, 3)}, where="f.pt")
    with pytest.raises(ValueError, match=r"^f.pt: the network has no convolution"):
        first_convolution({"fc": torch.zeros(4, 2)}, where="f.pt")


def known_weight() -> torch.Tensor:
    """Of four filters the third is red in its first slice, nothing in the second and green in the third."""
    weight = torch.zeros(4, 3, 3, 7, 7)
    weight[2, 0, 0], weight[2, 1, 2] = 0.5, 0.5
    return weight


def test_the_tile_of_a_known_filter_has_the_known_colors_on_the_page(tmp_path: Path) -> None:
    three = read_filters(write_checkpoint(tmp_path / "3d.pt", model="res3d10", weight=known_weight()))
    two = read_filters(write_checkpoint(tmp_path / "2d.pt", model="res2d18"))
    draw_filters(tmp_path / "new" / "f.png", [three, two], title="two\nlines")
    page = pixels_of(tmp_path / "new" / "f.png")
    assert page.shape[1] == 1200
    for color in ([255, 128, 128], [128, 255, 128]):  # one slice each, and text is grey
        rows, columns = np.nonzero((page == color).all(axis=2))
        assert len(rows) > 0.8 * 42 * 42 * 0.5
        assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=3)


def test_the_title_of_a_block_says_what_the_filters_are(tmp_path: Path) -> None:
    weight = known_weight()
    three = read_filters(write_checkpoint(tmp_path / "run" / "latest.pt", model="res3d10", weight=weight))
    head = "res3d10, width 4, step 1,500, demo (run/latest.pt): 4 filters 3×7×7, "
    share = time_share(weight.numpy()).mean()  # (0 + 0 + 2/3 + 0) / 4
    assert share == pytest.approx(1 / 6)
    assert three.describe() == head + "slices side by side; change in time 17%"
    factorised = read_filters(write_checkpoint(tmp_path / "r.pt", model="r2plus1d18", width=16))
    assert factorised.describe().endswith("11 spatial filters 1×7×7 of the factorised conv1")
    flat = read_filters(write_checkpoint(tmp_path / "2d.pt", model="res2d18"))
    assert flat.describe().endswith("4 filters 7×7 on single frames")
