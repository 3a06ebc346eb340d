"""The shard format as it is read: dataset.json and the memory-mapped index; mapped_tars.py reads the strips.

A dataset folder holds
    NAME-000000.tar, NAME-000000.idx   WebDataset tars (USTAR) and DALI's index of each
    parts/NAME-000000.json             what was put into that tar, and from what; lets a build go on
    index/*.npy                        the arrays of `ShardIndex`, opened with mmap_mode="r"
    dataset.json, quarantine.jsonl     settings, counts, checksums; inputs that did not become samples
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.filmstrip import StripLayout

FORMAT_VERSION = 1
SUBSETS = {"train": 1, "test": 2}  # in the split column; 0 is "not used"
SAMPLE_ARRAYS = ("key", "source", "group", "label", "num_frames", "content", "split", "first_strip")
STRIP_ARRAYS = ("strip_tar", "strip_offset", "strip_size", "strip_crc32")


class ShardError(ValueError):
    """A dataset folder that cannot be used, in one line."""


@dataclass(frozen=True)
class ShardIndex:
    """Every sample of a dataset; rows are samples, in the order of the tars. Arrays are memory-mapped.

    Attributes:
        info: dataset.json.
        labels: int32 [num_samples], position in `classes`.
        num_frames: int32 [num_samples], stored frames; source frames too unless `frame_step` is 2.
        content: int16 [num_samples, 4], left, top, width and height of the picture in its tile, pixels.
        subsets: int8 [num_samples, num_splits], 1 train, 2 test, 0 not used.
        first_strip: int64 [num_samples + 1]; sample i has the strips first_strip[i] … first_strip[i + 1] - 1.
        strip_tar, strip_offset, strip_size, strip_crc32: int32, int64, int32, uint32 [num_strips]; where a strip's
            JPEG lies in which tar, bytes, and its checksum.
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
    first_strip: np.ndarray
    strip_tar: np.ndarray
    strip_offset: np.ndarray
    strip_size: np.ndarray
    strip_crc32: np.ndarray

    @property
    def name(self) -> str:
        return self.info["name"]

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

    @cached_property
    def layout(self) -> StripLayout:
        codec = self.info["codec"]
        return StripLayout(codec["tile_height"], codec["tile_width"], codec["strip_frames"], codec["phase_stride"])

    @property
    def tars(self) -> list[str]:
        """File names of the tars; `strip_tar` counts along this list."""
        return [shard["tar"] for shard in self.info["shards"]]

    def key(self, sample: int) -> str:
        """The sample's unique short name."""
        return self.keys[sample].decode()

    def source(self, sample: int) -> str:
        """The raw video's path relative to its root."""
        return self.sources[sample].decode()

    def tar_of(self, samples: np.ndarray) -> np.ndarray:
        """Which tar holds each sample; a sample never spans two."""
        return self.strip_tar[self.first_strip[samples]]

    def samples_of(self, split: str, subset: str) -> np.ndarray:
        """Rows of one side of a split: int64 [n], ascending.

        Raises:
            ValueError: The dataset has no such split, or nothing in that subset.
        """
        if split not in self.split_names:
            raise ValueError(f"{self.name}: split {split} does not exist; choose {choices(self.split_names)}")
        if subset not in SUBSETS:
            raise ValueError(f"{self.name}: subset {subset} does not exist; choose {choices(list(SUBSETS))}")
        rows = np.flatnonzero(self.subsets[:, self.split_names.index(split)] == SUBSETS[subset])
        if not len(rows):
            raise ValueError(f"{self.name}: split {split} has no {subset} sample; see {self.data_dir / 'dataset.json'}")
        return rows


def choices(names: list[str]) -> str:
    """Names as a person lists them.

    >>> choices(["1", "2", "3"])
    '1, 2 or 3'
    """
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def open_index(data_dir: Path) -> ShardIndex:
    """Open a dataset folder.

    Raises:
        ShardError: Not a finished dataset, of another format version, or its index does not fit together.
    """
    path = Path(data_dir) / "dataset.json"
    try:
        info = json.loads(path.read_text())
    except FileNotFoundError:
        unfinished = (Path(data_dir) / "parts").is_dir()
        way_out = (
            "run the same tools/make_shards.py command again to finish it"
            if unfinished
            else "make it with tools/make_shards.py"
        )
        raise ShardError(f"{data_dir}: no dataset.json, so no finished shards; {way_out}") from None
    except json.JSONDecodeError as error:
        raise ShardError(f"{path}: not JSON ({error}); build the shards again") from None
    if info.get("format_version") != FORMAT_VERSION:
        raise ShardError(
            f"{path}: format version {info.get('format_version')}, this program reads {FORMAT_VERSION}; "
            "build the shards again"
        )
    arrays = {}
    for name in SAMPLE_ARRAYS + STRIP_ARRAYS:
        file = Path(data_dir) / "index" / f"{name}.npy"
        try:
            arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ShardError(f"{file}: cannot be read ({error}); build the shards again") from None
    index = ShardIndex(
        Path(data_dir),
        info,
        keys=arrays["key"],
        sources=arrays["source"],
        groups=arrays["group"],
        labels=arrays["label"],
        num_frames=arrays["num_frames"],
        content=arrays["content"],
        subsets=arrays["split"],
        first_strip=arrays["first_strip"],
        strip_tar=arrays["strip_tar"],
        strip_offset=arrays["strip_offset"],
        strip_size=arrays["strip_size"],
        strip_crc32=arrays["strip_crc32"],
    )
    num_samples, num_strips = info["num_samples"], info["num_strips"]
    lengths_fit = (
        all(len(arrays[name]) == num_samples for name in SAMPLE_ARRAYS if name != "first_strip")
        and len(index.first_strip) == num_samples + 1
        and all(len(arrays[name]) == num_strips for name in STRIP_ARRAYS)
        and (num_samples == 0 or (int(index.first_strip[0]), int(index.first_strip[-1])) == (0, num_strips))
    )
    if not lengths_fit:
        raise ShardError(f"{data_dir}/index: its arrays do not fit dataset.json; build the shards again")
    return index
