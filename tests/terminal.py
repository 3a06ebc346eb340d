"""A terminal for the commands under test: they see a TTY, and Ctrl-C typed into it reaches all their processes."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from tests.warm import Warm

CHECKOUT = Path(__file__).resolve().parents[1]
CTRL_C = b"\x03"
DEADLINE_S = 90.0
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A program in a terminal of its own, with `variables` beside those of this process; a warm one (tests/warm.py) has
    its packages loaded already."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        variables: Mapping[str, str] | None = None,
        columns: int = 160,
        warm: bool = False,
    ) -> None:
        self._screen, ours = b"", {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
        environment = kept | ours | dict(variables or {})
        self.process: Any = Warm(words, environment=environment, terminal=slave) if warm else subprocess.Popen(
            words, cwd=CHECKOUT, env=environment, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)

    @property
    def raw(self) -> str:
        """All that was written so far, colours and movements of the cursor included."""
        return self._screen.decode(errors="replace")

    @property
    def text(self) -> str:
        """The same without them, every redrawn line one of its own."""
        return ESCAPES.sub("", self.raw).replace("\r", "\n")

    def wait_for(self, text: str) -> None:
        """Read until it is on the screen."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.text:
            assert time.monotonic() < deadline, f"no {text!r} in {self.text[-2000:]}"
            assert self._read(), f"ended without {text!r}: {self.text[-2000:]}"

    def press(self, keys: bytes) -> None:
        """Type something."""
        os.write(self._master, keys)

    def finish(self) -> int:
        """Read to the end; the exit code. Every process that was started in the terminal has ended then."""
        session = {p.pid: p for p in psutil.process_iter() if _session_of(p.pid) == self.process.pid}
        while self._read():
            pass
        code = self.process.wait(DEADLINE_S)
        _, alive = psutil.wait_procs(list(session.values()), timeout=10)
        assert not alive, [process.cmdline() for process in alive]
        return code

    def _read(self) -> bool:
        """Take in what is there, after a while; False when nothing can come any more."""
        try:
            if select.select([self._master], [], [], 0.1)[0]:
                chunk = os.read(self._master, 1 << 16)
                self._screen += chunk
                return bool(chunk)
        except OSError:  # how Linux says that nobody is at the other end
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
