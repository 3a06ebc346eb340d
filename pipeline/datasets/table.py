"""Videos and pieces of videos named by a table; and the official lists of three datasets as such tables."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from res3d_video.pipeline.datasets.folder import draw_sides, draw_test_groups
from res3d_video.pipeline.datasets.listing import (
    MAX_LIST_BYTES,
    SUBSETS,
    DatasetError,
    Listing,
    Span,
    VideoRecord,
    VideoTree,
    find_videos,
    group_warnings,
    unlisted_warning,
)
from res3d_video.pipeline.errors import UserError, did_you_mean
from res3d_video.pipeline.files import read_text

COLUMNS = ("path", "label", "labels", "start_s", "end_s", "start_frame", "end_frame", "subset", "group", "key")
SPLIT = re.compile(r"split_?(\w+)")
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of a table.

    Attributes:
        path: Of its video, posix, relative to the raw folder.
        names: Its classes, the first one counts.
        subsets: One word a split.
        key: Tells pieces of one video apart; empty where it is the whole video.
    """

    path: str
    names: tuple[str, ...]
    subsets: tuple[str, ...]
    span: Span | None = None
    group: str = ""
    key: str = ""


def list_table(
    raw: Path,
    *,
    table: Path,
    name: str | None = None,
    test_fraction: float | None = None,
    val_fraction: float = 0.0,
    seed: int = 0,
) -> Listing:
    """Records of a CSV file with a header, a line a sample; columns in any order:

        path,label,start_s,end_s,subset,group
        match_01.mp4,goal,61.5,64,train,match_01

    `path` is relative to the raw folder. `labels` instead of `label` has several with ";" between. `start_s` and
    `end_s`, or `start_frame` and `end_frame`, cut a piece out of a long video, the end not included. `subset`, or
    `split1`, `split2`, …, says train, val, test, or nothing for not used; without either, groups are drawn. `group` is
    the video by default; `key` names a piece.

    Args:
        test_fraction, val_fraction: Of each class's groups, drawn with `seed`; 0.2 for testing by default.

    Raises:
        DatasetError: The table, with its line, or an option cannot be used, or no video is there.
    """
    split_names, rows = read_table(table)
    is_drawn = not split_names
    if is_drawn:
        pairs, fraction = [(row.names[0], row.group) for row in rows], 0.2 if test_fraction is None else test_fraction
        held_out = draw_test_groups(pairs, test_fraction=fraction, seed=seed)
        side_of = draw_sides(pairs, held_out, val_fraction=val_fraction, seed=seed)
        split_names, rows = ["1"], [replace(row, subsets=(side_of[row.group],)) for row in rows]
    elif test_fraction is not None or val_fraction:
        raise DatasetError(f"{table}: already says who is tested; leave out --test-fraction and --val-fraction")
    if not raw.is_dir():
        raise DatasetError(f"{raw}: no such folder; put the videos there, or name theirs with --raw")
    listing = listing_of_rows(raw, find_videos(raw), rows, name=name or table.stem, split_names=split_names)
    return replace(listing, is_drawn=is_drawn)


def read_table(table: Path) -> tuple[list[str], list[Row]]:
    """Split names, none where the table has no subsets, and the rows."""
    try:
        lines = csv.reader(lines_of(table), strict=True)
        header = [cell.strip().lower() for cell in next(lines, [])]
        splits = {match[1]: cell for cell in header if (match := SPLIT.fullmatch(cell))}
        if "subset" in header:
            splits["1"] = "subset"
        for cell in header:
            if cell not in COLUMNS and cell not in splits.values():
                meant = did_you_mean(cell, COLUMNS) or ";"
                raise DatasetError(f"{table}: column {cell!r} is unknown{meant} choose {', '.join(COLUMNS)}, split1, …")
        if "path" not in header or ("label" in header) == ("labels" in header) or len(set(header)) < len(header):
            raise DatasetError(f"{table}: the header must name path and either label or labels, each once")
        place = {cell: header.index(cell) for cell in header}
        rows = []
        for cells in lines:
            if not any(cells):
                continue
            where = f"{table}:{lines.line_num}"
            if len(cells) != len(header):
                raise DatasetError(f"{where}: {len(cells)} cells, the header has {len(header)}; correct the line")
            rows.append(row_of({name: cells[at].strip() for name, at in place.items()}, splits.values(), where))
    except (UserError, csv.Error) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{table}: cannot be read ({error}); name a CSV file in UTF-8") from None
    return list(splits), rows


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a list with their ends, one in memory at a time beside its text; raises as `read_text`."""
    return (line[0] for line in LINE.finditer(read_text(path, max_bytes=MAX_LIST_BYTES)))


def row_of(cells: dict[str, str], splits: Iterable[str], where: str) -> Row:
    """One line of a table.

    Raises:
        DatasetError: It cannot be used.
    """
    path = PurePosixPath(cells["path"]).as_posix()
    labels = cells["labels"].split(";") if "labels" in cells else [cells["label"]]
    names = shared(tuple(dict.fromkeys(filter(None, map(str.strip, labels)))))
    subsets = shared(tuple(cells[split].lower() for split in splits))
    if not cells["path"] or path.startswith(("/", "..")) or not names:
        raise DatasetError(f"{where}: give a path below the raw folder and a label")
    if not set(subsets) <= set(SUBSETS):
        raise DatasetError(f"{where}: {'/'.join(subsets)} is no subset; choose train, val, test or nothing")
    bounds = [(cells.get(f"start_{unit}", ""), cells.get(f"end_{unit}", "")) for unit in ("s", "frame")]
    given = [(start, end, unit) for unit, (start, end) in enumerate(bounds) if start or end]
    span = None
    if given:
        start, end, in_frames = given[0]
        try:
            span = Span(float(start or 0), float(end or "inf"), in_frames=bool(in_frames))
        except ValueError:
            span = Span(0, 0)
        if len(given) > 1 or not 0 <= span.start < span.end:
            raise DatasetError(f"{where}: {start} to {end} is no piece of a video; give a start and a later end")
    key = (re.sub("[/#]", "_", cells.get("key", "")) or f"{start}-{end}") if span else ""
    return Row(path, names, subsets, span, cells.get("group", "") or path, key)


@cache
def shared(words: tuple[str, ...]) -> tuple[str, ...]:
    """The first tuple that was equal, so that millions of rows hold few."""
    return words


def listing_of_rows(
    raw: Path,
    tree: VideoTree,
    rows: list[Row],
    *,
    name: str,
    split_names: list[str],
    classes: Sequence[str] = (),
) -> Listing:
    """Records of the rows whose videos are there.

    Args:
        tree: What lies below the raw folder; its videos are taken away.
        rows: Taken away one by one.
        classes: In the order of their labels; sorted names of the rows by default.

    Raises:
        DatasetError: Two rows are the same sample, or no video is there.
    """
    there = set(tree.videos)
    missing = sorted({row.path for row in rows} - there)
    unlisted = sorted(there.difference(row.path for row in rows))
    classes = list(classes) or sorted({name for row in rows for name in row.names})
    labels = {name: label for label, name in enumerate(classes)}
    is_multi = any(len(row.names) > 1 for row in rows)
    records, left = [], list(reversed(rows))
    rows.clear()  # a row is gone when its record is made: there may be millions
    while left:
        row = left.pop()
        if row.path in there:
            source = f"{row.path}#{row.key}" if row.key else row.path
            own = tuple(labels[name] for name in row.names) if is_multi else None
            label = labels[row.names[0]]
            records.append(VideoRecord(raw, source, classes[label], label, row.group, row.subsets, own, row.span))
    there.clear()
    tree.videos.clear()
    if not records:
        raise DatasetError(f"{raw}: none of {len(missing)} listed videos is there, such as {[*missing, ''][0]!r}")
    records.sort(key=lambda record: record.source)
    for one, other in pairwise(records):
        if one.source == other.source:
            raise DatasetError(f"{name}: {one.source} is there twice; give each piece of a video a key of its own")
    found = [*tree.warnings, *unlisted_warning(unlisted), *group_warnings(records, split_names)]
    return Listing(name, classes, split_names, records, missing, found)


def list_kinetics(raw: Path, *, name: str | None = None) -> Listing:
    """Kinetics-400, -600 or -700 (https://github.com/cvdfoundation/kinetics-dataset), whatever part is on disk.

    Lists are `*train*.csv`, `*val*.csv` and `*test*.csv` below the raw folder, with the columns label, youtube_id,
    time_start and time_end. Clips are <id>_<start>_<end>.*, both with six digits, at any depth; or <id>.*, from which
    the piece is cut. Lines without a label are left out, as in some test lists.
    """
    list_of: dict[str, Path] = {}
    for subset in ("train", "val", "test"):
        lists = sorted(path for path in raw.rglob(f"*{subset}*.csv") if path.is_file())
        if len(lists) > 1:
            raise DatasetError(f"{raw}: {lists[0].name} and {lists[1].name} both may be the list of {subset}; keep one")
        if lists:
            list_of[subset] = lists[0]
    if "train" not in list_of:
        raise DatasetError(f"{raw}: no *train*.csv; put the lists of Kinetics there, next to the videos")

    def rows(path_of: Callable[[str], str | None]) -> Iterator[Row]:
        for subset, path_of_list in list_of.items():
            for line in csv.DictReader(lines_of(path_of_list)):  # one after another: there are 650,000
                try:
                    start, end = int(float(line["time_start"])), int(float(line["time_end"]))
                    video, label = line["youtube_id"], line.get("label", "")
                except (KeyError, ValueError, TypeError, OverflowError):
                    raise DatasetError(
                        f"{raw}: the list of {subset} has not the columns label, youtube_id, time_start, time_end"
                    ) from None
                if not label:
                    continue
                trimmed = f"{video}_{start:06d}_{end:06d}"
                path = path_of(trimmed)
                whole = path_of(video) if path is None else None
                span = Span(start, end) if whole else None
                key, names, sides = f"{start}-{end}" if span else "", shared((label,)), shared((subset,))
                yield Row(path or whole or trimmed, names, sides, span, video, key)

    return official(raw, rows, name=name or "kinetics")


def list_ssv2(raw: Path, *, name: str | None = None) -> Listing:
    """Something-Something V2 (Goyal et al., ICCV 2017): labels.json, train.json and validation.json, <id>.webm.

    The lists may have their names of 2018, something-something-v2-labels.json and so on. Test videos have no public
    labels, so the validation side is tested.
    """
    labels = read_list(raw, "*labels.json", kind=dict)
    classes = sorted(labels, key=lambda label: int(labels[label]))

    def rows(path_of: Callable[[str], str | None]) -> Iterator[Row]:
        for subset, pattern in (("train", "*train.json"), ("val", "*validation.json")):
            for line in read_list(raw, pattern):
                label = re.sub(r"[\[\]]", "", line["template"])
                yield Row(path_of(line["id"]) or f"{line['id']}.webm", (label,), (subset,), None, line["id"])

    return official(raw, rows, name=name or "ssv2", classes=classes)


def list_diving48(raw: Path, *, name: str | None = None) -> Listing:
    """Diving48 V2 (Li et al., ECCV 2018): Diving48_vocab.json, Diving48_V2_{train,test}.json, <vid_name>.mp4."""
    classes = ["-".join(map(str, words)) if isinstance(words, list) else words for words in
               read_list(raw, "*vocab.json")]  # fmt: skip

    def rows(path_of: Callable[[str], str | None]) -> Iterator[Row]:
        for subset in ("train", "test"):
            for line in read_list(raw, f"*{subset}.json"):
                video = line["vid_name"]
                group = video.rpartition("_")[0] or video
                yield Row(path_of(video) or f"{video}.mp4", (classes[line["label"]],), (subset,), None, group)

    return official(raw, rows, name=name or "diving48", classes=classes)


def official(
    raw: Path,
    rows_of: Callable[[Callable[[str], str | None]], Iterable[Row]],
    *,
    name: str,
    classes: Sequence[str] = (),
) -> Listing:
    """A dataset with one split, whose videos are found by name at any depth. Without a test side, val is tested.

    Args:
        rows_of: Given what finds the path of a video by its name without suffix.

    Raises:
        DatasetError: A list has another form, or no video is there.
    """
    tree, by_stem = find_videos(raw), dict[str, str]()
    for video in tree.videos:
        by_stem.setdefault(PurePosixPath(video).stem, video)
    try:
        rows = list(rows_of(by_stem.get))
        there = set(by_stem.values())
        sides = Counter(row.subsets[0] for row in rows if row.path in there)
        if not sides["test"]:
            rows = [replace(row, subsets=("test",)) if row.subsets == ("val",) else row for row in rows]
        return listing_of_rows(raw, tree, rows, name=name, split_names=["1"], classes=classes)
    except (KeyError, TypeError, IndexError, ValueError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise DatasetError(f"{raw}: its lists are not those of {name} ({error!r}); use the official files") from None


def read_list(raw: Path, pattern: str, *, kind: type = list) -> Any:
    """The only JSON file of a name below a folder."""
    found = sorted(path for path in raw.rglob(pattern) if path.is_file())
    if len(found) != 1:
        raise DatasetError(f"{raw}: {len(found)} files {pattern}, must be one; put the official lists there")
    try:
        value = json.loads(read_text(found[0], max_bytes=MAX_LIST_BYTES))
    except ValueError as error:
        raise DatasetError(f"{found[0]}: cannot be read ({error}); download it again") from None
    if not isinstance(value, kind):
        raise DatasetError(f"{found[0]}: is no {kind.__name__}; use the official file")
    return value
