"""Sports-1M (Karpathy et al., CVPR 2014): the official lists, or the JSON ones, and whatever videos are on disk."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from res3d_video.pipeline.datasets.listing import DatasetError, Listing, VideoRecord, find_videos
from res3d_video.pipeline.datasets.official import list_lines, list_text

NUM_CLASSES = 487
SUBSETS = ("train", "test")
TEXT_LISTS = ("original/{}_partition.txt", "{}_partition.txt")
JSON_LISTS = ("sports1m_{}.json", "sports1m_json/sports1m_{}.json", "original/sports1m_{}.json")
WANTED = (
    "put videos/<YouTube id>.mp4, labels.txt and original/{train,test}_partition.txt "
    "(github.com/gtoderici/sports-1m-dataset, gunzipped) there"
)

ID = r"[\w-]{11}"
# `https://www.youtube.com/watch?v=UDqivjS-lpI 168,169`, the README's form; others shorten the URL to the id.
LINE = re.compile(
    rf"(?:\S*(?:[?&]v=|youtu\.be/|/v/|/embed/))?(?P<id>{ID})(?:&\S*)?\s+(?P<labels>\d{{1,9}}(?:\s*,\s*\d{{1,9}})*)"
)

Partition = dict[str, tuple[int, ...]]  # YouTube id -> labels, 0-based, in the order of the list


def list_sports1m(raw: Path) -> Listing:
    """Records of the videos on disk that the lists name, in one split.

    A video may have several labels; its class is the first one. Videos that both lists name are test videos, so that
    nothing is trained on what is tested; `in_both` has their ids.

    Args:
        raw: Holds `videos/**/<YouTube id>.<any video suffix>`, `labels.txt`, and `original/train_partition.txt` and
            `test_partition.txt`, or `sports1m_train.json` and `sports1m_test.json`, lists of objects with `id` and
            `label487`.

    Raises:
        DatasetError: A folder or list is missing or a line malformed; names the file and line.
    """
    raw = Path(raw)
    if not raw.is_dir():
        raise DatasetError(f"{raw}: no such folder; {WANTED}")
    classes = read_classes(first_of(raw, ("labels.txt", "original/labels.txt"), what="labels.txt"))
    warnings: list[str] = []
    if len(classes) != NUM_CLASSES:
        warnings.append(f"labels.txt lists {len(classes)} classes; the official one lists {NUM_CLASSES}")
    partitions: dict[str, Partition] = {}
    for subset in SUBSETS:
        path = first_of(raw, [name.format(subset) for name in (*TEXT_LISTS, *JSON_LISTS)], what=f"list of {subset}")
        read = read_json_list if path.suffix == ".json" else read_list
        partitions[subset], twice = read(path, num_classes=len(classes))
        if twice:
            warnings.append(f"{path.name}: {len(twice)} videos have several lines, first {twice[0]}; labels are joined")
    in_both = frozenset(partitions["train"].keys() & partitions["test"].keys())
    if in_both:
        warnings.append(
            f"{len(in_both)} videos are in both lists, first {min(in_both)}; they are tested, not trained on"
        )

    files: dict[str, Path] = {}
    unlisted: list[Path] = []  # another has the same name
    if (raw / "videos").is_dir():
        tree = find_videos(raw / "videos")
        for path in (raw / "videos" / video for video in tree.videos):
            if files.setdefault(path.stem, path) is not path:
                unlisted.append(path)
        warnings += tree.warnings
    subset_of = {name: subset for subset in SUBSETS for name in partitions[subset]}  # test comes last and wins
    records, missing = [], []
    for name, subset in subset_of.items():
        path_found = files.pop(name, None)
        if path_found is None:
            missing.append(name)
            continue
        labels = partitions[subset][name]
        source = path_found.relative_to(raw).as_posix()
        records.append(VideoRecord(path_found, source, classes[labels[0]], labels[0], name, (subset,), labels))
    if not records:
        raise DatasetError(f"{raw}: none of the {len(subset_of)} listed videos is in {raw / 'videos'}; {WANTED}")
    named, found = Counter(subset_of.values()), Counter(record.subsets[0] for record in records)
    warnings += [f"{subset}: {found[subset]} of {named[subset]} listed videos are there" for subset in SUBSETS]
    return Listing(
        "sports1m",
        classes,
        ["1"],
        sorted(records, key=lambda record: record.source),
        sorted(missing),
        sorted(path.relative_to(raw).as_posix() for path in (*unlisted, *files.values())),
        warnings,
        subset_of_missing={name: subset_of[name] for name in missing},
        in_both=in_both,
    )


def first_of(raw: Path, candidates: list[str] | tuple[str, ...], *, what: str) -> Path:
    """The first of raw/candidates that is a file.

    Raises:
        DatasetError: None is; the message says what belongs there, and whether a packed one lies there.
    """
    for candidate in candidates:
        if (raw / candidate).is_file():
            return raw / candidate
        if (raw / f"{candidate}.gz").is_file():
            raise DatasetError(f"{raw / candidate}.gz: still packed; gunzip it")
    raise DatasetError(f"{raw}: no {what} found ({' or '.join(candidates[:3])}); {WANTED}")


def read_classes(path: Path) -> list[str]:
    """Class names; line n of labels.txt is label n - 1."""
    classes = [line for _, line in list_lines(path)]
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise DatasetError(f"{path}: {twice[0]!r} is listed twice; unpack the official lists again")
    return classes


def read_list(path: Path, *, num_classes: int) -> tuple[Partition, list[str]]:
    """Videos of an official list, lines `URL l1,l2` or `ID l1,l2`, and the ids that have more than one line."""
    partition: Partition = {}
    twice: dict[str, None] = {}
    for number, line in list_lines(path):
        match = LINE.fullmatch(line)
        if match is None:
            raise DatasetError(
                f"{path}:{number}: {line!r} is not `https://www.youtube.com/watch?v=ID l1,l2`; "
                "unpack the official lists again"
            )
        labels = [int(label) for label in match["labels"].split(",")]
        _add(partition, twice, match["id"], labels, where=f"{path}:{number}", num_classes=num_classes)
    return partition, list(twice)


def read_json_list(path: Path, *, num_classes: int) -> tuple[Partition, list[str]]:
    """The same of a list of objects with `id` and `label487`, a list of labels."""
    try:
        entries = json.loads(list_text(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON ({error}); unpack it again") from None
    if not isinstance(entries, list):
        raise DatasetError(f"{path}: not a list of videos; unpack it again")
    partition: Partition = {}
    twice: dict[str, None] = {}
    for number, entry in enumerate(entries):
        about: dict[str, Any] = entry if isinstance(entry, dict) else {}
        name, labels = about.get("id", ""), about.get("label487", [])
        is_name = isinstance(name, str) and re.fullmatch(ID, name)
        if not is_name or not isinstance(labels, list) or not labels or any(type(label) is not int for label in labels):
            raise DatasetError(f"{path}: entry {number} has no YouTube id or no labels in label487; unpack it again")
        _add(partition, twice, name, labels, where=f"{path}: entry {number}", num_classes=num_classes)
    return partition, list(twice)


def _add(
    partition: Partition, twice: dict[str, None], name: str, labels: list[int], *, where: str, num_classes: int
) -> None:
    """Add one video's labels to those it may have already."""
    for label in labels:
        if not 0 <= label < num_classes:
            raise DatasetError(f"{where}: label {label} does not exist; labels.txt has 0 to {num_classes - 1}")
    if name in partition:
        twice[name] = None
    partition[name] = tuple(dict.fromkeys((*partition.get(name, ()), *labels)))
