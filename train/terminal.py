"""What our commands share: help under headings, errors in one line, Ctrl-C, progress, tables, files that they write."""

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
from res3d_video.train.progress import Shown, console, tolerant_streams

INTERRUPTED = 130  # 128 + SIGINT, as shells count
ALL = "train.terminal.all_help"  # of the context: show every option
NOTHING_KEPT = "nothing is kept; run the same command again"
# What the system refuses for reasons that the user can mend.
OF_THE_MACHINE = {
    errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
    errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRINUSE,
}  # fmt: skip


def show_line(text: str) -> None:
    """One line on standard error, whatever the text holds."""
    click.echo(" ".join(text.splitlines()), err=True)


class Failed(click.ClickException):
    """The command could not do its work; exit code 1. Wrong usage is click.UsageError, exit code 2."""

    def show(self, file: object = None) -> None:
        show_line(f"error: {self.format_message()}")


class WrongUsage(click.UsageError):
    """Exit code 2, as click's own; one line that names the way out, without the usage above it."""

    def show(self, file: Any = None) -> None:
        show_line(f"error: {self.format_message()}")


class Interrupted(click.ClickException):
    """Ctrl-C; the message says how to go on."""

    exit_code = INTERRUPTED

    def show(self, file: object = None) -> None:
        """A line of its own, below the ^C of a terminal."""
        click.echo(("\n" if sys.stderr.isatty() else "") + f"interrupted; {self.format_message()}", err=True)


@contextmanager
def usage_in_one_line() -> Iterator[None]:
    """What click refuses becomes WrongUsage, in the style of our own errors."""
    try:
        yield
    except (WrongUsage, click.exceptions.NoArgsIsHelpError):
        raise
    except click.UsageError as error:
        said = re.sub(r"\.? \(?Did you mean ([^?]*)\?\)?", r" (did you mean \1?)", error.format_message())
        text = f"{said[:1].lower()}{said[1:]}".removesuffix(".")
        how = f"; {error.ctx.command_path} --help lists what there is" if error.ctx else ""
        raise WrongUsage(text + how, error.ctx) from error


@contextmanager
def no_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the block ends. Processes that begin in it never get it: this one decides when they end."""
    resource_tracker.ensure_running()  # which multiprocessing would start now, and which unblocks Ctrl-C when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Entry(click.Command):
    """What the user has typed: a command, or a group of them."""

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
    """A command that ends with one line for what its user can mend and for Ctrl-C; a bug keeps its traceback.

    Args:
        go_on: What to do after Ctrl-C.
        headings: Heading -> names of options, in the order of the help; options that are not named come last.
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
        """Run it; a UserError, and the machine's word about a file or a network, become `Failed`."""
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
    """A UserError of the block becomes WrongUsage."""
    try:
        yield
    except UserError as error:
        raise WrongUsage(str(error)) from error


class OneLine:
    """Of a click.ParamType: refuses a value in one line."""

    def fail(self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None) -> NoReturn:
        raise WrongUsage(f"{param.opts[0]}: {message}" if isinstance(param, click.Option) else message, ctx)


class Name(OneLine, click.Choice):
    """One of some names; for another one, the one that was probably meant, and all of them."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        names = [str(name) for name in self.choices]
        return f"{value} does not exist{did_you_mean(str(value), names) or ';'} choose {', '.join(names)}"


Report = Callable[..., None]  # `update` of train.progress.Shown


@contextmanager
def progress(title: str, *, unit: str, quiet: bool = False) -> Iterator[Report]:
    """Show how far some work is, on standard error: `train.progress.Shown`."""
    shown = Shown(title, unit=unit, console=console(stderr=True), say=partial(click.echo, err=True), quiet=quiet)
    try:
        yield shown.update
    finally:
        shown.close()


QUIET = click.option("--quiet", is_flag=True, show_default=False, help="No progress: results and errors only.")


class OutputFile(OneLine, click.Path):
    """A file to write, tried before the work: something is written where it will lie, and removed.

    Args:
        suffixes: Endings that its name may have; none allows any.
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
    """Write a value as an indented JSON file, in one step."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def print_json(value: Any) -> None:
    """The result of --json on standard output; Failed where the disk under it is full.

    A reader that has gone wanted no more.
    """
    click.echo(json.dumps(value))
    lost = getattr(sys.stdout, "lost", None)
    if lost is not None and not isinstance(lost, BrokenPipeError):
        raise Failed(f"standard output: the result could not be written ({lost}); the work itself is done")


@contextmanager
def extra_needed(extra: str) -> Iterator[None]:
    """Raises Failed where the block imports a package that is not installed; says which extra brings it."""
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
    """A decorator that adds options, in this order."""
    return lambda command: reduce(lambda so_far, option: option(so_far), reversed(options), command)


def field_options(
    kind: type, names: Iterable[str] | None = None, *, unset: bool = False, **defaults: Any
) -> list[Callable]:
    """Options that set fields of a dataclass, whose bounds are checked there.

    Args:
        names: Of the fields; None for all that are `pipeline.settings.described`.
        unset: An option that is left out is None: something else, such as a preset, has its value.
        defaults: Of options that have another default than their field.
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
    """What makes click take values of a type: a number, a flag, one of some words, or several numbers.

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
    """A number in a range, which NaN is in none of."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):  # click looks only whether it is below or above
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> list[str]:
    """Lines of a table, as wide as its widest cells wherever it is shown.

    Args:
        left: Columns of words; the others are numbers, and to the right.

    >>> text_table(["way", "clips/s"], [["a", "9"], ["long", "10"]])
    ['way   clips/s', 'a           9', 'long       10']
    """
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [cell.ljust(widths[i]) if i in left else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return lines
