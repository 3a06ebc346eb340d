"""What a picture shows: its tiles, found by their edges, and the frame numbers in them; and files read back."""

import io
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageSequence
from scipy import ndimage

from res3d_video.tools.numbered import BAND_LEFT, BAND_RIGHT, number_of, read_bits

PAPER = 246  # a pixel whose channels are all brighter is paper; white bars are 235, and a few pixels brighter by coding
SMALLEST = 40  # pixels; letters are smaller


def read_back(path: Path) -> list[np.ndarray]:
    """The pictures of a file, uint8 RGB [H, W, 3]."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def tiles(picture: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """Left, top and pixels of every tile, row by row."""
    inked = ndimage.binary_closing((picture < PAPER).any(axis=2), np.ones((1, 5)))
    labels, _ = ndimage.label(inked)
    found = [box for box in ndimage.find_objects(labels) if all(s.stop - s.start >= SMALLEST for s in box)]
    found.sort(key=lambda box: (box[0].start, box[1].start))
    return [(box[1].start, box[0].start, picture[box]) for box in found]


def number_in(tile: np.ndarray, *, left: float = 0, scale: float = 1, flip: bool = False) -> int:
    """The number in a tile, of which column 0 is column `left` of the stored picture, `scale` pixels to one of it."""
    if not flip:
        return number_of(read_bits(tile, left=left, scale=scale, grey=128))
    mirrored_left = BAND_LEFT + BAND_RIGHT - left - tile.shape[1] / scale
    return number_of(read_bits(tile, left=mirrored_left, scale=scale, grey=128)[::-1])
