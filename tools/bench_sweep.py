"""Measure how the loader's cost grows with batch size, frames, stored size and threads: one table, one chart."""

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

if not __package__:  # started by path: look in the checkout, not in tools/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

# Threads that wait must sleep (docs/decisions/0004-threads-that-wait-sleep.md). Read by OpenMP when torch is loaded,
# in the processes that this one starts too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import click
import torch

from pipeline.loader import LoaderError, LoaderSettings
from pipeline.shard import ShardError, open_index
from tools.bench.chart import load_matplotlib
from tools.bench.machine import machine, machine_lines, markdown, table, write
from tools.bench.measure import BenchError, Spread, load_psutil
from tools.bench.options import FILE, FOLDER, Numbers, pick_device, pick_segments
from tools.bench.panels import draw_panels
from tools.bench.run import Settings
from tools.bench.sweep import (
    FACTORS,
    HEADER,
    Found,
    Journal,
    Point,
    measure_point,
    note_of,
    points_of,
    row_of,
    try_build,
)
from tools.bench_shards import list_videos
from tools.terminal import QUIET, Failed, progress
from train.command import Command
from train.data_options import LOCAL_DATA
from train.models import MODELS, ModelConfig
from train.ranks import Ranks
from train.step import default_options

BATCH_SIZES = (16, 32, 64, 128, 256, 512, 1024)
FRAMES = (4, 8, 16)
STORED_SIZES = (64, 128, 256)
THREADS = (1, 2, 4, 8, 16)
DEFAULTS: dict[str, dict[str, Any]] = {  # a CPU gets a net that it can train
    "cuda": {"batch_size": 256, "clips": 16384, "model": "res3d18", "width": 64},
    "cpu": {"batch_size": 32, "clips": 512, "model": "res3d10", "width": 16},
}
BASE_FRAMES, BASE_SIZE = 8, 128
PACKAGES = ("torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "numpy")

EPILOG = """\b
Examples:
  python tools/bench_sweep.py --raw data/ucf101 --limit 60 --chart sweep.png --markdown sweep.md
  python tools/bench_sweep.py --data shards/ucf101 --json sweep.json --resume
  python tools/bench_sweep.py --data shards/ucf101 --step --batch-sizes 64,128,256 --threads 2,4,8
\b
One factor at a time changes around a base point; the others stay. Every point has a process of its own and the median
of its turns. --raw builds shards of a sample of the videos at each stored size; with --data that factor is left out.
The crop is 7/8 of the stored size. With --json every finished point is kept, and --resume goes on after the last one.
"""


@dataclass(frozen=True)
class Plan:
    """What to sweep.

    Attributes:
        shards: Stored size -> folder of shards, or why there is none.
        values: Factor -> values.
        settings: Of the base point.
        clips: Of a turn.
    """

    shards: dict[int, Path | str]
    base: Point
    values: dict[str, Sequence[int]]
    settings: Settings
    clips: int


NUMBERS = Numbers()


@click.command(cls=Command, go_on="with --json and --resume it can go on", epilog=EPILOG)
@click.option("--data", type=LOCAL_DATA, help="Folder of shards.")
@click.option("--raw", type=FOLDER, help="Folder with videos anywhere in it, instead of --data.")
@click.option("--limit", type=click.IntRange(1), help="Take only so many videos, drawn from all.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Keep built shards here.")
@click.option("--batch-sizes", type=NUMBERS, default=BATCH_SIZES, help="[default: 16 to 1024]")
@click.option("--frames", type=NUMBERS, default=FRAMES, help="Of a clip.  [default: 4,8,16]")
@click.option("--sizes", type=NUMBERS, default=STORED_SIZES, help="Stored height, pixels.  [default: 64,128,256]")
@click.option("--threads", type=NUMBERS, help="Of DALI.  [default: 1,2,4,8,16, as far as there are CPUs]")
@click.option("--batch-size", type=click.IntRange(1), help="Of the base point.  [default: 256; on a CPU 32]")
@click.option("--num-threads", type=click.IntRange(1), default=2, show_default=True, help="Of the base point.")
@click.option("--step", is_flag=True, help="The training step on the loader's clips, not the loader alone.")
@click.option(
    "--model",
    type=click.Choice(list(MODELS)),
    metavar="NAME",
    help="Network of --step.  [default: res3d18; on a CPU res3d10]",
)
@click.option("--width", type=click.IntRange(1), help="Of the network.  [default: 64; on a CPU 16]")
@click.option("--clips", type=click.IntRange(1), help="Of a turn, at least.  [default: 16384; on a CPU 512]")
@click.option("--repeats", type=click.IntRange(3), default=3, show_default=True, help="Turns of each point.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of videos, clips and weights.")
@click.option("--device", default="auto", show_default=True, help="auto (a GPU if there is one), cpu, cuda or cuda:N.")
@click.option("--json", "json_path", type=FILE, help="Keep all numbers here.")
@click.option("--resume", is_flag=True, help="Do not measure again what the --json file has.")
@click.option("--markdown", "markdown_path", type=FILE, help="Write the table here.")
@click.option("--chart", "chart_path", type=FILE, help="Draw a PNG here.")
@QUIET
def main(
    *,
    data: Path | None,
    raw: Path | None,
    cache: Path | None,
    json_path: Path | None,
    resume: bool,
    markdown_path: Path | None,
    chart_path: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure how the loader's cost grows: batch size, frames, stored size and threads, one at a time."""
    if (data is None) == (raw is None):
        raise click.UsageError("give --data, a folder of shards, or --raw, a folder of videos")
    if resume and json_path is None:
        raise click.UsageError("--resume needs --json, the file to go on with")
    try:
        load_psutil()
        if chart_path is not None:
            load_matplotlib()
        with shards_by_size(data, raw, cache, limit=options["limit"], sizes=options["sizes"], quiet=quiet) as shards:
            plan = plan_of(shards, raw=raw, options=options)
            facts = machine(*PACKAGES)
            if plan.settings.device.type == "cuda":
                facts["gpu"] = torch.cuda.get_device_name(plan.settings.device)
            heading = describe(plan)
            for line in [heading, *machine_lines(facts)]:
                click.echo(line)
            if raw is None:
                click.echo("stored size: left out; give --raw, from which shards of each size can be built")
            journal = Journal(json_path, about(plan, facts, source=data or raw), resume=resume)
            rows, failures = sweep(plan, journal, quiet=quiet)
        for line in ["", *table(HEADER, rows), *failures]:
            click.echo(line)
        if markdown_path is not None:
            command = shlex.join(["bench_sweep.py", *sys.argv[1:]])
            page = [heading, "", *machine_lines(facts), "", f"    {command}", "", *markdown(HEADER, rows)]
            page += ["", *(f"- {failure}" for failure in failures)] if failures else []
            write(markdown_path, "\n".join(page))
        if chart_path is not None:
            draw_panels(chart_path, heading.partition(":")[0], panels(plan, journal), base=heading.partition(": ")[2])
    except (BenchError, LoaderError, ShardError, ValueError, OSError) as error:
        raise Failed(str(error)) from None


@contextmanager
def shards_by_size(
    data: Path | None, raw: Path | None, cache: Path | None, *, limit: int | None, sizes: Sequence[int], quiet: bool
) -> Iterator[dict[int, Path | str]]:
    """Shards of each stored size: the ones there are, or built from a sample of raw videos; why, where that fails.

    Raises:
        BenchError: There is no video.
    """
    if data is not None:
        yield {open_index(data).size: data}
        return
    assert raw is not None
    listing = list_videos(raw, limit=limit)
    found: dict[int, Path | str] = {}
    with ExitStack() as stack, progress("shards", unit="sizes", quiet=quiet) as tell:
        folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-sweep-")))
        wanted = sorted({BASE_SIZE, *sizes})
        for done, size in enumerate(wanted, start=1):
            found[size] = try_build(listing, folder / f"size-{size}-videos-{len(listing.records)}", size=size)
            tell(done, len(wanted), f"{size} pixels")
        yield found


def plan_of(shards: dict[int, Path | str], *, raw: Path | None, options: dict[str, Any]) -> Plan:
    """The command line with this device's defaults.

    Raises:
        BenchError: There are no shards for the base point.
    """
    device, cpus = pick_device(options["device"]), len(os.sched_getaffinity(0))
    chosen = {name: options[name] or default for name, default in DEFAULTS[device.type].items()}
    size = BASE_SIZE if raw is not None else next(iter(shards))
    folder = shards[size]
    if isinstance(folder, str):
        raise BenchError(folder)
    index = open_index(folder)
    base = Point(chosen["batch_size"], BASE_FRAMES, size, options["num_threads"])
    values = {
        "batch_size": options["batch_sizes"],
        "num_frames": options["frames"],
        "stored_size": options["sizes"] if raw is not None else (),
        "num_threads": options["threads"] or [threads for threads in THREADS if threads <= cpus],
    }
    settings = Settings(
        data=folder,
        samples=pick_segments(index, None if raw else options["limit"], seed=options["seed"]),
        clip=base.clip,
        batch_size=base.batch_size,
        model=ModelConfig(chosen["model"], chosen["width"]),
        loader=LoaderSettings(num_threads=base.num_threads),
        step=default_options(Ranks(device=device)) if options["step"] else None,
        device=device,
        num_cpus=cpus,
        repeats=options["repeats"],
        seconds=None,
        batches=None,
        seed=options["seed"],
    )
    settings.plan(index)  # a crop that does not fit fails here
    return Plan(shards, base, values, settings, chosen["clips"])


def sweep(plan: Plan, journal: Journal, *, quiet: bool) -> tuple[list[list[str]], list[str]]:
    """Measure every point that the journal does not have; a line each as it goes.

    Returns:
        The table's rows, a factor after the other; a line for each that failed.
    """
    rows, failures = [], []
    points = list(points_of(plan.base, plan.values))
    with progress("sweep", unit="points", quiet=quiet) as tell:
        for done, (factor, point) in enumerate(points, start=1):
            if not journal.done(point):
                journal.add(point, measure(plan, point))
            found = journal.found[point.key]
            rows.append(row_of(factor, point, plan.base, found))
            note = note_of(rows[-1], found)
            if found.failed:
                failures.append(note)
            if not quiet:
                click.echo(note, err=True)
            tell(done, len(points), failed=len(failures))
    return rows, failures


def measure(plan: Plan, point: Point) -> Found:
    """A point, if there are shards for it."""
    folder, base = plan.shards[point.stored_size], plan.settings
    if isinstance(folder, str):
        return Found(failed=folder)
    loader = replace(base.loader, num_threads=point.num_threads)
    settings = replace(base, data=folder, clip=point.clip, batch_size=point.batch_size, loader=loader)
    return measure_point(point, settings, clips=plan.clips)


def describe(plan: Plan) -> str:
    """What is measured, and the base point, in a line."""
    base, size = plan.base, plan.base.clip.crop_size
    what = "the loader alone" if plan.settings.step is None else f"the step of {plan.settings.model.name}"
    return (
        f"{what} on {plan.settings.device}, {len(plan.settings.samples)} segments: one factor at a time around "
        f"batches of {base.batch_size} clips of {base.num_frames}×{size}×{size} at stride 2 from frames stored "
        f"{base.stored_size} high, {base.num_threads} DALI threads"
    )


def about(plan: Plan, facts: dict[str, Any], *, source: Path | None) -> dict[str, Any]:
    """What decides the numbers beside the point, for machines."""
    settings = plan.settings
    return {
        "machine": facts,
        "source": str(source),
        "num_segments": len(settings.samples),
        "device": str(settings.device),
        "base": asdict(plan.base),
        "clips_of_a_turn": plan.clips,
        "repeats": settings.repeats,
        "seed": settings.seed,
        "step": settings.step and asdict(settings.step) | asdict(settings.model),
    }


def panels(plan: Plan, journal: Journal) -> dict[str, list[tuple[int, Spread]]]:
    """What the chart shows: factor -> (value, clips/s) of the points that have a number."""
    found: dict[str, list[tuple[int, Spread]]] = {name: [] for name in FACTORS.values()}
    for factor, point in points_of(plan.base, plan.values):
        rates = journal.found[point.key].clips_per_s
        if rates is not None:
            found[FACTORS[factor]].append((getattr(point, factor), rates))
    return found


if __name__ == "__main__":
    main()
