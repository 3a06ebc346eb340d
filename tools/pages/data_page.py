"""The HTML page of a dataset: a gallery, classes, lengths, leaks, videos that failed, settings."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypedDict

import numpy as np

from res3d_video.pipeline.convert.run import reasons_of
from res3d_video.pipeline.files import read_plain
from res3d_video.pipeline.index import SUBSETS, ShardIndex
from res3d_video.pipeline.reader import FrameFiles
from res3d_video.pipeline.schema import CRC32, SIZE
from res3d_video.pipeline.typed_json import SchemaError, Text, decode
from res3d_video.tools.pages.markup import Clip, flatten, plural, render, video_of
from res3d_video.tools.samples import KeyJson, read_key_json
from res3d_video.train.terminal import Report

SIDES = {"train": SUBSETS["train"], "val": SUBSETS["val"], "test": SUBSETS["test"], "none": 0}
MAX_LOOKED_AT = 1000  # random samples whose key.json is read
MAX_BYTES = 12_000_000  # approximate size of all videos of the gallery
NUM_READERS = 16  # threads that read key.json, which helps with datasets behind a URL
MAX_QUARANTINE_BYTES = 2**28  # 1.1 million lines have less


def data_page(
    index: ShardIndex, *, num_classes: int = 12, per_class: int = 2, seed: int | None = None, report: Report
) -> str:
    """The page of a dataset.

    Args:
        num_classes, per_class: Most classes in the gallery, and most samples of each.
        seed: Seed of the random samples; None draws other samples each time.

    Raises:
        ShardError: The server of a remote dataset does not answer.
    """
    rng = np.random.default_rng(seed)
    gallery = read_gallery(index, draw(index, rng, num_classes=num_classes, per_class=per_class), report=report)
    num_looked_at = min(MAX_LOOKED_AT, index.num_samples)
    looked_at = np.sort(rng.choice(index.num_samples, size=num_looked_at, replace=False)).tolist()
    with ThreadPoolExecutor(NUM_READERS) as threads:
        found = threads.map(partial(read_key_json, index), looked_at)
        metas = {row: meta for row, meta in zip(looked_at, found, strict=True) if meta}
    counts, seconds = side_counts(index), seconds_of(index, metas)
    return render(
        "data_page",
        index=index,
        gallery=gallery,
        counts=[(name, row) for name, row in zip(index.classes, counts.tolist(), strict=True) if any(row)],
        lacking=lacking(counts, index.classes),
        split_counts=[
            (name, [int((index.subsets[:, i] == side).sum()) for side in SIDES.values()])
            for i, name in enumerate(index.split_names)
        ],
        lengths=lengths(index, metas),
        hours=float(seconds.mean()) * index.num_samples / 3600 if len(seconds) else None,
        num_looked_at=num_looked_at,
        num_unreadable=num_looked_at - len(metas),
        leaks=leaks(index),
        failures=failures(index.data_dir / "quarantine.jsonl"),
        settings=flatten({name: index.info.get(name) for name in ("settings", "codec", "tools")}),
    )


# Gallery


def draw(index: ShardIndex, rng: np.random.Generator, *, num_classes: int, per_class: int) -> list[int]:
    """Draw random samples of random classes, in turn from each side of the first split."""
    labels, sides = index.labels, index.subsets[:, 0]
    present, drawn = np.unique(labels), list[int]()
    for label in np.sort(rng.choice(present, size=min(num_classes, len(present)), replace=False)):
        own = [rng.permutation(np.flatnonzero((labels == label) & (sides == side))).tolist() for side in SIDES.values()]
        drawn += [row for rows in zip_longest(*own) for row in rows if row is not None][:per_class]
    return drawn


def read_gallery(index: ShardIndex, drawn: Sequence[int], *, report: Report) -> dict[str, list[Clip]]:
    """Class -> clips of the samples in `drawn`, as many as fit on the page."""
    files, num_bytes, gallery = FrameFiles(index), 0, dict[str, list[Clip]]()
    for done, row in enumerate(drawn):
        report(done, len(drawn), "gallery")
        side = next(name for name, value in SIDES.items() if value == index.subsets[row, 0])
        caption = f"{PurePosixPath(index.source(row)).name or index.key(row)}, {side}"
        meta = read_key_json(index, row)
        fps = (meta["fps"] if meta else 0) / index.frame_step or 25.0
        clip = video_of(index, row, np.arange(index.num_frames[row]), files=files, fps=fps, caption=caption)
        gallery.setdefault(index.classes[index.labels[row]], []).append(clip)
        num_bytes += len(clip.video)
        if num_bytes > MAX_BYTES:
            break
    report(len(drawn), len(drawn))
    return gallery


# Classes and lengths


def side_counts(index: ShardIndex) -> np.ndarray:
    """Samples per class (their first label) and side of the first split, in the order of SIDES: int64 [K, 4]."""
    of_side = [index.labels[index.subsets[:, 0] == side] for side in SIDES.values()]
    return np.stack([np.bincount(labels, minlength=len(index.classes)) for labels in of_side], axis=1)


def lacking(counts: np.ndarray, classes: list[str]) -> list[str]:
    """Sentences on classes without samples, without training samples, or without test samples.

    >>> lacking(np.array([[2, 0, 1, 0], [0, 0, 3, 0], [4, 0, 0, 0], [0, 0, 0, 0]]), ["a", "b", "c", "d"])
    ['1 class without samples: d', '1 class without training samples: b', '1 class without test samples: c']
    """
    has = counts.any(axis=1)
    found = {"": ~has, "training ": has & (counts[:, 0] == 0), "test ": has & (counts[:, 2] == 0)}
    sentences = []
    for kind, rows in found.items():
        names = [classes[k] for k in np.flatnonzero(rows)]
        if names:
            shown = ", ".join([*names[:12], *["…"] * (len(names) > 12)])
            sentences.append(f"{plural(len(names), 'class', 'classes')} without {kind}samples: {shown}")
    return sentences


def seconds_of(index: ShardIndex, metas: dict[int, KeyJson]) -> np.ndarray:
    """Durations of the samples whose rate is known, seconds: float64 [n]."""
    rows = [row for row, meta in metas.items() if meta["fps"]]
    rates = np.array([metas[row]["fps"] for row in rows])
    return np.asarray(index.num_frames)[rows] * index.frame_step / rates if rows else np.zeros(0)


def lengths(index: ShardIndex, metas: dict[int, KeyJson]) -> list[list[str]]:
    """Rows of a table: what; then its smallest value, 5th, 50th and 95th percentile, and largest value."""
    values: dict[str, Any] = {
        "stored frames of a sample": index.num_frames,
        "duration of a sample, seconds": seconds_of(index, metas),
        "rate of the source, frames/s": [meta["fps"] for meta in metas.values() if meta["fps"]],
        "height of the source, pixels": [meta["source_size"][1] for meta in metas.values() if "source_size" in meta],
    }
    return [
        [what, *(f"{value:.4g}" for value in np.percentile(of, (0, 5, 50, 95, 100)))]
        for what, of in values.items()
        if len(of)
    ]


# Leaks


class Leak(NamedTuple):
    """Groups, source videos or identical segments on both sides of a split.

    Attributes:
        kind: "group", "source video" or "identical segment".
        num_things: Number of different things of this kind in the dataset; 0 if the index does not name them.
        num_both: How many of them are on both sides.
        num_test: Number of test and validation samples that they have.
        examples: Samples on both sides, for some of them.
    """

    split: str
    kind: str
    num_things: int
    num_both: int
    num_test: int
    examples: list[str]


def leaks(index: ShardIndex) -> list[Leak]:
    """Find groups, source videos and identical segments on both sides of each split."""
    found = []
    for kind, numbers in (
        ("group", hashes(index.groups)),
        ("source video", hashes(index.sources)),
        ("identical segment", content_hashes(index)),
    ):
        different, thing = np.unique(numbers, return_inverse=True)
        is_named = numbers != 0
        for split, side in zip(index.split_names, index.subsets.T, strict=True):
            train, test = is_named & (side == SUBSETS["train"]), is_named & (side > SUBSETS["train"])  # or validation
            both = np.intersect1d(thing[train], thing[test])
            examples = [
                ", ".join(
                    f"{index.key(row)} {index.source(row)} ({name})"
                    for name, on_side in (("train", train), ("held out", test))
                    for row in np.flatnonzero((thing == one) & on_side)[:2].tolist()
                )
                for one in both[:5].tolist()
            ]
            num_test = int(np.isin(thing[test], both).sum())
            found.append(Leak(split, kind, len(different) - (0 in different), len(both), num_test, examples))
    return found


def hashes(names: np.ndarray) -> np.ndarray:
    """64-bit hashes of byte strings, 0 for empty ones: int64 [N].

    With five million different names, the probability of any collision is one in a million.
    """
    return np.fromiter(map(hash, np.asarray(names)), np.int64, len(names))


def content_hashes(index: ShardIndex) -> np.ndarray:
    """A hash of the sizes and checksums of all frames of each sample: int64 [N]."""
    parts = []
    for start in range(0, index.num_samples, 2**14):  # the frames of Sports-1M do not fit in memory
        first = index.first_frame[start : start + 2**14 + 1]
        frames = index.frames[first[0] : first[-1]].astype(np.uint64)
        mixed = (frames[:, SIZE] << np.uint64(32) | frames[:, CRC32]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
        parts.append(np.add.reduceat(mixed * mixed, first[:-1] - first[0]).view(np.int64))
    return np.concatenate(parts)


# Videos that failed


class QuarantineLine(TypedDict):
    """The fields that are read of a line of quarantine.jsonl."""

    source: Text
    reason: Text


def failures(path: Path) -> dict[str, int] | None:
    """Reason in quarantine.jsonl -> number of videos, the most frequent first; None if it cannot be read."""
    try:
        texts = read_plain(path, max_bytes=MAX_QUARANTINE_BYTES).splitlines()
    except OSError:
        return None
    lines: list[Any] = []
    for text in texts:
        try:
            lines.append(decode(text, QuarantineLine))
        except SchemaError:
            lines.append({"source": "", "reason": "a damaged line of quarantine.jsonl"})
    return reasons_of(lines)
