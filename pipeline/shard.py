"""The shard format as it is read: dataset.json and the memory-mapped index; mapped_tars.py reads the pictures.

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
SAMPLE_ARRAYS = ("key", "source", "group", "label", "num_frames", "content", "split")
PICTURE_ARRAYS = ("tar", "offset", "size", "crc32")
PICTURE_NAMES = {"filmstrip": "strip", "h264": "packet"}  # codec -> what a picture is; index files begin with it


class ShardError(ValueError):
    """A dataset folder that cannot be used, in one line."""


@dataclass(frozen=True)
class Pictures:
    """Where the compressed pictures of a dataset lie: strips, or packets of H.264, one a frame. Arrays, memory-mapped.

    Attributes:
        first: int64 [num_samples + 1]; sample i has the pictures first[i] … first[i + 1] - 1.
        tar, offset, size, crc32: int32, int64, int32, uint32 [num_pictures]; in which tar a picture lies, where, bytes,
            and its checksum.
        keyframe: bool [num_pictures]; None for strips, which need no other.
    """

    first: np.ndarray
    tar: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    crc32: np.ndarray
    keyframe: np.ndarray | None

    def __len__(self) -> int:
        return len(self.tar)


@dataclass(frozen=True)
class ShardIndex:
    """Every sample of a dataset; rows are samples, in the order of the tars. Arrays are memory-mapped.

    Attributes:
        info: dataset.json.
        labels: int32 [num_samples], position in `classes`.
        num_frames: int32 [num_samples], stored frames; source frames too unless `frame_step` is 2.
        content: int16 [num_samples, 4], left, top, width and height of the picture in its tile, pixels.
        subsets: int8 [num_samples, num_splits], 1 train, 2 test, 0 not used.
        pictures: What the tars hold of every sample.
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
    pictures: Pictures

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
    def layout(self) -> StripLayout:
        """Of filmstrips."""
        codec = self.info["codec"]
        return StripLayout(codec["tile_height"], codec["tile_width"], codec["strip_frames"], codec["phase_stride"])

    @property
    def tars(self) -> list[str]:
        """File names of the tars; `pictures.tar` counts along this list."""
        return [shard["tar"] for shard in self.info["shards"]]

    def key(self, sample: int) -> str:
        """The sample's unique short name."""
        return self.keys[sample].decode()

    def source(self, sample: int) -> str:
        """The raw video's path relative to its root."""
        return self.sources[sample].decode()

    def tar_of(self, samples: np.ndarray) -> np.ndarray:
        """Which tar holds each sample; a sample never spans two."""
        return self.pictures.tar[self.pictures.first[samples]]

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
    if info["codec"]["name"] not in PICTURE_NAMES:
        raise ShardError(f"{path}: codec {info['codec']['name']!r} is unknown; install a newer version of this program")

    def array(name: str) -> np.ndarray:
        file = Path(data_dir) / "index" / f"{name}.npy"
        try:
            return np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ShardError(f"{file}: cannot be read ({error}); build the shards again") from None

    picture = PICTURE_NAMES[info["codec"]["name"]]
    samples = {name: array(name) for name in SAMPLE_ARRAYS}
    pictures = Pictures(
        first=array(f"first_{picture}"),
        **{name: array(f"{picture}_{name}") for name in PICTURE_ARRAYS},
        keyframe=array(f"{picture}_keyframe") if picture == "packet" else None,
    )
    num_samples, num_pictures = info["num_samples"], info[f"num_{picture}s"]
    of_pictures = [value for name, value in vars(pictures).items() if name != "first" and value is not None]
    lengths_fit = (
        all(len(value) == num_samples for value in samples.values())
        and len(pictures.first) == num_samples + 1
        and all(len(value) == num_pictures for value in of_pictures)
        and (num_samples == 0 or (int(pictures.first[0]), int(pictures.first[-1])) == (0, num_pictures))
    )
    if not lengths_fit:
        raise ShardError(f"{data_dir}/index: its arrays do not fit dataset.json; build the shards again")
    return ShardIndex(
        Path(data_dir),
        info,
        keys=samples["key"],
        sources=samples["source"],
        groups=samples["group"],
        labels=samples["label"],
        num_frames=samples["num_frames"],
        content=samples["content"],
        subsets=samples["split"],
        pictures=pictures,
    )
