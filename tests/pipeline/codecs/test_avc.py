"""The readers of H.264's headers agree with what an encoder was told."""

from pathlib import Path

import av
import numpy as np
import pytest

from res3d_video.pipeline.codecs.avc import IDR, NON_IDR, BitReader, packet_fault, parameter_sets, parse_sps
from res3d_video.tools.numbered import write_video


def avcc_of(path: Path, *, width: int = 64, height: int = 48, **options: object) -> bytes:
    told = {"vcodec": "libx264", "preset": "ultrafast", "pix_fmt": "yuv420p"} | options
    write_video(path, np.full((4, height, width, 3), 99, np.uint8), **told)
    with av.open(str(path)) as video:
        return video.streams.video[0].codec_context.extradata or b""


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"profile:v": "baseline", "refs": 3}, {"profile_idc": 66, "max_num_ref_frames": 3, "pic_order_cnt_type": 2}),
        ({"preset": "medium"}, {"profile_idc": 100, "chroma_format_idc": 1, "bit depth": 8, "pic_order_cnt_type": 0}),
        ({"pix_fmt": "yuv420p10le"}, {"profile_idc": 110, "bit depth": 10}),
        ({"pix_fmt": "yuv444p"}, {"profile_idc": 244, "chroma_format_idc": 3}),
        ({"width": 70, "height": 50}, {"coded size": (80, 64), "cropping": (0, 5, 0, 7)}),
        ({"x264-params": "interlaced=1"}, {"frame_mbs_only_flag": 0, "coded size": (64, 64), "cropping": (0, 0, 0, 4)}),
    ],
    ids=str,
)
def test_an_sps_says_what_the_encoder_was_told(tmp_path: Path, options: dict, facts: dict) -> None:
    sps = parse_sps(parameter_sets(avcc_of(tmp_path / "a.mp4", **options))[0])
    assert {name: sps[name] for name in facts} == facts


def test_headers_that_end_too_soon_or_have_another_form_are_errors_and_no_crash(tmp_path: Path) -> None:
    avcc = avcc_of(tmp_path / "a.mp4")
    sps, pps = parameter_sets(avcc)
    for length in range(6):
        with pytest.raises(ValueError, match="SPS is a NAL of another type|ends in the middle"):
            parse_sps(sps[:length])
    for length in range(avcc.index(pps) + len(pps)):
        with pytest.raises(ValueError, match="avcC"):
            parameter_sets(avcc[:length])
    for at, byte in ((0, 2), (4, 0xFD), (5, 0xE2)):
        with pytest.raises(ValueError, match="does not hold one SPS and one PPS, for NAL lengths of four bytes"):
            parameter_sets(avcc[:at] + bytes([byte]) + avcc[at + 1 :])
    with pytest.raises(ValueError, match="another type"):
        parse_sps(pps)


def test_exp_golomb_numbers_read_as_they_were_written() -> None:
    numbers = [*range(600), *(2**n + d for n in range(10, 24) for d in (-1, 0, 1))]
    bits = "".join("0" * ((n + 1).bit_length() - 1) + f"{n + 1:b}" for n in numbers)
    bits += "0" * (-len(bits) % 8)
    reader = BitReader(b"\x67" + escape(int(bits, 2).to_bytes(len(bits) // 8, "big")))
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


def test_packets_are_one_slice_of_type_i_or_outside_keyframes_p() -> None:
    """first_mb_in_slice 0, then slice_type: P, B, I, and the same for the whole picture."""
    of_type = {0: 0b1_1000000, 1: 0b1_010_0000, 2: 0b1_011_0000, 5: 0b1_00110_00, 6: 0b1_00111_00, 7: 0b1_0001000}
    for kind, good in ((IDR, {2, 7}), (NON_IDR, {0, 2, 5, 7})):
        faults = {
            slice_type: packet_fault(memoryview(b"\0\0\0\4" + bytes([0x60 | kind, first, 9, 9])), kind)
            for slice_type, first in of_type.items()
        }
        assert {slice_type for slice_type, fault in faults.items() if fault is None} == good
