"""How commands talk to people: progress on a terminal, plain lines in a log, one line for an error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOG_EVERY_S = 10.0


class Failed(click.ClickException):
    """The command could not do its work; exit code 1. Wrong usage is click.UsageError, exit code 2."""

    def show(self, file: object = None) -> None:
        click.echo(f"error: {self.format_message()}", err=True)


Report = Callable[[int, int, str], None]


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Report]:
    """A function to call with (done, total, note) as often as one likes.

    A terminal gets a moving bar; anything else gets a line every ten seconds and one at the end.
    """
    if quiet:
        yield lambda done, total, note: None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=None, note="")
            yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)
    else:
        last_told = time.monotonic()

        def tell(done: int, total: int, note: str) -> None:
            nonlocal last_told
            if done == total or time.monotonic() - last_told >= LOG_EVERY_S:
                last_told = time.monotonic()
                click.echo(f"{title}: {done}/{total} {note}", err=True)

        yield tell
