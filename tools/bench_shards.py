#!/usr/bin/env python3
"""Measure how fast shards are made, beside a bare ffmpeg that decodes, scales and encodes JPEG on the same cores."""

import json
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import Listing, VideoRecord
from res3d_video.pipeline.datasets.listing import find_videos
from res3d_video.pipeline.ingest.transcode import SCALE_FLAGS, ffmpeg_exe, ffmpeg_version, stretched
from res3d_video.tools.bench.machine import machine, machine_lines, table
from res3d_video.tools.bench.measure import BenchError, ProcessTree, Spread, load_psutil, pick_cores, pinned
from res3d_video.train.terminal import COUNT, JSON_FILE, QUIET, THREADS, Command, progress, save_json

OURS = "make_shards"
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


class Round(NamedTuple):
    """All videos done once in one of the ways; bytes are those of the JPEGs, or of the tars.

    `memory` is make_shards', bytes: the peak of its process, that with the ffmpegs, and of its process at the end.
    """

    num_frames: int
    num_bytes: int
    wall_s: float
    memory: dict[str, int] | None = None

    @property
    def frames_per_s(self) -> float:
        return self.num_frames / self.wall_s


@click.command(cls=Command, epilog=EPILOG)
@click.option("--raw", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="Videos.")
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
    cores = pick_cores(workers or len(os.sched_getaffinity(0)))
    with pinned(cores), tempfile.TemporaryDirectory(prefix="bench-shards-") as scratch:
        rounds, quality = run(listing, Path(scratch), workers=len(cores), repeats=repeats, quiet=quiet)
    facts = machine("simplejpeg", "av", "numpy")
    facts["versions"]["ffmpeg"] = ffmpeg_version().removeprefix("ffmpeg version ")
    setting = {"command": shlex.join(["bench_shards.py", *sys.argv[1:]]), "machine": facts, "raw": str(raw)}
    summary = setting | {"num_videos": len(listing.records), "cores": cores, "quality": quality} | compare(rounds)
    if json_path is not None:
        save_json(json_path, summary)
    for line in report(summary):
        click.echo(line)


def list_videos(raw: Path, *, limit: int | None) -> Listing:
    """Videos at any depth as training records of one class. Raises BenchError if there is none."""
    sources = [video for video in find_videos(raw).videos if (raw / video).is_file()]
    if not sources:
        raise BenchError(f"{raw}: no video found; name a folder that has some")
    drawn = sorted(random.Random(0).sample(sources, min(limit or len(sources), len(sources))))
    records = [VideoRecord(raw / source, source, "all", 0, source, ("train",)) for source in drawn]
    return Listing("bench", ["all"], ["1"], records, missing=[], unlisted=[], warnings=[])


def run(
    listing: Listing, scratch: Path, *, workers: int, repeats: int, quiet: bool
) -> tuple[dict[str, list[Round]], int]:
    """The rounds of each way, in alternating order, and the -q:v of the bare ffmpeg."""
    paths = [record.path for record in listing.records]
    for path in paths:
        path.read_bytes()  # into the page cache, so that no first round waits for the disk
    trial = make_shards(replace(listing, records=listing.records[:CALIBRATION_VIDEOS]), scratch, workers=workers)
    quality = closest_quality(paths[:CALIBRATION_VIDEOS], trial.num_bytes / trial.num_frames, workers=workers)
    ways: dict[str, Callable[[], Round]] = {
        OURS: partial(make_shards, listing, scratch, workers=workers),
        f"ffmpeg, {workers} at once": partial(bare_ffmpeg, paths, quality, processes=workers, threads=1),
        "ffmpeg, its threads": partial(bare_ffmpeg, paths, quality, processes=1, threads=None),
    }
    rounds: dict[str, list[Round]] = {name: [] for name in ways}
    with progress("measuring", unit="rounds", quiet=quiet) as tell:
        for repeat in range(repeats):
            for name in list(ways)[:: 1 if repeat % 2 == 0 else -1]:
                rounds[name].append(ways[name]())
            tell(repeat + 1, repeats, f"{rounds[OURS][-1].frames_per_s:.0f} frames/s")
    return rounds, quality


def make_shards(listing: Listing, scratch: Path, *, workers: int) -> Round:
    """Build shards in a folder that is removed afterwards. Raises BenchError if not one video became a sample."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        out = Path(folder) / "shards"
        with watched_memory() as memory:
            started = time.perf_counter()
            built = build_shards(listing, out, BuildSettings(), workers=workers)
            wall_s = time.perf_counter() - started
        info = json.loads((out / "dataset.json").read_bytes())
    if not built.num_samples:
        raise BenchError(f"{listing.records[0].path.parent}: not one of these videos can be read")
    return Round(info["num_frames"], sum(shard["num_bytes"] for shard in info["shards"]), wall_s, memory)


@contextmanager
def watched_memory() -> Iterator[dict[str, int]]:
    """Memory of this process, sampled in a thread: `Round.memory`, complete at the end."""
    memory, done = {"peak_rss": 0, "peak_rss_children": 0, "end_rss": 0}, threading.Event()
    process = load_psutil().Process()

    def watch() -> None:
        is_done = False
        while not is_done:
            is_done = done.wait(MEMORY_EVERY_S)
            own, together = process.memory_info().rss, ProcessTree().memory(0).rss
            memory["peak_rss"] = max(memory["peak_rss"], own)
            memory["peak_rss_children"] = max(memory["peak_rss_children"], own, together)
            memory["end_rss"] = own

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def bare_ffmpeg(paths: Sequence[Path], quality: int, *, processes: int, threads: int | None) -> Round:
    """One ffmpeg a video, `processes` at once; `threads` of decoder and encoder, None for ffmpeg's own choice."""
    started = time.perf_counter()
    with ThreadPoolExecutor(processes) as pool:
        found = list(pool.map(lambda path: run_ffmpeg(path, quality, threads=threads), paths))
    return Round(sum(frames for frames, _ in found), sum(size for _, size in found), time.perf_counter() - started)


def run_ffmpeg(path: Path, quality: int, *, threads: int | None) -> tuple[int, int]:
    """Decode, scale as the build does, and encode one video: frames and bytes; both 0 if it cannot be read."""
    own, size = [] if threads is None else ["-threads", str(threads)], stretched(BuildSettings().size)
    scale = f"scale={size.content_width}:{size.content_height}:flags={SCALE_FLAGS}"
    command = [ffmpeg_exe(), "-nostdin", "-nostats", "-loglevel", "error", "-progress", "pipe:2", *own, "-i", str(path)]
    command += ["-map", "0:V:0", "-vf", f"{scale}:out_range=full:out_color_matrix=bt601,format=yuvj420p"]
    command += ["-fps_mode", "passthrough", "-c:v", "mjpeg", "-huffman", "default", "-q:v", str(quality), *own]
    done = subprocess.run([*command, "-f", "image2pipe", "pipe:1"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    counted = dict(re.findall(rb"^(frame|total_size)= *(\d+)", done.stderr, re.MULTILINE))  # the last ones are final
    return int(counted.get(b"frame", 0)), int(counted.get(b"total_size", 0))


def closest_quality(paths: Sequence[Path], bytes_per_frame: float, *, workers: int) -> int:
    """The -q:v at which the bare ffmpeg's frames are most nearly as large as ours."""

    def distance(quality: int) -> float:
        done = bare_ffmpeg(paths, quality, processes=workers, threads=1)
        return abs(done.num_bytes / done.num_frames - bytes_per_frame)

    return min(QUALITIES, key=distance)


def compare(rounds: dict[str, list[Round]]) -> dict[str, Any]:
    """Every way's rounds, the faster bare ffmpeg, our speed beside it, and how much our memory grew, for JSON."""
    ways: dict[str, Any] = {}
    for name, done in rounds.items():
        speed, size = asdict(Spread.of([one.frames_per_s for one in done])), done[-1].num_bytes / done[-1].num_frames
        ways[name] = {"frames_per_s": speed, "bytes_per_frame": size, "turns": [one._asdict() for one in done]}
    medians = {name: way["frames_per_s"]["median"] for name, way in ways.items()}
    bare, ours = max(medians.keys() - {OURS}, key=lambda name: medians[name]), ways[OURS]["turns"]
    growth = ours[-1]["memory"]["end_rss"] - ours[0]["memory"]["end_rss"]
    return {"ways": ways, "bare": bare, "ratio": medians[OURS] / medians[bare], "rss_growth": growth}


def report(summary: dict[str, Any]) -> list[str]:
    """Lines for people, from what --json writes."""
    ways, bare = summary["ways"], summary["bare"]
    medians, rows = {name: way["frames_per_s"]["median"] for name, way in ways.items()}, []
    for name, way in ways.items():
        numbers = str(way["turns"][-1]["num_frames"]), f"{way['bytes_per_frame'] / 1e3:.2f}"
        rows.append([name, str(Spread(**way["frames_per_s"])), *numbers, f"{medians[name] / medians[bare]:.2f}"])
    memory = [turn["memory"] for turn in ways[OURS]["turns"]]
    return [
        f"{summary['num_videos']} videos to 171×128 on CPUs {summary['cores']}, ffmpeg at -q:v {summary['quality']}",
        *machine_lines(summary["machine"]),
        *table(["", "frames/s", "frames", "kB/frame", "of bare"], rows),
        f"peak memory of {OURS} in each repeat: {[round(one['peak_rss'] / 1e6) for one in memory]} MB "
        f"(with its ffmpegs {[round(one['peak_rss_children'] / 1e6) for one in memory]}); "
        f"{summary['rss_growth'] / 1e6:+.1f} MB from the end of the first to the end of the last",
        f"{OURS}: {medians[OURS]:.0f} frames/s, {summary['ratio']:.2f} of the {medians[bare]:.0f} of {bare}",
    ]


if __name__ == "__main__":
    main()
