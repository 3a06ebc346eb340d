"""What tools/bench_loader.py does: from its options to settings, to numbers, to a table, JSON and a chart."""

import gc
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from res3d_video.pipeline.augment import Augmentation
from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex, choices
from res3d_video.pipeline.loader import LoaderSettings
from res3d_video.pipeline.remote_store import public_url
from res3d_video.tools.bench.autotune import Tuning, autotune
from res3d_video.tools.bench.comparison import Comparison, compare
from res3d_video.tools.bench.lanes import LOADER, REAL, SYNTHETIC
from res3d_video.tools.bench.machine import machine, machine_lines
from res3d_video.tools.bench.measure import Order, load_psutil
from res3d_video.tools.bench.peers import PeerConfig, peers_named
from res3d_video.tools.bench.results import report, summary
from res3d_video.tools.bench.run import Settings, first_steps, open_lanes, run
from res3d_video.tools.make_demo_videos import demo_shards
from res3d_video.tools.plots import draw, load_matplotlib
from res3d_video.train.data_options import Data, start_multiple_of, to_stderr
from res3d_video.train.models import ModelConfig
from res3d_video.train.options import AUGMENTATIONS
from res3d_video.train.ranks import Ranks
from res3d_video.train.resolve import driver_version, execution
from res3d_video.train.terminal import Failed, WrongUsage, progress, save_json, wrong_usage

TUNING_ORDER, TUNING_REPEATS = Order(None, seconds=1.0), 3
DEFAULTS: dict[str, dict[str, Any]] = {  # on a CPU, a network that it can train
    "cuda": {"model": "res3d18", "width": 64, "batch_size": 256, "seconds": 10.0},
    "cpu": {"model": "res3d10", "width": 16, "batch_size": 16, "seconds": 5.0},
}
PEER_SEGMENTS = 256  # H.264 copies of more take long to make


def bench(
    *,
    vs: str,
    json_path: Path | None,
    chart_path: Path | None,
    autotune_first: bool,
    quiet: bool,
    data: Data,
    **options: Any,
) -> None:
    """Measure what the options of bench_loader.py ask for; print and write the results."""
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
        options["limit"] = options["limit"] or PEER_SEGMENTS
        if any(options[name] is not None for name in AUGMENTATIONS):
            raise click.UsageError("--vs: the other loaders do not augment; leave out --vs or the augmentation")
    index = data.open()
    settings = settings_of(index, say=to_stderr, **options)
    settings.plan(index)  # a crop that does not fit fails here
    peers = Comparison()
    try:
        tuning = tune(settings, index, quiet=quiet) if autotune_first else None
        if tuning is not None:
            settings, best = replace(settings, loader=tuning.best.settings), tuning.best
            click.echo(f"best here: {tuning.flags}\n{best.clips_per_s:.0f} clips/s with {best.cores:.2f} cores")
        result = run(settings, index, quiet=quiet)
        heading, found = describe(settings, index), about(settings, index) | summary(result)
        found |= {"peers": None, "tuning": tuning and tuning.summary()}
        if json_path is not None:
            save_json(json_path, found)  # the peers take long and may fail
        click.echo("\n".join([heading, *machine_lines(found["machine"]), *report(result)]))
        if vs != "none":
            peers = run_peers(settings, names=vs, quiet=quiet)
            click.echo("\n".join(peers.report()))
            found["peers"] = peers.summary()
    except torch.OutOfMemoryError:
        raise Failed("the GPU's memory is too small; choose a smaller --batch-size") from None
    if json_path is not None:
        save_json(json_path, found)
        click.echo(f"wrote {json_path}")
    if chart_path is not None:
        saturation = f"saturation {result.saturation.median:.3f}" if result.saturation else "the loader alone"
        ours = {lane: own["clips_per_s"] for lane, own in result.lanes.items()}
        draw(chart_path, f"{saturation}\n{heading}", ours, {row.name: row.clips_per_s for row in peers.peers})
        click.echo(f"wrote {chart_path}")
    if settings.profile_dir is not None:
        click.echo(f"wrote {settings.profile_dir / 'kernels.md'}, and a trace of each step beside it")


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
    settings = replace(settings, order=TUNING_ORDER, repeats=TUNING_REPEATS, cold=False, profile_dir=None)
    step_rate, step = None, None
    if settings.step is not None:
        with closing(open_lanes(settings, index)) as lanes, first_steps(lanes, settings.device):
            step_rate, step = lanes.measure(SYNTHETIC, TUNING_ORDER).clips_per_s, lanes.step

    def rate_of(loader: LoaderSettings) -> tuple[float, float]:
        alone = run(replace(settings, loader=loader, step=None), index).lanes[LOADER]
        return alone["clips_per_s"].median, alone["cores"].median

    def saturation_of(loader: LoaderSettings) -> float:
        found = run(replace(settings, loader=loader), index, [SYNTHETIC, REAL], step=step).saturation
        assert found is not None
        return found.median

    with progress("autotune", unit="settings", quiet=quiet) as tell:
        return autotune(
            rate_of,
            settings.loader,
            codec=index.codec,
            on_gpu=settings.on_gpu,
            num_cpus=len(os.sched_getaffinity(0)),
            step_rate=step_rate,
            saturation_of=saturation_of,
            report=tell,
        )


def run_peers(settings: Settings, *, names: str, quiet: bool) -> Comparison:
    """Our loader and others on H.264 files of the same segments, each in a process of its own."""
    if settings.on_gpu:  # the lanes are done, and the peers' processes need their memory
        gc.collect()
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as files:
        config = PeerConfig(settings, Path(files), num_workers=len(os.sched_getaffinity(0)))
        return compare(config, names=names, quiet=quiet)


def describe(settings: Settings, index: ShardIndex) -> str:
    """What was measured, in a line."""
    clip, model = settings.clip, settings.model
    step = "loader only" if settings.step is None else f"{model.name} of width {model.width}"
    stored = "filmstrips" if index.codec == "filmstrip" else f"{index.codec} of GOP {index.gop_size}"
    snapped = ", begun at keyframes" if settings.start_multiple > 1 else ""
    snapped += ", augmented" if settings.augmentation.is_on else ""
    return (
        f"{clip.num_frames}×{clip.crop_size}×{clip.crop_size} clips at stride {clip.frame_stride}{snapped}, out of "
        f"{stored}, batches of {settings.batch_size}, {len(settings.samples)} segments, {step}, on {settings.device}"
    )


def about(settings: Settings, index: ShardIndex) -> dict[str, Any]:
    """What was measured where, for machines."""
    facts = machine()
    if settings.on_gpu:
        facts["gpu"] = torch.cuda.get_device_name(settings.device)
        facts["versions"] |= {"CUDA": torch.version.cuda, "driver": driver_version()}
    chosen = asdict(settings)
    chosen["num_segments"] = len(chosen.pop("samples"))
    chosen |= {name: str(value) for name, value in chosen.items() if isinstance(value, Path | torch.device)}
    return {
        "command": shlex.join(["bench_loader.py", *map(public_url, sys.argv[1:])]),
        "machine": facts,
        "dataset": {"name": index.name, "fingerprint": index.fingerprint, "codec": index.info["codec"]},
        "settings": chosen,
    }


def settings_of(index: ShardIndex, *, say: Callable[[str], object], **options: Any) -> Settings:
    """The options with this device's defaults for those left out.

    Args:
        say: Prints a line that says what --fast takes.

    Raises:
        click.UsageError: An option has an impossible value, or does not go with another one.
    """
    if options["profile_dir"] and options["loader_only"]:
        raise click.UsageError("--profile needs the training steps; leave --loader-only out")
    if options["seconds"] and options["batches"]:
        raise click.UsageError("--seconds and --batches are both given; choose one")
    if options["soak_minutes"] and options["batches"]:
        raise click.UsageError("--soak-minutes and --batches are both given; choose one")
    device = pick_device(options["device"])
    chosen = DEFAULTS[device.type] | {name: options[name] for name in DEFAULTS["cpu"] if options[name] is not None}
    loader, step = execution(options, Ranks(device=device), say=say)
    num_lanes = 1 if options["loader_only"] else 3
    with wrong_usage():
        return Settings(
            data=index.data_dir,
            samples=np.sort(np.random.default_rng(0).permutation(index.num_samples)[: options["limit"]]),
            clip=ClipSpec(options["frames"], options["frame_stride"], options["crop_size"], options["resize"]),
            batch_size=chosen["batch_size"],
            model=ModelConfig(chosen["model"], chosen["width"]),
            loader=loader,
            device=device,
            order=Order(options["batches"], None if options["batches"] else chosen["seconds"]),
            repeats=max(options["repeats"], ceil(60 * options["soak_minutes"] / (chosen["seconds"] * num_lanes))),
            step=None if options["loader_only"] else step,
            cold=options["cold"],
            profile_dir=options["profile_dir"],
            start_multiple=start_multiple_of(index, snap_to_keyframe=options["snap_to_keyframe"]),
            augmentation=Augmentation(**{name: options[name] for name in AUGMENTATIONS if options[name] is not None}),
        )


def pick_device(name: str) -> torch.device:
    """The device of a name like "auto" or "cuda:1"; raises click.UsageError if this machine does not have it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in DEFAULTS:
        raise click.UsageError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cpu":
        return device
    if (device.index or 0) >= torch.cuda.device_count():
        raise click.UsageError(f"device: this machine has no {name}; choose cpu")
    device = torch.device("cuda", device.index or 0)
    torch.cuda.set_device(device)
    return device
