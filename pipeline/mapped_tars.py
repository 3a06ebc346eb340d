"""The bytes of pictures, read in place from memory-mapped tars: no copy, every one checked, fetched from disk ahead."""

import mmap
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from isal import isal_zlib  # zlib's crc32 by vector instructions, at three times its speed and more

from pipeline.shard import ShardIndex

# A mapping needs no open file, only one of the 65,530 that Linux allows a process by default.
MAX_MAPPED_TARS = 16_384


@dataclass(frozen=True)
class MappedTar:
    """One tar: the mapping itself, and its bytes as uint8 [size] that DALI reads in place."""

    mapping: mmap.mmap
    content: np.ndarray


class PictureReader:
    """Reads pictures of an index, strips or packets, many at a time."""

    def __init__(self, index: ShardIndex, *, max_mapped_tars: int = MAX_MAPPED_TARS) -> None:
        self._index = index
        self._max_mapped_tars = max_mapped_tars
        self._tars: OrderedDict[int, MappedTar] = OrderedDict()

    def read(self, pictures: np.ndarray) -> list[np.ndarray | None]:
        """Bytes of some pictures of the index.

        Args:
            pictures: int64 [M].

        Returns:
            M arrays, uint8 [bytes], views of the mapped tars that stay valid as long as they are held; None for one
            whose bytes are missing or fail their crc32.
        """
        found: list[np.ndarray | None] = []
        tars, offsets, sizes = self._places(pictures)
        expected = self._index.pictures.crc32[pictures].tolist()
        for tar, offset, size, crc32 in zip(tars, offsets, sizes, expected, strict=True):
            mapped = self._tar(tar)
            if mapped is None or not 0 <= offset <= len(mapped.content) - size:
                found.append(None)
                continue
            data = mapped.content[offset : offset + size]
            found.append(data if isal_zlib.crc32(data) == crc32 else None)
        return found

    def read_one(self, picture: int) -> np.ndarray | None:
        """`read` for a single picture."""
        return self.read(np.array([picture]))[0]

    def fetch(self, pictures: np.ndarray) -> None:
        """Ask the system to bring some pictures from disk, in the order in which they lie there, and do not wait."""
        tars, offsets, sizes = self._places(pictures)
        for tar, offset, size in sorted(zip(tars, offsets, sizes, strict=True)):
            mapped = self._tar(tar)
            if mapped is None or not 0 <= offset <= len(mapped.content) - size:
                continue
            first = offset - offset % mmap.PAGESIZE
            mapped.mapping.madvise(mmap.MADV_WILLNEED, first, offset + size - first)

    def _places(self, pictures: np.ndarray) -> tuple[list[int], list[int], list[int]]:
        """Tar, offset and size of some pictures."""
        where = self._index.pictures
        return where.tar[pictures].tolist(), where.offset[pictures].tolist(), where.size[pictures].tolist()

    def _tar(self, number: int) -> MappedTar | None:
        """A tar; None when it is missing or empty, so that its samples are replaced and counted like damaged ones."""
        if number in self._tars:
            self._tars.move_to_end(number)
            return self._tars[number]
        try:
            with open(self._index.data_dir / self._index.tars[number], "rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            return None
        self._tars[number] = tar = MappedTar(mapping, np.frombuffer(mapping, np.uint8))
        if len(self._tars) > self._max_mapped_tars:
            self._tars.popitem(last=False)  # unmapped when the last view of it is gone
        return tar
