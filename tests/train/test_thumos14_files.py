"""The official THUMOS14 files: what is read, what is refused, and the real annotations where they are at hand."""

from pathlib import Path

import numpy as np
import pytest

from res3d_video.train.paper.thumos14 import (
    AMBIGUOUS,
    CLASS_IDS,
    Segments,
    evaluate,
    read_annotations,
    read_detections,
    suppress,
    write_detections,
)


def test_lists_of_a_folder_are_read_by_class_and_subset(tmp_path: Path) -> None:
    (tmp_path / "Diving_test.txt").write_text("video_test_1  0.5 2\r\n\nvideo_test_2 3 1\n")  # two blanks, CRLF, turned
    (tmp_path / "Ambiguous_test.txt").write_text("video_test_1 7 8\n")
    (tmp_path / "Diving_val.txt").write_text("video_validation_1 0 1\n")
    (tmp_path / "readme.txt").write_text("not a list")
    found = read_annotations(tmp_path, subset="test")
    assert list(found) == ["Diving", AMBIGUOUS]
    assert found["Diving"].videos.tolist() == ["video_test_1", "video_test_2"]
    assert found["Diving"].times.tolist() == [[0.5, 2], [1, 3]]
    assert len(read_annotations(tmp_path, subset="val")["Diving"]) == 1


def test_a_folder_without_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no annotated class, such as Diving_val\.txt; give the folder of the lists"):
        read_annotations(tmp_path, subset="val")


@pytest.mark.parametrize("line", ["v 1", "v 1 2 3", "v one 2", "v nan 2"])
def test_a_damaged_list_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "Diving_test.txt").write_text(f"v 1 2\n{line}\n")
    with pytest.raises(ValueError, match=rf"Diving_test.txt, line 2: '{line}' is not of the form 'video start end'"):
        read_annotations(tmp_path, subset="test")


def test_detections_written_are_read_back_best_first(tmp_path: Path) -> None:
    found = Segments.of([("a", 0.1234, 2, "Diving", 0.25), ("b", 1, 2.5, "LongJump", 0.75)])
    write_detections(tmp_path / "new" / "d.txt", found)
    assert (tmp_path / "new" / "d.txt").read_text() == "b 1.000 2.500 51 0.75\na 0.123 2.000 26 0.25\n"
    again, num_skipped = read_detections(tmp_path / "new" / "d.txt")
    assert num_skipped == 0
    assert again.classes.tolist() == ["LongJump", "Diving"]
    assert again.scores.tolist() == [0.75, 0.25]
    assert again.times.tolist() == [[1, 2.5], [0.123, 2]]


def test_no_detections_are_a_file_too(tmp_path: Path) -> None:
    write_detections(tmp_path / "d.txt", Segments.of([]))
    found, _ = read_detections(tmp_path / "d.txt")
    assert len(found) == 0
    assert found.times.shape == (0, 2)


def test_detections_of_other_classes_are_skipped_and_counted_and_suffixes_go(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("v.mp4 0 1 26 0.5\nv 0 1 1 0.5\nv 0 1 0 0.5\n")
    found, num_skipped = read_detections(tmp_path / "d.txt")
    assert (found.videos.tolist(), num_skipped) == (["v"], 2)


def test_detections_with_class_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("v 0 1 Diving 0.5\n")
    with pytest.raises(
        ValueError, match=r"line 1: 'v 0 1 Diving 0.5' is not of the form 'video start end class score'"
    ):
        read_detections(tmp_path / "d.txt")


def test_suppression_looks_at_each_class_of_each_video_alone() -> None:
    rows = [(video, 0, 4, name, 0.5) for video in "ab" for name in ("Diving", "LongJump")]
    found = suppress(Segments.of([*rows, ("a", 0, 4, "Diving", 0.9), ("a", 8, 9, "Diving", 0.1)]), iou_threshold=0.5)
    by_score = sorted(zip(found.videos, found.classes, found.scores, strict=True), key=lambda row: row[::-1])
    assert by_score == [
        ("a", "Diving", 0.1), ("b", "Diving", 0.5), ("a", "LongJump", 0.5), ("b", "LongJump", 0.5), ("a", "Diving", 0.9)
    ]  # fmt: skip
    assert len(suppress(found, iou_threshold=0.5, keep=1)) == 4


def test_class_numbers_are_those_of_ucf101(shared_data: Path) -> None:
    lines = (shared_data / "ucf101" / "ucfTrainTestlist" / "classInd.txt").read_text().split("\n")
    numbers = {name.strip(): int(number) for number, _, name in (line.partition(" ") for line in lines if line)}
    assert {name: numbers[name] for name in CLASS_IDS} == CLASS_IDS
    assert len(CLASS_IDS) == 20


@pytest.mark.parametrize(
    ("folder", "subset", "counts"),
    [
        ("validation", "val", {"BasketballDunk": (303, 10), "CliffDiving": (143, 10), "Diving": (499, 20)}),
        ("test", "test", {"BasketballDunk": (488, 10), "CliffDiving": (217, 16), "Diving": (388, 26)}),
    ],
)
def test_the_real_lists_have_the_known_counts(shared_data: Path, folder: str, subset: str, counts: dict) -> None:
    found = read_annotations(shared_data / "thumos14" / f"temporal_annotations_{folder}", subset=subset)
    assert {name: (len(rows), len(np.unique(rows.videos))) for name, rows in found.items()} == counts
    assert all((np.diff(rows.times, axis=1) > 0).all() for rows in found.values())
    cliffs, dives = (
        set(zip(found[name].videos, map(tuple, found[name].times.tolist()), strict=True))
        for name in ("CliffDiving", "Diving")
    )
    assert cliffs <= dives


def test_the_real_segments_as_detections_score_1_and_shifted_by_half_score_less(shared_data: Path) -> None:
    true = read_annotations(shared_data / "thumos14" / "temporal_annotations_test", subset="test")
    rows = [(v, *t, name, 1.0) for name, s in true.items() for v, t in zip(s.videos, s.times.tolist(), strict=True)]
    assert evaluate(Segments.of(rows), true, iou_thresholds=(0.5, 0.7)).mean.tolist() == [1, 1]
    late = [(v, start + (end - start) / 2, end + (end - start) / 2, name, s) for v, start, end, name, s in rows]
    shifted = evaluate(Segments.of(late), true, iou_thresholds=(0.3, 0.5))  # IoU of each with its own: 1/3
    assert shifted.mean[0] > 0.9
    assert shifted.mean[1] < 0.01
