"""What a person sees while the trainer runs: a bar on a terminal, a line now and then in a log file."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainProgress:
    """Progress of a run on rank 0.

    Args:
        total: Steps of the run.
        start: Steps already done.
        console: Where the bar is drawn, if it is a terminal; None for no bar.
        say: Prints one line, when it is not.
        every_s: Seconds between such lines.
    """

    def __init__(
        self,
        *,
        total: int,
        start: int,
        console: Console | None,
        say: Callable[[str], None],
        every_s: float = 10.0,
    ) -> None:
        self.total, self.say, self.every_s = total, say, every_s
        self.next_line_s = 0.0
        self.bar: Progress | None = None
        if console is not None and console.is_terminal:
            columns = (
                BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
            )  # fmt: skip
            self.bar = Progress(*columns, console=console, transient=True)
            self.task = self.bar.add_task("", total=total, completed=start)
            self.bar.start()

    def update(self, step: int, *, loss: float, clips_per_s: float, data_wait: float, **_: float) -> None:
        """Show a step's numbers; `data_wait` is the share of time spent waiting for clips, 0…1."""
        text = f"loss {loss:.3f}  {clips_per_s:,.0f} clips/s  data wait {data_wait:.0%}"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=text)
        elif time.monotonic() >= self.next_line_s or step == self.total:
            self.say(f"step {step}/{self.total}  {text}")
            self.next_line_s = time.monotonic() + self.every_s

    def message(self, text: str) -> None:
        """One line above the bar, or just a line."""
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            self.say(text)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
