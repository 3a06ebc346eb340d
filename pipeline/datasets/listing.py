"""What an adapter returns, how it finds videos, and the checks that hold for every dataset."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from res3d_video.pipeline.errors import UserError

VIDEO_SUFFIXES = frozenset({".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"})
VIDEO_SUFFIXES |= {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
SUBSETS = ("train", "test", "")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class DatasetError(UserError):
    """The raw folder or a list cannot be used; the message is one line and says what to do."""


@dataclass(frozen=True)
class VideoRecord:
    """One raw video.

    Attributes:
        path: The file.
        source: Its posix path relative to the raw folder; unique.
        label: Position of `class_name` in the dataset's classes, 0-based.
        group: Videos of one group (same source video, same actor) must not lie on both sides of a split.
        subsets: One word a split, in the order of Listing.split_names: "train", "test" or "" (not used).
        labels: All of them, `label` first, in datasets whose videos may have several; else None.
    """

    path: Path
    source: str
    class_name: str
    label: int
    group: str
    subsets: tuple[str, ...]
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Listing:
    """A dataset as found on disk.

    Attributes:
        name: Tars are named by it, so it holds nothing that means something to WebDataset, DALI, a URL or a shell.
        classes: All class names, position = label, also those without a video here.
        records: Sorted by source.
        missing: Named in the lists, not on disk; as the lists write them.
        unlisted: On disk, in no list, not used; relative to the raw folder.
        warnings: One line each, for people.
        subset_of_missing: "train" or "test" for each of `missing`, where the adapter says.
        in_both: Names, without folder and suffix, that the lists have in train and in test; they are test videos here.
    """

    name: str
    classes: list[str]
    split_names: list[str]
    records: list[VideoRecord]
    missing: list[str]
    unlisted: list[str]
    warnings: list[str]
    subset_of_missing: dict[str, str] = field(default_factory=dict)
    in_both: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            better = re.sub(r"[^A-Za-z0-9_.]+", "-", self.name).strip("-.")[:100] or "mine"
            raise DatasetError(
                f"name: {self.name!r} cannot name files of shards; use at most 100 letters (A to Z), digits, '_', '-' "
                f"and '.', the first a letter, digit or '_': --name {better}"
            )


@dataclass(frozen=True)
class VideoTree:
    """What lies below a folder; posix paths relative to it, sorted.

    Attributes:
        warnings: One line each of what is left out.
    """

    videos: list[str]
    folders: list[str]
    warnings: list[str]


def find_videos(root: Path) -> VideoTree:
    """Everything below a folder with a video's name, at any depth; hidden names are left out.

    Linked folders are not followed. Linked videos are a matter of the build.

    Raises:
        OSError: A folder cannot be read.
    """
    videos: list[str] = []
    folders: list[str] = []
    warnings: list[str] = []
    left = [""]
    while left:
        parent = left.pop()
        with os.scandir(root / parent) as entries:
            for entry in entries:
                source = parent + entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if entry.name.startswith(".") or not (is_folder or entry.is_symlink() or is_video_name(entry.name)):
                    continue
                if not is_utf8(entry.name):
                    warnings.append(f"{entry.name!a}: the name is not UTF-8; rename it")
                elif is_folder:
                    folders.append(source)
                    left.append(f"{source}/")
                elif is_video_name(entry.name):
                    videos.append(source)
                else:
                    try:
                        if entry.is_dir():
                            warnings.append(f"{source}: a linked folder is not followed")
                    except OSError as error:
                        warnings.append(f"{source}: a link that cannot be followed ({error.strerror})")
    return VideoTree(sorted(videos), sorted(folders), sorted(warnings))


def is_utf8(name: str) -> bool:
    """Whether a file name's bytes are UTF-8; others reach us as lone surrogates, which JSON cannot hold."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def is_video_name(name: str) -> bool:
    """Whether a file name is a video's by its suffix; hidden files never are.

    >>> is_video_name("a.AVI"), is_video_name("._a.avi"), is_video_name("a.txt")
    (True, False, False)
    """
    return not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES


def group_warnings(records: Sequence[VideoRecord], split_names: Sequence[str]) -> list[str]:
    """One line for each split that has groups on both sides: accuracy measured on it would be too high."""
    lines = []
    for position, split in enumerate(split_names):
        sides: dict[str, set[str]] = defaultdict(set)
        for record in records:
            sides[record.group].add(record.subsets[position])
        shared = sorted(group for group, words in sides.items() if {"train", "test"} <= words)
        if shared:
            lines.append(
                f"split {split}: {len(shared)} of {len(sides)} groups have videos in train and in test, "
                f"first {shared[0]!r}; accuracy on it is measured partly on scenes seen in training"
            )
    return lines
