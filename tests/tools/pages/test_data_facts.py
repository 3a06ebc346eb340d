"""Numbers of a dataset's page, against those computed by hand or by another way."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.schema import CRC32
from res3d_video.tools.pages.data_facts import (
    MAX_EXAMPLES,
    balance,
    hashes,
    lacking,
    leaks,
    look_at,
    pattern_of,
    read_manifest,
    read_quarantine,
    side_counts,
    split_column,
    stored_sizes,
)
from tests.tools.pages.made_shards import Row, make_shards

ROWS = [
    Row(0, "tt", "a/1", "a1.avi", 20, content=7),
    Row(0, "te", "a/1", "a2.avi", 33),
    Row(0, "e-", "a/2", "a3.avi", 20),
    Row(1, "et", "b/1", "b1.avi", 20, content=7),
    Row(1, "ee", "b/2", "b2.avi", 40),
    Row(2, "tt", "c/1", "c1.avi", 33),
    Row(2, "e-", "c/1", "c1.avi", 20, content=9),
    Row(2, "t-", "c/2", "c2.avi", 200),
]


@pytest.fixture
def made(tmp_path: Path) -> ShardIndex:
    return make_shards(tmp_path / "made", ROWS, classes=["a", "b", "c", "none"])


def test_counts_of_every_class_on_every_side_are_those_counted_by_hand(made: ShardIndex) -> None:
    assert side_counts(made, 0).tolist() == [[2, 1, 0], [0, 2, 0], [2, 1, 0], [0, 0, 0]]
    assert side_counts(made, 1).tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 2], [0, 0, 0]]
    assert lacking(side_counts(made, 0), made.classes) == {
        "no samples": ["none"], "no training samples": ["b"], "no test samples": [],
    }  # fmt: skip


def test_the_largest_and_the_smallest_class_are_those_with_samples(made: ShardIndex) -> None:
    assert balance(side_counts(made, 0).sum(axis=1)) == {
        "num_classes": 3, "largest": 3, "smallest": 2, "ratio": 1.5,
    }  # fmt: skip
    assert balance(np.zeros(3, np.int64)) is None
    assert stored_sizes(made) == {(171, 128): 8}


def test_the_split_is_1_if_there_is_one_and_an_unknown_one_is_refused(made: ShardIndex) -> None:
    assert [split_column(made, name) for name in (None, "1", "2")] == [0, 0, 1]
    with pytest.raises(ValueError, match="made: split 3 does not exist; choose 1 or 2"):
        split_column(made, "3")


def test_names_have_the_same_hash_exactly_when_they_are_the_same() -> None:
    names = np.array([b"", b"a", b"b", b"ab", b"a" * 8, b"a" * 9, b"a" * 16, b"a", b"12345678x"], "S17")
    found = hashes(names)
    assert (found[:, None] == found).tolist() == (names[:, None] == names).tolist()


def test_groups_sources_and_equal_pictures_on_both_sides_are_found_and_named(made: ShardIndex) -> None:
    found = {(leak.split, leak.kind): leak for leak in leaks(made)}
    assert {key: (leak.count, leak.num_test) for key, leak in found.items()} == {
        ("1", "group"): (1, 1),
        ("2", "group"): (1, 1),
        ("1", "source"): (1, 1),
        ("2", "source"): (0, 0),
        ("1", "content"): (1, 1),
        ("2", "content"): (0, 0),
    }
    group = found["1", "group"].examples[0]
    assert (group["name"], group["num_train"], group["num_test"]) == ("c/1", 1, 1)
    assert (group["train"], group["test"]) == (["00000005 c1.avi"], ["00000006 c1.avi"])
    assert found["2", "group"].examples[0]["name"] == "a/1"
    content = found["1", "content"].examples[0]
    assert (content["train"], content["test"]) == (["00000000 a1.avi"], ["00000003 b1.avi"])
    assert found["1", "group"].num_things == 6


def test_samples_that_differ_in_the_middle_are_not_the_same(tmp_path: Path) -> None:
    rows = [Row(0, "t", "g1", "1", 40, content=5), Row(0, "e", "g2", "2", 40, content=5)]
    index = make_shards(tmp_path / "made", rows, classes=["a"])
    assert [leak.count for leak in leaks(index)] == [0, 0, 1]
    frames = np.load(index.data_dir / "index/frames.npy")
    frames[20, CRC32] += 1  # of 40 frames of the first sample
    np.save(index.data_dir / "index/frames.npy", frames)
    assert [leak.count for leak in leaks(open_index(index.data_dir))] == [0, 0, 0]


def test_samples_without_a_name_are_of_no_group(tmp_path: Path) -> None:
    index = make_shards(tmp_path / "made", [Row(0, "t"), Row(0, "e")], classes=["a"])
    assert [(leak.count, leak.num_things) for leak in leaks(index)] == [(0, 0), (0, 0), (0, 2)]


def test_every_sample_of_a_small_dataset_is_looked_at(shards: ShardIndex) -> None:
    found = look_at(shards, np.arange(shards.num_samples), seed=0)
    assert (len(found.rows), found.num_unreadable) == (11, 0)
    assert set(found.fps) == {25.0}
    assert sorted(found.duration_s) == sorted((shards.num_frames / 25).tolist())
    assert found.source_sizes == {(320, 240): 11}


def test_looking_stops_when_the_time_is_over_but_not_before_the_first_tar(numbered: ShardIndex) -> None:
    times = iter(range(0, 1000, 100))
    found = look_at(numbered, np.arange(numbered.num_samples), seed=0, max_seconds=50, clock=lambda: next(times))
    assert 0 < len(found.rows) <= 4


def test_samples_whose_tar_is_missing_are_counted(made: ShardIndex) -> None:
    found = look_at(made, np.arange(made.num_samples), seed=0)
    assert (found.rows, found.num_unreadable) == ([], 8)


@pytest.mark.parametrize(
    ("told", "lie"),
    [(b'"fps": 25.0', b'"fps": 1e99'), (b'"warnings": []', b'"warnings": {}'), (b"[320, 240]", b"[-20, 240]")],
)
def test_a_key_json_that_says_impossible_things_is_unreadable(
    numbered: ShardIndex, tmp_path: Path, told: bytes, lie: bytes
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(numbered.data_dir, folder)
    tar = folder / numbered.tars[0]
    content = tar.read_bytes()
    assert content.count(told) == 4
    tar.write_bytes(content.replace(told, lie))
    found = look_at(open_index(folder), np.arange(4), seed=0)
    assert (found.rows, found.num_unreadable) == ([], 4)


def test_reasons_that_differ_by_names_and_numbers_are_one_kind(tmp_path: Path) -> None:
    lines = [
        {"source": f"x/v_{i}.avi", "stage": "decode", "reason": f"v_{i}.avi: {i} of 9 frames were found"}
        for i in range(7)
    ]
    lines += [{"source": "y.avi", "stage": "missing", "reason": "named in the lists, not found"}] * 2
    path = tmp_path / "quarantine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"cut\n[1]\n')
    found = read_quarantine(path)
    assert found is not None
    assert [(kind.stage, kind.pattern, kind.count) for kind in found.kinds] == [
        ("decode", "N of N frames were found", 7),
        ("missing", "named in the lists, not found", 2),
    ]
    assert found.kinds[0].examples == [
        {"source": line["source"], "reason": line["reason"]} for line in lines[:MAX_EXAMPLES]
    ]
    assert (found.num_lines, found.num_damaged) == (11, 2)


@pytest.mark.parametrize(
    ("reason", "pattern"),
    [
        ("takes 12.5 s, more than 10", "takes N s, more than N"),
        ("h264 at 0x55d0f", "h264 at N"),
        ("1,024 of 2,048", "N of N"),
        ("", ""),
        ("x" * 1000, "x" * 300),
    ],
)
def test_a_pattern_has_no_number_but_keeps_names(reason: str, pattern: str) -> None:
    assert pattern_of(reason) == pattern


def test_files_that_are_not_there_say_nothing(tmp_path: Path) -> None:
    assert read_quarantine(tmp_path / "quarantine.jsonl") is None
    assert read_manifest(tmp_path / "manifest.jsonl") is None


def test_a_manifest_is_counted_by_state_and_side(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "state": "present", "subset": "train"},
        {"id": "b", "state": "present", "subset": "test", "in_both_lists": True},
        {"id": "c", "state": "missing"},
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_manifest(tmp_path / "manifest.jsonl") == {
        "present": Counter({"train": 1, "test": 1, "in both lists": 1}),
        "missing": Counter({"no side": 1, "in both lists": 0}),
    }
