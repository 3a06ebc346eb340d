"""UCF101 (Soomro et al., CRCV-TR-12-01): the official lists and whatever part of the clips is on disk."""

import re
from collections.abc import Mapping
from pathlib import Path

from res3d_video.pipeline.datasets.listing import (
    SPLIT_NAMES,
    DatasetError,
    Listing,
    folder_with,
    list_lines,
    listing_of,
    matched_lines,
)
from res3d_video.pipeline.errors import did_you_mean

LIST_FOLDERS = ("ucfTrainTestlist", "UCF-101/ucfTrainTestlist", ".")
VIDEO_FOLDERS = ("UCF-101", "UCF101", "ucf101", "videos", ".")
WAY_OUT = (
    "put UCF-101/<Class>/*.avi (UCF101.rar) and ucfTrainTestlist/*.txt "
    "(UCF101TrainTestSplits-RecognitionTask.zip) of https://www.crcv.ucf.edu/data/UCF101.php there, unpacked"
)

NAME = re.compile(r"(?P<class_name>[^/\\]+)/(?P<file>[^/\\]+_(?P<group>[gG]\d+)_[cC]\d+\.\w+)(\s+(?P<label>\S+))?")
FORM = "`<Class>/v_<Class>_g01_c01.avi`, in a train list followed by the label from 1"


def list_ucf101(raw: Path) -> Listing:
    """Records of the clips on disk that the official lists name; all three splits, always all classes.

    A group, such as g08 of v_Swing_g08_c01.avi, is the source video that clips were cut from.

    Args:
        raw: Holds `UCF-101/<Class>/*.avi`, or the class folders themselves, and `ucfTrainTestlist/*.txt`, or
            the lists themselves.
    """
    raw = Path(raw)
    lists = folder_with(raw, LIST_FOLDERS, "classInd.txt", way_out=WAY_OUT)
    labels = read_classes(lists / "classInd.txt")
    subsets: dict[tuple[str, str], list[str]] = {}
    groups: dict[tuple[str, str], str] = {}
    for position, split in enumerate(SPLIT_NAMES):
        for subset in ("train", "test"):
            path = lists / f"{subset}list0{split}.txt"
            for where, name in matched_lines(path, NAME, form=FORM):
                check_class(name, labels=labels, where=where)
                key = name["class_name"], name["file"]
                groups[key] = name["group"].lower()
                words = subsets.setdefault(key, [""] * len(SPLIT_NAMES))
                if words[position]:
                    raise DatasetError(
                        f"{where}: {name[0]!r} is listed a second time in split {split}; "
                        "unpack the official lists again"
                    )
                words[position] = subset

    return listing_of("ucf101", raw, subsets, groups=groups, folders=VIDEO_FOLDERS, labels=labels, way_out=WAY_OUT)


def read_classes(path: Path) -> dict[str, int]:
    """Class names in label order, each with its label: classInd.txt counts from 1, labels from 0."""
    labels: dict[str, int] = {}
    for number, line in list_lines(path):
        index, _, class_name = line.partition(" ")
        if index != str(len(labels) + 1) or not class_name or "/" in class_name or class_name in labels:
            raise DatasetError(f"{path}:{number}: {line!r} is not `{len(labels) + 1} <Class>`; unpack the lists again")
        labels[class_name] = len(labels)
    return labels


def check_class(match: re.Match[str], *, labels: Mapping[str, int], where: str) -> None:
    """Refuse a line of another class; in a train list it also states the label from 1, which must agree."""
    class_name = match["class_name"]
    if class_name not in labels:
        raise DatasetError(
            f"{where}: {class_name!r} is not in classInd.txt{did_you_mean(class_name, labels) or ';'} correct either"
        )
    if match["label"] not in (None, str(labels[class_name] + 1)):
        raise DatasetError(
            f"{where}: {match[0]!r} states label {match['label']}, but classInd.txt says {labels[class_name] + 1}; "
            "correct either"
        )
