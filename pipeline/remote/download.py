"""One file from a server, in pieces: goes on where an outage cut it off, and knows its sha256 at the end."""

import contextlib
import hashlib
import threading
from typing import BinaryIO

from pipeline.remote.errors import ContentError
from pipeline.remote.patience import Patience
from pipeline.remote.place import CHUNK_BYTES, Place


class Pieces:
    """The bytes of a remote file from its beginning; opened anew after an error, at the place it had reached."""

    def __init__(self, place: Place, name: str) -> None:
        self._place, self._name = place, name
        self._file: BinaryIO | None = None
        self._reached = 0

    def next(self) -> bytes:
        """The next bytes, none at the end; raises what the network does, and may be called again then."""
        try:
            if self._file is None:
                self._file = self._open()
            piece = self._file.read(self._num_next(self._file))
        except BaseException:
            self.close()
            raise
        self._reached += len(piece)
        return piece

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):  # it is read from; nothing can be lost
                file.close()

    def _num_next(self, file: BinaryIO) -> int:
        """Bytes to ask for: no more than there are, where that is known; some servers mind."""
        size = getattr(file, "size", None)
        return CHUNK_BYTES if size is None else max(0, min(CHUNK_BYTES, size - self._reached))

    def _open(self) -> BinaryIO:
        file = self._place.open(self._name)
        try:
            file.seek(self._reached)
        except ValueError:  # a web server that does not answer parts of files: what is known is read again
            rest = self._reached
            while rest and (again := file.read(min(rest, CHUNK_BYTES))):
                rest -= len(again)
        return file


def download(
    place: Place, name: str, into: BinaryIO, *, patience: Patience, stop: threading.Event, num_bytes: int | None = None
) -> str:
    """Write a remote file into an open one, from where that stands.

    Args:
        num_bytes: What it must have; None for as many as it has.

    Returns:
        Its sha256, hex.

    Raises:
        ContentError: It has another size.
        RemoteError, FileNotFoundError, Interrupted: As `Patience.until_done`.
    """
    pieces, what = Pieces(place, name), place.address(name)
    digest, done = hashlib.sha256(), 0
    try:
        while piece := patience.until_done(pieces.next, what=what, stop=stop):
            done += len(piece)
            if num_bytes is not None and done > num_bytes:
                raise ContentError(f"{what}: has more than the {num_bytes} bytes that dataset.json says")
            digest.update(piece)
            into.write(piece)
    finally:
        pieces.close()
    if num_bytes is not None and done != num_bytes:
        raise ContentError(f"{what}: {done} bytes, dataset.json says {num_bytes}")
    return digest.hexdigest()
