"""Decoding packets of H.264 on a CPU: PyAV, a decoder a thread."""

import threading
from collections.abc import Sequence

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from res3d_video.pipeline.codecs.segment import UndecodableError

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
