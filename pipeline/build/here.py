"""The tars of a build made by threads of this process; the work itself is done by ffmpeg in processes of its own."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from pipeline.build.plan import ShardTask
from pipeline.build.progress import Make, Tell
from pipeline.build.samples import Converted
from pipeline.build.shard import (
    MAX_ATTEMPTS,
    PASSING,
    Counts,
    FinishedElsewhere,
    convert_one,
    in_order,
    is_full,
    reason_of,
    write_shard,
)
from pipeline.source.inspector import Inspector


def make_here(pool: ThreadPoolExecutor, inspector: Inspector, *, workers: int) -> Make:
    """A `Make` that converts videos in a pool and writes one tar after another; no thread waits for a tar's end.

    Args:
        workers: Threads of the pool.
    """

    def attempt(item: tuple[ShardTask, int]) -> Converted | Exception:
        try:
            return convert_one(*item, inspector)
        except PASSING as error:  # raised again where its tar is written
            return error

    def make(tasks: list[ShardTask], out_dir: Path, tell: Tell) -> dict[str, str]:
        reasons: dict[str, str] = {}
        left = tasks
        for _ in range(MAX_ATTEMPTS):
            items = [(task, place) for task in left for place in range(len(task.records))]
            finished = in_order(pool, attempt, items, ahead=2 * workers)
            again = []
            for task in left:
                mine = islice(finished, len(task.records))
                reason = _made(task, mine, out_dir, tell)
                if reason is not None:
                    reasons[task.name] = reason
                    again.append(task)
                for _ in mine:  # converted in vain
                    pass
            left = again
            if not left:
                break
        return {task.name: reasons[task.name] for task in left}

    return make


def _made(task: ShardTask, results: Iterator[Converted | Exception], out_dir: Path, tell: Tell) -> str | None:
    """Write one tar; the reason why it failed."""
    told = Counts()

    def add(counts: Counts) -> None:
        nonlocal told
        told += counts
        tell(counts, False)

    try:
        write_shard(task, _raised(results), out_dir, tell=add)
    except FinishedElsewhere:
        pass
    except PASSING as error:
        if is_full(error):
            raise
        tell(Counts(-told.num_videos, -told.num_frames, -told.num_failed), False)
        return reason_of(error)
    tell(Counts(), True)
    return None


def _raised(results: Iterable[Converted | Exception]) -> Iterator[Converted]:
    for result in results:
        if isinstance(result, Exception):
            raise result
        yield result
