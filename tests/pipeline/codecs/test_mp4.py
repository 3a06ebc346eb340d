"""Packets of many clips in one MP4: clips find their own frames there, and so does every reader of videos."""

import io

import av
import numpy as np
import pytest
from nvidia.dali import Pipeline, fn

from res3d_video.pipeline.clip import ClipSpec, frame_indices
from res3d_video.pipeline.codecs import ClipFrames
from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.codecs.mp4 import Splicer, join
from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.reader import FrameFiles

# (length of the segment, first packet, packets): a whole GOP and more, a keyframe alone, twice the same keyframe
PIECES = [(64, 0, 13), (40, 8, 3), (1, 0, 1), (17, 16, 1), (17, 16, 1), (120, 104, 16), (505, 496, 9)]


def splicer(index: ShardIndex) -> Splicer:
    height, width = index.tile_size
    return Splicer(bytes.fromhex(index.info["codec"]["avcc"]), height=height, width=width)


def spliced(index: ShardIndex) -> tuple[np.ndarray, np.ndarray]:
    """The MP4 of those pieces, and the frames it should hold: uint8 [M, H, W, 3]."""
    samples = np.array([np.flatnonzero(index.num_frames == length)[0] for length, *_ in PIECES])
    numbers = [first + np.arange(count) for _, first, count in PIECES]
    count = np.array([count for *_, count in PIECES])
    located = ClipFrames(np.concatenate(numbers), count, np.zeros((len(PIECES), 1), int))
    packets, faults = FrameFiles(index).read(samples, located)
    assert not faults
    frames = [decode_frames(index, int(sample))[own] for sample, own in zip(samples, numbers, strict=True)]
    return splicer(index).splice([packet for own in packets for packet in own]), np.concatenate(frames)


def test_pyav_reads_every_frame_with_its_time_and_its_keyframes(numbered_h264: ShardIndex) -> None:
    video, frames = spliced(numbered_h264)
    with av.open(io.BytesIO(video.tobytes()), "r", format="mp4") as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.codec_context.name, stream.profile) == (len(frames), "h264", "High")
        assert (stream.height, stream.width) == numbered_h264.tile_size
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert [packet.pts for packet in packets] == list(range(len(frames)))
        keys = [first + i for length, first, count in PIECES for i in range(count)]
        assert [packet.is_keyframe for packet in packets] == [key % 8 == 0 for key in keys]
    with av.open(io.BytesIO(video.tobytes()), "r", format="mp4") as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.array_equal(np.stack(shown), frames)


def test_torchcodec_counts_and_seeks_to_the_same_frames(numbered_h264: ShardIndex) -> None:
    decoders = pytest.importorskip("torchcodec.decoders", reason="torchcodec is not installed", exc_type=Exception)
    video, frames = spliced(numbered_h264)
    decoder = decoders.VideoDecoder(video.tobytes(), dimension_order="NHWC")
    assert decoder.metadata.num_frames == len(frames)
    order = np.random.default_rng(0).permutation(len(frames))
    for place in order[:20].tolist():
        assert np.abs(decoder[place].numpy().astype(int) - frames[place]).mean() < 2


def test_dali_opens_it_and_misses_nothing_but_its_decoder(
    numbered_h264: ShardIndex, capfd: pytest.CaptureFixture[str]
) -> None:
    """On a CPU DALI's demuxer is all that can be tried; it finds the stream and names the codec that it lacks."""
    video, _ = spliced(numbered_h264)
    pipe = Pipeline(1, 1, None)
    with pipe:
        stream = fn.external_source(lambda: [video], batch=True)
        pipe.set_outputs(fn.decoders.video(stream, device="cpu", frames=[0, 1]))
    pipe.build()
    with pytest.raises(RuntimeError, match="Failed to create video decoder"):
        pipe.run()
    assert "Codec 27 (h264) is not supported by the CPU variant" in capfd.readouterr().err


@pytest.mark.parametrize("clips_per_stream", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("blanks", [(), (0,), (6,), (2, 3), tuple(range(7))], ids=str)
def test_joined_clips_find_their_own_frames(clips_per_stream: int, blanks: tuple[int, ...]) -> None:
    """Segments are told apart by a thousand; a blank clip is the one packet -1."""
    spec = ClipSpec(4, 3)
    lengths = np.array([40, 1, 5, 40, 17, 2, 40])
    frames = frame_indices(np.array([29, 0, 1, 0, 7, 1, 13]), spec, video_frames=lengths)
    blank = np.isin(np.arange(7), blanks)
    located = H264Codec(128, 176, 8, 20, b"", b"").locate(frames, blank=blank)
    packets = np.split(located.rows, np.cumsum(located.count)[:-1])
    named = [own + 1000 * clip if len(own) else np.array([-1]) for clip, own in enumerate(packets)]
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
