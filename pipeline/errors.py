"""Errors for users: the exception types, messages of one line, and suggestions for misspelled names."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """A mistake or problem that the user can fix: a wrong value, a damaged file, a full disk, an unreachable server.

    The message is one line: what is wrong, with the value; what is allowed; the command or change that fixes it.
    Commands print it and end with exit code 1. Any other exception is a bug in this project and keeps its traceback.
    """


class VideoFailure(Exception):
    """This video cannot become a sample; it becomes a line of quarantine.jsonl.

    `stage` says where it failed: "missing", "open", "probe", "decode" or "encode"; or "limit".
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason


class TooLargeError(Exception):
    """An encoded segment exceeds its size limit."""


@contextmanager
def os_errors_of_the_user(path: Path | str, *, way_out: str = "") -> Iterator[None]:
    """Turn an OSError of the block into a UserError that names the file, the system's reason and the way out."""
    try:
        yield
    except OSError as error:
        reason = f"{error.filename or path}: {error.strerror or error}"
        raise UserError(f"{reason}; {way_out}" if way_out else reason) from error


def one_line(error: BaseException) -> str:
    """The first paragraph of what an exception says; the system's without its number; its kind where it says nothing.

    >>> one_line(ValueError("bad\\n\\nand more")), one_line(KeyError()), one_line(FileNotFoundError(2, "No such file"))
    ('bad', 'KeyError', 'No such file')
    """
    text = str(getattr(error, "strerror", None) or error).strip()
    return printable(text.partition("\n\n")[0], most=200) or type(error).__name__


def kind_and_line(error: BaseException) -> str:
    """`one_line` after the exception's type, for failures in other packages' code."""
    return f"{type(error).__name__}: {one_line(error)}"


def printable(text: str, *, most: int = 300) -> str:
    """Untrusted text as one line without control characters, at most `most` long.

    >>> printable("a\\n\\x1b[2Jb")
    'a ?[2Jb'
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:most]


ALIKE = 0.75  # of difflib's 0…1: `ucf101-serach` is 0.92 to `ucf101-search`, `walk` 0.5 to `run_walk_jump`


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of `names`, ignoring case, spaces and punctuation; None if none is similar.

    >>> nearest("Basketball shooting", ["Basketball", "BasketballShooting", "Biking"])
    'BasketballShooting'
    """
    of_plain = {plain(candidate): candidate for candidate in reversed(list(names))}
    close = difflib.get_close_matches(plain(name), of_plain, n=1, cutoff=ALIKE)
    return of_plain[close[0]] if close else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error message: `; did you mean X?`, or "" if no name is similar.

    >>> did_you_mean("tinny", ["tiny", "modern"])
    '; did you mean tiny?'
    """
    found = nearest(name, names)
    return f"; did you mean {found}?" if found else ""


def plain(name: str) -> str:
    """A name in lower case without spaces and punctuation."""
    return "".join(character for character in name.lower() if character.isalnum())
