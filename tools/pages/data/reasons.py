"""Why inputs did not become samples: quarantine.jsonl and manifest.jsonl, counted by kind of reason."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from res3d_video.pipeline.files import open_plain

MAX_EXAMPLES = 5  # of each kind of reason
MAX_KINDS = 40  # named; the rest is counted together
MAX_BYTES = 2**28  # read of a file; 1.1 million lines have less
MAX_LINE = 2**16


@dataclass
class Kind:
    """Reasons that differ only by numbers and names."""

    stage: str
    pattern: str
    count: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Quarantine:
    """What quarantine.jsonl holds.

    Attributes:
        kinds: The most frequent first.
        is_cut: The file is longer than what was read of it.
    """

    num_lines: int = 0
    num_damaged: int = 0
    kinds: list[Kind] = field(default_factory=list)
    num_other: int = 0
    is_cut: bool = False


def pattern_of(reason: str, source: str = "") -> str:
    """A reason with what is particular to one video left out.

    >>> pattern_of("v_a.avi: 3 of 8 frames were found", "x/v_a.avi")
    'N of N frames were found'
    >>> pattern_of("Invalid NAL at 0x7f3a [h264 @ 0x55d0]")
    'Invalid NAL at N [h264 @ N]'
    """
    path = PurePosixPath(source)
    for name in (source, path.name, path.stem):
        if len(name) > 2:
            reason = reason.replace(name, "…")
    return re.sub(r"\b0x[0-9a-fA-F]+|(?<![\w.])\d[\d.,]*(?<=\d)", "N", reason).removeprefix("…: ")[:300]


def read_quarantine(path: Path) -> Quarantine | None:
    """The reasons of a quarantine.jsonl by kind; None where there is no such file."""
    found, kinds = Quarantine(), dict[tuple[str, str], Kind]()
    try:
        for line in lines_of(path):
            if line is None:
                found.is_cut = True
                break
            found.num_lines += 1
            about = parsed(line)
            if about is None:
                found.num_damaged += 1
                continue
            stage, reason, source = (str(about.get(name, ""))[:1000] for name in ("stage", "reason", "source"))
            key = stage[:40], pattern_of(reason, source)
            kind = kinds.get(key)
            if kind is None:
                if len(kinds) >= 100 * MAX_KINDS:
                    found.num_other += 1
                    continue
                kind = kinds[key] = Kind(*key)
            kind.count += 1
            if len(kind.examples) < MAX_EXAMPLES:
                kind.examples.append({"source": source, "reason": reason})
    except OSError:
        return None
    ordered = sorted(kinds.values(), key=lambda kind: (-kind.count, kind.stage, kind.pattern))
    found.kinds, rest = ordered[:MAX_KINDS], ordered[MAX_KINDS:]
    found.num_other += sum(kind.count for kind in rest)
    return found


def read_manifest(path: Path) -> dict[str, Counter[str]] | None:
    """Of a manifest.jsonl: state -> side -> videos, and "in both lists"; None where there is no such file."""
    counts: dict[str, Counter[str]] = {}
    try:
        for line in lines_of(path):
            about = parsed(line) if line is not None else None
            if about is None:
                continue
            own = counts.setdefault(str(about.get("state", "unknown"))[:40], Counter())
            own[str(about.get("subset", "no side"))[:40]] += 1
            own["in both lists"] += bool(about.get("in_both_lists"))
    except OSError:
        return None
    return counts


def lines_of(path: Path) -> Iterator[bytes | None]:
    """The lines of a file as far as it is read; None at the end where there are more.

    Raises:
        OSError: It cannot be read.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        num_read = 0
        while line := file.readline(MAX_LINE):
            num_read += len(line)
            if num_read > MAX_BYTES:
                yield None
                return
            yield line


def parsed(line: bytes) -> dict[str, Any] | None:
    """A line as an object; None where it is none."""
    try:
        about = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return about if isinstance(about, dict) else None
