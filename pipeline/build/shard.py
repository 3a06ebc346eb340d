"""The unit of work of a build: one tar, its index and its part, from a `ShardTask` alone.

Several processes may make the same tar at once, on one machine or on many. Each writes to names of its own and renames
when it is done, so nobody meets half a file; who comes later and finds the tar finished leaves it as it is.
"""

import errno
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.build.parts import is_finished, limits_met, num_quarantined
from pipeline.build.plan import ShardTask
from pipeline.build.samples import Converted, convert
from pipeline.index import ShardError
from pipeline.shard_writer import TarShard, sha256_of, to_json, write_atomically
from pipeline.source.inspector import Inspector

MAX_ATTEMPTS = 3  # to make a tar, before it is reported and the others go on
REASON_LENGTH = 200
# What may go better the next time: a disk, a network file system, memory, another process. All else is a bug.
PASSING = (OSError, MemoryError, ShardError)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # no tar can be written, so none is tried again
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Counts:
    """Videos, their frames, and those videos that failed."""

    num_videos: int = 0
    num_frames: int = 0
    num_failed: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.num_videos + other.num_videos,
            self.num_frames + other.num_frames,
            self.num_failed + other.num_failed,
        )


class FinishedElsewhere(Exception):
    """Another process has finished this very tar meanwhile; there is nothing to do."""


class OtherInputsError(ShardError):
    """What a machine would make a tar from is not what the tar is to be made from."""


def make_shard(task: ShardTask, out_dir: Path, *, workers: int = 1) -> Counts:
    """Make one tar, wherever this process runs; a tar that is there already is kept.

    Args:
        workers: Videos in work at once; each keeps about one core busy.

    Raises:
        OtherInputsError: This machine sees other videos than the one that planned, or has other programs.
        ShardError: As `write_shard`.
        OSError: It cannot be written.
    """
    if task.inputs_here() != task.inputs:
        raise OtherInputsError(
            f"{task.name}: {platform.node()} sees other videos or has other versions of ffmpeg and encoders than the "
            "machine that began; mount the same folder and install the same environment on all"
        )
    if is_finished(out_dir, task.name, task.inputs, limits=task.limits):
        return counts_of_finished(task, out_dir)
    total = Counts()
    with Inspector(task.limits) as inspector, ThreadPoolExecutor(workers) as pool:
        places = list(range(len(task.records)))
        converted = in_order(pool, lambda place: convert_one(task, place, inspector), places, ahead=2 * workers)

        def tell(counts: Counts) -> None:
            nonlocal total
            total += counts

        try:
            write_shard(task, converted, out_dir, tell=tell)
        except FinishedElsewhere:
            return counts_of_finished(task, out_dir)
    return total


def counts_of_finished(task: ShardTask, out_dir: Path) -> Counts:
    """Of a tar that another process has made, such as one that died before it could say so; its frames are not ours."""
    return Counts(len(task.records), num_failed=num_quarantined(out_dir, task.name))


def convert_one(task: ShardTask, place: int, inspector: Inspector) -> Converted:
    """The samples of one of a tar's videos."""
    number, record = task.first + place, task.records[place]
    return convert(number, record, task.settings, canvas=task.canvas, broken=task.failures(), inspector=inspector)


def write_shard(
    task: ShardTask, converted: Iterable[Converted], out_dir: Path, *, tell: Callable[[Counts], None]
) -> None:
    """Write tar, idx and, last, the part of one task, in the order of its records.

    Args:
        converted: Of each record, in order.
        tell: Called for each video.

    Raises:
        FinishedElsewhere: Another process was faster.
        ShardError: Another process has put other bytes in place at the same time; this one should try again.
    """

    def finished() -> bool:
        return is_finished(out_dir, task.name, task.inputs, limits=task.limits)

    quarantine: list[dict[str, str]] = []
    try:
        with TarShard(out_dir / f"{task.name}.tar") as tar:
            for one in converted:
                for sample in one.samples:
                    tar.add(sample)
                quarantine += one.quarantine
                tell(Counts(1, sum(s.meta["num_frames"] for s in one.samples), len(one.quarantine)))
            if finished():
                raise FinishedElsewhere
        part = {"inputs": task.inputs, **tar.summary(), "quarantine": quarantine}
        part |= limits_met(quarantine, task.limits)
        if not part["samples"]:  # nothing but failures: readers expect no empty tar
            tar.path.unlink(missing_ok=True)
            tar.path.with_suffix(".idx").unlink(missing_ok=True)
        write_atomically(out_dir / "parts" / f"{task.name}.json", to_json(part))
    except FileNotFoundError:
        if finished():  # by another process; and whoever wrote the index has cleaned up
            raise FinishedElsewhere from None
        raise
    if part["samples"] and not tar.is_in_place() and sha256_of(tar.path) != part["sha256"]:
        (out_dir / "parts" / f"{task.name}.json").unlink(missing_ok=True)  # nobody knows whose tar, idx and part remain
        raise ShardError(f"{task.name}: another process has made it at the same time, with other bytes; run again")


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Result]:
    """Results in the order of the items, at most `ahead` of them waiting in memory."""
    waiting: list[Future[Result]] = []
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


def is_full(error: BaseException) -> bool:
    """Whether an error says that no file at all can be written."""
    return isinstance(error, OSError) and error.errno in FULL


def reason_of(error: BaseException) -> str:
    """One line for a person, not too long.

    >>> reason_of(ValueError("a\\nb")), reason_of(MemoryError())
    ('ValueError: a b', 'MemoryError')
    """
    return ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))[:REASON_LENGTH]
