"""Source facts: what a video's header claims (PyAV), and when each frame is shown.

PyAV runs FFmpeg's code in this process, which a video may crash or exhaust; `Inspector` runs it in workers.

Seeking is used only where it must give the same frames as decoding from the start: in containers with an index, with a
time for every frame, and from keyframes before which no later frame refers.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from res3d_video.pipeline.errors import VideoFailure, one_line
from res3d_video.pipeline.ingest.limits import FORMATS, Guard, input_options

HDR_TRANSFERS = {16: "smpte2084", 18: "arib-std-b67"}
# Titles that are not UTF-8 must not fail. PyAV 19 has no such option, as it never fails for them.
ANY_TITLE: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # they seek by an index, to keyframes
IDR_TYPES = {"h264": {5}, "hevc": {19, 20}}  # NAL unit types of frames before which no later frame refers
LENGTH_SIZE_PLACE = {"h264": 4, "hevc": 21}  # byte of avcC and hvcC whose lowest two bits are that size less 1
KEYFRAME_CODECS = {"vp9", "av1", "mpeg4", "mjpeg", *IDR_TYPES}


@dataclass(frozen=True)
class VideoFacts:
    """Facts from the container and the first frame.

    Attributes:
        display_width, display_height: Pixels as a player shows them: pixel aspect and rotation applied.
        fps: Average frames per second; 0 if the container does not state it.
        num_frames_header: Frames that the container claims; None if it claims none.
    """

    display_width: int
    display_height: int
    fps: float
    num_frames_header: int | None
    notes: tuple[str, ...] = ()


@contextmanager
def open_video(path: Path, guard: Guard) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A video's container and video stream, opened as a regular file only and within the limits.

    Raises:
        VideoFailure: It may not be opened, its format is not supported, it has no video stream, it claims more than the
            limits allow, or reading fails.
    """
    descriptor = guard.open(path)
    try:
        try:
            container = av.open("fd:", options=input_options(descriptor, guard.limits), **ANY_TITLE)
        except av.ArgumentError as error:  # for formats and protocols that are not on the lists
            reason = f"is none of the kinds that are read ({FORMATS}), or its header is damaged"
            raise VideoFailure("probe", f"{path.name}: {reason}") from error
        finally:
            os.close(descriptor)  # FFmpeg has duplicated it
        with container:
            films = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not films:
                raise VideoFailure("probe", f"{path.name}: holds no video stream")
            stream, context, limits = films[0], films[0].codec_context, guard.limits
            if context is None:
                raise VideoFailure("probe", f"{path.name}: nobody knows its codec")
            if context.width * context.height > limits.max_pixels:
                raise guard.exceeded("max_pixels", path, f"frames of {context.width}×{context.height} pixels")
            duration_s = (container.duration or 0) / av.time_base
            if duration_s > limits.max_duration_s:
                raise guard.exceeded("max_duration_s", path, f"claims to last {duration_s:.0f} s")
            context.options = {"max_pixels": str(limits.max_pixels), "threads": "1"}
            yield container, stream
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise guard.exceeded("max_memory_mb", path, "needs more memory to read") from error
        raise VideoFailure("probe", f"{path.name}: {one_line(error)}") from error


def probe(path: Path, guard: Guard | None = None) -> VideoFacts:
    """Read the header and the first frame.

    Raises:
        VideoFailure: As `open_video`, or not even one frame decodes.
    """
    with open_video(path, guard or Guard()) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise VideoFailure("probe", f"{path.name}: no frame can be decoded")
        shown = [max(round(frame.width * (stream.sample_aspect_ratio or 1)), 1), frame.height]
        if abs(frame.rotation) == 90:  # at other angles ffmpeg keeps width and height
            shown.reverse()
        transfer = HDR_TRANSFERS.get(int(frame.color_trc))
        return VideoFacts(
            display_width=shown[0],
            display_height=shown[1],
            fps=max(float(stream.average_rate or 0), 0.0),
            num_frames_header=stream.frames or None,
            notes=(f"HDR ({transfer}) is not tone-mapped",) if transfer else (),
        )


@dataclass(frozen=True)
class Seek:
    """Times in units of `time_base`: of the keyframe to decode from, and of the first and last frame to keep."""

    keyframe: int
    first: int
    last: int
    time_base: Fraction


@dataclass(frozen=True)
class Piece:
    """Consecutive frames of a video; without `seek` they are counted while decoding from the start."""

    start: int
    num_frames: int
    seek: Seek | None = None


@dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown.

    Attributes:
        times: int64 [F], ascending, in units of `time_base`.
        keyframes: int64 [K], ascending: frames from which decoding gives the same frames as from the start.
    """

    times: np.ndarray
    keyframes: np.ndarray
    time_base: Fraction

    @property
    def num_frames(self) -> int:
        return len(self.times)

    @property
    def times_s(self) -> np.ndarray:
        """Seconds from the first frame: float64 [F]."""
        return (self.times - self.times[0]) * float(self.time_base)

    def piece(self, start: int, *, num_frames: int) -> Piece:
        """`num_frames` frames from `start`, or fewer at the video's end, and the nearest keyframe before them."""
        last = min(start + num_frames, self.num_frames) - 1
        keyframe = self.keyframes[np.searchsorted(self.keyframes, start, side="right") - 1]
        seek = Seek(int(self.times[keyframe]), int(self.times[start]), int(self.times[last]), self.time_base)
        return Piece(start, last - start + 1, seek)


def read_timeline(path: Path, guard: Guard | None = None) -> Timeline | None:
    """The times and keyframes of a video, without decoding; None if they are not reliable.

    Raises:
        VideoFailure: Not a video, or one that claims more than the limits allow.
    """
    guard = guard or Guard()
    with open_video(path, guard) as (container, stream):
        codec = stream.codec_context.name
        if container.format.name not in CONTAINERS or codec not in KEYFRAME_CODECS:
            return None
        extradata = stream.codec_context.extradata or b""
        times: list[int] = []
        keyframes: list[int] = []
        for packet in container.demux(stream):
            if not packet.size:
                continue  # the last one is empty
            # A packet to discard is decoded but not shown: an edit list may cut into a group of pictures.
            if packet.pts is None or packet.is_corrupt or packet.is_discard:
                return None
            if packet.is_keyframe and begins_anew(bytes(packet), codec, extradata):
                keyframes.append(len(times))
            times.append(packet.pts)
            if len(times) > guard.limits.max_frames:
                raise guard.exceeded("max_frames", path, f"has more than {guard.limits.max_frames} packets")
        time_base = stream.time_base
    return None if time_base is None else timeline_of(times, keyframes, time_base=time_base)


def seek_options(piece: Piece | None) -> tuple[dict[str, object], str]:
    """ffmpeg's input options for a piece, and the expression of the filter `select` for the frames to keep.

    Frames are selected by time, and only if decoding began at the keyframe or before it, so a seek that went too far
    gives no frame instead of a wrong one.

    >>> seek_options(Piece(5, 10))
    ({}, 'between(n,5,14)')
    >>> seek_options(Piece(5, 10, Seek(keyframe=2560, first=2816, last=7424, time_base=Fraction(1, 12800))))
    ({'ss': '0.200000', 'seek_timestamp': 1, 'noaccurate_seek': None}, 'between(pts,2816,7424)*lte(start_pts,2560)')
    """
    if piece is None or piece.seek is None:
        return {}, f"between(n,{piece.start},{piece.start + piece.num_frames - 1})" if piece else "1"
    seek = piece.seek
    keep = f"between(pts,{seek.first},{seek.last})*lte(start_pts,{seek.keyframe})"
    if seek.keyframe <= 0:
        return {}, keep
    microseconds = math.ceil(seek.keyframe * seek.time_base * 1_000_000)
    at = f"{microseconds // 1_000_000}.{microseconds % 1_000_000:06d}"
    return {"ss": at, "seek_timestamp": 1, "noaccurate_seek": None}, keep


def timeline_of(times: list[int], keyframes: list[int], *, time_base: Fraction) -> Timeline | None:
    """A timeline from packets in decoding order; None if a time is duplicated or the first packet is no keyframe.

    A keyframe counts if all packets after it are shown after it, and all before it before.

    Args:
        times: When each packet's frame is shown.
        keyframes: Which packets are keyframes.
    """
    if not times:
        return None
    shown = np.array(times, np.int64)
    order, earliest_after = np.sort(shown), np.minimum.accumulate(shown[::-1])[::-1]
    whole = np.array([k for k in keyframes if shown[k] == order[k] == earliest_after[k]], np.int64)
    if np.any(order[1:] == order[:-1]) or not len(whole) or whole[0] != 0:
        return None
    return Timeline(order, whole, time_base)


def begins_anew(packet: bytes, codec: str, extradata: bytes) -> bool:
    """Whether no frame after a keyframe refers to one before it; H.264 and HEVC mark other frames as keyframes too."""
    if codec not in IDR_TYPES:
        return True
    place = LENGTH_SIZE_PLACE[codec]
    if len(extradata) <= place or extradata[0] != 1:  # no avcC or hvcC: units begin with start codes, not with lengths
        return False
    length_size, place = extradata[place] % 4 + 1, 0
    while place + length_size < len(packet):  # each NAL unit is behind its length
        head = packet[place + length_size]
        if (head & 31 if codec == "h264" else head >> 1 & 63) in IDR_TYPES[codec]:
            return True
        place += length_size + int.from_bytes(packet[place : place + length_size], "big")
    return False
