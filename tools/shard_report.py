"""What make_shards says when it is done."""

import json
from pathlib import Path

from pipeline.build.run import BuildProgress, BuildResult, TaskResult


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
        lines.append(
            f"{result.num_quarantined} videos failed, {result.num_missing} are named in the lists but absent: "
            f"see {folder / 'quarantine.jsonl'}"
        )
    return lines
