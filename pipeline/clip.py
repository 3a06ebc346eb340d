"""ClipSpec, and which frames make a clip. Pure numpy."""

from dataclasses import dataclass

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.settings import check_fields, described

MAX_FRAME_STRIDE = 32
MAX_CLIP = 2**25  # pixels; 0.1 GB


@dataclass(frozen=True)
class ClipSpec:
    """What one clip is; T is `num_frames`."""

    num_frames: int = described(8, "Frames of a clip.", 1, 1024)
    frame_stride: int = described(2, "Source frames from one taken frame to the next.", 1, MAX_FRAME_STRIDE)
    crop_size: int = described(112, "Height and width of a clip, pixels.", 1, 1024)
    # None keeps the stored size. The paper pairs 64 with crop 56, 128 with 112 and 256 with 224 (section 3.4).
    resize: int | None = described(None, "Height of a frame before the crop, pixels.", 1, 1024)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_frames * self.crop_size**2 > MAX_CLIP:
            raise UserError(
                f"num_frames and crop_size: {self.num_frames} frames of {self.crop_size} pixels are too many; choose "
                f"fewer, at most {MAX_CLIP:,} pixels a clip"
            )
        if self.resize is not None and self.resize < self.crop_size:
            raise UserError(f"resize must be >= crop_size, which is {self.crop_size}, got {self.resize}")

    @property
    def span(self) -> int:
        """Source frames from the clip's first to its last, both counted."""
        return (self.num_frames - 1) * self.frame_stride + 1

    def scale(self, stored_size: int) -> float:
        """Pixels of a resized frame to one of a stored frame whose content is `stored_size` pixels high.

        >>> ClipSpec(crop_size=56, resize=64).scale(128), ClipSpec().scale(128)
        (0.5, 1.0)
        """
        return 1.0 if self.resize is None else self.resize / stored_size


def frame_indices(start: int | np.ndarray, spec: ClipSpec, *, video_frames: int | np.ndarray) -> np.ndarray:
    """Frame numbers of the clip that begins at frame `start`.

    Indices past the end become the last frame, so a short video still fills a clip.

    Args:
        start: First frame, 0-based; an array [N] asks for N clips at once. Outside the segment it is a ValueError.
        video_frames: Frames in the whole segment, counted by decoding; one number or [N].

    Returns:
        int64 [T] or [N, T], never decreasing, each in [0, video_frames).

    >>> frame_indices(4, ClipSpec(num_frames=4, frame_stride=2), video_frames=10)
    array([4, 6, 8, 9])
    """
    starts, lengths = np.asarray(start, np.int64), np.asarray(video_frames, np.int64)
    if np.any(starts < 0) or np.any(starts >= lengths):
        raise ValueError(f"start: {start} lies outside the segment; choose 0 to video_frames - 1 of {video_frames}")
    offsets = np.arange(spec.num_frames, dtype=np.int64) * spec.frame_stride
    return np.minimum(starts[..., None] + offsets, lengths[..., None] - 1)


def num_starts(spec: ClipSpec, *, video_frames: int | np.ndarray) -> np.ndarray:
    """How many first frames a clip can have without repeating the last frame; 1 for a segment shorter than the span."""
    return np.maximum(np.asarray(video_frames, np.int64) - spec.span + 1, 1)


def uniform_starts(num_views: int, spec: ClipSpec, *, video_frames: int | np.ndarray) -> np.ndarray:
    """First frames of `num_views` clips spread evenly over a segment: int64 [num_views], or [N, num_views].

    The paper scores ten clips a video but does not say where they lie (section 4); like most of its successors we place
    the first at the first frame and the last at the last possible one. One view is the clip in the middle.

    >>> uniform_starts(3, ClipSpec(num_frames=8, frame_stride=2), video_frames=35)
    array([ 0, 10, 20])
    >>> uniform_starts(1, ClipSpec(num_frames=8, frame_stride=2), video_frames=35)
    array([10])
    """
    return evenly_spaced(num_views, last=num_starts(spec, video_frames=video_frames) - 1)


def evenly_spaced(count: int, *, last: np.ndarray) -> np.ndarray:
    """`count` whole numbers from 0 to `last`, both included; one alone lies in the middle: int64 [..., count]."""
    if count == 1:
        return last[..., None] // 2
    return last[..., None] * np.arange(count, dtype=np.int64) // (count - 1)


def per_channel(value: float | tuple[float, ...]) -> tuple[float, ...]:
    """One value for all channels, or three.

    >>> per_channel(128.0)
    (128.0, 128.0, 128.0)
    """
    values = (float(value),) * 3 if isinstance(value, int | float) else tuple(map(float, value))
    if len(values) != 3:
        raise UserError(f"mean and std: {len(values)} values for 3 channels; give one or three")
    return values
