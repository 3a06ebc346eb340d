"""How commands talk to people: progress on a terminal, plain lines in a log, one line for an error."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import click
from rich.console import Console

from train.progress import Shown


class Failed(click.ClickException):
    """The command could not do its work; exit code 1. Wrong usage is click.UsageError, exit code 2."""

    def show(self, file: object = None) -> None:
        click.echo(f"error: {self.format_message()}", err=True)


class Report(Protocol):
    """Told how far some work is, as often as one likes; `failed` is None where nothing can fail."""

    def __call__(self, done: int, total: int, note: str = "", *, failed: int | None = None) -> None: ...


@contextmanager
def progress(title: str, *, unit: str, quiet: bool = False) -> Iterator[Report]:
    """Show how far some work is, on standard error: `train.progress.Shown`.

    Args:
        title: What is being done.
        unit: What is counted, plural.
    """
    shown = Shown(title, unit=unit, console=Console(stderr=True), say=partial(click.echo, err=True), quiet=quiet)
    try:
        yield shown.update
    finally:
        shown.close()


QUIET = click.option("--quiet", is_flag=True, show_default=False, help="No progress: results and errors only.")
