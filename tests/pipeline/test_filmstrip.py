"""The strips of a segment, and the tiles of a clip."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.clip import ClipSpec, frame_indices, num_starts
from pipeline.filmstrip import (
    Planes,
    StripLayout,
    blank_tile,
    clip_strips,
    encode_strips,
    locate,
    max_slots,
    num_strips,
    strip_contents,
    strip_fault,
    strip_header,
)

LAYOUTS = [StripLayout(128, 176), StripLayout(128, 176, phase_stride=1), StripLayout(64, 96, 4, 3)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_frame_lies_in_the_tile_that_locate_names(layout: StripLayout) -> None:
    for num_frames in range(1, 5 * layout.block_frames):
        contents = [strip_contents(s, layout, num_frames=num_frames) for s in range(num_strips(num_frames, layout))]
        strip, tile = locate(np.arange(num_frames), layout)
        assert [contents[s][t] for s, t in zip(strip, tile, strict=True)] == list(range(num_frames))
        assert all(c.max() < num_frames for c in contents)
        assert set(strip) == set(range(len(contents))), "a strip that holds no frame of its own"


def test_with_phase_stride_2_strip_0_is_the_even_and_strip_1_the_odd_frames() -> None:
    layout = StripLayout(128, 176)
    assert strip_contents(0, layout, num_frames=40).tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert strip_contents(1, layout, num_frames=40).tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    assert strip_contents(2, layout, num_frames=40).tolist() == [16, 18, 20, 22, 24, 26, 28, 30]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("whole_strips", [False, True])
@pytest.mark.parametrize("num_frames", [4, 8, 16])
def test_decoded_tiles_in_their_order_are_the_frames_asked_for(
    layout: StripLayout, whole_strips: bool, num_frames: int
) -> None:
    for frame_stride in (1, 2, 3, 4, 7, 8, 16, 32):
        spec = ClipSpec(num_frames, frame_stride)
        slots = max_slots(spec, layout)
        for video_frames in (1, 2, 15, 16, 17, 40, 100):
            starts = np.arange(num_starts(spec, video_frames=video_frames))
            frames = frame_indices(starts, spec, video_frames=video_frames)
            clips = clip_strips(frames, layout, num_slots=slots, whole_strips=whole_strips)
            for n in starts:
                tiles: list[int] = []
                for strip, first, last in zip(clips.strips[n], clips.first_tile[n], clips.last_tile[n], strict=True):
                    content = (
                        strip_contents(int(strip), layout, num_frames=video_frames) if strip >= 0 else np.array([-1])
                    )
                    tiles += content[first:last].tolist()
                assert [tiles[place] for place in clips.order[n]] == frames[n].tolist()


def test_a_stride_2_clip_touches_at_most_two_strips() -> None:
    assert max_slots(ClipSpec(8, 2), StripLayout(128, 176)) == 2
    assert max_slots(ClipSpec(8, 1), StripLayout(128, 176)) == 4
    assert max_slots(ClipSpec(16, 32), StripLayout(128, 176)) == 16
    assert max_slots(ClipSpec(8, 1), StripLayout(128, 176, phase_stride=1)) == 2


def test_too_few_slots_are_an_error_not_a_wrong_clip() -> None:
    with pytest.raises(ValueError, match="num_slots: 1 is too few"):
        clip_strips(np.array([[0, 16]]), StripLayout(128, 176), num_slots=1)


def test_tiles_must_lie_on_jpeg_block_borders() -> None:
    with pytest.raises(ValueError, match="171×128 must be a multiple of 16"):
        StripLayout(128, 171)


def test_a_strip_is_the_stack_of_its_tiles_and_luma_does_not_bleed_between_them() -> None:
    layout = StripLayout(32, 48)
    flat = np.repeat(np.arange(0, 160, 10, dtype=np.uint8), 31 * 45).reshape(16, 31, 45)  # frame i is grey 10·i
    chroma = np.full((16, 16, 23), 128, np.uint8)
    jpegs = list(encode_strips([Planes(flat, chroma, chroma)], layout, quality=95))
    assert len(jpegs) == 2
    for phase, jpeg in enumerate(jpegs):
        tiles = np.array(Image.open(io.BytesIO(jpeg)).convert("L")).reshape(8, 32, 48).astype(int)
        for i, tile in enumerate(tiles):
            assert np.abs(tile - 10 * (2 * i + phase)).max() <= 1, "edges are replicated to the tile's border"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("quality", [1, 49, 50, 85, 100])
def test_every_strip_begins_with_the_header_of_its_dataset(layout: StripLayout, quality: int) -> None:
    noise = np.random.default_rng(0)
    size = (layout.block_frames - 1, layout.tile_height, layout.tile_width)
    chroma = noise.integers(0, 256, (size[0], size[1] // 2, size[2] // 2), np.uint8)
    header = strip_header(layout, quality=quality)
    for luma in (np.zeros(size, np.uint8), noise.integers(0, 256, size, np.uint8)):
        for strip in encode_strips([Planes(luma, chroma, chroma)], layout, quality=quality):
            assert strip.startswith(header)
            assert strip_fault(np.frombuffer(strip, np.uint8), header) is None
    assert strip_header(layout, quality=70) != header


def test_the_blank_picture_is_one_tile() -> None:
    assert Image.open(io.BytesIO(blank_tile(StripLayout(128, 176)))).size == (176, 128)
