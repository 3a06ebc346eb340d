"""What our commands share: options under headings, and Ctrl-C that ends them cleanly and says how to go on."""

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

INTERRUPTED = 130  # 128 + SIGINT, as shells count
ALL = "train.command.all_help"  # of the context: show every option
NOTHING_KEPT = "nothing is kept; run the same command again"


class Interrupted(click.ClickException):
    """Ctrl-C; the message says how to go on."""

    exit_code = INTERRUPTED

    def show(self, file: object = None) -> None:
        """A line of its own, below the ^C of a terminal."""
        click.echo(("\n" if sys.stderr.isatty() else "") + f"interrupted; {self.format_message()}", err=True)


@contextmanager
def no_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the block ends. Processes that begin in it never get it: this one decides when they end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Command(click.Command):
    """A command whose Ctrl-C ends it with a line and exit code 130.

    Args:
        go_on: What to do after Ctrl-C.
        headings: Heading -> names of options, in the order of the help, also of some that another command has; options
            that are not named come last.
        rare: The same, for headings that only --help-all shows.
    """

    def __init__(
        self,
        *args: Any,
        go_on: str = NOTHING_KEPT,
        headings: Mapping[str, Sequence[str]] | None = None,
        rare: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.go_on, self.headings, self.rare = go_on, dict(headings or {}), dict(rare or {})
        if rare:
            self.params.append(
                click.Option(
                    ["--help-all"],
                    is_flag=True,
                    is_eager=True,
                    expose_value=False,
                    callback=show_all_help,
                    show_default=False,
                    help=f"Every option, also: {', '.join(name[0].lower() + name[1:] for name in rare)}.",
                )
            )

    def invoke(self, ctx: click.Context) -> Any:
        """Run it.

        Raises:
            Interrupted: Ctrl-C came.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted(self.go_on) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, heading by heading."""
        shown = self.headings | self.rare if ctx.meta.get(ALL) else self.headings
        placed = {name for names in [*self.headings.values(), *self.rare.values()] for name in names}
        params = {param.name: param for param in self.get_params(ctx) if isinstance(param, click.Option)}
        others = [name for name in params if name not in placed]
        for heading, names in [*shown.items(), ("Help" if self.headings else "Options", others)]:
            records = [record for name in names if name in params and (record := params[name].get_help_record(ctx))]
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class Group(click.Group):
    """Several commands in one."""

    command_class = Command


def show_all_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """What --help-all does."""
    if value and not ctx.resilient_parsing:
        ctx.meta[ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()
