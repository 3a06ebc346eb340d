"""Sports-1M (Karpathy et al., CVPR 2014): the official lists and whatever videos are on disk."""

import re
from dataclasses import replace
from pathlib import Path

from res3d_video.pipeline.datasets.listing import (
    DatasetError,
    Listing,
    Row,
    VideoTree,
    find_videos,
    folder_with,
    list_lines,
    listing_of_rows,
    matched_lines,
)

WAY_OUT = (
    "put videos/<YouTube id>.mp4, labels.txt and original/{train,test}_partition.txt "
    "(github.com/gtoderici/sports-1m-dataset, gunzipped) there"
)

# `https://www.youtube.com/watch?v=UDqivjS-lpI 168,169`, the README's form; others shorten the URL to the id.
LINE = re.compile(
    r"(?:\S*(?:[?&]v=|youtu\.be/|/v/|/embed/))?(?P<id>[\w-]{11})(?:&\S*)?"
    r"\s+(?P<labels>\d{1,9}(?:\s*,\s*\d{1,9})*)"
)


def list_sports1m(raw: Path) -> Listing:
    """Records of the videos on disk that the lists name, in one split.

    A video may have several labels; its class is the first one. Videos in both lists become test videos, so that no
    test video is trained on; `in_both` has their ids.

    Args:
        raw: Holds `videos/**/<YouTube id>.<any video suffix>`, `labels.txt`, and `train_partition.txt` and
            `test_partition.txt`, perhaps in `original/`.
    """
    raw = Path(raw)

    def lists(name: str) -> Path:
        return folder_with(raw, ("original", "."), name, way_out=WAY_OUT) / name

    classes = [line for _, line in list_lines(lists("labels.txt"))]
    partitions = {
        subset: read_list(lists(f"{subset}_partition.txt"), num_classes=len(classes)) for subset in ("train", "test")
    }
    videos = raw / "videos"
    below = find_videos(videos) if videos.is_dir() else VideoTree([], [], [])
    tree = below._replace(videos=[f"videos/{video}" for video in below.videos])
    path_of = {Path(video).stem: video for video in reversed(tree.videos)}
    subset_of = {name: subset for subset, partition in partitions.items() for name in partition}  # test wins
    rows = (
        Row(path_of.get(name, name), tuple(classes[label] for label in partitions[subset][name]), (subset,), group=name)
        for name, subset in subset_of.items()
    )
    listing = listing_of_rows(raw, tree, rows, name="sports1m", split_names=["1"], classes=classes, way_out=WAY_OUT)
    return replace(listing, in_both=frozenset(partitions["train"].keys() & partitions["test"].keys()))


def read_list(path: Path, *, num_classes: int) -> dict[str, tuple[int, ...]]:
    """YouTube id -> 0-based labels, of lines `URL l1,l2` or `ID l1,l2`; lines of the same video are merged."""
    partition: dict[str, tuple[int, ...]] = {}
    for where, match in matched_lines(path, LINE, form="`https://www.youtube.com/watch?v=ID l1,l2`"):
        labels = [int(label) for label in match["labels"].split(",")]
        if max(labels) >= num_classes:
            raise DatasetError(f"{where}: label {max(labels)} does not exist; labels.txt has 0 to {num_classes - 1}")
        partition[match["id"]] = tuple(dict.fromkeys((*partition.get(match["id"], ()), *labels)))
    return partition
