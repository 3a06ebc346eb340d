"""The shard format as it is read: dataset.json and the memory-mapped index; picture_reader.py reads the pictures.

A dataset folder holds
    NAME-000000.tar, NAME-000000.idx   WebDataset tars (USTAR) and DALI's index of each
    parts/NAME-000000.json             what was put into that tar, and from what; lets a build go on
    index/*.npy                        the arrays of `ShardIndex`, opened with mmap_mode="r"
    dataset.json, quarantine.jsonl     settings, counts, checksums; inputs that did not become samples
"""

import mmap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.filmstrip import StripLayout
from pipeline.index.arrays import LabelLists, Pictures
from pipeline.index.check import MAX_INFO_BYTES, IndexFault, check_info, one_line, parse_json, short
from pipeline.index.load import check_samples, chunks, label_lists_of, load_arrays, pictures_of
from pipeline.source.plain_file import read_plain
from pipeline.tar_store import TarStore

FORMAT_VERSION = 1
SUBSETS = {"train": 1, "test": 2}  # in the split column; 0 is "not used"
PICTURE_NAMES = {"filmstrip": "strip", "h264": "packet"}  # codec -> what a picture is; index files begin with it


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
        subsets: int8 [num_samples, num_splits], 1 train, 2 test, 0 not used.
        pictures: What the tars hold of every sample.
        label_lists: None in datasets whose samples have one label each.
        store: Brings tars that `data_dir` does not have yet; None for a folder that has them all.
        mappings: Of arrays whose pages `give_back_pages` gives back.
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
    label_lists: LabelLists | None = None
    store: TarStore | None = None
    mappings: tuple[mmap.mmap, ...] = ()

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

    @cached_property
    def tars(self) -> list[str]:
        """File names of the tars; `pictures.tar` counts along this list."""
        return [shard["tar"] for shard in self.info["shards"]]

    def give_back_pages(self) -> None:
        """Keep no page of large arrays in this process's memory; one that is read again is still in the page cache."""
        for mapping in self.mappings:
            mapping.madvise(mmap.MADV_DONTNEED)

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
        return self.label_lists.first[samples + 1] - self.label_lists.first[samples]

    def label_at(self, samples: np.ndarray, place: np.ndarray) -> np.ndarray:
        """One label of each sample, place 0 is the first: int64 [n]."""
        if self.label_lists is None:
            return self.labels[samples].astype(np.int64)
        return self.label_lists.values[self.label_lists.first[samples] + place].astype(np.int64)

    def all_labels(self, samples: np.ndarray) -> np.ndarray:
        """All labels of each sample: int64 [n, most labels], the first one first, -1 where a sample has fewer."""
        counts = self.num_labels(samples)
        table = np.full((len(samples), int(counts.max(initial=1))), -1, np.int64)
        for place in range(table.shape[1]):
            has = counts > place
            table[has, place] = self.label_at(samples[has], np.full(int(has.sum()), place))
        return table

    def tar_of(self, samples: np.ndarray) -> np.ndarray:
        """Which tar holds each sample; a sample never spans two.

        Raises:
            ShardError: There is no such tar.
        """
        tars = np.empty(len(samples), np.int32)
        for rows in chunks(len(samples)):
            tars[rows] = self.pictures.tar[self.pictures.first[samples[rows]]]
            self.give_back_pages()
        if len(tars) and not 0 <= tars.min() <= tars.max() < len(self.tars):
            wrong = f"tars {tars.min()} … {tars.max()} of {len(self.tars)}"
            raise ShardError(f"{self.data_dir}/index: names {wrong}; build the shards again")
        return tars

    def samples_of(self, split: str, subset: str) -> np.ndarray:
        """Rows of one side of a split: int64 [n], ascending.

        Raises:
            ValueError: The dataset has no such split, or nothing in that subset.
        """
        if split not in self.split_names:
            raise UserError(f"{self.name}: split {split} does not exist; choose {choices(self.split_names)}")
        if subset not in SUBSETS:
            raise UserError(f"{self.name}: subset {subset} does not exist; choose {choices(list(SUBSETS))}")
        rows = np.flatnonzero(self.subsets[:, self.split_names.index(split)] == SUBSETS[subset])
        if not len(rows):
            raise UserError(f"{self.name}: split {split} has no {subset} sample; see {self.data_dir / 'dataset.json'}")
        return rows


def choices(names: list[str]) -> str:
    """Names as a person lists them.

    >>> choices(["1", "2", "3"])
    '1, 2 or 3'
    """
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def parse_info(content: bytes, *, where: Path | str) -> dict[str, Any]:
    """dataset.json, every field of which is there, of its type and in its bounds.

    Args:
        where: Its path or URL, for messages.

    Raises:
        ShardError: It is damaged, of another format version, or of an unknown codec.
    """
    try:
        info = parse_json(content)
        version = info.get("format_version")
        if version != FORMAT_VERSION:
            raise ShardError(
                f"{where}: format version {short(version)}, this program reads {FORMAT_VERSION}; build the shards again"
            )
        codec = info.get("codec")
        name = codec.get("name") if isinstance(codec, dict) else None
        if not isinstance(name, str) or name not in PICTURE_NAMES:
            raise ShardError(f"{where}: codec {short(name)} is unknown; install a newer version of this program")
        check_info(info, picture=PICTURE_NAMES[name])
    except IndexFault as fault:
        raise ShardError(f"{where}: {fault}; build the shards again") from None
    return info


def open_index(data_dir: Path) -> ShardIndex:
    """Open a dataset folder.

    Raises:
        ShardError: Not a finished dataset, of another format version, or its index is damaged.
    """
    folder = Path(data_dir)
    path = folder / "dataset.json"
    try:
        content = read_plain(path, max_bytes=MAX_INFO_BYTES)
    except FileNotFoundError:
        unfinished = (folder / "parts").is_dir()
        way_out = (
            "run the same tools/make_shards.py command again to finish it"
            if unfinished
            else "make it with tools/make_shards.py"
        )
        raise ShardError(f"{data_dir}: no dataset.json, so no finished shards; {way_out}") from None
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({one_line(error)}); build the shards again") from None
    info = parse_info(content, where=path)
    picture = PICTURE_NAMES[info["codec"]["name"]]
    try:
        arrays, mappings = load_arrays(folder / "index", info, picture=picture)
        check_samples(arrays, info, picture=picture)
    except IndexFault as fault:
        raise ShardError(f"{data_dir}: {fault}; build the shards again") from None
    index = ShardIndex(
        folder,
        info,
        keys=arrays["key"],
        sources=arrays["source"],
        groups=arrays["group"],
        labels=arrays["label"],
        num_frames=arrays["num_frames"],
        content=arrays["content"],
        subsets=arrays["split"],
        pictures=pictures_of(arrays, picture=picture),
        label_lists=label_lists_of(arrays),
        mappings=mappings,
    )
    index.give_back_pages()  # checking has read every row
    return index
