"""What an adapter returns, how it finds videos and reads lists, and the checks of all datasets."""

import csv
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import read_text

VIDEO_SUFFIXES = frozenset({".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"})
VIDEO_SUFFIXES |= {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
SUBSETS = ("train", "val", "test", "")
SPLIT_NAMES = ["1", "2", "3"]  # of UCF101 and of HMDB51
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # with its end
MAX_LIST_BYTES = 10**9  # the largest, Sports-1M's, has 60 MB


class DatasetError(UserError):
    """The raw folder or a list cannot be used; the message is one line and says what to do."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a video from `start` to `end`, exclusive: seconds from the first frame, or frame numbers."""

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
        group: Videos of one group (same source video, same actor) must not be on both sides of a split.
        subsets: One per split, in the order of Listing.split_names: "train", "val", "test" or "" (not used).
        labels: All labels, `label` first, in datasets whose videos may have several; else None.
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
        """The video file; not stored, as there may be millions of records."""
        return self.raw / (self.source if self.span is None else self.source.rpartition("#")[0])


@dataclass(frozen=True)
class Listing:
    """A dataset as found on disk.

    Attributes:
        name: Names the tars, so it has no character that is special to WebDataset, DALI, URLs or shells.
        classes: All class names, position = label, including those without a video.
        records: Sorted by source.
        missing: Listed but not on disk, as the lists write them.
        warnings: One line each, for people.
        subset_of_missing: The subset of each of `missing` in the first split.
        in_both: Names, without folder and suffix, listed for both train and test; they become test videos.
        is_drawn: Whether subsets were drawn by group; groups that shards already have keep theirs.
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


class Row(NamedTuple):
    """One listed sample, whether or not its video is on disk.

    Attributes:
        path: Of its video, posix, relative to the raw folder.
        names: Its classes; the first is its main one.
        subsets: As in `VideoRecord`.
        key: Distinguishes pieces of one video; empty for the whole video.
    """

    path: str
    names: tuple[str, ...]
    subsets: tuple[str, ...]
    span: Span | None = None
    group: str = ""
    key: str = ""


class VideoTree(NamedTuple):
    """Videos and folders below a folder, as sorted posix paths relative to it, and a line for each name left out."""

    videos: list[str]
    folders: list[str]
    warnings: list[str]


def find_videos(root: Path) -> VideoTree:
    """All files with a video's suffix below a folder, at any depth, except hidden ones.

    Linked folders are not followed. Linked videos are listed; the build decides whether to read them.

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
                if not is_utf8(entry.name):  # JSON cannot hold it
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


def is_utf8(name: str) -> bool:
    """Whether a file's name is text."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def list_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of a list with their 1-based numbers, without byte order mark, CRLF, outer spaces and empty lines."""
    try:
        lines = read_text(path, max_bytes=MAX_LIST_BYTES).splitlines()
    except UserError as error:
        raise DatasetError(f"{error}; unpack the official lists again") from None
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def matched_lines(path: Path, pattern: re.Pattern[str], *, form: str) -> Iterator[tuple[str, re.Match[str]]]:
    """The lines of an official list: "path:number", for messages, and the match with a pattern.

    Raises:
        DatasetError: A line does not match; `form` says what it should be.
    """
    for number, line in list_lines(path):
        match = pattern.fullmatch(line)
        if match is None:
            raise DatasetError(f"{path}:{number}: {line!r} is not {form}; unpack the official lists again")
        yield f"{path}:{number}", match


def csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line of a CSV file, without empty lines and outer spaces.

    Raises:
        DatasetError: It cannot be read.
    """
    try:
        text = read_text(path, max_bytes=MAX_LIST_BYTES)
        reader = csv.reader((line[0] for line in LINE.finditer(text)), strict=True)  # one line in memory beside it
        for cells in reader:
            if any(cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except (UserError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); name a CSV file in UTF-8") from None


def folder_with(raw: Path, candidates: Sequence[str], pattern: str, *, way_out: str) -> Path:
    """The first of the folders raw/candidate with a file that matches a glob pattern.

    If there is none, a DatasetError ends with `way_out`, which says what to put there.
    """
    if not raw.is_dir():
        raise DatasetError(f"{raw}: no such folder; {way_out}")
    for candidate in candidates:
        if any((raw / candidate).glob(pattern)):
            return raw / candidate
    raise DatasetError(f"{raw}: no {pattern} found; {way_out}")


def listing_of(
    name: str,
    raw: Path,
    subsets: Mapping[tuple[str, str], Sequence[str]],
    *,
    groups: Mapping[tuple[str, str], str],
    folders: Sequence[str],
    labels: Mapping[str, int],
    way_out: str,
) -> Listing:
    """Match listed files with those on disk, by class folder and file name, ignoring case.

    UCF101 writes one class both HandstandPushups and HandStandPushups, and copies differ in where.

    Args:
        subsets: For each listed (class, file name), "train", "test" or "" in each split.
        groups: Of each, within its class.
        folders: Where in `raw` the class folders may be.
        labels: Every class of the dataset with its label, in label order.
    """
    lowered = {class_name.lower() for class_name in labels}
    for home in (raw / folder for folder in folders):
        if home.is_dir() and any(child.name.lower() in lowered and child.is_dir() for child in home.iterdir()):
            break
    else:
        raise DatasetError(f"{raw}: no class folder found; {way_out}")
    tree, path_of = VideoTree([], [], []), dict[tuple[str, str], str]()
    for folder in sorted(home.iterdir()):  # it may be a link to another disk; links below it are not followed
        if folder.is_dir() and not folder.name.startswith("."):
            below = find_videos(folder)
            tree.warnings.extend(f"{folder.name}/{line}" for line in below.warnings)
            for path in (folder / video for video in below.videos):
                tree.videos.append(path.relative_to(raw).as_posix())
                path_of.setdefault((folder.name.lower(), path.name.lower()), tree.videos[-1])
    rows = []
    for (class_name, file), words in subsets.items():
        source = path_of.pop((class_name.lower(), file.lower()), f"{class_name}/{file}")
        rows.append(Row(source, (class_name,), tuple(words), group=f"{class_name}/{groups[class_name, file]}"))
    return listing_of_rows(
        raw, tree, rows, name=name, split_names=list(SPLIT_NAMES), classes=list(labels), way_out=way_out
    )


@cache
def shared(words: tuple[str, ...]) -> tuple[str, ...]:
    """An equal tuple from before, so that millions of rows share few of them."""
    return words


def drained(rows: list[Row]) -> Iterator[Row]:
    """The rows of a list, removed one by one, which frees those that are done."""
    rows.reverse()
    while rows:
        yield rows.pop()


def listing_of_rows(
    raw: Path,
    tree: VideoTree,
    rows: Iterable[Row],
    *,
    name: str,
    split_names: list[str],
    classes: Sequence[str] = (),
    way_out: str = "look at --raw",
) -> Listing:
    """Records of the rows whose videos are on disk.

    Args:
        tree: Of the raw folder; its list of videos is emptied.
        rows: May be millions, of which those without a video are not kept.
        classes: In the order of their labels; by default the sorted names of the rows.
        way_out: The way out if no video is on disk.

    Raises:
        DatasetError: Two rows are the same sample, or no video is on disk.
    """
    there, found, missing, names, is_multi = set(tree.videos), list[Row](), dict[str, str](), set[str](), False
    tree.videos.clear()
    for row in rows:
        names.update(row.names)
        is_multi |= len(row.names) > 1
        if row.path in there:
            found.append(row)
        else:
            missing[row.path] = row.subsets[0]
    unlisted = sorted(there.difference(row.path for row in found))
    there.clear()
    classes = list(classes) or sorted(names)
    labels, records = {name: label for label, name in enumerate(classes)}, []
    for row in drained(found):
        source = f"{row.path}#{row.key}" if row.key else row.path
        own = tuple(labels[name] for name in row.names) if is_multi else None
        label = labels[row.names[0]]
        records.append(VideoRecord(raw, source, classes[label], label, row.group, row.subsets, own, row.span))
    if not records:
        such = f", such as {min(missing)!r}" if missing else ""
        raise DatasetError(f"{raw}: none of the {len(missing)} listed videos is there{such}; {way_out}")
    records.sort(key=lambda record: record.source)
    for one, other in pairwise(records):
        if one.source == other.source:
            raise DatasetError(f"{name}: {one.source} is there twice; give each piece of a video a key of its own")
    warnings = [*tree.warnings, *unlisted_warning(unlisted), *group_warnings(records, split_names)]
    return Listing(name, classes, split_names, records, sorted(missing), warnings, subset_of_missing=missing)


def unlisted_warning(sources: Collection[str]) -> list[str]:
    """A warning about videos on disk that are in no list."""
    return [f"{len(sources)} videos are in no list and left out, first {min(sources)}"] if sources else []


def group_warnings(records: Sequence[VideoRecord], split_names: Sequence[str]) -> list[str]:
    """A warning for each split with groups on both sides, where the measured accuracy would be too high."""
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
