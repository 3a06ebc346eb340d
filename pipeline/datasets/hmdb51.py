"""HMDB51 (Kuehne et al., ICCV 2011): the official 70/30 splits and whatever part of the clips is on disk."""

import re
from pathlib import Path

from res3d_video.pipeline.datasets.listing import (
    SPLIT_NAMES,
    Listing,
    folder_with,
    listing_of,
    matched_lines,
)

LIST_FOLDERS = ("testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits", "splits", ".")
VIDEO_FOLDERS = ("hmdb51_org", "hmdb51", "HMDB51", "videos", ".")
WAY_OUT = (
    "put <class>/*.avi (each class's .rar of hmdb51_org.rar) and testTrainMulti_7030_splits/*.txt "
    "(test_train_splits.rar) of https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database "
    "there, unpacked"
)

FIRST_LIST = "_test_split1.txt"  # after the class's name
LINE = re.compile(r"(?P<file>[^/\\]+\.\w+)\s+(?P<digit>[012])")
SUBSET_OF_DIGIT = {"0": "", "1": "train", "2": "test"}


def list_hmdb51(raw: Path) -> Listing:
    """Records of the clips on disk that the official lists name; all three splits, always all classes.

    Labels are positions in the alphabetical list of classes. Clips that a split marks 0 have "" there.
    A group is the source video within its class. The official splits keep those apart, but not the clips that
    different classes take from one film.

    Args:
        raw: Holds `<class>/*.avi`, perhaps one folder down, and `testTrainMulti_7030_splits/*.txt`, or the
            lists themselves.
    """
    raw = Path(raw)
    lists = folder_with(raw, LIST_FOLDERS, f"*{FIRST_LIST}", way_out=WAY_OUT)
    classes = sorted(path.name.removesuffix(FIRST_LIST) for path in lists.glob(f"*{FIRST_LIST}"))
    subsets: dict[tuple[str, str], list[str]] = {}
    for class_name in classes:
        for position, split in enumerate(SPLIT_NAMES):
            path = lists / f"{class_name}_test_split{split}.txt"
            for _, match in matched_lines(path, LINE, form="`NAME.avi D` with D 1 (train), 2 (test) or 0 (not used)"):
                words = subsets.setdefault((class_name, match["file"]), [""] * len(SPLIT_NAMES))
                words[position] = SUBSET_OF_DIGIT[match["digit"]]
    labels = {class_name: label for label, class_name in enumerate(classes)}
    groups = {(class_name, file): source_video(class_name, file) for class_name, file in subsets}
    return listing_of("hmdb51", raw, subsets, groups=groups, folders=VIDEO_FOLDERS, labels=labels, way_out=WAY_OUT)


def source_video(class_name: str, file: str) -> str:
    """The name before `_<class>_` and the six properties that end every HMDB51 name; else the whole stem.

    The properties: visible body parts, camera motion, number of people, view, quality, running number.

    >>> source_video("golf", "Golf_Tips_-_300+_Yards!!!_golf_f_nm_np1_fr_med_0.avi")
    'Golf_Tips_-_300+_Yards!!!'
    """
    stem = Path(file).stem
    match = re.fullmatch(rf"(.+)_{re.escape(class_name)}_[a-z]+_(?:cm|nm)_np\d+_[a-z]+_[a-z]+_\d+", stem)
    return match[1] if match else stem
