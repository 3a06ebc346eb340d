"""Sports-1M: made-up trees in the official layout, and the real lists where they are there."""

import re
from collections import Counter
from pathlib import Path

import pytest

from res3d_video.pipeline.datasets import DATASETS, DatasetError, list_sports1m
from res3d_video.pipeline.datasets.sports1m import read_list
from tests.pipeline.datasets.test_folder import write_videos

URL = "https://www.youtube.com/watch?v="
A, B, C, D, E = "aaaaaaaaaaa", "-bbbbbbbbb_", "ccccccccccc", "ddddddddddd", "eeeeeeeeeee"


def write_lists(raw: Path, *, train: str, test: str, classes: str = "boomerang\nboxing\nbowling\n") -> None:
    (raw / "original").mkdir(parents=True)
    (raw / "labels.txt").write_text(classes)
    (raw / "original/train_partition.txt").write_text(train)
    (raw / "original/test_partition.txt").write_text(test)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Four of five listed videos, one of them in both lists, and one that no list names."""
    train, test = f"{URL}{A} 2\n{URL}{B} 1,0\n{URL}{C} 1\n", f"{URL}{D} 0\n{URL}{C} 1,2\n{URL}{E} 0\n"
    write_lists(tmp_path, train=train, test=test)
    names = (f"{A}.mp4", f"{B}.webm", f"more/{C}.MKV", f"{D}.3gp", f"{D}.flv", "other.mp4", f"{E}.mp4.part")
    write_videos(tmp_path / "videos", *names)
    return tmp_path


def test_videos_are_found_by_id_with_all_their_labels_and_what_is_missing_or_listed_twice_is_named(raw: Path) -> None:
    listing = list_sports1m(raw)
    found = (listing.name, listing.split_names, listing.classes)
    assert found == ("sports1m", ["1"], ["boomerang", "boxing", "bowling"])
    assert {r.source: (r.class_name, r.label, r.labels, r.subsets, r.group) for r in listing.records} == {
        f"videos/{A}.mp4": ("bowling", 2, (2,), ("train",), A),
        f"videos/{B}.webm": ("boxing", 1, (1, 0), ("train",), B),
        f"videos/more/{C}.MKV": ("boxing", 1, (1, 2), ("test",), C),
        f"videos/{D}.3gp": ("boomerang", 0, (0,), ("test",), D),
    }
    assert [r.source for r in listing.records] == sorted(r.source for r in listing.records)
    assert all(record.path.is_file() for record in listing.records)
    assert (listing.missing, listing.subset_of_missing, listing.in_both) == ([E], {E: "test"}, {C})
    assert listing.warnings == [f"2 videos are in no list and left out, first videos/{D}.flv"]


def test_lines_are_read_in_every_usual_form(tmp_path: Path) -> None:
    for line in (
        f"{URL}{B} 1,0", f"http://youtube.com/watch?feature=x&v={B}&t=3 1,0", f"https://youtu.be/{B} 1, 0", f"{B} 1,0",
        f"  {URL}{B}\t1,0,1 \r", f"{B} 1\n{B} 0,1",  # labels of several lines are joined
    ):  # fmt: skip
        (tmp_path / "list.txt").write_text(f"\n{line}\n\n")
        assert read_list(tmp_path / "list.txt", num_classes=2) == {B: (1, 0)}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        *((line, "is not `https://www.youtube.com/watch?v=ID l1,l2`") for line in (
            f"{URL}{A}", f"{URL}{A[:-1]} 1", f"{URL}{A} 1,", f"{A} one", f"https://x/{A} 1", "1 2",
        )),
        (f"{URL}{B} 0,3", "label 3 does not exist; labels.txt has 0 to 2"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_named_with_its_file_and_number(raw: Path, line: str, says: str) -> None:
    (raw / "original/test_partition.txt").write_text(f"{URL}{D} 0\n{line}\n")
    with pytest.raises(DatasetError, match=r"test_partition.txt:2: .*" + re.escape(says)):
        list_sports1m(raw)


def test_what_is_missing_is_said_with_what_to_put_there(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no such folder; put videos/<YouTube id>.mp4, labels.txt and original/"):
        list_sports1m(tmp_path / "nowhere")
    for name in ("original/train_partition.txt", "labels.txt"):
        (raw / name).rename(raw / "elsewhere")
        with pytest.raises(DatasetError, match=f"no {Path(name).name} found; put videos/"):
            list_sports1m(raw)
        (raw / "elsewhere").rename(raw / name)
    for video in list((raw / "videos").rglob("*.*")):
        video.unlink()
    with pytest.raises(DatasetError, match="none of the 5 listed videos is there, such as"):
        list_sports1m(raw)


def test_the_real_lists_parse_to_the_stated_counts(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "sports1m"
    official = read_list(folder / "original_format_sample.txt", num_classes=487)
    assert official == read_list(folder / "test_vid_head2000.txt", num_classes=487)
    assert Counter(map(len, official.values())) == {1: 1902, 2: 88, 3: 10}
    assert len({label for labels in official.values() for label in labels}) == 470
    assert official["Mwto7xMLTiM"] == (295, 309)

    test, classes = ((folder / name).read_text() for name in ("original_format_sample.txt", "labels.txt"))
    write_lists(tmp_path, train=f"{URL}{A} 0\n", test=test, classes=classes)
    listing = DATASETS["sports1m"](write_videos(tmp_path, "videos/-lsNw_WvGgE.mp4"))
    assert (len(listing.classes), listing.classes[0], listing.classes[486]) == (487, "boomerang", "model aircraft")
    assert [(r.label, r.class_name) for r in listing.records] == [(380, listing.classes[380])]
    assert Counter(listing.subset_of_missing.values()) == {"test": 1999, "train": 1}
