"""From a listing of videos to a folder of shards: deterministic, in parallel, and able to go on where it was killed.

The unit of work is one tar. Which videos a tar holds, and every byte of it, follow from the listing and the settings
alone. `parts/NAME-000000.json` is written after its tar and says what the tar was made from; a later run keeps a tar
whose part still describes the same inputs and makes the others. The index is written when all are there.

So a build can be done by one process (`build_shards`), by workers that one process gives tars to (`build_shards` with
`make_on_ray`), or by tasks that know nothing of each other (`build_task`).
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
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

from res3d_video import pipeline
from res3d_video.pipeline.convert.plan import BuildPlan, BuildSettings, ShardTask, plan_build, refuse_other_settings
from res3d_video.pipeline.convert.samples import segment_length
from res3d_video.pipeline.convert.shard import (
    MAX_ATTEMPTS,
    PASSING,
    Counts,
    Make,
    OtherInputsError,
    Tell,
    clean,
    is_finished,
    is_full,
    listed,
    make_here,
    make_shard,
    only_builder,
)
from res3d_video.pipeline.datasets import Listing
from res3d_video.pipeline.errors import UserError, one_line
from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.index_writer import Parts, write_index, write_lines
from res3d_video.pipeline.ingest.inspector import Inspector
from res3d_video.pipeline.ingest.limits import Limits

STATES = ("present", "too short", "broken", "missing")  # of the videos that the lists name
NAMED = 3  # tars named in an error; of the others, how many
CONNECT_S = 10.0
IN_HAND = 1000  # tars that Ray has at once, to give to whatever machines there are


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


class BuildOptions(TypedDict, total=False):
    """What every way to build takes.

    Attributes:
        workers: Videos in work at once; each keeps about one core busy.
        limit: Take only this many videos, the first in shuffled order.
        limits: Of each video; tars in which one exceeded others are made anew.
    """

    workers: Required[int]
    limit: int | None
    limits: Limits | None
    report: Report


@dataclass(frozen=True)
class BuildResult:
    """What a build left behind.

    Attributes:
        failures: Why videos failed, the most frequent reason first, with how many.
        videos: How many lines of manifest.jsonl have each of its states; empty where there is none.
    """

    num_samples: int
    num_quarantined: int
    num_missing: int
    num_shards_written: int
    num_shards_kept: int
    num_files_changed: int
    failures: dict[str, int] = field(default_factory=dict)
    videos: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskResult:
    """What one task of a build left behind.

    Attributes:
        num_shards: Of the whole dataset; `num_shards_there` of them are there.
        whole: Of the task that wrote the index, because it found all tars there.
    """

    num_shards_written: int
    num_shards_kept: int
    num_shards_there: int
    num_shards: int
    whole: BuildResult | None = None


def build_shards(
    listing: Listing,
    out_dir: Path,
    settings: BuildSettings,
    *,
    make: Make | None = None,
    **options: Unpack[BuildOptions],
) -> BuildResult:
    """Transcode the videos of a listing into shards.

    Args:
        make: Who makes the tars; this process if None.

    Raises:
        ShardError: Another build writes to `out_dir`, it holds shards of other settings, or some could not be made.
    """
    with _planned(listing, out_dir, settings, **options) as (plan, here, report):
        num_written, num_kept = _make_all(plan, plan.tasks, out_dir, make or here, report)
        return write_whole(plan, out_dir, num_written=num_written, num_kept=num_kept)


def build_task(
    listing: Listing,
    out_dir: Path,
    settings: BuildSettings,
    *,
    number: int,
    num_tasks: int,
    **options: Unpack[BuildOptions],
) -> TaskResult:
    """Make the share of one of several tasks, which may run at once on many machines; the last one writes the index.

    Args:
        number: Of this task, 1 … `num_tasks`; it makes shards `number` - 1, `number` - 1 + `num_tasks`, …

    Raises:
        ShardError: As `build_shards`.
    """
    with _planned(listing, out_dir, settings, shared=True, **options) as (plan, here, report):
        mine = share(plan.tasks, number=number, num_tasks=num_tasks)
        num_written, num_kept = _make_all(plan, mine, out_dir, here, report)
        result = TaskResult(num_written, num_kept, num_there(plan, out_dir), len(plan.tasks))
        is_indexed = not num_written and (out_dir / "dataset.json").is_file()
        if is_indexed or not_there(plan, out_dir):
            return result
        whole = write_whole(plan, out_dir, num_written=num_written, num_kept=num_kept, alone=False)
        return replace(result, whole=whole)


def finish_build(
    listing: Listing, out_dir: Path, settings: BuildSettings, **options: Unpack[BuildOptions]
) -> BuildResult:
    """Write the index of a dataset whose tars are all there.

    Raises:
        ShardError: As `build_shards`; or some tar is not there.
    """
    with _planned(listing, out_dir, settings, shared=True, **options) as (plan, _, _):
        return write_whole(plan, out_dir, num_written=0, num_kept=len(plan.tasks), alone=False)


def share(tasks: list[ShardTask], *, number: int, num_tasks: int) -> list[ShardTask]:
    """What one of several tasks makes: every `num_tasks`-th tar.

    Raises:
        ValueError: There is no task of this number.
    """
    if not 1 <= number <= num_tasks:
        raise UserError(f"task: {number}/{num_tasks} does not exist; choose 1/{num_tasks} to {num_tasks}/{num_tasks}")
    return tasks[number - 1 :: num_tasks]


def num_there(plan: BuildPlan, out_dir: Path) -> int:
    """Tars that are there, whoever made them."""
    return len(listed(out_dir) & set(plan.names))


def _make_all(plan: BuildPlan, mine: list[ShardTask], out_dir: Path, make: Make, report: Report) -> tuple[int, int]:
    """Make those tars that are not finished; how many were made, and how many kept.

    Raises:
        ShardError: Some failed; the others were made.
    """
    done = [t for t in mine if is_finished(out_dir, t.name, t.inputs, limits=t.limits)]
    names = {task.name for task in done}
    todo = [task for task in mine if task.name not in names]
    num_total, num_shards = sum(len(task.records) for task in mine), num_there(plan, out_dir)
    total, of_tar = Counts(sum(len(task.records) for task in done)), dict[str, Counts]()

    def tell(name: str, counts: Counts) -> None:
        nonlocal total, num_shards
        total += counts - of_tar.get(name, Counts())
        of_tar[name] = counts
        if counts.num_shards:
            num_shards = num_there(plan, out_dir)
        report(
            BuildProgress(
                total.num_videos,
                num_total,
                total.num_frames,
                total.num_failed,
                num_shards=num_shards,
                num_shards_total=len(plan.tasks),
            )
        )

    if todo:
        (out_dir / "dataset.json").unlink(missing_ok=True)  # readers must not meet half of two builds
    failed = make(todo, out_dir, tell) if todo else {}
    if failed:
        raise ShardError(
            f"{out_dir}: {len(failed)} shards failed {MAX_ATTEMPTS} times, {len(todo) - len(failed)} others were made: "
            f"{first_of([f'{name} ({reason})' for name, reason in failed.items()])}; the same command tries them again"
        )
    return len(todo), len(done)


@contextmanager
def _planned(
    listing: Listing,
    out_dir: Path,
    settings: BuildSettings,
    *,
    workers: int,
    limit: int | None = None,
    limits: Limits | None = None,
    report: Report = lambda progress: None,
    shared: bool = False,
) -> Iterator[tuple[BuildPlan, Make, Report]]:
    """The plan of a build and who makes tars here, with the folder kept for it."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with (
        only_builder(out_dir, shared=shared),
        Inspector(limits) as inspector,
        ThreadPoolExecutor(workers) as pool,
    ):
        if not shared:
            clean(out_dir)
        plan = plan_build(
            listing,
            settings,
            pool,
            limit=limit,
            inspector=inspector,
            report=lambda done, total, failed: report(BuildProgress(done, total, 0, failed, "probe")),
        )
        refuse_other_settings(out_dir, plan.head)
        yield plan, partial(make_here, pool=pool, inspector=inspector, workers=workers), report


def not_there(plan: BuildPlan, out_dir: Path) -> list[str]:
    """Names of the tars that are not there, or were made from other inputs; their bytes are not read."""
    there = listed(out_dir)
    if there >= set(plan.names):  # only then is it worth while to open each part
        there = {t.name for t in plan.tasks if is_finished(out_dir, t.name, t.inputs, limits=t.limits, read=False)}
    return [name for name in plan.names if name not in there]


def write_whole(plan: BuildPlan, out_dir: Path, *, num_written: int, num_kept: int, alone: bool = True) -> BuildResult:
    """Write index, quarantine.jsonl, manifest.jsonl and dataset.json of tars that are all there.

    Two processes may do this at once: they write the same bytes, each under names of its own, and rename.

    Args:
        alone: No other process writes to this folder.

    Raises:
        ShardError: Some tar is not there.
    """
    absent = not_there(plan, out_dir)
    if absent:
        raise ShardError(
            f"{out_dir}: {len(absent)} of {len(plan.tasks)} shards are not there or made from other videos: "
            f"{first_of(absent)}; make them, and see that all machines share this folder, the videos and one version "
            "of every program"
        )
    for name in listed(out_dir) - set(plan.names):  # of an earlier build
        for stale in ("dataset.json", f"{name}.tar", f"{name}.idx", f"parts/{name}.json"):  # readers meet no half of it
            (out_dir / stale).unlink(missing_ok=True)
    listing, parts = plan.listing, Parts(out_dir, plan.names)
    missing = [{"source": s, "stage": "missing", "reason": "named in the lists, not found"} for s in listing.missing]
    videos, manifest_changed = {}, False
    if plan.settings.segment_s is not None:
        videos = dict.fromkeys(STATES, 0)
        lines = counted(manifest_lines(parts, listing, plan.settings), videos)
        manifest_changed = write_lines(out_dir / "manifest.jsonl", lines)
    tally, changed = write_index(out_dir, parts, head=plan.head, missing=missing)
    clean(out_dir, alone=alone)
    return BuildResult(
        num_samples=tally.samples,
        num_quarantined=len(tally.quarantine),
        num_missing=len(missing),
        num_shards_written=num_written,
        num_shards_kept=num_kept,
        num_files_changed=changed + manifest_changed,
        failures=reasons_of(tally.quarantine),
        videos=videos,
    )


def manifest_lines(
    parts: Iterable[dict[str, Any]], listing: Listing, settings: BuildSettings
) -> Iterator[dict[str, Any]]:
    """One line a video, in the order of the tars, then those that are missing.

    A line has the video's `id`, `state` and `subset`, this one for missing videos where the adapter knows it; and
    `in_both_lists` where that is so.
    "present" and "too short" (one segment, the whole video) come with `source`, `num_segments`, `num_frames` and `fps`
    of the source; "broken" with `source` and `reason`.
    """
    subset_of = {record.source: record.subsets[0] for record in listing.records}
    for part in parts:
        for first, num_segments in videos_of(part["samples"]):
            length = segment_length(settings.segment_s or 0, fps=first["fps"])
            yield {
                **_about(Path(first["source"]).stem, listing),
                "state": "too short" if first["num_frames_source"] < length else "present",
                "subset": subset_of[first["source"]],
                "source": first["source"],
                "num_segments": num_segments,
                "num_frames": first["num_frames_source"],
                "fps": first["fps"],
            }
        for line in part["quarantine"]:
            about = _about(Path(line["source"]).stem, listing)
            about |= {"state": "broken", "subset": subset_of[line["source"]]}
            yield about | {"source": line["source"], "reason": line["reason"]}
    for name in listing.missing:
        about = _about(name, listing) | {"state": "missing"}
        yield about | ({"subset": listing.subset_of_missing[name]} if name in listing.subset_of_missing else {})


def videos_of(samples: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
    """The first sample of each video and how many it has; samples of a video follow one another.

    >>> [(s["key"], n) for s, n in videos_of([{"key": k, "source": k[0]} for k in ("a0", "a1", "b0")])]
    [('a0', 2), ('b0', 1)]
    """
    counts = Counter(sample["source"] for sample in samples)
    for sample in samples:
        if sample["source"] in counts:
            yield sample, counts.pop(sample["source"])


def counted(lines: Iterable[dict[str, Any]], counts: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Pass lines on and count their states into `counts`."""
    for line in lines:
        counts[line["state"]] = counts.get(line["state"], 0) + 1
        yield line


def _about(name: str, listing: Listing) -> dict[str, Any]:
    return {"id": name} | ({"in_both_lists": True} if name in listing.in_both else {})


def reasons_of(quarantine: Iterable[dict[str, str]]) -> dict[str, int]:
    """The reasons of quarantine.jsonl without the videos' names, the most frequent first, with how many videos each.

    Reasons that differ only in numbers are one, with … in their place.

    >>> reasons = ["a.mp4: has 7 frames", "b.mp4: is empty", "c.mp4: has 9 frames"]
    >>> reasons_of({"source": f"x/{reason[:5]}", "reason": reason} for reason in reasons)
    {'has … frames': 2, 'is empty': 1}
    """
    counts: Counter[str] = Counter()
    exact: dict[str, str] = {}
    for line in quarantine:
        reason = line["reason"].removeprefix(f"{Path(line['source']).name}: ")
        alike = re.sub(r"\b\d[\d.]*\b", "…", reason)
        counts[alike] += 1
        if exact.setdefault(alike, reason) != reason:
            exact[alike] = alike
    return {exact[alike]: count for alike, count in counts.most_common()}


def first_of(names: list[str]) -> str:
    """The first few, and how many more.

    >>> first_of(["a", "b"]), first_of(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def make_on_ray(tasks: list[ShardTask], out_dir: Path, tell: Tell, *, address: str, cores: int = 1) -> dict[str, str]:
    """A `Make` on a Ray cluster.

    Args:
        address: Of the cluster: "auto" (one that runs on this machine), "host:port", or "local" for one just for this.
        cores: That one tar takes; each converts a video at a time.

    Raises:
        ShardError: There is no Ray, or no such cluster; or a machine sees other videos.
        OSError: The disk is full.
    """
    waiting, given, failed = deque(tasks), dict[Any, ShardTask](), dict[str, str]()
    attempts: Counter[str] = Counter()
    with connected(address) as ray:
        # Ray's own retries are off: it has two counts, one of them endless, and does not know a full disk.
        remote = ray.remote(num_cpus=cores, max_retries=0, scheduling_strategy="SPREAD")(make_shard)
        while waiting or given:
            while waiting and len(given) < IN_HAND:
                task = waiting.popleft()
                records = tuple(replace(r, path=r.path.absolute()) for r in task.records)  # workers are elsewhere
                given[remote.remote(replace(task, records=records), out_dir.absolute(), workers=cores)] = task
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
        ShardError: It is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise ShardError('ray is not installed; pip install "res3d-video[ray]" on all machines') from None
    environment = {  # workers import this very code, from the checkout where the driver has it
        "env_vars": {"PYTHONPATH": f"{Path(pipeline.__file__).parents[1]}:${{PYTHONPATH}}"},
        "worker_process_setup_hook": "pipeline.make_checkout_known",
    }
    try:
        host, _, port = address.rpartition(":")
        if host and port.isdigit():  # Ray itself tries for minutes, and then ends the process
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise ShardError(
            f"ray: no cluster at {address!r} ({one_line(error)}); start one with `ray start --head`"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()  # which ends what is still in work


def failure(error: Any) -> str:
    """Why a worker failed, in one line.

    Raises:
        OSError: The disk is full, so that no other worker can do better.
        OtherInputsError: A machine is not like the others, and would soon have tried and failed everything.
        RayError: A bug ended the work; with the worker's traceback.
    """
    cause = getattr(error, "cause", None)
    if cause is None:
        return f"its worker died ({type(error).__name__})"
    if is_full(cause) or isinstance(cause, OtherInputsError):
        raise cause
    if not isinstance(cause, PASSING):
        raise error
    return one_line(cause)
