"""Overlap, suppression and windows: small spaces exhausted, known answers by hand, properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from res3d_video.train.paper.thumos14 import (
    WINDOW_LENGTHS,
    frames_of_window,
    non_max_suppression,
    temporal_iou,
    windows_of,
)

INTERVALS = [(start, end) for start in range(7) for end in range(start, 7)]
SEGMENTS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 30)).map(lambda pair: (pair[0] / 4, (pair[0] + pair[1]) / 4)),
    max_size=12,
)


def rows(segments: list) -> np.ndarray:
    return np.array(segments, np.float64).reshape(-1, 2)


def test_iou_is_the_share_of_unit_cells_that_both_hold() -> None:
    overlaps = temporal_iou(rows(INTERVALS), rows(INTERVALS))
    for (i, first), (j, second) in itertools.product(enumerate(INTERVALS), repeat=2):
        a, b = set(range(*first)), set(range(*second))
        assert overlaps[i, j] == (len(a & b) / len(a | b) if a & b else 0)


@given(SEGMENTS, SEGMENTS)
def test_iou_is_symmetric_and_between_0_and_1(first: list, second: list) -> None:
    overlaps = temporal_iou(rows(first), rows(second))
    assert overlaps.shape == (len(first), len(second))
    assert np.array_equal(overlaps, temporal_iou(rows(second), rows(first)).T)
    assert ((overlaps >= 0) & (overlaps <= 1)).all()


def test_iou_does_not_change_with_the_unit_or_the_place() -> None:
    first, second = rows([(0, 4), (1, 2)]), rows([(2, 6), (0, 8)])
    assert temporal_iou(first * 0.25 + 8, second * 0.25 + 8) == pytest.approx(temporal_iou(first, second))


def test_suppression_keeps_the_best_and_drops_what_overlaps_a_kept_one_too_much() -> None:
    # By score: (2, 6), then (0, 4) with IoU 2/6 to it, then (5, 9) with IoU 1/7 to it and 0 to (0, 4).
    segments, scores = rows([(0, 4), (2, 6), (5, 9)]), np.array([0.5, 0.9, 0.4])
    assert non_max_suppression(segments, scores, iou_threshold=0.5).tolist() == [1, 0, 2]
    assert non_max_suppression(segments, scores, iou_threshold=0.3).tolist() == [1, 2]
    assert non_max_suppression(segments, scores, iou_threshold=0.1).tolist() == [1]


def test_a_dropped_segment_drops_nothing() -> None:
    # (1, 5) overlaps (0, 4) by 3/5 and goes; (2, 6) overlaps (0, 4) by 2/6 only, and (1, 5), which is gone, by 3/5.
    segments = rows([(0, 4), (1, 5), (2, 6)])
    assert non_max_suppression(segments, np.array([3, 2, 1]), iou_threshold=0.5).tolist() == [0, 2]


def test_an_overlap_of_exactly_the_threshold_is_kept_and_of_equal_scores_the_earlier_row_wins() -> None:
    halves = rows([(0, 4), (0, 2)])  # IoU 2/4
    assert non_max_suppression(halves, np.array([1, 1]), iou_threshold=0.5).tolist() == [0, 1]
    assert non_max_suppression(halves, np.array([1, 1]), iou_threshold=0.49).tolist() == [0]
    twins = rows([(0, 4), (0, 4), (0, 4)])
    assert non_max_suppression(twins, np.array([1, 2, 2]), iou_threshold=0.9).tolist() == [1]
    assert non_max_suppression(twins, np.array([1, 2, 2]), iou_threshold=1).tolist() == [1, 2, 0]


def test_nothing_suppresses_to_nothing() -> None:
    assert non_max_suppression(np.zeros((0, 2)), np.zeros(0), iou_threshold=0.5).shape == (0,)


@given(SEGMENTS, st.sampled_from([0, 0.2, 0.5, 0.9, 1]), st.randoms(use_true_random=False))
def test_suppression_twice_is_suppression_once(segments: list, threshold: float, random) -> None:
    scores = np.array([random.randrange(5) for _ in segments], np.float64)
    kept = non_max_suppression(rows(segments), scores, iou_threshold=threshold)
    again = non_max_suppression(rows(segments)[kept], scores[kept], iou_threshold=threshold)
    assert again.tolist() == list(range(len(kept)))
    assert sorted(scores[kept], reverse=True) == scores[kept].tolist()
    overlaps = temporal_iou(rows(segments)[kept], rows(segments)[kept])
    assert (overlaps[~np.eye(len(kept), dtype=bool)] <= threshold).all()
    dropped = np.setdiff1d(np.arange(len(segments)), kept)
    against_kept = temporal_iou(rows(segments)[dropped], rows(segments)[kept])
    better = scores[kept] >= scores[dropped][:, None]
    assert ((against_kept > threshold) & better).any(axis=1).all()


@pytest.mark.parametrize("num_frames", range(0, 70))
def test_windows_are_all_those_that_fit_a_quarter_of_their_length_apart(num_frames: int) -> None:
    found = windows_of(num_frames, lengths=(16, 32))
    expected = [(s, s + n) for n in (16, 32) for s in range(0, 100, n // 4) if s + n <= num_frames]
    assert [tuple(row) for row in found.tolist()] == expected


def test_a_video_of_512_frames_has_the_windows_of_six_lengths() -> None:
    found = windows_of(512)
    lengths, counts = np.unique(found[:, 1] - found[:, 0], return_counts=True)
    assert lengths.tolist() == list(WINDOW_LENGTHS)
    # (512 - 16) / 4 + 1 = 125, (512 - 32) / 8 + 1 = 61, 448 / 16 + 1 = 29, 384 / 32 + 1 = 13, 256 / 64 + 1 = 5, 1
    assert counts.tolist() == [125, 61, 29, 13, 5, 1]


def test_windows_without_overlap_lie_side_by_side() -> None:
    assert windows_of(50, lengths=(16,), overlap=0).tolist() == [[0, 16], [16, 32], [32, 48]]


@pytest.mark.parametrize("length", WINDOW_LENGTHS)
def test_sixteen_frames_spaced_evenly_stand_for_a_window(length: int) -> None:
    frames = frames_of_window(100, 100 + length)
    assert frames.tolist() == [100 + i * (length // 16) for i in range(16)]


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"overlap must be >= 0 and < 1, got 1"):
        windows_of(100, overlap=1)
    with pytest.raises(ValueError, match=r"a window must have at least 1 frame, got 0"):
        windows_of(100, lengths=(16, 0))
    with pytest.raises(ValueError, match=r"window 0…24: 24 frames; choose a multiple of 16"):
        frames_of_window(0, 24)
