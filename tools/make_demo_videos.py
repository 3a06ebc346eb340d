#!/usr/bin/env python3
"""Make a small labelled set of videos whose classes differ only by motion, for trying everything out."""

import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

from res3d_video.train.stopping import end_at_ctrl_c

end_at_ctrl_c(__name__)

import click
import ffmpeg
import numpy as np

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.ingest.transcode import ffmpeg_exe
from res3d_video.pipeline.typed_json import Count, Text, read_json
from res3d_video.tools.demo_scenes import CLASSES, render_video
from res3d_video.train.bounds import SEED, THREADS
from res3d_video.train.terminal import QUIET, Command, no_interrupts, print_json, progress

FPS = 25
HEIGHT, WIDTH = 96, 128
SETTINGS_NAME = "demo.json"
EPILOG = """\b
Examples:
  python tools/make_demo_videos.py                            # 8 classes of 40 videos in data/demo
  python tools/make_demo_videos.py --out data/big --videos-per-class 200 --seed 7
\b
Files are OUT/<class>/<scene>_<class>.mp4; every scene moves once in each class. To keep a scene on one side:
  python tools/make_shards.py folder --raw data/demo --name demo --group-pattern '^(scene[0-9]+)_'
Train on them with --no-flip: mirrored, a move to the left is one to the right.
"""


@dataclass(frozen=True)
class DemoSettings:
    """What decides the videos; kept in OUT/demo.json."""

    videos_per_class: int = 40
    num_frames: int = 48
    seed: int = 0
    height: int = HEIGHT
    width: int = WIDTH


@click.command(cls=Command, go_on="run the same command again: finished videos are kept", epilog=EPILOG)
@click.option("--out", type=click.Path(path_type=Path), default=Path("data/demo"), show_default=True)
@click.option("--videos-per-class", type=click.IntRange(1, 999_999), default=40, show_default=True)
@click.option("--frames", "num_frames", type=click.IntRange(2, 1000), default=48, show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Another one, other scenes.")
@click.option("--workers", type=THREADS, default=os.cpu_count(), show_default="all cores")
@QUIET
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def main(out: Path, *, workers: int, quiet: bool, as_json: bool, **settings: int) -> None:
    """Make a small labelled set of videos whose classes differ only by motion.

    Textured shapes go left, right, up or down, grow, shrink or spin over a drifting ground. One frame cannot
    tell which; a 3D network learns it in minutes. Videos that are there already are kept.
    """
    num_videos, num_made = make_videos(out, DemoSettings(**settings), workers=workers, quiet=quiet)
    result = {"out": str(out), "classes": CLASSES, "num_videos": num_videos, "num_made": num_made}
    if as_json:
        print_json(result)
    else:
        click.echo(f"{num_videos} videos of {len(CLASSES)} classes in {out}, {num_made} of them made now")


def make_videos(out: Path, wanted: DemoSettings, *, workers: int, quiet: bool) -> tuple[int, int]:
    """Make those videos of a set that are not there yet.

    Returns:
        Videos of the set, and how many were made now.
    """
    check_folder(out, wanted)
    out.mkdir(parents=True, exist_ok=True)
    (out / SETTINGS_NAME).write_text(json.dumps(asdict(wanted)) + "\n")
    jobs = [
        (out / class_name / f"scene{scene:03d}_{class_name}.mp4", class_name, wanted.seed * 1_000_000 + scene)
        for scene in range(wanted.videos_per_class)
        for class_name in CLASSES
    ]
    to_make = [job for job in jobs if not job[0].exists()]
    for class_name in CLASSES:
        (out / class_name).mkdir(exist_ok=True)
    # Spawned, not forked: the progress bar has a thread.
    context = multiprocessing.get_context("spawn")
    with (
        progress(str(out), unit="videos", quiet=quiet) as tell,
        ProcessPoolExecutor(workers, mp_context=context) as pool,
    ):
        with no_interrupts():  # its processes begin here
            made = [pool.submit(make_video, *job, settings=wanted) for job in to_make]
        for done, future in enumerate(made, start=1):
            try:
                future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            tell(done, len(to_make))
    return len(jobs), len(to_make)


def demo_videos(folder: Path, *, quiet: bool) -> Path:
    """32 videos of eight classes to measure on where there are no others, in `folder`/videos."""
    make_videos(folder / "videos", DemoSettings(videos_per_class=4), workers=len(os.sched_getaffinity(0)), quiet=quiet)
    return folder / "videos"


def demo_shards(folder: Path, *, quiet: bool) -> Path:
    """Small shards of `demo_videos`.

    Returns:
        The folder of the shards, in `folder`.
    """
    listing = list_folder(demo_videos(folder, quiet=quiet), name="demo", group_pattern=r"^(scene[0-9]+)_")
    build_shards(listing, folder / "shards", BuildSettings(), workers=len(os.sched_getaffinity(0)))
    return folder / "shards"


def check_folder(out: Path, wanted: DemoSettings) -> None:
    """Refuse a folder that holds anything but a set with the same settings, whole or in part."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        found = read_json(out / SETTINGS_NAME, dict[Text, Count], what="demo videos", way_out="choose another --out")
    except UserError:
        raise click.UsageError(f"{out}: holds something else than demo videos; choose another --out") from None
    if found != asdict(wanted):
        told = ", ".join(f"{name} {value}" for name, value in found.items())
        raise click.UsageError(f"{out}: holds a set of other settings ({told}); choose another --out or remove it")


def make_video(path: Path, class_name: str, scene_seed: int, *, settings: DemoSettings) -> None:
    """Render and encode one video; it appears under its name only when whole."""
    video = render_video(
        class_name,
        seed=scene_seed,
        num_frames=settings.num_frames,
        height=settings.height,
        width=settings.width,
    )
    unfinished = path.with_name(f".{path.name}")
    encode_video(video, unfinished)
    unfinished.replace(path)


def encode_video(video: np.ndarray, path: Path) -> None:
    """Write uint8 [F, H, W, 3] as H.264 in MP4, 25 frames a second; the same bytes every time.

    Raises:
        UserError: ffmpeg failed; its first line says why.
    """
    _, height, width, _ = video.shape
    raw = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", video_size=(width, height), framerate=FPS)
    # Fine enough that what is left of a frame's coding does not betray how the frame moves.
    film = raw.output(
        str(path),
        vcodec="libx264",
        pix_fmt="yuv420p",
        crf=16,
        preset="veryfast",
        threads=1,
        fflags="+bitexact",
    )
    command = film.global_args("-loglevel", "error").overwrite_output().compile(cmd=ffmpeg_exe())
    done = subprocess.run(command, input=video.tobytes(), capture_output=True)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"{path}: ffmpeg failed ({lines[0]}); try another ffmpeg, or none on PATH")


if __name__ == "__main__":
    main()
