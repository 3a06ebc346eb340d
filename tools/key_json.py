"""key.json of single samples, read out of their tars."""

import os
from io import FileIO
from typing import Annotated, TypedDict

import numpy as np
from msgspec import Meta

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.schema import OFFSET, SIZE
from res3d_video.pipeline.typed_json import Size, Text, decode

BLOCK = 512  # a tar's; a file's header is one block, its content begins the next
MAX_JSON_BYTES = 2**20
Side = Annotated[int, Meta(gt=0, lt=2**20)]


class SampleMeta(TypedDict):
    """What is read of key.json."""

    num_frames: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    segment_start: Size
    fps: Annotated[float, Meta(ge=0, le=1000)]


class KeyJson(SampleMeta, total=False):
    """And what those of older builds lack."""

    source: Text
    source_size: tuple[Side, Side]
    warnings: list[Text]


def read_meta(index: ShardIndex, row: int, file: FileIO) -> KeyJson | None:
    """A sample's key.json; None where it is missing or damaged.

    Args:
        file: Its tar, open.
    """
    header_at = _header_at(index, row)
    head = _read(file, header_at, BLOCK)
    if head[:100].rstrip(b"\0") != index.keys[row] + b".json":
        return None
    try:
        size = int(head[124:136].strip(b"\0 "), 8)
        return decode(_read(file, header_at + BLOCK, size), KeyJson) if 0 < size <= MAX_JSON_BYTES else None
    except ValueError:  # no number, or no JSON of this kind
        return None


def _header_at(index: ShardIndex, row: int) -> int:
    """Where the header of key.json should lie in its tar.

    Files of a sample are in the order of their names, so it follows the strips and precedes key.mp4.
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


def _read(file: FileIO, offset: int, size: int) -> bytes:
    """Bytes of a tar; fewer where it ends, none where the disk cannot read them."""
    try:
        return os.pread(file.fileno(), size, offset)
    except OSError:
        return b""
