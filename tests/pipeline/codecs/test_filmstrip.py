"""Tiles join to JPEGs in any order, and show what each shows alone."""

import io
import itertools

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from res3d_video.pipeline.codecs import EncodedSegment, Planes
from res3d_video.pipeline.codecs.filmstrip import (
    EOI,
    FilmstripCodec,
    segments,
)
from res3d_video.pipeline.errors import TooLargeError

# Decoders smooth color over a tile's upper and lower edge, as (3 of this tile + 1 of the next) / 4. Blue takes 1.772 of
# the difference of two bytes.
EDGE_LEVELS = 255 / 4 * 1.772 + 1


def codec_of(height: int = 32, width: int = 48, **others: int) -> FilmstripCodec:
    return FilmstripCodec.new(height=height, width=width, **({"quality": 85} | others))


CODECS = [codec_of(), codec_of(phase_stride=1), codec_of(64, 96, strip_frames=4, phase_stride=3)]


def noise(codec: FilmstripCodec, num_frames: int) -> Planes:
    """Frames of random blocks in random colors: neighbors differ as much as they can."""
    random = np.random.default_rng(num_frames)
    size = num_frames, codec.tile_height // 8, codec.tile_width // 8
    y, u, v = (np.kron(random.integers(0, 256, size, np.uint8), np.ones((8, 8), np.uint8)) for _ in range(3))
    return Planes(y, u[:, ::2, ::2].copy(), v[:, ::2, ::2].copy())


def encoded(codec: FilmstripCodec, num_frames: int) -> EncodedSegment:
    planes, step = noise(codec, num_frames), codec.block_frames
    blocks = [Planes(*(p[i : i + step] for p in (planes.y, planes.u, planes.v))) for i in range(0, num_frames, step)]
    return codec.encode(blocks, top=0, left=0)


def tiles_of(segment: EncodedSegment) -> list[bytes]:
    return [segment.files[r.file][r.offset : r.offset + r.size] for r in segment.frames]


@pytest.mark.parametrize("codec", CODECS)
def test_every_frame_lies_in_its_strip(codec: FilmstripCodec) -> None:
    for num_frames in [*range(1, 3 * codec.block_frames + 2), 200, 9000 // codec.tile_height * 32]:
        segment = encoded(codec, num_frames)
        tiles = tiles_of(segment)
        assert len(segment.frames) == num_frames
        strip = codec.strips_of(num_frames)
        assert list(segment.files) == list(codec.file_sizes(num_frames)) == sorted(segment.files)
        for number, (name, jpeg) in enumerate(segment.files.items()):
            own = np.flatnonzero(strip == number)  # in order; a strip that holds no frame would have none
            assert {segment.frames[frame].file for frame in own} == {name}
            assert jpeg == codec.join([tiles[frame] for frame in own])


@pytest.mark.parametrize("quality", [1, 50, 85, 100])
def test_joined_tiles_show_what_each_shows_alone_but_for_color_at_the_edge(quality: int) -> None:
    codec = codec_of(quality=quality)
    tiles = tiles_of(encoded(codec, 24))
    alone = np.stack([simplejpeg.decode_jpeg(codec.join([tile])) for tile in tiles]).astype(int)
    grey = np.stack([simplejpeg.decode_jpeg(codec.join([tile]), colorspace="GRAY") for tile in tiles])
    worst = 0
    for order in (range(24), range(23, -1, -1), [5] * 9, [3, 3, 0, 17], [8]):
        jpeg = codec.join([tiles[i] for i in order])
        together = simplejpeg.decode_jpeg(jpeg).reshape(-1, *alone.shape[1:]).astype(int)
        inside = slice(1, -1)
        assert np.array_equal(together[:, inside], alone[list(order)][:, inside])
        worst = max(worst, np.abs(together - alone[list(order)]).max())
        assert np.array_equal(simplejpeg.decode_jpeg(jpeg, colorspace="GRAY").ravel(), grey[list(order)].ravel())
    assert 0 < worst <= EDGE_LEVELS


@pytest.mark.parametrize("num_tiles", [1, 2, 7, 8, 9, 64, 511])
def test_every_number_of_tiles_is_a_jpeg_for_other_decoders_too(num_tiles: int) -> None:
    """Pillow's libjpeg-turbo is another build than simplejpeg's; 511 tiles of 128 are the tallest JPEG."""
    codec = codec_of(128, 48)
    assert codec.max_frames == 511
    tiles = list(itertools.islice(itertools.cycle(tiles_of(encoded(codec, 16))), num_tiles))
    picture = Image.open(io.BytesIO(codec.join(tiles)))
    assert picture.size == (48, 128 * num_tiles)
    pixels = simplejpeg.decode_jpeg(codec.join(tiles))
    assert np.array_equal(np.array(picture), pixels)
    assert codec.decode([np.frombuffer(codec.join(tiles), np.uint8)]).shape == (num_tiles, 128, 48, 3)


@pytest.mark.parametrize("quality", [1, 49, 50, 85, 100])
def test_every_tile_is_encoded_with_the_header_of_its_dataset(quality: int) -> None:
    """Were it another, the tile's bytes would be cut at the wrong place."""
    codec, planes = codec_of(quality=quality), noise(codec_of(), 1)
    flat = Planes(np.zeros_like(planes.y), planes.u, planes.v)
    for one in (planes, flat):
        jpeg = simplejpeg.encode_jpeg_yuv_planes(one.y[0], one.u[0], one.v[0], quality=quality)
        (tile,) = tiles_of(codec.encode([one], top=0, left=0))
        assert jpeg.endswith(tile + EOI)
        # The dataset's header is the encoder's and, before its last segment, the restart interval.
        *others, scan = segments(codec.header)
        assert codec.header[: others[-1][1]] + codec.header[scan[1] :] + tile + EOI == jpeg
    assert codec_of(quality=70).header != codec.header


def test_the_blank_tile_is_grey_and_a_codec_is_what_its_description_says() -> None:
    codec = codec_of(128, 176)
    picture = simplejpeg.decode_jpeg(codec.join([codec.blank]))
    assert picture.shape == (128, 176, 3)
    assert np.abs(picture.astype(int) - 128).max() <= 1
    assert FilmstripCodec.of(codec.describe()) == codec


def test_a_segment_that_gives_more_than_allowed_stops_soon() -> None:
    codec = codec_of()
    size = sum(map(len, encoded(codec, 32).files.values()))
    blocks = [noise(codec, 16)] * 2
    assert codec.encode(blocks, top=0, left=0, max_bytes=2 * size)
    with pytest.raises(TooLargeError):
        codec.encode(blocks, top=0, left=0, max_bytes=size // 4)


def test_edges_are_replicated_to_the_tile_s_border() -> None:
    y, u, v = (np.arange(2 * h * w, dtype=np.uint8).reshape(2, h, w) for h, w in ((7, 9), (4, 5), (4, 5)))
    tiles = Planes(y, u, v).in_tiles(top=2, left=4, height=16, width=16)
    assert np.array_equal(tiles.y, np.pad(y, ((0, 0), (2, 7), (4, 3)), mode="edge"))
    assert np.array_equal(tiles.u, np.pad(u, ((0, 0), (1, 3), (2, 1)), mode="edge"))
