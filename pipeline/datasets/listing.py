"""What an adapter returns, how it finds videos and reads lists, and the checks that hold for every dataset."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import read_text

VIDEO_SUFFIXES = frozenset({".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"})
VIDEO_SUFFIXES |= {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
SUBSETS = ("train", "val", "test", "")
SPLIT_NAMES = ["1", "2", "3"]  # of UCF101 and of HMDB51
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
MAX_LIST_BYTES = 10**9  # the largest, Sports-1M's, has 60 MB


class DatasetError(UserError):
    """The raw folder or a list cannot be used; the message is one line and says what to do."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a video from `start` to `end`, the end not included: seconds from the first frame, or frames."""

    start: float
    end: float
    in_frames: bool = False


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One raw video, or a piece of it.

    Attributes:
        raw: The folder that all videos lie in.
        source: Its posix path relative to `raw`, for a piece with "#" and a name of the piece; unique.
        label: Position of `class_name` in the dataset's classes, 0-based.
        group: Videos of one group (same source video, same actor) must not lie on both sides of a split.
        subsets: One word a split, in the order of Listing.split_names: "train", "val", "test" or "" (not used).
        labels: All of them, `label` first, in datasets whose videos may have several; else None.
        span: None for the whole video.
    """

    raw: Path
    source: str
    class_name: str
    label: int
    group: str
    subsets: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    span: Span | None = None

    @property
    def path(self) -> Path:
        """The file. Not stored, as there may be millions of records."""
        return self.raw / (self.source if self.span is None else self.source.rpartition("#")[0])


@dataclass(frozen=True)
class Listing:
    """A dataset as found on disk.

    Attributes:
        name: Tars are named by it, so it holds nothing that means something to WebDataset, DALI, a URL or a shell.
        classes: All class names, position = label, also those without a video here.
        records: Sorted by source.
        missing: Named in the lists, not on disk; as the lists write them.
        warnings: One line each, for people.
        subset_of_missing: "train" or "test" for each of `missing`, where the adapter says.
        in_both: Names, without folder and suffix, that the lists have in train and in test; they are test videos here.
        is_drawn: Sides were drawn by group, so a group that shards have already keeps its side there.
    """

    name: str
    classes: list[str]
    split_names: list[str]
    records: list[VideoRecord]
    missing: list[str]
    warnings: list[str]
    subset_of_missing: dict[str, str] = field(default_factory=dict)
    in_both: frozenset[str] = frozenset()
    is_drawn: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            better = re.sub(r"[^A-Za-z0-9_.]+", "-", self.name).strip("-.")[:100] or "mine"
            raise DatasetError(
                f"name: {self.name!r} cannot name files of shards; use at most 100 letters (A to Z), digits, '_', '-' "
                f"and '.', the first a letter, digit or '_': --name {better}"
            )


class VideoTree(NamedTuple):
    """What lies below a folder, posix paths relative to it, sorted; and a line for each name left out."""

    videos: list[str]
    folders: list[str]
    warnings: list[str]


def find_videos(root: Path) -> VideoTree:
    """Everything below a folder with a video's name, at any depth; hidden names are left out.

    Linked folders are not followed. Linked videos are a matter of the build.

    Raises:
        OSError: A folder cannot be read.
    """
    found = VideoTree([], [], [])
    left = [""]
    while left:
        parent = left.pop()
        with os.scandir(root / parent) as entries:
            for entry in entries:
                source, is_folder = parent + entry.name, entry.is_dir(follow_symlinks=False)
                if entry.name.startswith("."):
                    continue
                if any("\ud800" <= character <= "\udfff" for character in entry.name):  # which JSON cannot hold
                    found.warnings.append(f"{entry.name!a}: the name is not UTF-8; rename it")
                elif is_folder:
                    found.folders.append(source)
                    left.append(f"{source}/")
                elif Path(entry.name).suffix.lower() in VIDEO_SUFFIXES:
                    found.videos.append(source)
                elif os.path.isdir(entry):
                    found.warnings.append(f"{source}: a linked folder is not followed")
    for names in found:
        names.sort()
    return found


def list_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of a list with their 1-based numbers; byte order mark, CRLF, outer blanks and empty lines gone."""
    try:
        lines = read_text(path, max_bytes=MAX_LIST_BYTES).splitlines()
    except UserError as error:
        raise DatasetError(f"{error}; unpack the official lists again") from None
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def folder_with(raw: Path, candidates: Sequence[str], pattern: str, *, wanted: str) -> Path:
    """The first of raw/candidates that holds a file whose name matches a glob pattern.

    Where none does, a DatasetError ends with `wanted`, which says what belongs there.
    """
    if not raw.is_dir():
        raise DatasetError(f"{raw}: no such folder; {wanted}")
    for candidate in candidates:
        if any((raw / candidate).glob(pattern)):
            return raw / candidate
    raise DatasetError(f"{raw}: no {pattern} found; {wanted}")


def listing_of(
    name: str,
    raw: Path,
    subsets: Mapping[tuple[str, str], Sequence[str]],
    *,
    groups: Mapping[tuple[str, str], str],
    folders: Sequence[str],
    labels: Mapping[str, int],
    wanted: str,
) -> Listing:
    """Match what the lists name with what is on disk, by class folder and file name in any case.

    UCF101 writes one class HandstandPushups and HandStandPushups, and copies differ in which is where.

    Args:
        subsets: For each (class, file name) of the lists "train", "test" or "" in each split.
        groups: Of each, within its class.
        folders: Where in `raw` the class folders may lie.
        labels: Every class of the dataset with its label, in label order.
    """
    lowered = {class_name.lower() for class_name in labels}
    for home in (raw / folder for folder in folders):
        if home.is_dir() and any(child.name.lower() in lowered and child.is_dir() for child in home.iterdir()):
            break
    else:
        raise DatasetError(f"{raw}: no class folder found; {wanted}")
    paths: dict[tuple[str, str], Path] = {}
    warnings: list[str] = []
    for folder in sorted(home.iterdir()):  # it may be a link to another disk; links below it are not followed
        if folder.is_dir() and not folder.name.startswith("."):
            tree = find_videos(folder)
            for path in (folder / video for video in tree.videos):
                paths.setdefault((folder.name.lower(), path.name.lower()), path)
            warnings += [f"{folder.name}/{line}" for line in tree.warnings]
    records, missing = [], []
    for (class_name, file), words in sorted(subsets.items()):
        found = paths.pop((class_name.lower(), file.lower()), None)
        if found is None:
            missing.append(f"{class_name}/{file}")
            continue
        group = f"{class_name}/{groups[class_name, file]}"
        source = found.relative_to(raw).as_posix()
        records.append(VideoRecord(raw, source, class_name, labels[class_name], group, tuple(words)))
    if not records:
        raise DatasetError(f"{raw}: none of the {len(subsets)} listed clips is there; {wanted}")
    records.sort(key=lambda record: record.source)
    warnings += unlisted_warning([path.relative_to(raw).as_posix() for path in paths.values()])
    warnings += group_warnings(records, SPLIT_NAMES)
    return Listing(name, list(labels), list(SPLIT_NAMES), records, missing, warnings)


def unlisted_warning(sources: Collection[str]) -> list[str]:
    """A line that names videos on disk that no list has."""
    return [f"{len(sources)} videos are in no list and left out, first {min(sources)}"] if sources else []


def group_warnings(records: Sequence[VideoRecord], split_names: Sequence[str]) -> list[str]:
    """One line for each split that has groups on both sides: accuracy measured on it would be too high."""
    lines, num_groups = [], len({record.group for record in records})
    for position, split in enumerate(split_names):
        on_side = {side: {record.group for record in records if record.subsets[position] == side} for side in SUBSETS}
        for other in ("val", "test"):
            shared = sorted(on_side["train"] & on_side[other])
            if shared:
                lines.append(
                    f"split {split}: {len(shared)} of {num_groups} groups have videos in train and in {other}, "
                    f"first {shared[0]!r}; accuracy on it is measured partly on scenes seen in training"
                )
    return lines
