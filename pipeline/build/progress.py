"""What a build tells while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.build.plan import ShardTask
from pipeline.build.shard import Counts

# Called by those who make tars, with the counts of what is done (below 0: of a tar that is tried again), and whether
# this finished a tar.
Tell = Callable[[Counts, bool], None]
# Makes tars in a folder; returns the names of those that failed for good, with the reason.
Make = Callable[[list[ShardTask], Path, Tell], dict[str, str]]


@dataclass(frozen=True)
class BuildProgress:
    """How far a build is; frames and failures count this run only.

    Attributes:
        num_done: Videos, of those that this run is to see to.
        num_shards: Tars of the whole dataset that are there, of `num_shards_total`.
    """

    num_done: int
    num_total: int
    num_frames: int
    num_failed: int
    stage: str = "transcode"
    num_shards: int = 0
    num_shards_total: int = 0


Report = Callable[[BuildProgress], None]


def teller(
    tasks: list[ShardTask],
    done: set[str],
    report: Report,
    *,
    num_shards_total: int,
    count_shards: Callable[[], int] | None = None,
) -> Tell:
    """What makers tell, summed up.

    Args:
        tasks: That this run is to see to; those named in `done` are done.
        count_shards: Says how many tars are there, where others make some too.
    """
    num_done = sum(len(task.records) for task in tasks if task.name in done)
    num_total = sum(len(task.records) for task in tasks)
    total, num_shards = Counts(num_done), count_shards() if count_shards else len(done)

    def tell(counts: Counts, is_shard: bool) -> None:
        nonlocal total, num_shards
        total += counts
        if is_shard:
            num_shards = count_shards() if count_shards else num_shards + 1
        report(
            BuildProgress(
                total.num_videos,
                num_total,
                total.num_frames,
                total.num_failed,
                num_shards=num_shards,
                num_shards_total=num_shards_total,
            )
        )

    return tell
