"""HMDB51: made-up trees in the official layout, and the official lists where they are there."""

from collections import Counter
from pathlib import Path

import pytest

from res3d_video.pipeline.datasets import DATASETS, DatasetError, list_hmdb51
from res3d_video.pipeline.datasets.hmdb51 import source_video

# Every sign that occurs in the official names.
GOLF = [
    "Golf_Tips_-_300+_Yards!!!_golf_f_nm_np1_fr_med_0.avi",
    "Golf_Tips_-_300+_Yards!!!_golf_f_nm_np1_fr_med_1.avi",
    "(HQ)_One;_two#three_&_[four]~@_golf_u_cm_np2_ba_bad_12.avi",
]
WAVE = ["a b_wave_f_nm_np1_fr_goo_3.avi"]
SPLITS = {
    "1": {"golf": "112", "wave": "1"},
    "2": {"golf": "221", "wave": "0"},
    "3": {"golf": "000", "wave": "2"},
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_lists(tmp_path / "testTrainMulti_7030_splits")
    write_videos(tmp_path)
    return tmp_path


def write_lists(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, digits_of_class in SPLITS.items():
        for class_name, names in (("golf", GOLF), ("wave", WAVE)):
            lines = [f"{n} {d} \n" for n, d in zip(names, digits_of_class[class_name], strict=True)]
            (folder / f"{class_name}_test_split{split}.txt").write_text("".join(lines))


def write_videos(folder: Path) -> None:
    for class_name, names in (("golf", GOLF), ("wave", WAVE)):
        (folder / class_name).mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / class_name / name).touch()


def test_digits_become_subsets_and_zero_is_not_used(raw: Path) -> None:
    listing = list_hmdb51(raw)
    assert listing.classes == ["golf", "wave"]
    assert {record.source: (record.label, record.subsets) for record in listing.records} == {
        f"golf/{GOLF[0]}": (0, ("train", "test", "")),
        f"golf/{GOLF[1]}": (0, ("train", "test", "")),
        f"golf/{GOLF[2]}": (0, ("test", "train", "")),
        f"wave/{WAVE[0]}": (1, ("train", "", "test")),
    }
    assert listing.missing == []
    assert listing.warnings == ["testTrainMulti_7030_splits lists 2 classes; the official lists have 51"]


def test_a_group_is_the_source_video(raw: Path) -> None:
    assert [record.group for record in list_hmdb51(raw).records] == [
        "golf/(HQ)_One;_two#three_&_[four]~@",
        "golf/Golf_Tips_-_300+_Yards!!!",
        "golf/Golf_Tips_-_300+_Yards!!!",
        "wave/a b",
    ]
    assert source_video("golf", "golf_at_golf_golf_f_nm_np1_fr_med_0.avi") == "golf_at_golf"
    assert source_video("golf", "renamed.avi") == "renamed"


@pytest.mark.parametrize("lists", ["testTrainMulti_7030_splits", "."])
@pytest.mark.parametrize("videos", [".", "hmdb51", "hmdb51_org", "videos"])
def test_usual_layouts_are_accepted(tmp_path: Path, lists: str, videos: str) -> None:
    write_lists(tmp_path / lists)
    write_videos(tmp_path / videos)
    assert len(list_hmdb51(tmp_path).records) == 4


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{GOLF[0]} 3 ", "is not `NAME.avi D`"),
        (GOLF[0], "is not `NAME.avi D`"),
        (f"golf/{GOLF[0]} 1 ", "is not `NAME.avi D`"),
        (f"{GOLF[1]} 1 ", "and a name of its own"),
    ],
)
def test_a_malformed_line_is_named_with_its_file_and_number(raw: Path, line: str, says: str) -> None:
    (raw / "testTrainMulti_7030_splits/golf_test_split2.txt").write_text(f"{GOLF[1]} 1 \n{line}\n")
    with pytest.raises(DatasetError) as caught:
        list_hmdb51(raw)
    assert "golf_test_split2.txt:2: " in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "gone", ["testTrainMulti_7030_splits", "golf", "testTrainMulti_7030_splits/wave_test_split3.txt"]
)
def test_what_is_missing_is_said_in_one_line(raw: Path, gone: str) -> None:
    (raw / gone).rename(raw / "elsewhere")
    (raw / "wave").rename(raw / "curve")
    with pytest.raises(DatasetError, match=f"^{raw}.*(; put <class>/|; unpack the official lists again)"):
        list_hmdb51(raw)


def test_the_official_lists_give_the_official_counts(shared_data: Path) -> None:
    listing = DATASETS["hmdb51"](shared_data / "hmdb51")
    assert len(listing.classes) == 51
    assert listing.classes == sorted(listing.classes)
    assert len(listing.records) == 9
    assert len(listing.missing) == 6766 - 9
    assert listing.warnings == []
    assert Counter(record.subsets[0] for record in listing.records) == {"train": 6, "test": 2, "": 1}
    subsets = {Path(record.source).name: record.subsets for record in listing.records}
    assert subsets["Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0.avi"] == (
        "train",
        "train",
        "test",
    )
    assert subsets["SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi"] == ("", "", "train")
