"""Which packets of H.264 clips need, and where their frames lie among what those packets decode to. Pure numpy.

Every GOP is closed and of one length, so frame f hangs on keyframe f // gop_size * gop_size and on nothing before it. A
clip takes, of every GOP that it touches, the packets from its keyframe to the last frame it wants there, and no others.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClipPackets:
    """The packets of N clips, M in all.

    Attributes:
        packets: int64 [M], packets of the segments, clip after clip; packet i holds frame i.
        count: int64 [N], packets of each clip; 0 for a blank one.
        order: int64 [N, T], place of each frame of a clip among the frames of its packets, never decreasing.
    """

    packets: np.ndarray
    count: np.ndarray
    order: np.ndarray

    @property
    def num_frames_decoded(self) -> int:
        """Frames that a decoder makes of them."""
        return len(self.packets)

    def pictures(self, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The packets as rows of an index, and the clip that each belongs to: int64 [M] both.

        Args:
            first: int64 [N], row of the first packet of each clip's segment.
        """
        owner = np.repeat(np.arange(len(self.count)), self.count)
        return first[owner] + self.packets, owner


def clip_packets(frames: np.ndarray, *, gop_size: int, blank: np.ndarray | None = None) -> ClipPackets:
    """Which packets N clips need.

    Args:
        frames: int64 [N, T], frame numbers, never decreasing along T (`clip.frame_indices`).
        gop_size: Frames from one keyframe to the next.
        blank: bool [N], clips that need none.

    >>> clip = clip_packets(np.array([[5, 9, 13, 17]]), gop_size=8)
    >>> clip.packets.tolist(), clip.count.tolist(), clip.order.tolist()
    ([0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 16, 17], [14], [[5, 7, 11, 13]])
    """
    keyframe = frames // gop_size * gop_size  # [N, T], that each frame hangs on
    last_of_gop = np.ones(frames.shape, bool)
    last_of_gop[:, :-1] = keyframe[:, 1:] != keyframe[:, :-1]
    if blank is not None:
        last_of_gop &= ~blank[:, None]
    length = np.where(last_of_gop, frames - keyframe + 1, 0)  # of the run that ends with this frame
    before = np.cumsum(length, axis=1) - length  # [N, T], packets of the clip's earlier GOPs
    order = before + frames - keyframe
    if blank is not None:
        order[blank] = 0
    return ClipPackets(ranges(keyframe[last_of_gop], length[last_of_gop]), length.sum(axis=1), order)


def ranges(first: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Several ranges of numbers, one after another: int64.

    >>> ranges(np.array([8, 0, 5]), np.array([2, 3, 1]))
    array([8, 9, 0, 1, 2, 5])
    """
    before = np.cumsum(length) - length
    return np.repeat(first - before, length) + np.arange(length.sum())


@dataclass(frozen=True)
class Stream:
    """Some clips joined to one stream of packets, as a decoder takes it.

    Attributes:
        clips: The rows that are joined.
        frames: int32 [U], frames of the stream that the clips take, each once, rising.
        owner: int64 [U], which of the joined clips takes each, 0-based.
        order: int32 [K × T], place of each clip's frames among those U; zeros for clips past the last.
    """

    clips: slice
    frames: np.ndarray
    owner: np.ndarray
    order: np.ndarray


def join(located: ClipPackets, *, clips_per_stream: int) -> list[Stream]:
    """Clips in streams of K clips each, in their order; the last stream may hold fewer.

    A blank clip is one packet of its stream, the dataset's grey picture.

    >>> located = clip_packets(np.array([[1, 1], [9, 10], [2, 3]]), gop_size=8)
    >>> [(s.frames.tolist(), s.owner.tolist(), s.order.tolist()) for s in join(located, clips_per_stream=2)]
    [([1, 3, 4], [0, 1, 1], [0, 0, 1, 2]), ([2, 3], [0, 0], [0, 1, 0, 0])]
    """
    count, (num_clips, num_frames) = np.maximum(located.count, 1), located.order.shape
    streams = []
    for begin in range(0, num_clips, clips_per_stream):
        clips = slice(begin, min(begin + clips_per_stream, num_clips))
        before = np.cumsum(count[clips]) - count[clips]  # packets of the stream's earlier clips
        wanted = located.order[clips] + before[:, None]  # [k, T], rising from clip to clip
        frames, place = np.unique(wanted, return_inverse=True)
        order = np.zeros(clips_per_stream * num_frames, np.int32)
        order[: wanted.size] = place.ravel()
        owner = np.searchsorted(before, frames, side="right") - 1
        streams.append(Stream(clips, frames.astype(np.int32), owner, order))
    return streams
