"""Measure the loader alone, beside PyAV reading H.264 copies of the same segments: speed, cores, memory."""

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

if not __package__:  # started by path: look in the checkout, not in tools/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click
import numpy as np
import torch

from pipeline.clip import ClipSpec
from pipeline.loader import LoaderError
from pipeline.shard import ShardIndex, open_index
from tools.bench.machine import machine, machine_lines, table
from tools.bench.measure import BenchError, Measurement, Memory, Order, Spread, load_psutil, slope
from tools.bench.peers import (
    WAYS,
    Contest,
    ReadCost,
    check_peer,
    copies_folder,
    filmstrip_cost,
    filmstrips,
    make_copies,
    pyav_cost,
)
from tools.bench.process import MeasuredProcess, pick_cores
from tools.terminal import Failed, progress

OURS = "filmstrips"
TARGET_RATIO = 1.5  # to PyAV, for 8×112×112 clips on two CPU cores
WARMUP_BATCHES = 8  # more than wait ready in any way's queues
TRIALS = 2  # of each of PyAV's ways, before the faster one is taken
COST_STEPS = 4
DEFAULT_CLIPS = {"cpu": 1024, "cuda": 65536}  # two to five seconds a measurement
DEFAULT_SEGMENTS = 256

EPILOG = """\b
Examples:
  python tools/bench_loader.py --data shards/ucf101
  python tools/bench_loader.py --data shards/ucf101 --vs none --memory-minutes 30
  python tools/bench_loader.py --data shards/ucf101 --peer-cache /tmp/copies --repeats 9 --json bench.json
\b
The two ways take turns and read the same planned clips (random start, crop and flip), each in a process of its own,
pinned to the same CPUs when the device is the CPU. PyAV opens an H.264 copy (GOP 8, no B-frames) for each clip; its
clips are compared with the loader's first. It runs with threads and with torch's DataLoader; the faster one counts.
Files are read from the page cache after the first time, in both. RSS counts the memory-mapped shards that were read;
own memory counts no file. Slopes are those of the second half
of the clips, for buffers fill up first: a verdict on memory needs --memory-minutes.
"""


@dataclass
class Lane:
    """A way and everything measured of it."""

    name: str
    cost: ReadCost
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def clips_per_s(self) -> Spread:
        return Spread.of([m.clips_per_s for m in self.measurements])

    @property
    def cores(self) -> Spread:
        return Spread.of([m.cores for m in self.measurements])

    @property
    def memory(self) -> list[Memory]:
        """Over all measurements; the way's process lives as long."""
        return [sample for m in self.measurements for sample in m.memory]

    def summary(self) -> dict[str, Any]:
        """For --json."""
        memory = self.memory
        return {
            "clips_per_s": asdict(self.clips_per_s),
            "cores": asdict(self.cores),
            "decoded_to_used": self.cost.decoded_to_used,
            "bytes_per_clip": self.cost.bytes_per_clip,
            "bytes_per_s": self.cost.bytes_per_clip * self.clips_per_s.median,
            "rss_start": memory[0].rss,
            "rss_end": memory[-1].rss,
            "own_start": memory[0].own,
            "own_end": memory[-1].own,
            "rss_bytes_per_1000_clips": 1000 * slope(memory, what="rss"),
            "own_bytes_per_1000_clips": 1000 * slope(memory),
            "measurements": [asdict(m) | {"clips_per_s": m.clips_per_s, "cores": m.cores} for m in self.measurements],
        }


@click.command(epilog=EPILOG)
@click.option(
    "--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of shards."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--clips", type=click.IntRange(min=1), help="A measurement.  [default: 1024 on cpu, 65536 on cuda]")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="A measurement, instead of --clips.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--frames", default=8, show_default=True, help="Frames of a clip.")
@click.option("--frame-stride", default=2, show_default=True, help="Source frames from one frame to the next.")
@click.option("--crop-size", default=112, show_default=True)
@click.option("--resize", type=int, help="Scale to this height before the crop.  [default: as stored]")
@click.option(
    "--limit", type=click.IntRange(min=1), help="Read this many segments.  [default: 256, all with --vs none]"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of segments and clips.")
@click.option("--num-threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of the loader.")
@click.option(
    "--cores",
    type=click.IntRange(min=1),
    help="CPUs each way is pinned to.  [default: --num-threads on cpu, all on cuda]",
)
@click.option("--device", default="cpu", show_default=True, help="Of the loader: cpu, cuda or cuda:N.")
@click.option("--vs", type=click.Choice(["pyav", "none"]), default="pyav", show_default=True, help="The peer.")
@click.option("--peer-cache", type=click.Path(path_type=Path), help="Keep H.264 copies here.  [default: not kept]")
@click.option(
    "--memory-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Then run the loader alone for so long and watch its memory.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all numbers here.")
@click.option("--quiet", is_flag=True, help="No progress.")
def main(
    *,
    data: Path,
    batch_size: int,
    clips: int | None,
    seconds: float | None,
    repeats: int,
    frames: int,
    frame_stride: int,
    crop_size: int,
    resize: int | None,
    limit: int | None,
    seed: int,
    num_threads: int,
    cores: int | None,
    device: str,
    vs: str,
    peer_cache: Path | None,
    memory_minutes: float | None,
    json_path: Path | None,
    quiet: bool,
) -> None:
    """Measure the loader alone, and PyAV's random access beside it."""
    if clips and seconds:
        raise click.UsageError("--clips and --seconds are both given; choose one")
    kind = device_kind(device)
    try:
        spec = ClipSpec(frames, frame_stride, crop_size, resize)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        load_psutil()
        index = open_index(data)
        pinned_to = pick_cores(cores or num_threads) if cores or kind == "cpu" else None
        order = Order(
            num_batches=None if seconds else -(-(clips or DEFAULT_CLIPS[kind]) // batch_size),
            seconds=seconds,
            warmup_batches=WARMUP_BATCHES,
        )
        with ExitStack() as stack:
            contest = Contest(
                data_dir=data,
                samples=pick_segments(index, limit or (DEFAULT_SEGMENTS if vs != "none" else None), seed=seed),
                spec=spec,
                batch_size=batch_size,
                seed=seed,
                device=device,
                num_threads=num_threads,
                copies=copies_folder(
                    peer_cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-peer-"))), index
                ),
                num_workers=len(pinned_to or os.sched_getaffinity(0)),
            )
            contest.plan()  # a crop that does not fit fails here
            result = run(
                contest, index, order, vs=vs, repeats=repeats, cores=pinned_to, soak=memory_minutes, quiet=quiet
            )
    except (BenchError, LoaderError, ValueError, OSError) as error:
        raise Failed(str(error)) from None
    except KeyboardInterrupt:
        raise Failed("interrupted") from None
    facts = machine("torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "av", "numpy")
    if kind == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    for line in report(result, contest, facts=facts, cores=pinned_to):
        click.echo(line)
    if json_path is not None:
        write_json(json_path, result, contest, facts=facts, cores=pinned_to)
        click.echo(f"all numbers: {json_path}")


@dataclass
class Result:
    """What a run found.

    Attributes:
        trials: Clips/s of each of PyAV's ways, by which the faster was chosen.
        psnr: The lowest of PyAV's clips against the loader's, dB.
        soak: The loader alone, for --memory-minutes.
    """

    ours: Lane
    peer: Lane | None = None
    trials: dict[str, Spread] = field(default_factory=dict)
    psnr: float | None = None
    soak: Measurement | None = None

    @property
    def ratio(self) -> float | None:
        """Of the medians."""
        return self.ours.clips_per_s.median / self.peer.clips_per_s.median if self.peer else None


def run(
    contest: Contest,
    index: ShardIndex,
    order: Order,
    *,
    vs: str,
    repeats: int,
    cores: list[int] | None,
    soak: float | None,
    quiet: bool,
) -> Result:
    """Make the copies, check the peer, choose its faster way, take turns, watch memory.

    Args:
        soak: Minutes.
    """
    result = Result(Lane(OURS, filmstrip_cost(contest, range(COST_STEPS))))
    if vs != "none":
        with progress("H.264 copies", quiet=quiet) as tell:
            make_copies(
                index,
                contest.samples.tolist(),
                contest.copies,
                workers=contest.num_workers,
                report=lambda done, total: tell(done, total, "segments"),
            )
        result.psnr = check_peer(contest)

    with ExitStack() as stack:

        def start(name: str, way: Callable, *, cuda: str | None = None) -> MeasuredProcess:
            return stack.enter_context(MeasuredProcess(name, way, contest, cores=cores, cuda=cuda))

        loader = start(OURS, filmstrips, cuda=None if contest.device == "cpu" else contest.device)
        peers = [start(name, way) for name, way in WAYS.items()] if vs != "none" else []
        for process in (loader, *peers):
            process.wait_ready()
        if peers:
            peer, result.trials = choose(peers, order, quiet=quiet)
            result.peer = Lane(peer.name, pyav_cost(contest, range(COST_STEPS)))
        with progress("taking turns", quiet=quiet) as tell:
            for repeat in range(repeats):
                turns = [(loader, result.ours)]
                if result.peer:
                    turns.append((peer, result.peer))
                for process, lane in turns if repeat % 2 == 0 else turns[::-1]:
                    lane.measurements.append(process.measure(order))
                last = [f"{lane.name} {lane.measurements[-1].clips_per_s:.0f} clips/s" for _, lane in turns]
                tell(repeat + 1, repeats, ", ".join(last))
        if soak:
            with progress("watching memory", quiet=quiet) as tell:
                result.soak = loader.measure(replace(order, num_batches=None, seconds=60 * soak))
                tell(1, 1, f"{soak:g} minutes")
    return result


def choose(peers: list[MeasuredProcess], order: Order, *, quiet: bool) -> tuple[MeasuredProcess, dict[str, Spread]]:
    """The faster of some peers; the others are closed.

    Returns:
        The peer, and clips/s of each.
    """
    found: dict[str, list[float]] = {peer.name: [] for peer in peers}
    with progress("PyAV's ways", quiet=quiet) as tell:
        for trial in range(TRIALS):
            for peer in peers:
                found[peer.name].append(peer.measure(order).clips_per_s)
            tell(trial + 1, TRIALS, ", ".join(f"{name} {rates[-1]:.0f} clips/s" for name, rates in found.items()))
    best = max(peers, key=lambda peer: Spread.of(found[peer.name]).median)
    for peer in peers:
        if peer is not best:
            peer.close()
    return best, {name: Spread.of(rates) for name, rates in found.items()}


def pick_segments(index: ShardIndex, limit: int | None, *, seed: int) -> np.ndarray:
    """Some rows of the index, drawn from all of it: int64, ascending."""
    rows = np.random.default_rng(seed).permutation(index.num_samples)[:limit]
    return np.sort(rows)


def device_kind(device: str) -> str:
    """ "cpu" or "cuda", when it is there; anything else is wrong usage."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in DEFAULT_CLIPS:
        raise click.UsageError(f"device: {device!r} is not possible; choose cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise click.UsageError(f"device: {device} is not there; choose cpu")
    return kind


def report(result: Result, contest: Contest, *, facts: dict[str, Any], cores: list[int] | None) -> list[str]:
    """Everything for people; the verdict comes last."""
    spec = contest.spec
    lines = [
        f"{spec.num_frames}×{spec.crop_size}×{spec.crop_size} clips at stride {spec.frame_stride}, batches of "
        f"{contest.batch_size}, {len(contest.samples)} segments, loader on {contest.device}, "
        + (f"each way on CPUs {', '.join(map(str, cores))}" if cores else "not pinned"),
        *machine_lines(facts),
    ]
    if result.peer:
        trials = ", ".join(f"{name} {spread}" for name, spread in result.trials.items())
        lines.append(f"PyAV's ways, clips/s: {trials}; its clips match the loader's (worst {result.psnr:.1f} dB)")
    header = ["", "clips/s", "cores", "decoded/used", "MB/s", "RSS, MB", "own, MB", "own, MB/1000 clips"]
    rows = [lane_row(lane) for lane in (result.ours, result.peer) if lane]
    lines += ["", *table(header, rows), ""]
    if result.soak:
        memory = result.soak.memory
        lines.append(
            f"memory of {OURS} over {result.soak.wall_s / 60:.1f} minutes, {result.soak.num_clips} clips: "
            f"RSS {megabytes(memory, 'rss')} MB, own {megabytes(memory, 'own')} MB, "
            f"{1000 * slope(memory) / 1e6:+.3f} MB/1000 clips"
        )
    lines.append(verdict(result))
    return lines


def lane_row(lane: Lane) -> list[str]:
    """A way's line of the table."""
    memory = lane.memory
    return [
        lane.name,
        str(lane.clips_per_s),
        f"{lane.cores.median:.2f}",
        f"{lane.cost.decoded_to_used:.2f}",
        f"{lane.cost.bytes_per_clip * lane.clips_per_s.median / 1e6:.1f}",
        megabytes(memory, "rss"),
        megabytes(memory, "own"),
        f"{1000 * slope(memory) / 1e6:+.3f}",
    ]


def megabytes(memory: list[Memory] | tuple[Memory, ...], what: str) -> str:
    """From the first sample to the last."""
    return f"{getattr(memory[0], what) / 1e6:.0f} -> {getattr(memory[-1], what) / 1e6:.0f}"


def verdict(result: Result) -> str:
    """One sentence."""
    ours = f"{OURS} deliver {result.ours.clips_per_s.median:.0f} clips/s"
    if not (result.peer and result.ratio):
        return f"{ours} with {result.ours.cores.median:.1f} cores"
    held = "at least" if result.ratio >= TARGET_RATIO else "NOT at least"
    return (
        f"{ours}, {result.ratio:.2f} times the {result.peer.clips_per_s.median:.0f} of {result.peer.name}: "
        f"{held} {TARGET_RATIO} times"
    )


def write_json(path: Path, result: Result, contest: Contest, *, facts: dict[str, Any], cores: list[int] | None) -> None:
    """All numbers; bytes and seconds."""
    about = {
        "command": shlex.join(["bench_loader.py", *sys.argv[1:]]),
        "machine": facts,
        "data": str(contest.data_dir),
        "num_segments": len(contest.samples),
        "clip": asdict(contest.spec),
        "batch_size": contest.batch_size,
        "device": contest.device,
        "num_threads": contest.num_threads,
        "cores": cores,
    }
    found = {
        OURS: result.ours.summary(),
        "peer": result.peer and {"name": result.peer.name, **result.peer.summary()},
        "trials": {name: asdict(spread) for name, spread in result.trials.items()},
        "psnr_db": result.psnr,
        "ratio": result.ratio,
        "soak": result.soak and asdict(result.soak) | {"own_bytes_per_1000_clips": 1000 * slope(result.soak.memory)},
        "verdict": verdict(result),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
