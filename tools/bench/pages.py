"""Whether shards are read from memory or from a disk: the page cache, asked and emptied. Linux only."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

PROCESS_IO = Path("/proc/self/io")


def resident_share(paths: Iterable[Path]) -> float | None:
    """Share of some files' bytes that is in the page cache, by mincore(2); None where that cannot be known.

    Linux tells only about files that one owns or may write to, and calls all others resident.
    """
    try:
        mincore = ctypes.CDLL(None, use_errno=True).mincore
    except (AttributeError, OSError):
        return None
    num_pages = num_resident = 0
    for path in paths:
        pages = _resident_pages(path, mincore)
        if pages is None:
            return None
        num_pages, num_resident = num_pages + len(pages), num_resident + int(pages.sum())
    return num_resident / num_pages if num_pages else None


def _resident_pages(path: Path, mincore: Any) -> np.ndarray | None:
    """Whether each page of a file is in memory: uint8 [pages], 0 or 1."""
    try:
        told = path.stat().st_uid == os.geteuid() or os.access(path, os.W_OK)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
            content = np.frombuffer(mapping, np.uint8)
            pages = np.zeros(-(-len(content) // mmap.PAGESIZE), np.uint8)
            address = ctypes.c_void_p(content.ctypes.data)
            failed = mincore(address, ctypes.c_size_t(len(content)), ctypes.c_void_p(pages.ctypes.data))
            del content  # or the mapping cannot be closed
    except (OSError, ValueError):
        return None
    return pages & 1 if told and not failed else None


def drop(paths: Iterable[Path]) -> None:
    """Take files out of the page cache; what a process has mapped and touched stays."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not on disk yet would stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_from_disk() -> int | None:
    """Bytes that this process has had fetched from storage since it began, read-ahead included; None where unknown."""
    try:
        lines = PROCESS_IO.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.partition(":")[2]) for line in lines if line.startswith("read_bytes:")), None)
