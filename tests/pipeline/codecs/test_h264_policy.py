"""Every way to break the policy of H.264 shards, and every kind of damage to them, is found and named."""

import hashlib
import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from res3d_video.pipeline.codecs.h264 import EncodePolicy, H264Codec, decoder_configuration, read_packets
from res3d_video.pipeline.codecs.h264_policy import avcc_faults, blank_faults, decode_faults, policy_faults
from res3d_video.pipeline.codecs.segment import Planes
from res3d_video.pipeline.index import ShardError, ShardIndex
from res3d_video.pipeline.ingest.transcode import ffmpeg_exe
from res3d_video.pipeline.schema import CRC32, OFFSET, SIZE
from res3d_video.pipeline.shard_writer import dali_index, tar_components
from res3d_video.pipeline.verify import verify
from res3d_video.tools import check_shards
from res3d_video.tools.numbered import write_video
from tests.conftest import build_numbered
from tests.pipeline.test_verify import edit_array, edit_json, overwrite, put

WIDTH, HEIGHT = 96, 64
POLICY = EncodePolicy(WIDTH, HEIGHT)
KEPT = "keyint=8:min-keyint=8:scenecut=0:open-gop=0:bframes=0:ref=2:colorprim=smpte170m:transfer=smpte170m"
KEPT += ":colormatrix=smpte170m:range=tv"
TAR = "numbered-000001.tar"


@dataclass(frozen=True)
class Broken(EncodePolicy):
    """The policy but for some of x264's parameters."""

    more: str = ""

    @property
    def x264_params(self) -> str:
        return f"{super().x264_params}:{self.more}"


def picture(number: int) -> np.ndarray:
    """Something that moves, and another scene from frame 13 on: uint8 [height, width]."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    wave = np.sin((x + 2 * number) / 5) if number < 13 else np.cos((y * x + 3 * number) / 40)
    return (128 + 90 * wave).astype(np.uint8)


def segment(policy: EncodePolicy, *, num_frames: int = 20) -> bytes:
    y = np.stack([picture(i) for i in range(num_frames)])
    chroma = np.full((num_frames, HEIGHT // 2, WIDTH // 2), 128, np.uint8)
    return H264Codec.new(policy).encode([Planes(y, chroma, chroma)], top=0, left=0).files["mp4"]


def by_ffmpeg(folder: Path, **options: object) -> bytes:
    """The same pictures as any program would store them; faststart, a GOP of 8 and two references."""
    frames = np.stack([np.repeat(picture(i)[..., None], 3, axis=2) for i in range(20)])
    if "crop" in options:
        frames = frames[:, : -int(str(options.pop("crop")))]
    told = {"vcodec": "libx264", "preset": "veryfast", "pix_fmt": "yuv420p", "movflags": "+faststart"}
    told |= {"x264-params": KEPT} if options.get("vcodec") is None else {}
    write_video(folder / "a.mp4", frames, **(told | options))
    return (folder / "a.mp4").read_bytes()


ENCODED = {
    "B-frames": ("bframes=2:b-adapt=0", r"packet \d+ is not shown when it is decoded \(and \d+ more\)"),
    "B-slices": ("bframes=2:b-adapt=0", r"packet \d+ is a B-frame"),
    "reordering": ("bframes=2:b-adapt=0", "SPS: pic_order_cnt_type is 0, not 2"),
    "open GOPs": ("bframes=2:open-gop=1", "packet 8 holds slice, not one IDR slice|packet 8 is no keyframe"),
    "scene cuts": ("scenecut=40:min-keyint=1", r"packet \d+ is a keyframe, with GOPs of 8"),
    "no more keyframes": ("keyint=infinite", r"packet 8 is no keyframe, with GOPs of 8 \(and 1 more\)"),
    "one reference": ("ref=1", "SPS: max_num_ref_frames is 1, less than 2"),
    "keyframes only": ("keyint=1:min-keyint=1", r"SPS: max_num_ref_frames is 0, less than 2"),
    "two slices": ("slices=2", r"packet 0 holds IDR slice, IDR slice, not one IDR slice"),
    "delimiters": ("aud=1", "packet 0 holds access unit delimiter, IDR slice, not one IDR slice"),
    "interlacing": ("interlaced=1", "SPS: frame_mbs_only_flag is False, not True"),
    "in-band sets": ("repeat-headers=1", "packet 0 holds SPS, PPS, IDR slice"),
    "another profile": ("8x8dct=0", "SPS: profile_idc is 77, not 100"),
}


@pytest.mark.parametrize("name", ENCODED)
def test_an_encoder_that_was_told_otherwise_is_found_out(name: str) -> None:
    more, said = ENCODED[name]
    faults = list(policy_faults(segment(Broken(WIDTH, HEIGHT, more=more)), POLICY))
    assert any(re.match(said, fault) for fault in faults), faults
    assert all("\n" not in fault for fault in faults)


def test_a_file_that_keeps_to_the_policy_has_no_faults() -> None:
    assert list(policy_faults(segment(POLICY), POLICY, num_frames=20)) == []
    avcc = decoder_configuration(POLICY)[0]
    assert list(policy_faults(segment(POLICY), POLICY, avcc=avcc, num_frames=20)) == []


OTHER_FILES = {
    "SEI": ({}, r"packet 0 holds SEI, IDR slice, not one IDR slice"),
    "moov at the end": ({"movflags": "0"}, "its moov box lies behind mdat"),
    "fragments": ({"movflags": "+frag_keyframe+empty_moov"}, "has 1 moov and 3 mdat boxes"),
    "another codec": ({"vcodec": "mpeg4"}, "holds mpeg4, not h264"),
    "full range": ({"color_range": "pc"}, "SPS: video_full_range_flag is True"),
    "other colours": ({"x264-params": KEPT.replace("smpte170m", "bt709")}, r"SPS: colour .* is \(1, 1, 1\), not"),
    "no subsampling": ({"pix_fmt": "yuv444p"}, "SPS: chroma_format_idc is 3, not 1"),
    "ten bits": ({"pix_fmt": "yuv420p10le"}, "SPS: bit depth is 10, not 8"),
    "cropping": ({"crop": 4}, r"SPS: cropping is \(0, 0, 0, 2\)"),
    "another height": ({"crop": 16}, r"is 96×48, not 96×64"),
    "a varying rate": ({"vf": "setpts='N+gte(N,9)*3'", "fps_mode": "vfr"}, r"packet 9 does not keep the constant rate"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_file_made_by_another_program_is_found_out(tmp_path: Path, name: str) -> None:
    options, said = OTHER_FILES[name]
    faults = list(policy_faults(by_ffmpeg(tmp_path, **options), POLICY))
    assert any(re.match(said, fault) for fault in faults), faults


def test_a_second_stream_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "one.mp4").write_bytes(segment(POLICY))
    command = [ffmpeg_exe(), "-v", "error", "-i", tmp_path / "one.mp4", "-map", "0", "-map", "0", "-c", "copy"]
    subprocess.run([*command, "-movflags", "+faststart", tmp_path / "two.mp4"], check=True)
    assert "holds 2 streams, not one of video" in list(policy_faults((tmp_path / "two.mp4").read_bytes(), POLICY))


def test_other_settings_and_other_lengths_are_found_out() -> None:
    mp4, avcc = segment(EncodePolicy(WIDTH, HEIGHT, crf=30)), decoder_configuration(POLICY)[0]
    assert list(policy_faults(mp4, POLICY, avcc=avcc, num_frames=21)) == [
        "its avcC is not the one in dataset.json, so it was encoded with other settings",
        "holds 20 packets, not 21",
    ]
    faults = list(policy_faults(segment(EncodePolicy(WIDTH, HEIGHT, gop_size=16)), POLICY))
    assert "packet 8 is no keyframe, with GOPs of 8" in faults


@pytest.mark.parametrize("length", [0, 5, 30, 200, 2000, -1])
def test_a_file_that_is_cut_cannot_be_read(length: int) -> None:
    faults = list(policy_faults(segment(POLICY)[:length], POLICY))
    assert any("cannot be read as MP4" in fault for fault in faults), faults


def test_a_configuration_that_cannot_be_read_is_one_fault() -> None:
    avcc = decoder_configuration(POLICY)[0]
    assert list(avcc_faults(avcc, POLICY)) == []
    assert list(avcc_faults(b"", POLICY)) == ["avcC cannot be read (index out of range)"]
    assert list(avcc_faults(avcc[:4] + b"\xfd" + avcc[5:], POLICY)) == ["avcC: NAL lengths of 2 bytes, not 4"]
    assert list(avcc_faults(avcc[:5] + b"\xe0" + avcc[6:], POLICY))
    (fault,) = avcc_faults(avcc, EncodePolicy(WIDTH, HEIGHT + 16))
    assert fault == "SPS: coded size is (96, 64), not (96, 80)"


def test_packets_that_do_not_decode_are_found_at_the_first() -> None:
    mp4, avcc = segment(POLICY), decoder_configuration(POLICY)[0]
    packets = [mp4[p.offset : p.offset + p.size] for p, _ in read_packets(mp4, POLICY)[1]]
    assert list(decode_faults(packets, avcc, POLICY)) == []
    assert list(decode_faults(packets[8:], avcc, POLICY)) == [], "a keyframe needs nothing before it"
    spoilt = [*packets[:9], packets[9][:5] + bytes(len(packets[9]) - 5), *packets[10:]]
    assert [f[:24] for f in decode_faults(spoilt, avcc, POLICY)] == ["packet 9 does not decode"]
    assert list(decode_faults(packets[1:], avcc, POLICY)) == ["packet 0 does not give one whole frame"]
    assert list(decode_faults(packets, avcc, EncodePolicy(WIDTH, 80))) == [
        "packet 0 is 96×64 yuv420p, not 96×80 yuv420p"
    ]


def test_a_blank_packet_is_a_keyframe_that_decodes() -> None:
    avcc, blank = decoder_configuration(POLICY)

    def faults(packet: bytes) -> list[str]:
        return list(blank_faults(packet, POLICY, avcc=avcc))

    assert faults(blank) == []
    assert faults(b"") == ["holds nothing, not one IDR slice"]
    assert faults(blank[:-1]) == ["cannot be read (its NAL lengths do not add up to its size)"]
    assert faults(blank[:5] + bytes(len(blank) - 5))


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


def test_a_whole_dataset_has_no_faults(numbered_h264: ShardIndex) -> None:
    assert verify(numbered_h264.data_dir, decode=True)[1] == []


def codec(name: str, change: Callable[[str], object]) -> Callable[[Path, ShardIndex], None]:
    """Change one entry of dataset.json's codec."""
    return lambda d, i: edit_json(d, lambda info: info["codec"].update({name: change(info["codec"][name])}))


DAMAGE: dict[str, tuple[Callable[[Path, ShardIndex], None], str]] = {
    "flipped bytes": (
        lambda d, i: overwrite(d / TAR, place(i, 9) + 6, b"\xff\xfe"),
        f"{TAR}: \\d+: packet 9 fails its crc32$",
    ),
    "a wrong NAL type": (
        lambda d, i: overwrite(d / TAR, place(i, 9) + 4, b"\x06"),
        r"mp4 packet 9 holds SEI, not one slice",
    ),
    "a wrong NAL length": (
        lambda d, i: overwrite(d / TAR, place(i, 9), b"\0\0\0\1"),
        r"mp4 packet 9 cannot be read \(its NAL lengths do not add up to its size\)",
    ),
    "a cut tar": (
        lambda d, i: (d / TAR).write_bytes((d / TAR).read_bytes()[: place(i, 3)]),
        r"packet 3 fails its crc32 \(and \d+ more\)",
    ),
    "a wrong offset": (
        lambda d, i: edit_array(d, "frames", put((packet(i, 5), OFFSET), 512)),
        "packet 5 has another offset than the index says",
    ),
    "a wrong size": (
        lambda d, i: edit_array(d, "frames", put((packet(i, 5), SIZE), 7)),
        "packet 5 has another size than the index says",
    ),
    "a wrong checksum": (
        lambda d, i: edit_array(d, "frames", put((packet(i, 5), CRC32), 7)),
        "packet 5 has another crc32 than the index says",
    ),
    "another configuration": (
        codec("avcc", lambda avcc: avcc.replace("0164000b", "0164000c", 1)),
        "mp4 its avcC is not the one in dataset.json",
    ),
    "another GOP": (codec("gop_size", lambda size: 4), "packet 4 is no keyframe, with GOPs of 4"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(numbered_h264: ShardIndex, copy: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    damage(copy, numbered_h264)
    _, faults = verify(copy)
    assert any(re.search(said, fault) for fault in faults), faults
    assert all("\n" not in fault for fault in faults)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("avcc", lambda avcc: "xyz", "codec.avcc: expected `str` matching"),
        ("avcc", lambda avcc: "01", r"codec.avcc: avcC cannot be read \(index out of range\)"),
        ("tile_height", lambda height: 144, r"codec.avcc: SPS: coded size is \(176, 128\), not \(176, 144\)"),
        ("blank", lambda blank: blank[:-2], r"codec.blank: cannot be read \(its NAL lengths do not add up"),
        ("blank", lambda blank: blank[:-8] + "0" * 8, "codec.blank: packet 0 does not decode"),
        ("gop_size", lambda size: 1, "codec.gop_size: expected `int` >= 2"),
        ("tile_width", str, "codec.tile_width: expected `int`, got `str`"),
        ("crf", lambda crf: 0, "codec.crf: expected `int` >= 1"),
    ],
)
def test_a_codec_that_makes_no_sense_is_refused_in_one_line(
    copy: Path, name: str, change: Callable[[object], object], said: str
) -> None:
    edit_json(copy, lambda info: info["codec"].update({name: change(info["codec"][name])}))
    with pytest.raises(ShardError, match=f"dataset.json: {said}.*; build the shards again") as error:
        verify(copy)
    assert "\n" not in str(error.value)


def fix_checksums(folder: Path, row: int, content: bytes) -> None:
    """Make the index and dataset.json agree with a packet that was exchanged."""
    edit_array(folder, "frames", put((row, CRC32), zlib.crc32(content)))
    digest = hashlib.sha256((folder / TAR).read_bytes()).hexdigest()
    edit_json(folder, lambda info: info["shards"][1].update(sha256=digest))


def test_a_packet_that_does_not_decode_is_found_only_by_decoding(numbered_h264: ShardIndex, copy: Path) -> None:
    row = packet(numbered_h264, 8)
    offset, size = place(numbered_h264, 8), int(numbered_h264.frames[row, SIZE])
    spoilt = (copy / TAR).read_bytes()[offset : offset + 6] + bytes([255]) * (size - 6)
    overwrite(copy / TAR, offset, spoilt)
    fix_checksums(copy, row, spoilt)
    assert verify(copy)[1] == []
    (fault,) = verify(copy, decode=True)[1]
    key = numbered_h264.key(long_sample(numbered_h264))
    assert re.match(rf"{TAR}: {key}: packet 8 does not decode \(.+\)$", fault)
    result = CliRunner().invoke(check_shards.main, [str(copy), "--decode"])
    assert result.exit_code == 1
    assert fault in result.output.splitlines()


def test_a_tar_of_other_settings_is_found(numbered_raw: Path, numbered_h264: ShardIndex, tmp_path: Path) -> None:
    """As when files of two builds are mixed, with everything but dataset.json's avcC made to fit."""
    other = build_numbered(numbered_raw, tmp_path, samples_per_shard=4, codec="h264", crf=30)
    said = {name: numbered_h264.info["codec"][name] for name in ("avcc", "blank")}
    assert said["avcc"] != other.info["codec"]["avcc"]
    edit_json(tmp_path, lambda info: info["codec"].update(said))
    _, faults = verify(tmp_path)
    assert len(faults) == other.num_samples
    assert all("its avcC is not the one in dataset.json" in fault for fault in faults)


def test_the_tars_are_whole_for_other_readers_too(numbered_h264: ShardIndex) -> None:
    for tar in numbered_h264.tars:
        path = numbered_h264.data_dir / tar
        components = list(tar_components(path))
        assert {name.partition(".")[2] for name, _, _ in components} == {"mp4", "json"}
        assert path.with_suffix(".idx").read_bytes() == dali_index(components)
    info = json.loads((numbered_h264.data_dir / "dataset.json").read_text())
    assert info["num_frames"] == len(numbered_h264.frames) == sum(numbered_h264.num_frames)
