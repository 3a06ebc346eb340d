"""The H.264 codec: a segment as one MP4, made so that the packets of many clips can be joined to one stream.

That asks for a policy (`EncodePolicy`): keyframes at fixed places, nothing that reaches over them, one slice a packet,
and parameter sets that are the same bytes in every segment of a dataset. `h264_policy.py` has it, and tells whether
a file keeps to it.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import av
import numpy as np

from res3d_video.pipeline.codecs.avc import IDR, NON_IDR, SoftwareDecoder, packet_fault
from res3d_video.pipeline.codecs.h264_policy import (
    FILE,
    SMPTE170M,
    EncodePolicy,
    avcc_faults,
    blank_faults,
    read_packets,
    segment_faults,
)
from res3d_video.pipeline.codecs.segment import ClipFrames, EncodedSegment, Planes, ranges
from res3d_video.pipeline.errors import TooLargeError, UserError, VideoFailure

NOMINAL_FPS = 25  # what x264 is told of every video, so that the SPS is the same; also where a source says nothing
MAX_FPS = 10_000  # what claims more is wrong, and would not fit MP4's clock
LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG


@dataclass(frozen=True)
class H264Codec:
    """How a dataset's frames lie in MP4s, a packet a frame, and what decodes them.

    Attributes:
        avcc: The AVCDecoderConfigurationRecord that all segments share: profile, level, SPS and PPS.
        blank: A grey keyframe's packet, decoded where a clip needs no frame.
    """

    policy: EncodePolicy
    avcc: bytes
    blank: bytes

    name = "h264"
    frame_word = "packet"
    full_range = False  # video's YCbCr
    block_frames = 16  # that `encode` takes at a time
    max_frames = 2**31
    gap = lead = 0  # packets follow one another

    @classmethod
    def new(cls, policy: EncodePolicy) -> "H264Codec":
        """The codec of a dataset that is to be made."""
        return cls(policy, *decoder_configuration(policy))

    @classmethod
    def of(cls, codec: Mapping[str, Any]) -> "H264Codec":
        """The codec of a dataset, as its checked dataset.json describes it.

        Raises:
            UserError: Its decoder configuration or its grey keyframe is not of the policy.
        """
        size = (codec["tile_width"], codec["tile_height"])
        policy = EncodePolicy(*size, codec["gop_size"], codec["crf"], codec["preset"])
        found = cls(policy, bytes.fromhex(codec["avcc"]), bytes.fromhex(codec["blank"]))
        for name, faults in (
            ("avcc", avcc_faults(found.avcc, policy)),
            ("blank", blank_faults(found.blank, policy, avcc=found.avcc)),
        ):
            for fault in faults:
                raise UserError(f"codec.{name}: {fault}")
        return found

    def describe(self) -> dict[str, Any]:
        """What dataset.json says of the codec, but for its name, size and frame step."""
        return {
            "tile_width": self.policy.width,
            "tile_height": self.policy.height,
            "gop_size": self.policy.gop_size,
            "crf": self.policy.crf,
            "preset": self.policy.preset,
            "avcc": self.avcc.hex(),
            "blank": self.blank.hex(),
        }

    @staticmethod
    def tools() -> dict[str, str]:
        """Names and versions of what the bytes depend on, beside ffmpeg."""
        return {"av": av.__version__, "libavcodec": ".".join(map(str, av.library_versions["libavcodec"]))}

    @property
    def tile_height(self) -> int:
        return self.policy.height

    @property
    def tile_width(self) -> int:
        return self.policy.width

    def encode(
        self, blocks: Iterable[Planes], *, top: int, left: int, fps: float = 0, max_bytes: int = 2**63
    ) -> EncodedSegment:
        """Encode a segment, block by block, to one MP4; the same frames give the same bytes.

        Args:
            blocks: Planes of limited range, any number of frames each.
            top, left: Even; where the content lies in its tile.
            fps: Rate at which a player shows it; 0 where nobody knows.
            max_bytes: Of the file, but for what is under way in the encoder.

        Raises:
            VideoFailure: The encoder gave other parameter sets than for the rest of the dataset.
            TooLargeError: It gives more than `max_bytes`.
        """
        mp4 = _encode(blocks, self.policy, top=top, left=left, rate=exact_rate(fps), max_bytes=max_bytes)
        avcc, packets = read_packets(mp4, self.policy)
        if avcc != self.avcc:
            raise VideoFailure(
                "encode", "x264 gave it parameter sets of its own; its packets cannot be joined to others"
            )
        return EncodedSegment({FILE: mp4}, [record for record, _ in packets])

    def locate(self, frames: np.ndarray, *, blank: np.ndarray) -> ClipFrames:
        """Which packets N clips need: of every GOP touched, those from its keyframe to the clip's last frame there.

        Every GOP is closed and of one length, so frame f depends on keyframe f // gop_size * gop_size and on nothing
        before it.

        Args:
            frames: int64 [N, T], frame numbers, never decreasing along T (`clip.frame_indices`).
            blank: bool [N], clips that need none.
        """
        keyframe = frames // self.policy.gop_size * self.policy.gop_size  # [N, T], that each frame depends on
        last_of_gop = np.ones(frames.shape, bool)
        last_of_gop[:, :-1] = keyframe[:, 1:] != keyframe[:, :-1]
        last_of_gop &= ~blank[:, None]
        length = np.where(last_of_gop, frames - keyframe + 1, 0)  # of the run that ends with this frame
        before = np.cumsum(length, axis=1) - length  # [N, T], packets of the clip's earlier GOPs
        order = np.where(blank[:, None], 0, before + frames - keyframe)
        return ClipFrames(ranges(keyframe[last_of_gop], length[last_of_gop]), length.sum(axis=1), order)

    def faults(self, data: list[memoryview], rows: np.ndarray) -> dict[int, str]:
        """Which packets, with their place in their segments, are not one I or P slice of a whole picture, and why."""
        kinds = np.where(rows % self.policy.gop_size == 0, IDR, NON_IDR).tolist()
        found = ((i, packet_fault(packet, kind)) for i, (packet, kind) in enumerate(zip(data, kinds, strict=True)))
        return {i: fault for i, fault in found if fault}

    def assemble(
        self, buffer: np.ndarray, begin: np.ndarray, size: np.ndarray, located: ClipFrames
    ) -> list[list[np.ndarray]]:
        """Each clip as a decoder takes it: its packets.

        Args:
            buffer: uint8, the packets of all clips.
            begin, size: int64 [M], where they lie in it.
        """
        packets = [buffer[a:b] for a, b in zip(begin.tolist(), (begin + size).tolist(), strict=True)]
        ends = np.cumsum(located.count).tolist()
        blank = [np.frombuffer(self.blank, np.uint8)]
        return [packets[b - n : b] or blank for b, n in zip(ends, located.count.tolist(), strict=True)]

    @cached_property
    def decoder(self) -> SoftwareDecoder:
        """Decodes on a CPU, in the thread that calls it."""
        return SoftwareDecoder(self.avcc, height=self.policy.height, width=self.policy.width)

    def decode(self, data: list[np.ndarray]) -> np.ndarray:
        """All frames of some packets that begin with a keyframe: uint8 RGB [F, tile_height, tile_width, 3].

        Raises:
            UndecodableError: They do not decode.
        """
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
        """What is wrong with a stored segment; each fault is one line.

        Args:
            files: By what follows the key and a dot: the offset in the sample, and the content.
            frames: uint32 [F, 3], offset in the sample, size and crc32 of each frame, as the index has them.
            decode: Decode every packet.
        """
        return segment_faults(files, frames, self.policy, avcc=self.avcc, decode=decode)


@lru_cache
def decoder_configuration(policy: EncodePolicy) -> tuple[bytes, bytes]:
    """What all segments of a policy share: the avcC, and a grey keyframe's packet."""
    grey = np.full((1, policy.height, policy.width), 128, np.uint8)
    chroma = grey[:, ::2, ::2]
    mp4 = _encode([Planes(grey, chroma, chroma)], policy, top=0, left=0, rate=Fraction(NOMINAL_FPS))
    avcc, ((packet, _),) = read_packets(mp4, policy)
    return avcc, mp4[packet.offset : packet.offset + packet.size]


def exact_rate(fps: float) -> Fraction:
    """Frames per second as a fraction, 25 where the source says nothing sensible.

    >>> exact_rate(30000 / 1001), exact_rate(12.5), exact_rate(0)
    (Fraction(30000, 1001), Fraction(25, 2), Fraction(25, 1))
    """
    rate = Fraction(fps).limit_denominator(100_000) if 0 < fps <= MAX_FPS else Fraction(0)
    return rate or Fraction(NOMINAL_FPS)


def _encode(
    blocks: Iterable[Planes], policy: EncodePolicy, *, top: int, left: int, rate: Fraction, max_bytes: int = 2**63
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
            _configure(stream.codec_context, policy)
            stream.time_base = 1 / rate
            container.start_encoding()
            # x264 writes all its options into the first packet, 600 bytes that no decoder needs.
            without_sei = av.BitStreamFilterContext("filter_units=remove_types=6", stream)

            def mux(packets: list[av.Packet]) -> None:
                for packet in (kept for given in packets for kept in without_sei.filter(given)):
                    packet.stream, packet.time_base, packet.duration = stream, 1 / rate, 1
                    container.mux(packet)

            for number, frame in enumerate(_frames(blocks, policy, top=top, left=left)):
                frame.pts, frame.time_base = number, Fraction(1, NOMINAL_FPS)
                mux(stream.encode(frame))
                if os.fstat(file.fileno()).st_size > max_bytes:
                    raise TooLargeError
            mux(stream.encode(None))
        return file.read()


def _configure(context: av.VideoCodecContext, policy: EncodePolicy) -> None:
    context.width, context.height, context.pix_fmt = policy.width, policy.height, "yuv420p"
    context.time_base = Fraction(1, NOMINAL_FPS)
    context.sample_aspect_ratio = Fraction(1)
    context.color_range = LIMITED_RANGE
    context.color_primaries = context.color_trc = context.colorspace = SMPTE170M
    context.thread_count = 1  # with more, the bytes would hang on their number; videos are encoded side by side instead
    context.options = {"preset": policy.preset, "crf": str(policy.crf), "x264-params": policy.x264_params}


def _frames(blocks: Iterable[Planes], policy: EncodePolicy, *, top: int, left: int) -> Iterator[av.VideoFrame]:
    """Frames in their tiles, as the encoder takes them."""
    for block in blocks:
        tiles = block.in_tiles(top=top, left=left, height=policy.height, width=policy.width)
        for y, u, v in zip(tiles.y, tiles.u, tiles.v, strict=True):
            frame = av.VideoFrame(policy.width, policy.height, "yuv420p")
            for plane, tile in zip(frame.planes, (y, u, v), strict=True):
                rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
                rows[: tile.shape[0], : tile.shape[1]] = tile
            yield frame
