"""Codecs side by side: what shards of the same videos hold, what reading them costs, and what follows from it."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.reference import decode_sample
from pipeline.shard import ShardIndex, open_index
from pipeline.source.transcode import FrameReader, stretched
from tools.bench.lanes import LR
from tools.bench.measure import Spread
from tools.bench.ours import loader_cost
from tools.bench.report import rate_text
from tools.bench.run import Settings, synthetic_inputs, train_step
from tools.bench.sweep import Found, Point
from train.ranks import Ranks

ALONE, TRAINING, READY = "loader alone", "while training", "ready clips"
COST_STEPS = 4
PSNR_SEGMENTS = 8  # of each folder; the order of its segments is random
PSNR_BLOCK = 64  # frames decoded at a time
BT601_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Stored:
    """One way to store videos, and where clips may begin.

    Attributes:
        stored_size: Height of a frame, pixels.
        gop_size: Frames from one keyframe to the next; 0 for filmstrips.
        snapped: Clips begin at keyframes only.
    """

    codec: str
    stored_size: int
    gop_size: int = 0
    snapped: bool = False

    @property
    def name(self) -> str:
        """
        >>> Stored("filmstrip", 128).name, Stored("h264", 128, 8, snapped=True).name
        ('filmstrips', 'h264, GOP 8, snapped')
        """
        if self.codec == "filmstrip":
            return "filmstrips"
        return f"h264, GOP {self.gop_size}" + (", snapped" if self.snapped else "")

    def settings(self, *, quality: int, crf: int) -> dict[str, Any]:
        """Of `BuildSettings`, for its shards; where clips begin changes nothing in them."""
        if self.codec == "filmstrip":
            return {"size": self.stored_size, "quality": quality}
        return {"size": self.stored_size, "codec": self.codec, "gop_size": self.gop_size, "crf": crf}


def ways_to_store(sizes: Sequence[int], gops: Sequence[int]) -> list[Stored]:
    """At each size filmstrips, then h264 at each GOP, with free and with snapped starts.

    >>> [stored.name for stored in ways_to_store([128], [4, 8])]
    ['filmstrips', 'h264, GOP 4', 'h264, GOP 4, snapped', 'h264, GOP 8', 'h264, GOP 8, snapped']
    """
    return [
        stored
        for size in sizes
        for stored in (
            Stored("filmstrip", size),
            *(Stored("h264", size, gop, snapped) for gop, snapped in itertools.product(gops, (False, True))),
        )
    ]


@dataclass(frozen=True)
class CodecPoint(Point):
    """What is measured at once: clips of one way to store videos; `what` is one of the three of this module."""

    stored: Stored
    what: str

    @property
    def key(self) -> str:
        return f"{self.stored.stored_size}: {self.stored.name}, {self.what}"


@contextmanager
def ready_step(settings: Settings) -> Iterator[Iterator[Tensor]]:
    """Batches of clips that lie ready, each after a training step on it: what no loader can be faster than."""
    num_classes, ranks = len(open_index(settings.data).classes), Ranks(device=settings.device)
    step = train_step(settings, ranks, num_classes=num_classes)
    assert step is not None

    def trained() -> Iterator[Tensor]:
        for batch in itertools.cycle(synthetic_inputs(settings, num_classes=num_classes)):
            step(batch.clips, batch.labels, batch.weights, num_real_global=batch.num_real_global, lr=LR)
            yield batch.clips

    with step.on_stream():
        yield trained()


def facts_of(index: ShardIndex, settings: Settings, raw: Path) -> dict[str, float]:
    """What is known of shards without a clock.

    Args:
        raw: Folder that the index's sources are relative to.

    Returns:
        bytes_per_frame and psnr_db, and decoded_to_used: frames that are decoded for each one that a clip takes.
    """
    work = loader_cost(settings.plan(index), on_gpu=settings.device.type == "cuda", steps=range(COST_STEPS))
    return {
        "bytes_per_frame": bytes_per_frame(index),
        "psnr_db": mean_psnr(index, raw),
        "decoded_to_used": work.decoded_to_used,
    }


def bytes_per_frame(index: ShardIndex) -> float:
    """Of the tars: pictures, containers, key.json and the tar's own blocks."""
    return sum(shard["num_bytes"] for shard in index.info["shards"]) / int(index.num_frames.sum())


def mean_psnr(index: ShardIndex, raw: Path) -> float:
    """Luma PSNR in dB of some segments, the mean over them."""
    samples = range(min(PSNR_SEGMENTS, index.num_samples))
    return float(np.mean([luma_psnr(index, sample, raw / index.source(sample)) for sample in samples]))


def luma_psnr(index: ShardIndex, sample: int, path: Path) -> float:
    """PSNR in dB of a segment's stored frames against the scaled frames before coding; the tile's edge does not count.

    Both as full-range BT.601 luma: that of the stored ones is computed from their RGB.
    """
    left, top, width, height = index.content[sample].tolist()
    stored = decode_sample(index, sample)[:, top : top + height, left : left + width]  # [F, height, width, 3]
    squared, done = 0.0, 0
    for block in FrameReader(path, stretched(index.size), block_frames=PSNR_BLOCK):
        luma = stored[done : done + len(block)] @ BT601_LUMA  # [f, height, width]
        squared += float(((luma - block.y) ** 2).sum(dtype=np.float64))
        done += len(block)
    return float(10 * np.log10(255**2 * stored[..., 0].size / max(squared, 1e-9)))


@dataclass(frozen=True)
class Row:
    """One way to store videos, and what was found of it.

    Attributes:
        alone: Of the loader alone; its facts are those of the shards.
        training: None where it was not measured.
    """

    stored: Stored
    alone: Found
    training: Found | None = None

    @property
    def kbytes(self) -> float:
        """A frame, of the tars."""
        return self.alone.facts["bytes_per_frame"] / 1e3

    @property
    def rate(self) -> Spread | None:
        """Clips/s while training, where that was measured; else of the loader alone; None where it failed."""
        return (self.training or self.alone).clips_per_s

    def cells(self) -> list[str]:
        """Its line of the table."""
        numbers, facts = ["–"] * 3, self.alone.facts
        if facts:
            numbers = [f"{self.kbytes:.2f}", f"{facts['psnr_db']:.1f}", f"{facts['decoded_to_used']:.2f}"]
        name = f"{self.stored.stored_size}: {self.stored.name}"
        return [name, *numbers, *rate_cells(self.alone), *rate_cells(self.training)]


HEADER = [
    "stored height, codec",
    "kB a frame",
    "PSNR, dB",
    "decoded/used",
    "clips/s alone",
    "cores",
    "clips/s training",
    "cores",
]


def rate_cells(found: Found | None) -> list[str]:
    """Clips/s and cores of a lane."""
    if found is None:
        return ["–", "–"]
    return ["failed", "–"] if found.clips_per_s is None else [rate_text(found.clips_per_s), f"{found.cores:.2f}"]


def cells_of(rows: Sequence[Row], ready: Mapping[int, Found]) -> list[list[str]]:
    """The table: at each size a line for each way to store, and one for the training step on ready clips."""
    cells = []
    for size, own in itertools.groupby(rows, key=lambda row: row.stored.stored_size):
        cells += [row.cells() for row in own]
        if size in ready:
            cells.append([f"{size}: {READY}", *["–"] * 5, *rate_cells(ready[size])])
    return cells


def trade_offs(rows: Sequence[Row]) -> dict[str, dict[str, list[tuple[str, float, Spread]]]]:
    """What the chart shows: panel -> series -> (label, kB a frame, clips/s)."""
    panels: dict[str, dict[str, list[tuple[str, float, Spread]]]] = {}
    for what in (ALONE, TRAINING):
        for row in rows:
            found = row.alone if what == ALONE else row.training
            if found is None or found.clips_per_s is None:
                continue
            series, _, label = row.stored.name.partition(", ")
            gop, _, snapped = label.partition(", ")
            panel = panels.setdefault(panel_name(row.stored.stored_size, what), {})
            panel.setdefault(f"{series} {snapped}".strip(), []).append((gop, row.kbytes, found.clips_per_s))
    return panels


def ceilings(ready: Mapping[int, Found]) -> dict[str, float]:
    """Panel of the chart -> clips/s of the training step on ready clips."""
    return {panel_name(size, TRAINING): f.clips_per_s.median for size, f in ready.items() if f.clips_per_s is not None}


def panel_name(size: int, what: str) -> str:
    """Above a panel of the chart."""
    return f"{size} pixels, {what}"


def advice(rows: Sequence[Row]) -> str:
    """One sentence: at each size, what is smallest, what fastest, and how much that is."""
    by_size: dict[int, list[tuple[Row, Spread]]] = {}
    for row in rows:
        if row.rate is not None:
            by_size.setdefault(row.stored.stored_size, []).append((row, row.rate))
    said = [f"at {size} pixels {advice_of(own)}" for size, own in by_size.items()]
    return "; ".join(said) or "nothing could be measured"


def advice_of(rows: Sequence[tuple[Row, Spread]]) -> str:
    """Of the rows of one size with their rates; rates whose ranges overlap count as equal."""
    fastest, rate = max(rows, key=lambda row: row[1].median)
    smallest, least = min(rows, key=lambda row: row[0].kbytes)
    when = "while training" if fastest.training else "alone"
    size = f"{smallest.kbytes:.2f} kB a frame"
    if fastest.kbytes == smallest.kbytes:
        return f"«{fastest.stored.name}» is fastest, {number(rate.median)} clips/s {when}, and smallest, {size}"
    if least.max >= rate.min:
        return f"«{smallest.stored.name}» is smallest, {size}, and no other is clearly faster {when}"
    speed, space = rate.median / least.median, fastest.kbytes / smallest.kbytes
    return (
        f"«{fastest.stored.name}» is fastest, {number(rate.median)} clips/s {when} at {fastest.kbytes:.2f} kB a frame, "
        f"and «{smallest.stored.name}» is smallest, {smallest.kbytes:.2f} kB: {speed:.2f} times the speed "
        f"for {space:.1f} times the space"
    )


def number(rate: float) -> str:
    """
    >>> number(713.2), number(9.26)
    ('713', '9.3')
    """
    return f"{rate:.{0 if rate >= 100 else 1}f}"
