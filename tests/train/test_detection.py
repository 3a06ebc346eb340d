"""THUMOS14: overlap, suppression, windows, the rules of the official kit, its files, and the detector."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from res3d_video.train.paper import thumos14
from res3d_video.train.paper.thumos14 import AMBIGUOUS, Segments, VideoLength, WindowList

IOU_THRESHOLDS = thumos14.IOU_THRESHOLDS
INTERVALS = [(start, end) for start in range(7) for end in range(start, 7)]
SEGMENTS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 30)).map(lambda pair: (pair[0] / 4, (pair[0] + pair[1]) / 4)),
    max_size=12,
)


def rows(segments: list) -> np.ndarray:
    return np.array(segments, np.float64).reshape(-1, 2)


def test_iou_is_the_share_of_unit_cells_that_both_hold() -> None:
    overlaps = thumos14.temporal_iou(rows(INTERVALS), rows(INTERVALS))
    for (i, first), (j, second) in itertools.product(enumerate(INTERVALS), repeat=2):
        a, b = set(range(*first)), set(range(*second))
        assert overlaps[i, j] == (len(a & b) / len(a | b) if a & b else 0)


@pytest.mark.parametrize(
    ("segments", "scores", "threshold", "kept"),
    [
        # By score: (2, 6), then (0, 4) with IoU 2/6 to it, then (5, 9) with IoU 1/7 to it and 0 to (0, 4).
        ([(0, 4), (2, 6), (5, 9)], [0.5, 0.9, 0.4], 0.3, [1, 2]),
        # A dropped one drops nothing: (1, 5) goes, and (2, 6) overlaps (0, 4) by 2/6 only.
        ([(0, 4), (1, 5), (2, 6)], [3, 2, 1], 0.5, [0, 2]),
        # IoU of exactly the threshold stays; of equal scores the earlier row wins.
        ([(0, 4), (0, 2)], [1, 1], 0.5, [0, 1]),
        ([(0, 4), (0, 4), (0, 4)], [1, 2, 2], 0.9, [1]),
        ([(0, 4), (0, 4), (0, 4)], [1, 2, 2], 1, [1, 2, 0]),
    ],
)
def test_suppression_keeps_the_best(segments: list, scores: list, threshold: float, kept: list[int]) -> None:
    assert thumos14.non_max_suppression(rows(segments), np.array(scores), iou_threshold=threshold).tolist() == kept


@given(SEGMENTS, st.sampled_from([0, 0.2, 0.5, 0.9, 1]), st.randoms(use_true_random=False))
def test_what_is_kept_overlaps_little_and_what_is_not_a_better_one(segments: list, threshold: float, random) -> None:
    scores = np.array([random.randrange(5) for _ in segments], np.float64)
    kept = thumos14.non_max_suppression(rows(segments), scores, iou_threshold=threshold)
    assert sorted(scores[kept], reverse=True) == scores[kept].tolist()
    overlaps = thumos14.temporal_iou(rows(segments)[kept], rows(segments)[kept])
    assert (overlaps[~np.eye(len(kept), dtype=bool)] <= threshold).all()
    dropped = np.setdiff1d(np.arange(len(segments)), kept)
    against_kept = thumos14.temporal_iou(rows(segments)[dropped], rows(segments)[kept])
    better = scores[kept] >= scores[dropped][:, None]
    assert ((against_kept > threshold) & better).any(axis=1).all()


def test_suppression_looks_at_each_class_of_each_video_alone() -> None:
    pairs = [(video, 0, 4, name, 0.5) for video in "ab" for name in ("Diving", "LongJump")]
    pairs += [("a", 0, 4, "Diving", 0.9), ("a", 8, 9, "Diving", 0.1)]
    found = thumos14.suppress(Segments.of(pairs), iou_threshold=0.5)
    by_score = sorted(zip(found.videos, found.classes, found.scores, strict=True), key=lambda row: row[::-1])
    assert by_score == [
        ("a", "Diving", 0.1), ("b", "Diving", 0.5), ("a", "LongJump", 0.5), ("b", "LongJump", 0.5), ("a", "Diving", 0.9)
    ]  # fmt: skip


@pytest.mark.parametrize("num_frames", [0, 15, 16, 20, 31, 40, 64, 512])
def test_windows_are_all_those_that_fit_a_quarter_of_their_length_apart(num_frames: int) -> None:
    found = thumos14.list_windows([VideoLength("a", num_frames, 25), VideoLength("b", 16, 10)])
    expected = [(s, s + n) for n in thumos14.WINDOW_LENGTHS for s in range(0, 512, n // 4) if s + n <= num_frames]
    assert [tuple(row) for row in found.frames.tolist()] == [*expected, (0, 16)]
    assert found.videos.tolist() == ["a"] * len(expected) + ["b"]
    assert found.keys[-1] == "b/000000-000016"
    assert found.times[-1].tolist() == [0, 1.6]


# The rules of the official kit


def truths(*spans: tuple[str, float, float], name: str = "Diving") -> Segments:
    return Segments.of([(video, start, end, name, 1.0) for video, start, end in spans])


def detections(*spans: tuple[str, float, float, float], name: str = "Diving") -> Segments:
    return Segments.of([(video, start, end, name, score) for video, start, end, score in spans])


def precision_of(found: Segments, true: Segments, unclear: Segments | None = None, *, iou: float = 0.5) -> float:
    annotations = {"Diving": true} | ({AMBIGUOUS: unclear} if unclear is not None else {})
    return float(thumos14.evaluate(found, annotations, iou_thresholds=(iou,)).average_precisions[0, 0])


UNCLEAR = truths(("v", 10, 20), name=AMBIGUOUS)


@pytest.mark.parametrize(
    ("found", "true", "unclear", "precision"),
    [
        ([], [("v", 0, 4)], None, 0),
        ([("v", 0, 2, 1)], [("v", 0, 4)], None, 0),  # IoU 2/4, which must be above the threshold
        # the second is right, for it overlaps most: 1/2; and of two that do the surer one: 1
        ([("v", 0, 6, 0.9), ("v", 0, 9, 0.5)], [("v", 0, 10)], None, 0.5),
        ([("v", 0, 9, 0.9), ("v", 1, 10, 0.5)], [("v", 0, 10)], None, 1),
        # ranks: right, duplicate, right -> (1/1 + 2/3) / 2
        ([("v", 0, 4, 0.9), ("v", 0, 4, 0.8), ("v", 6, 9, 0.7)], [("v", 0, 4), ("v", 6, 9)], None, 5 / 6),
        # ranks over all videos: wrong in b (0.9), right in a (0.8), right in b (0.1) -> (1/2 + 2/3) / 2
        ([("a", 0, 4, 0.8), ("b", 20, 30, 0.9), ("b", 0, 4, 0.1)], [("a", 0, 4), ("b", 0, 4)], None, 7 / 12),
        # of equal scores a's, which is wrong, comes first: (1/2) / 2
        ([("b", 0, 4, 0.5), ("a", 20, 30, 0.5)], [("a", 0, 4), ("b", 0, 4)], None, 0.25),
        ([("a", 0, 4, 0.5), ("elsewhere", 0, 4, 0.9)], [("a", 0, 4)], None, 0.5),
        # a wrong one that shares a second with an ambiguous segment is not counted
        ([("v", 19, 40, 0.9), ("v", 0, 4, 0.5)], [("v", 0, 4)], UNCLEAR, 1),
        ([("v", 20, 40, 0.9), ("v", 0, 4, 0.5)], [("v", 0, 4)], UNCLEAR, 0.5),
        ([("w", 10, 20, 0.9), ("v", 0, 4, 0.5)], [("v", 0, 4)], UNCLEAR, 0.5),
        ([("v", 11, 15, 0.5)], [("v", 11, 15)], UNCLEAR, 1),  # a right one is
    ],
)
def test_average_precision_of_a_class(found: list, true: list, unclear: Segments | None, precision: float) -> None:
    assert precision_of(detections(*found), truths(*true), unclear) == pytest.approx(precision)


def test_a_class_without_detections_counts_as_0_and_s_cnns_protocol_suppresses_at_each_threshold() -> None:
    annotations = {"Diving": truths(("v", 0, 4)), "LongJump": truths(("v", 0, 4), name="LongJump")}
    scores = thumos14.evaluate(detections(("v", 0, 4, 1)), annotations)
    assert (scores.classes, scores.num_truths) == (["Diving", "LongJump"], [1, 1])
    assert scores.mean.tolist() == [0.5] * len(IOU_THRESHOLDS)
    # (0, 4) and (2, 6) have IoU 1/3: with a margin of 0.1 the second goes at IoU 0.3 (0.2), not at 0.5 (0.4).
    true, found = truths(("v", 0, 4), ("v", 2, 6)), detections(("v", 0, 4, 0.9), ("v", 2, 6, 0.8))
    scores = thumos14.evaluate(found, {"Diving": true}, iou_thresholds=(0.3, 0.5), scnn_nms=True)
    assert scores.average_precisions.tolist() == [[0.5, 1.0]]


SPANS = st.tuples(st.sampled_from("ab"), st.integers(0, 8), st.integers(1, 5)).map(lambda t: (t[0], t[1], t[1] + t[2]))
DISTINCT = st.lists(SPANS, min_size=1, max_size=6, unique=True)


def slow_average_precision(found: Segments, true: Segments, unclear: Segments, *, iou: float) -> float:
    """The kit's rules once more, in loops, with pairs for segments and no arrays."""

    def overlap(p: tuple, q: tuple) -> float:
        both = min(p[1], q[1]) - max(p[0], q[0])
        return both / (p[1] - p[0] + q[1] - q[0] - both) if both > 0 else 0.0

    ranked = []
    for video in sorted({*found.videos.tolist(), *true.videos.tolist()}):
        mine = [(tuple(t), s) for v, t, s in zip(found.videos, found.times, found.scores, strict=True) if v == video]
        mine.sort(key=lambda pair: -pair[1])
        taken: set[int] = set()
        for v, segment in zip(true.videos, true.times, strict=True):
            free = [i for i in range(len(mine)) if i not in taken]
            if v == video and free:
                best = max(free, key=lambda i: (overlap(tuple(segment), mine[i][0]), -i))
                if overlap(tuple(segment), mine[best][0]) > iou:
                    taken.add(best)
        for i, (span, score) in enumerate(mine):
            vague = [t for v, t in zip(unclear.videos, unclear.times, strict=True) if v == video]
            if i in taken or not any(overlap(tuple(t), span) for t in vague):
                ranked.append((score, i in taken))
    ranked.sort(key=lambda pair: -pair[0])
    ranks_of_hits = [rank for rank, (_, right) in enumerate(ranked, start=1) if right]
    return sum(hits / rank for hits, rank in enumerate(ranks_of_hits, start=1)) / len(true)


FOUND = st.lists(st.tuples(SPANS, st.integers(0, 4)), max_size=8)


@given(DISTINCT, FOUND, st.lists(SPANS, max_size=2), st.sampled_from(IOU_THRESHOLDS))
def test_a_slow_second_implementation_agrees(true: list, found: list, unclear: list, iou: float) -> None:
    guessed = detections(*((*span, score / 4) for span, score in found))
    right, vague = truths(*true), truths(*unclear, name=AMBIGUOUS)
    expected = slow_average_precision(guessed, right, vague, iou=iou)
    assert precision_of(guessed, right, vague, iou=iou) == pytest.approx(expected)


# Files


def test_lists_of_a_folder_are_read_by_class_and_subset(tmp_path: Path) -> None:
    (tmp_path / "Diving_test.txt").write_text("video_test_1  0.5 2\r\n\nvideo_test_2 3 1\n")  # two blanks, CRLF, turned
    (tmp_path / "Ambiguous_test.txt").write_text("video_test_1 7 8\n")
    found = thumos14.read_annotations(tmp_path, subset="test")
    assert list(found) == ["Diving", AMBIGUOUS]
    assert found["Diving"].videos.tolist() == ["video_test_1", "video_test_2"]
    assert found["Diving"].times.tolist() == [[0.5, 2], [1, 3]]
    with pytest.raises(ValueError, match=r"no annotated class, such as Diving_val\.txt; give the folder of the lists"):
        thumos14.read_annotations(tmp_path, subset="val")


def test_detections_written_are_read_back_best_first_and_those_of_other_classes_skipped(tmp_path: Path) -> None:
    path = tmp_path / "new" / "d.txt"
    thumos14.write_detections(path, Segments.of([("a", 0.1234, 2, "Diving", 0.25), ("b", 1, 2.5, "LongJump", 0.75)]))
    assert path.read_text() == "b 1.000 2.500 51 0.75\na 0.123 2.000 26 0.25\n"
    path.write_text(path.read_text() + "v.mp4 0 1 26 0.5\nv 0 1 1 0.5\nv 0 1 0 0.5\n")
    found, num_skipped = thumos14.read_detections(path)
    assert (found.videos.tolist(), num_skipped) == (["b", "a", "v"], 2)
    assert found.classes.tolist() == ["LongJump", "Diving", "Diving"]
    assert found.times.tolist() == [[1, 2.5], [0.123, 2], [0, 1]]
    thumos14.write_detections(path, Segments.of([]))
    assert thumos14.read_detections(path)[0].times.shape == (0, 2)


def test_lengths_of_videos_are_read_from_lines(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("video_test_1.mp4 100 29.97\n\nvideo_test_2 7 25\n")
    expected = [VideoLength("video_test_1", 100, 29.97), VideoLength("video_test_2", 7, 25)]
    assert thumos14.read_lengths(tmp_path / "l.txt") == expected
    (tmp_path / "l.txt").write_text("a 1 1\na 1 1\n")
    with pytest.raises(ValueError, match="line 2: a is there twice"):
        thumos14.read_lengths(tmp_path / "l.txt")


@pytest.mark.parametrize(
    ("read", "form", "lines"),
    [
        (lambda path: thumos14.read_annotations(path.parent, subset="test"), "video start end",
         ["v 1", "v 1 2 3", "v one 2", "v nan 2"]),
        (thumos14.read_lengths, "video frames frames/s", ["a", "a 10", "a ten 25", "a 10 0", "a -1 25", "a 10 inf"]),
        (thumos14.read_detections, "video start end class score", ["v 0 1 Diving 0.5"]),
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path: Path, read, form: str, lines: list[str]) -> None:
    for line in lines:
        (tmp_path / "Diving_test.txt").write_text(f"\n{line}\n")
        with pytest.raises(ValueError, match=rf"Diving_test.txt, line 2: '{line}' is not of the form '{form}'"):
            read(tmp_path / "Diving_test.txt")


def test_class_numbers_are_those_of_ucf101_and_real_lists_have_the_known_counts(shared_data: Path) -> None:
    lines = (shared_data / "ucf101" / "ucfTrainTestlist" / "classInd.txt").read_text().split("\n")
    numbers = {name.strip(): int(number) for number, _, name in (line.partition(" ") for line in lines if line)}
    assert {name: numbers[name] for name in thumos14.CLASS_IDS} == thumos14.CLASS_IDS
    assert len(thumos14.CLASS_IDS) == 20
    for folder, subset, counts in (
        ("validation", "val", {"BasketballDunk": (303, 10), "CliffDiving": (143, 10), "Diving": (499, 20)}),
        ("test", "test", {"BasketballDunk": (488, 10), "CliffDiving": (217, 16), "Diving": (388, 26)}),
    ):
        found = thumos14.read_annotations(shared_data / "thumos14" / f"temporal_annotations_{folder}", subset=subset)
        assert {name: (len(lines), len(np.unique(lines.videos))) for name, lines in found.items()} == counts
        assert all((np.diff(lines.times, axis=1) > 0).all() for lines in found.values())


def test_the_real_segments_as_detections_score_1_and_shifted_by_half_score_less(shared_data: Path) -> None:
    true = thumos14.read_annotations(shared_data / "thumos14" / "temporal_annotations_test", subset="test")
    lines = [(v, *t, name, 1.0) for name, s in true.items() for v, t in zip(s.videos, s.times.tolist(), strict=True)]
    assert thumos14.evaluate(Segments.of(lines), true, iou_thresholds=(0.5, 0.7)).mean.tolist() == [1, 1]
    late = [(v, start + (end - start) / 2, end + (end - start) / 2, name, s) for v, start, end, name, s in lines]
    shifted = thumos14.evaluate(Segments.of(late), true, iou_thresholds=(0.3, 0.5))  # IoU of each with its own: 1/3
    assert shifted.mean[0] > 0.9
    assert shifted.mean[1] < 0.01


# The detector


def windows(*listed: tuple[str, int, int]) -> WindowList:
    """At 10 frames/s."""
    frames = np.array([row[1:] for row in listed], np.int64).reshape(-1, 2)
    return WindowList(np.array([row[0] for row in listed], str), frames, np.full(len(listed), 10.0))


def test_the_weight_of_a_length_is_the_share_of_actions_that_last_about_as_long() -> None:
    # Lengths of 1, 2 and 4 s take 0.5…2, 1…4 and 2…8 s. Of 0.6, 1.5 and 3 s the first counts for 1 s,
    # the second for 1 and 2 s, the third for 2 and 4 s: 2, 2, 1 of 5. 100 s fits none.
    dives = truths(("a", 0, 0.6), ("a", 1, 2.5), ("a", 0, 3))
    true = {"Diving": dives, "LongJump": truths(("a", 0, 100), name="LongJump")}
    listed = windows(("a", 0, 10), ("a", 0, 20), ("a", 0, 40))
    found = thumos14.window_weights(true, ["Diving", "LongJump", "Shotput"], listed)
    assert found[:, 0].tolist() == [0.4, 0.4, 0.2]
    assert found[:, 1:].tolist() == [[1, 1]] * 3


def scene(*, num_videos: int, seed: int) -> tuple[WindowList, np.ndarray, dict[str, Segments]]:
    """Videos of 320 frames at 10 frames/s with a dive each, half of them cliff dives, and noisy features [W, 8]: shares
    of diving in the window and of the dive there, the same of cliff dives, and one that is always there."""
    random = np.random.default_rng(seed)
    listed = thumos14.list_windows([VideoLength(f"v{i}", 320, 10) for i in range(num_videos)])
    listed = listed.take(np.isin(listed.lengths, (32, 64)))
    starts = random.uniform(2, 22, num_videos)
    dives = [(f"v{i}", start, start + (3.2 if i % 2 else 6.4)) for i, start in enumerate(starts)]
    features = random.uniform(0, 0.1, (len(listed), 8))
    features[:, 4] += 1
    for row, (video, (start, end)) in enumerate(zip(listed.videos, listed.times, strict=True)):
        number = int(video[1:])
        _, first, last = dives[number]
        both = max(0, min(end, last) - max(start, first))
        shares = (both / (end - start), both / (last - first))
        features[row, :2] += shares
        features[row, 2:4] += shares if number % 2 else (0, 0)
    true = {"CliffDiving": truths(*dives[1::2], name="CliffDiving"), "Diving": truths(*dives)}
    return listed, features, true


def test_a_detector_finds_what_it_was_trained_on_in_other_videos() -> None:
    listed, features, true = scene(num_videos=12, seed=0)
    detector = thumos14.train_detector(features, listed, true, c=10)
    others, unseen, expected = scene(num_videos=8, seed=1)
    found = thumos14.detect(detector, unseen, others, true, nms_iou=0.2)
    assert ((found.scores >= 0) & (found.scores < 1)).all()
    assert thumos14.evaluate(found, expected, iou_thresholds=(0.3, 0.5)).mean.min() > 0.8
    guessed = thumos14.detect(detector, np.random.default_rng(2).permutation(unseen), others, true, nms_iou=0.2)
    assert thumos14.evaluate(guessed, expected, iou_thresholds=(0.5,)).mean[0] < 0.4
    again = thumos14.train_detector(features, listed, true, c=10)
    assert np.array_equal(again["Diving"].coef_, detector["Diving"].coef_)


def test_a_class_without_examples_is_left_out_and_none_at_all_is_refused() -> None:
    listed, features, true = scene(num_videos=4, seed=0)
    elsewhere = truths(("elsewhere", 0, 3), name="LongJump")
    assert list(thumos14.train_detector(features, listed, true | {"LongJump": elsewhere})) == ["CliffDiving", "Diving"]
    with pytest.raises(ValueError, match=r"none of \d+ has IoU 0.5 with an annotated segment"):
        thumos14.train_detector(features, listed, {"LongJump": elsewhere})
    everywhere = truths(*((f"v{i}", 0, 32) for i in range(4)), name=AMBIGUOUS)
    with pytest.raises(ValueError, match="none of"):  # windows that touch ambiguous segments are no counter-examples
        thumos14.train_detector(features, listed, true | {AMBIGUOUS: everywhere})
