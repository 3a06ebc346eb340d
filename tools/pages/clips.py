"""Clips that play on a page: strips of frames one below the other, the shard's own JPEGs or smaller ones."""

from dataclasses import dataclass

import numpy as np
import simplejpeg

from res3d_video.pipeline.frames import decode_frames, read_frames
from res3d_video.pipeline.index import ShardError, ShardIndex
from res3d_video.pipeline.reader import FrameFiles

MAX_SHOWN = 512  # frames; of a longer segment every second, third, …
TILES = 8  # frames in a strip
MIN_HEIGHT = 64  # pixels; smaller frames show little


@dataclass(frozen=True)
class Clip:
    """What the macro `player` shows.

    Attributes:
        name: For those who hear the page; unique on it.
        caption: One line.
        shown: Stored frames, rising.
        fps: Stored frames a second, 0 where unknown.
        play_fps: Shown frames a second.
        strips: JPEG and number of frames of each strip, in order.
        size: Width and height of a frame, pixels.
        is_stored: The JPEGs are the shard's own.
        fault: Why there are no frames, "" if there are.
    """

    name: str
    caption: str
    shown: list[int]
    fps: float = 0.0
    play_fps: float = 8.0
    strips: list[tuple[bytes, int]] | None = None
    size: tuple[int, int] = (0, 0)
    is_stored: bool = False
    fault: str = ""

    @property
    def num_bytes(self) -> int:
        """Of all strips."""
        return sum(len(content) for content, _ in self.strips or [])


def read_clip(
    index: ShardIndex,
    row: int,
    *,
    files: FrameFiles,
    max_bytes: int,
    name: str,
    caption: str,
    fps: float = 0.0,
    play_fps: float | None = None,
    frames: np.ndarray | None = None,
) -> Clip:
    """Frames of a sample for a page: the shard's own JPEGs if they fit, else smaller or fewer frames.

    Args:
        max_bytes: Of all strips; base64 on the page needs a third more. One frame is shown however large it is.
        play_fps: None plays as fast as the source.
        frames: Stored frames to show; None shows the whole segment.
    """
    wanted = np.arange(int(index.num_frames[row])) if frames is None else np.unique(frames)
    shown = wanted[:: -(-len(wanted) // MAX_SHOWN)]
    try:
        strips, shown, size, is_stored = _strips(index, row, shown, files=files, max_bytes=max_bytes)
    except ShardError as error:
        return Clip(name, caption, [], fault=str(error))
    step = int(shown[1] - shown[0]) if len(shown) > 1 else 1
    return Clip(name, caption, shown.tolist(), fps, play_fps or (fps or 25) / step, strips, size, is_stored)


def _strips(
    index: ShardIndex, row: int, shown: np.ndarray, *, files: FrameFiles, max_bytes: int
) -> tuple[list[tuple[bytes, int]], np.ndarray, tuple[int, int], bool]:
    """Strips, the frames in them, their size, and whether they are the shard's own.

    Raises:
        ShardError: A frame is missing, damaged or cannot be decoded.
    """
    if index.codec == "filmstrip":
        parts = [shown[first : first + TILES] for first in range(0, len(shown), TILES)]
        stored = [(read_frames(index, row, part, files=files)[0][0].tobytes(), len(part)) for part in parts]
        if sum(len(content) for content, _ in stored) <= max_bytes:
            return stored, shown, (index.tile_size[1], index.tile_size[0]), True
    left, top, width, height = index.content[row].tolist()
    frames = decode_frames(index, row, shown, files=files)[:, top : top + height, left : left + width]
    sizes = [frames] if height < 2 * MIN_HEIGHT else [frames, half(frames)]
    while True:
        for own in sizes:
            strips = encode(own, quality=60)
            if sum(len(content) for content, _ in strips) <= max_bytes or (len(shown) == 1 and own is sizes[-1]):
                return strips, shown, (own.shape[2], own.shape[1]), False
        sizes, shown = [own[::2] for own in sizes], shown[::2]


def half(frames: np.ndarray) -> np.ndarray:
    """Frames [F, H, W, C] of half the height and width, each pixel the mean of four.

    >>> half(np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)).ravel().tolist()
    [2, 4, 10, 12]
    """
    num, height, width, channels = frames.shape
    pairs = frames[:, : height // 2 * 2, : width // 2 * 2].reshape(num, height // 2, 2, width // 2, 2, channels)
    return (pairs.sum(axis=(2, 4), dtype=np.uint16) // 4).astype(np.uint8)


def encode(frames: np.ndarray, *, quality: int) -> list[tuple[bytes, int]]:
    """Frames [F, H, W, 3] as JPEGs of at most TILES frames, one below the other."""
    parts = [frames[first : first + TILES] for first in range(0, len(frames), TILES)]
    stacked = [np.ascontiguousarray(part.reshape(-1, part.shape[2], 3)) for part in parts]
    return [
        (simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420"), len(part))
        for pixels, part in zip(stacked, parts, strict=True)
    ]
