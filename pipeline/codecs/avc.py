"""H.264 as it lies in MP4 (ISO/IEC 14496-10 and -15): decoder configuration and slices; and decoded on a CPU."""

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
NON_IDR, IDR, SPS, PPS = 1, 5, 7, 8  # nal_unit_type, table 7-1
STRIDE = 64  # pixels; FFmpeg counts a row's length rounded up to it


def parameter_sets(avcc: bytes) -> tuple[bytes, bytes]:
    """The SPS and the PPS of an AVCDecoderConfigurationRecord, the content of the box avcC.

    Raises:
        ValueError: It has another form, not one of each, or NAL lengths of other than four bytes.
    """
    sps_end = 8 + int.from_bytes(avcc[6:8], "big")
    pps_end = sps_end + 3 + int.from_bytes(avcc[sps_end + 1 : sps_end + 3], "big")
    sps, pps = avcc[8:sps_end], avcc[sps_end + 3 : pps_end]
    if len(avcc) < pps_end or [nal[:1] and nal[0] & NAL_TYPE for nal in (sps, pps)] != [SPS, PPS]:
        raise ValueError("does not hold an SPS and a PPS")
    if (avcc[0], avcc[4] & 3, avcc[5] & 31, avcc[sps_end]) != (1, 3, 1, 1) or START_CODE.search(sps + b"\xff" + pps):
        raise ValueError("holds more than one SPS and one PPS, or NAL lengths of other than four bytes")
    return sps, pps


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


def _begins(*slice_types: int) -> frozenset[int]:
    """First bytes of a slice that has the first macroblock and one of these slice_types (7.4.3).

    Both are exp-Golomb numbers (9.1): as many zeros as n + 1 has bits less one, and n + 1.
    """
    codes = ["1" + "0" * ((n + 1).bit_length() - 1) + f"{n + 1:b}" for n in slice_types]
    return frozenset(byte for byte in range(256) if f"{byte:08b}".startswith(tuple(codes)))


WHOLE_PICTURE = {IDR: _begins(2, 7), NON_IDR: _begins(0, 2, 5, 7)}  # of type I in a keyframe, also P elsewhere


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

    def facts(self) -> tuple[Any, ...]:
        """What this thread's decoder has found: profile, pixel format, whether frames are reordered, coded size."""
        decoder = self._decoder()
        return decoder.profile, decoder.pix_fmt, decoder.has_b_frames, decoder.coded_width, decoder.coded_height

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
