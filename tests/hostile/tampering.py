"""Ways to tamper with a file that we read, whatever is in it; and what it may cost to read one."""

import contextlib
import copy
import io
import math
import random
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

GONE = object()
VALUES: dict[str, Any] = {
    "gone": GONE, "null": None, "negative": -1, "huge": 10**30, "text": "x", "list": [], "object": {}, "half": 0.5,
    "true": True, "nan": math.nan, "infinite": math.inf, "long": "\x1b[2J\n" * 5000, "nested": [[[[{}]]]],
}  # fmt: skip
MEMORY = 2**30  # what reading a file may cost
Place = tuple[Any, ...]


def places(value: Any, *, depth: int = 4, most: int = 3) -> Iterator[Place]:
    """Where something stands in nested dicts and lists: the keys that lead there; of long ones the first few."""
    if depth:
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in list(keys)[: most if isinstance(value, list) else None]:
            yield (key,)
            yield from ((key, *rest) for rest in places(value[key], depth=depth - 1, most=most))


def changed(value: Any, place: Place, new: Any) -> Any:
    """A copy with something else in a place; without it for GONE."""
    value = copy.copy(value)
    if len(place) > 1:
        value[place[0]] = changed(value[place[0]], place[1:], new)
    elif new is GONE:
        del value[place[0]]
    else:
        value[place[0]] = new
    return value


def bytes_tampered(content: bytes, *, flips: int = 40, cuts: int = 20) -> Iterator[tuple[str, bytes]]:
    """What can happen to any file."""
    for seed in range(flips):
        drawn, flipped = random.Random(seed), bytearray(content)
        for _ in range(4 ** (seed % 5)):
            flipped[drawn.randrange(len(flipped))] ^= 1 << drawn.randrange(8)
        yield f"flipped {seed}", bytes(flipped)
    for part in range(cuts):
        yield f"cut {part}", content[: len(content) * part // cuts]
    yield "longer", content + b"\0"
    yield "begins later", b"\0" * 100 + content
    yield "noise", random.Random(0).randbytes(5000)
    yield "zeros", bytes(len(content))
    yield "UTF-16", b"\xff\xfe" + content[:1000].decode("latin-1").encode("utf-16-le")


def zip_tampered(content: bytes, *, bomb: int = 5 * 2**28) -> Iterator[tuple[str, bytes]]:
    """Tricks with a zip file of records that are stored as they are."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}

    def written(edit: Callable[[zipfile.ZipFile], None], *, compression: int = zipfile.ZIP_STORED) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression, compresslevel=1) as archive:
            edit(archive)
        return buffer.getvalue()

    def copied(archive: zipfile.ZipFile, *, but: str = "", by: bytes | None = None) -> None:
        for name, record in records.items():
            if name != but or by is not None:
                archive.writestr(name, by if name == but and by is not None else record)

    def exploding(name: str) -> Callable[[zipfile.ZipFile], None]:
        def edit(archive: zipfile.ZipFile) -> None:
            copied(archive, but=name)
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(bomb >> 20):
                    file.write(bytes(2**20))

        return edit

    def copied_twice(archive: zipfile.ZipFile) -> None:
        copied(archive)
        copied(archive)

    def twice() -> bytes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of zipfile, which warns of names
            return written(copied_twice)

    for name in [*records][:3]:
        yield f"{name} is gone", written(lambda archive, name=name: copied(archive, but=name))
        for label, edited in {
            "empty": b"", "shorter": records[name][:-1], "longer": records[name] + b"\0", "noise": b"\x80\x02" * 99,
            "doubled": records[name] * 2,
        }.items():  # fmt: skip
            yield f"{name} {label}", written(lambda a, n=name, e=edited: copied(a, but=n, by=e))
    yield "compressed", written(copied, compression=zipfile.ZIP_DEFLATED)
    yield "bzip2", written(copied, compression=zipfile.ZIP_BZIP2)
    yield "a bomb of a record", written(exploding([*records][-1]), compression=zipfile.ZIP_DEFLATED)
    yield "empty archive", written(lambda archive: None)
    yield "each record twice", twice()
    for label, old, new in (
        ("sizes of 4 GB", 24, b"\xfe\xff\xff\xff"), ("encrypted", 8, b"\1\0"), ("of version 99", 6, b"\x63\0"),
        ("method 99", 10, b"\x63\0"), ("offsets beyond the end", 42, b"\xf0\xff\xff\x7f"),
        ("all at one place", 42, b"\0\0\0\0"), ("called folders", 38, b"\x10\0\0\0"),
        ("names of 65 kB", 28, b"\xff\xff"),
    ):  # fmt: skip
        edited, at = bytearray(content), content.find(b"PK\1\2")
        while at >= 0:
            edited[at + old : at + old + len(new)] = new
            at = content.find(b"PK\1\2", at + 4)
        yield label, bytes(edited)


@contextlib.contextmanager
def bounded_memory(*, limit: int = MEMORY) -> Iterator[None]:
    """Fail where the block takes more memory than the limit, even for a moment."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_memory()
    yield
    assert peak_memory() - before < limit


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def is_one_line(text: str) -> bool:
    """Whether this fits a terminal's line, and does nothing to it."""
    return text.isprintable() and 0 < len(text) < 2000
