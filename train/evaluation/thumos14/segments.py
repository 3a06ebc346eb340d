"""Stretches of time: their overlap, the best of overlapping ones, windows that slide over a video. Pure numpy."""

import numpy as np

from res3d_video.pipeline.clip import ClipSpec, frame_indices
from res3d_video.pipeline.errors import UserError

# Of S-CNN (Shou et al. 2016), the pipeline that arXiv:1708.05038 takes over for THUMOS14.
WINDOW_LENGTHS = (16, 32, 64, 128, 256, 512)  # frames
WINDOW_OVERLAP = 0.75  # of two neighbours of one length
WINDOW_CLIP = 16  # frames of a window that the network sees


def temporal_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Length of the intersection over length of the union, of every pair.

    Args:
        first: Rows (start, end) with start <= end, any unit, [N, 2].
        second: The same, [M, 2].

    Returns:
        float64 [N, M], 0…1; 0 for segments that only touch and for those without length.

    >>> temporal_iou(np.array([[0, 4]]), np.array([[2, 6], [4, 8], [0, 4]])).round(3)
    array([[0.333, 0.   , 1.   ]])
    """
    first, second = (np.asarray(rows, np.float64).reshape(-1, 2) for rows in (first, second))
    starts = np.maximum(first[:, None, 0], second[None, :, 0])  # [N, M]
    ends = np.minimum(first[:, None, 1], second[None, :, 1])
    intersection = np.maximum(ends - starts, 0)
    # The stretch from the first start to the last end is the union wherever the two overlap.
    hull = np.maximum(first[:, None, 1], second[None, :, 1]) - np.minimum(first[:, None, 0], second[None, :, 0])
    return np.divide(intersection, hull, out=np.zeros_like(hull), where=intersection > 0)


def non_max_suppression(
    segments: np.ndarray, scores: np.ndarray, *, iou_threshold: float, keep: int | None = None
) -> np.ndarray:
    """Keep the best segment, drop those that overlap it, go on with the best of the rest.

    Args:
        segments: Rows (start, end), [N, 2].
        scores: Higher is better, [N]; of equals the earlier row is the better.
        iou_threshold: A segment is dropped if its IoU with a kept one is above this.
        keep: Stop at so many.

    Returns:
        int64 [M], the rows that are kept, best first.

    >>> non_max_suppression(np.array([[0, 4], [1, 5], [6, 9]]), np.array([0.5, 0.9, 0.1]), iou_threshold=0.4)
    array([1, 2])
    """
    rest = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    if iou_threshold >= 1:  # nothing overlaps more
        return rest[:keep]
    starts, ends = np.asarray(segments, np.float64).reshape(-1, 2)[rest].T
    kept: list[int] = []
    while len(rest) and (keep is None or len(kept) < keep):
        kept.append(int(rest[0]))
        # temporal_iou of the first with the rest, in a third of its time: windows come by the hundred thousand.
        both = np.minimum(ends[1:], ends[0]) - np.maximum(starts[1:], starts[0])  # negative where apart
        hull = np.maximum(ends[1:], ends[0]) - np.minimum(starts[1:], starts[0])
        with np.errstate(invalid="ignore"):  # 0 / 0 of segments without length is not above anything
            stays = ~(both / hull > iou_threshold)
        rest, starts, ends = rest[1:][stays], starts[1:][stays], ends[1:][stays]
    return np.array(kept, np.int64)


def rows_by_name(names: np.ndarray) -> dict[str, np.ndarray]:
    """Where each name stands: name -> int64 rows, ascending; names in order.

    >>> rows_by_name(np.array(["b", "a", "b"]))
    {'a': array([1]), 'b': array([0, 2])}
    """
    if not len(names):
        return {}
    order = np.argsort(names, kind="stable")
    found, first = np.unique(names[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, first[1:]), strict=True))


def windows_of(
    num_frames: int, *, lengths: tuple[int, ...] = WINDOW_LENGTHS, overlap: float = WINDOW_OVERLAP
) -> np.ndarray:
    """Windows of every length that fit into a video, as in S-CNN: the frames after the last whole one are left out.

    Args:
        num_frames: Frames of the video.
        lengths: Frames of a window.
        overlap: Share of a window that the next one of its length repeats, 0 up to but not 1.

    Returns:
        int64 [W, 2], rows (first frame, frame after the last), by length and then by start. Empty for a video
        shorter than the shortest window.

    Raises:
        ValueError: A length or the overlap is impossible.

    >>> windows_of(24, lengths=(16, 24), overlap=0.75).tolist()
    [[0, 16], [4, 20], [8, 24], [0, 24]]
    """
    if not 0 <= overlap < 1:
        raise UserError(f"overlap: {overlap} is not possible; choose at least 0 and less than 1")
    windows = []
    for length in lengths:
        if length < 1:
            raise UserError(f"window length: {length} is not possible; choose at least 1 frame")
        starts = np.arange(0, num_frames - length + 1, max(1, round(length * (1 - overlap))), dtype=np.int64)
        windows.append(np.stack([starts, starts + length], axis=1))  # [w, 2]
    return np.concatenate(windows) if windows else np.zeros((0, 2), np.int64)


def frames_of_window(start: int, end: int, *, num_frames: int = WINDOW_CLIP) -> np.ndarray:
    """Frame numbers of the evenly spaced clip that stands for a window, the first frame of each equal part of it.

    Args:
        start, end: First frame, and the frame after the last.
        num_frames: Frames of the clip, T.

    Returns:
        int64 [T].

    Raises:
        ValueError: The window's length is not a multiple of `num_frames`.

    >>> frames_of_window(8, 40).tolist()
    [8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38]
    """
    if end <= start or (end - start) % num_frames:
        raise UserError(f"window {start}…{end}: {end - start} frames; choose a multiple of {num_frames}")
    spec = ClipSpec(num_frames=num_frames, frame_stride=(end - start) // num_frames)
    return frame_indices(start, spec, video_frames=end)
