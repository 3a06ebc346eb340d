"""The readers of H.264's headers agree with what an encoder was told."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from res3d_video.pipeline.codecs.avc import BitReader, nals, parse_avcc, parse_sps, slice_is_b
from res3d_video.tools.numbered import write_video

X264 = {"vcodec": "libx264", "preset": "ultrafast", "pix_fmt": "yuv420p"}


def avcc_of(path: Path, *, width: int = 64, height: int = 48, **options: object) -> bytes:
    write_video(path, np.full((4, height, width, 3), 99, np.uint8), **(X264 | options))
    with av.open(str(path)) as video:
        return video.streams.video[0].codec_context.extradata or b""


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"profile:v": "baseline", "refs": 3}, {"profile": 66, "max_num_ref_frames": 3, "pic_order_cnt_type": 2}),
        ({"preset": "medium", "level": "3.1"}, {"profile": 100, "level": 31, "chroma_format": 1, "bit_depth": 8}),
        ({"pix_fmt": "yuv420p10le"}, {"profile": 110, "bit_depth": 10}),
        ({"pix_fmt": "yuv444p"}, {"profile": 244, "chroma_format": 3}),
        ({"width": 70, "height": 50}, {"width": 80, "height": 64, "crop": (0, 5, 0, 7)}),
        ({"x264-params": "interlaced=1"}, {"frame_mbs_only": False, "height": 64, "crop": (0, 0, 0, 4)}),
        ({"x264-params": "bframes=2:b-pyramid=none"}, {"pic_order_cnt_type": 0, "max_num_reorder_frames": 1}),
        ({"x264-params": "cqm=jvt", "preset": "medium"}, {"profile": 100, "width": 64, "height": 48}),
        ({"color_range": "pc"}, {"full_range": True}),
        (
            {"x264-params": "range=tv:colorprim=bt709:transfer=smpte170m:colormatrix=bt470bg"},
            {"full_range": False, "colour": (1, 6, 5)},
        ),
        ({"x264-params": "sar=7/5"}, {"max_dec_frame_buffering": 1}),
    ],
    ids=str,
)
def test_an_sps_says_what_the_encoder_was_told(tmp_path: Path, options: dict, facts: dict) -> None:
    configuration = parse_avcc(avcc_of(tmp_path / "a.mp4", **options))
    sps = parse_sps(configuration.sps[0])
    assert {name: getattr(sps, name) for name in facts} == facts
    assert (configuration.length_bytes, len(configuration.pps)) == (4, 1)


def test_what_no_dataset_has_is_refused(tmp_path: Path) -> None:
    options = {"x264-params": "nal-hrd=vbr:vbv-maxrate=99:vbv-bufsize=99"}
    with pytest.raises(ValueError, match="SPS cannot be read .it has a hypothetical decoder's buffer"):
        parse_sps(parse_avcc(avcc_of(tmp_path / "a.mp4", **options)).sps[0])


def test_a_header_that_ends_too_soon_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    avcc = avcc_of(tmp_path / "a.mp4")
    sps = parse_avcc(avcc).sps[0]
    for length in range(len(sps) - 2):
        with pytest.raises(ValueError, match="cannot be read"):
            parse_sps(sps[:length])
    for length in range(avcc.index(sps) + len(sps) + 3):
        with pytest.raises(ValueError, match="avcC cannot be read"):
            parse_avcc(avcc[:length])
    with pytest.raises(ValueError, match="another type"):
        parse_sps(parse_avcc(avcc).pps[0])


@given(st.lists(st.integers(0, 70_000), min_size=1, max_size=9))
def test_exp_golomb_numbers_read_as_they_were_written(numbers: list[int]) -> None:
    bits = "".join("0" * ((n + 1).bit_length() - 1) + f"{n + 1:b}" for n in numbers)
    bits += "0" * (-len(bits) % 8)
    payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
    reader = BitReader(b"\x67" + escape(payload))
    assert [reader.ue() for _ in numbers] == numbers


def escape(payload: bytes) -> bytes:
    """Put a 3 behind two zeros where a number up to 3 follows (7.4.1)."""
    out, zeros = bytearray(), 0
    for byte in payload:
        if zeros == 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


def test_signed_numbers_alternate() -> None:
    reader = BitReader(bytes([0, 0b1_010_011_0, 0b0100_0010, 0b1_0000000]))
    assert [reader.se() for _ in range(5)] == [0, 1, -1, 2, -2]


def test_a_packet_is_cut_at_its_lengths() -> None:
    assert list(nals(b"\0\0\0\2ab\0\0\0\1c")) == [b"ab", b"c"]
    for wrong in (b"\0\0\0\3ab", b"\0\0\0\0", b"\0\0\1", b"\0\0\0\2ab\0\0"):
        with pytest.raises(ValueError, match="do not add up"):
            list(nals(wrong))


def test_b_slices_are_told_from_others() -> None:
    """first_mb_in_slice 0, then slice_type: P, B, I, and the same for the whole picture."""
    of_type = {0: 0b1_1000000, 1: 0b1_010_0000, 2: 0b1_011_0000, 5: 0b1_00110_00, 6: 0b1_00111_00, 7: 0b1_0001000}
    assert [slice_is_b(bytes([0x41, first, 0, 0])) for first in of_type.values()] == [False, True, False] * 2
