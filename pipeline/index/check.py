"""Is a dataset.json fit to be read? It may be damaged, or written by somebody who means harm."""

import json
import reprlib
from collections.abc import Callable
from typing import Any

from pipeline.errors import UserError
from pipeline.filmstrip import MCU
from pipeline.source.plain_file import is_plain_name

MAX_INFO_BYTES = 2**25  # of dataset.json; that of five million samples has less than half
MAX_CONTAINERS = 2**20  # objects and lists in it: 200 bytes each in memory, where one takes two bytes to write
MAX_SIDE, MAX_AREA = 65_520, 2**26  # of a stored frame; the first is JPEG's
MAX_STRIP_AREA = 2**27
MAX_COUNT = 2**40


class IndexFault(UserError):
    """What is wrong with an index, in one line."""


def parse_json(content: bytes) -> dict[str, Any]:
    """An object that somebody else has written as JSON; nothing else is known of it, but that it is not too large.

    Raises:
        IndexFault: It is too long, not JSON, or not an object.

    >>> parse_json(b'{"a": [1]}')
    {'a': [1]}
    """
    if len(content) > MAX_INFO_BYTES or content.count(b"[") + content.count(b"{") > MAX_CONTAINERS:
        raise IndexFault(f"too large; possible are {MAX_INFO_BYTES} bytes with {MAX_CONTAINERS} objects and lists")
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise IndexFault(f"not JSON ({one_line(error)})") from None
    if not isinstance(parsed, dict):
        raise IndexFault("not JSON of an object")
    return parsed


def one_line(error: Exception) -> str:
    """What an exception says, short."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200] or type(error).__name__


def short(value: Any) -> str:
    """A value of any size and depth, for a message.

    >>> short([[0] * 99, "x"])
    "[[0, 0, 0, 0, 0, 0, ...], 'x']"
    """
    return " ".join(reprlib.repr(value)[:60].split())


class Fields:
    """The fields of an object, asked for one by one; each question raises IndexFault where the answer is no."""

    def __init__(self, of: dict[str, Any]) -> None:
        self._of = of

    def need(self, name: str, fits: Callable[[Any], bool], rule: str) -> None:
        """A field for which `fits` holds."""
        if name not in self._of:
            raise IndexFault(f"{name} is missing; it must be {rule}")
        if not fits(self._of[name]):
            raise IndexFault(f"{name} is {short(self._of[name])}; it must be {rule}")

    def value(self, name: str) -> Any:
        """A field that is there."""
        return self._of[name]

    def integer(self, name: str, low: int, high: int, *, multiple_of: int = 1) -> None:
        """A whole number in bounds, both included."""
        step = f", a multiple of {multiple_of}" if multiple_of > 1 else ""
        self.need(
            name,
            lambda value: is_integer(value, low, high) and value % multiple_of == 0,
            f"a whole number from {low} to {high}{step}",
        )

    def names(self, name: str) -> None:
        """A list of different words."""
        self.need(name, is_names, "a list of different names")

    def hexadecimal(self, name: str, *, num_bytes: int | None = None) -> None:
        """Some bytes."""
        self.need(
            name,
            lambda value: is_hexadecimal(value) and num_bytes in (None, len(value) // 2),
            f"{num_bytes or 'some'} bytes in hexadecimal",
        )


def check_info(info: dict[str, Any], *, picture: str) -> None:
    """Every field of dataset.json that is read is there, of its type and in its bounds.

    Args:
        picture: What the codec's pictures are called: "strip" or "packet".

    Raises:
        IndexFault: One is not.
    """
    fields = Fields(info)
    fields.need("name", is_plain_name, "a plain name")
    fields.names("classes")
    fields.names("split_names")
    fields.need("fingerprint", lambda value: isinstance(value, str) and value.isalnum(), "letters and digits")
    for name in ("num_samples", f"num_{picture}s", "num_frames", *(["num_labels"] if "num_labels" in info else [])):
        fields.integer(name, 0, MAX_COUNT)
    fields.need("class_counts", lambda value: is_counts(value, info["classes"]), "the number of samples of each class")
    fields.need(
        "splits",
        lambda value: (
            isinstance(value, dict)
            and set(value) == set(info["split_names"])
            and all(is_counts(counts, ["train", "test"]) for counts in value.values())
        ),
        "the number of samples of each side of each split",
    )
    fields.need("codec", lambda value: isinstance(value, dict), "an object")
    check_codec(Fields(info["codec"]), picture=picture)
    fields.need("shards", lambda value: isinstance(value, list), "a list")
    check_shards(info["shards"])
    total = sum(shard["num_samples"] for shard in info["shards"])
    if total != info["num_samples"]:
        raise IndexFault(f"num_samples is {info['num_samples']}; its shards have {total}")


def check_codec(codec: Fields, *, picture: str) -> None:
    """What dataset.json says of how frames are stored."""
    codec.integer("size", 16, MAX_SIDE)
    codec.integer("frame_step", 1, 2)
    codec.integer("tile_width", MCU, MAX_SIDE, multiple_of=MCU)
    codec.integer("tile_height", MCU, MAX_SIDE, multiple_of=MCU)
    if codec.value("tile_width") * codec.value("tile_height") > MAX_AREA:
        size = f"{codec.value('tile_width')}×{codec.value('tile_height')}"
        raise IndexFault(f"tiles are {size}; they must have at most {MAX_AREA} pixels")
    if picture == "strip":
        codec.integer("strip_frames", 1, 256)
        codec.integer("phase_stride", 1, 32)
        codec.integer("quality", 1, 100)
        height = codec.value("strip_frames") * codec.value("tile_height")
        if height > MAX_SIDE or height * codec.value("tile_width") > MAX_STRIP_AREA:
            size = f"{codec.value('tile_width')}×{height}"
            raise IndexFault(
                f"strips are {size}; they must have at most {MAX_STRIP_AREA} pixels and a height of {MAX_SIDE}"
            )
    else:
        codec.integer("gop_size", 2, 250)
        codec.hexadecimal("avcc")
        codec.hexadecimal("blank")


def check_shards(shards: list[Any]) -> None:
    """The tars that dataset.json names; none leads out of its folder."""
    seen: set[str] = set()
    for shard in shards:
        if not isinstance(shard, dict):
            raise IndexFault(f"shards has {short(shard)}; it must have objects")
        fields = Fields(shard)
        fields.need("tar", lambda value: is_tar_name(value) and value not in seen, "the plain name of a tar")
        fields.integer("num_bytes", 1, MAX_COUNT)
        fields.integer("num_samples", 0, MAX_COUNT)
        fields.hexadecimal("sha256", num_bytes=32)
        seen.add(shard["tar"])


def is_tar_name(value: Any) -> bool:
    """Whether this names a tar in the dataset's folder."""
    return is_plain_name(value) and value.endswith(".tar")


def is_integer(value: Any, low: int, high: int) -> bool:
    """Whether this is a whole number in bounds, both included; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_names(value: Any) -> bool:
    """Whether this is a list of different words of at most 1000 characters."""
    fit = isinstance(value, list) and all(isinstance(name, str) and 0 < len(name) <= 1000 for name in value)
    return fit and len(set(value)) == len(value)


def is_counts(value: Any, names: list[str]) -> bool:
    """Whether this is an object with a number for each of these names and no other."""
    fit = isinstance(value, dict) and set(value) == set(names)
    return fit and all(is_integer(count, 0, MAX_COUNT) for count in value.values())


def is_hexadecimal(value: Any) -> bool:
    """Whether this is some bytes in hexadecimal.

    >>> is_hexadecimal("00ff"), is_hexadecimal("0"), is_hexadecimal(""), is_hexadecimal(None)
    (True, False, False, False)
    """
    try:
        return isinstance(value, str) and len(bytes.fromhex(value)) * 2 == len(value) > 0
    except ValueError:
        return False
