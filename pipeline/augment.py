"""Augmentation: random changes of training clips other than crop and flip, and how they are drawn.

Pure numpy. Each position of a plan draws its own, so they are the same on 1, 2 or 8 ranks and after any stop.
"""

from dataclasses import dataclass

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.settings import check_fields, described

NUM_TRIES = 10  # of a random resized crop, as in torchvision
WORDS = 2 * NUM_TRIES + 12  # random words of a position; a multiple of 4
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)  # arXiv:1708.04896, section 4.1
# What the clips of a plan are changed by; see `draw`.
DRAWN = np.dtype([("height", "i8"), ("width", "i8"), ("color", "f4", 4), ("erased", "i8", 4)])
COLOR = ("brightness", "contrast", "saturation", "hue")  # as DALI calls them

RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
HALF_RANGE = 128.0  # contrast moves pixels away from it


@dataclass(frozen=True)
class Augmentation:
    """Which random changes training clips get; all frames of a clip get the same. 0 is off, everywhere."""

    random_resized_crop: tuple[float, float] = described(
        (0.0, 0.0),
        "Crop random pieces of the picture with this share of its area, such as 0.08 1.",  # as torchvision's
        metavar="LEAST MOST",
    )
    crop_ratio: tuple[float, float] = described(
        (3 / 4, 4 / 3), "Width of such a piece for a height of 1.  [default: 0.75 1.333]", metavar="LEAST MOST"
    )
    scale_jitter: tuple[int, int] = described(
        (0, 0),
        "Scale the short side to a random length before the crop, pixels, such as 128 160.",  # as SlowFast's
        metavar="LEAST MOST",
    )
    # Of the first three, how far their factors may be from 1; 0.5 of hue is half of the circle (torchvision).
    color_jitter: tuple[float, float, float, float] = described(
        (0.0, 0.0, 0.0, 0.0),
        "Change colors at random by up to these amounts, such as 0.4 0.4 0.4 0.1.",
        metavar="BRIGHTNESS CONTRAST SATURATION HUE",
    )
    grayscale: float = described(0.0, "Probability that a clip loses its colors.", 0, 1, metavar="P")
    # The box has 2 to 33 % of the clip's area.
    erasing: float = described(0.0, "Probability that a box of a clip is filled with the mean.", 0, 1, metavar="P")

    def __post_init__(self) -> None:
        check_fields(self)
        for name, most in (("random_resized_crop", 1), ("crop_ratio", 100), ("scale_jitter", 4096)):
            least, greatest = getattr(self, name)
            is_off = least == greatest == 0 and name != "crop_ratio"
            if not is_off and not 0 < least <= greatest <= most:  # nor is NaN
                raise UserError(f"{name} must be two rising numbers from 0 to {most}, got {least:g} {greatest:g}")
        if self.random_resized_crop[1] and self.scale_jitter[1]:
            raise UserError("random_resized_crop and scale_jitter both choose the crop; set one of them to 0 0")
        *factors, hue = self.color_jitter
        if not all(0 <= value <= 1 for value in factors) or not 0 <= hue <= 0.5:
            jitter = " ".join(f"{value:g}" for value in self.color_jitter)
            raise UserError(f"color_jitter must be three numbers from 0 to 1 and one from 0 to 0.5, got {jitter}")

    @property
    def resizes(self) -> bool:
        """Whether crops are of pieces of different sizes."""
        return self.random_resized_crop[1] > 0 or self.scale_jitter[1] > 0

    @property
    def colors(self) -> bool:
        """Whether colors change."""
        return any(self.color_jitter) or self.grayscale > 0

    @property
    def is_on(self) -> bool:
        return self.resizes or self.colors or self.erasing > 0


NONE = Augmentation()


def draw(words: np.ndarray, augmentation: Augmentation, *, sizes: np.ndarray, crop_size: int) -> np.ndarray:
    """What B positions draw.

    Args:
        words: uint64 [B, WORDS], random.
        sizes: int [B, 2], height and width of each picture, pixels after resizing.

    Returns:
        DRAWN [B]: height and width of the piece of the picture that becomes the crop, pixels after resizing; factors
        of brightness, contrast and saturation, and the turn of hue in degrees; top, left, height and width of the box
        of the crop, as the network sees it, that is erased.
    """
    part = (words >> np.uint64(11)) * 2.0**-53  # [B, WORDS], in [0, 1)
    drawn = np.zeros(len(words), DRAWN)
    pieces = np.full_like(sizes, crop_size)
    if augmentation.random_resized_crop[1]:
        pieces = _resized_crops(part[:, : 2 * NUM_TRIES], augmentation, sizes)
    elif augmentation.scale_jitter[1]:
        side = np.rint(between(part[:, 0], augmentation.scale_jitter))
        short = sizes.min(axis=1)
        pieces[:] = np.clip(np.rint(crop_size * short / side), 1, short)[:, None]
    drawn["height"], drawn["width"] = pieces.T
    color, gray, box = np.split(part[:, 2 * NUM_TRIES : -2], [4, 5], axis=1)  # [B, 4], [B, 1], [B, 5]
    strength = np.array(augmentation.color_jitter)
    drawn["color"] = np.array([1, 1, 1, 0]) + (2 * color - 1) * strength * np.array([1, 1, 1, 360])
    drawn["color"][gray[:, 0] < augmentation.grayscale, 2] = 0
    area, ratio = between(box[:, 1], ERASED_AREA) * crop_size**2, log_between(box[:, 2], ERASED_RATIO)
    size = sides_of(area, ratio).clip(1, crop_size)
    corner = (box[:, 3:] * (crop_size - size + 1)).astype(np.int64)
    drawn["erased"] = np.concatenate([corner, size], axis=1) * (box[:, :1] < augmentation.erasing)
    return drawn


def between(part: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """From 0…1 to the range between two ends."""
    return ends[0] + part * (ends[1] - ends[0])


def log_between(part: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """From 0…1 to the range between two ends, where twice as much is as likely as half as much."""
    return np.exp(between(part, (np.log(ends[0]), np.log(ends[1]))))


def sides_of(area: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Height and width of boxes of an area and a width for a height of 1, whole pixels: int64 [..., 2]."""
    return np.rint(np.sqrt(np.stack([area / ratio, area * ratio], axis=-1))).astype(np.int64)


def _resized_crops(part: np.ndarray, augmentation: Augmentation, sizes: np.ndarray) -> np.ndarray:
    """Height and width of random pieces of pictures: int64 [B, 2].

    Of `NUM_TRIES` areas and ratios the first that fits into the picture, else as much of it as the ratios allow.
    """
    area = between(part[:, 0::2], augmentation.random_resized_crop) * sizes.prod(axis=1)[:, None]  # [B, tries]
    ratio = log_between(part[:, 1::2], augmentation.crop_ratio)
    tried = sides_of(area, ratio).clip(1)  # [B, tries, 2]
    fits = np.all(tried <= sizes[:, None], axis=2)
    first = np.take_along_axis(tried, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    narrowest, widest = augmentation.crop_ratio
    most = np.stack([sizes[:, 1] / narrowest, sizes[:, 0] * widest], axis=1)
    return np.where(
        np.any(fits, axis=1, keepdims=True), first, np.minimum(sizes, np.rint(most)).clip(1).astype(np.int64)
    )


def recolor(pixels: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Frames with other colors, as DALI's color_twist makes them: hue and saturation, then contrast, then brightness.

    Args:
        pixels: RGB [..., 3], 0 to 255.
        color: float [4], as `draw` gives it.

    Returns:
        float32 [..., 3], not cut off at 0 and 255.
    """
    brightness, contrast, saturation, hue = color.astype(np.float64)
    cos, sin = np.cos(np.deg2rad(hue)) * saturation, np.sin(np.deg2rad(hue)) * saturation
    turn = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    matrix = brightness * contrast * np.linalg.inv(RGB_TO_YIQ) @ turn @ RGB_TO_YIQ
    offset = brightness * (1 - contrast) * HALF_RANGE
    return pixels @ matrix.T.astype(np.float32) + np.float32(offset)
