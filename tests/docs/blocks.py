"""Code blocks of the pages, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import click

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = [
    *(CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "shards/README.md")),
    *sorted((CHECKOUT / "docs").rglob("*.md")),
]

FENCE = re.compile(r"^( *)(`{3,}|~{3,})([\w-]*)[^`]*$")
MARK = re.compile(r"<!-- not run: (\S.*?) -->")
IN_TEXT = re.compile(r"(?<!`)`((?:python|torchrun|res3d-)[^`\n]*(?:\n[^`\n]+)?)`(?!`)")
NAMED = re.compile(r"(?:tools|train)/[\w/]+\.py|(?:res3d_video\.)?(?:tools|train)(?:\.\w+)+|res3d-[\w-]+")
SHELL = {"|", "||", "&&", ";", "&", ">", ">>", "2>", "<"}
PLACEHOLDER = re.compile(r"\$|…|\.\.\.|^[A-Z]+$|^<.*>$|^\[")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int  # of the opening fence, 1-based
    language: str
    text: str
    reason: str | None  # why it is not run, from the comment before it

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    """The page within the checkout."""
    return page.relative_to(CHECKOUT).as_posix()


def blocks_of(text: str, *, page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = text.splitlines()
    i = 0
    while i < len(lines):
        opening = FENCE.match(lines[i])
        if opening is None:
            i += 1
            continue
        indent, fence, language = opening.groups()
        end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == fence)
        mark = MARK.fullmatch(lines[i - 1].strip()) if i else None
        inside = "".join(f"{line.removeprefix(indent)}\n" for line in lines[i + 1 : end])
        found.append(Block(page, i + 1, language, inside, mark[1] if mark else None))
        i = end + 1
    return found


@cache
def all_blocks() -> list[Block]:
    """Of all pages."""
    return [block for page in PAGES for block in blocks_of(page.read_text(), page=page)]


def command_lines(text: str) -> list[list[str]]:
    """The words of each command of a shell script: continued lines joined, comments gone, split at | and &&.

    >>> command_lines("a b \\\\\\n  c  # d\\n\\ne | f 'g h'")
    [['a', 'b', 'c'], ['e'], ['f', 'g h']]
    """
    commands: list[list[str]] = []
    text = re.sub(r"<[\w ]+>", "…", re.sub(r"\\\n", " ", text))  # <TAB> is no redirection
    for line in text.splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        words.whitespace_split = True
        commands.append([])
        for word in words:
            if word in SHELL:
                commands.append([])
            else:
                commands[-1].append(word)
    return [words for words in commands if words]


def our_commands(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The commands of this project that a command line starts: (path, module or entry, its words)."""
    for i, word in enumerate(words):
        if re.match(r"(python|torchrun) \S", word):  # srun's and sbatch's --wrap
            for inner in command_lines(word):
                yield from our_commands(inner)
        elif NAMED.fullmatch(word) and "=" not in word and is_start(words[:i]):
            yield word, words[i + 1 :]
            return


def is_start(before: list[str]) -> bool:
    """Whether words before a command's name can start it: python, torchrun, srun, a variable, or nothing."""
    return not before or any(word in ("python", "torchrun") or "=" in word for word in before)


@cache
def click_command(name: str) -> click.Command:
    """The command of a path, a module or a console entry; a LookupError if there is none."""
    entries = dict(re.findall(r"^    (res3d-[\w-]+) = ([\w.]+):main$", (CHECKOUT / "setup.cfg").read_text(), re.M))
    module = entries.get(name, name.removesuffix(".py").replace("/", "."))
    module = module if module.startswith("res3d_video.") else f"res3d_video.{module}"
    if module == "res3d_video.train.models":
        module += ".__main__"
    try:
        return import_module(module).main
    except (ImportError, AttributeError):
        raise LookupError(f"{name}: no such command") from None


class Lenient(click.ParamType):
    """Choices and numbers as their own type has them; placeholders and what only a file system can judge pass."""

    def __init__(self, own: click.ParamType) -> None:
        self.name, self.own = own.name, own

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        is_judged = isinstance(self.own, click.Choice | type(click.INT) | type(click.FLOAT))
        if not is_judged or (isinstance(value, str) and PLACEHOLDER.search(value)):
            return value
        return self.own.convert(value, param, ctx)


def mistake(name: str, words: list[str]) -> str:
    """What is wrong with a command line, by the options of the command alone; "" for nothing. Nothing is run."""
    try:
        command = click_command(name)
        if not words or asks_for_help(words):  # it is named, not used
            return ""
        words = list(words)
        while isinstance(command, click.Group):
            if not words or PLACEHOLDER.search(words[0]):
                return ""
            command = command.commands[words.pop(0)]
        command = copy(command)
        command.params = [copy(param) for param in command.params]
        for param in command.params:
            param.type, param.callback = param.type if getattr(param, "is_flag", False) else Lenient(param.type), None
        command.make_context(name, words)
    except (LookupError, click.UsageError) as error:
        return f"{name}: {error.format_message() if isinstance(error, click.UsageError) else error}"
    return ""


def asks_for_help(words: list[str]) -> bool:
    """Whether a command would only show its options."""
    return "--help" in words or "--help-all" in words
