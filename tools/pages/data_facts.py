"""What a dataset's page counts: classes, lengths, leaks, key.json of random samples, videos that did not become any."""

import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import open_plain
from res3d_video.pipeline.index import SUBSETS, ShardIndex, chunks
from res3d_video.pipeline.reader import open_tar
from res3d_video.pipeline.schema import CRC32, SIZE
from res3d_video.tools.key_json import KeyJson, read_meta

SIDES = ("train", "test", "neither")  # columns of `side_counts`
SIDE_VALUES = (SUBSETS["train"], SUBSETS["test"], 0)
MAX_SAMPLES, MAX_SECONDS = 20_000, 10.0  # whose key.json is read; all of UCF101 and HMDB51
MAX_EXAMPLES = 5  # of each leak, and of each kind of reason
MAX_COMPARED = 10_000  # samples whose frames are all compared; of more, the first and the last frame decide
MAX_KINDS = 40  # of reasons; the rest is counted together
MAX_BYTES = 2**28  # read of quarantine.jsonl; 1.1 million lines have less
MAX_LINE = 2**16


def split_column(index: ShardIndex, split: str | None) -> int:
    """Which column of `index.subsets` is meant; None takes split 1, else the first.

    Raises:
        UserError: There is no such split.
    """
    names = index.split_names
    if split is None:
        return names.index("1") if "1" in names else 0
    if split not in names:
        raise UserError(f"{index.name}: split {split} does not exist; choose {' or '.join(names)}")
    return names.index(split)


def side_counts(index: ShardIndex, split: int) -> np.ndarray:
    """Samples of every class on every side of a split: int64 [K, 3], columns as in `SIDES`. First labels count."""
    counts = np.zeros((len(index.classes), 3), np.int64)
    for rows in chunks(index.num_samples):
        together = index.labels[rows].astype(np.int64) * 3 + index.subsets[rows, split]
        counts += np.bincount(together, minlength=counts.size).reshape(counts.shape)
    return counts[:, SIDE_VALUES]


def balance(counts: np.ndarray) -> dict[str, Any] | None:
    """Of samples a class, int [K]; None where no class has any.

    >>> balance(np.array([4, 0, 2, 4]))
    {'num_classes': 3, 'largest': 4, 'smallest': 2, 'ratio': 2.0}
    """
    present = counts[counts > 0]
    if not len(present):
        return None
    largest, smallest = int(present.max()), int(present.min())
    return {"num_classes": len(present), "largest": largest, "smallest": smallest, "ratio": largest / smallest}


def lacking(counts: np.ndarray, classes: list[str]) -> dict[str, list[str]]:
    """Classes without samples, or on one side although they have some on another.

    >>> lacking(np.array([[2, 1, 0], [0, 3, 0], [4, 0, 0], [0, 0, 0]]), ["a", "b", "c", "d"])
    {'no samples': ['d'], 'no training samples': ['b'], 'no test samples': ['c']}
    """
    some = counts.sum(axis=1) > 0
    found = {"no samples": ~some, "no training samples": some & (counts[:, 0] == 0)}
    found["no test samples"] = some & (counts[:, 1] == 0)
    return {name: [classes[i] for i in np.flatnonzero(rows)] for name, rows in found.items()}


def counted(values: np.ndarray | list[float] | list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Different values, rising, and how often each occurs; NaN is left out.

    >>> [part.tolist() for part in counted([25.0, 29.97, 25.0, math.nan])]
    [[25.0, 29.97], [2, 1]]
    """
    known = np.asarray(values)
    return np.unique(known[~np.isnan(known)] if known.dtype.kind == "f" else known, return_counts=True)


def stored_sizes(index: ShardIndex) -> Counter[tuple[int, int]]:
    """Stored width and height, pixels -> samples."""
    found = Counter[tuple[int, int]]()
    for rows in chunks(index.num_samples):
        together = index.content[rows, 2].astype(np.int64) << 16 | index.content[rows, 3]
        for value, count in zip(*(part.tolist() for part in counted(together)), strict=True):
            found[value >> 16, value & 0xFFFF] += count
    return found


# key.json


@dataclass
class LookedAt:
    """What the key.json of some samples says.

    Attributes:
        rows: Samples whose key.json was read.
        num_unreadable: Samples where it could not be.
        fps: Of each row, frames of the source a second; NaN where it says none.
        duration_s: Of each row, the stored frames' time.
        source_sizes: Widths and heights of the sources as players show them, pixels -> samples.
        warnings: With numbers replaced -> samples.
    """

    rows: list[int] = field(default_factory=list)
    num_unreadable: int = 0
    fps: list[float] = field(default_factory=list)
    duration_s: list[float] = field(default_factory=list)
    source_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)

    def add(self, index: ShardIndex, row: int, meta: KeyJson | None) -> None:
        """Count one sample."""
        if meta is None:
            self.num_unreadable += 1
            return
        fps = meta["fps"] or math.nan
        self.rows.append(row)
        self.fps.append(round(fps, 3))
        self.duration_s.append(int(index.num_frames[row]) * index.frame_step / fps)
        if "source_size" in meta:
            self.source_sizes[meta["source_size"]] += 1
        self.warnings.update({pattern_of(one[:300]) for one in meta.get("warnings", [])})


def look_at(
    index: ShardIndex,
    rows: np.ndarray,
    *,
    seed: int,
    max_seconds: float = MAX_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> LookedAt:
    """Read the key.json of at most MAX_SAMPLES random samples, tar after tar, until the time is over.

    Args:
        rows: Samples to draw from.
    """
    random, begin_s, found = np.random.default_rng(seed), clock(), LookedAt()
    drawn = np.sort(random.choice(rows, size=min(MAX_SAMPLES, len(rows)), replace=False))
    tars = index.tar_of(drawn)
    for tar in random.permutation(np.unique(tars)).tolist():
        if found.rows and clock() - begin_s > max_seconds:
            break
        try:
            file = open_tar(index, tar)
        except OSError:
            file = None
        for row in drawn[tars == tar].tolist():
            found.add(index, row, None if file is None else read_meta(index, row, file))
    return found


# Leaks


@dataclass(frozen=True)
class Leak:
    """What is on both sides of one split.

    Attributes:
        kind: "group", "source" or "content": segments with the same pictures.
        count: Things on both sides.
        num_things: Different things in the dataset; 0 where the index names none.
        num_test: Test samples concerned.
        examples: name, num_train, num_test, and keys of a few samples of each side under train and test.
    """

    split: str
    kind: str
    count: int
    num_things: int
    num_test: int
    examples: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Its kind for people."""
        return {"group": "group", "source": "source video", "content": "identical segment"}[self.kind]


def leaks(index: ShardIndex) -> list[Leak]:
    """Groups, sources and pictures on both sides, a `Leak` for each kind and split."""
    found = []
    for kind, names in (("group", index.groups), ("source", index.sources), ("content", None)):
        numbers = content_hashes(index) if names is None else hashes(names)
        is_known = numbers != (0 if names is None else hash(b""))
        different, thing = np.unique(numbers, return_inverse=True)
        num_things = len(different) - (not is_known.all())
        for column, split in enumerate(index.split_names):
            on_side = np.stack([is_known & (index.subsets[:, column] == SUBSETS[side]) for side in ("train", "test")])
            found.append(_leak(index, thing, on_side, split=split, kind=kind, num_things=num_things))
    return found


def hashes(names: np.ndarray) -> np.ndarray:
    """64-bit hashes of byte strings, equal where these are: int64 [N].

    Of five million different names two meet in one number once in a million times.
    """
    out = np.empty(len(names), np.int64)
    for rows in chunks(len(names)):
        out[rows] = np.fromiter(map(hash, names[rows].tolist()), np.int64)
    return out


def content_hashes(index: ShardIndex) -> np.ndarray:
    """A number a sample, equal where length, first and last frame are: int64 [N]; 0 where no sizes are known."""
    out = np.zeros(index.num_samples, np.int64)
    for rows in chunks(index.num_samples):
        first = index.frames[index.first_frame[rows]]  # [n, 3]
        last = index.frames[index.first_frame[rows.start + 1 : rows.stop + 1] - 1]
        columns = [index.num_frames[rows], *(ends[:, column] for column in (CRC32, SIZE) for ends in (first, last))]
        numbers = np.fromiter(map(hash, zip(*(column.tolist() for column in columns), strict=True)), np.int64)
        out[rows] = np.where(first[:, SIZE] > 0, numbers, 0)
    return out


def _leak(index: ShardIndex, thing: np.ndarray, on_side: np.ndarray, *, split: str, kind: str, num_things: int) -> Leak:
    """What one split has on both sides.

    Args:
        thing: int64 [N], 0-based, equal where samples are of one thing.
        on_side: bool [2, N], training samples and test samples that are of any thing.
    """
    rows = on_both_sides(thing, on_side)
    own = thing[rows]
    if kind == "content" and 0 < len(rows) <= MAX_COMPARED:
        frames = [index.frames[index.first_frame[row] : index.first_frame[row + 1], SIZE:].tobytes() for row in rows]
        own = np.unique(np.fromiter(map(hash, frames), np.int64), return_inverse=True)[1]
        kept = on_both_sides(own, on_side[:, rows])
        rows, own = rows[kept], own[kept]
    is_test = on_side[1][rows]
    different, first = np.unique(own, return_index=True)
    examples = []
    for number in different[np.argsort(first, kind="stable")[:MAX_EXAMPLES]].tolist():
        train, test = (rows[(own == number) & (is_test == side)] for side in (False, True))
        name = (
            index.groups[train[0]].decode(errors="backslashreplace") if kind == "group" else index.source(int(train[0]))
        )
        keys = [[f"{index.key(row)} {index.source(row)}" for row in side[:2].tolist()] for side in (train, test)]
        examples.append(
            {"name": name, "num_train": len(train), "num_test": len(test), "train": keys[0], "test": keys[1]}
        )
    return Leak(split, kind, len(different), num_things, int(is_test.sum()), examples)


def on_both_sides(thing: np.ndarray, on_side: np.ndarray) -> np.ndarray:
    """Rows of the things that have some on each side: int64, rising.

    >>> on_both_sides(np.array([0, 0, 1, 2, 2]), np.array([[1, 0, 1, 0, 0], [0, 1, 0, 1, 1]], bool))
    array([0, 1])
    """
    has = np.zeros((2, int(thing.max(initial=0)) + 1), bool)
    for side, rows in enumerate(on_side):
        has[side, thing[rows]] = True
    return np.flatnonzero((has[0] & has[1])[thing] & (on_side[0] | on_side[1]))


# Videos that did not become samples


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
        num_other: Lines of further kinds.
        is_cut: The file is longer than what was read of it.
    """

    num_lines: int = 0
    num_damaged: int = 0
    kinds: list[Kind] = field(default_factory=list)
    num_other: int = 0
    is_cut: bool = False


def pattern_of(reason: str, source: str = "") -> str:
    """A reason without what is particular to one video.

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
        for line in _lines(path):
            if line is None:
                found.is_cut = True
                break
            found.num_lines += 1
            if (about := _parsed(line)) is None:
                found.num_damaged += 1
                continue
            stage, reason, source = (str(about.get(name, ""))[:1000] for name in ("stage", "reason", "source"))
            key = stage[:40], pattern_of(reason, source)
            if key not in kinds and len(kinds) >= 100 * MAX_KINDS:
                found.num_other += 1
                continue
            kind = kinds.setdefault(key, Kind(*key))
            kind.count += 1
            if len(kind.examples) < MAX_EXAMPLES:
                kind.examples.append({"source": source, "reason": reason})
    except OSError:
        return None
    ordered = sorted(kinds.values(), key=lambda kind: (-kind.count, kind.stage, kind.pattern))
    found.kinds = ordered[:MAX_KINDS]
    found.num_other += sum(kind.count for kind in ordered[MAX_KINDS:])
    return found


def read_manifest(path: Path) -> dict[str, Counter[str]] | None:
    """Of a manifest.jsonl: state -> side -> videos, and "in both lists"; None where there is no such file."""
    counts: dict[str, Counter[str]] = {}
    try:
        for line in _lines(path):
            if line is None or (about := _parsed(line)) is None:
                continue
            own = counts.setdefault(str(about.get("state", "unknown"))[:40], Counter())
            own[str(about.get("subset", "no side"))[:40]] += 1
            own["in both lists"] += bool(about.get("in_both_lists"))
    except OSError:
        return None
    return counts


def _lines(path: Path) -> Iterator[bytes | None]:
    """The lines of a file as far as it is read; None at the end where there are more."""
    with os.fdopen(open_plain(path), "rb") as file:
        num_read = 0
        while line := file.readline(MAX_LINE):
            num_read += len(line)
            if num_read > MAX_BYTES:
                yield None
                return
            yield line


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line as an object; None where it is none."""
    try:
        about = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return about if isinstance(about, dict) else None
