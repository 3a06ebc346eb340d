"""Which segments of a video are stored."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest

from res3d_video.pipeline.convert.samples import random_segments, segment_length, uniform_segments

IDS = [f"{i:011d}" for i in range(400)]


@pytest.mark.parametrize(
    ("fps", "frames"), [(25, 50), (30000 / 1001, 60), (23.976, 48), (15, 30), (59.94, 120), (0, 50), (0.2, 1)]
)
def test_two_seconds_are_counted_in_frames_of_the_source(fps: float, frames: int) -> None:
    assert segment_length(2.0, fps=fps) == frames


def test_random_segments_lie_inside_ascend_and_hang_on_name_and_seed_alone() -> None:
    for name in IDS:
        starts = random_segments(name, count=5, length=50, video_frames=9000, seed=0)
        assert np.array_equal(starts, random_segments(name, count=5, length=50, video_frames=9000, seed=0))
        assert np.all(np.diff(starts) > 0)
        assert 0 <= starts[0] <= starts[-1] <= 8950
        assert not np.array_equal(starts, random_segments(name, count=5, length=50, video_frames=9000, seed=1))
    assert len({tuple(random_segments(name, count=5, length=50, video_frames=9000, seed=0)) for name in IDS}) == 400


def test_random_segments_are_uniform_over_all_places() -> None:
    starts = np.concatenate([random_segments(name, count=5, length=50, video_frames=1049, seed=7) for name in IDS])
    counts = np.histogram(starts, bins=10, range=(0, 1000))[0]
    assert len(starts) == 2000
    assert abs(counts - 200).max() < 50, "four standard deviations of 13"


def test_segments_are_different_and_every_choice_of_places_comes_equally_often() -> None:
    """Two of four places: six choices, 4,000 draws."""
    names = [f"{i}" for i in range(4000)]
    drawn = Counter(tuple(random_segments(n, count=2, length=50, video_frames=53, seed=0).tolist()) for n in names)
    assert set(drawn) == set(itertools.combinations(range(4), 2))
    assert max(abs(count - 4000 / 6) for count in drawn.values()) < 100, "four standard deviations of 24"
    for places in range(1, 9):
        starts = random_segments("x", count=5, length=50, video_frames=49 + places, seed=0).tolist()
        assert len(set(starts)) == len(starts) == min(5, places)


def test_a_draw_is_the_one_that_the_hash_says() -> None:
    """By hand: a 128-bit Philox key from SHA-256; upper 32 bits of each word times the places that are left."""
    digest = hashlib.sha256(b"3:UDqivjS-lpI").digest()
    key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
    words = np.random.Philox(key=np.array(key, np.uint64)).random_raw(5)
    left, expected = list(range(8951)), []
    for word in words:
        expected.append(left.pop((int(word) >> 32) * len(left) >> 32))
    starts = random_segments("UDqivjS-lpI", count=5, length=50, video_frames=9000, seed=3)
    assert starts.tolist() == sorted(expected)


@pytest.mark.parametrize("video_frames", [1, 2, 49, 50])
def test_a_video_no_longer_than_a_segment_is_one_that_begins_at_its_start(video_frames: int) -> None:
    assert random_segments("x", count=5, length=50, video_frames=video_frames, seed=0).tolist() == [0]
    assert uniform_segments(count=10, length=50, video_frames=video_frames).tolist() == [0]


def test_uniform_segments_reach_from_the_first_frame_to_the_last() -> None:
    for video_frames in range(50, 700):
        starts = uniform_segments(count=10, length=50, video_frames=video_frames)
        assert (starts[0], starts[-1]) == (0, video_frames - 50)
        assert len(starts) == min(10, video_frames - 49)
        assert np.diff(starts).max(initial=0) - np.diff(starts).min(initial=10**9) <= 1
    assert uniform_segments(count=10, length=50, video_frames=950).tolist() == list(range(0, 1000, 100))
