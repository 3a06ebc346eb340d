"""What a benchmark's page needs beside its numbers: hardware, versions, tables."""

import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from train.text_table import text_table as table

__all__ = ["installed", "machine", "machine_lines", "markdown", "table", "write"]


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
