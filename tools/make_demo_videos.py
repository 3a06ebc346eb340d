#!/usr/bin/env python3
"""Make a small labelled set of videos whose classes differ only by motion, for trying everything out."""

import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
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
from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.typed_json import Count, Text, read_json
from res3d_video.tools.demo_scenes import CLASSES, render_video
from res3d_video.tools.numbered import write_video
from res3d_video.train.bounds import SEED, THREADS
from res3d_video.train.terminal import QUIET, Command, no_interrupts, print_json, progress

SIZE = {"height": 96, "width": 128}
# Fine enough that what is left of a frame's coding does not betray how the frame moves; the same bytes every time.
ENCODER: dict[str, Any] = {"crf": 16, "preset": "veryfast", "threads": 1, "fflags": "+bitexact"}
SETTINGS_NAME = "demo.json"  # in OUT: what decides the videos
EPILOG = """\b
Examples:
  python tools/make_demo_videos.py                            # 8 classes of 40 videos in data/demo
  python tools/make_demo_videos.py --out data/big --videos-per-class 200 --seed 7
\b
Files are OUT/<class>/<scene>_<class>.mp4; every scene moves once in each class. To keep a scene on one side:
  python tools/make_shards.py folder --raw data/demo --name demo --group-pattern '^(scene[0-9]+)_'
Train on them with --no-flip: mirrored, a move to the left is one to the right.
"""


@click.command(cls=Command, go_on="run the same command again: finished videos are kept", epilog=EPILOG)
@click.option("--out", type=click.Path(path_type=Path), default=Path("data/demo"), show_default=True)
@click.option("--videos-per-class", type=click.IntRange(1, 999_999), default=40, show_default=True)
@click.option("--frames", "num_frames", type=click.IntRange(2, 1000), default=48, show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Another one, other scenes.")
@click.option("--workers", type=THREADS, default=os.cpu_count(), show_default="all cores")
@QUIET
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def main(out: Path, *, as_json: bool, **options: Any) -> None:
    """Make a small labelled set of videos whose classes differ only by motion.

    Textured shapes go left, right, up or down, grow, shrink or spin over a drifting ground. One frame cannot
    tell which; a 3D network learns it in minutes. Videos that are there already are kept.
    """
    num_videos, num_made = make_videos(out, **options)
    if as_json:
        print_json({"out": str(out), "classes": CLASSES, "num_videos": num_videos, "num_made": num_made})
    else:
        click.echo(f"{num_videos} videos of {len(CLASSES)} classes in {out}, {num_made} of them made now")


def make_videos(
    out: Path, *, videos_per_class: int, workers: int, quiet: bool, num_frames: int = 48, seed: int = 0
) -> tuple[int, int]:
    """Make those videos of a set that are not there yet; gives the number of all, and of those made now."""
    settings = {"videos_per_class": videos_per_class, "num_frames": num_frames, "seed": seed} | SIZE
    check_folder(out, settings)
    for class_name in CLASSES:
        (out / class_name).mkdir(parents=True, exist_ok=True)
    (out / SETTINGS_NAME).write_text(json.dumps(settings) + "\n")
    names = [f"{name}/scene{scene:03d}_{name}.mp4" for scene in range(videos_per_class) for name in CLASSES]
    to_make = [out / name for name in names if not (out / name).exists()]
    context = multiprocessing.get_context("spawn")  # not forked: the progress bar has a thread
    with progress(str(out), unit="videos", quiet=quiet) as tell, ProcessPoolExecutor(workers, context) as pool:
        with no_interrupts():  # its processes begin here
            made = pool.map(partial(make_video, num_frames=num_frames, seed=seed), to_make)
        for done, _ in enumerate(made, start=1):
            tell(done, len(to_make))
    return len(names), len(to_make)


def check_folder(out: Path, settings: dict[str, int]) -> None:
    """Refuse a folder that holds anything but a set with the same settings, whole or in part."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        found = read_json(out / SETTINGS_NAME, dict[Text, Count], what="demo videos", way_out="choose another --out")
    except UserError:
        raise click.UsageError(f"{out}: holds something else than demo videos; choose another --out") from None
    if found != settings:
        theirs = ", ".join(f"{name} {value}" for name, value in found.items())
        raise click.UsageError(f"{out}: holds a set of other settings ({theirs}); choose another --out or remove it")


def make_video(path: Path, *, num_frames: int, seed: int) -> None:
    """Render and encode scene000_class.mp4, whole or not at all. Raises UserError if ffmpeg fails."""
    scene, _, class_name = path.stem.removeprefix("scene").partition("_")
    video = render_video(class_name, seed=seed * 1_000_000 + int(scene), num_frames=num_frames, **SIZE)
    unfinished = path.with_name(f".{path.name}")
    try:
        write_video(unfinished, video, vcodec="libx264", pix_fmt="yuv420p", **ENCODER)
    except ffmpeg.Error as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"{path}: ffmpeg failed ({lines[0]}); try another ffmpeg, or none on PATH") from None
    unfinished.replace(path)


def demo_videos(folder: Path, *, quiet: bool) -> Path:
    """32 videos of eight classes in `folder`/videos, to measure on where there are no others."""
    make_videos(folder / "videos", videos_per_class=4, workers=len(os.sched_getaffinity(0)), quiet=quiet)
    return folder / "videos"


def demo_shards(folder: Path, *, quiet: bool) -> Path:
    """Shards of `demo_videos` in `folder`/shards."""
    listing = list_folder(demo_videos(folder, quiet=quiet), name="demo", group_pattern=r"^(scene[0-9]+)_")
    build_shards(listing, folder / "shards", BuildSettings(), workers=len(os.sched_getaffinity(0)))
    return folder / "shards"


if __name__ == "__main__":
    main()
