"""From a listing of videos to a folder of shards: deterministic, in parallel, and able to go on where it was killed.

The unit of work is one tar. Which videos a tar holds, and every byte of it, follow from the listing and the settings
alone. `parts/NAME-000000.json` is written after its tar and says what the tar was made from; a later run keeps a tar
whose part still describes the same inputs and makes the others. The index is written when all are there.

So a build can be done by one process (`build_shards`), by workers that one process gives tars to (`build_shards` with
another `make`, such as on_ray.py's), or by tasks that know nothing of each other (`build_task`).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Required, TypedDict, Unpack

from res3d_video.pipeline.build.finish import BuildResult, first_of, not_there, write_whole
from res3d_video.pipeline.build.parts import clean, is_finished, listed, only_builder
from res3d_video.pipeline.build.plan import BuildPlan, ShardTask, plan_build, refuse_other_settings, shuffled
from res3d_video.pipeline.build.samples import transcode
from res3d_video.pipeline.build.settings import BuildSettings
from res3d_video.pipeline.build.shard import MAX_ATTEMPTS, Counts, Make, make_here
from res3d_video.pipeline.datasets import Listing
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.source.inspector import Inspector
from res3d_video.pipeline.source.limits import Limits

__all__ = [
    "BuildProgress",
    "BuildResult",
    "BuildSettings",
    "TaskResult",
    "build_shards",
    "build_task",
    "finish_build",
    "shuffled",
    "transcode",
]


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
