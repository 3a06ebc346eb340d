"""Options of make_shards.py: which processes and machines make the shards, within which limits."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import (
    BuildResult,
    TaskResult,
    build_shards,
    build_task,
    finish_build,
    make_on_ray,
)
from res3d_video.pipeline.datasets import Listing
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.ingest.limits import Limits

# fmt: off
OPTIONS = [
    click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True,
                 help="This machine, or a Ray cluster."),
    click.option("--ray-address", metavar="ADDRESS", default="auto", show_default=True,
                 help="Of Ray's cluster: auto finds one on this machine; host:port, or local for a new one."),
    click.option("--ray-cores", type=click.IntRange(min=1, max=1024), default=1, show_default=True,
                 help="Of a machine for one shard in work."),
    click.option("--task", metavar="I/N", help="Make only every N-th shard, from the I-th; the last task writes the "
                 "index."),
    click.option("--finish", is_flag=True, help="Only write the index, when all tasks are done."),
]
# fmt: on
MACHINES = ("executor", "ray_address", "ray_cores", "task", "finish")


@dataclass(frozen=True)
class Machines:
    """Who makes the shards.

    Attributes:
        task: Number and how many there are, 1-based; None where one process sees to all.
    """

    executor: str
    ray_address: str
    ray_cores: int
    task: tuple[int, int] | None
    finish: bool

    @property
    def are_shared(self) -> bool:
        """Whether no process knows of the whole build."""
        return self.task is not None or self.finish

    def build(
        self, listing: Listing, folder: Path, settings: BuildSettings, **options: Any
    ) -> BuildResult | TaskResult:
        """Make shards; options are those of `build_shards`."""
        if self.finish:
            return finish_build(listing, folder, settings, **options)
        if self.task is not None:
            return build_task(listing, folder, settings, number=self.task[0], num_tasks=self.task[1], **options)
        on_ray = partial(make_on_ray, address=self.ray_address, cores=self.ray_cores)
        return build_shards(listing, folder, settings, make=on_ray if self.executor == "ray" else None, **options)


def machine_options(command: Callable) -> Callable:
    """Add the options."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def take_machines(options: dict[str, Any]) -> Machines:
    """Who makes the shards, taken out of a command's options.

    Raises:
        ValueError: Options contradict one another, or name no task.
    """
    executor, address, cores, task, finish = (options.pop(name) for name in MACHINES)
    machines = Machines(executor, address, cores, None if task is None else parsed(task), finish)
    if executor != "ray":
        for name in ("ray_address", "ray_cores"):
            if click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise UserError(f"--{name.replace('_', '-')} is of --executor ray, not of {executor}; leave it out")
    if machines.are_shared and executor != "local":
        raise UserError(f"{'--finish' if finish else '--task'}: does not go with --executor {executor}; leave one out")
    if finish and task is not None:
        raise UserError("--finish: does not go with --task; run it once, after all tasks")
    return machines


def parsed(task: str) -> tuple[int, int]:
    """Number of a task and how many there are.

    >>> parsed("2/8")
    (2, 8)

    Raises:
        ValueError: That is no task.
    """
    number, _, count = task.partition("/")
    if not (number.isascii() and number.isdigit() and count.isascii() and count.isdigit()):
        raise UserError(f"--task: {task!r} is not I/N; say 1/8 for the first of eight")
    if not 1 <= int(number) <= int(count):
        raise UserError(f"--task: {task} does not exist; choose 1/{count} to {count}/{count}")
    return int(number), int(count)


LIMITS = {
    "max_pixels": "Of a frame; a video that has more is quarantined, as with the limits below.",
    "max_frames": "Of a video.",
    "max_duration_s": "That a video claims.",
    "max_wall_s": "For all that is done with a video.",
    "max_cpu_s": "Of each process that reads a video.",
    "max_memory_mb": "Of each process that reads a video.",
    "max_output_mb": "Stored of a video, a segment at a time.",
    "follow_links": "Read videos outside the raw folder, where a link leads there.",
}


def limit_options(command: Callable) -> Callable:
    """Add the options of a video's limits."""
    for field in reversed(fields(Limits)):
        name, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            option = click.option(name, is_flag=True, help=LIMITS[field.name])
        else:
            option = click.option(name, default=default, show_default=True, help=LIMITS[field.name])
        command = option(command)
    return command


def take_limits(options: dict[str, Any]) -> Limits:
    """The limits, taken out of a command's options.

    Raises:
        ValueError: One is not possible.
    """
    return Limits(**{name: options.pop(name) for name in LIMITS})
