"""Shared by all commands: help under headings, errors in one line, Ctrl-C, progress, tables, output files."""

import errno
import json
import math
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial, reduce
from multiprocessing import resource_tracker
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, get_args, get_origin

import click

from res3d_video.pipeline.clip import MAX_FRAME_STRIDE
from res3d_video.pipeline.errors import UserError, did_you_mean
from res3d_video.pipeline.files import write_atomically
from res3d_video.pipeline.index import choices
from res3d_video.train.progress import ProgressDisplay, console, tolerant_streams

INTERRUPTED = 130  # 128 + SIGINT, as shells count
ALL = "train.terminal.all_help"  # of the context: show every option
NOTHING_KEPT = "nothing is kept; run the same command again"
# Errors of the system that a user can fix.
OF_THE_MACHINE = {
    errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
    errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRINUSE,
}  # fmt: skip


def show_line(text: str) -> None:
    """Print a text as one line on standard error."""
    click.echo(" ".join(text.splitlines()), err=True)


class Failed(click.ClickException):
    """The command failed; exit code 1. For wrong usage see WrongUsage, exit code 2."""

    def show(self, file: object = None) -> None:
        show_line(f"error: {self.format_message()}")


class WrongUsage(click.UsageError):
    """Wrong usage; exit code 2. One line with the way out, without click's usage line above it."""

    def show(self, file: Any = None) -> None:
        show_line(f"error: {self.format_message()}")


class Interrupted(click.ClickException):
    """Ctrl-C was pressed; the message says how to resume."""

    exit_code = INTERRUPTED

    def show(self, file: object = None) -> None:
        """Print it on a new line, below a terminal's ^C."""
        click.echo(("\n" if sys.stderr.isatty() else "") + f"interrupted; {self.format_message()}", err=True)


@contextmanager
def usage_in_one_line() -> Iterator[None]:
    """Turn click's usage errors into WrongUsage, in the style of this project's errors."""
    try:
        yield
    except (WrongUsage, click.exceptions.NoArgsIsHelpError):
        raise
    except click.UsageError as error:
        message = re.sub(r"\.? \(?Did you mean ([^?]*)\?\)?", r" (did you mean \1?)", error.format_message())
        text = f"{message[:1].lower()}{message[1:]}".removesuffix(".")
        how = f"; {error.ctx.command_path} --help lists what there is" if error.ctx else ""
        raise WrongUsage(text + how, error.ctx) from error


@contextmanager
def no_interrupts() -> Iterator[None]:
    """Delay Ctrl-C until the block ends. Processes started in the block never receive it: this one ends them."""
    resource_tracker.ensure_running()  # multiprocessing would start it in the block, and starting it unblocks Ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Entry(click.Command):
    """A command or group as typed by the user."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with usage_in_one_line():
            return super().make_context(*args, **kwargs)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with tolerant_streams():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with usage_in_one_line():
            return super().invoke(ctx)


class Command(Entry):
    """A command that prints one line for errors that its user can fix and for Ctrl-C; a bug keeps its traceback.

    Args:
        go_on: How to resume after Ctrl-C.
        headings: Heading -> names of options, in the order of the help; other options come last.
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
            more = f"Every option, also: {', '.join(name[0].lower() + name[1:] for name in rare)}."
            flag: dict[str, Any] = {"is_flag": True, "is_eager": True, "expose_value": False, "show_default": False}
            self.params.append(click.Option(["--help-all"], help=more, callback=show_all_help, **flag))

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; a UserError, or the system's error about a file or a network, becomes `Failed`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted(self.go_on) from None
        except UserError as error:
            raise Failed(str(error)) from error
        except OSError as error:
            if error.errno not in OF_THE_MACHINE:
                raise
            raise Failed(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = self.headings | self.rare if ctx.meta.get(ALL) else self.headings
        placed = {name for names in [*self.headings.values(), *self.rare.values()] for name in names}
        params = {param.name: param for param in self.get_params(ctx) if isinstance(param, click.Option)}
        others = [name for name in params if name not in placed]
        for heading, names in [*shown.items(), ("Help" if self.headings else "Options", others)]:
            records = [record for name in names if name in params and (record := params[name].get_help_record(ctx))]
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class Group(Entry, click.Group):
    """Several commands in one."""

    command_class = Command


def show_all_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()


@contextmanager
def wrong_usage() -> Iterator[None]:
    """Turn a UserError of the block into WrongUsage."""
    try:
        yield
    except UserError as error:
        raise WrongUsage(str(error)) from error


class OneLine:
    """For a click.ParamType: refuses a value in one line."""

    def fail(self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None) -> NoReturn:
        raise WrongUsage(f"{param.opts[0]}: {message}" if isinstance(param, click.Option) else message, ctx)


class Name(OneLine, click.Choice):
    """One of some names; the error for another one suggests a similar name and lists all."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        names = [str(name) for name in self.choices]
        return f"{value} does not exist{did_you_mean(str(value), names) or ';'} choose {', '.join(names)}"


Report = Callable[..., None]  # `update` of train.progress.ProgressDisplay


@contextmanager
def progress(title: str, *, unit: str, quiet: bool = False) -> Iterator[Report]:
    """Show progress on standard error (`train.progress.ProgressDisplay`)."""
    shown = ProgressDisplay(
        title, unit=unit, console=console(stderr=True), say=partial(click.echo, err=True), quiet=quiet
    )
    try:
        yield shown.update
    finally:
        shown.close()


QUIET = click.option("--quiet", is_flag=True, show_default=False, help="No progress: results and errors only.")


class OutputFile(OneLine, click.Path):
    """A file to write; a temporary file is written next to it first, so that errors come before the work.

    Args:
        suffixes: Allowed suffixes; none allows any.
        is_folder: It is a folder of files.
    """

    def __init__(self, *suffixes: str, is_folder: bool = False) -> None:
        super().__init__(dir_okay=is_folder, path_type=Path)
        self._suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(str(super().convert(value, param, ctx)))
        if self._suffixes and path.suffix.lower() not in self._suffixes:
            self.fail(f"{path} must end in {choices(list(self._suffixes))}", param, ctx)
        try:
            folder = next(folder for folder in path.absolute().parents if folder.exists())
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"\n")
        except OSError as error:
            self.fail(f"{path} cannot be written ({error.strerror}); choose another file", param, ctx)
        return path


JSON_FILE = click.option("--json", "json_path", type=OutputFile(), help="Write all numbers here as JSON.")


def save_json(path: Path, value: Any) -> None:
    """Write a value as an indented JSON file, atomically."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def print_json(value: Any) -> None:
    """Print the result of --json on standard output; Failed if it is a file on a full disk.

    A closed pipe is not an error: its reader wanted no more.
    """
    click.echo(json.dumps(value))
    lost = getattr(sys.stdout, "lost", None)
    if lost is not None and not isinstance(lost, BrokenPipeError):
        raise Failed(f"standard output: the result could not be written ({lost}); the work itself is done")


@contextmanager
def extra_needed(extra: str) -> Iterator[None]:
    """Raise Failed if the block imports a package that is not installed; names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "res3d_video":
            raise
        raise Failed(f"{error.name} is not installed; pip install -e '.[{extra}]'") from None


MOST = 10**9  # of what is counted
SEED = click.IntRange(0, 2**63 - 1)
THREADS = click.IntRange(1, 1024)
CLIPS = click.IntRange(1, 10_000)  # of a video
BATCH = click.IntRange(1, 100_000)  # clips at a time
COUNT = click.IntRange(1, MOST)
WIDTH = click.IntRange(1, 1024)  # channels
STRIDE = click.IntRange(1, MAX_FRAME_STRIDE)
SIDE = click.IntRange(1, 4096)  # pixels


def with_options(*options: Callable) -> Callable:
    """A decorator that adds options in this order."""
    return lambda command: reduce(lambda so_far, option: option(so_far), reversed(options), command)


def field_options(
    kind: type, names: Iterable[str] | None = None, *, unset: bool = False, **defaults: Any
) -> list[Callable]:
    """Options that set fields of a dataclass, whose bounds are checked there.

    Args:
        names: Of the fields; None for all that are `pipeline.settings.described`.
        unset: Options that are left out are None: something else, such as a preset, has their value.
        defaults: Of options whose default differs from that of their field.
    """
    by_name = {field.name: field for field in fields(kind) if field.metadata}
    options = []
    for name in by_name if names is None else names:
        field = by_name[name]
        default = None if unset else defaults.get(name, field.default)
        about = {"default": default, "show_default": default is not None, "help": field.metadata["help"]}
        how = type_of(field.type) | field.metadata["option"]
        options.append(click.option(how.pop("flag", f"--{name.replace('_', '-')}"), name, **about, **how))
    return options


def type_of(annotation: Any) -> dict[str, Any]:
    """Arguments of click.option for values of a type: a number, a flag, one of some words, or several numbers.

    >>> type_of(float | None), type_of(bool), type_of(tuple[int, int])
    ({'type': <class 'float'>}, {'is_flag': True}, {'type': <class 'int'>, 'nargs': 2})
    """
    if isinstance(annotation, UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not type(None))
    if get_origin(annotation) is Literal:
        return {"type": click.Choice(get_args(annotation))}
    if get_origin(annotation) is tuple:
        return {"type": get_args(annotation)[0], "nargs": len(get_args(annotation))}
    return {"is_flag": True} if annotation is bool else {"type": annotation}


class Number(click.FloatRange):
    """A number in a range; NaN is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):  # click only checks whether it is below or above
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> list[str]:
    """Lines of a table whose columns are as wide as their widest cells.

    Args:
        left: Columns aligned to the left; the others, of numbers, are aligned to the right.

    >>> text_table(["way", "clips/s"], [["a", "9"], ["long", "10"]])
    ['way   clips/s', 'a           9', 'long       10']
    """
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [cell.ljust(widths[i]) if i in left else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return lines
