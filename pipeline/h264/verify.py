"""What `verify` checks of H.264: MP4s keep to the policy, their packets lie where the index says and decode."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import av
import numpy as np

from pipeline.checking import Found
from pipeline.h264.check import and_more, avcc_faults, blank_faults, decode_faults, policy_faults
from pipeline.h264.encode import FILE, EncodePolicy, read_packets
from pipeline.picture_reader import PictureReader
from pipeline.shard import ShardError, ShardIndex


class VideoCheck:
    """Of H.264.

    Raises:
        ShardError: dataset.json does not say how the packets were encoded.
    """

    def __init__(self, index: ShardIndex) -> None:
        self._index = index
        self._reader = PictureReader(index, max_open_tars=1)
        codec = index.info["codec"]
        try:
            size = (codec["tile_width"], codec["tile_height"])
            self._policy = EncodePolicy(*size, codec["gop_size"], codec["crf"], codec["preset"])
            self._avcc, self._blank = bytes.fromhex(codec["avcc"]), bytes.fromhex(codec["blank"])
        except (KeyError, TypeError, ValueError) as error:
            path = index.data_dir / "dataset.json"
            raise ShardError(f"{path}: its codec is damaged ({error}); build the shards again") from None

    def dataset_faults(self) -> Iterator[str]:
        yield from (f"dataset.json: {fault}" for fault in avcc_faults(self._avcc, self._policy))
        yield from (f"dataset.json: blank {fault}" for fault in blank_faults(self._blank, self._avcc, self._policy))

    def file_faults(self, sample: int, found: Found, file: BinaryIO) -> Iterator[str]:
        name = f"{self._index.key(sample)}.{FILE}"
        if name not in found:
            yield f"{name} is missing"
            return
        offset, size = found[name]
        file.seek(offset)
        mp4 = file.read(size)
        faults = list(policy_faults(mp4, self._policy, avcc=self._avcc, num_frames=int(self._index.num_frames[sample])))
        yield from (f"{name} {fault}" for fault in faults)
        if not any("cannot be read as MP4" in fault for fault in faults):
            yield from (f"{name}: {fault}" for fault in self._table_faults(sample, mp4, offset))

    def picture_faults(self, samples: np.ndarray, *, decode: bool) -> Iterator[str]:
        with ThreadPoolExecutor(os.cpu_count() if decode else 1) as pool:
            found = pool.map(lambda sample: list(self._sample_faults(int(sample), decode=decode)), samples)
            for sample, faults in zip(samples, found, strict=True):
                yield from (f"{self._index.key(sample)}: {fault}" for fault in faults)

    def _table_faults(self, sample: int, mp4: bytes, offset: int) -> Iterator[str]:
        """What a demuxer finds in a file at `offset` of the tar against what the index says of it."""
        where = self._index.pictures
        assert where.keyframe is not None
        rows = slice(int(where.first[sample]), int(where.first[sample + 1]))
        try:
            packets = read_packets(mp4, self._policy)[1]
        except (av.FFmpegError, IndexError):  # damaged so that a demuxer finds no video in it
            yield "its packets cannot be found"
            return
        if len(packets) != rows.stop - rows.start:
            yield f"holds {len(packets)} packets, the index says {rows.stop - rows.start}"
            return
        for what, said, true in (
            ("offset", where.offset[rows], [offset + packet.offset for packet in packets]),
            ("size", where.size[rows], [packet.size for packet in packets]),
            ("crc32", where.crc32[rows], [packet.crc32 for packet in packets]),
            ("keyframe flag", where.keyframe[rows], [packet.keyframe for packet in packets]),
        ):
            wrong = np.flatnonzero(said != np.array(true)).tolist()
            if wrong:
                yield f"packet {wrong[0]} has another {what} than the index says{and_more(wrong)}"

    def _sample_faults(self, sample: int, *, decode: bool) -> Iterator[str]:
        """Packets of one sample, read in place as a loader does."""
        first = self._index.pictures.first
        packets = self._reader.read_or_fault(np.arange(first[sample], first[sample + 1]))
        broken = [number for number, packet in enumerate(packets) if isinstance(packet, str)]
        if broken:
            yield f"packet {broken[0]} {packets[broken[0]]}{and_more(broken)}"
        elif decode:
            yield from decode_faults(
                [packet.tobytes() for packet in packets if not isinstance(packet, str)], self._avcc, self._policy
            )
