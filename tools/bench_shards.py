#!/usr/bin/env python3
"""Measure how fast shards are made, beside a bare ffmpeg that decodes, scales and encodes JPEG on the same cores."""

import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

from res3d_video.train.stopping import end_at_ctrl_c

end_at_ctrl_c(__name__)

import click
import ffmpeg

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import Listing, VideoRecord
from res3d_video.pipeline.datasets.listing import find_videos
from res3d_video.pipeline.ingest.transcode import SCALE_FLAGS, ffmpeg_exe, ffmpeg_version, stretched
from res3d_video.tools.bench.machine import machine, machine_lines, table
from res3d_video.tools.bench.measure import BenchError, ProcessTree, Spread, load_psutil, pick_cores, pinned
from res3d_video.train.bounds import COUNT, THREADS
from res3d_video.train.terminal import JSON_FILE, QUIET, Command, progress, save_json

OURS = "make_shards"
TARGET_RATIO = 0.8  # to the faster bare ffmpeg
MEMORY_EVERY_S = 0.25  # a look at the process tree takes about 3 ms
CALIBRATION_VIDEOS = 8
QUALITIES = range(2, 16)  # of ffmpeg's mjpeg, 2 is its best by default

EPILOG = """\b
Examples:
  python tools/bench_shards.py --raw data/ucf101 --limit 60
  python tools/bench_shards.py --raw my_videos --workers 8 --repeats 9 --json shards.json
\b
Three ways take turns on the same videos and CPUs. make_shards builds whole shards: tars, index, checksums. The bare
ffmpeg decodes, scales to 171×128 with the same filter and encodes JPEG that it throws away: as many processes of one
thread as make_shards has workers, or one process after another with ffmpeg's own threads. The faster one counts.
Its JPEG has the standard Huffman tables, as ours, and the quality whose bytes a frame come closest to ours.
"""


@dataclass(frozen=True)
class Turn:
    """One way's work on all videos, once; bytes are those of the JPEGs, or of the tars."""

    num_frames: int
    num_bytes: int
    wall_s: float

    @property
    def frames_per_s(self) -> float:
        return self.num_frames / self.wall_s

    @property
    def bytes_per_frame(self) -> float:
        return self.num_bytes / self.num_frames


@dataclass(frozen=True)
class BuildMemory:
    """Memory of this process while it made shards once, bytes.

    Attributes:
        peak_rss: The highest of this process.
        peak_rss_children: The highest of this process and its ffmpegs together.
        end_rss: Of this process, when it was done.
    """

    peak_rss: int
    peak_rss_children: int
    end_rss: int


@dataclass
class Result:
    """What a run found; `quality` is the bare ffmpeg's -q:v."""

    turns: dict[str, list[Turn]]
    quality: int
    memory: list[BuildMemory] = field(default_factory=list)

    def frames_per_s(self, name: str) -> Spread:
        """Over the repeats."""
        return Spread.of([turn.frames_per_s for turn in self.turns[name]])

    @property
    def bare(self) -> str:
        """The faster of the bare ways."""
        return max((name for name in self.turns if name != OURS), key=lambda name: self.frames_per_s(name).median)

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return self.frames_per_s(OURS).median / self.frames_per_s(self.bare).median

    @property
    def growth(self) -> int:
        """Bytes that our process grew from the end of the first repeat to the end of the last."""
        return self.memory[-1].end_rss - self.memory[0].end_rss


@click.command(cls=Command, epilog=EPILOG)
@click.option(
    "--raw",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with videos anywhere in it.",
)
@click.option("--limit", type=COUNT, help="Take only this many videos, drawn from all.")
@click.option("--workers", type=THREADS, help="And the CPUs of every way.  [default: all CPUs]")
@click.option("--repeats", type=COUNT, default=5, show_default=True)
@JSON_FILE
@QUIET
def main(
    *, raw: Path, limit: int | None, workers: int | None, repeats: int, json_path: Path | None, quiet: bool
) -> None:
    """Measure make_shards, and a bare ffmpeg beside it."""
    load_psutil()
    listing = list_videos(raw, limit=limit)
    workers = workers or len(os.sched_getaffinity(0))
    cores = pick_cores(workers)
    with pinned(cores), tempfile.TemporaryDirectory(prefix="bench-shards-") as scratch:
        result = run(listing, Path(scratch), workers=workers, repeats=repeats, quiet=quiet)
    facts = machine("simplejpeg", "av", "numpy")
    facts["versions"]["ffmpeg"] = ffmpeg_version().removeprefix("ffmpeg version ")
    if json_path is not None:
        write_json(json_path, result, listing, raw=raw, cores=cores, facts=facts)
    for line in report(result, listing, cores=cores, facts=facts):
        click.echo(line)
    if json_path is not None:
        click.echo(f"all numbers: {json_path}")


def list_videos(raw: Path, *, limit: int | None) -> Listing:
    """Every video below a folder as one training record; its class is the folder that it lies in.

    Raises:
        BenchError: There is none.
    """
    paths = [raw / video for video in find_videos(raw).videos if (raw / video).is_file()]
    if not paths:
        raise BenchError(f"{raw}: no video found; name a folder that has some")
    paths = sorted(random.Random(0).sample(paths, min(limit or len(paths), len(paths))))
    classes = sorted({path.parent.name for path in paths})
    records = [
        VideoRecord(path, source, path.parent.name, classes.index(path.parent.name), source, ("train",))
        for path in paths
        for source in [path.relative_to(raw).as_posix()]
    ]
    return Listing("bench", classes, ["1"], records, missing=[], unlisted=[], warnings=[])


def run(listing: Listing, scratch: Path, *, workers: int, repeats: int, quiet: bool) -> Result:
    """Read every file once, find the bare ffmpeg's quality, take turns."""
    paths = [record.path for record in listing.records]
    for path in paths:
        path.read_bytes()  # into the page cache, so that nobody's first turn waits for the disk
    few = Listing(**{**vars(listing), "records": listing.records[:CALIBRATION_VIDEOS]})
    trial, _ = make_shards(few, scratch, workers=workers)
    quality = closest_quality([record.path for record in few.records], trial.bytes_per_frame, workers=workers)

    ways: dict[str, Callable[[], Turn]] = {
        f"ffmpeg, {workers} at once": lambda: bare_ffmpeg(paths, quality, processes=workers, threads=1),
        "ffmpeg, its threads": lambda: bare_ffmpeg(paths, quality, processes=1, threads=None),
    }
    result = Result({name: [] for name in (OURS, *ways)}, quality)

    def ours() -> Turn:
        turn, memory = make_shards(listing, scratch, workers=workers)
        result.memory.append(memory)
        return turn

    with progress("taking turns", unit="rounds", quiet=quiet) as tell:
        for repeat in range(repeats):
            turns = [(OURS, ours), *ways.items()]
            for name, way in turns if repeat % 2 == 0 else turns[::-1]:
                result.turns[name].append(way())
            rates = [f"{name} {done[-1].frames_per_s:.0f}" for name, done in result.turns.items()]
            tell(repeat + 1, repeats, ", ".join(rates) + " frames/s")
    return result


def make_shards(listing: Listing, scratch: Path, *, workers: int) -> tuple[Turn, BuildMemory]:
    """Build the shards of a listing into a new folder, which is removed after the clock has stopped.

    Raises:
        BenchError: Not one video became a sample.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        out = Path(folder) / "shards"
        with watched_memory() as memory:
            started = time.perf_counter()
            built = build_shards(listing, out, BuildSettings(), workers=workers)
            wall_s = time.perf_counter() - started
        info = json.loads((out / "dataset.json").read_bytes())
        if not built.num_samples:
            raise BenchError(f"{listing.records[0].path.parent}: not one of these videos can be read")
        num_bytes = sum(shard["num_bytes"] for shard in info["shards"])
    return Turn(info["num_frames"], num_bytes, wall_s), memory()


@contextmanager
def watched_memory() -> Iterator[Callable[[], BuildMemory]]:
    """Samples this process's memory in a thread; the function given tells it after the end."""
    alone, together, done = [0], [0], threading.Event()
    process = load_psutil().Process()

    def watch() -> None:
        while not done.wait(MEMORY_EVERY_S):
            alone[0] = max(alone[0], process.memory_info().rss)
            together[0] = max(together[0], ProcessTree().memory(0).rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: BuildMemory(max(alone[0], end), max(together[0], end), end)
    finally:
        done.set()
        thread.join()
        end = process.memory_info().rss


def bare_ffmpeg(paths: Sequence[Path], quality: int, *, processes: int, threads: int | None) -> Turn:
    """One ffmpeg a video, `processes` at once."""
    started = time.perf_counter()
    with ThreadPoolExecutor(processes) as pool:
        found = list(pool.map(lambda path: run_ffmpeg(path, quality, threads=threads), paths))
    wall_s = time.perf_counter() - started
    return Turn(sum(frames for frames, _ in found), sum(size for _, size in found), wall_s)


def run_ffmpeg(path: Path, quality: int, *, threads: int | None) -> tuple[int, int]:
    """Decode, scale and encode one video, as ffmpeg itself counts: frames and bytes; both 0 when it cannot be read."""
    command = ffmpeg_command(path, quality, threads=threads)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    counted = {"frame": 0, "total_size": 0}
    for line in done.stderr.decode(errors="replace").splitlines():  # one block after another, the last one is final
        name, _, value = line.partition("=")
        if name in counted and value.strip().isdigit():
            counted[name] = int(value)
    return counted["frame"], counted["total_size"]


def ffmpeg_command(path: Path, quality: int, *, threads: int | None) -> list[str]:
    """The same decoder and filter as `pipeline.ingest.transcode.FrameReader`, and ffmpeg's own JPEG encoder.

    Args:
        threads: Of the decoder and of the encoder; None is what ffmpeg chooses.
    """
    own = {} if threads is None else {"threads": threads}
    geometry = stretched(BuildSettings().size)
    film = (
        ffmpeg.input(str(path), **own)["V:0"]
        .filter(
            "scale",
            geometry.content_width,
            geometry.content_height,
            flags=SCALE_FLAGS,
            out_range="full",
            out_color_matrix="bt601",
        )
        .filter("format", "yuvj420p")
    )
    output = film.output(
        "pipe:1",
        format="image2pipe",
        vcodec="mjpeg",
        huffman="default",
        fps_mode="passthrough",
        **{"q:v": quality},
        **own,
    )
    return output.global_args("-nostdin", "-nostats", "-loglevel", "error", "-progress", "pipe:2").compile(
        cmd=ffmpeg_exe()
    )


def closest_quality(paths: Sequence[Path], bytes_per_frame: float, *, workers: int) -> int:
    """The -q:v at which the bare ffmpeg's frames are most nearly as large as ours."""

    def distance(quality: int) -> float:
        return abs(bare_ffmpeg(paths, quality, processes=workers, threads=1).bytes_per_frame - bytes_per_frame)

    best, nearest = QUALITIES[0], distance(QUALITIES[0])
    for quality in QUALITIES[1:]:  # bytes fall as the number rises, so the first turn for the worse is the end
        away = distance(quality)
        if away >= nearest:
            break
        best, nearest = quality, away
    return best


def report(result: Result, listing: Listing, *, cores: list[int], facts: dict[str, Any]) -> list[str]:
    """Everything for people; the verdict comes last."""
    rows = [
        [
            name,
            str(result.frames_per_s(name)),
            str(turns[-1].num_frames),
            f"{turns[-1].bytes_per_frame / 1e3:.2f}",
            f"{result.frames_per_s(name).median / result.frames_per_s(result.bare).median:.2f}",
        ]
        for name, turns in result.turns.items()
    ]
    megabytes = [f"{memory.peak_rss / 1e6:.0f}" for memory in result.memory]
    return [
        f"{len(listing.records)} videos to 171×128, {len(cores)} workers on CPUs {', '.join(map(str, cores))}, "
        f"bare ffmpeg at -q:v {result.quality}",
        *machine_lines(facts),
        "",
        *table(["", "frames/s", "frames", "kB/frame", "of bare"], rows),
        "",
        f"memory of {OURS}, peak RSS of each repeat: {', '.join(megabytes)} MB "
        f"({max(m.peak_rss_children for m in result.memory) / 1e6:.0f} MB with its ffmpegs); "
        f"{result.growth / 1e6:+.1f} MB from the first repeat to the last",
        verdict(result),
    ]


def verdict(result: Result) -> str:
    """One sentence."""
    held = "at least" if result.ratio >= TARGET_RATIO else "NOT at least"
    return (
        f"{OURS} takes {result.frames_per_s(OURS).median:.0f} frames/s, {result.ratio:.2f} of the "
        f"{result.frames_per_s(result.bare).median:.0f} of {result.bare}: {held} {TARGET_RATIO}"
    )


def write_json(
    path: Path, result: Result, listing: Listing, *, raw: Path, cores: list[int], facts: dict[str, Any]
) -> None:
    """All numbers; bytes and seconds."""
    ways = {
        name: {
            "frames_per_s": asdict(result.frames_per_s(name)),
            "bytes_per_frame": turns[-1].bytes_per_frame,
            "turns": [asdict(turn) for turn in turns],
        }
        for name, turns in result.turns.items()
    }
    found = {
        "command": shlex.join(["bench_shards.py", *sys.argv[1:]]),
        "machine": facts,
        "raw": str(raw),
        "num_videos": len(listing.records),
        "cores": cores,
        "quality": result.quality,
        "ways": ways,
        "bare": result.bare,
        "ratio": result.ratio,
        "memory": [asdict(memory) for memory in result.memory],
        "rss_growth": result.growth,
        "verdict": verdict(result),
    }
    save_json(path, found)


if __name__ == "__main__":
    main()
