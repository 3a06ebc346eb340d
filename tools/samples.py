"""Reads a sample's key.json and its stored frames; writes frames as a video."""

import io
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import av
import numpy as np
from msgspec import Meta

from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.reader import FrameFiles, open_tar
from res3d_video.pipeline.schema import OFFSET, SIZE
from res3d_video.pipeline.typed_json import decode

BLOCK = 512  # bytes; in a tar, a file's header is one block, and its content starts in the next one
MAX_JSON_BYTES = 2**20
Side = Annotated[int, Meta(gt=0, lt=2**20)]


class KeyJson(TypedDict):
    """What is read of key.json: frames/s of the source, 0 if unknown; and width and height of the source, pixels."""

    fps: Annotated[float, Meta(ge=0, le=1000)]
    source_size: NotRequired[tuple[Side, Side]]  # older builds do not have it


def read_key_json(index: ShardIndex, row: int) -> KeyJson | None:
    """The key.json of a sample, from its tar; None if it is missing or damaged.

    Raises:
        ShardError: The server of a remote dataset does not answer.
    """
    at = _header_at(index, row)
    try:
        found = read_part(
            index, int(index.tar[row]), at, 4 * BLOCK
        )  # every tar has that many bytes, because it ends with two empty blocks
        size = int(found[124:136].strip(b"\0 "), 8)
        if found[:100].rstrip(b"\0") != index.keys[row] + b".json" or not 0 < size <= MAX_JSON_BYTES:
            return None
        if size > 3 * BLOCK:
            found = read_part(index, int(index.tar[row]), at, BLOCK + size)
        return decode(found[BLOCK : BLOCK + size], KeyJson)
    except (OSError, ValueError):  # no tar, no number, or no JSON of this kind
        return None


def read_part(index: ShardIndex, number: int, first: int, size: int) -> bytes:
    """Bytes of a tar, read from the disk or from its server; fewer if the tar ends before."""
    tar = open_tar(index, number, wait=False)
    if tar is not None:
        with tar:
            return os.pread(tar.fileno(), size, first)
    assert index.store is not None  # a local tar opens, or raises OSError
    return bytes(index.store.read_parts([number], [first], [size])[0] or b"")


def _header_at(index: ShardIndex, row: int) -> int:
    """Offset of the header of key.json in its tar.

    The files of a sample are in the order of their names: key.json comes after the strips, and before key.mp4.
    """
    start = int(index.offset[row])
    if index.codec == "h264":
        previous = row - 1
        if previous < 0 or index.tar[previous] != index.tar[row]:
            return 0
        start, row = int(index.offset[previous]), previous
    frames = index.frames[index.first_frame[row] : index.first_frame[row + 1]].astype(np.int64)
    end = start + int((frames[:, OFFSET] + frames[:, SIZE]).max()) + index.stored_as.gap
    return -(-end // BLOCK) * BLOCK


def stored_frames(index: ShardIndex, row: int, frames: np.ndarray, *, files: FrameFiles | None = None) -> np.ndarray:
    """Stored frames of a sample without the padding of their tiles.

    Args:
        frames: int [F], never decreasing.

    Returns:
        uint8 RGB [F, height, width, 3].

    Raises:
        ShardError: One of them is damaged or does not decode.
    """
    left, top, width, height = index.content[row].tolist()
    return decode_frames(index, row, frames, files=files)[:, top : top + height, left : left + width]


def encode_mp4(frames: np.ndarray, *, fps: float, crf: int, max_height: int = 2**12) -> bytes:
    """Frames, uint8 RGB [F, H, W, 3], as an MP4 with H.264, scaled down to `max_height` pixels if they are higher."""
    height = min(frames.shape[1], max_height) // 2 * 2  # H.264 needs even sizes
    width = round(frames.shape[2] * height / frames.shape[1] / 2) * 2
    buffer = io.BytesIO()
    rate, options = Fraction(fps).limit_denominator(1000), {"crf": str(crf), "preset": "veryfast"}
    write_mp4(buffer, frames, size=(width, height), rate=rate, options=options)
    return buffer.getvalue()


def write_mp4(
    file: Path | io.BytesIO,
    frames: Iterable[np.ndarray],
    *,
    size: tuple[int, int],
    rate: Fraction,
    options: dict[str, str],
) -> None:
    """Write frames, uint8 RGB [H, W, 3] each, as an MP4 with H.264.

    Args:
        size: Width and height to scale to, pixels, both even.
        rate: Frames/s.
        options: For libx264.
    """
    with av.open(file if isinstance(file, io.BytesIO) else str(file), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt, stream.options = "yuv420p", options
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame.reformat(*size)))
        container.mux(stream.encode(None))
