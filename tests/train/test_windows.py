"""Window files, and the detector that learns from windows: known answers on small cases."""

import json
from pathlib import Path

import numpy as np
import pytest

from res3d_video.train.paper.thumos14 import (
    AMBIGUOUS,
    Segments,
    VideoLength,
    WindowList,
    detect,
    evaluate,
    list_windows,
    read_lengths,
    read_windows,
    train_detector,
    window_weights,
    with_rows,
    write_windows,
)


def windows(*rows: tuple[str, int, int], fps: float = 10) -> WindowList:
    return WindowList(
        videos=np.array([row[0] for row in rows], str),
        frames=np.array([row[1:] for row in rows], np.int64).reshape(-1, 2),
        fps=np.full(len(rows), fps),
    )


def diving(*rows: tuple[str, float, float], name: str = "Diving") -> Segments:
    return Segments.of([(*row, name, 1.0) for row in rows])


def test_a_window_file_holds_seconds_and_the_sixteen_frames(tmp_path: Path) -> None:
    listed = list_windows([VideoLength("a", 40, 25), VideoLength("b", 15, 30)], lengths=(16, 32))
    write_windows(tmp_path / "new" / "w.jsonl", listed)
    lines = [json.loads(line) for line in (tmp_path / "new" / "w.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [
        "a/000000-000016", "a/000004-000020", "a/000008-000024", "a/000012-000028", "a/000016-000032",
        "a/000020-000036", "a/000024-000040", "a/000000-000032", "a/000008-000040",
    ]  # fmt: skip
    assert lines[-1] == {
        "key": "a/000008-000040", "video": "a", "fps": 25, "start_frame": 8, "end_frame": 40, "start_s": 0.32,
        "end_s": 1.6, "frames": list(range(8, 40, 2)),
    }  # fmt: skip
    again = read_windows(tmp_path / "new" / "w.jsonl")
    assert again.keys == listed.keys
    assert np.array_equal(again.times, listed.times)


def test_no_windows_are_a_file_too(tmp_path: Path) -> None:
    write_windows(tmp_path / "w.jsonl", list_windows([VideoLength("b", 15, 30)]))
    assert len(read_windows(tmp_path / "w.jsonl")) == 0


def test_lengths_of_videos_are_read_from_lines(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("video_test_1.mp4 100 29.97\n\nvideo_test_2 7 25\n")
    assert read_lengths(tmp_path / "l.txt") == [
        VideoLength("video_test_1", 100, 29.97),
        VideoLength("video_test_2", 7, 25),
    ]


@pytest.mark.parametrize("line", ["a", "a 10", "a ten 25", "a 10 0", "a -1 25", "a 10 inf"])
def test_a_damaged_list_of_lengths_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "l.txt").write_text(f"b 1 1\n{line}\n")
    with pytest.raises(ValueError, match=rf"line 2: '{line}' is not of the form 'video frames frames/s'"):
        read_lengths(tmp_path / "l.txt")


def test_a_video_twice_and_a_file_that_holds_no_windows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a 1 1\na 1 1\n")
    with pytest.raises(ValueError, match="line 2: a is there twice"):
        read_lengths(tmp_path / "l.txt")
    with pytest.raises(ValueError, match=r"l.txt, line 1: not a window \(.*\); make the file with thumos14.py windows"):
        read_windows(tmp_path / "l.txt")


def test_a_window_length_that_sixteen_frames_cannot_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="20 frames; choose a multiple of 16"):
        list_windows([], lengths=(16, 20))


def test_rows_follow_the_keys_and_windows_without_one_are_left_out() -> None:
    listed = windows(("a", 0, 16), ("b", 0, 16), ("c", 0, 16))
    found, rows = with_rows(["b/000000-000016", "x", "a/000000-000016"], listed, what="f")
    assert (found.tolist(), rows.tolist()) == ([0, 1], [2, 0])
    assert listed.take(found).keys == ["a/000000-000016", "b/000000-000016"]
    with pytest.raises(ValueError, match="f: nothing for any of 3 windows, the first is a/000000-000016"):
        with_rows(["x"], listed, what="f")


def test_the_weight_of_a_length_is_the_share_of_actions_that_last_about_as_long() -> None:
    # Lengths of 1, 2 and 4 s take 0.5…2, 1…4 and 2…8 s. Of 0.6, 1.5 and 3 s the first counts for 1 s,
    # the second for 1 and 2 s, the third for 2 and 4 s: 2, 2, 1 of 5. 100 s fits none.
    true = {
        "Diving": diving(("a", 0, 0.6), ("a", 1, 2.5), ("a", 0, 3)),
        "LongJump": diving(("a", 0, 100), name="LongJump"),
    }
    listed = windows(("a", 0, 10), ("a", 0, 20), ("a", 0, 40))
    found = window_weights(true, ["Diving", "LongJump", "Shotput"], listed)
    assert found[:, 0].tolist() == [0.4, 0.4, 0.2]
    assert found[:, 1:].tolist() == [[1, 1]] * 3


def test_scores_are_weighed_by_the_length_of_their_window() -> None:
    listed = windows(("a", 0, 32), ("a", 0, 16), ("a", 16, 32))  # 3.2 and 1.6 s at 10 frames/s
    true = {"Diving": diving(("a", 0, 1), ("a", 1, 2), ("a", 2, 3), ("a", 3, 8))}  # 1 s: short only; 5 s: long only
    weights = window_weights(true, ["Diving"], listed)
    assert weights[:, 0].tolist() == [1 / 4, 3 / 4, 3 / 4]
    found = detect(np.array([[0.8], [0.8], [0.4]]), ["Diving"], listed, nms_iou=1, weights=weights)
    assert found.scores == pytest.approx([0.8 * 3 / 4, 0.4 * 3 / 4, 0.8 / 4])
    assert window_weights(true, ["Diving"], windows()).shape == (0, 1)


def test_windows_speak_for_every_class_and_with_background_for_their_best_alone() -> None:
    listed = windows(("a", 0, 16), ("a", 20, 36), ("a", 40, 56))
    scores = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.6, 0.1]])
    found = detect(scores[:, :2], ["Diving", "LongJump"], listed, nms_iou=0.4)
    assert len(found) == 6
    found = detect(scores, ["Diving", "LongJump", "Background"], listed, nms_iou=0.4)
    assert sorted(zip(found.classes, found.times[:, 0], found.scores, strict=True)) == [
        ("Diving", 0.0, 0.5), ("LongJump", 4.0, 0.6)
    ]  # fmt: skip


def test_a_window_is_background_or_not_before_its_length_is_weighed() -> None:
    scores, classes = np.array([[0.6, 0.4]]), ["Diving", "Background"]
    found = detect(scores, classes, windows(("a", 0, 16)), nms_iou=1, weights=np.array([[0.1, 1.0]]))
    assert found.scores == pytest.approx([0.06])


def test_overlapping_windows_of_a_class_go_and_at_most_keep_stay() -> None:
    listed = windows(("a", 0, 16), ("a", 4, 20), ("a", 100, 116), ("b", 0, 16))
    scores = np.array([[0.5], [0.9], [0.3], [0.1]])
    found = detect(scores, ["Diving"], listed, nms_iou=0.4)
    assert sorted(found.scores.tolist()) == [0.1, 0.3, 0.9]
    assert sorted(detect(scores, ["Diving"], listed, nms_iou=0.4, keep=1).scores.tolist()) == [0.1, 0.9]
    assert len(detect(scores, ["Diving"], listed, nms_iou=1)) == 4


def scene(*, num_videos: int, seed: int) -> tuple[WindowList, np.ndarray, dict[str, Segments]]:
    """Videos of 320 frames at 10 frames/s with one dive each, of which half are cliff dives, and noisy features [W, 8].

    Feature 0 is the share of the window that is diving, 1 the share of the dive in the window, 2 and 3 the same of
    cliff dives; 4 is always there, so that the length of the vector, which normalising takes, is not missed.
    """
    random = np.random.default_rng(seed)
    listed = list_windows([VideoLength(f"v{i}", 320, 10) for i in range(num_videos)], lengths=(32, 64))
    starts = random.uniform(2, 22, num_videos)
    dives = [(f"v{i}", start, start + (3.2 if i % 2 else 6.4)) for i, start in enumerate(starts)]
    features = random.uniform(0, 0.1, (len(listed), 8))
    features[:, 4] += 1
    for row, (video, (start, end)) in enumerate(zip(listed.videos, listed.times, strict=True)):
        number = int(video[1:])
        both = max(0, min(end, dives[number][2]) - max(start, dives[number][1]))
        shares = (both / (end - start), both / (dives[number][2] - dives[number][1]))
        features[row, :2] += shares
        features[row, 2:4] += shares if number % 2 else (0, 0)
    true = {"CliffDiving": diving(*dives[1::2], name="CliffDiving"), "Diving": diving(*dives)}
    return listed, features, true


def test_a_detector_finds_what_it_was_trained_on_in_other_videos() -> None:
    listed, features, true = scene(num_videos=12, seed=0)
    detector = train_detector(features, listed, true, c=10)
    assert detector.classes == ["CliffDiving", "Diving"]
    others, unseen, expected = scene(num_videos=8, seed=1)
    scores = detector.scores(unseen)
    assert ((scores > 0) & (scores < 1)).all()
    weights = window_weights(true, detector.classes, others)
    found = detect(scores, detector.classes, others, nms_iou=0.2, weights=weights)
    assert evaluate(found, expected, iou_thresholds=(0.3, 0.5)).mean.min() > 0.8
    random = np.random.default_rng(2).permutation(len(others))
    guessed = detect(scores[random], detector.classes, others, nms_iou=0.2)
    assert evaluate(guessed, expected, iou_thresholds=(0.5,)).mean[0] < 0.4


def test_the_same_windows_give_the_same_detector() -> None:
    listed, features, true = scene(num_videos=4, seed=0)
    first, second = (train_detector(features, listed, true) for _ in range(2))
    assert np.array_equal(first.weights, second.weights)


def test_a_class_without_examples_is_left_out_and_none_at_all_is_refused() -> None:
    listed, features, true = scene(num_videos=4, seed=0)
    elsewhere = diving(("elsewhere", 0, 3), name="LongJump")
    assert train_detector(features, listed, true | {"LongJump": elsewhere}).classes == ["CliffDiving", "Diving"]
    with pytest.raises(ValueError, match=r"none of \d+ has IoU 0.5 with an annotated segment"):
        train_detector(features, listed, {"LongJump": elsewhere})


def test_windows_that_touch_ambiguous_segments_are_no_counter_examples() -> None:
    listed, features, true = scene(num_videos=4, seed=0)
    everywhere = diving(*((f"v{i}", 0, 32) for i in range(4)), name=AMBIGUOUS)
    with pytest.raises(ValueError, match="none of"):
        train_detector(features, listed, true | {AMBIGUOUS: everywhere})
