"""A segment in H.264: its frames in their places, by one policy, for every player, always the same bytes; and which of
its packets clips need."""

import io
import itertools
import re
import subprocess
import weakref
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from res3d_video.pipeline.clip import ClipSpec, frame_indices, num_starts
from res3d_video.pipeline.codecs.avc import parse_avcc, parse_sps
from res3d_video.pipeline.codecs.h264 import EncodePolicy, H264Codec, decoder_configuration, exact_rate
from res3d_video.pipeline.codecs.h264_policy import blank_faults, policy_faults
from res3d_video.pipeline.codecs.segment import ClipFrames, EncodedSegment, Planes
from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.samples import transcode
from res3d_video.pipeline.errors import UserError, VideoFailure
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.ingest.inspector import Inspector
from res3d_video.pipeline.ingest.limits import Guard
from res3d_video.pipeline.ingest.probe import probe
from res3d_video.pipeline.ingest.transcode import centred, ffmpeg_exe, fitted, stretched
from res3d_video.pipeline.schema import CRC32, OFFSET, SIZE
from res3d_video.tools.numbered import number_of, numbered_frame, read_bits, write_numbered_video

SHARDS_README = Path(__file__).resolve().parents[3] / "shards/README.md"
POLICY = EncodePolicy(176, 128)


def numbered_planes(num_frames: int, *, first: int = 0) -> Planes:
    """Numbered frames as a reader gives them: 171×128, grey."""
    y = np.stack([numbered_frame(first + i, height=128, width=171)[..., 0] for i in range(num_frames)])
    chroma = np.full((num_frames, 64, 86), 128, np.uint8)
    return Planes(y, chroma, chroma)


def segment(*blocks: Planes, policy: EncodePolicy = POLICY, fps: float = 25) -> EncodedSegment:
    return H264Codec.new(policy).encode(blocks, top=0, left=0, fps=fps)


def encode(num_frames: int, *, fps: float = 25) -> bytes:
    return segment(numbered_planes(num_frames), fps=fps).files["mp4"]


def decode(mp4: bytes) -> np.ndarray:
    """All frames, uint8 RGB FHWC."""
    with av.open(io.BytesIO(mp4)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def numbers(frames: np.ndarray) -> list[int]:
    return [number_of(read_bits(frame, grey=128)) for frame in frames]


@pytest.mark.parametrize("gop_size", [2, 4, 8, 16])
def test_every_length_of_video_keeps_to_the_policy_and_shows_its_frames(gop_size: int) -> None:
    policy = EncodePolicy(176, 128, gop_size=gop_size)
    for num_frames in (1, 2, 15, 16, 17, 33, 70):
        made = segment(numbered_planes(num_frames), policy=policy)
        mp4 = made.files["mp4"]
        assert list(policy_faults(mp4, policy, num_frames=num_frames)) == []
        assert numbers(decode(mp4)) == list(range(num_frames))
        types = [mp4[frame.offset + 4] & 31 for frame in made.frames]
        assert types == [1 if i % gop_size else 5 for i in range(num_frames)], "IDR slices are where a GOP begins"


def test_a_packet_lies_where_it_is_said_to_lie(numbered_h264: ShardIndex) -> None:
    """Cut out of the tar by the index alone, and decoded with what dataset.json says of the codec."""
    index, sample = numbered_h264, int(np.flatnonzero(numbered_h264.num_frames == 64)[0])
    tar = (index.data_dir / index.tars[index.tar[sample]]).read_bytes()
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata, decoder.thread_count = bytes.fromhex(index.info["codec"]["avcc"]), 1
    decoder.flags |= av.codec.context.Flags.low_delay
    shown = []
    for row in index.frames[index.first_frame[sample] + np.arange(16, 30)]:  # from a keyframe in the middle
        begin = int(index.offset[sample]) + int(row[OFFSET])
        packet = tar[begin : begin + int(row[SIZE])]
        assert zlib.crc32(packet) == row[CRC32]
        shown += [frame.to_ndarray(format="rgb24") for frame in decoder.decode(av.Packet(packet))]
    assert numbers(np.stack(shown)) == list(range(16, 30))


def test_the_same_frames_give_the_same_bytes_however_they_are_cut_in_blocks() -> None:
    whole = segment(numbered_planes(37))
    blocks = [numbered_planes(n, first=i) for i, n in ((0, 16), (16, 16), (32, 5))]
    assert segment(*blocks) == whole == segment(numbered_planes(37))


def test_a_file_tells_neither_when_nor_by_which_version_it_was_made() -> None:
    mp4 = encode(3)
    assert not re.search(rb"Lav[cf]\d|x264", mp4)
    movie = mp4.index(b"mvhd") + 8
    assert mp4[movie : movie + 8] == bytes(8), "creation and modification time"


def test_a_long_video_is_not_held_in_memory() -> None:
    alive: list[weakref.ref] = []

    def blocks() -> Iterator[Planes]:
        for i in range(20):
            block = numbered_planes(4, first=4 * i)
            alive.append(weakref.ref(block.y))
            assert sum(array() is not None for array in alive) <= 2, "this block and the one in work"
            yield block

    assert len(H264Codec.new(POLICY).encode(blocks(), top=0, left=0).frames) == 80


SOURCES = {
    "pal.mp4": {"fps": 25},
    "ntsc.mp4": {"fps": 30000 / 1001, "width": 641, "height": 479, "pix_fmt": "yuv444p"},
    "film.avi": {"fps": 24, "vcodec": "mpeg4", "width": 160, "height": 120},
    "high.mkv": {"fps": 120, "color_range": "pc"},
}


def test_sources_of_every_rate_and_size_share_their_parameter_sets(tmp_path: Path) -> None:
    settings, found = BuildSettings(codec="h264"), set()
    for name, options in SOURCES.items():
        write_numbered_video(tmp_path / name, 20, **options)
        with Inspector() as inspector:
            given = {"facts": probe(tmp_path / name), "inspector": inspector, "guard": Guard()}
            made, meta = transcode(tmp_path / name, stretched(128), settings, **given)
        with av.open(io.BytesIO(made.files["mp4"])) as video:
            found.add(video.streams.video[0].codec_context.extradata)
            assert float(video.streams.video[0].average_rate) == pytest.approx(options["fps"], rel=1e-6)
            assert meta["fps"] == pytest.approx(options["fps"], rel=1e-4)
        assert numbers(decode(made.files["mp4"])) == list(range(20))
    assert found == {decoder_configuration(POLICY)[0]}


RATES = [(25, 25), (12.5, Fraction(25, 2)), (30000 / 1001, Fraction(30000, 1001)), (0, 25), (1e6, 25), (1000, 1000)]


@pytest.mark.parametrize(("fps", "rate"), RATES)
@pytest.mark.parametrize("num_frames", [1, 2, 25])
def test_the_file_has_the_source_s_rate_to_the_last_digit(fps: float, rate: Fraction, num_frames: int) -> None:
    with av.open(io.BytesIO(encode(num_frames, fps=fps))) as video:
        stream = video.streams.video[0]
        assert (stream.frames, stream.average_rate) == (num_frames, rate)
        assert stream.duration * stream.time_base == num_frames / Fraction(rate)
        times = [frame.pts * frame.time_base for frame in video.decode(stream)]
    assert times == [i / Fraction(rate) for i in range(num_frames)]


def test_a_source_s_rate_is_read_as_a_fraction() -> None:
    for rate in (Fraction(2160, 77), Fraction(24000, 1001), Fraction(15), Fraction(1, 3), Fraction(119881, 4000)):
        assert exact_rate(float(rate)) == rate
    assert exact_rate(float("nan")) == exact_rate(1e-9) == 25


def test_ffmpeg_decodes_the_file_without_a_word(tmp_path: Path) -> None:
    for i, num_frames in enumerate((1, 2, 16, 50)):
        path = tmp_path / f"{i}.mp4"
        path.write_bytes(encode(num_frames, fps=30000 / 1001))
        command = [ffmpeg_exe(), "-v", "warning", "-xerror", "-i", path, "-f", "rawvideo", "-pix_fmt", "gray", "-"]
        done = subprocess.run(command, capture_output=True, check=True)
        assert done.stderr == b""
        assert len(done.stdout) == num_frames * 176 * 128


def test_torchcodec_counts_and_shows_every_frame() -> None:
    decoders = pytest.importorskip("torchcodec.decoders", reason="torchcodec is not installed or finds no ffmpeg")
    decoder = decoders.VideoDecoder(encode(50))
    assert (len(decoder), decoder.metadata.average_fps) == (50, 25)
    assert numbers(decoder.get_frames_at([49, 7, 8]).data.permute(0, 2, 3, 1).numpy()) == [49, 7, 8]


def test_the_readme_s_ways_to_read_a_shard_work(numbered_h264: ShardIndex) -> None:
    pytest.importorskip("torchcodec.decoders", reason="torchcodec is not installed or finds no ffmpeg")
    blocks = [b for b in re.findall(r"```python\n(.*?)```", SHARDS_README.read_text(), re.DOTALL) if "-h264/" in b]
    assert len(blocks) == 2
    tar, sample = numbered_h264.tars[0], int(np.flatnonzero(numbered_h264.tar == 0)[-1])
    for block in blocks:
        names: dict = {}
        exec(block.replace("shards/ucf101-h264/ucf101-000000.tar", str(numbered_h264.data_dir / tar)), names)
        assert names["label"] == numbered_h264.labels[sample]
        shown = names["frames"] if "frames" in names else names["clip"].permute(0, 2, 3, 1).numpy()
        step = 1 if "frames" in names else 2
        expected = list(range(0, int(numbered_h264.num_frames[sample]), step))
        assert numbers(shown) == (expected if step == 1 else expected[:8])


def test_tiles_repeat_the_picture_s_edge_around_it() -> None:
    geometry = centred(fitted(240, 320, 64), (128, 128))
    picture = np.tile(np.linspace(40, 200, 64).astype(np.uint8), (86, 1))  # brighter to the right
    chroma = np.full((1, 43, 32), 128, np.uint8)
    policy = EncodePolicy(128, 128, crf=5)
    planes = Planes(picture[None], chroma, chroma)
    made = H264Codec.new(policy).encode([planes], top=geometry.top, left=geometry.left)
    with av.open(io.BytesIO(made.files["mp4"])) as video:
        plane = next(video.decode(video=0)).planes[0]
        shown = np.frombuffer(plane, np.uint8).reshape(128, -1)[:, :128].astype(int)
    assert np.abs(shown[:, : geometry.left] - 40).max() <= 4
    assert np.abs(shown[:, geometry.left + 64 :] - 200).max() <= 4
    assert np.abs(shown[:, geometry.left : geometry.left + 64] - picture[0]).max() <= 6


def test_what_all_segments_share_is_itself_in_order() -> None:
    for policy in (EncodePolicy(48, 16), POLICY, EncodePolicy(352, 256, gop_size=2, crf=40)):
        codec = H264Codec.new(policy)
        assert list(blank_faults(codec.blank, codec.policy, avcc=codec.avcc)) == []
        sps = parse_sps(parse_avcc(codec.avcc).sps[0])
        assert (sps.width, sps.height, sps.max_num_ref_frames) == (policy.width, policy.height, 2)
        assert H264Codec.of(codec.describe()) == codec


def test_a_segment_with_parameter_sets_of_its_own_is_refused() -> None:
    codec = H264Codec(POLICY, b"another", b"")
    with pytest.raises(VideoFailure, match="cannot be joined") as failure:
        codec.encode([numbered_planes(3)], top=0, left=0)
    assert failure.value.stage == "encode"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"width": 32}, "frames of 32×128 cannot be H.264"),
        ({"width": 170}, "frames of 170×128 cannot be H.264"),
        ({"height": 4112}, "frames of 176×4112 cannot be H.264"),
        ({"gop_size": 1}, "gop_size: 1"),
        ({"crf": 0}, "crf: 0"),
        ({"crf": 52}, "crf: 52"),
    ],
)
def test_an_impossible_policy_is_refused(wrong: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        EncodePolicy(**({"width": 176, "height": 128} | wrong))


SPECS = [ClipSpec(t, stride) for t, stride in itertools.product((1, 2, 4, 8), (1, 2, 3, 4, 8, 16, 32))]


def decoded(packets: np.ndarray, *, gop_size: int) -> list[int]:
    """What a decoder makes of packets: each frame, if all of its GOP before it have just been decoded."""
    for before, packet in zip([-1, *packets[:-1]], packets, strict=True):
        assert packet % gop_size == 0 or packet == before + 1, "a packet hangs on one that is not there"
    return packets.tolist()


def locate(frames: np.ndarray, *, gop_size: int) -> ClipFrames:
    codec = H264Codec(EncodePolicy(176, 128, gop_size=gop_size), b"", b"")
    return codec.locate(frames, blank=np.zeros(len(frames), bool))


@pytest.mark.parametrize("gop_size", [2, 4, 8, 16])
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.num_frames}x{s.frame_stride}")
def test_every_clip_decodes_to_its_frames_from_no_more_packets_than_they_hang_on(spec: ClipSpec, gop_size: int) -> None:
    for length in (1, 2, 5, 16, 17, 40):
        starts = np.arange(int(num_starts(spec, video_frames=length)))
        frames = frame_indices(starts, spec, video_frames=np.full(len(starts), length))
        located = locate(frames, gop_size=gop_size)
        own = np.split(located.rows, np.cumsum(located.count)[:-1])
        for wanted, order, packets in zip(frames, located.order, own, strict=True):
            shown = decoded(packets, gop_size=gop_size)
            assert [shown[place] for place in order] == wanted.tolist()
            needed = {p for frame in wanted for p in range(frame - frame % gop_size, frame + 1)}
            assert set(shown) == needed
        assert located.count.sum() == len(located.rows)


def test_a_clip_that_begins_at_keyframes_decodes_nothing_in_vain_at_stride_one() -> None:
    starts = np.arange(0, 40, 8)
    frames = frame_indices(starts, ClipSpec(8, 1), video_frames=np.full(5, 64))
    assert locate(frames, gop_size=8).count.tolist() == [8] * 5


def test_blank_clips_need_no_packets() -> None:
    codec = H264Codec(EncodePolicy(176, 128, gop_size=4), b"", b"")
    located = codec.locate(np.array([[3, 4], [5, 6]]), blank=np.array([True, False]))
    assert located.count.tolist() == [0, 3]
    assert located.rows.tolist() == [4, 5, 6]
    assert located.order.tolist() == [[0, 0], [1, 2]]
