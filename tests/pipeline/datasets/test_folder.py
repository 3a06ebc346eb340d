"""Any folder: what counts as a video, split files, and splits drawn by group."""

import os
import re
import shlex
from pathlib import Path
from urllib.parse import quote

import braceexpand
import pytest
from hypothesis import given
from hypothesis import strategies as st

from res3d_video.pipeline.datasets import DATASETS, DatasetError, Listing, list_folder
from res3d_video.pipeline.datasets.folder import class_of, draw_test_groups
from res3d_video.pipeline.datasets.listing import NAME
from res3d_video.pipeline.files import is_plain_name


def write_videos(root: Path, *sources: str) -> Path:
    for source in sources:
        (root / source).parent.mkdir(parents=True, exist_ok=True)
        (root / source).touch()
    return root


def subsets(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {record.source: record.subsets for record in listing.records}


def test_classes_are_sorted_folders_and_everything_else_is_left_out(tmp_path: Path) -> None:
    root = write_videos(tmp_path, "b/2.MP4", "b/deep/1.mkv", "a/x.avi", "a/._x.avi", "a/x.txt", ".git/x.avi", "y.mp4")
    (root / "empty").mkdir()
    listing = list_folder(root, name="mine")
    assert (listing.name, listing.classes) == ("mine", ["a", "b", "empty"])
    found = [(r.source, r.class_name, r.label) for r in listing.records]
    assert found == [("a/x.avi", "a", 0), ("b/2.MP4", "b", 1), ("b/deep/1.mkv", "b", 1)]
    assert len({record.group for record in listing.records}) == 3
    left_out = "1 videos are in no list and left out, first y.mp4"
    assert listing.warnings == [left_out, "empty: the class folder holds no video"]


def test_linked_videos_are_listed_and_linked_folders_and_names_that_are_not_utf8_are_said(tmp_path: Path) -> None:
    root, outside = write_videos(tmp_path / "root", "a/1.mp4"), write_videos(tmp_path / "o", "a/3.mp4")
    (root / "a/outside.mp4").symlink_to(outside / "a/3.mp4")
    (root / "a/broken.mp4").symlink_to(root / "a/gone.mp4")
    (root / "b").symlink_to(outside / "a", target_is_directory=True)
    try:
        Path(os.fsdecode(os.fsencode(root / "a") + b"/\xff.mp4")).touch()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    listing = list_folder(root)
    assert [record.source for record in listing.records] == ["a/1.mp4", "a/broken.mp4", "a/outside.mp4"]
    assert listing.classes == ["a"]
    assert listing.warnings == [r"'\udcff.mp4': the name is not UTF-8; rename it", "b: a linked folder is not followed"]


def test_a_split_file_may_hold_one_split(tmp_path: Path) -> None:
    root = write_videos(tmp_path / "root", "a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4", "b/3.mp4")
    csv = tmp_path / "split.csv"
    csv.write_bytes(b"\xef\xbb\xbfpath,subset\r\na/1.mp4,train\r\n\r\n./b/1.mp4, Test \r\nb/2.mp4,\r\n")
    listing = list_folder(root, split_file=csv)
    assert listing.split_names == ["1"]
    assert subsets(listing) == {"a/1.mp4": ("train",), "b/1.mp4": ("test",), "b/2.mp4": ("",)}
    assert "2 videos are in no list and left out, first a/2.mp4" in listing.warnings


def test_a_split_file_may_hold_several_splits_and_groups(tmp_path: Path) -> None:
    root = write_videos(tmp_path / "root", "a/1.mp4", "a/2.mp4", "a/3.mp4")
    csv = tmp_path / "split.csv"
    csv.write_text('split1,path,split2,group\ntrain,"a/1.mp4",test,ann\ntest,a/2.mp4,,ann\ntest,a/3.mp4,test,\n')
    listing = list_folder(root, split_file=csv)
    found = [(r.group, *r.subsets) for r in listing.records]  # of two splits
    assert found == [("ann", "train", "test"), ("ann", "test", ""), ("a/3.mp4", "test", "test")]
    assert [line for line in listing.warnings if line.startswith("split 1: 1 of 2 groups") and "'ann'" in line]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,subset\na/1.mp4,train\na/9.mp4,test\n", ":3: 'a/9.mp4' is no video below the root; did you mean a/1"),
        ("path,subset\na/1.mp4,train\n\na/1.mp4,test\n", ":4: 'a/1.mp4,test' does not go; give a cell for each"),
        ("path,subset\na/1.mp4,dev\n", ":2: 'a/1.mp4,dev' does not go"),
        ("path,subset\na/1.mp4\n", ":2: 'a/1.mp4' does not go"),
        ("a/1.mp4,train\n", ": the header 'a/1.mp4,train' is not that of a split file; begin"),
        *((head, f": the header '{head}' is not") for head in ("path,group", "path,subset,split1", "")),
    ],
)
def test_a_wrong_split_file_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    csv = tmp_path / "split.csv"
    csv.write_text(text)
    with pytest.raises(DatasetError, match=f"^.*{re.escape(str(csv))}.*{re.escape(says)}.*$"):
        list_folder(write_videos(tmp_path / "root", "a/1.mp4"), split_file=csv)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"split_file": Path("nowhere.csv")}, "nowhere.csv: No such file"),
        ({"split_file": Path("x.csv"), "test_groups": ("a",)}, "split_file and test_groups both say which videos of"),
        ({"test_groups": ("a",), "test_fraction": 0.5}, "test_groups and test_fraction both say which videos of"),
        ({"test_fraction": 1.0}, "test_fraction must be >= 0 and < 1, got 1.0"),
        ({"group_pattern": "("}, "is no regular expression with a group in ()"),
        ({"group_pattern": "^([0-9]+)_"}, "finds no group in the name of a/ann_a.mp4"),
        ({"group_pattern": "^([a-z]+)_", "test_groups": ("eve",)}, "'eve' is no group here; choose from ann, bob"),
        ({"split_file": Path("x.csv"), "below": "train test"}, "folders and split_file both say which videos of"),
        ({"test_groups": ("x",), "below": "train test"}, "folders and test_groups both say which videos of"),
        ({"test_fraction": 0.2, "below": "train test"}, "folders and test_fraction both say which videos of"),
    ],
)
def test_a_wrong_option_is_named_with_the_way_out(tmp_path: Path, options: dict, says: str) -> None:
    options = dict(options)
    for folder in options.pop("below", ".").split():
        write_videos(tmp_path / folder, "a/ann_a.mp4", "a/bob_a.mp4")
    with pytest.raises(DatasetError, match=re.escape(says)):
        list_folder(tmp_path, **options)


def test_a_root_without_videos_in_folders_says_what_to_put_there(tmp_path: Path) -> None:
    wanted = "put <class>/<video>, one folder a class, there"
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DatasetError, match=wanted):
            list_folder(root)
    with pytest.raises(DatasetError, match=f"^{tmp_path}: y.mp4 lies in no class folder; {wanted}$"):
        list_folder(write_videos(tmp_path, "y.mp4"))


def test_the_draw_is_a_fixed_share_of_each_class_and_changes_with_the_seed(tmp_path: Path) -> None:
    root = write_videos(tmp_path, *(f"{c}/{i}.mp4" for c in "ab" for i in range(10)))
    parts = ((0, 0.0), (0, 0.25), (1, 0.0))
    draws = [subsets(list_folder(root, test_fraction=0.2, seed=seed, val_fraction=part)) for seed, part in parts]
    tested, validated, other = ({source for source, words in draw.items() if words == ("test",)} for draw in draws)
    assert tested == validated != other
    assert [sorted(source[0] for source in drawn) for drawn in (tested, other)] == [[*"aabb"]] * 2
    assert [sum(words == (side,) for words in draws[1].values()) for side in ("train", "val", "test")] == [12, 4, 4]


def pairs_of(groups: dict[str, str]) -> list[tuple[str, str]]:
    return [(class_of(source), group) for source, group in groups.items()]


@given(
    num_groups=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    test_fraction=st.sampled_from([0.1, 0.2, 0.5, 0.9]),
    data=st.data(),
)
def test_every_class_of_two_groups_has_both_sides_whatever_the_order(
    num_groups: list[int], seed: int, test_fraction: float, data: st.DataObject
) -> None:
    groups = {f"{c}/{g}_{v}": f"{c}/{g}" for c, n in enumerate(num_groups) for g in range(n) for v in range(2)}
    drawn = draw_test_groups(pairs_of(groups), test_fraction=test_fraction, seed=seed)
    shuffled = dict(data.draw(st.permutations(list(groups.items()))))
    assert draw_test_groups(pairs_of(shuffled), test_fraction=test_fraction, seed=seed) == drawn
    for c, n in enumerate(num_groups):
        held_out = sum(group.startswith(f"{c}/") for group in drawn)
        assert held_out == (0 if n == 1 else min(max(round(test_fraction * n), 1), n - 1))


@given(pairs=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1), seed=st.integers(0, 1000))
def test_groups_that_span_classes_never_empty_the_train_side(pairs: set[tuple[int, int]], seed: int) -> None:
    groups = {f"{c}/{g}": str(g) for c, g in pairs}
    drawn = draw_test_groups(pairs_of(groups), test_fraction=0.2, seed=seed)
    assert {class_of(source) for source, group in groups.items() if group not in drawn} == {str(c) for c, _ in pairs}


def test_weizmann_is_split_by_actor(shared_data: Path) -> None:
    actors = ("daria", "denis", "eli")
    listing = DATASETS["folder"](shared_data / "weizmann", group_pattern="^([a-z]+)_", test_groups=actors)
    test = [record.group for record in listing.records if record.subsets == ("test",)]
    assert (listing.name, len(listing.classes), len(listing.records)) == ("weizmann", 10, 90)
    assert (len(test), set(test), listing.warnings) == (30, set(actors), [])


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ("train test", "train test"), ("Training TEST", "train test"), ("train valid", "train test"),
        ("train test Validation", "train test val"),
    ],
)  # fmt: skip
def test_folders_of_subsets_say_who_is_tested(tmp_path: Path, there: str, words: str) -> None:
    root = write_videos(tmp_path, *(f"{f}/{c}/deep/{f}.mp4" for f in there.split() for c in ("jump", "run")))
    (root / there.split()[0] / "empty").mkdir()
    (root / "notes/jump").mkdir(parents=True)  # holds no video
    listing = list_folder(root)
    assert (listing.classes, listing.split_names) == (["empty", "jump", "run"], ["1"])
    assert {(r.source.split("/")[0], r.class_name, r.subsets) for r in listing.records} == {
        (f, c, (side,)) for f, side in zip(there.split(), words.split(), strict=True) for c in ("jump", "run")
    }


@pytest.mark.parametrize(
    "sources",
    [
        "train/a/1.mp4", "val/a/1.mp4 test/a/1.mp4", "train/a/1.mp4 val/a/1.mp4 valid/a/1.mp4",
        "train/a/1.mp4 Train/b/1.mp4 test/a/1.mp4", "train/a/1.mp4 test/1.mp4", "train/1.mp4 test/1.mp4",
        "train/a/1.mp4 test/a/1.mp4 other/a/1.mp4", "train/a/1.mp4 test/a/1.mp4 other/1.mp4",
        "train/a/1.mp4 other/1.mp4",
    ],
)  # fmt: skip
def test_folders_that_may_be_subsets_or_classes_are_refused_with_the_way_out(tmp_path: Path, sources: str) -> None:
    way_out = "move what does not fit, or rename them if they are classes"
    with pytest.raises(DatasetError, match=f"^{tmp_path}: .*{way_out}$"):
        list_folder(write_videos(tmp_path, *sources.split()))


def test_classes_may_be_called_train_and_test_beside_others_or_with_a_split_file(tmp_path: Path) -> None:
    root = write_videos(tmp_path / "root", "train/1.mp4", "test/1.mp4")
    (tmp_path / "split.csv").write_text("path,subset\ntrain/1.mp4,train\ntest/1.mp4,test\n")
    assert list_folder(root, split_file=tmp_path / "split.csv").classes == ["test", "train"]
    assert list_folder(write_videos(root, "bus/1.mp4")).classes == ["bus", "test", "train"]


@given(st.from_regex(NAME, fullmatch=True))
def test_a_name_that_is_taken_means_nothing_else_to_any_reader(name: str) -> None:
    Listing(name, [], ["1"], [], [], [])
    assert is_plain_name(tar := f"{name}-000000.tar")
    assert quote(tar) == shlex.quote(tar) == tar
    assert list(braceexpand.braceexpand(tar)) == [tar]  # as WebDataset does
    assert Path(tar).name == tar == Path(tar).with_suffix(".idx").with_suffix(".tar").name


@given(st.text() | st.sampled_from(["..", "a/b", "a\\b", "a::b", "{0..9}", "pipe:a", "a b", "é", "-a", "a" * 101]))
def test_a_name_that_may_mean_something_is_refused_with_one_that_will_do(name: str) -> None:
    if NAME.fullmatch(name):
        return
    with pytest.raises(DatasetError, match="cannot name files of shards") as caught:
        Listing(name, [], ["1"], [], [], [])
    assert "\n" not in str(caught.value)
    Listing(str(caught.value).rsplit(" ", 1)[1], [], ["1"], [], [], [])
