"""Normalised clips back to pixels; enlarging; the crop drawn into a frame. Pure numpy."""

import numpy as np

from res3d_video.pipeline.clip import per_channel

INSIDE, AROUND = (255, 221, 0), (0, 0, 0)  # yellow and black are seen on any picture, by the colour-blind too


def as_pixels(clip: np.ndarray, *, mean: float | tuple[float, ...], std: float | tuple[float, ...]) -> np.ndarray:
    """Undo the normalisation: uint8, shaped like `clip` [..., 3].

    >>> as_pixels(np.array([[-128.0, 0.0, 127.0]]), mean=128, std=1)
    array([[  0, 128, 255]], dtype=uint8)
    """
    pixels = clip * np.array(per_channel(std)) + np.array(per_channel(mean))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def as_grey(clip: np.ndarray) -> tuple[np.ndarray, float]:
    """Normalised values as grey, 0 in the middle: uint8 [..., 3], all channels alike, and the value that is white.

    The mean of the three channels is shown; white is the largest there is of it, black the same below 0.

    >>> grey, white = as_grey(np.array([[-2.0, -2.0, -2.0], [0.0, 0.0, 0.0], [3.0, 1.0, 2.0]]))
    >>> grey[:, 0].tolist(), white
    ([1, 128, 255], 2.0)
    """
    values = clip.mean(axis=-1)
    white = float(np.abs(values).max())
    grey = np.rint(128 + 127 * values / (white or 1.0)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), white


def enlarged(picture: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """A picture [H, W, 3] at another size: pixels are repeated or left out, never mixed.

    >>> enlarged(np.arange(3).reshape(1, 1, 3), height=2, width=1).tolist()
    [[[0, 1, 2]], [[0, 1, 2]]]
    """
    rows = (np.arange(height) + 0.5) * picture.shape[0] / height
    columns = (np.arange(width) + 0.5) * picture.shape[1] / width
    return picture[rows.astype(int)][:, columns.astype(int)]


def with_box(picture: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """A copy with a rectangle drawn in: two lines of colour just inside its edge, and a black one within them.

    Args:
        box: left, top, right, bottom in the picture's pixels, half-open.
    """
    drawn = picture.copy()
    left, top, right, bottom = box
    for inset, color in enumerate((INSIDE, INSIDE, AROUND)):
        rows, columns = slice(top + inset, bottom - inset), slice(left + inset, right - inset)
        for edge in (
            (rows, left + inset),
            (rows, right - 1 - inset),
            (top + inset, columns),
            (bottom - 1 - inset, columns),
        ):
            drawn[edge] = color
    return drawn


def crop_box(*, top: int, left: int, crop: int, scale: float, zoom: float = 1.0) -> tuple[int, int, int, int]:
    """Where a crop lies in a stored frame: left, top, right, bottom, pixels, rounded.

    Args:
        top, left, crop: Place and size in pixels after resizing.
        scale: Pixels of a resized frame to one of a stored frame.
        zoom: Pixels drawn for one of a stored frame.

    >>> crop_box(top=4, left=10, crop=56, scale=0.5), crop_box(top=4, left=10, crop=56, scale=1.0, zoom=2.0)
    ((20, 8, 132, 120), (20, 8, 132, 120))
    """
    left_edge, top_edge, side = (value * zoom / scale for value in (left, top, crop))
    return round(left_edge), round(top_edge), round(left_edge + side), round(top_edge + side)


def evenly(count: int, *, most: int) -> np.ndarray:
    """Which of `count` frames are shown, at most so many, from the first to the last: int64.

    >>> evenly(5, most=8).tolist(), evenly(9, most=3).tolist(), evenly(9, most=1).tolist()
    ([0, 1, 2, 3, 4], [0, 4, 8], [4])
    """
    if count <= most:
        return np.arange(count)
    if most == 1:
        return np.array([(count - 1) // 2])
    return np.arange(most) * (count - 1) // (most - 1)
