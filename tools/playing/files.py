"""Pictures to a PNG, a GIF or an MP4, whole or not at all."""

import io
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.shard_writer import write_atomically
from res3d_video.tools.playing.draw import Show, frames, sheet
from res3d_video.tools.playing.layout import durations_cs

KINDS = (".gif", ".mp4", ".png")
MP4_CRF = 12  # hardly to be told from the pictures themselves
MP4_SPEEDS = 1000  # denominator of its frame rate, at most


def write_show(
    path: Path, show: Show, *, on_frame: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Write what is shown, as the name's ending says; for JSON its size, pictures and length.

    Args:
        on_frame: Told (pictures drawn, pictures in all).

    Raises:
        ValueError: The name ends in something else, or Pillow or matplotlib is missing.
        OSError: It cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise UserError(f"{path}: must end in .gif, .mp4 or .png")
    try:
        content, (height, width), count = encode(show, kind, on_frame=on_frame)
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install -e '.[report]'") from None
    write_atomically(path, content)
    facts = {"path": str(path), "width": width, "height": height, "num_bytes": len(content)}
    if kind != ".png":
        facts |= {"num_frames": count, "fps": 1 / show.frame_s, "duration_s": count * show.frame_s}
    return facts


def encode(show: Show, kind: str, *, on_frame: Callable[[int, int], None]) -> tuple[bytes, tuple[int, int], int]:
    """A file's bytes, the height and width of its pictures, and their number."""
    if kind == ".png":
        picture = sheet(show)
        return png(picture), picture.shape[:2], 1
    size, total = (0, 0), show.num_moments

    def counted() -> Iterator[np.ndarray]:
        nonlocal size
        for done, picture in enumerate(frames(show), start=1):
            size = picture.shape[:2]
            yield picture
            on_frame(done, total)

    encoder = gif if kind == ".gif" else mp4
    content = encoder(counted(), frame_s=show.frame_s)
    return content, size, total


def png(picture: np.ndarray) -> bytes:
    """A picture, uint8 RGB [H, W, 3]."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def gif(pictures: Iterable[np.ndarray], *, frame_s: float) -> bytes:
    """Pictures of one size one after the other, without end, each with 256 colours of its own."""
    from PIL import Image

    # Not the median cut: it takes 50 times as long, and turns a small red spot to crimson.
    images = [Image.fromarray(picture).quantize(256, method=Image.Quantize.FASTOCTREE) for picture in pictures]
    times_ms = [10 * cs for cs in durations_cs(len(images), frame_s=frame_s)]
    buffer = io.BytesIO()
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], duration=times_ms, loop=0, optimize=False, disposal=1
    )
    return buffer.getvalue()


def mp4(pictures: Iterable[np.ndarray], *, frame_s: float) -> bytes:
    """Pictures of one even size as H.264 that every player shows: yuv420p."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = None
        for picture in pictures:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(1 / frame_s).limit_denominator(MP4_SPEEDS))
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": str(MP4_CRF), "preset": "veryfast"}
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()
