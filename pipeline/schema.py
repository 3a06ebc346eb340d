"""The shard format, version 2, in one place: dataset.json and the arrays of the index.

A dataset folder holds
    NAME-000000.tar, NAME-000000.idx   WebDataset tars (USTAR) and DALI's index of each
    parts/NAME-000000.json             what is in that tar and what it was made from; lets a build resume
    index/*.npy                        the arrays of `array_specs`: a row a sample, and a row a frame
    dataset.json, quarantine.jsonl     settings, counts, checksums; inputs that did not become samples
"""

import json
import math
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from res3d_video.pipeline.codecs.filmstrip import MAX_HEIGHT, MCU
from res3d_video.pipeline.errors import UserError, one_line
from res3d_video.pipeline.files import is_plain_name
from res3d_video.pipeline.typed_json import SchemaError

FORMAT_VERSION = 2
SUBSETS = {"train": 1, "test": 2, "val": 3}  # in the split column; 0 is "not used"
OFFSET, SIZE, CRC32 = range(3)  # columns of a frame's row
MAX_INFO_BYTES = 2**25  # of dataset.json; that of five million samples has less than half
MAX_CONTAINERS = 2**20  # objects and lists in it: 200 bytes each in memory, where one takes two bytes to write
MAX_AREA, MAX_STRIP_AREA = 2**26, 2**27  # pixels of a stored frame, of a strip
MAX_TEXT_BYTES = 2**12  # of a key, source or group: the longest path that Linux opens
MAX_NPY_HEADER_BYTES = 2**16 + 10  # of a .npy file of version 1.0

TEXT = "S"  # bytes of any width
TEXT_COLUMNS = ("key", "source", "group")


class ArraySpec(NamedTuple):
    """A numpy type, or `TEXT`, and the shape of an array of the index."""

    kind: Any
    shape: tuple[int, ...]

    @property
    def max_bytes(self) -> int:
        """The longest .npy file that can hold it."""
        width = MAX_TEXT_BYTES if self.kind is TEXT else np.dtype(self.kind).itemsize
        return MAX_NPY_HEADER_BYTES + math.prod(self.shape) * width


def array_specs(info: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """The arrays of the index, by name, that a dataset.json requires.

    key, source, group: Of each sample: its unique short name, the raw video's path, and its group, which is on one side
        of a split.
    label: Position among the classes; of several labels the first.
    num_frames: Stored frames.
    content: Left, top, width and height of the picture in its tile, pixels.
    split: For each split, a value of `SUBSETS` or 0.
    tar, offset: In which tar the sample lies, and where the first byte of its first file is.
    first_frame: Row in `frames` of the sample's first frame; one more at the end.
    frames: Of each stored frame, offset in the sample, size and crc32 of its bytes.
    first_label, labels: All labels of samples that may have several.
    """
    num_samples, num_labels = info["num_samples"], info.get("num_labels")
    specs = {name: ArraySpec(TEXT, (num_samples,)) for name in TEXT_COLUMNS} | {
        "label": ArraySpec(np.int32, (num_samples,)),
        "num_frames": ArraySpec(np.int32, (num_samples,)),
        "content": ArraySpec(np.int16, (num_samples, 4)),
        "split": ArraySpec(np.int8, (num_samples, len(info["split_names"]))),
        "tar": ArraySpec(np.int32, (num_samples,)),
        "offset": ArraySpec(np.int64, (num_samples,)),
        "first_frame": ArraySpec(np.int64, (num_samples + 1,)),
        "frames": ArraySpec(np.uint32, (info["num_frames"], 3)),
    }
    if num_labels is not None:
        specs["first_label"] = ArraySpec(np.int64, (num_samples + 1,))
        specs["labels"] = ArraySpec(np.int32, (num_labels,))
    return specs


Count = Annotated[int, Meta(ge=0, le=2**40)]
Tile = Annotated[int, Meta(ge=MCU, le=MAX_HEIGHT, multiple_of=MCU)]
Hex = Annotated[str, Meta(pattern="^([0-9a-f]{2}){1,65536}$")]
Name = Annotated[str, Meta(min_length=1, max_length=1000)]


class CodecInfo(Struct, tag_field="name"):
    """How frames are stored: the fields of all codecs."""

    size: Annotated[int, Meta(ge=16, le=MAX_HEIGHT)]
    frame_step: Annotated[int, Meta(ge=1, le=2)]
    tile_width: Tile
    tile_height: Tile

    def __post_init__(self) -> None:
        if self.tile_width * self.tile_height > MAX_AREA:
            raise UserError(f"tiles are {self.tile_width}×{self.tile_height}; they may have {MAX_AREA} pixels")


class FilmstripInfo(CodecInfo, tag="filmstrip"):
    """`FilmstripCodec.describe`."""

    strip_frames: Annotated[int, Meta(ge=1, le=256)]
    phase_stride: Annotated[int, Meta(ge=1, le=32)]
    quality: Annotated[int, Meta(ge=1, le=100)]
    header: Hex
    blank: Hex

    def __post_init__(self) -> None:
        super().__post_init__()
        height = self.strip_frames * self.tile_height
        if height > MAX_HEIGHT or height * self.tile_width > MAX_STRIP_AREA:
            most = f"{MAX_STRIP_AREA} pixels and a height of {MAX_HEIGHT}"
            raise UserError(f"strips are {self.tile_width}×{height}; they may have {most}")


class H264Info(CodecInfo, tag="h264"):
    """`H264Codec.describe`."""

    gop_size: Annotated[int, Meta(ge=2, le=250)]
    crf: Annotated[int, Meta(ge=1, le=51)]
    preset: Name
    avcc: Hex
    blank: Hex


class ShardInfo(Struct):
    """A tar of the dataset."""

    tar: str
    num_bytes: Annotated[int, Meta(ge=1, le=2**40)]
    num_samples: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class DatasetInfo(Struct):
    """The fields of dataset.json that are read."""

    name: str
    classes: list[Name]
    split_names: list[Name]
    fingerprint: Annotated[str, Meta(pattern="^[0-9A-Za-z]+$")]
    num_samples: Count
    num_frames: Count
    class_counts: dict[str, Count]
    splits: dict[str, dict[str, Count]]
    codec: FilmstripInfo | H264Info
    shards: list[ShardInfo]
    num_labels: Count | None = None

    def __post_init__(self) -> None:
        if not is_plain_name(self.name):
            raise UserError(f"name is {short(self.name)}; it must be a plain name")
        for field, names in (("classes", self.classes), ("split_names", self.split_names)):
            if len(set(names)) != len(names):
                raise UserError(f"{field}: a name comes twice")
        if set(self.class_counts) != set(self.classes):
            raise UserError("class_counts: it must have the number of samples of each class")
        sides = [set(split) - {"val"} for split in self.splits.values()]  # "val" is optional
        if self.splits.keys() != set(self.split_names) or any(side != set(SUBSETS) - {"val"} for side in sides):
            raise UserError("splits: it must have the number of samples of each side of each split")
        tars = [shard.tar for shard in self.shards]
        for tar in tars:
            if not is_plain_name(tar) or not tar.endswith(".tar"):
                raise UserError(f"shards: tar is {short(tar)}; it must be the plain name of a tar")
        if len(set(tars)) != len(tars):
            raise UserError("shards: a tar comes twice")
        total = sum(shard.num_samples for shard in self.shards)
        if total != self.num_samples:
            raise UserError(f"num_samples is {self.num_samples}; its shards have {total}")


def parse_json(content: bytes) -> dict[str, Any]:
    """Untrusted JSON of an object; `SchemaError` if it is too large, not JSON or not an object."""
    if len(content) > MAX_INFO_BYTES or content.count(b"[") + content.count(b"{") > MAX_CONTAINERS:
        raise SchemaError(f"too large; it may have {MAX_INFO_BYTES:,} bytes with {MAX_CONTAINERS:,} objects and lists")
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"not JSON ({one_line(error)})") from None
    if not isinstance(parsed, dict):
        raise SchemaError("not JSON of an object")
    return parsed


def short(value: Any) -> str:
    """A value of any size and depth, shortened for a message."""
    return " ".join(reprlib.repr(value)[:60].split())
