"""Grids, zoom, times and words: small spaces gone through whole."""

import numpy as np
import pytest

from res3d_video.tools.playing.layout import Grid, default_zoom, durations_cs, grid, grid_size, tile_corner
from res3d_video.tools.playing.pixels import as_grey, as_pixels, crop_box, enlarged, evenly, with_box
from res3d_video.tools.playing.words import aligned, frames_text, seconds, wrapped


def test_every_grid_has_room_for_its_tiles_fits_its_width_and_wastes_no_row() -> None:
    for count in range(1, 70):
        for tile_width in (56, 112, 171, 342, 700, 2000):
            columns, rows = grid(count, tile_width=tile_width, gap=8, width=1468)
            width, _ = grid_size(Grid(columns, rows), tile_width=tile_width, tile_height=9, gap=8)
            assert columns * rows >= count
            assert columns * (rows - 1) < count
            assert width <= 1468 or columns == 1
            assert rows == 1 or (columns + 1) * (tile_width + 8) - 8 > 1468 or (columns + 1) * (rows - 1) < count


def test_tiles_of_a_grid_do_not_overlap_and_fill_its_size() -> None:
    shape, sides = Grid(4, 3), {"tile_width": 30, "tile_height": 20, "gap": 5}
    page = np.zeros(grid_size(shape, **sides)[::-1], int)
    for place in range(12):
        x, y = tile_corner(place, columns=4, **sides)
        page[y : y + 20, x : x + 30] += 1
    assert page.max() == 1
    assert page.sum() == 12 * 600
    assert page[-1, -1] == 1


def test_durations_add_up_to_the_right_time_and_none_is_too_short() -> None:
    for fps in (0.5, 1, 10, 12.5, 14.985, 24, 25, 29.97, 30, 50):
        for count in (1, 2, 8, 33, 300):
            found = durations_cs(count, frame_s=1 / fps)
            assert len(found) == count
            assert abs(sum(found) - 100 * count / fps) <= 0.5
            assert min(found) >= 2
    assert set(durations_cs(9, frame_s=1 / 240)) == {2}


def test_zoom_is_whole_and_never_below_one() -> None:
    assert [default_zoom(height, wanted=256) for height in (16, 64, 96, 128, 171, 256, 1080)] == [16, 4, 3, 2, 1, 1, 1]


def test_evenly_spaced_frames_begin_and_end_with_the_segment() -> None:
    for count in range(1, 60):
        for most in range(1, 60):
            found = evenly(count, most=most)
            assert len(found) == min(count, most)
            assert (np.diff(found) > 0).all()
            if most > 1:
                assert (found[0], found[-1]) == (0, count - 1)
                assert np.ptp(np.diff(found)) <= 1 if len(found) > 2 else True


def expand(text: str) -> list[int]:
    """The numbers that a text of frames tells."""
    numbers: list[int] = []
    for part in text.replace(", then ", ", ").split(", "):
        part, _, step = part.partition(" by ")
        part, _, times = part.partition(" ×")
        first, _, last = part.partition("…")
        numbers += list(range(int(first), int(last or first) + 1, int(step or 1))) * int(times or 1)
    return numbers


def test_the_text_of_every_clip_tells_its_frames_again() -> None:
    for num_frames in (1, 2, 3, 8):
        for stride in (1, 2, 5):
            for length in range(1, 20):
                for start in range(length):
                    frames = [min(start + stride * t, length - 1) for t in range(num_frames)]
                    assert expand(frames_text(frames)) == frames
                    assert frames_text(frames).count(", ") <= 2
    assert frames_text([0, 17, 35, 52]) == "0, 17, 35, then 52"


def test_times_need_a_rate() -> None:
    assert [seconds(30, fps=29.97), seconds(0, fps=25), seconds(3, fps=0)] == ["1.00 s", "0.00 s", ""]


@pytest.mark.parametrize("width", range(1, 30))
def test_wrapped_text_keeps_all_letters_within_the_width(width: int) -> None:
    text = "step 12, epoch 1: a word_that_is_longer_than_a_line, and  short ones"
    lines = wrapped(text, width=width, measure=len)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(0 < len(line) <= width for line in lines)


def test_rows_are_aligned() -> None:
    lines = aligned([("a", "bb", 1), ("ccc", "d", 22)])
    assert lines == ["a    bb  1", "ccc  d   22"]


def test_undoing_the_normalisation_gives_every_pixel_back() -> None:
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    for mean, std in ((128.0, 1.0), (0.0, 255.0), ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))):
        clip = ((pixels - np.array(mean)) / np.array(std)).astype(np.float32)
        np.testing.assert_array_equal(as_pixels(clip, mean=mean, std=std), pixels)
    assert as_pixels(np.array([[9e9, -9e9, 0.0]]), mean=128, std=1).tolist() == [[255, 0, 128]]


def test_grey_keeps_the_order_of_values_and_nothing_is_mid_grey() -> None:
    values = np.linspace(-3, 2, 11)
    grey, white = as_grey(np.repeat(values[:, None], 3, axis=1))
    assert white == 3
    assert (np.diff(grey[:, 0].astype(int)) > 0).all()
    assert (grey.min(), grey[values == 0][0, 0]) == (1, 128)
    assert as_grey(np.zeros((2, 3)))[0].tolist() == [[128] * 3] * 2


def test_enlarging_repeats_pixels_and_shrinking_leaves_some_out() -> None:
    picture = np.arange(12).reshape(2, 2, 3)
    np.testing.assert_array_equal(enlarged(picture, height=6, width=4), picture.repeat(3, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(enlarged(enlarged(picture, height=6, width=4), height=2, width=2), picture)


def test_a_box_is_drawn_inside_its_edges_and_nowhere_else() -> None:
    drawn = with_box(np.full((40, 50, 3), 7, np.uint8), (10, 5, 30, 35))
    changed = (drawn != 7).any(axis=2)
    assert np.argwhere(changed).min(axis=0).tolist() == [5, 10]
    assert np.argwhere(changed).max(axis=0).tolist() == [34, 29]
    assert not changed[8:32, 13:27].any()
    assert drawn[5, 10].tolist() == drawn[34, 29].tolist() == [255, 221, 0]


def test_the_box_of_a_crop_grows_with_the_zoom_and_shrinks_with_the_scale() -> None:
    for zoom in (1.0, 2.0, 0.5):
        for resize in (64, 128, 256):
            scale = resize / 128
            crop = resize * 7 // 8
            left, top, right, bottom = crop_box(top=8, left=16, crop=crop, scale=scale, zoom=zoom)
            assert (left, top) == (round(16 * zoom / scale), round(8 * zoom / scale))
            assert right - left == bottom - top == 112 * zoom
