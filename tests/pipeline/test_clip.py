"""Which frames make a clip."""

import numpy as np
import pytest

from res3d_video.pipeline.clip import ClipSpec, frame_indices, num_starts, uniform_starts


@pytest.mark.parametrize("num_frames", [1, 4, 8, 16])
@pytest.mark.parametrize("frame_stride", [1, 2, 3, 16, 32])
def test_a_clip_is_every_stride_th_frame_until_the_last_one_repeats(num_frames: int, frame_stride: int) -> None:
    spec = ClipSpec(num_frames, frame_stride)
    for video_frames in range(1, 70):
        starts = range(video_frames)
        expected = [[min(s + i * frame_stride, video_frames - 1) for i in range(num_frames)] for s in starts]
        found = frame_indices(np.arange(video_frames), spec, video_frames=np.full(video_frames, video_frames))
        assert found.tolist() == expected
        assert frame_indices(0, spec, video_frames=video_frames).tolist() == expected[0]


def test_every_start_but_the_last_leaves_room_and_one_more_would_not() -> None:
    for spec in (ClipSpec(8, 2), ClipSpec(16, 1), ClipSpec(4, 32)):
        for video_frames in range(1, 200):
            last = int(num_starts(spec, video_frames=video_frames)) - 1
            assert last == 0 or last + spec.span == video_frames
            assert last + spec.span >= video_frames or last == 0


def test_uniform_views_begin_at_the_first_frame_end_at_the_last_and_lie_evenly() -> None:
    spec = ClipSpec(8, 2)
    for video_frames in range(1, 120):
        room = int(num_starts(spec, video_frames=video_frames)) - 1
        starts = uniform_starts(10, spec, video_frames=video_frames)
        assert (starts[0], starts[-1]) == (0, room)
        assert np.ptp(np.diff(starts)) <= 1
        assert uniform_starts(1, spec, video_frames=video_frames).tolist() == [room // 2]


@pytest.mark.parametrize("start", [-1, 10, 11])
def test_a_start_outside_the_segment_is_an_error_that_names_it(start: int) -> None:
    with pytest.raises(ValueError, match=f"start: {start} lies outside"):
        frame_indices(start, ClipSpec(), video_frames=10)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_frames": 0}, "num_frames must be 1 to 1,024, got 0"),
        ({"frame_stride": 33}, "frame_stride must be 1 to 32, got 33"),
        ({"crop_size": 0}, "crop_size must be 1 to 1,024, got 0"),
        ({"crop_size": 112, "resize": 64}, "resize must be >= crop_size, which is 112, got 64"),
        ({"num_frames": 1024, "crop_size": 1024}, "1024 frames of 1024 pixels are too many; choose"),
    ],
)
def test_impossible_clips_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClipSpec(**wrong)
