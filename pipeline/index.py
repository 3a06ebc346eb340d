"""Opens the index of a dataset and checks every sample.

Rows of frames, of which there are many more, are checked when they are read: against the tar's size, and by crc32.
"""

import os
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from res3d_video.pipeline.codecs import ranges
from res3d_video.pipeline.codecs.filmstrip import FilmstripCodec
from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.errors import UserError, one_line
from res3d_video.pipeline.files import open_plain, read_plain
from res3d_video.pipeline.schema import (
    FORMAT_VERSION,
    MAX_INFO_BYTES,
    MAX_TEXT_BYTES,
    SUBSETS,
    TEXT,
    ArraySpec,
    DatasetInfo,
    array_specs,
    parse_json,
    short,
)
from res3d_video.pipeline.typed_json import SchemaError, convert

if TYPE_CHECKING:
    from res3d_video.pipeline.remote import RemoteTars

Codec = FilmstripCodec | H264Codec
CODECS: dict[str, type[FilmstripCodec] | type[H264Codec]] = {"filmstrip": FilmstripCodec, "h264": H264Codec}
LARGE_BYTES = 2**23  # of an array that is read by row
READ_BY_ROW = ("tar", "offset", "first_frame", "frames")
ATTRIBUTES = {"key": "keys", "source": "sources", "group": "groups", "label": "labels", "split": "subsets"}
CHUNK_ROWS = 2**20  # checked at a time, to bound memory


class ShardError(UserError):
    """A dataset folder that cannot be used, in one line."""


@dataclass(frozen=True)
class ShardIndex:
    """Every sample of a dataset; rows are samples, in the order of the tars. Arrays are memory-mapped.

    Attributes:
        info: dataset.json.
        labels: int32 [num_samples], position in `classes`; of several labels the first.
        num_frames: int32 [num_samples], stored frames; source frames too unless `frame_step` is 2.
        content: int16 [num_samples, 4], left, top, width and height of the picture in its tile, pixels.
        subsets: int8 [num_samples, num_splits], 1 train, 2 test, 3 validation, 0 not used.
        tar, offset: int32, int64 [num_samples], in which of `tars` a sample lies, and where in it.
        first_frame: int64 [num_samples + 1]; sample i has the rows first_frame[i] … first_frame[i + 1] - 1 of `frames`.
        frames: uint32 [F, 3], a row a stored frame: its offset in the sample, size and crc32.
        label_lists: Where samples may have several labels, int64 [num_samples + 1] and int32 [num_labels]: sample i
            has the labels values[first[i]] … values[first[i + 1] - 1].
        store: Downloads tars that `data_dir` does not have yet; None for a folder that has them all.
        rows: To read few rows of `tar`, `offset`, `first_frame` and `frames`, as each step does.
    """

    data_dir: Path
    info: dict[str, Any]
    keys: np.ndarray
    sources: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    num_frames: np.ndarray
    content: np.ndarray
    subsets: np.ndarray
    tar: np.ndarray
    offset: np.ndarray
    first_frame: np.ndarray
    frames: np.ndarray
    label_lists: tuple[np.ndarray, np.ndarray] | None = None
    store: "RemoteTars | None" = None
    rows: dict[str, "Rows"] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.info["name"]

    @property
    def place(self) -> str:
        """Where it lies, for people: its folder, or its URL without secrets."""
        return str(self.data_dir.absolute()) if self.store is None else self.store.store.shown

    @property
    def classes(self) -> list[str]:
        return self.info["classes"]

    @property
    def split_names(self) -> list[str]:
        return self.info["split_names"]

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    @property
    def codec(self) -> str:
        """How frames are stored: "filmstrip" or "h264"."""
        return self.info["codec"]["name"]

    @property
    def size(self) -> int:
        """Content height in pixels as stored; with --keep-aspect, the short side."""
        return self.info["codec"]["size"]

    @property
    def frame_step(self) -> int:
        """Source frames from one stored frame to the next: 2 in shards made with --drop-odd, else 1."""
        return self.info["codec"]["frame_step"]

    @property
    def fingerprint(self) -> str:
        """Changes when any byte of any tar does."""
        return self.info["fingerprint"]

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width of a stored frame, pixels; the content lies inside it."""
        return self.info["codec"]["tile_height"], self.info["codec"]["tile_width"]

    @property
    def gop_size(self) -> int:
        """Of H.264: frames from one keyframe to the next."""
        return self.info["codec"]["gop_size"]

    @cached_property
    def stored_as(self) -> Codec:
        """The codec of the stored frames."""
        try:
            return CODECS[self.codec].of(self.info["codec"])
        except UserError as error:
            raise ShardError(f"{self.data_dir}/dataset.json: {error}; build the shards again") from None

    @cached_property
    def tars(self) -> list[str]:
        """File names of the tars; `tar` counts along this list."""
        return [shard["tar"] for shard in self.info["shards"]]

    def key(self, sample: int) -> str:
        """The sample's unique short name."""
        return self.keys[sample].decode(errors="backslashreplace")

    def source(self, sample: int) -> str:
        """The raw video's path relative to its root."""
        return self.sources[sample].decode(errors="backslashreplace")

    def num_labels(self, samples: np.ndarray) -> np.ndarray:
        """How many labels each sample has: int64 [n]."""
        if self.label_lists is None:
            return np.ones(len(samples), np.int64)
        first, _ = self.label_lists
        return first[samples + 1] - first[samples]

    def label_at(self, samples: np.ndarray, place: np.ndarray) -> np.ndarray:
        """One label of each sample, place 0 is the first: int64 [n]."""
        if self.label_lists is None:
            return self.labels[samples].astype(np.int64)
        first, values = self.label_lists
        return values[first[samples] + place].astype(np.int64)

    def all_labels(self, samples: np.ndarray) -> np.ndarray:
        """All labels of each sample: int64 [n, most labels], the first one first, -1 where a sample has fewer."""
        counts = self.num_labels(samples)
        table = np.full((len(samples), int(counts.max(initial=1))), -1, np.int64)
        for place in range(table.shape[1]):
            has = counts > place
            table[has, place] = self.label_at(samples[has], np.full(int(has.sum()), place))
        return table

    def tar_of(self, samples: np.ndarray) -> np.ndarray:
        """Which tar holds each sample; a sample never spans two: int64 [n]."""
        return self.tar[samples].astype(np.int64)

    def sides_line(self, split: str) -> str:
        """How many samples each side of a split has: "70 train, 10 val, 20 test"; no val where there is none."""
        counts = self.info["splits"][split]
        sides = [side for side in ("train", "val", "test") if side != "val" or counts.get("val")]
        return ", ".join(f"{counts[side]} {side}" for side in sides)

    def samples_of(self, split: str, subset: str) -> np.ndarray:
        """Rows of one side of a split: int64 [n], ascending; a `UserError` where there are none."""
        if split not in self.split_names:
            raise UserError(f"{self.name}: split {split} does not exist; choose {choices(self.split_names)}")
        if subset not in SUBSETS:
            raise UserError(f"{self.name}: subset {subset} does not exist; choose {choices(list(SUBSETS))}")
        rows = np.flatnonzero(self.subsets[:, self.split_names.index(split)] == SUBSETS[subset])
        if not len(rows):
            raise UserError(f"{self.name}: split {split} has no {subset} sample; see {self.data_dir / 'dataset.json'}")
        return rows


def choices(names: list[str]) -> str:
    """Names in a sentence.

    >>> choices(["1", "2", "3"])
    '1, 2 or 3'
    """
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def parse_info(content: bytes, *, where: Path | str) -> dict[str, Any]:
    """The content of a dataset.json; `ShardError` if a field is missing, of another type or out of bounds."""
    try:
        info = parse_json(content)
        version = info.get("format_version")
        if version != FORMAT_VERSION:
            raise ShardError(
                f"{where}: format version {short(version)}, this program reads {FORMAT_VERSION}; build the shards again"
            )
        convert(info, DatasetInfo)
    except SchemaError as error:
        raise ShardError(f"{where}: {error}; build the shards again") from None
    return info


def open_index(data_dir: Path) -> ShardIndex:
    """Open a dataset folder; `ShardError` if it is not finished, of another format version, or damaged."""
    folder = Path(data_dir)
    path = folder / "dataset.json"
    try:
        content = read_plain(path, max_bytes=MAX_INFO_BYTES)
    except FileNotFoundError:
        unfinished = (folder / "parts").is_dir()
        again = "run the same tools/make_shards.py command again to finish it"
        way_out = again if unfinished else "make it with tools/make_shards.py"
        raise ShardError(f"{data_dir}: no dataset.json, so no finished shards; {way_out}") from None
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({one_line(error)}); build the shards again") from None
    info = parse_info(content, where=path)
    try:
        check_samples(load_arrays(folder, info), info)  # reads every row; these arrays then free their pages
        arrays = load_arrays(folder, info)
    except SchemaError as fault:
        raise ShardError(f"{data_dir}: {fault}; build the shards again") from None
    lists = (arrays.pop("first_label"), arrays.pop("labels")) if "labels" in arrays else None
    rows = {name: Rows(folder / f"index/{name}.npy", arrays[name]) for name in READ_BY_ROW}
    columns: dict[str, Any] = {ATTRIBUTES.get(name, name): array for name, array in arrays.items()}
    index = ShardIndex(folder, info, **columns, label_lists=lists, rows=rows)
    index.stored_as  # noqa: B018 - raises where the codec's own description is damaged
    return index


def load_arrays(folder: Path, info: dict[str, Any]) -> dict[str, np.ndarray]:
    """All arrays of the index, by name, as a checked dataset.json describes them."""
    return {name: load_array(folder / "index" / f"{name}.npy", spec) for name, spec in array_specs(info).items()}


def load_array(path: Path, spec: ArraySpec) -> np.ndarray:
    """An array, memory-mapped and read-only; `SchemaError` if it is damaged or of another type or shape."""
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            if file.read(8) != b"\x93NUMPY\1\0":  # later versions may have headers of gigabytes
                raise ValueError("no .npy file of version 1.0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = np.load(path, mmap_mode=None if 0 in spec.shape else "r", allow_pickle=False)
        is_text = spec.kind is TEXT and array.dtype.kind == TEXT and 0 < array.dtype.itemsize <= MAX_TEXT_BYTES
        if array.shape != spec.shape or not (is_text or array.dtype == np.dtype(spec.kind)):
            wanted = "bytes" if spec.kind is TEXT else np.dtype(spec.kind)
            found = f"{array.dtype} {list(array.shape)}"
            raise ValueError(f"{found} where dataset.json asks for {wanted} {list(spec.shape)}")
        return array
    except Exception as error:  # numpy reads headers with Python's own parsers, which raise nearly everything
        raise SchemaError(f"index/{path.name}: cannot be read ({one_line(error)})") from None


class Rows:
    """Reads few rows of an array; of a large one without keeping its pages in this process's memory.

    Mapping and unmapping a page costs several times a read of a row (docs/decisions/0013-pictures-are-read.md).
    """

    def __init__(self, path: Path, array: np.ndarray) -> None:
        self._array = array
        self._file = FileIO(path) if array.nbytes > LARGE_BYTES else None

    def take(self, first: np.ndarray, count: np.ndarray | None = None) -> np.ndarray:
        """The rows first[i] … first[i] + count[i] - 1 for each i, one after another; one row each without `count`."""
        if self._file is None:
            return self._array[first if count is None else ranges(first, count)]
        assert isinstance(self._array, np.memmap)
        width = self._array.strides[0]
        sizes = [width] * len(first) if count is None else (count * width).tolist()
        places, file = (self._array.offset + first * width).tolist(), self._file.fileno()
        content = b"".join([os.pread(file, size, place) for size, place in zip(sizes, places, strict=True)])
        return np.frombuffer(content, self._array.dtype).reshape(-1, *self._array.shape[1:])


def check_samples(arrays: dict[str, np.ndarray], info: dict[str, Any]) -> None:
    """Refuse invalid values of samples: labels, frames, content boxes, splits, tars, rows of frames."""
    codec, num_classes = info["codec"], len(info["classes"])
    check_firsts("first_frame", arrays["first_frame"], info["num_frames"])
    if "labels" in arrays:
        check_firsts("first_label", arrays["first_label"], info["num_labels"])
        for rows in chunks(info["num_labels"]):
            check_range("labels", arrays["labels"][rows], 0, num_classes - 1)
    for rows in chunks(info["num_samples"]):
        num_frames = arrays["num_frames"][rows]
        check_range("label", arrays["label"][rows], 0, num_classes - 1)
        check_range("num_frames", num_frames, 1, 2**31 - 1)
        check_range("split", arrays["split"][rows], 0, max(SUBSETS.values()))
        check_range("tar", arrays["tar"][rows], 0, len(info["shards"]) - 1)
        check_range("offset", arrays["offset"][rows], 0, 2**40)
        left, top, width, height = (arrays["content"][rows, i].astype(np.int32) for i in range(4))
        for low, high, name in ((left, left + width, "tile_width"), (top, top + height, "tile_height")):
            if (low < 0).any() or (high <= low).any() or (high > codec[name]).any():
                raise SchemaError(f"index/content.npy: some picture lies outside its {name} of {codec[name]}")
        has = np.diff(arrays["first_frame"][rows.start : rows.stop + 1])
        wrong = np.flatnonzero(has != num_frames)
        if len(wrong):
            row = int(wrong[0])
            raise SchemaError(f"index/first_frame.npy: a sample of {num_frames[row]} frames has {has[row]} rows")


def check_firsts(name: str, first: np.ndarray, end: int) -> None:
    """Check an array of the first rows of samples: it goes from 0 to `end`, and each sample has at least one row."""
    for rows in chunks(len(first) - 1):
        if (np.diff(first[rows.start : rows.stop + 1]) < 1).any():
            raise SchemaError(f"index/{name}.npy: does not rise everywhere")
    if (int(first[0]), int(first[-1])) != (0, end):
        raise SchemaError(f"index/{name}.npy: goes from {first[0]} to {first[-1]}, not from 0 to {end}")


def check_range(name: str, values: np.ndarray, low: int, high: int) -> None:
    """Check that values are in bounds, both included."""
    if values.size and not low <= values.min() <= values.max() <= high:
        raise SchemaError(f"index/{name}.npy: must have {low} … {high}, has {values.min()} … {values.max()}")


def chunks(count: int) -> list[slice]:
    """Slices of `CHUNK_ROWS` consecutive rows.

    >>> chunks(2**20 + 1)
    [slice(0, 1048576, None), slice(1048576, 1048577, None)]
    """
    return [slice(begin, min(begin + CHUNK_ROWS, count)) for begin in range(0, count, CHUNK_ROWS)]
