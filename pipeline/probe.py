"""Source facts: what a video's header claims (PyAV), and how many frames it really holds."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from pipeline.failure import VideoFailure

PROTOCOLS = {"protocol_whitelist": "file"}  # a playlist inside a "video" must not reach the network
HDR_TRANSFERS = {16: "smpte2084", 18: "arib-std-b67"}


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


def probe(path: Path) -> VideoFacts:
    """Read the header and the first frame.

    Raises:
        VideoFailure: Not a video, no picture stream, or not even one frame decodes.
    """
    try:
        with av.open(str(path), options=PROTOCOLS, metadata_errors="replace") as container:
            stream = _picture_stream(container, path)
            frame = next(container.decode(stream), None)
            if frame is None:
                raise VideoFailure("probe", f"{path.name}: no frame can be decoded")
            aspect = stream.sample_aspect_ratio or Fraction(1)
            shown = (round(frame.width * aspect), frame.height)
            if frame.rotation % 180:
                shown = shown[::-1]
            transfer = HDR_TRANSFERS.get(int(frame.color_trc))
            return VideoFacts(
                codec=stream.codec_context.name,
                pix_fmt=frame.format.name,
                width=frame.width,
                height=frame.height,
                display_width=shown[0],
                display_height=shown[1],
                fps=float(stream.average_rate or 0),
                num_frames_header=stream.frames or None,
                notes=(f"HDR ({transfer}) is not tone-mapped",) if transfer else (),
            )
    except (av.FFmpegError, OSError, EOFError, ValueError) as error:
        raise VideoFailure("probe", f"{path.name}: {str(error).splitlines()[0]}") from error


def count_frames(path: Path) -> int:
    """Frames that PyAV decodes from the whole file; what the header claims does not matter."""
    try:
        with av.open(str(path), options=PROTOCOLS, metadata_errors="replace") as container:
            return sum(1 for _ in container.decode(_picture_stream(container, path)))
    except (av.FFmpegError, OSError, EOFError) as error:
        raise VideoFailure("count", f"{path.name}: {str(error).splitlines()[0]}") from error


def _picture_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The first stream that is a film, not a cover picture."""
    films = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not films:
        raise VideoFailure("probe", f"{path.name}: holds no video stream")
    return films[0]
