"""key.json of single samples, read out of their tars."""

import os
import tarfile
from io import FileIO
from typing import Annotated, NotRequired, TypedDict

import numpy as np
from msgspec import Meta

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.schema import OFFSET, SIZE
from res3d_video.pipeline.typed_json import Size, Text, decode

BLOCK = tarfile.BLOCKSIZE  # a file's header is one block, its content begins the next
MAX_JSON_BYTES = 2**20
Side = Annotated[int, Meta(gt=0, lt=2**20)]


class KeyJson(TypedDict):
    """What is read of key.json; older builds lack the last three."""

    num_frames: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    segment_start: Size
    fps: Annotated[float, Meta(ge=0, le=1000)]
    source: NotRequired[Text]
    source_size: NotRequired[tuple[Side, Side]]
    warnings: NotRequired[list[Text]]


def read_meta(index: ShardIndex, row: int, file: FileIO) -> KeyJson | None:
    """A sample's key.json; None where it is missing or damaged.

    Args:
        file: Its tar, open.
    """
    at = _header_at(index, row)
    try:
        head = tarfile.TarInfo.frombuf(os.pread(file.fileno(), BLOCK, at), "utf-8", "strict")
        if head.name != f"{index.key(row)}.json" or not 0 < head.size <= MAX_JSON_BYTES:
            return None
        return decode(os.pread(file.fileno(), head.size, at + BLOCK), KeyJson)
    except (OSError, ValueError, tarfile.HeaderError):  # no header, or no JSON of this kind
        return None


def _header_at(index: ShardIndex, row: int) -> int:
    """Where the header of key.json should lie in its tar.

    Files of a sample are in the order of their names, so it follows the strips and precedes key.mp4.
    """
    if index.codec == "h264":
        row -= 1
        if row < 0 or index.tar[row] != index.tar[row + 1]:
            return 0
    frames = index.frames[index.first_frame[row] : index.first_frame[row + 1]].astype(np.int64)
    end = int(index.offset[row]) + int((frames[:, OFFSET] + frames[:, SIZE]).max()) + index.stored_as.gap
    return -(-end // BLOCK) * BLOCK
