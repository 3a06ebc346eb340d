"""What a person sees while something runs, and streams that neither end a run nor pass on escape codes."""

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


LINE_EVERY_S = 10.0
WINDOW_S = 60.0  # the speed is that of the last minute
WIDE = 120  # columns of a terminal


class Shown:
    """Progress as a person sees it. A terminal gets a moving bar; anything else a line every ten seconds and one at
    the end, with the same facts.

    Args:
        unit: What is counted, plural.
        console: Where the bar is drawn, if it is a terminal that can move its cursor; None for no bar.
        say: Prints one line, where there is no bar.
        transient: The bar goes away at the end.
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
            install()  # in front of what rich puts in the place of the streams while it draws

    def update(self, done: int, total: int, note: str = "", *, failed: int | None = None) -> None:
        """So much is done; as often as one likes. A number below the last one begins another round of work.

        `failed` is None where nothing can fail.
        """
        if done < self.task.completed:
            self.progress.reset(self.task.id, total=total)
        self.progress.update(self.task.id, completed=done, total=total, note=note, failed=failed)
        is_due = done == total or self.clock() - self.last_line_s >= LINE_EVERY_S
        if is_due and not self.has_bar and not self.quiet:
            self.last_line_s = self.clock()
            self.say(f"{self.title}: {facts(self.task, self.unit)}")

    def message(self, text: str, *, always: bool = False) -> None:
        """One line above the bar, or just a line; `always` also where quiet is wanted."""
        if self.has_bar:
            self.progress.console.print(plain(text), highlight=False, markup=False, soft_wrap=True)
        elif always or not self.quiet:
            self.say(text)

    def close(self) -> None:
        self.progress.stop()


class Facts(ProgressColumn):
    """What stands beside the bar."""

    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))  # the end gives way where there is no room
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(plain(facts(task, self.unit)) if task.total is not None else "")


def facts(task: Task, unit: str) -> str:
    """How far some work is, in a line: 12/90 videos, 3.4 videos/s, 0:00:23 left, 1 failed, 171 frames/s."""
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
    """A speed in the unit of time that gives a number of 1 or more, up to hours.

    >>> rate_text(1234.5, "frames"), rate_text(9.87, "clips"), rate_text(0.5, "steps"), rate_text(1 / 7200, "runs")
    ('1,234 frames/s', '9.9 clips/s', '30.0 steps/min', '0.5 runs/h')
    """
    seconds, name = next(((s, name) for s, name in ((1, "s"), (60, "min")) if rate * s >= 1), (3600, "h"))
    number = rate * seconds
    return f"{number:,.{0 if number >= 100 else 1}f} {unit}/{name}"
