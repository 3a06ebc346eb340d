"""Source facts: what a video's header claims (PyAV), and how many frames it really holds.

PyAV runs FFmpeg's code in this process, which a video may crash or fill; `Inspector` does the same in others.
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
from res3d_video.pipeline.source.limits import FORMATS, Guard, input_options

HDR_TRANSFERS = {16: "smpte2084", 18: "arib-std-b67"}
# Titles that are not UTF-8 do not matter. PyAV 19 has no such option: it never fails for them.
ANY_TITLE: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


@dataclass(frozen=True)
class VideoFacts:
    """What the container and the first frame say.

    Attributes:
        width, height: Stored pixels, before rotation and pixel aspect.
        display_width, display_height: Pixels as a player shows them: pixel aspect and rotation applied.
        fps: Average frames per second; 0 when the container does not say.
        num_frames_header: Frames the container claims; None when it claims none.
    """

    codec: str
    pix_fmt: str
    width: int
    height: int
    display_width: int
    display_height: int
    fps: float
    num_frames_header: int | None
    notes: tuple[str, ...] = ()


@contextmanager
def open_video(
    path: Path, guard: Guard, *, stage: str, **more: str
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A video's container, opened as a plain file and as nothing else, and its stream, within the limits.

    Args:
        stage: Of a failure of FFmpeg's libraries in the block.
        more: Options of FFmpeg's demuxer.

    Raises:
        VideoFailure: It may not be opened, is of no kind that is read, has no picture stream, claims more than the
            limits allow, or cannot be read on.
    """
    descriptor = guard.open(path)
    try:
        try:
            options = input_options(descriptor, guard.limits) | more
            container = av.open("fd:", options=options, **ANY_TITLE)
        except av.ArgumentError as error:  # FFmpeg's word for what its lists of formats and protocols forbid
            reason = f"is none of the kinds that are read ({FORMATS}), or its header is damaged"
            raise VideoFailure("probe", f"{path.name}: {reason}") from error
        finally:
            os.close(descriptor)  # FFmpeg has one of its own
        with container:
            stream = picture_stream(container, path)
            admit(container, stream, path, guard)
            yield container, stream
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise guard.exceeded("max_memory_mb", path, "needs more memory to read") from error
        raise VideoFailure(stage, f"{path.name}: {one_line(error)}") from error


def probe(path: Path, guard: Guard | None = None) -> VideoFacts:
    """Read the header and the first frame.

    Raises:
        VideoFailure: As `open_video`, or not even one frame decodes.
    """
    with open_video(path, guard or Guard(), stage="probe") as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise VideoFailure("probe", f"{path.name}: no frame can be decoded")
        aspect = stream.sample_aspect_ratio or Fraction(1)
        shown = (max(round(frame.width * aspect), 1), frame.height)
        if lies_on_its_side(frame):
            shown = shown[::-1]
        transfer = HDR_TRANSFERS.get(int(frame.color_trc))
        return VideoFacts(
            codec=stream.codec_context.name,
            pix_fmt=frame.format.name,
            width=frame.width,
            height=frame.height,
            display_width=shown[0],
            display_height=shown[1],
            fps=max(float(stream.average_rate or 0), 0.0),
            num_frames_header=stream.frames or None,
            notes=(f"HDR ({transfer}) is not tone-mapped",) if transfer else (),
        )


def lies_on_its_side(frame: av.VideoFrame) -> bool:
    """Whether ffmpeg exchanges width and height to show a frame: at 90° and 270°, rounded to whole degrees as it does.

    At other angles it turns the picture within its shape.
    """
    if abs(frame.rotation) not in (89, 90):  # cut to whole degrees
        return False
    side_data: Any = frame.side_data  # whose types are not those of any version of PyAV
    try:
        found = side_data["DISPLAYMATRIX"]
    except ValueError:  # before PyAV 19: the frame has data of a kind that it does not know, such as EXIF
        return abs(frame.rotation) == 90
    matrix = np.frombuffer(memoryview(found), np.int32, 9).astype(float)
    across, along = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    degrees = math.degrees(math.atan2(matrix[1] / along, matrix[0] / across))  # as av_display_rotation_get
    return math.floor(abs(degrees) + 0.5) == 90


def admit(container: av.container.InputContainer, stream: av.VideoStream, path: Path, guard: Guard) -> None:
    """Have a stream decoded within the limits, or refuse it by what it claims before anything is decoded.

    Raises:
        VideoFailure: Its frames are too large, or it lasts too long.
    """
    limits, context = guard.limits, stream.codec_context
    if context is None:
        raise VideoFailure("probe", f"{path.name}: nobody knows its codec")
    if context.width * context.height > limits.max_pixels:
        raise guard.exceeded("max_pixels", path, f"frames of {context.width}×{context.height} pixels")
    duration_s = (container.duration or 0) / av.time_base
    if duration_s > limits.max_duration_s:
        raise guard.exceeded("max_duration_s", path, f"claims to last {duration_s:.0f} s")
    context.options = {"max_pixels": str(limits.max_pixels), "threads": "1"}


def count_frames(path: Path, guard: Guard | None = None) -> int:
    """Frames that PyAV decodes from the whole file; what the header claims does not matter."""
    guard = guard or Guard()
    with open_video(path, guard, stage="count") as (container, stream):
        count = 0
        for count, _ in enumerate(container.decode(stream), start=1):
            if count > guard.limits.max_frames:
                raise guard.exceeded("max_frames", path, f"has more than {guard.limits.max_frames} frames")
        return count


def edit_list(path: Path, guard: Guard | None = None) -> tuple[int, int] | None:
    """Packets of an MP4 or MOV, and how many of them its edit list has shown; None of another container.

    The header counts all of them; with an edit list, such as a trimmed video has, fewer are decoded, and none is lost.
    """
    guard = guard or Guard()
    with open_video(path, guard, stage="count", ignore_editlist="1") as (container, stream):
        if "mov" not in container.format.name.split(","):
            return None
        num_all = sum(packet.size > 0 for packet in container.demux(stream))
    with open_video(path, guard, stage="count") as (container, stream):
        return num_all, sum(packet.size > 0 and not packet.is_discard for packet in container.demux(stream))


def picture_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The first stream that is a film, not a cover picture."""
    films = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not films:
        raise VideoFailure("probe", f"{path.name}: holds no video stream")
    return films[0]
