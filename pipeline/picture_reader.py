"""The bytes of pictures, strips or packets, read from the tars: every one checked, fetched from disk ahead.

A checksum finds damage, not intent: whoever writes a tar writes its checksums too. So no decoder is given a picture of
another form than this dataset's encoder writes. The form fixes the size, and with it what decoding costs.
"""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from io import FileIO
from typing import Any

import numpy as np
from isal import isal_zlib  # zlib's crc32 by vector instructions, at three times its speed and more

from pipeline.filmstrip import strip_fault, strip_header
from pipeline.h264.avc import IDR, NON_IDR, packet_fault
from pipeline.shard import ShardError, ShardIndex
from pipeline.source.plain_file import open_plain

MAX_OPEN_TARS = 16_384  # fewer where the system allows fewer


class PictureReader:
    """Reads pictures of an index, many at a time.

    Attributes:
        stop: Set by another thread to end a wait for a remote tar, with `Interrupted`.
        is_fetching: Whether it waits for a remote tar.
        at: Tar, and place in `pictures`, that `read` or `fetch` is at, for another thread that wonders; None outside.
    """

    def __init__(self, index: ShardIndex, *, max_open_tars: int = MAX_OPEN_TARS) -> None:
        self._index = index
        self._max_open_tars = max_open_tars
        self._tars: OrderedDict[int, tuple[FileIO, int]] = (
            OrderedDict()
        )  # with their sizes; the one used last at the end
        self._let_go_ns = 0
        self._fault: Callable[[np.ndarray, Any], str | None]  # of a picture, and of its form
        if index.codec == "h264":
            self._fault = packet_fault
        else:
            self._fault, self._header = strip_fault, strip_header(index.layout, quality=index.info["codec"]["quality"])
        self.stop = threading.Event()
        self.at: tuple[int, int] | None = None
        self.is_fetching = False

    def read(self, pictures: np.ndarray) -> list[np.ndarray | None]:
        """Bytes of some pictures of the index.

        Args:
            pictures: int64 [M].

        Returns:
            M arrays, uint8 [bytes]; None for one that is damaged.
        """
        return [None if isinstance(found, str) else found for found in self.read_or_fault(pictures)]

    def read_or_fault(self, pictures: np.ndarray) -> list[np.ndarray | str]:
        """Bytes of some pictures, uint8 [bytes]; of one that is damaged, what is wrong with it."""
        found: list[np.ndarray | str] = ["is missing or fails its crc32"] * len(pictures)
        tars, offsets, sizes = self._places(pictures)
        expected = self._index.pictures.crc32[pictures].tolist()
        forms = self._forms(pictures)
        order: Sequence[int] = range(len(pictures))
        if self._index.store is not None:
            self._let_go_if_asked()
            order = sorted(order, key=tars.__getitem__)  # a tar that must give way to others is fetched once
        for i in order:
            self.at = tars[i], i
            data = self._read(tars[i], offsets[i], sizes[i])
            if data is not None and isal_zlib.crc32(data) == expected[i]:
                found[i] = self._fault(data, forms[i]) or data
        self.at = None
        return found

    def _forms(self, pictures: np.ndarray) -> Sequence[Any]:
        """What some pictures must be: the header of strips, the type of each packet's NAL."""
        if self._index.codec != "h264":
            return [self._header] * len(pictures)
        first = self._index.pictures.first
        number = pictures - first[np.searchsorted(first, pictures, side="right") - 1]  # of a packet in its sample
        return np.where(number % self._index.gop_size == 0, IDR, NON_IDR).tolist()

    def _read(self, tar: int, offset: int, size: int) -> np.ndarray | None:
        opened = self._tar(tar)
        if opened is None or size < 1 or not 0 <= offset <= opened[1] - size:
            return None  # before memory is taken for bytes that a damaged index claims
        return read_bytes(opened[0].fileno(), offset, size)

    def read_one(self, picture: int) -> np.ndarray | None:
        """`read` for a single picture."""
        return self.read(np.array([picture]))[0]

    def fetch(self, pictures: np.ndarray) -> None:
        """Ask the system to bring some pictures from disk, in the order in which they lie there, and do not wait."""
        tars, offsets, sizes = self._places(pictures)
        for tar, offset, size, i in sorted(zip(tars, offsets, sizes, range(len(pictures)), strict=True)):
            self.at = tar, i
            opened = self._tar(tar, wait=False)
            if opened is not None and size > 0 and offset >= 0:
                os.posix_fadvise(opened[0].fileno(), offset, size, os.POSIX_FADV_WILLNEED)
        self.at = None

    def _places(self, pictures: np.ndarray) -> tuple[list[int], list[int], list[int]]:
        """Tar, offset and size of some pictures."""
        where = self._index.pictures
        return where.tar[pictures].tolist(), where.offset[pictures].tolist(), where.size[pictures].tolist()

    def _tar(self, number: int, *, wait: bool = True) -> tuple[FileIO, int] | None:
        """A tar and its size; None when there is none: its samples are replaced and counted like damaged ones.

        Args:
            wait: Have a remote one fetched.
        """
        if number in self._tars:
            self._tars.move_to_end(number)
            return self._tars[number]
        if not 0 <= number < len(self._index.tars):
            return None
        try:
            file = self._open(number, wait=wait)
        except OSError as error:
            if error.errno != errno.EMFILE:
                return None
            if not self._tars:
                raise ShardError(
                    f"{self._index.tars[number]}: {error.strerror}, for a batch needs many tars at once; raise the "
                    "limit (ulimit -n), or use --shuffle-window"
                ) from None
            self._tars.clear()  # those still needed come back
            return self._tar(number, wait=wait)
        except ShardError:
            raise  # a server that is gone; nothing is known of the tar
        except ValueError:
            return None
        if file is None:
            return None
        self._tars[number] = file, os.fstat(file.fileno()).st_size
        if len(self._tars) > self._max_open_tars:
            self._tars.popitem(last=False)
        return self._tars[number]

    def _open(self, number: int, *, wait: bool) -> FileIO | None:
        self.is_fetching = wait and self._index.store is not None
        try:
            return open_tar(self._index, number, stop=self.stop, let_go=self._tars.clear, wait=wait)
        finally:
            self.is_fetching = False

    def _let_go_if_asked(self) -> None:
        """Close all tars when a process has found the cache full of tars in use; those needed are opened again."""
        assert self._index.store is not None
        asked_ns = self._index.store.asked_for_room_ns()
        if asked_ns > self._let_go_ns:
            self._tars.clear()
        self._let_go_ns = asked_ns


def open_tar(
    index: ShardIndex,
    number: int,
    *,
    stop: threading.Event | None = None,
    let_go: Callable[[], None] | None = None,
    wait: bool = True,
) -> FileIO | None:
    """A tar of an index, fetched where it is remote; None for one that its store cannot give.

    Args:
        stop, let_go, wait: As `TarStore.open` takes them.

    Raises:
        OSError: It is not there.
        ShardError: Its server is gone.
    """
    if index.store is None:
        return FileIO(open_plain(index.data_dir / index.tars[number]))
    fetched = index.store.open(number, stop=stop or threading.Event(), let_go=let_go, wait=wait)
    if fetched is None:
        return None
    with fetched:  # the copy shares its lock, which keeps the tar in the cache
        return FileIO(os.dup(fetched.fileno()))


def read_bytes(file: int, offset: int, size: int) -> np.ndarray | None:
    """Some bytes of an open file: uint8 [size]; None where it has become shorter or the disk cannot read them.

    Args:
        file: Its descriptor. Other threads run while the disk is waited for.
    """
    data = np.empty(size, np.uint8)
    rest = data.data
    while len(rest):
        try:
            count = os.preadv(file, [rest], offset + size - len(rest))
        except OSError:
            return None
        if not count:
            return None
        rest = rest[count:]
    return data
