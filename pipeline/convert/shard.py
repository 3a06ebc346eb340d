"""The unit of work of a build: one tar, its index and its part, from a `ShardTask` alone.

Several processes may make the same tar at once, on one machine or on many. Each writes under its own temporary names
and renames at the end, so no process sees half a file; one that finds the tar finished leaves it as it is.
"""

import errno
import fcntl
import json
import os
import platform
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

from res3d_video.pipeline.convert.plan import ShardTask
from res3d_video.pipeline.convert.samples import Converted, convert
from res3d_video.pipeline.errors import one_line
from res3d_video.pipeline.files import new_file_opener, write_atomically
from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.ingest.inspector import Inspector
from res3d_video.pipeline.remote_store import RemoteError, RemoteStore
from res3d_video.pipeline.shard_writer import TarShard, sha256_of, to_json

MAX_ATTEMPTS = 3  # for a tar; then it is reported, and the others are made
# Worth a retry: problems of a disk, a network file system, memory or another process. Anything else is a bug.
PASSING = (OSError, MemoryError, ShardError)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # no tar can be written, so a retry is useless
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of a file system without locks
DAY_S = 24 * 3600
Item = TypeVar("Item")
Result = TypeVar("Result")

Counts = Counter[str]  # of "videos", and those that "failed"
# Progress of a `ShardMaker`: name of a tar and its counts so far, which restart from 0 when it is tried again.
ReportShard = Callable[[str, Counts], None]
# Makes tars in a folder or at a URL; returns name -> reason of those that failed in all attempts.
ShardMaker = Callable[[list[ShardTask], Path | RemoteStore, ReportShard], dict[str, str]]


class OtherInputsError(ShardError):
    """A machine sees other inputs for a tar than the one that planned the build."""


def make_here(
    tasks: list[ShardTask],
    out: Path | RemoteStore,
    tell: ReportShard,
    *,
    pool: ThreadPoolExecutor,
    inspector: Inspector,
    workers: int,
) -> dict[str, str]:
    """A `ShardMaker` in this process: a pool converts videos across tars, which are written one after another."""
    left, failed = tasks, dict[str, str]()
    for _ in range(MAX_ATTEMPTS):
        items = [(task, place) for task in left for place in range(len(task.records))]
        failed = {}
        with in_order(pool, lambda item: convert(*item, inspector), items, ahead=2 * workers) as converted:
            for task in left:
                mine = islice(converted, len(task.records))
                try:
                    tell(task.name, store_shard(task, (one.result() for one in mine), out, tell=tell))
                except PASSING as error:
                    if ends_all(error):
                        raise
                    failed[task.name] = one_line(error)
                deque(mine, maxlen=0)  # skip the other videos of a failed tar
        left = [task for task in left if task.name in failed]
    return failed


def make_shard(task: ShardTask, out: Path | str) -> Counts:
    """Make one tar in a worker process, one video at a time. A finished tar in a folder is kept.

    Args:
        out: A folder or, as a string, a URL.

    Raises:
        OtherInputsError: This machine sees other videos or has other programs than the one that planned the build.
        ShardError: As `store_shard`.
        OSError: It cannot be written.
    """
    if task.fingerprint() != task.inputs:
        raise OtherInputsError(
            f"{task.name}: {platform.node()} sees other videos or has other versions of ffmpeg and encoders than the "
            "machine that began; mount the same folder and install the same environment on all"
        )
    if isinstance(out, Path) and is_finished(out, task):
        return counts_of_finished(task, out)
    with Inspector(task.limits) as inspector:
        converted = (convert(task, place, inspector) for place in range(len(task.records)))
        return store_shard(task, converted, out if isinstance(out, Path) else store_of(out))


@cache
def store_of(url: str) -> RemoteStore:
    """The store of a URL; one per process, as it keeps connections open."""
    return RemoteStore(url)


def store_shard(
    task: ShardTask,
    converted: Iterable[Converted],
    out: Path | RemoteStore,
    *,
    tell: ReportShard = lambda name, counts: None,
) -> Counts:
    """`write_shard` to a folder, or to a temporary one whose files are uploaded, the part last.

    Raises:
        RemoteError: The server is unreachable or refuses.
    """
    if isinstance(out, Path):
        return write_shard(task, converted, out, tell=tell)
    with tempfile.TemporaryDirectory(prefix="res3d-shard-") as folder:
        counts = write_shard(task, converted, Path(folder), tell=tell)
        for name in (f"{task.name}.tar", f"{task.name}.idx", f"parts/{task.name}.json"):
            if (Path(folder) / name).is_file():
                out.upload(Path(folder) / name, name)
            else:  # all videos failed; an earlier attempt may have stored some
                out.remove(name)
    return counts


def counts_of_finished(task: ShardTask, out_dir: Path) -> Counts:
    """The counts of a tar that another process has made, perhaps one that died before it could report them."""
    part = json.loads((out_dir / "parts" / f"{task.name}.json").read_bytes())
    return Counts(videos=len(task.records), failed=len(part["quarantine"]))


def write_shard(
    task: ShardTask, converted: Iterable[Converted], out_dir: Path, *, tell: ReportShard = lambda name, counts: None
) -> Counts:
    """Write tar, idx and, last, the part of one task, unless another process has finished them meanwhile.

    Args:
        converted: Of each record, in order.
        tell: Called after each video.

    Raises:
        ShardError: Another process has written other bytes at the same time; try again.
    """
    part_path = out_dir / "parts" / f"{task.name}.json"
    counts, quarantine = Counts(), list[dict[str, str]]()
    try:
        with TarShard(out_dir / f"{task.name}.tar") as tar:
            for samples, failures in converted:
                for sample in samples:
                    tar.add(sample)
                quarantine += failures
                counts.update(videos=1, failed=len(failures))
                tell(task.name, counts.copy())
            if is_finished(out_dir, task):
                raise FileExistsError  # discards this one
        part = {"inputs": task.inputs, **tar.summary(), "quarantine": quarantine}
        if any(line["stage"] in ("limit", "open") for line in quarantine):  # other limits may allow it
            part["limits"] = asdict(task.limits)
        if not part["samples"]:  # only failures; there are no empty tars
            tar.path.unlink(missing_ok=True)
            tar.path.with_suffix(".idx").unlink(missing_ok=True)
        write_atomically(part_path, to_json(part))
    except (FileExistsError, FileNotFoundError):  # not found: removed by the process that wrote the index
        if is_finished(out_dir, task):
            return counts_of_finished(task, out_dir)
        raise
    if part["samples"] and not tar.is_in_place() and sha256_of(tar.path) != part["sha256"]:
        part_path.unlink(missing_ok=True)  # tar, idx and part may be of different processes
        raise ShardError(f"{task.name}: another process has made it at the same time, with other bytes; run again")
    return counts


@contextmanager
def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Iterator[Future[Result]]]:
    """Results in the order of the items, computed at most `ahead` in advance; leaving the block cancels the rest."""
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


def ends_all(error: BaseException) -> bool:
    """Whether an error would meet every tar: a full disk, an unreachable server, other inputs."""
    is_full = isinstance(error, OSError) and error.errno in FULL
    return is_full or isinstance(error, RemoteError | OtherInputsError)


def is_finished(out_dir: Path, task: ShardTask, *, read: bool = True, sizes: Mapping[str, int] | None = None) -> bool:
    """Whether a tar is complete and made from the task's inputs, and under its limits if they mattered.

    Args:
        read: Compare the tar's checksum; else only its size.
        sizes: For tars at a URL, the bytes of each file there. `out_dir` then has only the parts, and no tar is read.
    """
    tar = out_dir / f"{task.name}.tar"
    try:
        part = json.loads((out_dir / "parts" / f"{task.name}.json").read_bytes())
        limits = asdict(task.limits)
        if part["inputs"] != task.inputs or part.get("limits", limits) != limits:
            return False
        if not part["samples"]:
            return True
        if sizes is not None:
            return sizes.get(tar.name) == part["num_bytes"] and tar.with_suffix(".idx").name in sizes
        is_same = sha256_of(tar) == part["sha256"] if read else tar.stat().st_size == part["num_bytes"]
        return is_same and tar.with_suffix(".idx").is_file()
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # missing or damaged
        return False


def finished(out_dir: Path, tasks: list[ShardTask], *, sizes: Mapping[str, int] | None = None) -> int:
    """How many tars of a build are finished, whichever process made them. Tars are looked at if all parts are there.

    `sizes` as for `is_finished`.
    """
    try:  # NFS asks the server for a folder's list, but may answer from its cache whether one file exists
        listed = set(os.listdir(out_dir / "parts"))
    except FileNotFoundError:
        return 0
    count = sum(f"{task.name}.json" in listed for task in tasks)
    if count < len(tasks):
        return count
    return sum(is_finished(out_dir, task, read=False, sizes=sizes) for task in tasks)


def clean(out_dir: Path, *, alone: bool = True) -> None:
    """Remove temporary files of killed builds.

    Args:
        alone: No other process writes here. If others may, and all tars are finished, half-written tars are leftovers,
            but another process may be writing the index, so temporary files of the index stay until a day old.
    """
    for folder in (out_dir, out_dir / "parts", out_dir / "index"):
        for path in folder.glob(".*.tmp"):
            is_index = folder.name != "parts" and path.name.split(".")[-3] not in ("tar", "idx")
            with suppress(FileNotFoundError):
                if alone or not is_index or time.time() - path.stat().st_mtime > DAY_S:
                    path.unlink()


@contextmanager
def only_builder(out_dir: Path, *, shared: bool = False) -> Iterator[None]:
    """Keep other builds out of a folder, if its file system has locks (shared between machines).

    Without locks no file is torn either, as temporary names are unique to a process.

    Args:
        shared: Allow others that are `shared` too: the tasks of one build.

    Raises:
        ShardError: Another build is writing there.
    """
    descriptor = new_file_opener(
        str(out_dir / ".lock"), os.O_RDWR | os.O_CREAT
    )  # NFS needs it open for reading and writing
    with os.fdopen(descriptor, "rb+") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShardError(f"{out_dir}: another build is writing here; wait for it or choose another --out") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
