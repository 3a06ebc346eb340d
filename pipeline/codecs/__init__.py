"""Types that the codecs share: frames to encode, encoded segments, and the stored frames that clips need."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class UndecodableError(ValueError):
    """Bytes that pass their checksum but are not frames of this dataset.

    `clips` are the numbers of the clips, or streams, among those that were decoded together.
    """

    def __init__(self, message: str, *, clips: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.clips = clips


class FrameRecord(NamedTuple):
    """One stored frame of a segment: its file, offset, size in bytes and checksum."""

    file: str
    offset: int
    size: int
    crc32: int


@dataclass(frozen=True)
class EncodedSegment:
    """An encoded segment: its frames in order, and the content of its files.

    Files are named by what follows the key and a dot in the tar.
    """

    files: dict[str, bytes]
    frames: list[FrameRecord]


@dataclass(frozen=True)
class ClipFrames:
    """The stored frames that N clips need, M in all."""

    rows: np.ndarray  # int64 [M], frames of the segments, clip after clip
    count: np.ndarray  # int64 [N], how many each clip needs; 0 for a blank one
    order: np.ndarray  # int64 [N, T], place of each frame of a clip among those decoded for it


@dataclass(frozen=True)
class Planes:
    """Some frames as planar YCbCr 4:2:0, uint8: y [F, H, W]; u and v [F, ⌈H/2⌉, ⌈W/2⌉]."""

    y: np.ndarray
    u: np.ndarray
    v: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def in_tiles(self, *, top: int, left: int, height: int, width: int) -> "Planes":
        """The frames laid into tiles of height×width at (top, left), all even, with their edges replicated."""
        half = {"top": top // 2, "left": left // 2, "height": height // 2, "width": width // 2}
        y = place(self.y, top=top, left=left, height=height, width=width)
        return Planes(y, place(self.u, **half), place(self.v, **half))


def place(plane: np.ndarray, *, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Lay frames [F, h, w] into tiles [F, height, width] at (top, left) and replicate their edges outwards."""
    bottom, right = top + plane.shape[1], left + plane.shape[2]
    tiles = np.empty((len(plane), height, width), plane.dtype)  # by hand: a quarter of np.pad's time
    tiles[:, top:bottom, left:right] = plane
    tiles[:, top:bottom, :left], tiles[:, top:bottom, right:] = plane[:, :, :1], plane[:, :, -1:]
    tiles[:, :top], tiles[:, bottom:] = tiles[:, top : top + 1], tiles[:, bottom - 1 : bottom]
    return tiles


def ranges(first: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Several ranges of numbers, one after another: int64.

    >>> ranges(np.array([8, 0, 5]), np.array([2, 3, 1]))
    array([8, 9, 0, 1, 2, 5])
    """
    before = np.cumsum(length) - length
    return np.repeat(first - before, length) + np.arange(length.sum())
