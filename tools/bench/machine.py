"""What the machine tells a benchmark: hardware and versions, threads of this process, pages in its cache."""

import ctypes
import mmap
import os
import platform
import re
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.train.terminal import text_table as table

__all__ = ["table"]


def installed(*packages: str) -> str | None:
    """Version of the first of some packages that is installed; None where none is."""
    for package in packages:
        with suppress(PackageNotFoundError):
            return version(package)
    return None


def machine(*packages: str) -> dict[str, Any]:
    """Hardware, system and versions, as a benchmark's page needs them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    found = {package: installed(package) for package in packages}
    versions = {"python": platform.python_version()} | {name: number for name, number in found.items() if number}
    return {
        "cpu": models[0] if models else platform.machine(),
        "num_cpus": os.cpu_count(),
        "num_cpus_allowed": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "versions": versions,
    }


def machine_lines(facts: dict[str, Any]) -> list[str]:
    """`machine` for people."""
    hardware = f"{facts['cpu']}, {facts['num_cpus_allowed']} of {facts['num_cpus']} CPUs, {facts['system']}"
    if "gpu" in facts:
        hardware = f"{facts['gpu']}; {hardware}"
    return [hardware, ", ".join(f"{name} {number}" for name, number in facts["versions"].items())]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table for a page: the first column to the left, the others to the right.

    >>> markdown(["", "clips/s"], [["x|y", "565"]])
    ['| | clips/s |', '|---|---:|', '| x\\\\|y | 565 |']
    """
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [header, *rows]]
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in cells]
    return [lines[0], "|---|" + "---:|" * (len(header) - 1), *lines[1:]]


def write(path: Path, text: str) -> None:
    """A file of text, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


TASKS = Path("/proc/self/task")
DALI_WORKERS, DALI_OTHERS, UNNAMED = "DALI threads", "DALI's executors", "other threads"
SOFTWARE_DECODERS = "software decoders"  # PyAV's, on a CPU: a pool of Python's threads
LOADER_THREAD = "clip-loader"  # the thread of a ClipLoader; Python's name for it


def thread_seconds() -> dict[int, tuple[str, float]]:
    """CPU seconds of each thread since it began, by its id, with the group it belongs to; empty where unknown."""
    try:
        ids = [int(path.name) for path in TASKS.iterdir()]
    except OSError:
        return {}
    python = {thread.native_id: thread.name for thread in threading.enumerate()}
    ticks, found = os.sysconf("SC_CLK_TCK"), {}
    for number in ids:
        try:
            stat = (TASKS / str(number) / "stat").read_text()
        except OSError:  # it has ended
            continue
        name, fields = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :].split()
        group = pool_of(python[number]) if number in python else thread_group(name)
        found[number] = (group, (int(fields[11]) + int(fields[12])) / ticks)  # utime, stime: proc(5) fields 14, 15
    return found


def pool_of(name: str) -> str:
    """The group of a Python thread: its name, unless it is one of a pool of decoders.

    >>> pool_of("clip-loader"), pool_of("decoder_1")
    ('clip-loader', 'software decoders')
    """
    return SOFTWARE_DECODERS if re.fullmatch(r"decoder_\d+", name) else name


def thread_group(name: str) -> str:
    """The group of a native thread, by the name that Linux has for it.

    >>> [thread_group(name) for name in ("[DALI][TP1]Exec", "[DALI] Executor", "python")]
    ['DALI threads', "DALI's executors", 'other threads']
    """
    if re.match(r"\[DALI\]\[TP\d*\]", name):
        return DALI_WORKERS
    return DALI_OTHERS if name.startswith("[DALI]") else UNNAMED


def seconds_by_group(before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]) -> dict[str, float]:
    """CPU seconds of each group between two readings; a thread that ended meanwhile is not counted.

    >>> seconds_by_group({1: ("a", 2.0)}, {1: ("a", 2.5), 2: ("b", 0.25), 3: ("a", 1.0)})
    {'a': 1.5, 'b': 0.25}
    """
    found: dict[str, float] = {}
    for number, (group, seconds) in after.items():
        found[group] = found.get(group, 0.0) + seconds - before.get(number, (group, 0.0))[1]
    return found


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
