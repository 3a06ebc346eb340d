"""Which pieces of a long video are stored: arithmetic on frame numbers, drawn from the video's name. Pure."""

import bisect
import hashlib

import numpy as np

from res3d_video.pipeline.clip import ClipSpec, uniform_starts
from res3d_video.pipeline.rng import random_below

UNKNOWN_FPS = 25.0  # where a container states no rate


def segment_length(segment_s: float, *, fps: float) -> int:
    """Frames of a segment, at least 1.

    Args:
        fps: Of the source, on average; 0 where nobody knows.

    >>> segment_length(2, fps=30000 / 1001), segment_length(2, fps=25), segment_length(2, fps=0)
    (60, 50, 50)
    """
    return max(round(segment_s * (fps or UNKNOWN_FPS)), 1)


def random_segments(name: str, *, count: int, length: int, video_frames: int, seed: int) -> np.ndarray:
    """First frames of different segments, drawn by the video's name and the seed alone; no other video matters.

    Args:
        name: Of the video; Sports-1M's YouTube id.
        length: Frames of a segment. A video shorter than that is one segment that begins at frame 0.

    Returns:
        int64 [count], ascending; fewer where there are not so many places.

    >>> random_segments("UDqivjS-lpI", count=5, length=60, video_frames=9000, seed=0)
    array([ 394, 4208, 6131, 7106, 7275])
    >>> random_segments("UDqivjS-lpI", count=5, length=60, video_frames=61, seed=0)
    array([0, 1])
    """
    places = max(video_frames - length + 1, 1)
    digest = np.frombuffer(hashlib.sha256(f"{seed}:{name}".encode()).digest(), "<u8")
    words = np.random.Philox(key=digest[:2]).random_raw(min(count, places))
    chosen: list[int] = []
    for place in random_below(words, places - np.arange(len(words))).tolist():  # among the places that are left
        for taken in chosen:
            place += place >= taken
        bisect.insort(chosen, place)
    return np.array(chosen, np.int64)


def uniform_segments(*, count: int, length: int, video_frames: int) -> np.ndarray:
    """First frames of evenly spaced segments, the first at the first frame and the last at the last possible one.

    Returns:
        int64 [count], ascending; fewer where two are the same; [0] for a video shorter than `length` frames.

    >>> uniform_segments(count=4, length=50, video_frames=350), uniform_segments(count=4, length=50, video_frames=51)
    (array([  0, 100, 200, 300]), array([0, 1]))
    """
    return np.unique(uniform_starts(count, ClipSpec(length, 1), video_frames=video_frames))
