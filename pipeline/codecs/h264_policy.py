"""How a dataset's H.264 is encoded, and whether a stored MP4 keeps to that and decodes: each fault is one line."""

import io
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer

from res3d_video.pipeline.codecs.avc import (
    IDR,
    NON_IDR,
    Sps,
    open_decoder,
    packet_fault,
    parse_avcc,
    parse_sps,
    size_limit,
)
from res3d_video.pipeline.codecs.segment import FrameRecord
from res3d_video.pipeline.errors import UserError, one_line

FILE = "mp4"  # what follows the key and a dot in the tar
MIN_REF_FRAMES = 2  # with one picture of memory DALI refuses a stream (CUDA_ERROR_INVALID_VALUE)
SMPTE170M = 6  # BT.601's number as primaries, transfer and matrix
HIGH_PROFILE = 100
BOX_HEADER = 8  # bytes: size and four letters


@dataclass(frozen=True)
class EncodePolicy:
    """How a dataset's segments are encoded: yuv420p, limited range, BT.601, no B-frames, closed GOPs of one length.

    Attributes:
        width, height: Of a frame, pixels, multiples of 16 so that nothing is cropped.
        gop_size: Frames from one keyframe to the next.
        crf: x264's quality, 1 the best and 51 the worst; docs/benchmarks/shards.md has bytes and PSNR of some.
        preset: x264's.
    """

    width: int
    height: int
    gop_size: int = 8
    crf: int = 20
    preset: str = "veryfast"  # a third of medium's time for half a dB less at the same crf

    def __post_init__(self) -> None:
        fits = 48 <= self.width <= 4096 and 16 <= self.height <= 4096  # what NVDEC decodes
        if not fits or self.width % 16 or self.height % 16:
            raise UserError(
                f"size: frames of {self.width}×{self.height} cannot be H.264; choose one that gives multiples of 16 "
                "from 48×16 to 4096×4096"
            )
        if not 2 <= self.gop_size <= 250:
            raise UserError(f"gop_size: {self.gop_size} is not possible; choose 2 to 250, for clips best 4 to 16")
        if not 1 <= self.crf <= 51:  # 0 would be lossless, which is another profile
            raise UserError(f"crf: {self.crf} is not possible; choose 1 to 51")

    @property
    def x264_params(self) -> str:
        """What x264 is told beyond preset and crf."""
        return (
            f"keyint={self.gop_size}:min-keyint={self.gop_size}:scenecut=0:open-gop=0:bframes=0:ref={MIN_REF_FRAMES}:"
            "rc-lookahead=0:force-cfr=1"
        )


def segment_faults(
    files: Mapping[str, tuple[int, bytes]], frames: np.ndarray, policy: EncodePolicy, *, avcc: bytes, decode: bool
) -> Iterator[str]:
    """`H264Codec.segment_faults`: the MP4 keeps to the policy, and its packets lie where the index says and decode."""
    if FILE not in files:
        yield f"{FILE} is missing"
        return
    offset, mp4 = files[FILE]
    faults = list(policy_faults(mp4, policy, avcc=avcc, num_frames=len(frames)))
    yield from (f"{FILE} {fault}" for fault in faults)
    if not any("cannot be read as MP4" in fault for fault in faults):
        yield from (f"{FILE}: {fault}" for fault in _table_faults(policy, mp4, frames, offset))
    packets = [mp4[at - offset : at - offset + size] for at, size, _ in frames.tolist()]
    wrong = [i for i, packet in enumerate(packets) if zlib.crc32(packet) != frames[i, 2]]
    if wrong:
        yield f"packet {wrong[0]} fails its crc32{and_more(wrong)}"
    elif decode:
        yield from decode_faults(packets, avcc, policy)


def _table_faults(policy: EncodePolicy, mp4: bytes, frames: np.ndarray, offset: int) -> Iterator[str]:
    """What a demuxer finds in a file at `offset` of its sample against what the index says of it."""
    try:
        packets = read_packets(mp4, policy)[1]
    except (av.FFmpegError, IndexError):  # damaged so that a demuxer finds no video in it
        yield "its packets cannot be found"
        return
    if len(packets) != len(frames):
        yield f"holds {len(packets)} packets, the index says {len(frames)}"
        return
    found = np.array([(offset + record.offset, record.size, record.crc32) for record, _ in packets], np.int64)
    for column, what in enumerate(("offset", "size", "crc32")):
        wrong = np.flatnonzero(frames[:, column] != found[:, column]).tolist()
        if wrong:
            yield f"packet {wrong[0]} has another {what} than the index says{and_more(wrong)}"


def policy_faults(
    mp4: bytes, policy: EncodePolicy, *, avcc: bytes | None = None, num_frames: int | None = None
) -> Iterator[str]:
    """What about an MP4 would break reading it as part of its dataset; nothing when it keeps to the policy.

    Args:
        avcc: The dataset's, which the file's must equal; None to look into the file's own with `avcc_faults`.
        num_frames: Frames that it should have; None where nobody knows.
    """
    try:
        yield from _box_faults(mp4)
        with open_mp4(mp4, policy) as container:
            if [stream.type for stream in container.streams] != ["video"]:
                yield f"holds {len(container.streams)} streams, not one of video"
                return
            stream = container.streams.video[0]
            if stream.codec_context.name != "h264":
                yield f"holds {stream.codec_context.name}, not h264"
                return
            found = stream.codec_context.extradata or b""
            if avcc is None:
                yield from avcc_faults(found, policy)
            elif found != avcc:
                yield "its avcC is not the one in dataset.json, so it was encoded with other settings"
            if (stream.width, stream.height) != (policy.width, policy.height):
                yield f"is {stream.width}×{stream.height}, not {policy.width}×{policy.height}"
            packets = [packet for packet in container.demux(stream) if packet.size]
    except (av.FFmpegError, ValueError) as error:
        yield f"cannot be read as MP4 ({one_line(error)})"
        return
    if num_frames is not None and len(packets) != num_frames:
        yield f"holds {len(packets)} packets, not {num_frames}"
    yield from _time_faults(packets)
    yield from _packet_faults(packets, policy)


def avcc_faults(avcc: bytes, policy: EncodePolicy) -> Iterator[str]:
    """What about a decoder configuration is against the policy."""
    try:
        configuration = parse_avcc(avcc)
        if configuration.length_bytes != 4:
            yield f"avcC: NAL lengths of {configuration.length_bytes} bytes, not 4"
        if (len(configuration.sps), len(configuration.pps)) != (1, 1):
            yield f"avcC: {len(configuration.sps)} SPS and {len(configuration.pps)} PPS, not one of each"
            return
        yield from (f"SPS: {fault}" for fault in _sps_faults(parse_sps(configuration.sps[0]), policy))
    except ValueError as error:
        yield str(error)


def blank_faults(blank: bytes, policy: EncodePolicy, *, avcc: bytes) -> Iterator[str]:
    """What is wrong with a dataset's grey keyframe."""
    fault = packet_fault(memoryview(blank), IDR)
    yield from [fault] if fault else decode_faults([blank], avcc, policy)


def decode_faults(packets: Sequence[bytes], avcc: bytes, policy: EncodePolicy) -> Iterator[str]:
    """The first packet that is not one whole frame of the right size; those after it hang on it."""
    decoder = open_decoder(avcc, height=policy.height, width=policy.width)
    wanted = f"{policy.width}×{policy.height} yuv420p"
    for number, packet in enumerate(packets):
        try:
            frames = decoder.decode(av.Packet(packet))
        except (av.FFmpegError, ValueError) as error:
            yield f"packet {number} does not decode ({one_line(error)})"
            return
        if len(frames) != 1 or frames[0].is_corrupt:
            yield f"packet {number} does not give one whole frame"
            return
        if (found := f"{frames[0].width}×{frames[0].height} {frames[0].format.name}") != wanted:
            yield f"packet {number} is {found}, not {wanted}"
            return


def _sps_faults(sps: Sps, policy: EncodePolicy) -> Iterator[str]:
    wanted: tuple[tuple[str, object, object], ...] = (
        ("profile_idc", sps.profile, HIGH_PROFILE),
        ("chroma_format_idc", sps.chroma_format, 1),
        ("bit depth", sps.bit_depth, 8),
        ("coded size", (sps.width, sps.height), (policy.width, policy.height)),
        ("cropping", sps.crop, (0, 0, 0, 0)),
        ("frame_mbs_only_flag", sps.frame_mbs_only, True),
        ("pic_order_cnt_type", sps.pic_order_cnt_type, 2),  # frames are shown in the order in which they are decoded
        ("video_full_range_flag", sps.full_range, False),
        ("colour primaries, transfer and matrix", sps.colour, (SMPTE170M,) * 3),
        ("max_num_reorder_frames", sps.max_num_reorder_frames or 0, 0),
    )
    for name, found, policy_s in wanted:
        if found != policy_s:
            yield f"{name} is {found}, not {policy_s}"
    for name, count in (
        ("max_num_ref_frames", sps.max_num_ref_frames),
        ("max_dec_frame_buffering", sps.max_dec_frame_buffering),
    ):
        if count is not None and count < MIN_REF_FRAMES:
            yield f"{name} is {count}, less than {MIN_REF_FRAMES}"


def _box_faults(mp4: bytes) -> Iterator[str]:
    """Order of the boxes at the top of the file."""
    kinds, at = [], 0
    while at < len(mp4):
        if at + BOX_HEADER > len(mp4):
            raise ValueError("ends in the middle of a box")
        size, kind = struct.unpack_from(">I4s", mp4, at)
        if size < BOX_HEADER or at + size > len(mp4):
            raise ValueError(f"its box {kind!r} says that it has {size} bytes, {len(mp4) - at} are there")
        kinds.append(kind)
        at += size
    if kinds.count(b"moov") != 1 or kinds.count(b"mdat") != 1:
        yield f"has {kinds.count(b'moov')} moov and {kinds.count(b'mdat')} mdat boxes, not one of each"
    elif kinds.index(b"moov") > kinds.index(b"mdat"):
        yield "its moov box lies behind mdat; a player must read it to the end first"


def _time_faults(packets: list[av.Packet]) -> Iterator[str]:
    """Timestamps: a constant rate from 0 on, shown in the order in which they are stored."""
    reordered = [i for i, packet in enumerate(packets) if packet.pts != packet.dts]
    if reordered:
        yield f"packet {reordered[0]} is not shown when it is decoded{and_more(reordered)}"
        return
    times = [packet.pts or 0 for packet in packets]
    step = times[1] - times[0] if len(times) > 1 else 1
    uneven = [i for i, time in enumerate(times) if time != i * step]
    if uneven:
        yield f"packet {uneven[0]} does not keep the constant rate{and_more(uneven)}"


def _packet_faults(packets: list[av.Packet], policy: EncodePolicy) -> Iterator[str]:
    """What lies in the packets, and where; a rule that several break is one fault."""
    broken: dict[str, list[int]] = {}
    end = packets[0].pos if packets else None
    for number, packet in enumerate(packets):
        key = number % policy.gop_size == 0
        if packet.pos != end:
            broken.setdefault("does not begin where the one before it ends", []).append(number)
        end = (packet.pos or 0) + packet.size
        if packet.is_keyframe != key:
            rule = f"is {'no' if key else 'a'} keyframe, with GOPs of {policy.gop_size}"
            broken.setdefault(rule, []).append(number)
        fault = packet_fault(memoryview(bytes(packet)), IDR if key else NON_IDR)
        if fault:
            broken.setdefault(fault, []).append(number)
    for rule, numbers in broken.items():
        yield f"packet {numbers[0]} {rule}{and_more(numbers)}"


def and_more(numbers: Sequence[int]) -> str:
    """What follows the first of several that share a fault."""
    return f" (and {len(numbers) - 1} more)" if len(numbers) > 1 else ""


def open_mp4(mp4: bytes, policy: EncodePolicy) -> InputContainer:
    """A demuxer of an MP4, which may be anybody's."""
    return av.open(io.BytesIO(mp4), "r", format="mp4", options=size_limit(height=policy.height, width=policy.width))


def read_packets(mp4: bytes, policy: EncodePolicy) -> tuple[bytes, list[tuple[FrameRecord, bool]]]:
    """The avcC of an MP4, and where its packets lie and which are keyframes, as a demuxer finds them."""
    with open_mp4(mp4, policy) as container:
        stream = container.streams.video[0]
        packets = []
        for packet in container.demux(stream):
            if packet.size:  # the last one is empty
                assert packet.pos is not None
                crc32 = zlib.crc32(mp4[packet.pos : packet.pos + packet.size])
                packets.append((FrameRecord(FILE, packet.pos, packet.size, crc32), packet.is_keyframe))
        return stream.codec_context.extradata or b"", packets
