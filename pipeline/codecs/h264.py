"""The H.264 codec: a segment as one MP4, made so that the packets of many clips can be joined to one stream.

That asks for keyframes at fixed places, nothing that reaches over them, one slice a packet, and parameter sets that are
the same bytes in every segment of a dataset (docs/decisions/0008-h264.md).
"""

import io
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import av
import numpy as np

from res3d_video.pipeline.codecs import (
    ClipFrames,
    EncodedSegment,
    FrameRecord,
    Planes,
    UndecodableError,
    ranges,
)
from res3d_video.pipeline.codecs.avc import (
    IDR,
    NON_IDR,
    SoftwareDecoder,
    packet_fault,
    parameter_sets,
    size_limit,
)
from res3d_video.pipeline.errors import TooLargeError, UserError, VideoFailure, one_line

FILE = "mp4"  # what follows the key and a dot in the tar
PRESET = "veryfast"  # a third of medium's time for half a dB less at the same crf
REF_FRAMES = 2  # with one picture of memory DALI refuses a stream (CUDA_ERROR_INVALID_VALUE)
NOMINAL_FPS = 25  # what x264 is told of every video, so that the SPS is the same; also where a source says nothing
MAX_FPS = 10_000  # what claims more is wrong, and would not fit MP4's clock
LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG
SMPTE170M = 6  # BT.601's number as primaries, transfer and matrix


@dataclass(frozen=True)
class H264Codec:
    """How a dataset's frames lie in MP4s, a packet a frame, and what decodes them.

    yuv420p, limited range, BT.601, no B-frames, closed GOPs of one length.
    """

    tile_height: int  # with the width multiples of 16 pixels, so that nothing is cropped
    tile_width: int
    gop_size: int  # frames from one keyframe to the next
    crf: int  # x264's quality, 1 the best and 51 the worst; docs/benchmarks/shards.md has bytes and PSNR of some
    avcc: bytes  # the AVCDecoderConfigurationRecord that all segments share: profile, level, SPS and PPS
    blank: bytes  # a grey keyframe's packet, decoded where a clip needs no frame

    name = "h264"
    full_range = False  # video's YCbCr
    block_frames = 16  # that `encode` takes at a time
    max_frames = 2**31
    gap = lead = 0  # packets follow one another

    @classmethod
    def new(cls, *, height: int, width: int, gop_size: int = 8, crf: int = 20) -> "H264Codec":
        """The codec of a dataset that is to be made."""
        fits = 48 <= width <= 4096 and 16 <= height <= 4096  # what NVDEC decodes
        if not fits or width % 16 or height % 16:
            raise UserError(
                f"size: frames of {width}×{height} cannot be H.264; choose one that gives multiples of 16 from 48×16 "
                "to 4096×4096"
            )
        return cls(height, width, gop_size, crf, *_avcc_and_blank(height, width, gop_size, crf))

    @classmethod
    def of(cls, codec: Mapping[str, Any]) -> "H264Codec":
        """The codec of a dataset, as its checked dataset.json describes it; a `UserError` if it is not one of ours."""
        avcc, blank = bytes.fromhex(codec["avcc"]), bytes.fromhex(codec["blank"])
        found = cls(codec["tile_height"], codec["tile_width"], codec["gop_size"], codec["crf"], avcc, blank)
        try:
            parameter_sets(avcc)
        except ValueError as error:
            raise UserError(f"codec.avcc: {error}") from None
        if fault := packet_fault(memoryview(blank), IDR) or found._decode_fault([blank]):
            raise UserError(f"codec.blank: {fault}")
        if (facts := found.decoder.facts()) != ("High", "yuv420p", 0, found.tile_width, found.tile_height):
            raise UserError(f"codec.avcc: is of {facts}; expected High profile and frames as large as the tiles")
        return found

    def describe(self) -> dict[str, Any]:
        """What dataset.json says of the codec, but for its name, size and frame step."""
        return {
            "tile_width": self.tile_width,
            "tile_height": self.tile_height,
            "gop_size": self.gop_size,
            "crf": self.crf,
            "preset": PRESET,
            "avcc": self.avcc.hex(),
            "blank": self.blank.hex(),
        }

    @staticmethod
    def tools() -> dict[str, str]:
        """Names and versions of what the bytes depend on, beside ffmpeg."""
        return {"av": av.__version__, "libavcodec": ".".join(map(str, av.library_versions["libavcodec"]))}

    def encode(
        self, blocks: Iterable[Planes], *, top: int, left: int, fps: float = 0, max_bytes: int = 2**63
    ) -> EncodedSegment:
        """Encode a segment to one MP4; the same frames give the same bytes.

        Args:
            blocks: Planes of limited range, any number of frames each.
            top, left: Even; where the content lies in its tile.
            fps: Rate at which a player shows it; 0 where nobody knows.
            max_bytes: Of the file, but for what is under way in the encoder; more is a `TooLargeError`.

        Raises:
            VideoFailure: The encoder gave other parameter sets than for the rest of the dataset.
        """
        mp4 = self._encode(blocks, top=top, left=left, rate=exact_rate(fps), max_bytes=max_bytes)
        avcc, frames = self._read_packets(mp4)
        if avcc != self.avcc:
            raise VideoFailure(
                "encode", "x264 gave it parameter sets of its own; its packets cannot be joined to others"
            )
        return EncodedSegment({FILE: mp4}, frames)

    def locate(self, frames: np.ndarray, *, blank: np.ndarray) -> ClipFrames:
        """Which packets N clips need: of every GOP touched, those from its keyframe to the clip's last frame there.

        Args:
            frames: int64 [N, T], frame numbers, never decreasing along T (`clip.frame_indices`).
            blank: bool [N], clips that need none.
        """
        keyframe = frames // self.gop_size * self.gop_size  # [N, T], that each frame depends on
        last_of_gop = np.ones(frames.shape, bool)
        last_of_gop[:, :-1] = keyframe[:, 1:] != keyframe[:, :-1]
        last_of_gop &= ~blank[:, None]
        length = np.where(last_of_gop, frames - keyframe + 1, 0)  # of the run that ends with this frame
        before = np.cumsum(length, axis=1) - length  # [N, T], packets of the clip's earlier GOPs
        order = np.where(blank[:, None], 0, before + frames - keyframe)
        return ClipFrames(ranges(keyframe[last_of_gop], length[last_of_gop]), length.sum(axis=1), order)

    def faults(self, data: Iterable[memoryview], rows: np.ndarray) -> dict[int, str]:
        """Which packets, with their place in their segments, are not one I or P slice of a whole picture, and why."""
        kinds = np.where(rows % self.gop_size == 0, IDR, NON_IDR).tolist()
        found = ((i, packet_fault(packet, kind)) for i, (packet, kind) in enumerate(zip(data, kinds, strict=True)))
        return {i: fault for i, fault in found if fault}

    def assemble(
        self, buffer: np.ndarray, begin: np.ndarray, size: np.ndarray, located: ClipFrames
    ) -> list[list[np.ndarray]]:
        """Each clip as a decoder takes it: its packets, which lie at `begin` in the buffer."""
        packets = [buffer[a:b] for a, b in zip(begin.tolist(), (begin + size).tolist(), strict=True)]
        ends = np.cumsum(located.count).tolist()
        blank = [np.frombuffer(self.blank, np.uint8)]
        return [packets[b - n : b] or blank for b, n in zip(ends, located.count.tolist(), strict=True)]

    @cached_property
    def decoder(self) -> SoftwareDecoder:
        """Decodes on a CPU, in the thread that calls it."""
        return SoftwareDecoder(self.avcc, height=self.tile_height, width=self.tile_width)

    def decode(self, data: list[np.ndarray]) -> np.ndarray:
        """All frames of some packets that begin with a keyframe: uint8 RGB [F, tile_height, tile_width, 3]."""
        return self.decoder.decode(data)

    @property
    def max_frame_bytes(self) -> int:
        """More than a frame can take: its pixels, uncompressed, take less than half of it."""
        return 4 * self.tile_height * self.tile_width + 1024

    def file_sizes(self, num_frames: int) -> dict[str, int]:
        """The files of a segment, by what follows the key and a dot, and the most bytes that each may have."""
        return {FILE: 2**16 + num_frames * (self.max_frame_bytes + 64)}

    def segment_faults(
        self, files: Mapping[str, tuple[int, bytes]], frames: np.ndarray, *, decode: bool
    ) -> Iterator[str]:
        """What is wrong with a stored segment, as `FilmstripCodec.segment_faults` says it."""
        if FILE not in files:
            yield f"{FILE} is missing"
            return
        offset, mp4 = files[FILE]
        try:
            avcc, records = self._read_packets(mp4)
            if avcc != self.avcc:
                yield f"{FILE}: its avcC is not the one in dataset.json, so it was encoded with other settings"
            found = [(offset + record.offset, record.size, record.crc32) for record in records]
            if found != list(map(tuple, frames.tolist())):
                yield f"{FILE}: its packets are not those of the index"
        except (av.FFmpegError, IndexError, ValueError) as error:  # damaged so that no video is found in it
            yield f"{FILE} cannot be read as MP4 ({one_line(error)})"
        packets = [memoryview(mp4)[at - offset : at - offset + size] for at, size, _ in frames.tolist()]
        faults = {i: "fails its crc32" for i, packet in enumerate(packets) if zlib.crc32(packet) != frames[i, 2]}
        faults = faults or self.faults(packets, np.arange(len(frames)))
        for number, fault in list(faults.items())[:1]:
            yield f"packet {number} {fault}" + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")
        if decode and not faults and (broken := self._decode_fault(packets)):
            yield broken

    def _decode_fault(self, packets: list[Any]) -> str | None:
        try:
            self.decoder.decode(packets, np.zeros(0, int))
        except UndecodableError as error:
            return str(error)
        return None

    def _read_packets(self, mp4: bytes) -> tuple[bytes, list[FrameRecord]]:
        """The avcC of an MP4, and where its packets lie, as a demuxer finds them."""
        limit = size_limit(height=self.tile_height, width=self.tile_width)
        with av.open(io.BytesIO(mp4), "r", format="mp4", options=limit) as container:
            stream = container.streams.video[0]
            places = [(packet.pos or 0, packet.size) for packet in container.demux(stream) if packet.size]
            records = [FrameRecord(FILE, at, size, zlib.crc32(mp4[at : at + size])) for at, size in places]
            return stream.codec_context.extradata or b"", records

    def _encode(
        self, blocks: Iterable[Planes], *, top: int, left: int, rate: Fraction, max_bytes: int = 2**63
    ) -> bytes:
        """The MP4; `rate` decides its timestamps alone, not a byte of a packet."""
        options = {
            "movflags": "+faststart",  # what the file says of its packets comes before them
            "fflags": "+bitexact",  # no date and no version in it
            "video_track_timescale": str(rate.numerator),
        }
        with tempfile.NamedTemporaryFile(suffix=".mp4") as file:  # the muxer reads back what it wrote, to move it
            with av.open(file.name, "w", format="mp4", options=options) as container:
                stream = container.add_stream("libx264", rate=NOMINAL_FPS)
                self._configure(stream.codec_context)
                stream.time_base = 1 / rate
                container.start_encoding()
                # x264 writes all its options into the first packet, 600 bytes that no decoder needs.
                without_sei = av.BitStreamFilterContext("filter_units=remove_types=6", stream)

                def mux(packets: list[av.Packet]) -> None:
                    for packet in (kept for given in packets for kept in without_sei.filter(given)):
                        packet.stream, packet.time_base, packet.duration = stream, 1 / rate, 1
                        container.mux(packet)

                for number, frame in enumerate(self._frames(blocks, top=top, left=left)):
                    frame.pts, frame.time_base = number, Fraction(1, NOMINAL_FPS)
                    mux(stream.encode(frame))
                    if os.fstat(file.fileno()).st_size > max_bytes:
                        raise TooLargeError
                mux(stream.encode(None))
            return file.read()

    def _configure(self, context: av.VideoCodecContext) -> None:
        context.width, context.height, context.pix_fmt = self.tile_width, self.tile_height, "yuv420p"
        context.time_base = Fraction(1, NOMINAL_FPS)
        context.sample_aspect_ratio = Fraction(1)
        context.color_range = LIMITED_RANGE
        context.color_primaries = context.color_trc = context.colorspace = SMPTE170M
        context.thread_count = 1  # with more, the bytes would depend on their number; videos are encoded side by side
        gop = f"keyint={self.gop_size}:min-keyint={self.gop_size}:scenecut=0:open-gop=0:bframes=0"
        params = f"{gop}:ref={REF_FRAMES}:rc-lookahead=0:force-cfr=1"
        context.options = {"preset": PRESET, "crf": str(self.crf), "x264-params": params}

    def _frames(self, blocks: Iterable[Planes], *, top: int, left: int) -> Iterator[av.VideoFrame]:
        """Frames in their tiles, as the encoder takes them."""
        for block in blocks:
            tiles = block.in_tiles(top=top, left=left, height=self.tile_height, width=self.tile_width)
            for y, u, v in zip(tiles.y, tiles.u, tiles.v, strict=True):
                frame = av.VideoFrame(self.tile_width, self.tile_height, "yuv420p")
                for plane, tile in zip(frame.planes, (y, u, v), strict=True):
                    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
                    rows[: tile.shape[0], : tile.shape[1]] = tile
                yield frame


@lru_cache
def _avcc_and_blank(height: int, width: int, gop_size: int, crf: int) -> tuple[bytes, bytes]:
    """What all segments of a dataset share: the avcC, and a grey keyframe's packet."""
    codec = H264Codec(height, width, gop_size, crf, b"", b"")
    grey = np.full((1, height, width), 128, np.uint8)
    mp4 = codec._encode([Planes(grey, grey[:, ::2, ::2], grey[:, ::2, ::2])], top=0, left=0, rate=exact_rate(0))
    avcc, (packet,) = codec._read_packets(mp4)
    return avcc, mp4[packet.offset : packet.offset + packet.size]


def exact_rate(fps: float) -> Fraction:
    """Frames per second as a fraction, 25 where the source says nothing sensible.

    >>> exact_rate(30000 / 1001), exact_rate(12.5), exact_rate(0)
    (Fraction(30000, 1001), Fraction(25, 2), Fraction(25, 1))
    """
    rate = Fraction(fps).limit_denominator(100_000) if 0 < fps <= MAX_FPS else Fraction(0)
    return rate or Fraction(NOMINAL_FPS)
