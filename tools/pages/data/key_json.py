"""What key.json says of some samples: rates, source sizes, warnings; read at random places, in bounded time."""

import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from typing import Annotated, TypedDict

import numpy as np
from msgspec import Meta

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.reader import open_tar
from res3d_video.pipeline.schema import OFFSET, SIZE
from res3d_video.pipeline.typed_json import Size, Text, decode
from res3d_video.tools.pages.data.reasons import pattern_of

BLOCK = 512  # a tar's; a file's header is one block, its content begins the next
MAX_JSON_BYTES = 2**20
MAX_SAMPLES, MAX_SECONDS = 20_000, 10.0  # looked at; all of UCF101 and HMDB51


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


@dataclass
class LookedAt:
    """What was found in the key.json of some samples.

    Attributes:
        rows: Samples whose key.json was read.
        num_unreadable: Samples where it could not be.
        is_all: Whether these are all samples of the dataset.
        fps: Of each row, frames of the source a second; NaN where it says none.
        duration_s: Of each row, the stored frames' time.
        kilobytes: Of each row, the pictures' bytes / 1000.
        source_sizes: Widths and heights of the sources as players show them, pixels, and how many samples have them.
        warnings: What key.json warns of, with numbers replaced, and how many samples have it.
    """

    rows: list[int] = field(default_factory=list)
    num_unreadable: int = 0
    is_all: bool = False
    fps: list[float] = field(default_factory=list)
    duration_s: list[float] = field(default_factory=list)
    kilobytes: list[float] = field(default_factory=list)
    source_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)


def look_at(
    index: ShardIndex,
    rows: np.ndarray,
    *,
    seed: int,
    max_samples: int = MAX_SAMPLES,
    max_seconds: float = MAX_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> LookedAt:
    """Read the key.json of randomly drawn samples, tar after tar, until there are enough or the time is over.

    Args:
        rows: Samples to draw from.
    """
    random, begin_s = np.random.default_rng(seed), clock()
    drawn = np.sort(random.choice(rows, size=min(max_samples, len(rows)), replace=False))
    tars = index.tar_of(drawn)
    found = LookedAt()
    for tar in random.permutation(np.unique(tars)).tolist():
        own = drawn[tars == tar]
        if clock() - begin_s > max_seconds and found.rows:
            break
        try:
            file = open_tar(index, tar)
        except OSError:
            file = None
        for row in own.tolist():
            meta = None if file is None else read_meta(index, row, file)
            _add(found, index, row, meta)
    found.is_all = len(found.rows) == index.num_samples
    return found


def _add(found: LookedAt, index: ShardIndex, row: int, meta: KeyJson | None) -> None:
    """Take what one sample says of itself."""
    if meta is None:
        found.num_unreadable += 1
        return
    fps = meta["fps"] or math.nan
    found.rows.append(row)
    found.fps.append(fps)
    found.duration_s.append(int(index.num_frames[row]) * index.frame_step / fps)
    sizes = index.frames[index.first_frame[row] : index.first_frame[row + 1], SIZE]
    found.kilobytes.append(int(sizes.sum(dtype=np.int64)) / 1000)
    if "source_size" in meta:
        found.source_sizes[meta["source_size"]] += 1
    found.warnings.update({pattern_of(one[:300]) for one in meta.get("warnings", [])})


def read_meta(index: ShardIndex, row: int, file: FileIO) -> KeyJson | None:
    """A sample's key.json; None where it is not there or damaged."""
    header_at = place_of_json(index, row)
    head = read_bytes(file, header_at, BLOCK)
    if head[:100].rstrip(b"\0") != index.keys[row] + b".json":
        return None
    try:
        size = int(head[124:136].strip(b"\0 "), 8)
        return decode(read_bytes(file, header_at + BLOCK, size), KeyJson) if 0 < size <= MAX_JSON_BYTES else None
    except ValueError:  # no number, or no JSON of this kind
        return None


def read_bytes(file: FileIO, offset: int, size: int) -> bytes:
    """Bytes of a tar; fewer where it ends, none where the disk cannot read them."""
    try:
        return os.pread(file.fileno(), size, offset)
    except OSError:
        return b""


def place_of_json(index: ShardIndex, row: int) -> int:
    """Where the header of key.json should lie in its tar: files of a sample are in the order of their names, so it
    follows the strips, and precedes key.mp4.
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
