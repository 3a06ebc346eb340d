"""Filmstrips and H.264 side by side, made from the same videos: bytes, PSNR, and speed alone and while training."""

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
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
import numpy as np
import torch

from pipeline.clip import ClipSpec
from pipeline.datasets import Listing
from pipeline.loader import LoaderError
from pipeline.shard import open_index
from tools.bench.chart import load_matplotlib
from tools.bench.codec_points import (
    ALONE,
    HEADER,
    READY,
    TRAINING,
    CodecPoint,
    Row,
    Stored,
    advice,
    ceilings,
    cells_of,
    facts_of,
    ready_step,
    trade_offs,
    ways_to_store,
)
from tools.bench.machine import machine, machine_lines, markdown, table, write
from tools.bench.measure import BenchError, load_psutil
from tools.bench.options import FILE, FOLDER, Numbers, pick_device
from tools.bench.panels import draw_trade_offs
from tools.bench.report import rate_text
from tools.bench.run import Settings
from tools.bench.sweep import Found, Journal, measure_point, try_build
from tools.bench_shards import list_videos
from tools.terminal import QUIET, Failed, progress
from train.command import Command
from train.models import MODELS, ModelConfig
from train.options import EXECUTION_OPTIONS, execution
from train.ranks import Ranks
from train.step import StepOptions

NUM_FRAMES = 8  # of a clip, as in the paper
DEFAULTS: dict[str, dict[str, Any]] = {  # a CPU gets a net that it can train
    "cuda": {"batch_size": 256, "clips": 16384, "step_clips": 16384, "model": "res3d18", "width": 64},
    "cpu": {"batch_size": 32, "clips": 512, "step_clips": 96, "model": "res3d10", "width": 16},
}
PACKAGES = ("torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "av", "simplejpeg", "numpy")

EPILOG = """\b
Examples:
  python tools/bench_codecs.py --raw data/ucf101 --limit 60 --json codecs.json --chart codecs.png
  python tools/bench_codecs.py --raw data/ucf101 --sizes 128 --gops 4,8,16 --step --cache shards/codecs
  python tools/bench_codecs.py --raw data/ucf101 --device cuda --step --json codecs.json --resume --markdown codecs.md
\b
Shards of the same videos in each codec, at each stored height and GOP; clips of 8 frames at stride 2, the crop 7/8 of
the height. "snapped" lets clips begin at keyframes only. kB a frame are those of the tars, containers and labels
included. PSNR is of luma, of stored frames against the scaled ones before coding. decoded/used counts the frames, or
tiles, that a decoder makes for each one that a clip takes. --step adds the training step on the loader's clips, and on
clips that lie ready. Each has a process of its own and the median of its turns. With --json every finished point is
kept, and --resume goes on after the last one.
"""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        raw: Folder of the videos.
        shards: Folder of shards, or why there are none.
        settings: Of every point, but for data, samples, clips and the step.
        step: Of the training step; None measures the loader alone.
        clips: Of a turn, of each thing that is measured.
    """

    raw: Path
    shards: dict[Stored, Path | str]
    settings: Settings
    step: StepOptions | None
    clips: dict[str, int]


def execution_options(command: Any) -> Any:
    """Those of the trainer that say how, not what."""
    for option in reversed(EXECUTION_OPTIONS):
        command = option(command)
    return command


@click.command(
    cls=Command,
    go_on="with --json, --cache and --resume it can go on",
    context_settings={"max_content_width": 110, "show_default": True},
    epilog=EPILOG,
)
@click.option("--raw", type=FOLDER, required=True, help="Folder with videos anywhere in it.")
@click.option("--limit", type=click.IntRange(1), help="Take only so many videos, drawn from all.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Keep built shards here.")
@click.option("--sizes", type=Numbers(), default="128,256", help="Stored heights, pixels.")
@click.option("--gops", type=Numbers(), default="4,8,16", help="Frames from one keyframe of h264 to the next.")
@click.option("--crf", type=int, default=20, help="Quality of h264; lower is better and larger.")
@click.option("--quality", type=int, default=85, help="Of filmstrips' JPEGs.")
@click.option("--batch-size", type=click.IntRange(1), help="Clips.  [default: 256; on a CPU 32]")
@execution_options
@click.option("--step", "with_step", is_flag=True, show_default=False, help="The training step on the clips, too.")
@click.option(
    "--model",
    type=click.Choice(list(MODELS)),
    metavar="NAME",
    help="Network of --step.  [default: res3d18; on a CPU res3d10]",
)
@click.option("--width", type=click.IntRange(1), help="Of the network.  [default: 64; on a CPU 16]")
@click.option(
    "--clips", type=click.IntRange(1), help="Of a turn of the loader alone, at least.  [default: 16384; on a CPU 512]"
)
@click.option(
    "--step-clips",
    type=click.IntRange(1),
    help="Of a turn of the training step, at least.  [default: 16384; on a CPU 96]",
)
@click.option("--repeats", type=click.IntRange(3), default=3, help="Turns of each point.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of clips and weights.")
@click.option("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:N.")
@click.option("--json", "json_path", type=FILE, help="Keep all numbers here.")
@click.option("--resume", is_flag=True, show_default=False, help="Do not measure again what the --json file has.")
@click.option("--markdown", "markdown_path", type=FILE, help="Write the table here.")
@click.option("--chart", "chart_path", type=FILE, help="Draw a PNG here.")
@QUIET
def main(
    *,
    raw: Path,
    limit: int | None,
    cache: Path | None,
    json_path: Path | None,
    resume: bool,
    markdown_path: Path | None,
    chart_path: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Compare filmstrips and H.264: bytes, PSNR, and the loader's speed alone and while training."""
    if resume and json_path is None:
        raise click.UsageError("--resume needs --json, the file to go on with")
    try:
        load_psutil()
        if chart_path is not None:
            load_matplotlib()
        listing = list_videos(raw, limit=limit)
        with shards_of(listing, cache, options=options, quiet=quiet) as shards:
            plan = plan_of(raw, shards, options=options)
            facts = machine(*PACKAGES)
            if plan.settings.device.type == "cuda":
                facts["gpu"] = torch.cuda.get_device_name(plan.settings.device)
            heading = describe(plan, num_videos=len(listing.records), options=options)
            click.echo("\n".join([heading, *machine_lines(facts)]))
            found = about(plan, facts, num_videos=len(listing.records), options=options)
            journal = Journal(json_path, found, resume=resume)
            rows, ready, failures = measure_all(plan, journal, quiet=quiet)
        cells, sentence = cells_of(rows, ready), advice(rows)
        journal.conclude(advice=sentence)
        click.echo("\n".join(["", *table(HEADER, cells), "", *failures, sentence]))
        if markdown_path is not None:
            command = shlex.join(["bench_codecs.py", *sys.argv[1:]])
            page = [heading, "", *machine_lines(facts), "", f"    {command}", "", *markdown(HEADER, cells), ""]
            write(markdown_path, "\n".join([*page, *(f"- {failure}" for failure in failures), "", f"**{sentence}**"]))
        if chart_path is not None:
            title, _, rest = heading.partition(": ")
            draw_trade_offs(chart_path, f"{title}\n{rest}", trade_offs(rows), ceilings=ceilings(ready))
    except (BenchError, LoaderError, ValueError, OSError) as error:
        raise Failed(str(error)) from None


@contextmanager
def shards_of(
    listing: Listing, cache: Path | None, *, options: dict[str, Any], quiet: bool
) -> Iterator[dict[Stored, Path | str]]:
    """Shards of the videos in every way to store them, or why there are none; gone afterwards without a cache."""
    ways, found = ways_to_store(options["sizes"], options["gops"]), dict[Stored, Path | str]()
    with ExitStack() as stack, progress("shards", unit="kinds", quiet=quiet) as tell:
        folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-codecs-")))
        for done, stored in enumerate(ways, start=1):
            settings = stored.settings(quality=options["quality"], crf=options["crf"])
            name = "-".join(f"{key}-{value}" for key, value in settings.items())
            whole = replace(stored, snapped=False)
            found[stored] = found.get(whole) or try_build(
                listing, folder / f"{name}-videos-{len(listing.records)}", **settings
            )
            tell(done, len(ways), f"{stored.stored_size} pixels, {stored.name}")
        yield found


def plan_of(raw: Path, shards: dict[Stored, Path | str], *, options: dict[str, Any]) -> Plan:
    """The command line with this device's defaults.

    Raises:
        BenchError: There are no shards at all.
    """
    stored = next((stored for stored, folder in shards.items() if isinstance(folder, Path)), None)
    if stored is None:
        raise BenchError("; ".join(sorted({str(reason) for reason in shards.values()})))
    device = pick_device(options["device"])
    chosen = {name: options[name] or default for name, default in DEFAULTS[device.type].items()}
    loader, step = execution(options, Ranks(device=device))
    settings = Settings(
        data=Path(shards[stored]),
        samples=np.arange(0),
        clip=ClipSpec(NUM_FRAMES),
        batch_size=chosen["batch_size"],
        model=ModelConfig(chosen["model"], chosen["width"]),
        loader=loader,
        step=None,
        device=device,
        num_cpus=len(os.sched_getaffinity(0)),
        repeats=options["repeats"],
        seconds=None,
        batches=None,
        seed=options["seed"],
    )
    clips = {ALONE: chosen["clips"], TRAINING: chosen["step_clips"], READY: chosen["step_clips"]}
    return Plan(raw, shards, settings, step if options["with_step"] else None, clips)


def measure_all(plan: Plan, journal: Journal, *, quiet: bool) -> tuple[list[Row], dict[int, Found], list[str]]:
    """Measure every point that the journal does not have; a line each as it goes.

    Returns:
        A row for each way to store videos; stored size -> the training step on ready clips; a line for each failure.
    """
    rows, ready, failures = [], dict[int, Found](), list[str]()

    def found_of(stored: Stored, what: str) -> Found:
        point = point_of(plan, stored, what)
        if not journal.done(point):
            journal.add(point, measure(plan, point))
        found = journal.found[point.key]
        said = f"failed: {found.failed}" if found.clips_per_s is None else f"{rate_text(found.clips_per_s)} clips/s"
        line = f"{stored.stored_size}: {READY if what == READY else stored.name}, {what} {said}"
        if found.failed:
            failures.append(line)
        if not quiet:
            click.echo(line, err=True)
        return found

    with progress("measuring", unit="kinds", quiet=quiet) as tell:
        for done, stored in enumerate(plan.shards, start=1):
            alone = found_of(stored, ALONE)
            rows.append(Row(stored, alone, found_of(stored, TRAINING) if plan.step and not alone.failed else None))
            if plan.step and not alone.failed and stored.stored_size not in ready:
                ready[stored.stored_size] = found_of(stored, READY)
            tell(done, len(plan.shards), stored.name, failed=len(failures))
    return rows, ready, failures


def point_of(plan: Plan, stored: Stored, what: str) -> CodecPoint:
    """What is measured of one way to store videos."""
    base = plan.settings
    return CodecPoint(base.batch_size, NUM_FRAMES, stored.stored_size, base.loader.num_threads, stored, what)


def measure(plan: Plan, point: CodecPoint) -> Found:
    """A point, if there are shards for it; with the loader alone go the facts of the shards."""
    folder = plan.shards[point.stored]
    if isinstance(folder, str):
        return Found(failed=folder)
    index, alone = open_index(folder), point.what == ALONE
    settings = replace(
        plan.settings,
        data=folder,
        samples=np.arange(index.num_samples),
        clip=point.clip,
        step=None if alone else plan.step,
        start_step=point.stored.gop_size if point.stored.snapped else 1,
    )
    way = ready_step if point.what == READY else None
    found = measure_point(point, settings, clips=plan.clips[point.what], way=way)
    return replace(found, facts=facts_of(index, settings, plan.raw)) if alone and not found.failed else found


def describe(plan: Plan, *, num_videos: int, options: dict[str, Any]) -> str:
    """What is measured, in a line."""
    base = plan.settings
    step = "" if plan.step is None else f", and the step of {base.model.name} of width {base.model.width}"
    return (
        f"{num_videos} videos, filmstrips of quality {options['quality']} and h264 of CRF {options['crf']}: the loader "
        f"on {base.device}{step}, batches of {base.batch_size} clips of {NUM_FRAMES} frames at stride "
        f"{base.clip.frame_stride}, {base.loader.num_threads} threads"
    )


def about(plan: Plan, facts: dict[str, Any], *, num_videos: int, options: dict[str, Any]) -> dict[str, Any]:
    """What decides the numbers beside the point, for machines."""
    settings = plan.settings
    return {
        "machine": facts,
        "raw": str(plan.raw),
        "num_videos": num_videos,
        "quality": options["quality"],
        "crf": options["crf"],
        "device": str(settings.device),
        "batch_size": settings.batch_size,
        "loader": asdict(settings.loader),
        "clips_of_a_turn": plan.clips,
        "repeats": settings.repeats,
        "seed": settings.seed,
        "step": plan.step and asdict(plan.step) | asdict(settings.model),
    }


if __name__ == "__main__":
    main()
