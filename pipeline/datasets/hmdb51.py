"""HMDB51 (Kuehne et al., ICCV 2011): the official 70/30 splits and whatever part of the clips is on disk."""

import re
from pathlib import Path

from res3d_video.pipeline.datasets.listing import (
    SPLIT_NAMES,
    DatasetError,
    Listing,
    folder_with,
    list_lines,
    listing_of,
)

NUM_CLASSES = 51
LIST_FOLDERS = ("testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits", "splits", ".")
VIDEO_FOLDERS = ("hmdb51_org", "hmdb51", "HMDB51", "videos", ".")
WANTED = (
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

    Raises:
        DatasetError: A folder or list is missing or a line malformed; names the file and line.
    """
    raw = Path(raw)
    lists = folder_with(raw, LIST_FOLDERS, f"*{FIRST_LIST}", wanted=WANTED)
    classes = sorted(path.name.removesuffix(FIRST_LIST) for path in lists.glob(f"*{FIRST_LIST}"))
    subsets: dict[tuple[str, str], list[str]] = {}
    for class_name in classes:
        for position, split in enumerate(SPLIT_NAMES):
            for file, subset in read_split(lists / f"{class_name}_test_split{split}.txt").items():
                subsets.setdefault((class_name, file), [""] * len(SPLIT_NAMES))[position] = subset

    listing = listing_of(
        "hmdb51",
        raw,
        subsets,
        folders=VIDEO_FOLDERS,
        labels={class_name: label for label, class_name in enumerate(classes)},
        group_of=source_video,
        wanted=WANTED,
    )
    if len(classes) != NUM_CLASSES:
        listing.warnings.insert(0, f"{lists.name} lists {len(classes)} classes; the official lists have {NUM_CLASSES}")
    return listing


def read_split(path: Path) -> dict[str, str]:
    """File names of one class's list, each with its subset: `NAME.avi D `, D 1 train, 2 test, 0 neither."""
    subsets: dict[str, str] = {}
    for number, line in list_lines(path):
        match = LINE.fullmatch(line)
        if match is None or match["file"] in subsets:
            raise DatasetError(
                f"{path}:{number}: {line!r} is not `NAME.avi D` with D 1 (train), 2 (test) or 0 (not used) and a name "
                "of its own; unpack the official lists again"
            )
        subsets[match["file"]] = SUBSET_OF_DIGIT[match["digit"]]
    return subsets


def source_video(class_name: str, file: str) -> str:
    """The name before `_<class>_` and the six properties that end every HMDB51 name; else the whole stem.

    The properties: visible body parts, camera motion, number of people, view, quality, running number.

    >>> source_video("golf", "Golf_Tips_-_300+_Yards!!!_golf_f_nm_np1_fr_med_0.avi")
    'Golf_Tips_-_300+_Yards!!!'
    """
    stem = Path(file).stem
    match = re.fullmatch(rf"(.+)_{re.escape(class_name)}_[a-z]+_(?:cm|nm)_np\d+_[a-z]+_[a-z]+_\d+", stem)
    return match[1] if match else stem
