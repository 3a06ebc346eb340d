"""UCF101: made-up trees in the official layout, and the official lists where they are there."""

from collections import Counter
from pathlib import Path

import pytest

from res3d_video.pipeline.datasets import DATASETS, DatasetError, list_ucf101

CLASSES = ["ApplyEyeMakeup", "HandstandPushups", "Swing"]
TRAIN = [
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1",
    "HandstandPushups/v_HandStandPushups_g09_c01.avi 2",
    "Swing/v_Swing_g08_c02.avi 3",
]
TEST = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "Swing/v_Swing_g01_c01.avi"]


def write_lists(folder: Path, *, train: list[str] = TRAIN, test: list[str] = TEST, newline: str = "\r\n") -> None:
    """Split 1 as given; splits 2 and 3 with train and test exchanged."""
    folder.mkdir(parents=True, exist_ok=True)
    lists = {"classInd": [f"{label} {name}" for label, name in enumerate(CLASSES, start=1)]}
    for split in "123":
        trained, tested = (train, test) if split == "1" else (test, train)
        lists[f"trainlist0{split}"], lists[f"testlist0{split}"] = trained, tested
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_bytes("".join(line + newline for line in lines).encode())


def write_videos(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_lists(tmp_path / "ucfTrainTestlist")
    write_videos(tmp_path / "UCF-101", [line.split()[0] for line in TRAIN + TEST])
    return tmp_path


def test_labels_count_from_zero_and_a_clip_is_one_record_over_all_splits(raw: Path) -> None:
    listing = list_ucf101(raw)
    assert listing.classes == CLASSES
    assert listing.split_names == ["1", "2", "3"]
    assert [(r.source, r.label, r.group, r.subsets) for r in listing.records if r.class_name == "Swing"] == [
        ("UCF-101/Swing/v_Swing_g01_c01.avi", 2, "Swing/g01", ("test", "train", "train")),
        ("UCF-101/Swing/v_Swing_g08_c02.avi", 2, "Swing/g08", ("train", "test", "test")),
    ]
    assert [record.source for record in listing.records] == sorted(r.source for r in listing.records)
    assert all(record.path == raw / record.source for record in listing.records)
    assert (listing.missing, len(listing.warnings)) == ([], 1)  # of its few classes


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("lists", ["ucfTrainTestlist", "."])
@pytest.mark.parametrize("videos", ["UCF-101", "UCF101", "."])
def test_usual_layouts_and_line_ends_are_accepted(tmp_path: Path, lists: str, videos: str, newline: str) -> None:
    write_lists(tmp_path / lists, newline=newline)
    write_videos(tmp_path / videos, [line.split()[0] for line in TRAIN + TEST])
    assert len(list_ucf101(tmp_path).records) == 5


@pytest.mark.parametrize("on_disk", ["HandstandPushups/v_HandstandPushups", "HandStandPushups/v_HandStandPushups"])
def test_either_spelling_of_handstand_pushups_is_found(raw: Path, on_disk: str) -> None:
    listed = raw / "UCF-101/HandstandPushups/v_HandStandPushups_g09_c01.avi"
    write_videos(raw / "UCF-101", [f"{on_disk}_g09_c01.avi"])
    listed.unlink()
    (record,) = [record for record in list_ucf101(raw).records if record.label == 1]
    assert record.class_name == "HandstandPushups"
    assert record.path == raw / "UCF-101" / f"{on_disk}_g09_c01.avi"


def test_clips_that_are_absent_or_unlisted_are_named(raw: Path) -> None:
    (raw / "UCF-101/Swing/v_Swing_g01_c01.avi").unlink()
    write_videos(raw / "UCF-101", ["Swing/v_Swing_g99_c01.avi", "Swing/._v_Swing_g01_c01.avi", "Swing/notes.txt"])
    listing = list_ucf101(raw)
    assert listing.missing == ["Swing/v_Swing_g01_c01.avi"]
    assert "1 videos are in no list and left out, first UCF-101/Swing/v_Swing_g99_c01.avi" in listing.warnings
    assert len(listing.records) == 4


def test_a_group_on_both_sides_of_a_split_is_warned_of(raw: Path) -> None:
    write_lists(raw / "ucfTrainTestlist", test=[*TEST, "Swing/v_Swing_g08_c03.avi"])
    write_videos(raw / "UCF-101", ["Swing/v_Swing_g08_c03.avi"])
    leaks = [line for line in list_ucf101(raw).warnings if "in train and in test" in line]
    assert [line[:7] for line in leaks] == ["split 1", "split 2", "split 3"]
    assert all("'Swing/g08'" in line for line in leaks)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Swing v_Swing_g08_c02.avi 3", "is not `<Class>/v_<Class>_g01_c01.avi`"),
        ("Swing/../v_Swing_g08_c02.avi 3", "is not `<Class>/v_<Class>_g01_c01.avi`"),
        ("Swing/clip.avi 3", "is not `<Class>/v_<Class>_g01_c01.avi`"),
        ("Swing/v_Swing_g08_c02.avi 2", "states label 2, but classInd.txt says 3"),
        ("Swing/v_Swing_g08_c02.avi three", "states label three"),
        ("Skiing/v_Skiing_g08_c02.avi 3", "'Skiing' is not in classInd.txt"),
        ("Swing/v_Swing_g08_c02.avi 3\nSwing/v_Swing_g08_c02.avi 3", "is listed a second time in split 2"),
    ],
)
def test_a_malformed_line_is_named_with_its_file_and_number(raw: Path, line: str, says: str) -> None:
    (raw / "ucfTrainTestlist/trainlist02.txt").write_text(f"{TRAIN[0]}\n\n{line}\n")
    with pytest.raises(DatasetError) as caught:
        list_ucf101(raw)
    assert f"trainlist02.txt:{3 + line.count(chr(10))}: " in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_clip_in_train_and_test_of_one_split_is_refused(raw: Path) -> None:
    write_lists(raw / "ucfTrainTestlist", test=[*TEST, "Swing/v_Swing_g08_c02.avi"])
    with pytest.raises(DatasetError, match=r"testlist01.txt:3: .* is listed a second time in split 1"):
        list_ucf101(raw)


@pytest.mark.parametrize("gone", ["ucfTrainTestlist", "UCF-101", "UCF-101/*/*", "ucfTrainTestlist/testlist03.txt"])
def test_what_is_missing_is_said_in_one_line(raw: Path, gone: str) -> None:
    for number, path in enumerate(sorted(raw.glob(gone))):
        path.rename(raw / f"elsewhere{number}")
    with pytest.raises(DatasetError, match=f"^{raw}.*(; put UCF-101/<Class>/|; unpack the official lists again)"):
        list_ucf101(raw)


def test_the_official_lists_give_the_official_counts(shared_data: Path) -> None:
    listing = DATASETS["ucf101"](shared_data / "ucf101")
    assert len(listing.classes) == 101
    assert len(listing.records) == 243
    assert len(listing.missing) == 13320 - 243
    assert listing.warnings == []
    counts = [Counter(record.subsets[split] for record in listing.records) for split in range(3)]
    assert counts == [
        {"train": 176, "test": 67},
        {"train": 173, "test": 70},
        {"train": 175, "test": 68},
    ]
    labels = {record.class_name: record.label for record in listing.records}
    assert labels == {"BasketballDunk": 8, "Diving": 25, "PlayingPiano": 63, "PlayingViolin": 66, "Swing": 88}
