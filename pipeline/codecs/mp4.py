"""Packets of many clips in one light MP4: what a hardware decoder reads as if it were one video.

To open a stream costs NVDEC milliseconds, so clips are joined. An elementary stream would be simpler, but it has no
timestamps, and DALI looks for keyframes behind lengths of four bytes, not behind start codes
(docs/decisions/0008-h264.md). So this writes the few boxes of ISO/IEC 14496-12 and -15 that a demuxer needs: packets
keep the bytes that they have in the shard, every one has its place, its time and its keyframe flag.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from res3d_video.pipeline.codecs import ClipFrames
from res3d_video.pipeline.codecs.avc import IDR, NAL_TYPE

TICKS_PER_S = 25  # frame i is shown at tick i; nobody looks at the clock
MATRIX = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)  # of a picture that is not turned


@dataclass(frozen=True)
class Stream:
    """Some clips joined to one stream of packets, as a decoder takes it."""

    clips: slice  # the rows that are joined
    frames: np.ndarray  # int32 [U], frames of the stream that the clips take, each once, rising
    owner: np.ndarray  # int64 [U], which of the joined clips takes each, 0-based
    order: np.ndarray  # int32 [K × T], place of each clip's frames among those U; zeros for clips past the last


def join(located: ClipFrames, *, clips_per_stream: int) -> list[Stream]:
    """Clips in streams of K clips each, in their order; the last stream may hold fewer.

    A blank clip is one packet of its stream, the dataset's grey picture.

    >>> from res3d_video.pipeline.codecs.h264 import H264Codec
    >>> codec = H264Codec(16, 48, 8, 20, b"", b"")
    >>> located = codec.locate(np.array([[1, 1], [9, 10], [2, 3]]), blank=np.zeros(3, bool))
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


class Splicer:
    """Joins packets of frames of one size that share one AVCDecoderConfigurationRecord."""

    def __init__(self, avcc: bytes, *, height: int, width: int) -> None:
        self._size = (width, height)
        entry = struct.pack(">6xH16xHHII4xH32xHh", 1, width, height, 72 << 16, 72 << 16, 1, 24, -1) + box(b"avcC", avcc)
        self._stsd = full_box(b"stsd", struct.pack(">I", 1), box(b"avc1", entry))
        self._ftyp = box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomavc1")

    def splice(self, packets: Sequence[np.ndarray]) -> np.ndarray:
        """An MP4 of some packets, in their order, a frame each: uint8 [bytes].

        Args:
            packets: uint8 [bytes] each: the length of a NAL in four bytes, and the NAL. The first is a keyframe.
        """
        keyframes = np.fromiter((packet[4] & NAL_TYPE == IDR for packet in packets), bool, len(packets))
        if not keyframes[0]:
            raise ValueError("packets: the first is not a keyframe; begin at one")
        sizes = np.fromiter((len(packet) for packet in packets), ">u4", len(packets))
        moov = self._moov(sizes, keyframes)
        first_byte = len(self._ftyp) + len(moov) + 8  # of the packets, which is what moov ends with
        mdat = struct.pack(">II4s", first_byte, int(sizes.sum()) + 8, b"mdat")
        head = self._ftyp + moov[:-4] + mdat
        return np.concatenate([np.frombuffer(head, np.uint8), *packets])

    def _moov(self, sizes: np.ndarray, keyframes: np.ndarray) -> bytes:
        """All that is to be known about the packets, but where they begin: 0 stands in the last four bytes."""
        count, (width, height) = len(sizes), self._size
        sync = (np.flatnonzero(keyframes) + 1).astype(">u4")  # frames are counted from 1
        table = box(
            b"stbl",
            self._stsd,
            full_box(b"stts", struct.pack(">3I", 1, count, 1)),  # every frame lasts one tick
            full_box(b"stss", struct.pack(">I", len(sync)), sync.tobytes()),
            full_box(b"stsc", struct.pack(">4I", 1, 1, count, 1)),  # all packets in one chunk …
            full_box(b"stsz", struct.pack(">2I", 0, count), sizes.tobytes()),
            full_box(b"stco", struct.pack(">2I", 1, 0)),  # … which begins here
        )
        here = full_box(b"dref", struct.pack(">I", 1), full_box(b"url ", flags=1))  # the bytes are in this file
        media = box(
            b"mdia",
            full_box(b"mdhd", struct.pack(">4I2H", 0, 0, TICKS_PER_S, count, 0x55C4, 0)),
            full_box(b"hdlr", struct.pack(">I4s12x", 0, b"vide"), b"\0"),
            box(b"minf", full_box(b"vmhd", bytes(8), flags=1), box(b"dinf", here), table),
        )
        track = (
            struct.pack(">5I8x4H", 0, 0, 1, 0, count, 0, 0, 0, 0)
            + MATRIX
            + struct.pack(">2I", width << 16, height << 16)
        )
        movie = struct.pack(">4IIH10x", 0, 0, TICKS_PER_S, count, 0x10000, 0x100) + MATRIX + struct.pack(">24xI", 2)
        return box(b"moov", full_box(b"mvhd", movie), box(b"trak", full_box(b"tkhd", track, flags=7), media))


def box(kind: bytes, *content: bytes) -> bytes:
    """A box: its size, its four letters, its content.

    >>> box(b"free", b"ab")
    b'\\x00\\x00\\x00\\nfreeab'
    """
    return struct.pack(">I4s", 8 + sum(map(len, content)), kind) + b"".join(content)


def full_box(kind: bytes, *content: bytes, flags: int = 0) -> bytes:
    """A box of version 0 with flags."""
    return box(kind, struct.pack(">I", flags), *content)
