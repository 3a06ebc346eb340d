"""bench_loader.py at work: from its options to settings, to numbers, to a table, a page and a chart."""

import gc
import itertools
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex, choices
from res3d_video.pipeline.loader import MEAN, LoaderSettings
from res3d_video.pipeline.remote_store import public_url
from res3d_video.tools.bench.autotune import Tuning, autotune, measure_loader
from res3d_video.tools.bench.comparison import Comparison, compare
from res3d_video.tools.bench.gpu import GpuMeter, gpu_uuid
from res3d_video.tools.bench.lanes import NAMES, REAL, SYNTHETIC
from res3d_video.tools.bench.machine import machine, machine_lines, table, write
from res3d_video.tools.bench.measure import Order, load_psutil
from res3d_video.tools.bench.peers import DECODERS, PeerConfig, files_folder, peers_named
from res3d_video.tools.bench.report import console, page, summary
from res3d_video.tools.bench.results import Result, lane_numbers
from res3d_video.tools.bench.run import FIRST_STEPS, Settings, first_steps, open_lanes, run
from res3d_video.tools.figures.plots import draw, load_matplotlib
from res3d_video.tools.make_demo_videos import demo_shards
from res3d_video.train.data_options import Data, start_multiple_of
from res3d_video.train.models import ModelConfig
from res3d_video.train.ranks import Ranks
from res3d_video.train.resolve import execution
from res3d_video.train.terminal import Failed, WrongUsage, progress, save_json, wrong_usage

TUNING_SECONDS, TUNING_REPEATS = 1.0, 3
TUNING_TURN = Order(None, TUNING_SECONDS, warmup_batches=0)
PACKAGES = ("torch", *itertools.chain.from_iterable(DECODERS.values()), "numpy")
DEFAULTS: dict[str, dict[str, Any]] = {  # a CPU gets a net that it can train
    "cuda": {"model": "res3d18", "width": 64, "batch_size": 256, "seconds": 10.0},
    "cpu": {"model": "res3d10", "width": 16, "batch_size": 16, "seconds": 5.0},
}
PEER_SEGMENTS = 256  # H.264 copies of more take long to make


def bench(
    *,
    vs: str,
    peer_cache: Path | None,
    json_path: Path | None,
    markdown_path: Path | None,
    chart_path: Path | None,
    autotune_first: bool,
    quiet: bool,
    data: Data,
    **options: Any,
) -> None:
    """Measure what the options of bench_loader.py ask for; print and write it."""
    if not data.place:  # --data was left out
        data = replace(data, place=shards_here(quiet=quiet))
    if data.is_remote and (vs != "none" or options["cold"]):
        raise click.UsageError(
            f"--data: {data} is a URL, and --vs and --cold need files; copy it with tools/sync_shards.py first"
        )
    load_psutil()
    if chart_path is not None:
        load_matplotlib()
    if vs != "none":
        peers_named(vs)  # a name that does not exist fails here
    index = data.open()
    settings = settings_of(index, with_peers=vs != "none", say=partial(click.echo, err=True), **options)
    settings.plan(index)  # a crop that does not fit fails here
    peers: Comparison | None = None
    try:
        tuning = tune(settings, index, quiet=quiet) if autotune_first else None
        if tuning is not None:
            settings = replace(settings, loader=tuning.best.settings)
            click.echo("\n".join([*table(tuning.header(), tuning.rows()), "", f"best here: {tuning.flags}", ""]))
        result = run(settings, index, quiet=quiet)
        facts, heading = machine_facts(settings, result), describe(settings, index)
        found = about(settings, index, facts) | summary(result)
        found |= {"peers": None, "tuning": tuning and tuning.summary()}
        if json_path is not None:
            save_json(json_path, found)  # the peers take long and may fail
        click.echo("\n".join([heading, *machine_lines(facts), *console(result)]))
        if vs != "none":
            peers = run_peers(settings, index, names=vs, cache=peer_cache, quiet=quiet)
    except torch.OutOfMemoryError:
        raise Failed("the GPU's memory is too small; choose a smaller --batch-size") from None
    written = [json_path, markdown_path, chart_path]
    if peers and json_path is not None:
        save_json(json_path, found | {"peers": peers.summary()})
    if markdown_path is not None:
        below = ["", *peers.markdown(), "", f"**{peers.sentence()}**"] if peers else []
        write(markdown_path, "\n".join([heading, "", *page(result), *below]))
    if chart_path is not None:
        draw_chart(chart_path, heading, result, peers)
    if peers:
        click.echo("\n".join([*peers.table(), peers.sentence()]))
    if settings.profile_dir is not None:
        click.echo(f"wrote {settings.profile_dir / 'kernels.md'}, and a trace of each step beside it")
    for path in filter(None, written):
        click.echo(f"wrote {path}")


def shards_here(*, quiet: bool) -> Path:
    """The only dataset in shards/; where there is none, small demo shards that go away with the command."""
    found = sorted(path.parent for path in Path("shards").glob("*/dataset.json"))
    if len(found) > 1:
        raise WrongUsage(f"--data: shards/ holds several datasets; choose {choices([str(path) for path in found])}")
    if found:
        click.echo(f"--data {found[0]}: the only dataset in shards/", err=True)
        return found[0]
    click.echo("no dataset in shards/: making small demo shards; tools/make_shards.py makes real ones", err=True)
    scratch = tempfile.TemporaryDirectory(prefix="bench-demo-")
    return demo_shards(Path(click.get_current_context().with_resource(scratch)), quiet=quiet)


def tune(settings: Settings, index: ShardIndex, *, quiet: bool) -> Tuning:
    """The loader's best settings on this machine: for the step if there is one, else for the loader alone."""
    measure = partial(
        measure_loader,
        settings.plan(index),
        device=str(settings.device),
        mean=MEAN,
        seconds=TUNING_SECONDS,
        repeats=TUNING_REPEATS,
    )
    on_gpu, step_rate, step = settings.device.type == "cuda", None, None
    if settings.step is not None:
        with closing(open_lanes(settings, index)) as lanes, first_steps(lanes, FIRST_STEPS[settings.device.type]):
            step_rate, step = lanes.take_turn(SYNTHETIC, TUNING_TURN, repeat=0).clips_per_s, lanes.step

    def saturation_of(loader: LoaderSettings) -> float:
        with closing(open_lanes(replace(settings, loader=loader), index, step=step)) as lanes:
            order = replace(TUNING_TURN, warmup_batches=lanes.warmup_batches)
            pairs = [
                (lanes.take_turn(SYNTHETIC, order, repeat=n), lanes.take_turn(REAL, order, repeat=n))
                for n in range(TUNING_REPEATS)
            ]
        return median(real.clips_per_s / ready.clips_per_s for ready, real in pairs)

    with progress("autotune", unit="settings", quiet=quiet) as tell:
        return autotune(
            measure,
            settings.loader,
            codec=index.codec,
            on_gpu=on_gpu,
            num_cpus=settings.num_cpus,
            num_decoders=GpuMeter(gpu_uuid(settings.device)).num_engines()["num_dec"] if on_gpu else None,
            step_rate=step_rate,
            saturation_of=saturation_of,
            report=tell,
        )


def run_peers(settings: Settings, index: ShardIndex, *, names: str, cache: Path | None, quiet: bool) -> Comparison:
    """The loader and others on H.264 files of the same segments, each in a process of its own."""
    if settings.device.type == "cuda":  # the lanes are done; the peers' processes may want their memory
        gc.collect()
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as scratch:
        config = PeerConfig(
            data_dir=settings.data,
            samples=settings.samples,
            spec=settings.clip,
            batch_size=settings.batch_size,
            seed=settings.seed,
            device=str(settings.device),
            loader=settings.loader,
            files=files_folder(cache or Path(scratch), index),
            num_workers=settings.num_cpus,
            start_multiple=settings.start_multiple,
        )
        order = Order(settings.batches, settings.seconds, warmup_batches=0)
        return compare(config, order, names=names, repeats=settings.repeats, quiet=quiet)


def machine_facts(settings: Settings, result: Result) -> dict[str, Any]:
    """Hardware and versions."""
    facts = machine(*PACKAGES)
    if result.on_gpu:
        facts["gpu"] = torch.cuda.get_device_name(settings.device)
        facts["versions"] |= {"CUDA": torch.version.cuda, "driver": result.gpu_driver}
    return facts


def describe(settings: Settings, index: ShardIndex) -> str:
    """What was measured, in a line."""
    clip, model = settings.clip, settings.model
    step = "loader only" if settings.step is None else f"{model.name} of width {model.width}"
    stored = NAMES[index.codec] + (f" of GOP {index.gop_size}" if index.codec == "h264" else "")
    snapped = ", begun at keyframes" if settings.start_multiple > 1 else ""
    return (
        f"{clip.num_frames}×{clip.crop_size}×{clip.crop_size} clips at stride {clip.frame_stride}{snapped}, out of "
        f"{stored}, batches of "
        f"{settings.batch_size}, {len(settings.samples)} segments, {step}, on {settings.device}"
    )


def about(settings: Settings, index: ShardIndex, facts: dict[str, Any]) -> dict[str, Any]:
    """What was measured, for machines."""
    chosen = asdict(settings)
    chosen["num_segments"] = len(chosen.pop("samples"))
    chosen |= {name: str(value) for name, value in chosen.items() if isinstance(value, Path | torch.device)}
    return {
        "command": shlex.join(["bench_loader.py", *map(public_url, sys.argv[1:])]),
        "machine": facts,
        "dataset": {"name": index.name, "fingerprint": index.fingerprint, "codec": index.info["codec"]},
        "settings": chosen,
    }


def draw_chart(path: Path, heading: str, result: Result, peers: Comparison | None) -> None:
    """The bars of the lanes, and of the peers that ran."""
    ours = {lane: lane_numbers(result.turns_of(lane))["clips_per_s"] for lane in result.lanes}
    saturation = f"saturation {result.saturation.median:.3f}" if result.saturation else "the loader alone"
    others = {row.name: row.clips_per_s for row in peers.peers} if peers else {}
    draw(path, f"{saturation}\n{heading}", ours, others)


def settings_of(index: ShardIndex, *, with_peers: bool, say: Callable[[str], object], **options: Any) -> Settings:
    """The command line with this device's defaults; `say` is told in a line what --fast takes.

    Raises:
        click.UsageError: A value is not possible.
    """
    if options["profile_dir"] and options["loader_only"]:
        raise click.UsageError("--profile is of the training steps; leave --loader-only out")
    if options["seconds"] and options["batches"]:
        raise click.UsageError("--seconds and --batches are both given; choose one")
    device = pick_device(options["device"])
    given = {name: options[name] for name in DEFAULTS["cpu"] if options[name] is not None}
    wanted = DEFAULTS[device.type] | given
    limit = options["limit"] or (PEER_SEGMENTS if with_peers else None)
    loader, step = execution(options, Ranks(device=device), say=say)
    with wrong_usage():
        return Settings(
            data=index.data_dir,
            samples=pick_segments(index, limit, seed=options["seed"]),
            clip=ClipSpec(options["frames"], options["frame_stride"], options["crop_size"], options["resize"]),
            batch_size=wanted["batch_size"],
            model=ModelConfig(wanted["model"], wanted["width"]),
            loader=loader,
            step=None if options["loader_only"] else step,
            device=device,
            num_cpus=len(os.sched_getaffinity(0)),
            repeats=options["repeats"],
            seconds=None if options["batches"] else wanted["seconds"],
            batches=options["batches"],
            seed=options["seed"],
            cold=options["cold"],
            soak_minutes=options["soak_minutes"],
            profile_dir=options["profile_dir"],
            start_multiple=start_multiple_of(index, snap_to_keyframe=options["snap_to_keyframe"]),
        )


def pick_segments(index: ShardIndex, limit: int | None, *, seed: int) -> np.ndarray:
    """Some rows of the index, drawn from all of it: int64, ascending."""
    rows = np.random.default_rng(seed).permutation(index.num_samples)[:limit]
    return np.sort(rows)


def pick_device(name: str) -> torch.device:
    """The device, when it is there; anything else is wrong usage."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in DEFAULTS:
        raise click.UsageError(f"device: {name!r} is not possible; choose auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return device
    if (device.index or 0) >= torch.cuda.device_count():
        raise click.UsageError(f"device: {name} is not there; choose cpu")
    device = torch.device("cuda", device.index or 0)
    torch.cuda.set_device(device)
    return device
