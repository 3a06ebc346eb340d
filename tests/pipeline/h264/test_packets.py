"""Which packets clips need, and where their frames lie: every start, stride, GOP and length of a small space."""

import itertools

import numpy as np
import pytest

from pipeline.clip import ClipSpec, frame_indices, num_starts
from pipeline.h264.packets import ClipPackets, clip_packets, join

SPECS = [ClipSpec(t, stride) for t, stride in itertools.product((1, 2, 4, 8), (1, 2, 3, 4, 8, 16, 32))]


def decoded(packets: np.ndarray, *, gop_size: int) -> list[int]:
    """What a decoder makes of packets: each frame, if all of its GOP before it have just been decoded."""
    for before, packet in zip([-1, *packets[:-1]], packets, strict=True):
        assert packet % gop_size == 0 or packet == before + 1, "a packet hangs on one that is not there"
    return packets.tolist()


def split(located: ClipPackets) -> list[np.ndarray]:
    return np.split(located.packets, np.cumsum(located.count)[:-1])


@pytest.mark.parametrize("gop_size", [2, 4, 8, 16])
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.num_frames}x{s.frame_stride}")
def test_every_clip_decodes_to_its_frames_from_no_more_packets_than_they_hang_on(spec: ClipSpec, gop_size: int) -> None:
    for length in (1, 2, 5, 16, 17, 40):
        starts = np.arange(int(num_starts(spec, video_frames=length)))
        frames = frame_indices(starts, spec, video_frames=np.full(len(starts), length))
        located = clip_packets(frames, gop_size=gop_size)
        for wanted, order, packets in zip(frames, located.order, split(located), strict=True):
            shown = decoded(packets, gop_size=gop_size)
            assert [shown[place] for place in order] == wanted.tolist()
            needed = {p for frame in wanted for p in range(frame - frame % gop_size, frame + 1)}
            assert set(shown) == needed
        assert located.num_frames_decoded == located.count.sum() == len(located.packets)


def test_a_clip_that_begins_at_keyframes_decodes_nothing_in_vain_at_stride_one() -> None:
    starts = np.arange(0, 40, 8)
    frames = frame_indices(starts, ClipSpec(8, 1), video_frames=np.full(5, 64))
    assert clip_packets(frames, gop_size=8).count.tolist() == [8] * 5


def test_pictures_are_rows_of_the_index_with_their_clips() -> None:
    located = clip_packets(np.array([[9, 10], [0, 1]]), gop_size=8)
    rows, owner = located.pictures(np.array([100, 500]))
    assert rows.tolist() == [108, 109, 110, 500, 501]
    assert owner.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("clips_per_stream", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("blanks", [(), (0,), (6,), (2, 3), tuple(range(7))], ids=str)
def test_joined_clips_find_their_own_frames(clips_per_stream: int, blanks: tuple[int, ...]) -> None:
    """Segments are told apart by a thousand; a blank clip is the one packet -1."""
    spec = ClipSpec(4, 3)
    lengths = np.array([40, 1, 5, 40, 17, 2, 40])
    frames = frame_indices(np.array([29, 0, 1, 0, 7, 1, 13]), spec, video_frames=lengths)
    blank = np.isin(np.arange(7), blanks)
    located = clip_packets(frames, gop_size=8, blank=blank)
    named = [packets + 1000 * clip if len(packets) else np.array([-1]) for clip, packets in enumerate(split(located))]
    expected = np.where(blank[:, None], -1, frames + 1000 * np.arange(7)[:, None])
    streams = join(located, clips_per_stream=clips_per_stream)
    assert [row for s in streams for row in range(7)[s.clips]] == list(range(7))
    for stream in streams:
        content = np.concatenate(named[stream.clips])
        taken = content[stream.frames]
        assert np.all(np.diff(stream.frames) > 0), "each frame once, rising: a decoder never turns back"
        shown = taken[stream.order].reshape(clips_per_stream, 4)
        clips = range(7)[stream.clips]
        assert shown[: len(clips)].tolist() == expected[stream.clips].tolist()
        for frame, owner in zip(taken, stream.owner, strict=True):
            assert frame in (-1, *expected[clips[owner]])
        assert len(set(zip(stream.owner.tolist(), taken.tolist(), strict=True))) == len(taken)


def test_blank_clips_need_no_packets() -> None:
    located = clip_packets(np.array([[3, 4], [5, 6]]), gop_size=4, blank=np.array([True, False]))
    assert located.count.tolist() == [0, 3]
    assert located.packets.tolist() == [4, 5, 6]
    assert located.order.tolist() == [[0, 0], [1, 2]]
