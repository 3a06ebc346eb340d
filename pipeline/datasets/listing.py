"""What an adapter returns, and the checks that hold for every dataset."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import UserError

VIDEO_SUFFIXES = frozenset({".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"})
VIDEO_SUFFIXES |= {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
SUBSETS = ("train", "test", "")


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
