"""UCF101 and HMDB51: made-up trees in the official layout, and the official lists where they are there."""

import re
from collections import Counter
from pathlib import Path

import pytest

from res3d_video.pipeline.datasets import DATASETS, DatasetError, list_hmdb51, list_ucf101
from res3d_video.pipeline.datasets.hmdb51 import source_video
from tests.pipeline.datasets.test_folder import write_videos

CLASSES = ["ApplyEyeMakeup", "HandstandPushups", "Swing"]
TRAIN = [
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", "HandstandPushups/v_HandStandPushups_g09_c01.avi 2",
    "Swing/v_Swing_g08_c02.avi 3",
]  # fmt: skip
TEST = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "Swing/v_Swing_g01_c01.avi"]
UCF_VIDEOS = [line.split()[0] for line in TRAIN + TEST]
# Every sign that occurs in the official names of HMDB51.
GOLF = [
    "Golf_Tips_-_300+_Yards!!!_golf_f_nm_np1_fr_med_0.avi", "Golf_Tips_-_300+_Yards!!!_golf_f_nm_np1_fr_med_1.avi",
    "(HQ)_One;_two#three_&_[four]~@_golf_u_cm_np2_ba_bad_12.avi",
]  # fmt: skip
WAVE = ["a b_wave_f_nm_np1_fr_goo_3.avi"]
HMDB_VIDEOS = [f"golf/{name}" for name in GOLF] + [f"wave/{name}" for name in WAVE]
SPLITS = {"1": {"golf": "112", "wave": "1"}, "2": {"golf": "221", "wave": "0"}, "3": {"golf": "000", "wave": "2"}}


def write_ucf(folder: Path, *, newline: str = "\r\n") -> None:
    """Lists of split 1 as above; of splits 2 and 3 with train and test exchanged."""
    folder.mkdir(parents=True, exist_ok=True)
    lists = {"classInd": [f"{label} {name}" for label, name in enumerate(CLASSES, start=1)]}
    for split in "123":
        trained, tested = (TRAIN, TEST) if split == "1" else (TEST, TRAIN)
        lists |= {f"trainlist0{split}": trained, f"testlist0{split}": tested}
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_bytes("".join(line + newline for line in lines).encode())


def write_hmdb(folder: Path, *, newline: str = "\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, digits_of_class in SPLITS.items():
        for class_name, names in (("golf", GOLF), ("wave", WAVE)):
            lines = [f"{n} {d} {newline}" for n, d in zip(names, digits_of_class[class_name], strict=True)]
            (folder / f"{class_name}_test_split{split}.txt").write_text("".join(lines))


@pytest.fixture
def ucf(tmp_path: Path) -> Path:
    write_ucf(tmp_path / "ucfTrainTestlist")
    write_videos(tmp_path / "UCF-101", *UCF_VIDEOS)
    return tmp_path


@pytest.fixture
def hmdb(tmp_path: Path) -> Path:
    write_hmdb(tmp_path / "testTrainMulti_7030_splits")
    write_videos(tmp_path, *HMDB_VIDEOS)
    return tmp_path


def test_labels_of_ucf101_count_from_zero_and_a_clip_is_one_record_over_all_splits(ucf: Path) -> None:
    listing = list_ucf101(ucf)
    assert (listing.classes, listing.split_names) == (CLASSES, ["1", "2", "3"])
    assert [(r.source, r.label, r.group, r.subsets) for r in listing.records if r.class_name == "Swing"] == [
        ("UCF-101/Swing/v_Swing_g01_c01.avi", 2, "Swing/g01", ("test", "train", "train")),
        ("UCF-101/Swing/v_Swing_g08_c02.avi", 2, "Swing/g08", ("train", "test", "test")),
    ]
    assert [record.source for record in listing.records] == sorted(r.source for r in listing.records)
    assert all(record.path == ucf / record.source for record in listing.records)
    assert (listing.missing, listing.warnings) == ([], [])


def test_digits_of_hmdb51_become_subsets_and_a_group_is_the_source_video(hmdb: Path) -> None:
    listing = list_hmdb51(hmdb)
    assert {record.source: (record.label, record.group, record.subsets) for record in listing.records} == {
        f"golf/{GOLF[0]}": (0, "golf/Golf_Tips_-_300+_Yards!!!", ("train", "test", "")),
        f"golf/{GOLF[1]}": (0, "golf/Golf_Tips_-_300+_Yards!!!", ("train", "test", "")),
        f"golf/{GOLF[2]}": (0, "golf/(HQ)_One;_two#three_&_[four]~@", ("test", "train", "")),
        f"wave/{WAVE[0]}": (1, "wave/a b", ("train", "", "test")),
    }
    assert (listing.classes, listing.missing, listing.warnings) == (["golf", "wave"], [], [])
    assert source_video("golf", "golf_at_golf_golf_f_nm_np1_fr_med_0.avi") == "golf_at_golf"
    assert source_video("golf", "renamed.avi") == "renamed"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("lists", "videos"),
    [("ucfTrainTestlist", "UCF-101"), (".", "UCF101"), ("ucfTrainTestlist", "."), ("splits", "hmdb51"), (".", ".")],
)
def test_usual_layouts_and_line_ends_are_accepted(tmp_path: Path, lists: str, videos: str, newline: str) -> None:
    write_ucf(tmp_path / "ucf" / lists.replace("splits", "."), newline=newline)
    write_videos(tmp_path / "ucf" / videos.replace("hmdb51", "."), *UCF_VIDEOS)
    assert len(list_ucf101(tmp_path / "ucf").records) == 5
    write_hmdb(tmp_path / "hmdb" / lists.replace("ucfTrainTestlist", "testTrainMulti_7030_splits"), newline=newline)
    write_videos(tmp_path / "hmdb" / videos.replace("UCF-101", "hmdb51_org").replace("UCF101", "videos"), *HMDB_VIDEOS)
    assert len(list_hmdb51(tmp_path / "hmdb").records) == 4


@pytest.mark.parametrize("on_disk", ["HandstandPushups/v_HandstandPushups", "HandStandPushups/v_HandStandPushups"])
def test_either_spelling_of_handstand_pushups_is_found(ucf: Path, on_disk: str) -> None:
    (ucf / "UCF-101/HandstandPushups/v_HandStandPushups_g09_c01.avi").unlink()
    write_videos(ucf / "UCF-101", f"{on_disk}_g09_c01.avi")
    (record,) = [record for record in list_ucf101(ucf).records if record.label == 1]
    assert record.class_name == "HandstandPushups"
    assert record.path == ucf / "UCF-101" / f"{on_disk}_g09_c01.avi"


def test_clips_that_are_absent_or_unlisted_are_named(ucf: Path) -> None:
    (ucf / "UCF-101/Swing/v_Swing_g01_c01.avi").unlink()
    write_videos(ucf / "UCF-101", "Swing/v_Swing_g99_c01.avi", "Swing/._v_Swing_g01_c01.avi", "Swing/notes.txt")
    (ucf / "UCF-101/HandstandPushups").rename(ucf / "UCF-101/Holidays")  # no class
    listing = list_ucf101(ucf)
    assert listing.missing == ["HandstandPushups/v_HandStandPushups_g09_c01.avi", "Swing/v_Swing_g01_c01.avi"]
    first = "UCF-101/Holidays/v_HandStandPushups_g09_c01.avi"
    assert listing.warnings == [f"2 videos are in no list and left out, first {first}"]
    assert len(listing.records) == 3


@pytest.mark.parametrize(
    ("line", "says"),
    [
        *((f"Swing{name} 3", "is not `<Class>/v_<Class>_g01_c01.avi`") for name in (
            " v_Swing_g08_c02.avi", "/../v_Swing_g08_c02.avi", "/clip.avi",
        )),
        ("Swing/v_Swing_g08_c02.avi 2", "states label 2, but classInd.txt says 3"),
        ("Swing/v_Swing_g08_c02.avi three", "states label three"),
        ("Swinge/v_Swing_g08_c02.avi 3", "'Swinge' is not in classInd.txt; did you mean Swing? correct either"),
        (TRAIN[0], "is listed a second time in split 2"),
    ],
)  # fmt: skip
def test_a_wrong_line_of_ucf101_is_named_with_its_file_and_number(ucf: Path, line: str, says: str) -> None:
    (ucf / "ucfTrainTestlist/trainlist02.txt").write_text(f"{TRAIN[0]}\n\n{line}\n")
    with pytest.raises(DatasetError, match=rf"^.*trainlist02.txt:3: .*{re.escape(says)}.*$"):
        list_ucf101(ucf)


@pytest.mark.parametrize("line", [f"{GOLF[0]} 3 ", GOLF[0], f"golf/{GOLF[0]} 1 "])
def test_a_wrong_line_of_hmdb51_is_named_with_its_file_and_number(hmdb: Path, line: str) -> None:
    (hmdb / "testTrainMulti_7030_splits/golf_test_split2.txt").write_text(f"{GOLF[1]} 1 \n{line}\n")
    with pytest.raises(DatasetError, match=r"golf_test_split2.txt:2: .* is not `NAME.avi D`"):
        list_hmdb51(hmdb)


@pytest.mark.parametrize("gone", ["ucfTrainTestlist", "UCF-101", "UCF-101/*/*", "ucfTrainTestlist/testlist03.txt"])
def test_what_is_missing_of_ucf101_is_said_in_one_line(ucf: Path, gone: str) -> None:
    for number, path in enumerate(sorted(ucf.glob(gone))):
        path.rename(ucf / f"elsewhere{number}")
    with pytest.raises(DatasetError, match=f"^{ucf}.*(; put UCF-101/<Class>/|; unpack the official lists again)"):
        list_ucf101(ucf)


@pytest.mark.parametrize("gone", ["splits", "golf", "splits/wave_test_split3.txt"])
def test_what_is_missing_of_hmdb51_is_said_in_one_line(hmdb: Path, gone: str) -> None:
    (hmdb / gone.replace("splits", "testTrainMulti_7030_splits")).rename(hmdb / "elsewhere")
    (hmdb / "wave").rename(hmdb / "curve")
    with pytest.raises(DatasetError, match=f"^{hmdb}.*(; put <class>/|; unpack the official lists again)"):
        list_hmdb51(hmdb)


def test_the_official_lists_give_the_official_counts(shared_data: Path) -> None:
    ucf101, hmdb51 = (DATASETS[name](shared_data / name) for name in ("ucf101", "hmdb51"))
    assert [len(part) for part in (ucf101.classes, ucf101.records, ucf101.missing)] == [101, 243, 13320 - 243]
    assert [len(part) for part in (hmdb51.classes, hmdb51.records, hmdb51.missing)] == [51, 9, 6766 - 9]
    assert ucf101.warnings == hmdb51.warnings == []
    counts = [Counter(record.subsets[split] for record in ucf101.records) for split in range(3)]
    assert counts == [{"train": 176, "test": 67}, {"train": 173, "test": 70}, {"train": 175, "test": 68}]
    labels = {record.class_name: record.label for record in ucf101.records}
    assert labels == {"BasketballDunk": 8, "Diving": 25, "PlayingPiano": 63, "PlayingViolin": 66, "Swing": 88}
    assert Counter(record.subsets[0] for record in hmdb51.records) == {"train": 6, "test": 2, "": 1}
    subsets = {Path(record.source).name: record.subsets for record in hmdb51.records}
    golf = "Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0.avi"
    assert subsets[golf] == ("train", "train", "test")
    assert subsets["SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi"] == ("", "", "train")
