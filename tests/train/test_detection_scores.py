"""The rules of the official THUMOS14 kit: answers by hand, a slow second implementation, properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from res3d_video.train.paper.thumos14 import AMBIGUOUS, IOU_THRESHOLDS, Segments, average_precision, evaluate, match


def truths(*rows: tuple[str, float, float], name: str = "Diving") -> Segments:
    return Segments.of([(video, start, end, name, 1.0) for video, start, end in rows])


def detections(*rows: tuple[str, float, float, float], name: str = "Diving") -> Segments:
    return Segments.of([(video, start, end, name, score) for video, start, end, score in rows])


def precision_of(found: Segments, true: Segments, unclear: Segments | None = None, *, iou: float = 0.5) -> float:
    annotations = {"Diving": true} | ({AMBIGUOUS: unclear} if unclear is not None else {})
    return float(evaluate(found, annotations, iou_thresholds=(iou,)).average_precisions[0, 0])


def test_average_precision_is_the_mean_of_the_precisions_at_the_true_segments() -> None:
    assert average_precision(np.array([True, True]), num_truths=2) == 1
    assert average_precision(np.array([True, True]), num_truths=4) == 0.5  # two are never found
    assert average_precision(np.array([False, True]), num_truths=1) == 0.5
    # right at ranks 1, 3 and 4: (1/1 + 2/3 + 3/4) / 3 = 29/36
    right = np.array([True, False, True, True, False])
    assert average_precision(right, num_truths=3) == pytest.approx(29 / 36)
    assert average_precision(np.zeros(5, bool), num_truths=3) == 0
    assert average_precision(np.zeros(0, bool), num_truths=3) == 0


def test_average_precision_of_no_truths_is_refused() -> None:
    with pytest.raises(ValueError, match="num_truths: 0 for 0 right detections; a class needs at least 1"):
        average_precision(np.zeros(2, bool), num_truths=0)


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 5))
def test_average_precision_lies_between_0_and_1_and_worse_ranks_do_not_raise_it(right: list, unfound: int) -> None:
    num_truths = max(1, sum(right) + unfound)
    value = average_precision(np.array(right, bool), num_truths=num_truths)
    assert 0 <= value <= 1
    assert average_precision(np.array([False, *right], bool), num_truths=num_truths) <= value
    assert average_precision(np.array([*right, False], bool), num_truths=num_truths) == value


def test_a_detection_must_overlap_by_more_than_the_threshold() -> None:
    true, found = np.array([[0, 4]]), np.array([[0, 2]])  # IoU 2/4
    assert match(true, found, iou_threshold=0.5).tolist() == [False]
    assert match(true, found, iou_threshold=0.49).tolist() == [True]


def test_a_true_segment_takes_the_detection_that_overlaps_it_most_and_of_equals_the_surest() -> None:
    true = np.array([[0, 10]])
    assert match(true, np.array([[0, 6], [0, 9]]), iou_threshold=0.5).tolist() == [False, True]
    assert match(true, np.array([[0, 9], [1, 10], [0, 9]]), iou_threshold=0.5).tolist() == [True, False, False]


def test_one_detection_over_two_true_segments_counts_for_the_first_alone() -> None:
    true, found = np.array([[0, 4], [4, 8]]), np.array([[0, 8]])  # IoU 4/8 with both
    assert match(true, found, iou_threshold=0.4).tolist() == [True]
    # one of two found, at precision 1: 1/2
    assert precision_of(detections(("v", 0, 8, 0.9)), truths(("v", 0, 4), ("v", 4, 8)), iou=0.4) == 0.5


def test_the_second_true_segment_takes_the_best_detection_that_is_left() -> None:
    # First (0, 10): (0, 9) has 9/10. Then (1, 9): (0, 9) is taken, (2, 9) has 7/8, (0, 6) has 5/9.
    found = np.array([[0, 9], [0, 6], [2, 9]])
    assert match(np.array([[0, 10], [1, 9]]), found, iou_threshold=0.5).tolist() == [True, False, True]


def test_nothing_matches_nothing() -> None:
    none = np.zeros((0, 2))
    assert match(none, none, iou_threshold=0.5).shape == (0,)
    assert match(np.array([[0, 1]]), none, iou_threshold=0.5).shape == (0,)
    assert match(none, np.array([[0, 1]]), iou_threshold=0.5).tolist() == [False]
    assert precision_of(detections(), truths(("v", 0, 4))) == 0


def test_a_duplicate_counts_as_wrong() -> None:
    # ranks: right, duplicate, right -> (1/1 + 2/3) / 2
    found = detections(("v", 0, 4, 0.9), ("v", 0, 4, 0.8), ("v", 6, 9, 0.7))
    assert precision_of(found, truths(("v", 0, 4), ("v", 6, 9))) == pytest.approx(5 / 6)


def test_scores_of_all_videos_are_ranked_together() -> None:
    # ranks: wrong in b (0.9), right in a (0.8), right in b (0.1) -> (1/2 + 2/3) / 2
    found = detections(("a", 0, 4, 0.8), ("b", 20, 30, 0.9), ("b", 0, 4, 0.1))
    assert precision_of(found, truths(("a", 0, 4), ("b", 0, 4))) == pytest.approx(7 / 12)


def test_of_equal_scores_the_video_that_comes_first_by_name_is_ranked_first() -> None:
    true = truths(("a", 0, 4), ("b", 0, 4))
    # a's is wrong, b's is right: (1/2) / 2, whatever the order in the file
    found = detections(("b", 0, 4, 0.5), ("a", 20, 30, 0.5))
    assert precision_of(found, true) == 0.25


def test_detections_in_videos_without_true_segments_are_wrong() -> None:
    found = detections(("a", 0, 4, 0.5), ("elsewhere", 0, 4, 0.9))
    assert precision_of(found, truths(("a", 0, 4))) == 0.5


def test_a_wrong_detection_that_touches_an_ambiguous_segment_is_not_counted() -> None:
    true, unclear = truths(("v", 0, 4)), truths(("v", 10, 20), name=AMBIGUOUS)
    found = detections(("v", 19, 40, 0.9), ("v", 0, 4, 0.5))
    assert precision_of(found, true) == 0.5
    assert precision_of(found, true, unclear) == 1
    touching = detections(("v", 20, 40, 0.9), ("v", 0, 4, 0.5))  # no common second
    assert precision_of(touching, true, unclear) == 0.5
    elsewhere = truths(("w", 10, 20), name=AMBIGUOUS)
    assert precision_of(found, true, elsewhere) == 0.5


def test_a_right_detection_counts_even_if_it_touches_an_ambiguous_segment() -> None:
    assert precision_of(detections(("v", 0, 4, 0.5)), truths(("v", 0, 4)), truths(("v", 1, 9), name=AMBIGUOUS)) == 1


def test_a_class_without_detections_counts_as_0_in_the_mean() -> None:
    annotations = {"Diving": truths(("v", 0, 4)), "LongJump": truths(("v", 0, 4), name="LongJump")}
    scores = evaluate(detections(("v", 0, 4, 1)), annotations)
    assert scores.classes == ["Diving", "LongJump"]
    assert scores.mean.tolist() == [0.5] * len(IOU_THRESHOLDS)
    assert scores.num_truths == [1, 1]


def test_a_class_is_judged_by_its_own_detections() -> None:
    found = detections(("v", 0, 4, 1), name="LongJump")
    assert precision_of(found, truths(("v", 0, 4))) == 0


def test_suppression_at_each_threshold_minus_a_margin_is_s_cnns_protocol() -> None:
    # (0, 4) and (2, 6) have IoU 1/3: with a margin of 0.1 the second goes at IoU 0.3 (0.2), not at 0.5 (0.4).
    true, found = truths(("v", 0, 4), ("v", 2, 6)), detections(("v", 0, 4, 0.9), ("v", 2, 6, 0.8))
    scores = evaluate(found, {"Diving": true}, iou_thresholds=(0.3, 0.5), nms_margin=0.1)
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
            vague = any(
                v == video and overlap(tuple(t), span) for v, t in zip(unclear.videos, unclear.times, strict=True)
            )
            if i in taken or not vague:
                ranked.append((score, i in taken))
    ranked.sort(key=lambda pair: -pair[0])
    hits, total = 0, 0.0
    for rank, (_, right) in enumerate(ranked, start=1):
        hits += right
        total += hits / rank if right else 0
    return total / len(true)


@given(
    DISTINCT,
    st.lists(st.tuples(SPANS, st.integers(0, 4)), max_size=8),
    st.lists(SPANS, max_size=2),
    st.sampled_from(IOU_THRESHOLDS),
)
def test_a_slow_second_implementation_agrees(true: list, found: list, unclear: list, iou: float) -> None:
    right = truths(*true)
    guessed = detections(*((*span, score / 4) for span, score in found))
    vague = truths(*unclear, name=AMBIGUOUS)
    value = precision_of(guessed, right, vague, iou=iou)
    assert value == pytest.approx(slow_average_precision(guessed, right, vague, iou=iou))
    assert 0 <= value <= 1


@given(DISTINCT, st.randoms(use_true_random=False))
def test_perfect_detections_have_average_precision_1_at_every_threshold(true: list, random) -> None:
    found = detections(*((*span, random.random()) for span in true))
    scores = evaluate(found, {"Diving": truths(*true)})
    assert scores.average_precisions.tolist() == [[1.0] * len(IOU_THRESHOLDS)]
