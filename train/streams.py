"""Standard output and standard error that never end a run and never pass on somebody's escape codes."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

# What can move a cursor, ring a bell or turn text around, but for newline and tab: C0, DEL, C1, bidi controls.
CONTROLS = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}


def plain(text: str) -> str:
    """The text with its control characters written out; names of files and classes may carry them.

    >>> plain("a\\x1b[31mb\\tc")
    'a\\\\x1b[31mb\\tc'
    """
    return text.translate(CONTROLS)


class TolerantStream:
    """A text stream whose reader may be gone and whose disk may be full: what cannot be written is dropped.

    Args:
        stream: Where text goes.
        controls: Pass control characters on, for a progress bar that moves the cursor.

    Attributes:
        lost: Why something was dropped, the latest reason; None if nothing was.
    """

    def __init__(self, stream: Any, *, controls: bool = False) -> None:
        self._stream, self._controls = stream, controls
        self.lost: Exception | None = None

    def write(self, text: str | bytes) -> int:
        """Write and flush, so that nothing waits for the end of the process."""
        if isinstance(text, bytes):  # click writes shell completions so; with b"" it asks whether this stream is binary
            if not text:
                raise TypeError("a text stream")
            text = text.decode(errors="replace")
        try:
            self._stream.write(text if self._controls else plain(text))
            self._stream.flush()
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self.lost = error
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing waits, unless the stream itself holds it."""
        self.write("")

    def isatty(self) -> bool:
        """Whether a person looks at it."""
        try:
            return bool(self._stream.isatty())
        except ValueError:  # it is closed
            return False

    def with_controls(self) -> "TolerantStream":
        """The same stream for what moves the cursor on purpose."""
        return TolerantStream(self._stream, controls=True)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # bytes would go past `write`
            raise AttributeError(name)
        return getattr(self._stream, name)


def install() -> None:
    """Make standard output and error tolerant. A closed descriptor is opened again, so that no file gets its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the rest of the process)
        if not isinstance(stream, TolerantStream):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a name that the locale has no letters for
            setattr(sys, name, TolerantStream(stream))


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """`install` for a block; for good where the streams are the process's own, as a traceback comes after the block."""
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    install()
    try:
        yield
    finally:
        for name, stream in before.items():
            if stream is not getattr(sys, f"__{name}__"):
                setattr(sys, name, stream)


def console(*, stderr: bool) -> Console:
    """Where a progress bar is drawn."""
    stream: Any = sys.stderr if stderr else sys.stdout
    drawn: Any = stream.with_controls() if isinstance(stream, TolerantStream) else stream
    return Console(file=drawn)
