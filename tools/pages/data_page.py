"""The page of a dataset's shards: what it looks like, how many of what, how long, leaks, what is absent, settings."""

import math
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.reader import FrameFiles, open_tar
from res3d_video.tools.key_json import read_meta
from res3d_video.tools.pages import data_facts
from res3d_video.tools.pages.clips import read_clip
from res3d_video.tools.pages.data_facts import SIDE_VALUES, SIDES, LookedAt, counted
from res3d_video.tools.pages.markup import Markup, histogram, render
from res3d_video.train.terminal import Report

BASE64 = 4 / 3  # bytes of a page to one of a JPEG
MAX_BYTES = 12_000_000  # of the gallery, about
CLIP_BYTES = 8_000  # of a clip's frames at least
MAX_CLIPS = 400
REMOTE_TARS = 4  # fetched of a dataset behind a URL, to look into
NUMBERS = 8  # as much work as so many clips of the gallery, to a reader who waits


def data_page(
    index: ShardIndex,
    *,
    split: str | None = None,
    seed: int = 0,
    num_classes: int = 12,
    per_class: int = 2,
    max_bytes: int = MAX_BYTES,
    report: Report,
) -> tuple[str, dict[str, Any]]:
    """The page of a dataset, and its facts for JSON.

    Args:
        split: Whose sides are shown; None takes 1, else the first.
        seed: Of what is drawn for the gallery.
        num_classes, per_class: In the gallery, at most.

    Raises:
        UserError: There is no such split.
        ShardError: The server of a remote dataset is gone.
    """
    column = data_facts.split_column(index, split)
    within = rows_within_reach(index, seed=seed)
    report(0, NUMBERS, "numbers")
    counts = data_facts.side_counts(index, column)
    looked = data_facts.look_at(index, within, seed=seed)
    found = gather(index, counts, looked, split=index.split_names[column])
    charts, alike = histograms(index, looked)
    drawn = draw(index, within, split=column, seed=seed, num_classes=num_classes, per_class=per_class)
    gallery = read_gallery(index, drawn[:MAX_CLIPS], split=column, max_bytes=max_bytes, report=report)
    largest_first = np.argsort(-counts.sum(axis=1), kind="stable").tolist()
    html = render(
        "data_page",
        index=index,
        found=found,
        class_counts=[(index.classes[k], counts[k].tolist()) for k in largest_first if counts[k].any()],
        split_counts=[
            (name, [int((index.subsets[:, i] == side).sum()) for side in SIDE_VALUES])
            for i, name in enumerate(index.split_names)
        ],
        charts=charts,
        alike=alike,
        gallery=gallery,
        num_asked=len(drawn),
        is_partial=len(within) < index.num_samples,
    )
    facts = found | {
        "gallery": [
            {name: one[name] for name in ("key", "class", "side")} | {"fault": one["clip"].fault or None}
            for one in gallery
        ],
        "leaks": [asdict(leak) for leak in found["leaks"]],
        "quarantine": found["quarantine"] and asdict(found["quarantine"]),
    }
    return html, facts


def gather(index: ShardIndex, counts: np.ndarray, looked: LookedAt, *, split: str) -> dict[str, Any]:
    """What is known of a dataset but for its gallery, by the names that it has in JSON."""
    sources = data_facts.hashes(index.sources)
    lengths = np.asarray(index.num_frames)
    known = [duration for duration in looked.duration_s if not math.isnan(duration)]
    rates, rate_counts = counted(looked.fps)
    return {
        "name": index.name,
        "fingerprint": index.fingerprint,
        "num_samples": index.num_samples,
        "num_sources": len(np.unique(sources[sources != hash(b"")])),
        "num_frames": int(lengths.sum(dtype=np.int64)),
        "num_bytes": sum(shard["num_bytes"] for shard in index.info["shards"]),
        "hours": sum(known) / len(known) * index.num_samples / 3600 if known else None,
        "split": split,
        "classes": {
            name: dict(zip(SIDES, row, strict=True)) for name, row in zip(index.classes, counts.tolist(), strict=True)
        },
        "balance": data_facts.balance(counts.sum(axis=1)),
        "lacking": data_facts.lacking(counts, index.classes),
        "frames_of_a_sample": {
            "shortest": int(lengths.min()),
            "median": int(np.quantile(lengths, 0.5, method="inverted_cdf")),
            "longest": int(lengths.max()),
        },
        "sizes": size_facts(data_facts.stored_sizes(index).most_common(50)),
        "source_sizes": size_facts(looked.source_sizes.most_common()),
        "fps": {f"{rate:g}": int(count) for rate, count in zip(rates, rate_counts, strict=True)},
        "num_looked_at": len(looked.rows),
        "num_unreadable": looked.num_unreadable,
        "warnings": dict(looked.warnings.most_common()),
        "quarantine": data_facts.read_quarantine(index.data_dir / "quarantine.jsonl"),
        "manifest": data_facts.read_manifest(index.data_dir / "manifest.jsonl"),
        "leaks": data_facts.leaks(index),
    }


def size_facts(sizes: list[tuple[tuple[int, int], int]]) -> list[dict[str, int]]:
    """Widths and heights with how many samples have them, for JSON."""
    return [{"width": width, "height": height, "num_samples": count} for (width, height), count in sizes]


def histograms(index: ShardIndex, looked: LookedAt) -> tuple[list[Markup], list[str]]:
    """Charts of lengths and rates, and sentences for those in which all samples agree."""
    heights = [height for (_, height), count in looked.source_sizes.items() for _ in range(count)]
    charts, alike = [], []
    for title, unit, own in (
        ("Length of a sample", "stored frames", np.asarray(index.num_frames)),
        ("Duration of a sample", "seconds", looked.duration_s),
        ("Rate of the source", "frames/s", looked.fps),
        ("Height of the source", "pixels", heights),
    ):
        values, counts = counted(own)
        if len(values) == 1:
            alike.append(f"{title}: {values[0]:.6g} {unit} in all.")
        elif len(values):
            charts.append(histogram(title, values, counts, unit=unit))
    return charts, alike


def rows_within_reach(index: ShardIndex, *, seed: int) -> np.ndarray:
    """Samples that may be looked into: all of a folder, those of a few random tars behind a URL."""
    if index.store is None or len(index.tars) <= REMOTE_TARS:
        return np.arange(index.num_samples)
    tars = index.tar_of(np.arange(index.num_samples))
    chosen = np.random.default_rng(seed).choice(np.unique(tars), size=REMOTE_TARS, replace=False)
    return np.flatnonzero(np.isin(tars, chosen))


def draw(index: ShardIndex, rows: np.ndarray, *, split: int, seed: int, num_classes: int, per_class: int) -> list[int]:
    """Rows of some random classes, class by class; of each in turn one to train on and one to test on.

    Args:
        rows: Samples to draw from.
        split: Column of `index.subsets`.
    """
    random = np.random.default_rng(seed)
    labels, sides = index.labels[rows], index.subsets[rows, split]
    present = np.unique(labels)
    drawn: list[int] = []
    for label in np.sort(random.choice(present, size=min(num_classes, len(present)), replace=False)).tolist():
        train, test, others = (random.permutation(rows[(labels == label) & (sides == side)]) for side in SIDE_VALUES)
        rounds = range(min(max(len(train), len(test)), per_class))
        turns = [own[turn] for turn in rounds for own in (train, test) if turn < len(own)]
        drawn += [int(row) for row in [*turns, *others][:per_class]]
    return drawn


def read_gallery(
    index: ShardIndex, drawn: list[int], *, split: int, max_bytes: int, report: Report
) -> list[dict[str, Any]]:
    """The key, class and side of each row, and its clip, whose frames fit on the page or whose `fault` says why not."""
    files, left, gallery = FrameFiles(index), max_bytes / BASE64, []
    for done, row in enumerate(drawn):
        try:
            file = open_tar(index, int(index.tar_of(np.array([row]))[0]))
            meta = read_meta(index, row, file) if file is not None else None
        except OSError:
            meta = None
        side = SIDES[SIDE_VALUES.index(int(index.subsets[row, split]))]
        clip = read_clip(
            index,
            row,
            files=files,
            max_bytes=max(int(left / (len(drawn) - done)), CLIP_BYTES),
            name=f"sample {index.key(row)}",
            caption=f"{PurePosixPath(index.source(row)).name or index.key(row)}, {side}",
            fps=meta["fps"] / index.frame_step if meta else 0.0,
        )
        gallery.append({"key": index.key(row), "class": index.classes[index.labels[row]], "side": side, "clip": clip})
        left -= clip.num_bytes
        report(NUMBERS + done + 1, NUMBERS + len(drawn), "gallery")
    return gallery
