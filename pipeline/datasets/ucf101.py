"""UCF101 (Soomro et al., CRCV-TR-12-01): the official lists and whatever part of the clips is on disk."""

import re
from collections.abc import Mapping
from pathlib import Path

from res3d_video.pipeline.datasets.listing import DatasetError, Listing
from res3d_video.pipeline.datasets.official import (
    SPLIT_NAMES,
    ClassFiles,
    list_folder_of,
    list_lines,
    listing_of,
    video_folder_of,
)
from res3d_video.pipeline.errors import did_you_mean

NUM_CLASSES = 101
LIST_FOLDERS = ("ucfTrainTestlist", "UCF-101/ucfTrainTestlist", ".")
VIDEO_FOLDERS = ("UCF-101", "UCF101", "ucf101", "videos", ".")
WANTED = (
    "put UCF-101/<Class>/*.avi (UCF101.rar) and ucfTrainTestlist/*.txt "
    "(UCF101TrainTestSplits-RecognitionTask.zip) of https://www.crcv.ucf.edu/data/UCF101.php there, unpacked"
)

NAME = re.compile(r"(?P<class_name>[^/\\]+)/(?P<file>[^/\\]+)")
GROUP = re.compile(r"_(g\d+)_c\d+\.\w+$", re.IGNORECASE)


def list_ucf101(raw: Path) -> Listing:
    """Records of the clips on disk that the official lists name; all three splits, always all classes.

    Args:
        raw: Holds `UCF-101/<Class>/*.avi`, or the class folders themselves, and `ucfTrainTestlist/*.txt`, or
            the lists themselves.

    Raises:
        DatasetError: A folder or list is missing or a line malformed; names the file and line.
    """
    raw = Path(raw)
    lists = list_folder_of(raw, candidates=LIST_FOLDERS, probe="classInd.txt", wanted=WANTED)
    labels = read_classes(lists / "classInd.txt")
    subsets: dict[tuple[str, str], list[str]] = {}
    for position, split in enumerate(SPLIT_NAMES):
        for subset in ("train", "test"):
            for name in read_split(lists / f"{subset}list0{split}.txt", labels=labels):
                class_name, file = name.split("/")
                words = subsets.setdefault((class_name, file), [""] * len(SPLIT_NAMES))
                if words[position]:
                    raise DatasetError(
                        f"{lists}: {name} is in {words[position]} and in {subset} of split {split}; "
                        f"unpack the official lists again"
                    )
                words[position] = subset

    files = ClassFiles(video_folder_of(raw, candidates=VIDEO_FOLDERS, classes=labels, wanted=WANTED))
    listing = listing_of(
        "ucf101", raw, subsets, files=files, labels=labels, group_of=lambda _, file: str(group_of(file)), wanted=WANTED
    )
    if len(labels) != NUM_CLASSES:
        listing.warnings.insert(0, f"classInd.txt lists {len(labels)} classes; the official one lists {NUM_CLASSES}")
    return listing


def read_classes(path: Path) -> dict[str, int]:
    """Class names in label order, each with its label: classInd.txt counts from 1, labels from 0."""
    labels: dict[str, int] = {}
    for number, line in list_lines(path):
        index, _, class_name = line.partition(" ")
        if index != str(len(labels) + 1) or not class_name or "/" in class_name or class_name in labels:
            raise DatasetError(f"{path}:{number}: {line!r} is not `{len(labels) + 1} <Class>`; unpack the lists again")
        labels[class_name] = len(labels)
    if not labels:
        raise DatasetError(f"{path}: lists no class; unpack the official lists again")
    return labels


def read_split(path: Path, *, labels: Mapping[str, int]) -> list[str]:
    """Names `<Class>/<file>` of one list; a train list also states the label from 1, which must agree."""
    names: dict[str, None] = {}
    for number, line in list_lines(path):
        name, _, stated = line.partition(" ")
        match = NAME.fullmatch(name)
        if match is None or group_of(match["file"]) is None:
            raise DatasetError(
                f"{path}:{number}: {line!r} is not `<Class>/v_<Class>_g01_c01.avi`, in a train list followed "
                f"by the label from 1; unpack the official lists again"
            )
        if match["class_name"] not in labels:
            raise DatasetError(
                f"{path}:{number}: {match['class_name']!r} is not in classInd.txt"
                f"{did_you_mean(match['class_name'], labels) or ';'} correct either"
            )
        expected = labels[match["class_name"]] + 1
        if stated and stated.strip() != str(expected):
            raise DatasetError(
                f"{path}:{number}: {line!r} states label {stated.strip()}, but classInd.txt says {expected}; "
                f"correct either"
            )
        if name in names:
            raise DatasetError(f"{path}:{number}: {name} is listed a second time; remove one of the two lines")
        names[name] = None
    return list(names)


def group_of(file: str) -> str | None:
    """`g08` of v_Swing_g08_c01.avi, the source video it was cut from; None for another kind of name."""
    match = GROUP.search(file)
    return match[1].lower() if match else None
