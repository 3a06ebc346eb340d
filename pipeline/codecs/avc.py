"""H.264 as it lies in MP4 (ISO/IEC 14496-10 and -15): decoder configuration, SPS, slices; and decoded on a CPU."""

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from res3d_video.pipeline.codecs.segment import UndecodableError

NAL_TYPE = 31  # the bits of a NAL's first byte that are its type
REF_IDC = 96  # other bits of that byte
START_CODE = re.compile(b"\0\0\1")  # bytes that no NAL holds, and that begin one elsewhere than in MP4
NON_IDR, IDR, SEI, SPS = 1, 5, 6, 7  # nal_unit_type, table 7-1
NAL_NAMES = {NON_IDR: "slice", IDR: "IDR slice", SEI: "SEI", SPS: "SPS", 8: "PPS", 9: "access unit delimiter"}
# Profiles whose SPS speaks of chroma, depth and scaling lists (7.3.2.1.1).
HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
EXTENDED_SAR = 255


@dataclass(frozen=True)
class Sps:
    """What a sequence parameter set says, as far as a decoder's memory, the picture and its colours hang on it.

    Attributes:
        profile, level: profile_idc and level_idc: 100 is High, 11 is level 1.1.
        width, height: Of the coded picture, pixels, before cropping.
        crop: Left, right, top and bottom, in the units of the SPS; all zero when the whole picture is shown.
        full_range: None when the SPS does not say.
        colour: Primaries, transfer and matrix as numbers of table E-3 to E-5; None when the SPS does not say.
        max_num_reorder_frames, max_dec_frame_buffering: None without bitstream restrictions.
    """

    profile: int
    level: int
    chroma_format: int
    bit_depth: int
    pic_order_cnt_type: int
    max_num_ref_frames: int
    width: int
    height: int
    frame_mbs_only: bool
    crop: tuple[int, int, int, int]
    full_range: bool | None = None
    colour: tuple[int, int, int] | None = None
    max_num_reorder_frames: int | None = None
    max_dec_frame_buffering: int | None = None


@dataclass(frozen=True)
class DecoderConfiguration:
    """An AVCDecoderConfigurationRecord, what lies in the box avcC: bytes of a NAL's length, the SPS and PPS NALs."""

    length_bytes: int
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]


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
        return int(self._bits[self._at - count : self._at], 2) if count else 0

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

    def se(self) -> int:
        """A signed exp-Golomb number: 0, 1, -1, 2, -2, …"""
        number = self.ue()
        return (number + 1) // 2 if number % 2 else -number // 2


def parse_avcc(avcc: bytes) -> DecoderConfiguration:
    """Read an avcC.

    Raises:
        ValueError: It is not one, or ends in the middle.
    """
    try:
        if avcc[0] != 1:
            raise ValueError(f"its version is {avcc[0]}, not 1")
        length_bytes, at = (avcc[4] & 3) + 1, 6
        sps, at = _sets(avcc, at, count=avcc[5] & 31)
        pps, at = _sets(avcc, at + 1, count=avcc[at])
    except (IndexError, ValueError) as error:
        raise ValueError(f"avcC cannot be read ({error})") from None
    return DecoderConfiguration(length_bytes, sps, pps)


def _sets(avcc: bytes, at: int, *, count: int) -> tuple[tuple[bytes, ...], int]:
    """Parameter sets, each behind a length of two bytes, and the place after them."""
    found = []
    for _ in range(count):
        size = int.from_bytes(avcc[at : at + 2], "big")
        found.append(avcc[at + 2 : at + 2 + size])
        if not size or len(found[-1]) < size:
            raise ValueError("ends in the middle")
        at += 2 + size
    return tuple(found), at


def parse_sps(nal: bytes) -> Sps:
    """Read an SPS (7.3.2.1.1 and E.1.1).

    Args:
        nal: With its header byte, without length or start code.

    Raises:
        ValueError: It is not one, or ends in the middle.
    """
    if not nal or nal[0] & NAL_TYPE != SPS:
        raise ValueError("SPS cannot be read (it is a NAL of another type)")
    reader = BitReader(nal)
    try:
        return _parse_sps(reader)
    except ValueError as error:
        raise ValueError(f"SPS cannot be read ({error})") from None


def _parse_sps(reader: BitReader) -> Sps:
    profile, _, level = reader.u(8), reader.u(8), reader.u(8)
    reader.ue()  # seq_parameter_set_id
    chroma_format, bit_depth = 1, 8
    if profile in HIGH_PROFILES:
        chroma_format = reader.ue()
        if chroma_format == 3:
            reader.u(1)
        bit_depth = 8 + max(reader.ue(), reader.ue())
        reader.u(1)
        if reader.u(1):
            raise ValueError("it has scaling lists, which no dataset's encoder writes")
    reader.ue()  # log2_max_frame_num
    pic_order_cnt_type = reader.ue()
    if pic_order_cnt_type == 0:
        reader.ue()
    elif pic_order_cnt_type == 1:
        reader.u(1), reader.se(), reader.se()
        for _ in range(reader.ue()):
            reader.se()
    max_num_ref_frames = reader.ue()
    reader.u(1)  # gaps_in_frame_num_value_allowed
    width, height = 16 * (reader.ue() + 1), 16 * (reader.ue() + 1)
    frame_mbs_only = bool(reader.u(1))
    if not frame_mbs_only:
        reader.u(1)
        height *= 2
    reader.u(1)  # direct_8x8_inference
    crop = (reader.ue(), reader.ue(), reader.ue(), reader.ue()) if reader.u(1) else (0, 0, 0, 0)
    return Sps(
        profile,
        level,
        chroma_format,
        bit_depth,
        pic_order_cnt_type,
        max_num_ref_frames,
        width,
        height,
        frame_mbs_only,
        crop,
        *(_parse_vui(reader) if reader.u(1) else ()),
    )


def _parse_vui(reader: BitReader) -> tuple[bool | None, tuple[int, int, int] | None, int | None, int | None]:
    """Range, colour, reordered frames and frames in the decoder's memory."""
    full_range, colour, reorder, buffering = None, None, None, None
    if reader.u(1) and reader.u(8) == EXTENDED_SAR:
        reader.u(32)
    if reader.u(1):
        reader.u(1)  # overscan
    if reader.u(1):
        reader.u(3)  # video_format
        full_range = bool(reader.u(1))
        if reader.u(1):
            colour = (reader.u(8), reader.u(8), reader.u(8))
    if reader.u(1):
        reader.ue(), reader.ue()  # chroma sample location
    if reader.u(1):
        reader.u(65)  # timing: units in a tick, ticks in a second, whether the rate is fixed
    if reader.u(2):
        raise ValueError("it has a hypothetical decoder's buffer, which no dataset's encoder writes")
    reader.u(1)  # pic_struct_present
    if reader.u(1):
        reader.u(1), reader.ue(), reader.ue(), reader.ue(), reader.ue()
        reorder, buffering = reader.ue(), reader.ue()
    return full_range, colour, reorder, buffering


def nals(packet: bytes) -> Iterator[bytes]:
    """The NALs of a packet, each behind its length of four bytes.

    Raises:
        ValueError: The lengths do not add up.
    """
    at = 0
    while at < len(packet):
        size = int.from_bytes(packet[at : at + 4], "big")
        if not size or at + 4 + size > len(packet):
            raise ValueError("its NAL lengths do not add up to its size")
        yield packet[at + 4 : at + 4 + size]
        at += 4 + size


def packet_fault(packet: memoryview, kind: int) -> str | None:
    """Why some bytes are not one I or P slice of a whole picture; None for such a packet.

    A packet that holds nothing else cannot bring parameter sets, and so no other size, past the dataset's own.

    Args:
        kind: Type of its NAL: IDR or NON_IDR.
    """
    size = len(packet)
    size_and_kind = int.from_bytes(packet[:5].tobytes(), "big") & ~REF_IDC
    if size > 5 and size_and_kind == size - 4 << 8 | kind and packet[5] in WHOLE_PICTURE[kind]:
        return None if START_CODE.search(packet, 5) is None else "holds a start code"
    data = packet.tobytes()
    try:
        kinds = [nal[0] & NAL_TYPE for nal in nals(data)]
        if kinds != [kind]:
            names = ", ".join(NAL_NAMES.get(found, f"NAL of type {found}") for found in kinds)
            return f"holds {names or 'nothing'}, not one {NAL_NAMES[kind]}"
        if slice_is_b(data[4:]):
            return "is a B-frame"
    except ValueError as error:
        return f"cannot be read ({error})"
    return f"is not one {NAL_NAMES[kind]} of a whole picture"


def slice_is_b(nal: bytes) -> bool:
    """Whether a slice takes from later frames as well: slice_type 1 or 6 (7.4.3)."""
    reader = BitReader(nal[:16])  # two numbers at its very begin
    reader.ue()  # first_mb_in_slice
    return reader.ue() % 5 == 1


def _begins_picture(first_byte: int, types: tuple[int, ...]) -> bool:
    """Whether a slice with this first byte has the first macroblock and one of these slice_types (7.4.3)."""
    reader = BitReader(bytes([0, first_byte, 255, 255, 255]))
    return reader.ue() == 0 and reader.ue() in types


WHOLE_PICTURE = {  # first bytes of a slice: of type I in a keyframe, also P elsewhere
    kind: frozenset(byte for byte in range(256) if _begins_picture(byte, types))
    for kind, types in ((IDR, (2, 7)), (NON_IDR, (0, 2, 5, 7)))
}


STRIDE = 64  # pixels; FFmpeg counts a row's length rounded up to it


class SoftwareDecoder:
    """Does on a CPU what `fn.decoders.video(stream, frames=…)` does on a GPU; a decoder for each thread that calls.

    Args:
        avcc: The AVCDecoderConfigurationRecord of the packets.
        height, width: Of every frame, pixels.
    """

    def __init__(self, avcc: bytes, *, height: int, width: int) -> None:
        self._avcc, self._height, self._width = avcc, height, width
        self._mine = threading.local()

    def decode(self, packets: Sequence[np.ndarray], frames: np.ndarray | None = None) -> np.ndarray:
        """Some frames of a stream.

        Args:
            packets: uint8 [bytes] each; the first is a keyframe.
            frames: int [U], frames wanted, rising; None for all.

        Returns:
            uint8 RGB FHWC [U, height, width, 3].

        Raises:
            UndecodableError: It does not decode.
        """
        try:
            return self._decode(packets, np.arange(len(packets)) if frames is None else frames)
        except (av.FFmpegError, ValueError) as error:
            del self._mine.decoder  # it may still hold frames of the broken stream
            raise UndecodableError(f"H.264 does not decode ({str(error).splitlines()[0]})") from None

    def _decode(self, packets: Sequence[np.ndarray], frames: np.ndarray) -> np.ndarray:
        decoder = self._decoder()
        taken = np.empty((len(frames), self._height, self._width, 3), np.uint8)
        places = dict(zip(frames.tolist(), range(len(frames)), strict=True))
        for number, packet in enumerate(packets):
            shown = decoder.decode(av.Packet(packet))  # type: ignore[arg-type]  # any buffer; no B-frames: a frame at once
            if len(shown) != 1 or (shown[0].height, shown[0].width) != (self._height, self._width):
                raise ValueError(f"packet {number} is not one frame of {self._width}×{self._height}")
            if number in places:  # the others are there for these to depend on, and stay YUV
                taken[places[number]] = self._rgb(shown[0])
        return taken

    def _decoder(self) -> av.VideoCodecContext:
        """This thread's; it goes from stream to stream, for each begins with a keyframe that clears it."""
        if not hasattr(self._mine, "decoder"):
            self._mine.decoder = open_decoder(self._avcc, height=self._height, width=self._width)
            self._mine.reformatter = VideoReformatter()
        return self._mine.decoder

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        return to_rgb(frame, self._mine.reformatter)


def open_decoder(avcc: bytes, *, height: int, width: int) -> av.VideoCodecContext:
    """A decoder of one thread that gives each frame of this size with its packet, and reports what is broken."""
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.extradata = avcc
    decoder.thread_count = 1
    decoder.flags |= av.codec.context.Flags.low_delay
    decoder.options = {"err_detect": "explode", **size_limit(height=height, width=width)}
    return decoder


def size_limit(*, height: int, width: int) -> dict[str, str]:
    """FFmpeg's option to take no memory for larger frames, whatever a parameter set says."""
    return {"max_pixels": str(height * (width + STRIDE))}


def to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """A frame as uint8 RGB HWC [height, width, 3], a view of memory that lives as long as it is held."""
    # One thread: by default every conversion starts several, and a clip costs twice as much.
    plane = reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)
    return rows[:, : frame.width * 3].reshape(frame.height, frame.width, 3)
