"""A stored segment, or some of its frames, as strips that a page plays: the shard's very JPEGs, or smaller ones."""

from dataclasses import dataclass

import numpy as np
import simplejpeg

from res3d_video.pipeline.frames import FrameFiles, decode_frames, read_frames
from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.pages.player import Sprite

MAX_SHOWN = 512  # frames; of a longer segment every second, third, …
TILES = 8  # frames in a strip that is made here
MIN_HEIGHT = 64  # pixels; smaller pictures show little
FACTORS = {1: (60,), 2: (75, 50), 4: (75, 50)}  # how many times smaller -> JPEG quality; what is best comes first
HOPE = 1.2  # a guess of so many times the room is worth a try


@dataclass(frozen=True)
class Strips:
    """What `tools.pages.player.player` needs of a segment.

    Attributes:
        frames: Sprite and tile of each frame that is shown.
        shown: int64 [F], which stored frame of the segment each of them is, rising.
        size: Width and height of a tile, pixels.
        as_stored: Whether the sprites are the shard's own strips.
    """

    sprites: list[Sprite]
    frames: list[tuple[int, int]]
    shown: np.ndarray
    size: tuple[int, int]
    as_stored: bool

    @property
    def num_bytes(self) -> int:
        """Of all pictures."""
        return sum(len(sprite.content) for sprite in self.sprites)


def strips_of(
    index: ShardIndex, sample: int, *, files: FrameFiles, max_bytes: int, frames: np.ndarray | None = None
) -> Strips:
    """Frames of a sample for a page, the best pictures of them that are not too large.

    Args:
        max_bytes: Of all pictures together; a page needs a third more. One frame is shown however large it is.
        frames: Stored frames to show, rising; None shows the whole segment.

    Raises:
        ShardError: A picture is missing, damaged or cannot be decoded.
    """
    wanted = np.arange(int(index.num_frames[sample])) if frames is None else np.unique(frames)
    shown = wanted[:: -(-len(wanted) // MAX_SHOWN)]
    if index.codec == "filmstrip" and len(shown) == len(wanted):
        stored = stored_strips(index, sample, shown, files=files)
        if stored.num_bytes <= max_bytes:
            return stored
    left, top, width, height = index.content[sample].tolist()
    pictures = decode_frames(index, sample, shown, files=files)[:, top : top + height, left : left + width]
    factors = [factor for factor in FACTORS if factor == 1 or index.size // factor >= MIN_HEIGHT]
    scaled = {factor: smaller(pictures, factor) for factor in factors}
    ways = [(factor, quality) for factor in factors for quality in FACTORS[factor]]
    while True:
        for factor, quality in ways:
            if guess_bytes(scaled[factor], quality=quality) > HOPE * max_bytes:
                continue
            made = encoded(scaled[factor], shown, quality=quality)
            if made.num_bytes <= max_bytes:
                return made
        if len(shown) == 1:
            return encoded(scaled[factor], shown, quality=quality)
        scaled, shown = {factor: own[::2] for factor, own in scaled.items()}, shown[::2]


def guess_bytes(pictures: np.ndarray, *, quality: int) -> float:
    """How large the JPEGs of some pictures become, from a few of them."""
    few = pictures[:: -(-len(pictures) // TILES)]
    return encoded(few, np.arange(len(few)), quality=quality).num_bytes * len(pictures) / len(few)


def stored_strips(index: ShardIndex, sample: int, frames: np.ndarray, *, files: FrameFiles) -> Strips:
    """Some frames, rising, in JPEGs of the shard's very bytes.

    Raises:
        ShardError: One is missing or damaged.
    """
    parts = [frames[first : first + TILES] for first in range(0, len(frames), TILES)]
    contents = [read_frames(index, sample, part, files=files)[0][0] for part in parts]
    return Strips(
        sprites=[Sprite(content.tobytes(), len(part)) for content, part in zip(contents, parts, strict=True)],
        frames=[divmod(i, TILES) for i in range(len(frames))],
        shown=frames,
        size=index.tile_size[::-1],
        as_stored=True,
    )


def smaller(pictures: np.ndarray, factor: int) -> np.ndarray:
    """Pictures [F, H, W, 3] scaled down, each pixel the mean of factor×factor; the rest at the edges is left out.

    >>> smaller(np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1), 2).ravel().tolist()
    [2, 4, 10, 12]
    """
    if factor == 1:
        return pictures
    num, height, width, channels = pictures.shape
    height, width = height // factor, width // factor
    total = np.zeros((num, height, width, channels), np.uint16)  # room for 16×16 values
    for down, across in np.ndindex(factor, factor):
        total += pictures[:, down : height * factor : factor, across : width * factor : factor]
    return (total // factor**2).astype(np.uint8)


def encoded(pictures: np.ndarray, shown: np.ndarray, *, quality: int) -> Strips:
    """Pictures [F, H, W, 3] as JPEGs of `TILES` frames each, in order; the last may have fewer."""
    num, height, width, _ = pictures.shape
    sprites = []
    for begin in range(0, num, TILES):
        own = pictures[begin : begin + TILES]
        stacked = np.ascontiguousarray(own.reshape(-1, width, 3))
        sprites.append(Sprite(simplejpeg.encode_jpeg(stacked, quality=quality, colorsubsampling="420"), len(own)))
    places = [divmod(i, TILES) for i in range(num)]
    return Strips(sprites, places, shown, (width, height), as_stored=False)
