"""How a remote dataset is read; nothing here changes what is read."""

import re
from dataclasses import dataclass
from pathlib import Path

from res3d_video.pipeline.errors import UserError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

MAX_BYTES = 2**60
BOUNDS = {"limit_bytes": (1, MAX_BYTES), "timeout_s": (0, 604_800), "fetch_ahead": (0, 10**6)}


@dataclass(frozen=True)
class RemoteSettings:
    """Where a remote dataset is kept here, and how hard it is tried to get.

    Attributes:
        cache: Folder on a local disk, shared by all processes of a machine; None for the user's cache folder.
        limit_bytes: Of all tars in `cache`; the least recently used ones give way. None for as much as the disk has.
        timeout_s: How long a server may be gone.
        fetch_ahead: Steps of the plan whose tars are fetched before they are needed; 0 for none.
    """

    cache: Path | None = None
    limit_bytes: int | None = None
    timeout_s: float = 180.0
    fetch_ahead: int = 64

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # nor is nan
                raise UserError(f"{name}: {value} is not possible; choose {least} to {most}")


def parse_size(text: str) -> int:
    """Bytes of a size as people write it; without a unit it is bytes.

    Raises:
        ValueError: It is no size.

    >>> parse_size("50GB"), parse_size("1.5 MiB"), parse_size("4096")
    (50000000000, 1572864, 4096)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", text.strip().upper())
    if not match or (match[3] and not match[2]):
        raise UserError(f"{text[:40]!r} is no size; choose one like 50GB, 500MB or 1TiB")
    num_bytes = float(match[1]) * (BINARY_UNITS if match[3] else UNITS)[match[2]]
    if not 1 <= num_bytes <= MAX_BYTES:
        raise UserError(f"{text[:40]!r} is not possible; choose 1 byte to {size_text(MAX_BYTES)}")
    return round(num_bytes)


def size_text(num_bytes: int) -> str:
    """Bytes as people read them.

    >>> size_text(50_000_000_000), size_text(1536), size_text(12)
    ('50 GB', '1.54 kB', '12 bytes')
    """
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes} bytes"
