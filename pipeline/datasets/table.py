"""Videos and pieces of videos listed in a table; and the official lists of three datasets read as such tables."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from res3d_video.pipeline.datasets.folder import draw_sides, draw_test_groups
from res3d_video.pipeline.datasets.listing import (
    MAX_LIST_BYTES,
    SUBSETS,
    DatasetError,
    Listing,
    Row,
    Span,
    csv_lines,
    drained,
    find_videos,
    listing_of_rows,
    shared,
)
from res3d_video.pipeline.errors import UserError, did_you_mean
from res3d_video.pipeline.files import read_text

COLUMNS = ("path", "label", "labels", "start_s", "end_s", "start_frame", "end_frame", "subset", "group", "key")
SPLIT = re.compile(r"split_?(\w+)")


def list_table(
    raw: Path,
    *,
    table: Path,
    name: str | None = None,
    test_fraction: float | None = None,
    val_fraction: float = 0.0,
    seed: int = 0,
) -> Listing:
    """Records of a CSV file with a header and one sample per line; columns in any order:

        path,label,start_s,end_s,subset,group
        match_01.mp4,goal,61.5,64,train,match_01

    `path` is relative to the raw folder. `labels` instead of `label` has several, separated by ";". `start_s` and
    `end_s`, or `start_frame` and `end_frame`, select a piece of a long video, the end excluded. `subset`, or `split1`,
    `split2`, …, is train, val, test, or empty for not used; without either, groups are drawn. `group` is by default the
    video; `key` names a piece.

    Args:
        test_fraction, val_fraction: Of each class's groups, drawn with `seed`; 0.2 for testing by default.

    Raises:
        DatasetError: A line of the table or an option cannot be used, or no video is on disk.
    """
    split_names, rows = read_table(table)
    is_drawn = not split_names
    if is_drawn:
        pairs, fraction = [(row.names[0], row.group) for row in rows], 0.2 if test_fraction is None else test_fraction
        held_out = draw_test_groups(pairs, test_fraction=fraction, seed=seed)
        side_of = draw_sides(pairs, held_out, val_fraction=val_fraction, seed=seed)
        split_names, rows = ["1"], [row._replace(subsets=(side_of[row.group],)) for row in rows]
    elif test_fraction is not None or val_fraction:
        raise DatasetError(f"{table}: already says who is tested; leave out --test-fraction and --val-fraction")
    if not raw.is_dir():
        raise DatasetError(f"{raw}: no such folder; put the videos there, or name theirs with --raw")
    found = find_videos(raw)
    listing = listing_of_rows(raw, found, drained(rows), name=name or table.stem, split_names=split_names)
    return replace(listing, is_drawn=is_drawn)


def read_table(table: Path) -> tuple[list[str], list[Row]]:
    """Split names, empty if the table has no subsets, and the rows."""
    lines = csv_lines(table)
    header = [cell.lower() for _, cells in islice(lines, 1) for cell in cells]
    splits = {match[1]: cell for cell in header if (match := SPLIT.fullmatch(cell))}
    if "subset" in header:
        splits["1"] = "subset"
    for cell in header:
        if cell not in COLUMNS and cell not in splits.values():
            meant = did_you_mean(cell, COLUMNS) or ";"
            raise DatasetError(f"{table}: column {cell!r} is unknown{meant} choose {', '.join(COLUMNS)}, split1, …")
    if "path" not in header or ("label" in header) == ("labels" in header) or len(set(header)) < len(header):
        raise DatasetError(f"{table}: the header must name path and either label or labels, each once")
    rows = []
    for number, cells in lines:
        where = f"{table}:{number}"
        if len(cells) != len(header):
            raise DatasetError(f"{where}: {len(cells)} cells, the header has {len(header)}; correct the line")
        rows.append(row_of(dict(zip(header, cells, strict=True)), splits.values(), where))
    return list(splits), rows


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
            lines = csv_lines(path_of_list)
            _, header = next(lines, (0, list[str]()))
            for _, cells in lines:  # one after another: there are 650,000
                line = dict(zip(header, cells, strict=False))
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
    """A dataset with one split, whose videos are found by name at any depth. Without a test side, val is the test side.

    Args:
        rows_of: Called with a function from a video's name without suffix to its path, or None.

    Raises:
        DatasetError: A list has another form, or no video is on disk.
    """
    tree, by_stem = find_videos(raw), dict[str, str]()
    for video in tree.videos:
        by_stem.setdefault(PurePosixPath(video).stem, video)
    try:
        rows = list(rows_of(by_stem.get))
        there = set(by_stem.values())
        sides = Counter(row.subsets[0] for row in rows if row.path in there)
        if not sides["test"]:
            rows = [row._replace(subsets=("test",)) if row.subsets == ("val",) else row for row in rows]
        return listing_of_rows(raw, tree, drained(rows), name=name, split_names=["1"], classes=classes)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise DatasetError(f"{raw}: its lists are not those of {name} ({error!r}); use the official files") from None


def read_list(raw: Path, pattern: str, *, kind: type = list) -> Any:
    """The content of the only JSON file below a folder that matches a pattern."""
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
