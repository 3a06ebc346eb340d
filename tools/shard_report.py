"""What make_shards says when it is done."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from res3d_video.pipeline.convert.run import BuildProgress, BuildResult, TaskResult
from res3d_video.pipeline.index import SUBSETS, ShardIndex

MAX_REASONS = 5  # of failures that are told apart
LARGE = 3  # times the median picture: a tile that is mostly empty; wide and high videos together have less than 2


def progress_note(progress: BuildProgress, *, passed_s: float) -> str:
    """What stands beside the count of videos.

    >>> progress_note(BuildProgress(10, 90, 500, 1, num_shards=2, num_shards_total=30), passed_s=10)
    '50 frames/s, 2 of 30 shards'
    """
    if progress.stage == "probe":
        return "reading sizes"
    rate = progress.num_frames / max(passed_s, 1e-9)
    return f"{rate:,.0f} frames/s, {progress.num_shards} of {progress.num_shards_total} shards"


def written_line(result: BuildResult | TaskResult) -> str:
    """What a run did.

    >>> written_line(TaskResult(3, 1, 7, 9))
    '3 shards written, 1 kept as they were'
    """
    return f"{result.num_shards_written} shards written, {result.num_shards_kept} kept as they were"


def task_line(result: TaskResult, folder: Path) -> str:
    """What one of several tasks did.

    >>> task_line(TaskResult(3, 1, 7, 9), Path("shards/a"))
    '3 shards written, 1 kept as they were; 7 of 9 are there: shards/a'
    """
    return f"{written_line(result)}; {result.num_shards_there} of {result.num_shards} are there: {folder}"


def whole_lines(result: BuildResult, folder: Path, *, out: str) -> list[str]:
    """What a whole dataset is.

    Args:
        out: Where it lies in the end.
    """
    info = json.loads((folder / "dataset.json").read_bytes())
    num_bytes = sum(shard["num_bytes"] for shard in info["shards"])
    lines = [
        f"{result.num_samples} samples in {len(info['shards'])} shards, {num_bytes / 1e6:.1f} MB, "
        f"{num_bytes / max(info['num_frames'], 1) / 1e3:.1f} kB a frame: {out}",
    ]
    lines += [
        f"split {name}: {counts['train']} train, {counts['test']} test" for name, counts in info["splits"].items()
    ]
    if result.videos:
        counts = ", ".join(f"{count} {state}" for state, count in result.videos.items())
        lines.append(f"listed videos: {counts}; see {folder / 'manifest.jsonl'}")
    elif result.num_quarantined or result.num_missing:
        absent = f", {result.num_missing} are named in the lists but absent" if result.num_missing else ""
        lines.append(f"{result.num_quarantined} videos failed{absent}: see {folder / 'quarantine.jsonl'}")
    return lines + list(failure_lines(result.failures))


def failure_lines(failures: dict[str, int]) -> Iterator[str]:
    """Why videos failed, and how many for each reason.

    >>> list(failure_lines({"is empty": 5, "no frame can be decoded": 2}))
    ['  5 failed: is empty', '  2 failed: no frame can be decoded']
    """
    for reason, count in list(failures.items())[:MAX_REASONS]:
        yield f"  {count} failed: {reason}"
    rest = list(failures.values())[MAX_REASONS:]
    if rest:
        yield f"  {sum(rest)} failed for {len(rest)} other reasons"


def side_warnings(index: ShardIndex) -> Iterator[str]:
    """One line for each split and side in which some class that is stored has no video."""
    present = np.unique(index.labels)
    for position, split in enumerate(index.split_names):
        for side, value in SUBSETS.items():
            absent = np.setdiff1d(present, index.labels[index.subsets[:, position] == value])
            if len(absent) == len(present):
                yield f"split {split}: no {side} video"
            elif len(absent):
                first = index.classes[absent[0]]
                yield f"split {split}: {len(absent)} of {len(present)} classes have no {side} video, first {first!r}"


def shape_warnings(index: ShardIndex) -> Iterator[str]:
    """A line if a few pictures make the tiles of all too large."""
    (height, width), sizes = index.tile_size, index.content[:, 2:].astype(int)
    typical = np.median(sizes[:, 0] * sizes[:, 1])
    if height * width > LARGE * typical:
        name = index.source(int(sizes.max(axis=1).argmax()))
        yield (
            f"every frame takes {width}×{height} pixels, of which most fill {typical / (height * width):.0%}: {name} "
            "has the longest picture; move such videos away, or take --no-keep-aspect"
        )
