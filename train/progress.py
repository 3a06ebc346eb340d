"""What a person sees while something runs, and streams that neither end a run nor pass on escape codes."""

import io
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


LINE_EVERY_S = 10.0
WINDOW_S = 60.0  # the speed is that of the last minute
MARK_EVERY_S = 0.1
WIDE = 120  # columns of a terminal


class Pace:
    """How fast things get done; every call says what time it is, in seconds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()  # (time, done), rising

    def mark(self, done: int, *, now_s: float) -> None:
        """So many are done. A number below the last one begins another round of work."""
        marks = self._marks
        if marks and done < marks[-1][1]:
            marks.clear()
        if len(marks) > 1 and now_s - marks[-2][0] < MARK_EVERY_S:
            marks.pop()
        marks.append((now_s, done))
        while len(marks) > 2 and marks[1][0] <= now_s - WINDOW_S:
            marks.popleft()

    def rate(self) -> float | None:
        """Done a second in the last minute, without what came before the first mark; None where nothing was."""
        if not self._marks:
            return None
        (begin_s, before), (end_s, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end_s - begin_s) if after > before and end_s > begin_s else None

    def left_s(self, total: int, *, now_s: float) -> float | None:
        """Seconds until `total` are done, if it goes on like this."""
        rate = self.rate()
        if rate is None:
            return None
        last_s, done = self._marks[-1]
        return max((total - done) / rate - (now_s - last_s), 0.0)


def facts(
    done: int,
    total: int,
    *,
    unit: str,
    rate: float | None = None,
    left_s: float | None = None,
    passed_s: float | None = None,
    failed: int | None = None,
    note: str = "",
) -> str:
    """How far some work is, in a line.

    Args:
        unit: What is counted, plural.
        rate: Done a second.
        left_s, passed_s: Seconds until the end, or that it took.
        failed: None where nothing can fail.

    >>> facts(12, 90, unit="videos", rate=3.4, left_s=22.9, failed=1, note="171 frames/s")
    '12/90 videos, 3.4 videos/s, 0:23 left, 1 failed, 171 frames/s'
    >>> facts(90, 90, unit="videos", passed_s=4000, failed=0)
    '90/90 videos in 1:06:40, 0 failed'
    """
    count = f"{done:,}/{total:,} {unit}" + (f" in {duration(passed_s)}" if passed_s is not None else "")
    speed = rate_text(rate, unit) if rate else ""
    left = f"{duration(left_s)} left" if left_s is not None else ""
    failures = f"{failed:,} failed" if failed is not None else ""
    return ", ".join(filter(None, (count, speed, left, failures, note)))


def duration(seconds: float) -> str:
    """
    >>> duration(9.6), duration(61), duration(100_000)
    ('0:10', '1:01', '27:46:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def rate_text(rate: float, unit: str) -> str:
    """A speed in the unit of time that gives a number of 1 or more, up to hours.

    >>> rate_text(1234.5, "frames"), rate_text(9.87, "clips"), rate_text(0.5, "steps"), rate_text(1 / 7200, "runs")
    ('1,234 frames/s', '9.9 clips/s', '30.0 steps/min', '0.5 runs/h')
    """
    seconds, name = next(((s, name) for s, name in ((1, "s"), (60, "min")) if rate * s >= 1), (3600, "h"))
    number = rate * seconds
    return f"{number:,.{0 if number >= 100 else 1}f} {unit}/{name}"


class Shown:
    """Progress as a person sees it. A terminal gets a moving bar; anything else a line every ten seconds and one at
    the end, with the same facts.

    Args:
        title: What is being done.
        unit: What is counted, plural.
        console: Where the bar is drawn, if it is a terminal that can move its cursor; None for no bar.
        say: Prints one line, where there is no bar.
        quiet: Show neither bar nor lines.
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
        self.pace, self.started_s = Pace(), clock()
        self.last_s = self.last_line_s = self.started_s
        self.bar: Progress | None = None
        if console is not None and console.is_terminal and not console.is_dumb_terminal and not quiet:
            bar = BarColumn(bar_width=20 if console.width >= WIDE else 8)
            columns = (TextColumn("{task.description}", markup=False), bar, Facts(self))
            self.bar = Progress(*columns, console=console, transient=transient)
            self.task = self.bar.add_task(plain(title), total=None, note="", failed=None)
            self.bar.start()
            install()  # in front of what rich puts in the place of the streams while it draws

    def update(self, done: int, total: int, note: str = "", *, failed: int | None = None) -> None:
        """So much is done; as often as one likes.

        Args:
            note: Whatever else is worth saying.
            failed: So far; None where nothing can fail.
        """
        now_s = self.clock()
        self.pace.mark(done, now_s=now_s)
        self.last_s = now_s
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total, note=note, failed=failed)
        elif not self.quiet and (done == total or now_s - self.last_line_s >= LINE_EVERY_S):
            self.last_line_s = now_s
            self.say(f"{self.title}: {self.line(done, total, note=note, failed=failed)}")

    def line(self, done: int, total: int, *, note: str, failed: int | None) -> str:
        """`facts` at this moment."""
        when: dict[str, float | None]
        if done == total:
            when = {"passed_s": self.last_s - self.started_s}
        else:
            when = {"left_s": self.pace.left_s(total, now_s=self.clock())}
        return facts(done, total, unit=self.unit, rate=self.pace.rate(), failed=failed, note=note, **when)

    def message(self, text: str) -> None:
        """One line above the bar, or just a line."""
        if self.bar is not None:
            self.bar.console.print(plain(text), highlight=False, markup=False, soft_wrap=True)
        else:
            self.say(text)

    def close(self) -> None:
        """Take the bar away, or leave it as it is."""
        if self.bar is not None:
            self.bar.stop()


class Facts(ProgressColumn):
    """What stands beside the bar; the time that is left runs down between updates."""

    def __init__(self, shown: Shown) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))  # the end gives way where there is no room
        self.shown = shown

    def render(self, task: Task) -> Text:
        """The facts, once there are any."""
        if task.total is None:
            return Text("")
        note, failed = task.fields["note"], task.fields["failed"]
        return Text(plain(self.shown.line(int(task.completed), int(task.total), note=note, failed=failed)))


class TrainProgress(Shown):
    """Progress of a run on rank 0, in steps.

    Args:
        total: Steps of the run.
        note: Prints a line where there is no bar, unless people want quiet.
        say: Prints a line that is always wanted.
    """

    def __init__(
        self, *, total: int, console: Console | None, note: Callable[[str], None], say: Callable[[str], None]
    ) -> None:
        super().__init__("training", unit="steps", console=console, say=note, transient=True)
        self.total, self._always = total, say

    def step(
        self, step: int, *, loss: float, clips_per_s: float, data_wait: float, num_replaced: float = 0, **_: float
    ) -> None:
        """Show a step's numbers; others than these are left out.

        Args:
            data_wait: Share of time spent waiting for clips, 0…1.
            num_replaced: Samples so far that could not be decoded.
        """
        note = f"loss {loss:.3f}, {clips_per_s:,.0f} clips/s, data wait {data_wait:.0%}"
        self.update(step, self.total, note + (f", {num_replaced:,} samples replaced" if num_replaced else ""))

    def warn(self, text: str) -> None:
        """A line that is always shown."""
        if self.bar is not None:
            self.message(text)
        else:
            self._always(text)
