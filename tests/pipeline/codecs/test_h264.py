"""A segment in H.264: its frames in their places, for every player, always the same bytes; which of its packets clips
need; and every kind of damage to it is found and named."""

import io
import itertools
import re
import shutil
import subprocess
import weakref
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from res3d_video.pipeline.clip import ClipSpec, frame_indices, num_starts
from res3d_video.pipeline.codecs import ClipFrames, EncodedSegment, Planes
from res3d_video.pipeline.codecs.avc import IDR, NON_IDR, packet_fault
from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.errors import UserError, VideoFailure
from res3d_video.pipeline.index import ShardError, ShardIndex
from res3d_video.pipeline.ingest.transcode import ffmpeg_exe
from res3d_video.pipeline.schema import CRC32, OFFSET, SIZE
from res3d_video.pipeline.verify import verify
from res3d_video.tools.numbered import number_of, numbered_frame, read_bits
from tests.conftest import build_numbered
from tests.pipeline.test_verify import edit_array, edit_json, fix_sha256, overwrite, put

CODEC = H264Codec.new(height=128, width=176)
TAR = "numbered-000001.tar"


def numbered_planes(num_frames: int, *, first: int = 0) -> Planes:
    """Numbered frames as a reader gives them: 171×128, grey."""
    y = np.stack([numbered_frame(first + i, height=128, width=171)[..., 0] for i in range(num_frames)])
    chroma = np.full((num_frames, 64, 86), 128, np.uint8)
    return Planes(y, chroma, chroma)


def segment(*blocks: Planes, codec: H264Codec = CODEC, fps: float = 25) -> EncodedSegment:
    return codec.encode(blocks, top=0, left=0, fps=fps)


def encode(num_frames: int, *, fps: float = 25) -> bytes:
    return segment(numbered_planes(num_frames), fps=fps).files["mp4"]


def faults(made: EncodedSegment, codec: H264Codec) -> list[str]:
    files = {name: (0, content) for name, content in made.files.items()}
    return list(codec.segment_faults(files, np.array([frame[1:] for frame in made.frames], np.uint32), decode=True))


def numbers_of(mp4: bytes) -> list[int]:
    with av.open(io.BytesIO(mp4)) as video:
        return numbers(np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]))


def numbers(frames: np.ndarray) -> list[int]:
    return [number_of(read_bits(frame, grey=128)) for frame in frames]


@pytest.mark.parametrize("gop_size", [2, 8, 16])
def test_every_length_of_video_shows_its_frames_with_keyframes_where_a_gop_begins(gop_size: int) -> None:
    codec = H264Codec.new(height=128, width=176, gop_size=gop_size)
    for num_frames in (1, 2, 15, 16, 17, 70):
        made = segment(numbered_planes(num_frames), codec=codec)
        mp4 = made.files["mp4"]
        assert faults(made, codec) == []
        assert numbers_of(mp4) == list(range(num_frames))
        assert [mp4[frame.offset + 4] & 31 for frame in made.frames] == [
            1 if i % gop_size else 5 for i in range(num_frames)
        ]


def test_the_same_frames_give_the_same_bytes_without_a_date_or_version() -> None:
    whole = segment(numbered_planes(37))
    blocks = [numbered_planes(n, first=i) for i, n in ((0, 16), (16, 16), (32, 5))]
    assert segment(*blocks) == whole == segment(numbered_planes(37))
    mp4 = whole.files["mp4"]
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

    assert len(CODEC.encode(blocks(), top=0, left=0).frames) == 80


RATES = [(25, 25), (30000 / 1001, Fraction(30000, 1001)), (0, 25), (1e6, 25), (1000, 1000)]


@pytest.mark.parametrize(("fps", "rate"), RATES)
def test_the_file_has_the_source_s_rate_to_the_last_digit(fps: float, rate: Fraction) -> None:
    with av.open(io.BytesIO(encode(25, fps=fps))) as video:
        times = [frame.pts * frame.time_base for frame in video.decode(video.streams.video[0])]
        assert video.streams.video[0].average_rate == rate
    assert times == [i / Fraction(rate) for i in range(25)]


def test_other_players_show_every_frame_without_a_word(tmp_path: Path) -> None:
    for num_frames in (1, 2, 16, 50):
        path = tmp_path / f"{num_frames}.mp4"
        path.write_bytes(encode(num_frames, fps=30000 / 1001))
        command = [ffmpeg_exe(), "-v", "warning", "-xerror", "-i", path, "-f", "rawvideo", "-pix_fmt", "gray", "-"]
        done = subprocess.run(command, capture_output=True, check=True)
        assert (done.stderr, len(done.stdout)) == (b"", num_frames * 176 * 128)
    decoders = pytest.importorskip("torchcodec.decoders", reason="torchcodec is not installed or finds no ffmpeg")
    decoder = decoders.VideoDecoder(encode(50))
    assert (len(decoder), decoder.metadata.average_fps) == (50, 25)
    assert numbers(decoder.get_frames_at([49, 7, 8]).data.permute(0, 2, 3, 1).numpy()) == [49, 7, 8]


def test_a_codec_is_what_its_description_says_and_refuses_other_parameter_sets() -> None:
    for options in ({"height": 16, "width": 48}, {"height": 256, "width": 352, "gop_size": 2, "crf": 40}):
        codec = H264Codec.new(**options)
        assert H264Codec.of(codec.describe()) == codec
    with pytest.raises(VideoFailure, match="cannot be joined") as failure:
        segment(numbered_planes(3), codec=H264Codec(128, 176, 8, 20, b"another", b""))
    assert failure.value.stage == "encode"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"width": 32}, "frames of 32×128 cannot be H.264"),
        ({"width": 170}, "frames of 170×128 cannot be H.264"),
        ({"height": 4112}, "frames of 176×4112 cannot be H.264"),
    ],
)
def test_what_cannot_be_encoded_is_refused(wrong: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        H264Codec.new(**({"width": 176, "height": 128} | wrong))


def decoded(packets: np.ndarray, *, gop_size: int) -> list[int]:
    """What a decoder makes of packets: each frame, if all of its GOP before it have just been decoded."""
    for before, packet in zip([-1, *packets[:-1]], packets, strict=True):
        assert packet % gop_size == 0 or packet == before + 1, "a packet depends on one that is not there"
    return packets.tolist()


def locate(frames: np.ndarray, *, gop_size: int) -> ClipFrames:
    return H264Codec(128, 176, gop_size, 20, b"", b"").locate(frames, blank=np.zeros(len(frames), bool))


@pytest.mark.parametrize("gop_size", [2, 4, 8, 16])
def test_every_clip_decodes_to_its_frames_from_no_more_packets_than_they_depend_on(gop_size: int) -> None:
    shapes = itertools.product((1, 2, 4, 8), (1, 2, 3, 4, 8, 16, 32), (1, 2, 5, 16, 17, 40))
    for num_frames, frame_stride, length in shapes:
        spec = ClipSpec(num_frames, frame_stride)
        starts = np.arange(int(num_starts(spec, video_frames=length)))
        frames = frame_indices(starts, spec, video_frames=np.full(len(starts), length))
        located = locate(frames, gop_size=gop_size)
        own = np.split(located.rows, np.cumsum(located.count)[:-1])
        for wanted, order, packets in zip(frames, located.order, own, strict=True):
            shown = decoded(packets, gop_size=gop_size)
            assert [shown[place] for place in order] == wanted.tolist()
            assert set(shown) == {p for frame in wanted for p in range(frame - frame % gop_size, frame + 1)}
        assert located.count.sum() == len(located.rows)


@pytest.fixture
def copy(numbered_h264: ShardIndex, tmp_path: Path) -> Path:
    return Path(shutil.copytree(numbered_h264.data_dir, tmp_path / "data"))


def long_sample(index: ShardIndex) -> int:
    """One of the second tar that has many packets."""
    return int(max(np.flatnonzero(index.tar == 1), key=lambda s: index.num_frames[s]))


def packet(index: ShardIndex, number: int) -> int:
    """Row of a packet of that sample."""
    return int(index.first_frame[long_sample(index)]) + number


def place(index: ShardIndex, number: int) -> int:
    """Where that packet begins in its tar."""
    return int(index.offset[long_sample(index)]) + int(index.frames[packet(index, number), OFFSET])


def exchange(index: ShardIndex, folder: Path, number: int, at: int, content: bytes) -> None:
    """Other bytes in a packet, with checksums that are right."""
    overwrite(folder / TAR, place(index, number) + at, content)
    row = packet(index, number)
    begin, size = place(index, number), int(index.frames[row, SIZE])
    crc32 = zlib.crc32((folder / TAR).read_bytes()[begin : begin + size])
    edit_array(folder, "frames", put((row, CRC32), crc32))
    fix_sha256(folder, TAR)


def codec(name: str, change: Callable[[str], object]) -> Callable[[Path, ShardIndex], None]:
    """Change one entry of dataset.json's codec."""
    return lambda d, i: edit_json(d, lambda info: info["codec"].update({name: change(info["codec"][name])}))


FORM = "packet 9 is not one slice of a whole picture"
DAMAGE: dict[str, tuple[Callable[[Path, ShardIndex], None], str]] = {
    "flipped bytes": (lambda d, i: overwrite(d / TAR, place(i, 9) + 6, b"\xff\xfe"), r"\d+: packet 9 fails its crc32$"),
    "a wrong NAL type": (lambda d, i: exchange(i, d, 9, 4, b"\x06"), FORM),
    "a wrong NAL length": (lambda d, i: exchange(i, d, 9, 0, b"\0\0\0\1"), FORM),
    "a cut tar": (
        lambda d, i: (d / TAR).write_bytes((d / TAR).read_bytes()[: place(i, 3)]),
        r"packet 3 fails its crc32 \(and \d+ more\)",
    ),
    "a wrong row": (lambda d, i: edit_array(d, "frames", put((packet(i, 5), SIZE), 7)), "packets are not those of the"),
    "another avcC": (codec("avcc", lambda avcc: avcc.replace("0164000b", "0164000c", 1)), "avcC is not the one in"),
    "another GOP": (codec("gop_size", lambda size: 4), "packet 4 is not one IDR slice"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(numbered_h264: ShardIndex, copy: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    damage(copy, numbered_h264)
    _, found = verify(copy)
    assert any(re.search(said, fault) for fault in found), found
    assert all("\n" not in fault for fault in found)


def other_avcc(avcc: str) -> str:
    """Of interlaced frames, coded in another size than the tiles."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "interlaced=1"})
        stream.width, stream.height, stream.pix_fmt = 176, 112, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(176, 112, "yuv420p")))
        container.mux(stream.encode())
    with av.open(io.BytesIO(buffer.getvalue())) as video:
        return (video.streams.video[0].codec_context.extradata or b"").hex()


def test_packets_are_one_slice_of_type_i_or_outside_keyframes_p() -> None:
    """first_mb_in_slice 0, then slice_type: P, B, I, and the same for the whole picture."""
    of_type = {0: 0b1_1000000, 1: 0b1_010_0000, 2: 0b1_011_0000, 5: 0b1_00110_00, 6: 0b1_00111_00, 7: 0b1_0001000}
    for kind, good in ((IDR, {2, 7}), (NON_IDR, {0, 2, 5, 7})):
        faults = {
            slice_type: packet_fault(memoryview(b"\0\0\0\4" + bytes([0x60 | kind, first, 9, 9])), kind)
            for slice_type, first in of_type.items()
        }
        assert {slice_type for slice_type, fault in faults.items() if fault is None} == good


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("avcc", lambda avcc: "xyz", "codec.avcc: expected `str` matching"),
        ("avcc", lambda avcc: "01", "codec.avcc: does not hold an SPS and a PPS"),
        ("avcc", lambda avcc: avcc[:-20], "codec.avcc: does not hold an SPS and a PPS"),
        ("avcc", lambda avcc: avcc[:8] + "fd" + avcc[10:], "codec.avcc: holds more than one SPS and one PPS, or NAL"),
        ("avcc", lambda avcc: avcc[:10] + "e2" + avcc[12:], "codec.avcc: holds more than one SPS and one PPS"),
        ("avcc", other_avcc, r"codec.avcc: is of \('Baseline', 'yuv420p'|codec.blank: packet 0 does not decode"),
        ("tile_height", lambda height: 144, "codec.blank: packet 0 does not decode .not one frame of 176×144"),
        ("blank", lambda blank: blank[:-2], "codec.blank: is not one IDR slice of a whole picture"),
        ("blank", lambda blank: blank[:-8] + "0" * 8, "codec.blank: packet 0 does not decode"),
        ("gop_size", lambda size: 1, "codec.gop_size: expected `int` >= 2"),
        ("tile_width", str, "codec.tile_width: expected `int`, got `str`"),
    ],
)
def test_a_codec_that_makes_no_sense_is_refused_in_one_line(
    copy: Path, name: str, change: Callable[[object], object], said: str
) -> None:
    edit_json(copy, lambda info: info["codec"].update({name: change(info["codec"][name])}))
    with pytest.raises(ShardError, match=f"dataset.json: {said}.*; build the shards again") as error:
        verify(copy)
    assert "\n" not in str(error.value)


def test_a_packet_that_does_not_decode_is_found_only_by_decoding(numbered_h264: ShardIndex, copy: Path) -> None:
    size = int(numbered_h264.frames[packet(numbered_h264, 8), SIZE])
    exchange(numbered_h264, copy, 8, 6, bytes([255]) * (size - 6))
    assert verify(copy)[1] == []
    (fault,) = verify(copy, decode=True)[1]
    assert re.match(rf"{TAR}: {numbered_h264.key(long_sample(numbered_h264))}: packet 8 does not decode \(.+\)$", fault)


def test_a_tar_of_other_settings_is_found(numbered_raw: Path, numbered_h264: ShardIndex, tmp_path: Path) -> None:
    """As when files of two builds are mixed, with everything but dataset.json's avcC made to fit."""
    other = build_numbered(numbered_raw, tmp_path, samples_per_shard=4, codec="h264", crf=30)
    said = {name: numbered_h264.info["codec"][name] for name in ("avcc", "blank")}
    edit_json(tmp_path, lambda info: info["codec"].update(said))
    _, found = verify(tmp_path)
    assert len(found) == other.num_samples
    assert all("its avcC is not the one in dataset.json" in fault for fault in found)
