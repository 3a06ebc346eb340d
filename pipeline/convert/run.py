"""From a listing of videos to a folder of shards: deterministic, parallel, and resumable after a kill.

The unit of work is one tar. Its videos and all its bytes follow from the listing and the settings alone.
`parts/NAME-000000.json` is written after its tar and records what the tar was made from; a later run keeps the tars
whose parts still match and makes the others. The index is written when all tars are finished.

So a build can run in one process, in workers that one process schedules (`make_on_ray`), or in independent tasks.
"""

import logging
import re
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from res3d_video import pipeline
from res3d_video.pipeline.convert.destination import Destination
from res3d_video.pipeline.convert.plan import (
    BuildSettings,
    OldShards,
    ShardTask,
    old_shards,
    plan_build,
    refuse_other_settings,
)
from res3d_video.pipeline.convert.samples import segment_length
from res3d_video.pipeline.convert.shard import (
    MAX_ATTEMPTS,
    PASSING,
    Counts,
    ReportShard,
    ShardMaker,
    clean,
    ends_all,
    make_here,
    make_shard,
    only_builder,
)
from res3d_video.pipeline.datasets import Listing
from res3d_video.pipeline.errors import one_line
from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.ingest.inspector import Inspector
from res3d_video.pipeline.ingest.limits import Limits
from res3d_video.pipeline.remote_store import RemoteStore
from res3d_video.pipeline.shard_writer import Parts, write_index, write_lines

STATES = ("present", "too short", "broken", "missing")  # of the listed videos
NAMED = 3  # tars named in an error
CONNECT_S = 10.0
IN_HAND = 1000  # tars submitted to Ray at a time


@dataclass(frozen=True)
class BuildResult:
    """The result of a build, or of one of its tasks.

    Attributes:
        num_shards: Of the whole dataset; `num_shards_there` are finished. The index is written when all are; the
            attributes after `num_shards_kept` are of the whole dataset, and empty until then.
        failures: Why videos failed, the most frequent reason first -> number of videos.
        videos: State -> number of lines of manifest.jsonl; empty where there is no such file.
    """

    num_shards: int
    num_shards_there: int
    num_shards_written: int
    num_shards_kept: int
    num_samples: int = 0
    num_quarantined: int = 0
    num_missing: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    videos: dict[str, int] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether the index was written."""
        return self.num_shards_there == self.num_shards


def build_shards(
    listing: Listing,
    out_dir: Path,
    settings: BuildSettings,
    *,
    workers: int,
    limit: int | None = None,
    limits: Limits | None = None,
    report: Callable[..., None] = lambda *done, **failed: None,
    task: tuple[int, int] | None = None,
    append: bool = False,
    make: ShardMaker | None = None,
    store: RemoteStore | None = None,
) -> BuildResult:
    """Transcode the videos of a listing into shards.

    Args:
        workers: Videos transcoded at once; each takes about one core.
        limit: Take only this many videos, the first in shuffled order.
        limits: Of each video. Tars with a video that exceeded other limits are made again.
        report: Called with the videos done, of those of this run; a `train.terminal.Report`.
        task: (i, n): make only every n-th tar, starting from the i-th, 1-based. Other tasks make the others, perhaps on
            other machines; the one that finds all of them finished writes the index.
        append: Add the videos that a finished dataset in `out_dir` lacks as new tars; its own stay as they are.
        make: Makes the tars; None is this process.
        store: For shards at a URL. `out_dir` then is an empty scratch folder, which has all but the tars at the end.

    Raises:
        ShardError: Another build writes to `out_dir`, it holds shards of other settings, or some could not be made. As
            `RemoteError`: the server is unreachable or refuses.
    """
    if store is not None:
        store.require_writable()
    out_dir.mkdir(parents=True, exist_ok=True)
    out, is_shared = Destination(out_dir, store), task is not None
    with only_builder(out_dir, shared=is_shared), Inspector(limits) as inspector, ThreadPoolExecutor(workers) as pool:
        if not is_shared:
            clean(out_dir)
        out.look(pool)
        old = old_shards(out_dir, listing, shown=str(out)) if append else OldShards()
        head, tasks = plan_build(listing, settings, pool, limit=limit, inspector=inspector, report=report, old=old)
        refuse_other_settings(out_dir, head, shown=str(out))
        number, num_tasks = task or (1, 1)
        mine = tasks[number - 1 :: num_tasks]
        todo = [one for one in mine if not out.is_finished(one)]
        if todo:
            if not append:  # appended tars are not named in dataset.json yet
                out.remove("dataset.json")  # readers must not see a mix of two builds
            make = make or partial(make_here, pool=pool, inspector=inspector, workers=workers)
            failed = make(todo, store or out_dir, progress_of(mine, todo, report))
            if failed:
                reasons = ", ".join(f"{name} ({reason})" for name, reason in list(failed.items())[:NAMED])
                raise ShardError(
                    f"{out}: {len(failed)} shards failed {MAX_ATTEMPTS} times, {len(todo) - len(failed)} others "
                    f"were made: {reasons}; the same command tries them again"
                )
            out.look(pool, tasks)
        names = old.names + [one.name for one in tasks]
        num_there, num_kept = len(old.names) + out.num_finished(tasks), len(old.names) + len(mine) - len(todo)
        result = BuildResult(len(names), num_there, len(todo), num_kept)
        return write_whole(result, listing, settings, head, names, out, alone=not is_shared)


def progress_of(mine: list[ShardTask], todo: list[ShardTask], report: Callable[..., None]) -> ReportShard:
    """A `ReportShard` that reports the progress of all tars together."""
    num_total = sum(len(one.records) for one in mine)
    total = Counts(videos=num_total - sum(len(one.records) for one in todo))
    of_tar: dict[str, Counts] = {}

    def tell(name: str, counts: Counts) -> None:
        total.subtract(of_tar.get(name, Counts()))
        total.update(counts)
        of_tar[name] = counts
        report(total["videos"], num_total, failed=total["failed"])

    return tell


def write_whole(
    result: BuildResult,
    listing: Listing,
    settings: BuildSettings,
    head: dict[str, Any],
    names: list[str],
    out: Destination,
    *,
    alone: bool,
) -> BuildResult:
    """Write index, quarantine.jsonl, manifest.jsonl and dataset.json, if all tars of these names are finished.

    Two processes may do so at once: they write the same bytes under different temporary names, and rename them.

    Args:
        alone: No other process writes to this folder.
    """
    if not result.is_whole:
        return result
    out_dir = out.folder
    found = {path.stem for path in (out_dir / "parts").glob("[!.]*.json")}
    for name in found - set(names):  # of an earlier build
        out.remove(
            "dataset.json", f"{name}.tar", f"{name}.idx", f"parts/{name}.json"
        )  # dataset.json first: readers must not see a mix
    parts = Parts(out_dir, names)
    missing = [{"source": s, "stage": "missing", "reason": "named in the lists, not found"} for s in listing.missing]
    videos = {}
    if settings.segment_s is not None:
        videos = dict.fromkeys(STATES, 0)
        write_lines(out_dir / "manifest.jsonl", manifest_lines(parts, listing, settings.segment_s, counts=videos))
    info, quarantine, _ = write_index(out_dir, parts, head=head, missing=missing)
    out.publish()
    clean(out_dir, alone=alone)
    return replace(
        result,
        num_samples=info["num_samples"],
        num_quarantined=len(quarantine),
        num_missing=len(missing),
        failures=reasons_of(quarantine),
        videos=videos,
    )


def manifest_lines(
    parts: Iterable[dict[str, Any]], listing: Listing, segment_s: float, *, counts: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """One line per video, in the order of the tars, then the missing ones; shards/README.md has the keys.

    Args:
        counts: State -> number of lines; updated.
    """
    subset_of = {record.source: record.subsets[0] for record in listing.records} | listing.subset_of_missing

    def line(source: str, state: str, /, **more: Any) -> dict[str, Any]:
        counts[state] += 1
        name = source if state == "missing" else Path(source).stem
        about = {"id": name, "state": state, **more}
        if source in subset_of:
            about["subset"] = subset_of[source]
        return about | ({"in_both_lists": True} if name in listing.in_both else {})

    for part in parts:
        for source, samples in groupby(part["samples"], key=lambda sample: sample["source"]):
            first, *others = samples
            num_frames, fps = first["num_frames_source"], first["fps"]
            state = "too short" if num_frames < segment_length(segment_s, fps=fps) else "present"
            yield line(source, state, source=source, num_segments=1 + len(others), num_frames=num_frames, fps=fps)
        for failed in part["quarantine"]:
            yield line(failed["source"], "broken", source=failed["source"], reason=failed["reason"])
    for name in listing.missing:
        yield line(name, "missing")


def reasons_of(quarantine: Iterable[dict[str, str]]) -> dict[str, int]:
    """The reasons of quarantine.jsonl, the most frequent first -> number of videos.

    Names of videos are left out and numbers replaced by …, so that similar reasons are counted together.

    >>> reasons = ["a.mp4: has 7 frames", "b.mp4: is empty", "c.mp4: has 9 frames"]
    >>> reasons_of({"source": f"x/{reason[:5]}", "reason": reason} for reason in reasons)
    {'has … frames': 2, 'is empty': 1}
    """
    reasons = (line["reason"].removeprefix(f"{Path(line['source'].partition('#')[0]).name}: ") for line in quarantine)
    return dict(Counter(re.sub(r"\b\d[\d.]*\b", "…", reason) for reason in reasons).most_common())


def make_on_ray(tasks: list[ShardTask], out: Path | RemoteStore, tell: ReportShard, *, address: str) -> dict[str, str]:
    """A `ShardMaker` on a Ray cluster, one core per tar.

    Args:
        address: Of the cluster: "auto" (one that runs on this machine), "host:port", or "local" to start one.

    Raises:
        ShardError: Ray is not installed, there is no such cluster, or a machine sees other videos.
        RemoteError: The server of the URL is unreachable or refuses.
        OSError: The disk is full.
    """
    place = out.absolute() if isinstance(out, Path) else out.url
    waiting, given, failed = deque(tasks), dict[Any, ShardTask](), dict[str, str]()
    attempts: Counter[str] = Counter()
    with connected(address) as ray:
        # Ray's own retries are off: it has two counters, one of them endless, and would retry on a full disk.
        remote = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(make_shard)
        while waiting or given:
            while waiting and len(given) < IN_HAND:
                task = waiting.popleft()
                records = tuple(replace(r, raw=r.raw.absolute()) for r in task.records)  # workers are elsewhere
                given[remote.remote(replace(task, records=records), place)] = task
            (done,), _ = ray.wait(list(given), num_returns=1)
            task = given.pop(done)
            attempts[task.name] += 1
            try:
                tell(task.name, ray.get(done))
            except ray.exceptions.RayError as error:
                reason = failure(error)
                if attempts[task.name] < MAX_ATTEMPTS:
                    waiting.append(task)
                else:
                    failed[task.name] = reason
    return failed


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module ray, connected to a cluster.

    Raises:
        ShardError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise ShardError('ray is not installed; pip install "res3d-video[ray]" on all machines') from None
    environment = {  # workers import the driver's checkout
        "env_vars": {"PYTHONPATH": f"{Path(pipeline.__file__).parents[1]}:${{PYTHONPATH}}"},
        "worker_process_setup_hook": "pipeline.make_checkout_known",
    }
    try:
        host, _, port = address.rpartition(":")
        if host and port.isdigit():  # Ray would try for minutes and then end the process
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise ShardError(
            f"ray: no cluster at {address!r} ({one_line(error)}); start one with `ray start --head`"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()  # ends tasks that still run


def failure(error: Any) -> str:
    """Why a worker failed, in one line.

    Raises:
        OSError, ShardError: Retrying cannot help (`ends_all`). A machine that differs from the others would otherwise
            fail all tars quickly.
        RayError: A bug; with the worker's traceback.
    """
    cause = getattr(error, "cause", None)
    if cause is None:
        return f"its worker died ({type(error).__name__})"
    if ends_all(cause):
        raise cause
    if not isinstance(cause, PASSING):
        raise error
    return one_line(cause)
