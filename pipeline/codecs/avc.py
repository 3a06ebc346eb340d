"""H.264 as it lies in MP4 (ISO/IEC 14496-10 and -15): decoder configuration, SPS, slices; and decoded on a CPU."""

import re
import threading
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from res3d_video.pipeline.codecs import UndecodableError

NAL_TYPE = 31  # the bits of a NAL's first byte that are its type
REF_IDC = 96  # other bits of that byte
START_CODE = re.compile(b"\0\0\1")  # bytes that no NAL holds, and that begin one elsewhere than in MP4
NON_IDR, IDR, SPS = 1, 5, 7  # nal_unit_type, table 7-1
# Profiles whose SPS names chroma format, bit depth and scaling lists (7.3.2.1.1).
HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
STRIDE = 64  # pixels; FFmpeg counts a row's length rounded up to it


class BitReader:
    """Bits of a NAL from the highest down, without the bytes that keep start codes out of it."""

    def __init__(self, nal: bytes) -> None:
        payload = nal[1:].replace(b"\0\0\3", b"\0\0")
        self._bits = "".join(f"{byte:08b}" for byte in payload)
        self._at = 0

    def u(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        if self._at + count > len(self._bits):
            raise ValueError("ends in the middle")
        self._at += count
        return int(self._bits[self._at - count : self._at], 2)

    def ue(self) -> int:
        """An unsigned exp-Golomb number (9.1): n zeros, a one, n bits.

        >>> reader = BitReader(bytes([0, 0b1_010_011_0, 0b0100_0000]))
        >>> [reader.ue() for _ in range(4)]
        [0, 1, 2, 3]
        """
        one = self._bits.find("1", self._at)
        if one < 0:
            raise ValueError("ends in the middle")
        zeros, self._at = one - self._at, one
        return self.u(zeros + 1) - 1


def parameter_sets(avcc: bytes) -> tuple[bytes, bytes]:
    """The SPS and the PPS of an AVCDecoderConfigurationRecord, the content of the box avcC.

    Raises:
        ValueError: It has another form, not one of each, or NAL lengths of other than four bytes.
    """
    sps_size = int.from_bytes(avcc[6:8], "big")
    pps = 11 + sps_size  # where the PPS begins
    pps_size = int.from_bytes(avcc[pps - 2 : pps], "big")
    if len(avcc) < pps + pps_size or not sps_size or not pps_size:
        raise ValueError("avcC ends in the middle")
    if (avcc[0], avcc[4] & 3, avcc[5] & 31, avcc[pps - 3]) != (1, 3, 1, 1):
        raise ValueError("avcC does not hold one SPS and one PPS, for NAL lengths of four bytes")
    return avcc[8 : 8 + sps_size], avcc[pps : pps + pps_size]


def parse_sps(nal: bytes) -> dict[str, Any]:
    """What an SPS (7.3.2.1.1) says of a picture and of a decoder's memory, by the standard's names.

    Args:
        nal: With its header byte, without length or start code.

    Raises:
        ValueError: It is not one, or has a form that no dataset's encoder writes.
    """
    if not nal or nal[0] & NAL_TYPE != SPS:
        raise ValueError("SPS is a NAL of another type")
    reader = BitReader(nal)
    profile, _, _ = reader.u(8), reader.u(8), reader.u(8)
    reader.ue()  # seq_parameter_set_id
    chroma_format, bit_depth = 1, 8
    if profile in HIGH_PROFILES:
        chroma_format = reader.ue()
        if chroma_format == 3:
            reader.u(1)
        bit_depth = 8 + max(reader.ue(), reader.ue())
        reader.u(1)
        if reader.u(1):
            raise ValueError("SPS has scaling lists")
    reader.ue()  # log2_max_frame_num
    pic_order_cnt_type = reader.ue()
    if pic_order_cnt_type == 0:
        reader.ue()
    elif pic_order_cnt_type == 1:
        raise ValueError("SPS has pictures whose order is told by cycles")
    max_num_ref_frames = reader.ue()
    reader.u(1)  # gaps_in_frame_num_value_allowed
    width, height = 16 * (reader.ue() + 1), 16 * (reader.ue() + 1)
    frame_mbs_only = reader.u(1)
    reader.u(1 if frame_mbs_only else 2)  # mb_adaptive_frame_field of interlaced video, direct_8x8_inference
    crop = (reader.ue(), reader.ue(), reader.ue(), reader.ue()) if reader.u(1) else (0, 0, 0, 0)
    return {
        "profile_idc": profile,
        "chroma_format_idc": chroma_format,
        "bit depth": bit_depth,
        "pic_order_cnt_type": pic_order_cnt_type,
        "max_num_ref_frames": max_num_ref_frames,
        "coded size": (width, height if frame_mbs_only else 2 * height),
        "frame_mbs_only_flag": frame_mbs_only,
        "cropping": crop,
    }


def packet_fault(packet: memoryview, kind: int) -> str | None:
    """Why some bytes are not one I or P slice of a whole picture; None for such a packet.

    A packet that holds nothing else cannot bring parameter sets, and so no other size, past the dataset's own.

    Args:
        kind: Type of its NAL: IDR or NON_IDR.
    """
    size = len(packet)
    size_and_kind = int.from_bytes(packet[:5].tobytes(), "big") & ~REF_IDC
    if size <= 5 or size_and_kind != size - 4 << 8 | kind or packet[5] not in WHOLE_PICTURE[kind]:
        return f"is not one {'IDR ' if kind == IDR else ''}slice of a whole picture"
    return None if START_CODE.search(packet, 5) is None else "holds a start code"


def _begins_picture(first_byte: int, types: tuple[int, ...]) -> bool:
    """Whether a slice with this first byte has the first macroblock and one of these slice_types (7.4.3)."""
    reader = BitReader(bytes([0, first_byte, 255, 255, 255]))
    return reader.ue() == 0 and reader.ue() in types


WHOLE_PICTURE = {  # first bytes of a slice: of type I in a keyframe, also P elsewhere
    kind: frozenset(byte for byte in range(256) if _begins_picture(byte, types))
    for kind, types in ((IDR, (2, 7)), (NON_IDR, (0, 2, 5, 7)))
}


def size_limit(*, height: int, width: int) -> dict[str, str]:
    """FFmpeg's option to take no memory for larger frames, whatever a parameter set says."""
    return {"max_pixels": str(height * (width + STRIDE))}


class SoftwareDecoder:
    """Does on a CPU what `fn.decoders.video(stream, frames=…)` does on a GPU; a decoder for each thread that calls.

    Args:
        avcc: The AVCDecoderConfigurationRecord of the packets.
        height, width: Of every frame, pixels.
    """

    def __init__(self, avcc: bytes, *, height: int, width: int) -> None:
        self._avcc, self._height, self._width = avcc, height, width
        self._mine = threading.local()

    def decode(self, packets: Sequence[np.ndarray | bytes], frames: np.ndarray | None = None) -> np.ndarray:
        """Some frames of a stream.

        Args:
            packets: Of a frame each; the first is a keyframe.
            frames: int [U], frames wanted, rising; None for all.

        Returns:
            uint8 RGB FHWC [U, height, width, 3].

        Raises:
            UndecodableError: It does not decode.
        """
        frames = np.arange(len(packets)) if frames is None else frames
        taken = np.empty((len(frames), self._height, self._width, 3), np.uint8)
        places, number = dict(zip(frames.tolist(), range(len(frames)), strict=True)), 0
        try:
            decoder = self._decoder()
            for number, packet in enumerate(packets):
                shown = decoder.decode(av.Packet(packet))  # type: ignore[arg-type]  # no B-frames: a frame at once
                if len(shown) != 1 or (shown[0].height, shown[0].width) != (self._height, self._width):
                    raise ValueError(f"not one frame of {self._width}×{self._height}")
                if number in places:  # the others are there for these to depend on, and stay YUV
                    taken[places[number]] = self._rgb(shown[0])
        except (av.FFmpegError, ValueError) as error:
            del self._mine.decoder  # it may still hold frames of the broken stream
            reason = str(error).splitlines()[0]
            raise UndecodableError(f"packet {number} does not decode ({reason})") from None
        return taken

    def _decoder(self) -> av.VideoCodecContext:
        """This thread's; it goes from stream to stream, for each begins with a keyframe that clears it."""
        if not hasattr(self._mine, "decoder"):
            decoder = av.CodecContext.create("h264", "r")
            assert isinstance(decoder, av.VideoCodecContext)
            decoder.extradata = self._avcc
            decoder.thread_count = 1
            decoder.flags |= av.codec.context.Flags.low_delay  # each frame comes with its packet
            decoder.options = {"err_detect": "explode", **size_limit(height=self._height, width=self._width)}
            self._mine.decoder, self._mine.reformatter = decoder, VideoReformatter()
        return self._mine.decoder

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 RGB [height, width, 3], a view of memory that lives as long as it is held."""
        # One thread: by default every conversion starts several, and a clip costs twice as much.
        plane = self._mine.reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)
        return rows[:, : frame.width * 3].reshape(frame.height, frame.width, 3)
