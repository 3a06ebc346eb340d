"""Packets of many clips in one MP4: every reader of videos finds the same frames there."""

import io

import av
import numpy as np
import pytest
from nvidia.dali import Pipeline, fn

from pipeline.h264.splice import Splicer
from pipeline.picture_reader import PictureReader
from pipeline.reference import decode_sample
from pipeline.shard import ShardIndex

# (length of the segment, first packet, packets): a whole GOP and more, a keyframe alone, twice the same keyframe
PIECES = [(64, 0, 13), (40, 8, 3), (1, 0, 1), (17, 16, 1), (17, 16, 1), (120, 104, 16), (505, 496, 9)]


def splicer(index: ShardIndex) -> Splicer:
    height, width = index.tile_size
    return Splicer(bytes.fromhex(index.info["codec"]["avcc"]), height=height, width=width)


def spliced(index: ShardIndex) -> tuple[np.ndarray, np.ndarray]:
    """The MP4 of those pieces, and the frames it should hold: uint8 [M, H, W, 3]."""
    rows, frames = [], []
    for length, first, count in PIECES:
        sample = int(np.flatnonzero(index.num_frames == length)[0])
        rows += [int(index.pictures.first[sample]) + first + i for i in range(count)]
        frames.append(decode_sample(index, sample)[first : first + count])
    packets = PictureReader(index).read(np.array(rows))
    return splicer(index).splice(packets), np.concatenate(frames)


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


def test_ffmpeg_has_nothing_to_warn_of(numbered_h264: ShardIndex) -> None:
    video, frames = spliced(numbered_h264)
    with av.logging.Capture() as messages:
        av.logging.set_level(av.logging.WARNING)
        try:
            with av.open(io.BytesIO(video.tobytes()), "r", format="mp4") as container:
                assert sum(1 for _ in container.decode(video=0)) == len(frames)
        finally:
            av.logging.set_level(None)
    assert messages == []


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


def test_a_stream_that_does_not_begin_with_a_keyframe_is_refused(numbered_h264: ShardIndex) -> None:
    with pytest.raises(ValueError, match="the first is not a keyframe; begin at one"):
        splicer(numbered_h264).splice([np.array([0, 0, 0, 1, 1], np.uint8)])
