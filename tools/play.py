#!/usr/bin/env python3
"""Shows a sample, or the clips that training and evaluation take of it, as a GIF, an MP4 or a sheet of frames."""

import os
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # docs/decisions/0004-threads-that-wait-sleep.md

import click
import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import write_atomically
from res3d_video.tools.run_reader import config_of, read_about
from res3d_video.train.config import override
from res3d_video.train.data_options import DATA, REMOTE, Data, remote_options
from res3d_video.train.options import AUGMENT_OPTIONS, AUGMENTATIONS
from res3d_video.train.presets import PRESETS
from res3d_video.train.terminal import (
    JSON_FILE,
    MOST,
    Command,
    Name,
    OutputFile,
    WrongUsage,
    extra_needed,
    save_json,
    with_options,
    wrong_usage,
)

EPILOG = """\b
Examples:
  python tools/play.py shards/ucf101 --random --out clip.gif
  python tools/play.py shards/ucf101 --class Archery --side test --clips 10 --out views.png
  python tools/play.py shards/ucf101 --random --run runs/ucf101 --step 500 --out seen.gif
  python tools/play.py shards/ucf101 --random --clips 8 --color-jitter 0.4 0.4 0.4 0.1 --out colors.png
  python tools/play.py s3://bucket/shards/ucf101 v_Archery_g01_c01 --segment --out video.mp4

\b
KEY is a sample's key, the name of its video, or a part of either that only one sample has. A clip is shown as three
pictures: the stored frame with the crop in yellow, the crop, and the network input without normalization.
--clips 4 shows a training sample in its first four epochs, and a test sample in four evenly spaced clips.
Needs Pillow: pip install -e ".[report]".
"""
ASSUMED_FPS = 25.0  # if the source does not say
MAX_FRAMES = {".gif": 300, ".mp4": 1000, ".png": 32}  # of a segment; if it is longer, evenly spaced frames are shown


@click.command(
    cls=Command,
    context_settings={"max_content_width": 110},
    epilog=EPILOG,
    headings={
        "Which sample": ["is_random", "class_name", "side"],
        "Which clips of it": ["num_clips", "step", "is_segment", "preset", "run", "split"],
        "What is written": ["out", "json_path"],
    },
    rare={"Augmentation of the clips": AUGMENTATIONS, "Shards behind a URL": REMOTE},
)
@click.argument("data", metavar="DIR", type=DATA)
@click.argument("key", required=False)
@click.option("--random", "is_random", is_flag=True, help="A random sample; with augmentation, of the train side.")
@click.option("--class", "class_name", help="A random sample of this class.")
@click.option("--side", type=click.Choice(["train", "val", "test"]), help="A random sample of this side.")
@click.option("--clips", "num_clips", type=click.IntRange(1, 100), help="Number of epochs or views.  [default: 1]")
@click.option("--step", type=click.IntRange(0, MOST), help="Show the clips of this training step, 0-based.")
@click.option("--segment", "is_segment", is_flag=True, help="Show all stored frames instead of clips.")
@click.option("--preset", type=Name(list(PRESETS)), metavar="NAME", help="Recipe.  [default: ucf101-search]")
@click.option("--run", type=click.Path(exists=True, path_type=Path), help="Take the recipe of this run's folder.")
@with_options(*AUGMENT_OPTIONS)
@click.option("--split", help="Split of the dataset.  [default: the recipe's]")
@click.option("--out", required=True, type=OutputFile(*MAX_FRAMES), help=".gif, .mp4, or .png: a sheet of all frames.")
@remote_options
@JSON_FILE
def main(
    *,
    data: Data,
    key: str | None,
    is_random: bool,
    class_name: str | None,
    side: str | None,
    num_clips: int | None,
    step: int | None,
    is_segment: bool,
    preset: str | None,
    run: Path | None,
    out: Path,
    split: str | None,
    json_path: Path | None,
    **augmentation: Any,
) -> None:
    """Draw a sample of the shards in DIR, or clips of it as the network sees them."""
    if (key is None) != bool(is_random or class_name or side):
        raise WrongUsage("give either a KEY, or --random, --class or --side to take any sample")
    for choices in (
        {"--segment": is_segment or None, "--clips": num_clips, "--step": step},
        {"--preset": preset, "--run": run},
    ):
        given = [name for name, value in choices.items() if value is not None]
        if len(given) > 1:
            raise WrongUsage(f"{' and '.join(given)} do not go together; leave one of them out")
    with extra_needed("report"):
        from res3d_video.tools import playing  # torch and Pillow are slow to import
    index = data.open()
    config = PRESETS[preset or "ucf101-search"]
    if run is not None:
        config = config_of(run, read_about(run, way_out="give the --out of train/main.py"))
    with wrong_usage():
        config = override(config, **augmentation)
    split = split or (config.split if config.split in index.split_names else index.split_names[0])
    if split not in index.split_names:
        raise UserError(f"{index.name}: split {split} does not exist; choose {' or '.join(index.split_names)}")
    snaps = config.snap_to_keyframe and index.codec == "h264"  # filmstrips have none
    config = replace(config, split=split, snap_to_keyframe=snaps)
    if key is None:
        sample = playing.random_sample(index, config, side=side, class_name=class_name, step=step)
    else:
        sample = playing.find_sample(index, key)
    summary = playing.sample_metadata(index, sample)
    kind, frame_s = out.suffix.lower(), 1 / (summary["fps"] or ASSUMED_FPS)
    if is_segment:
        num_stored = summary["num_frames"]
        frames = np.linspace(0, num_stored - 1, min(num_stored, MAX_FRAMES[kind])).astype(int)
        summary["frames"] = (frames * index.frame_step).tolist()
        groups = [playing.segment_group(index, sample, frames)]
        frame_s *= index.frame_step * num_stored / len(frames)
    else:
        clips = playing.select_clips(index, config, sample, step=step, num_clips=num_clips or 1)
        summary["clips"] = playing.describe_clips(index, config, clips)
        groups = playing.clip_groups(index, config, clips, summary["clips"])
        frame_s *= config.clip.frame_stride
    title = f"{', '.join(summary['classes'])}: {PurePosixPath(summary['source']).stem}"
    content = playing.encode(kind, playing.draw(kind, title, groups), frame_s=frame_s)
    write_atomically(out, content)
    if json_path is not None:
        save_json(json_path, summary)
    titles = "\n".join(group.title for group in groups)
    click.echo(f"key {summary['key']}, {title}\n{titles}\nwrote {out}, {len(content) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
