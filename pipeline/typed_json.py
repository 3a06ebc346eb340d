"""JSON checked against types: untrusted files are validated once, when they are read, and errors name the field.

msgspec rejects what is not JSON (NaN, Infinity) and numbers beyond float64. Of duplicate keys the last one counts.
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
    """A value is not of the expected type; the message is one line and names the field."""


def convert(value: Any, kind: type[T]) -> T:
    """Dicts, lists, numbers and strings converted to a dataclass or another type that msgspec knows.

    Keys that the type lacks are dropped; a value of another type or out of bounds raises `SchemaError`.

    >>> convert({"fps": [25]}, dict[str, list[Real]])
    {'fps': [25.0]}
    """
    with errors_of_the_value():
        return msgspec.convert(value, kind)


def decode(text: bytes | str, kind: type[T]) -> T:
    """JSON text converted to a type.

    >>> decode(b'{"num_frames": -1}', dict[str, Count])
    Traceback (most recent call last):
    res3d_video.pipeline.typed_json.SchemaError: [...]: expected `int` >= 0
    """
    with errors_of_the_value():
        return msgspec.json.decode(text, type=kind)


def read_json(path: Path, kind: type[T], *, what: str, way_out: str) -> T:
    """A JSON file converted to a type; errors name the file, the field, what it should be, and the way out."""
    with os_errors_of_the_user(path, way_out=way_out):
        content = read_plain(path, max_bytes=MAX_JSON_BYTES)
    try:
        return decode(content, kind)
    except SchemaError as error:
        raise SchemaError(f"{path}: not {what} ({error}); {way_out}") from None


@contextmanager
def errors_of_the_value() -> Iterator[None]:
    """Raise SchemaError for msgspec's errors, and for a UserError raised by a dataclass's own check."""
    try:
        yield
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if isinstance(error.__cause__, UserError):
            raise SchemaError(printable(str(error.__cause__))) from None
        if error.__cause__ is not None:
            raise  # a bug of a __post_init__
        raise SchemaError(reason_of(error)) from None


def reason_of(error: Exception) -> str:
    """msgspec's message with the field first: config.steps: expected `int`, got `str`."""
    reason, _, place = str(error).partition(" - at ")
    reason = printable(reason)
    place = re.sub(r"^`\$\.?|`$", "", place)
    return f"{place}: {reason[:1].lower()}{reason[1:]}" if place else reason
