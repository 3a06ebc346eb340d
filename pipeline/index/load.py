"""index/*.npy, opened and checked: what holds for every sample here need not be asked by anybody who reads clips.

Rows of pictures, of which there are many more, are checked when they are read: by the bounds of their tar and by crc32.
"""

import math
import mmap
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.filmstrip import StripLayout
from pipeline.index.arrays import LabelLists, Pictures
from pipeline.index.check import IndexFault, one_line
from pipeline.source.plain_file import open_plain

NAMES, TEXT = ("key", "source", "group"), "S"  # bytes of any width
PICTURE_TYPES = {"tar": np.int32, "offset": np.int64, "size": np.int32, "crc32": np.uint32, "keyframe": np.bool_}
LARGE_BYTES = 2**23  # of a file whose pages are given back after every step
PLANNED = {"label", "num_frames", "content"}  # but not these: a step is planned with rows of all ranks' clips
CHUNK_ROWS = 2**20  # looked at together, which bounds the memory
MAX_TEXT_BYTES = 2**12  # of a key, source or group: the longest path that Linux opens
MAX_HEADER_BYTES = 2**16 + 10  # of a .npy file of version 1.0
# As numpy writes it; numpy reads it with Python's own parsers, which raise nearly everything, and print warnings.
HEADER = re.compile(
    rb"\{'descr': '([|<>]\w{2,8})', 'fortran_order': False, 'shape': \(((?:\d{1,18}, )*(?:\d{1,18},?)?)\), \} *\n"
)


def load_arrays(
    folder: Path, info: dict[str, Any], *, picture: str
) -> tuple[dict[str, np.ndarray], tuple[mmap.mmap, ...]]:
    """All arrays that a checked dataset.json asks for, of the types and shapes that follow from it.

    Returns:
        The arrays by name, and the mappings of those that are large and of which a step needs few rows.

    Raises:
        IndexFault: One is missing, damaged or another.
    """
    wanted = expected_arrays(info, picture=picture)
    loaded = {name: load_array(folder / f"{name}.npy", kind, shape) for name, (kind, shape) in wanted.items()}
    mappings = {name: mapping for name, (_, mapping) in loaded.items() if name not in PLANNED}
    large = tuple(mapping for mapping in mappings.values() if mapping is not None and len(mapping) >= LARGE_BYTES)
    return {name: array for name, (array, _) in loaded.items()}, large


def expected_arrays(info: dict[str, Any], *, picture: str) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Type and shape of each array that a checked dataset.json asks for, by name."""
    count, pictures, splits = info["num_samples"], info[f"num_{picture}s"], len(info["split_names"])
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {name: (TEXT, (count,)) for name in NAMES}
    wanted |= {"label": (np.int32, (count,)), "num_frames": (np.int32, (count,)), "content": (np.int16, (count, 4))}
    wanted |= {"split": (np.int8, (count, splits)), f"first_{picture}": (np.int64, (count + 1,))}
    columns = [name for name in PICTURE_TYPES if name != "keyframe" or picture == "packet"]
    wanted |= {f"{picture}_{name}": (PICTURE_TYPES[name], (pictures,)) for name in columns}
    if "num_labels" in info:
        wanted |= {"first_label": (np.int64, (count + 1,)), "labels": (np.int32, (info["num_labels"],))}
    return wanted


def most_bytes(kind: Any, shape: tuple[int, ...]) -> int:
    """The longest file that can hold an array of this type and shape.

    >>> most_bytes(np.int32, (10,)) - MAX_HEADER_BYTES, most_bytes(TEXT, (10,)) - MAX_HEADER_BYTES
    (40, 40960)
    """
    return MAX_HEADER_BYTES + math.prod(shape) * (MAX_TEXT_BYTES if kind is TEXT else np.dtype(kind).itemsize)


def load_array(path: Path, kind: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, mmap.mmap | None]:
    """An array, memory-mapped and read-only, and its mapping; an empty array has none.

    Raises:
        IndexFault: It is not there, not a file, damaged, or of another type or shape.
    """
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            dtype, found = read_header(file)
            fits = (
                dtype.kind == TEXT and 0 < dtype.itemsize <= MAX_TEXT_BYTES if kind is TEXT else dtype == np.dtype(kind)
            )
            if found != shape or not fits:
                wanted = "bytes" if kind is TEXT else np.dtype(kind)
                raise ValueError(f"{dtype} {list(found)} where dataset.json asks for {wanted} {list(shape)}")
            start, size = file.tell(), os.fstat(file.fileno()).st_size
            if size != start + math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{size} bytes; its header says {start + math.prod(shape) * dtype.itemsize}")
            if not math.prod(shape):  # cannot be mapped
                return np.empty(shape, dtype), None
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return np.ndarray(shape, dtype, mapping, start), mapping
    except (OSError, ValueError, TypeError) as error:
        raise IndexFault(f"index/{path.name}: cannot be read ({one_line(error)})") from None


def read_header(file: BinaryIO) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and shape of an array in a .npy file of version 1.0; `file` stands at its first byte then.

    Raises:
        ValueError, TypeError: numpy has not written it, or does not know the type.
    """
    magic, num_bytes = file.read(8), int.from_bytes(file.read(2), "little")
    header = HEADER.fullmatch(file.read(num_bytes))
    if magic != b"\x93NUMPY\1\0" or not header:
        raise ValueError("no .npy file of version 1.0")
    return np.dtype(header[1].decode()), tuple(map(int, re.findall(rb"\d+", header[2])))


def check_samples(arrays: dict[str, np.ndarray], info: dict[str, Any], *, picture: str) -> None:
    """The values of every sample: its label, frames, picture, sides of splits, and how many pictures it has.

    Raises:
        IndexFault: Some are impossible.
    """
    codec, num_classes = info["codec"], len(info["classes"])
    layout = None
    if picture == "strip":
        layout = StripLayout(codec["tile_height"], codec["tile_width"], codec["strip_frames"], codec["phase_stride"])
    first = f"first_{picture}"
    check_firsts(first, arrays[first], info[f"num_{picture}s"])
    if "num_labels" in info:
        check_firsts("first_label", arrays["first_label"], info["num_labels"])
        for rows in chunks(info["num_labels"]):
            check_range("labels", arrays["labels"][rows], 0, num_classes - 1)
    for rows in chunks(info["num_samples"]):
        num_frames = arrays["num_frames"][rows]
        check_range("label", arrays["label"][rows], 0, num_classes - 1)
        check_range("num_frames", num_frames, 1, 2**31 - 1)
        check_range("split", arrays["split"][rows], 0, 2)
        left, top, width, height = (arrays["content"][rows, i].astype(np.int32) for i in range(4))
        for low, high, name in ((left, left + width, "tile_width"), (top, top + height, "tile_height")):
            if (low < 0).any() or (high <= low).any() or (high > codec[name]).any():
                raise IndexFault(f"index/content.npy: some picture lies outside its {name} of {codec[name]}")
        has = np.diff(arrays[first][rows.start : rows.stop + 1])
        expected = num_frames if layout is None else strips_of(num_frames, layout)
        wrong = np.flatnonzero(has != expected)
        if len(wrong):
            row = int(wrong[0])
            raise IndexFault(f"index/{first}.npy: {num_frames[row]} frames cannot lie in {has[row]} {picture}s")


def check_firsts(name: str, first: np.ndarray, end: int) -> None:
    """An array that says where each sample's own rows begin: from 0 to the end, and at least one each."""
    for rows in chunks(len(first) - 1):
        if (np.diff(first[rows.start : rows.stop + 1]) < 1).any():
            raise IndexFault(f"index/{name}.npy: does not rise everywhere")
    if (int(first[0]), int(first[-1])) != (0, end):
        raise IndexFault(f"index/{name}.npy: goes from {first[0]} to {first[-1]}, not from 0 to {end}")


def check_range(name: str, values: np.ndarray, low: int, high: int) -> None:
    """Values in bounds, both included."""
    if values.size and not low <= values.min() <= values.max() <= high:
        raise IndexFault(f"index/{name}.npy: has {values.min()} … {values.max()}, possible is {low} … {high}")


def strips_of(num_frames: np.ndarray, layout: StripLayout) -> np.ndarray:
    """`filmstrip.num_strips` of many segments: int64 [n].

    >>> strips_of(np.array([1, 2, 16, 17, 33]), StripLayout(128, 176)).tolist()
    [1, 2, 2, 3, 5]
    """
    blocks, rest = np.divmod(num_frames.astype(np.int64), layout.block_frames)
    return blocks * layout.phase_stride + np.minimum(rest, layout.phase_stride)


def chunks(count: int) -> list[slice]:
    """Consecutive rows, so many at a time that little memory is needed.

    >>> chunks(2**20 + 1)
    [slice(0, 1048576, None), slice(1048576, 1048577, None)]
    """
    return [slice(begin, min(begin + CHUNK_ROWS, count)) for begin in range(0, count, CHUNK_ROWS)]


def pictures_of(arrays: dict[str, np.ndarray], *, picture: str) -> Pictures:
    """The arrays of pictures."""
    columns = {name: arrays.get(f"{picture}_{name}") for name in PICTURE_TYPES}
    return Pictures(first=arrays[f"first_{picture}"], **columns)  # type: ignore[arg-type]


def label_lists_of(arrays: dict[str, np.ndarray]) -> LabelLists | None:
    """The arrays of labels, where samples may have several."""
    return LabelLists(arrays["first_label"], arrays["labels"]) if "labels" in arrays else None
