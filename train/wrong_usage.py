"""Wrong usage of a command, said in one line."""

from typing import Any, NoReturn

import click

from pipeline.nearest import did_you_mean


class WrongUsage(click.UsageError):
    """Exit code 2, as click's own; one line that names the way out, without the usage above it."""

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.format_message()}", err=True)


class Name(click.Choice):
    """One of some names; for another one, the one that was probably meant, and all of them."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        names = [str(name) for name in self.choices]
        return f"{value} does not exist{did_you_mean(str(value), names) or ';'} choose {', '.join(names)}"

    def fail(self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None) -> NoReturn:
        raise WrongUsage(f"{param.opts[0]}: {message}" if param else message)
