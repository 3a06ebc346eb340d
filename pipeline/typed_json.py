"""JSON held to types: files of others are checked once, where they are read, and an error names the field.

msgspec refuses what JSON has not (NaN, Infinity) and numbers that float64 cannot hold. Of a key that comes twice the
last counts.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from res3d_video.pipeline.errors import UserError, os_errors_of_the_user, printable
from res3d_video.pipeline.files import read_plain

MAX_JSON_BYTES = 2**27  # predictions of 300,000 videos
MOST = 2**53  # what a float64 counts to

Count = Annotated[int, Meta(ge=0, le=MOST)]
Size = Annotated[int, Meta(ge=0, le=2**31 - 1)]  # of what is made in memory, or done one after another
Real = Annotated[float, Meta(ge=-1e30, le=1e30)]  # finite: NaN is in no range
Share = Annotated[float, Meta(ge=0, le=1)]
Text = Annotated[str, Meta(max_length=10_000)]

T = TypeVar("T")


class SchemaError(UserError):
    """A value that is not of the type it must have; the message names the field, in one line."""


def convert(value: Any, kind: type[T]) -> T:
    """A value made of dicts, lists, numbers and strings as a dataclass, or another type that msgspec knows.

    Keys that the type does not have are left out; what is of another type or out of bounds is a `SchemaError`.

    >>> convert({"fps": [25]}, dict[str, list[Real]])
    {'fps': [25.0]}
    """
    with errors_of_the_value():
        return msgspec.convert(value, kind)


def decode(text: bytes | str, kind: type[T]) -> T:
    """JSON of a type.

    >>> decode(b'{"num_frames": -1}', dict[str, Count])
    Traceback (most recent call last):
    res3d_video.pipeline.typed_json.SchemaError: [...]: expected `int` >= 0
    """
    with errors_of_the_value():
        return msgspec.json.decode(text, type=kind)


def read_json(path: Path, kind: type[T], *, what: str, way_out: str) -> T:
    """A file of JSON of a type; an error says which file and field, what it should be, and what to do."""
    with os_errors_of_the_user(path, way_out=way_out):
        content = read_plain(path, max_bytes=MAX_JSON_BYTES)
    try:
        return decode(content, kind)
    except SchemaError as error:
        raise SchemaError(f"{path}: not {what} ({error}); {way_out}") from None


@contextmanager
def errors_of_the_value() -> Iterator[None]:
    """Raises SchemaError for what msgspec says of a value, and for a UserError of a dataclass's own check."""
    try:
        yield
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if isinstance(error.__cause__, UserError):
            raise SchemaError(printable(str(error.__cause__))) from None
        if error.__cause__ is not None:
            raise  # a bug of a __post_init__
        raise SchemaError(reason_of(error)) from None


def reason_of(error: Exception) -> str:
    """What msgspec says, with the field first: config.steps: expected `int`, got `str`."""
    reason, _, place = str(error).partition(" - at ")
    reason = printable(reason)
    place = re.sub(r"^`\$\.?|`$", "", place)
    return f"{place}: {reason[:1].lower()}{reason[1:]}" if place else reason
