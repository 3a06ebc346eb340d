"""The bytes of pictures, read in place from memory-mapped tars: no copy, every one checked, fetched from disk ahead."""

import errno
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from isal import isal_zlib  # zlib's crc32 by vector instructions, at three times its speed and more

from pipeline.pages import load_pages
from pipeline.shard import ShardError, ShardIndex
from pipeline.source.plain_file import open_plain

# Of the 65,530 mappings that Linux allows a process. Python keeps a file open for each, of which fewer may be allowed.
MAX_MAPPED_TARS = 16_384


@dataclass(frozen=True)
class MappedTar:
    """One tar: the mapping itself, and its bytes as uint8 [size] that DALI reads in place."""

    mapping: mmap.mmap
    content: np.ndarray


class PictureReader:
    """Reads pictures of an index, strips or packets, many at a time.

    Attributes:
        stop: Set by another thread to end a wait for a remote tar, with `Interrupted`.
        is_fetching: Whether it waits for a remote tar.
        at: Tar, and place in `pictures`, that `read` or `fetch` is at, for another thread that wonders; None outside.
    """

    def __init__(self, index: ShardIndex, *, max_mapped_tars: int = MAX_MAPPED_TARS) -> None:
        self._index = index
        self._max_mapped_tars = max_mapped_tars
        self._tars: OrderedDict[int, MappedTar] = OrderedDict()
        self._let_go_ns = 0
        self.stop = threading.Event()
        self.at: tuple[int, int] | None = None
        self.is_fetching = False

    def read(self, pictures: np.ndarray) -> list[np.ndarray | None]:
        """Bytes of some pictures of the index.

        Args:
            pictures: int64 [M].

        Returns:
            M arrays, uint8 [bytes], views of the mapped tars that stay valid as long as they are held; None for one
            whose bytes are missing or fail their crc32.
        """
        found: list[np.ndarray | None] = [None] * len(pictures)
        tars, offsets, sizes = self._places(pictures)
        expected = self._index.pictures.crc32[pictures].tolist()
        order: Sequence[int] = range(len(pictures))
        if self._index.store is not None:
            self._let_go_if_asked()
            order = sorted(order, key=tars.__getitem__)  # a tar that must give way to others is fetched once
        for i in order:
            self.at = tars[i], i
            found[i] = self._read(tars[i], offsets[i], sizes[i], expected[i])
        self.at = None
        return found

    def _read(self, tar: int, offset: int, size: int, crc32: int) -> np.ndarray | None:
        mapped = self._tar(tar)
        if mapped is None or size < 1 or not 0 <= offset <= len(mapped.content) - size:
            return None
        data = mapped.content[offset : offset + size]
        if not load_pages(data) or isal_zlib.crc32(data) != crc32:
            return None
        must_give_way = self._index.store is not None and self._index.store.is_short
        return data.copy() if must_give_way else data

    def read_one(self, picture: int) -> np.ndarray | None:
        """`read` for a single picture."""
        return self.read(np.array([picture]))[0]

    def fetch(self, pictures: np.ndarray) -> None:
        """Ask the system to bring some pictures from disk, in the order in which they lie there, and do not wait."""
        tars, offsets, sizes = self._places(pictures)
        for tar, offset, size, i in sorted(zip(tars, offsets, sizes, range(len(pictures)), strict=True)):
            self.at = tar, i
            mapped = self._tar(tar, wait=False)
            if mapped is None or size < 1 or not 0 <= offset <= len(mapped.content) - size:
                continue
            first = offset - offset % mmap.PAGESIZE
            mapped.mapping.madvise(mmap.MADV_WILLNEED, first, offset + size - first)
        self.at = None

    def _places(self, pictures: np.ndarray) -> tuple[list[int], list[int], list[int]]:
        """Tar, offset and size of some pictures."""
        where = self._index.pictures
        return where.tar[pictures].tolist(), where.offset[pictures].tolist(), where.size[pictures].tolist()

    def _tar(self, number: int, *, wait: bool = True) -> MappedTar | None:
        """A tar; None when there is none or it is empty: its samples are replaced and counted like damaged ones.

        Args:
            wait: Have a remote one fetched.
        """
        if number in self._tars:
            self._tars.move_to_end(number)
            return self._tars[number]
        if not 0 <= number < len(self._index.tars):
            return None
        try:
            mapping = self._map(number, wait=wait)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENOMEM):
                return None
            if not self._tars:
                raise ShardError(
                    f"{self._index.tars[number]}: {error.strerror}, for a batch needs many tars at once; raise the "
                    "limit (ulimit -n), or use --shuffle-window"
                ) from None
            self._tars.clear()  # too many open files or mappings: those still needed come back
            return self._tar(number, wait=wait)
        except ShardError:
            raise  # a server that is gone; nothing is known of the tar
        except ValueError:
            return None
        if mapping is None:
            return None
        self._tars[number] = tar = MappedTar(mapping, np.frombuffer(mapping, np.uint8))
        if len(self._tars) > self._max_mapped_tars:
            self._tars.popitem(last=False)  # unmapped when the last view of it is gone
        return tar

    def _map(self, number: int, *, wait: bool) -> mmap.mmap | None:
        store = self._index.store
        if store is None:
            with os.fdopen(open_plain(self._index.data_dir / self._index.tars[number]), "rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.is_fetching = wait
        try:
            fetched = store.open(number, stop=self.stop, let_go=self._tars.clear, wait=wait)
        finally:
            self.is_fetching = False
        if fetched is None:
            return None
        with fetched:  # the mapping has a file descriptor of its own, and with it the lock that keeps the tar
            return mmap.mmap(fetched.fileno(), 0, access=mmap.ACCESS_READ)

    def _let_go_if_asked(self) -> None:
        """Close all tars when a process has found the cache full of tars in use; those needed are opened again."""
        assert self._index.store is not None
        asked_ns = self._index.store.asked_for_room_ns()
        if asked_ns > self._let_go_ns:
            self._tars.clear()
        self._let_go_ns = asked_ns
