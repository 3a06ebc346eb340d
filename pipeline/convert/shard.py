"""The unit of work of a build: one tar, its index and its part, from a `ShardTask` alone.

Several processes may make the same tar at once, on one machine or on many. Each writes to names of its own and renames
when it is done, so nobody meets half a file; who comes later and finds the tar finished leaves it as it is.
"""

import errno
import fcntl
import json
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from res3d_video.pipeline.convert.plan import ShardTask
from res3d_video.pipeline.convert.samples import Converted, convert
from res3d_video.pipeline.errors import one_line
from res3d_video.pipeline.files import new_file_opener, write_atomically
from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.ingest.inspector import Inspector
from res3d_video.pipeline.ingest.limits import Limits
from res3d_video.pipeline.shard_writer import TarShard, sha256_of, to_json

MAX_ATTEMPTS = 3  # to make a tar, before it is reported and the others go on
# What may go better the next time: a disk, a network file system, memory, another process. All else is a bug.
PASSING = (OSError, MemoryError, ShardError)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # no tar can be written, so none is tried again
Item = TypeVar("Item")
Result = TypeVar("Result")
PART_KEYS = {"inputs", "tar", "num_bytes", "sha256", "samples", "quarantine"}
DAY_S = 24 * 3600
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what a file system without locks says


@dataclass(frozen=True)
class Counts:
    """Videos, their frames, those videos that failed, and finished tars."""

    num_videos: int = 0
    num_frames: int = 0
    num_failed: int = 0
    num_shards: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


# Called by those who make tars, with the name of one and what is done of it; one that is tried again begins anew.
Tell = Callable[[str, Counts], None]
# Makes tars in a folder; returns the names of those that failed for good, with the reason.
Make = Callable[[list[ShardTask], Path, Tell], dict[str, str]]


class FinishedElsewhere(Exception):
    """Another process has finished this very tar meanwhile; there is nothing to do."""


class OtherInputsError(ShardError):
    """What a machine would make a tar from is not what the tar is to be made from."""


def make_here(
    tasks: list[ShardTask],
    out_dir: Path,
    tell: Tell,
    *,
    pool: ThreadPoolExecutor,
    inspector: Inspector,
    workers: int,
) -> dict[str, str]:
    """A `Make` that converts videos in a pool and writes one tar after another; no thread waits for a tar's end.

    Args:
        pool: The work itself is done by ffmpeg, in processes of its own.
        workers: Threads of the pool.
    """
    left, failed = tasks, dict[str, str]()
    for _ in range(MAX_ATTEMPTS):
        items = [(task, place) for task in left for place in range(len(task.records))]
        failed = {}
        with in_order(pool, lambda item: convert(*item, inspector), items, ahead=2 * workers) as converted:
            for task in left:
                mine = islice(converted, len(task.records))
                try:
                    tell(task.name, write_shard(task, mine, out_dir, tell=tell))
                except PASSING as error:
                    if is_full(error):
                        raise
                    failed[task.name] = one_line(error)
                deque(mine, maxlen=0)  # converted in vain
        left = [task for task in left if task.name in failed]
    return failed


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
    places = range(len(task.records))
    with (
        Inspector(task.limits) as inspector,
        ThreadPoolExecutor(workers) as pool,
        in_order(pool, lambda place: convert(task, place, inspector), places, ahead=2 * workers) as converted,
    ):
        return write_shard(task, converted, out_dir)


def counts_of_finished(task: ShardTask, out_dir: Path) -> Counts:
    """Of a tar that another process has made, such as one that died before it could say so; its frames are not ours."""
    part = json.loads((out_dir / "parts" / f"{task.name}.json").read_bytes())
    return Counts(len(task.records), num_failed=len(part["quarantine"]), num_shards=1)


def write_shard(
    task: ShardTask,
    converted: Iterable[Future[Converted]],
    out_dir: Path,
    *,
    tell: Tell = lambda name, counts: None,
) -> Counts:
    """Write tar, idx and, last, the part of one task, in the order of its records; or find that another process has.

    Args:
        converted: Of each record, in order.
        tell: Called for each video.

    Raises:
        ShardError: Another process has put other bytes in place at the same time; this one should try again.
    """

    def finished() -> bool:
        return is_finished(out_dir, task.name, task.inputs, limits=task.limits)

    counts, quarantine = Counts(), list[dict[str, str]]()
    try:
        with TarShard(out_dir / f"{task.name}.tar") as tar:
            for one in (future.result() for future in converted):
                for sample in one.samples:
                    tar.add(sample)
                quarantine += one.quarantine
                counts += Counts(1, sum(s.meta["num_frames"] for s in one.samples), len(one.quarantine))
                tell(task.name, counts)
            if finished():
                raise FinishedElsewhere
        part = {"inputs": task.inputs, **tar.summary(), "quarantine": quarantine}
        part |= limits_met(quarantine, task.limits)
        if not part["samples"]:  # nothing but failures: readers expect no empty tar
            tar.path.unlink(missing_ok=True)
            tar.path.with_suffix(".idx").unlink(missing_ok=True)
        write_atomically(out_dir / "parts" / f"{task.name}.json", to_json(part))
    except (FinishedElsewhere, FileNotFoundError):  # not found: whoever wrote the index has cleaned up
        if finished():
            return counts_of_finished(task, out_dir)
        raise
    if part["samples"] and not tar.is_in_place() and sha256_of(tar.path) != part["sha256"]:
        (out_dir / "parts" / f"{task.name}.json").unlink(missing_ok=True)  # nobody knows whose tar, idx and part remain
        raise ShardError(f"{task.name}: another process has made it at the same time, with other bytes; run again")
    return replace(counts, num_shards=1)


@contextmanager
def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Iterator[Future[Result]]]:
    """Results in the order of the items, at most `ahead` of them waiting in memory; what is left is given up."""
    waiting: deque[Future[Result]] = deque()

    def results() -> Iterator[Future[Result]]:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

    try:
        yield results()
    finally:
        for future in waiting:
            future.cancel()


def is_full(error: BaseException) -> bool:
    """Whether an error says that no file at all can be written."""
    return isinstance(error, OSError) and error.errno in FULL


def limits_met(quarantine: list[dict[str, str]], limits: Limits) -> dict[str, Any]:
    """What a part says of the limits: nothing, unless some video was refused for what they are."""
    refused = any(line["stage"] in ("limit", "open") for line in quarantine)
    return {"limits": asdict(limits)} if refused else {}


def is_finished(out_dir: Path, name: str, inputs: str, *, limits: Limits, read: bool = True) -> bool:
    """Whether the tar of a part is there, whole and made from these inputs; under these limits, if they mattered.

    Args:
        read: Read the tar and compare its checksum; else its size.
    """
    tar = out_dir / f"{name}.tar"
    try:
        part = json.loads((out_dir / "parts" / f"{name}.json").read_bytes())
        if not isinstance(part, dict) or not part.keys() >= PART_KEYS or part["inputs"] != inputs:
            return False
        if part.get("limits", asdict(limits)) != asdict(limits):
            return False
        if not part["samples"]:
            return True
        is_same = sha256_of(tar) == part["sha256"] if read else tar.stat().st_size == part["num_bytes"]
        return is_same and tar.with_suffix(".idx").is_file()
    except (OSError, ValueError, RecursionError):  # not there, or not JSON
        return False


def listed(out_dir: Path) -> set[str]:
    """Names of all parts that are there, of this build or another."""
    try:  # NFS asks the server again for a folder's list, but may answer from memory whether one file is there
        return {name.removesuffix(".json") for name in os.listdir(out_dir / "parts") if not name.startswith(".")}
    except FileNotFoundError:
        return set()


def clean(out_dir: Path, *, alone: bool = True) -> None:
    """Remove what a killed build left half-written.

    Args:
        alone: No other process writes here. If others may, and all tars are there, tars half-written are nobody's; but
            another process may be writing the index, so such files stay until they are a day old.
    """
    for folder in (out_dir, out_dir / "parts", out_dir / "index"):
        for path in folder.glob(".*.tmp"):
            is_index = folder.name != "parts" and path.name.split(".")[-3] not in ("tar", "idx")
            with suppress(FileNotFoundError):
                if alone or not is_index or time.time() - path.stat().st_mtime > DAY_S:
                    path.unlink()


@contextmanager
def only_builder(out_dir: Path, *, shared: bool = False) -> Iterator[None]:
    """Keep other builds out of a folder, as far as its file system has locks that machines share.

    Nothing is torn where it has none: names of temporary files are each process's own.

    Args:
        shared: Let in others that are `shared` too: the tasks of one build.

    Raises:
        ShardError: One is at work there.
    """
    with open(out_dir / ".lock", "r+", opener=_lock_opener) as lock:  # NFS wants it open for reading and for writing
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShardError(f"{out_dir}: another build is writing here; wait for it or choose another --out") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


def _lock_opener(path: str, flags: int) -> int:
    return new_file_opener(path, flags | os.O_CREAT)
