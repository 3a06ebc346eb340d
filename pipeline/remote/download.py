"""One file from a server, in pieces: goes on where an outage cut it off, and knows its sha256 at the end."""

import hashlib
import io
import threading
from typing import BinaryIO

from pipeline.remote.body import Body
from pipeline.remote.errors import ContentError
from pipeline.remote.patience import Patience
from pipeline.remote.place import Place
from pipeline.schema import MAX_INFO_BYTES


class Pieces:
    """The bytes of a remote file from its beginning; opened anew after an error, at the place it had reached.

    Args:
        at_most: Bytes that it may have.
        wait_s: Within which there must be progress.
    """

    def __init__(self, place: Place, name: str, *, at_most: int, wait_s: float) -> None:
        self._place, self._name, self._at_most, self._wait_s = place, name, at_most, wait_s
        self._body: Body | None = None
        self._size: int | None = None
        self._reached = 0  # by what `next` has returned
        self._coming = bytearray()

    def next(self) -> bytes:
        """The next bytes, none at the end; raises what the network does, and may be called again then."""
        if self._reached == self._size:
            return b""
        try:
            if self._body is None:
                self._body = self._place.open(self._name, self._reached + len(self._coming), wait_s=self._wait_s)
                self._check_size(self._body.size)
            self._body.read_into(self._coming)
        except BaseException:
            self.close()
            raise
        piece, self._coming = bytes(self._coming), bytearray()
        self._reached += len(piece)
        if self._reached > self._at_most:
            raise ContentError(f"{self._what}: has more than the {self._at_most} bytes that are possible")
        return piece

    def close(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()

    @property
    def _what(self) -> str:
        return self._place.address(self._name)

    def _check_size(self, size: int | None) -> None:
        """What the server says of the file's size, before any of it is read."""
        if size is not None and size > self._at_most:
            raise ContentError(f"{self._what}: {size} bytes, more than the {self._at_most} that are possible")
        if self._size is not None and size != self._size:
            raise ContentError(f"{self._what}: has changed while it was read; run the same command again")
        self._size = size


def download(
    place: Place,
    name: str,
    into: BinaryIO,
    *,
    patience: Patience,
    stop: threading.Event,
    at_most: int,
    num_bytes: int | None = None,
) -> str:
    """Write a remote file into an open one, from where that stands.

    Args:
        at_most: Bytes that it may have; where the server says before that it has more, nothing is read.
        num_bytes: What it must have; None for as many as it has.

    Returns:
        Its sha256, hex.

    Raises:
        ContentError: It has another size.
        RemoteError, FileNotFoundError, Interrupted: As `Patience.until_done`.
    """
    pieces = Pieces(place, name, at_most=at_most, wait_s=patience.wait_s)
    digest, done = hashlib.sha256(), 0
    try:
        while piece := patience.until_done(pieces.next, what=place.address(name), stop=stop):
            digest.update(piece)
            done += into.write(piece)
    finally:
        pieces.close()
    if num_bytes is not None and done != num_bytes:
        raise ContentError(f"{place.address(name)}: {done} bytes, dataset.json says {num_bytes}")
    return digest.hexdigest()


def read_small(place: Place, name: str, *, patience: Patience, stop: threading.Event) -> bytes:
    """All of dataset.json or checksums.json, which may be as long as the first."""
    into = io.BytesIO()
    download(place, name, into, patience=patience, stop=stop, at_most=MAX_INFO_BYTES)
    return into.getvalue()
