"""Progress display, and output streams that never end a run and pass no escape codes on."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

# Characters that move the cursor, ring the bell or reverse text, except newline and tab: C0, DEL, C1, bidi controls.
CONTROLS = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}


def plain(text: str) -> str:
    """The text with control characters escaped; names of files and classes may contain them.

    >>> plain("a\\x1b[31mb\\tc")
    'a\\\\x1b[31mb\\tc'
    """
    return text.translate(CONTROLS)


class TolerantStream:
    """A text stream that drops what it cannot write, if its reader has closed it or the disk is full.

    Attributes:
        lost: The latest reason why something was dropped; None if nothing was.
    """

    def __init__(self, stream: Any, *, controls: bool = False) -> None:
        self._stream, self._controls = stream, controls
        self.lost: Exception | None = None

    def write(self, text: str | bytes) -> int:
        """Write and flush."""
        if isinstance(text, bytes):  # click writes shell completions as bytes, and tests with b"" for a binary stream
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
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self.write("")

    def isatty(self) -> bool:
        try:
            return bool(self._stream.isatty())
        except ValueError:  # it is closed
            return False

    def with_controls(self) -> "TolerantStream":
        """The same stream, for text that moves the cursor on purpose."""
        return TolerantStream(self._stream, controls=True)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # bytes would bypass `write`
            raise AttributeError(name)
        return getattr(self._stream, name)


def install() -> None:
    """Make standard output and error tolerant. Closed standard descriptors are opened, so that no file gets their
    numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the rest of the process)
        if not isinstance(stream, TolerantStream):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # for names that the locale cannot encode
            setattr(sys, name, TolerantStream(stream))


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """`install` for a block. The process's own streams stay tolerant, as a traceback is printed after the block."""
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    install()
    try:
        yield
    finally:
        for name, stream in before.items():
            if stream is not getattr(sys, f"__{name}__"):
                setattr(sys, name, stream)


def console(*, stderr: bool) -> Console:
    """The console for a progress bar."""
    stream: Any = sys.stderr if stderr else sys.stdout
    drawn: Any = stream.with_controls() if isinstance(stream, TolerantStream) else stream
    return Console(file=drawn)


LINE_EVERY_S = 10.0
WINDOW_S = 60.0  # over which the speed is averaged
WIDE = 120  # columns of a terminal


class ProgressDisplay:
    """Shows progress: a bar in a terminal; elsewhere a line every ten seconds and one at the end.

    Args:
        unit: What is counted, plural.
        console: Where to draw the bar, if it is a terminal that can move its cursor; None for no bar.
        say: Prints one line, if there is no bar.
        transient: Remove the bar at the end.
    """

    def __init__(
        self,
        title: str,
        *,
        unit: str,
        console: Console | None,
        say: Callable[[str], None],
        quiet: bool = False,
        transient: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.unit, self.say, self.quiet, self.clock = title, unit, say, quiet, clock
        self.last_line_s = clock()
        self.has_bar = not quiet and console is not None and console.is_terminal and not console.is_dumb_terminal
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20 if console is not None and console.width >= WIDE else 8),
            Facts(unit),
            console=console,
            transient=transient,
            speed_estimate_period=WINDOW_S,
            get_time=clock,
            disable=not self.has_bar,
        )
        self.progress.add_task(plain(title), total=None, note="", failed=None)
        (self.task,) = self.progress.tasks
        self.progress.start()
        if self.has_bar:
            install()  # again, around the streams that rich installs while it draws

    def update(self, done: int, total: int, note: str = "", *, failed: int | None = None) -> None:
        """Set the progress; may be called often. A lower `done` than before starts another round of work.

        Args:
            failed: None if nothing can fail.
        """
        if done < self.task.completed:
            self.progress.reset(self.task.id, total=total)
        self.progress.update(self.task.id, completed=done, total=total, note=note, failed=failed)
        is_due = done == total or self.clock() - self.last_line_s >= LINE_EVERY_S
        if is_due and not self.has_bar and not self.quiet:
            self.last_line_s = self.clock()
            self.say(f"{self.title}: {facts(self.task, self.unit)}")

    def message(self, text: str, *, always: bool = False) -> None:
        """Print one line, above the bar if there is one; `always` prints it even if quiet."""
        if self.has_bar:
            self.progress.console.print(plain(text), highlight=False, markup=False, soft_wrap=True)
        elif always or not self.quiet:
            self.say(text)

    def close(self) -> None:
        self.progress.stop()


class Facts(ProgressColumn):
    """The text next to the bar."""

    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))  # truncated if there is no room
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(plain(facts(task, self.unit)) if task.total is not None else "")


def facts(task: Task, unit: str) -> str:
    """The progress in a line: 12/90 videos, 3.4 videos/s, 0:00:23 left, 1 failed, 171 frames/s."""
    parts = [f"{task.completed:,.0f}/{task.total:,.0f} {unit}"]
    if task.finished_time is not None:
        parts[0] += f" in {timedelta(seconds=round(task.finished_time))}"
    if speed := task.finished_speed or task.speed:
        parts.append(rate_text(speed, unit))
    if not task.finished and task.time_remaining is not None:
        parts.append(f"{timedelta(seconds=task.time_remaining)} left")
    if task.fields["failed"] is not None:
        parts.append(f"{task.fields['failed']:,} failed")
    return ", ".join([*parts, task.fields["note"]] if task.fields["note"] else parts)


def rate_text(rate: float, unit: str) -> str:
    """A speed per second, minute or hour, whichever first gives a number of at least 1.

    >>> rate_text(1234.5, "frames"), rate_text(9.87, "clips"), rate_text(0.5, "steps"), rate_text(1 / 7200, "runs")
    ('1,234 frames/s', '9.9 clips/s', '30.0 steps/min', '0.5 runs/h')
    """
    seconds, name = next(((s, name) for s, name in ((1, "s"), (60, "min")) if rate * s >= 1), (3600, "h"))
    number = rate * seconds
    return f"{number:,.{0 if number >= 100 else 1}f} {unit}/{name}"
