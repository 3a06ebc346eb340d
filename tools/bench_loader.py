#!/usr/bin/env python3
"""Does the GPU ever wait for video? Loader alone, synthetic step and real step in rounds; a table and one sentence."""

import os
import sys
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

# Threads that wait must sleep: spinning ones take the cores from decoding, and on two busy cores training falls to a
# tenth of its speed (docs/decisions/0004-threads-that-wait-sleep.md). Read by OpenMP when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # as the trainer (train/main.py)

import click

from res3d_video.train.data_options import DATA, REMOTE, remote_options
from res3d_video.train.models import MODELS
from res3d_video.train.options import AUGMENT_OPTIONS, AUGMENTATIONS, EXECUTION, EXECUTION_OPTIONS
from res3d_video.train.terminal import (
    BATCH,
    COUNT,
    JSON_FILE,
    QUIET,
    SIDE,
    STRIDE,
    WIDTH,
    Command,
    Number,
    OutputFile,
    with_options,
)

EPILOG = """\b
Examples:
  python tools/bench_loader.py                                # the only dataset in shards/, or a small one made now
  python tools/bench_loader.py --data shards/ucf101 --batch-size 64 --json bench.json --chart bench.png
  python tools/bench_loader.py --data shards/ucf101 --loader-only --vs all
  python tools/bench_loader.py --data shards/ucf101 --autotune --profile profile

\b
loader alone    takes batches and does nothing with them
synthetic step  the trainer's step on some of the loader's batches, kept and repeated
real step       the same step on the loader's batches: random starts, crops and flips
All three run in this process, in rounds that begin with another one each; the loader stands still meanwhile.
Saturation is the real step's speed as a share of the synthetic step's, round by round. After the first epoch
files are in the page cache; --cold drops them before each lane that reads. Peers (--vs), each in a process of its own,
read the stored mp4 files of h264 shards as they are, or H.264 copies of the segments of filmstrips.
"""

# fmt: off
OPTIONS = [
    click.option("--data", type=DATA, help="Shards: a folder, or a URL like s3://bucket/shards.  [default: the only "
                 "dataset in shards/, else small demo shards]"),
    click.option("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:N."),
    click.option("--loader-only", is_flag=True, show_default=False, help="Leave out the training steps."),
    click.option("--model", type=click.Choice(list(MODELS)), metavar="NAME",
                 help="Network.  [default: res3d18; on a CPU res3d10]"),
    click.option("--width", type=WIDTH, help="Of the network.  [default: 64; on a CPU 16]"),
    click.option("--batch-size", type=BATCH, help="Clips of a step.  [default: 256; on a CPU 16]"),
    click.option("--frames", default=8, type=click.IntRange(1, 1024), help="Frames of a clip."),
    click.option("--frame-stride", default=2, type=STRIDE, help="Source frames from one frame to the next."),
    click.option("--crop-size", default=112, type=SIDE, help="Height and width of a clip, pixels."),
    click.option("--resize", type=SIDE, help="Height of a frame before the crop.  [default: as stored]"),
    *AUGMENT_OPTIONS,
    *EXECUTION_OPTIONS,
    click.option("--repeats", default=5, type=COUNT, help="Rounds."),
    click.option("--soak-minutes", default=0.0, type=Number(0, 1e5),
                 help="As many rounds as fill so many minutes; drift and growth of memory are reported."),
    click.option("--seconds", type=Number(0, 1e6, min_open=True),
                 help="Of a lane in a round, after warming up.  [default: 10; on a CPU 5]"),
    click.option("--batches", type=COUNT, help="Of a lane in a round, instead of --seconds."),
    click.option("--limit", type=COUNT, help="Use so many segments.  [default: all; 256 with --vs]"),
    click.option("--snap-to-keyframe", is_flag=True, show_default=False,
                 help="Clips of h264 shards begin at keyframes, as the trainer's do with this flag."),
    click.option("--cold", is_flag=True, show_default=False, help="Drop the shards from the page cache all the time."),
    click.option("--autotune", "autotune_first", is_flag=True, show_default=False,
                 help="First find the loader's settings for this machine; prints them as flags."),
    click.option("--profile", "profile_dir", type=click.Path(file_okay=False, path_type=Path),
                 help="Write traces of the step with and without loader here, and a table of kernels."),
    click.option("--vs", default="none",
                 help="Peers to run beside the loader: all, none, or names with commas."),
    JSON_FILE,
    click.option("--chart", "chart_path", type=OutputFile(".png"), help="Draw a PNG here."),
    QUIET,
]
COMMAND: dict[str, Any] = {
    "cls": Command,
    "context_settings": {"max_content_width": 110, "show_default": True},
    "epilog": EPILOG,
    "headings": {
        "What is measured": ["data", "model", "batch_size", "frames", "frame_stride", "crop_size", "device",
                             "loader_only", "vs"],
        "How long": ["repeats", "seconds", "soak_minutes", "limit"],
        "Results": ["json_path", "chart_path", "profile_dir", "autotune_first", "quiet"],
    },
    "rare": {
        "More of what is measured": ["width", "resize", "snap_to_keyframe", "batches", "cold"],
        "Augmentation of the clips": AUGMENTATIONS,
        **EXECUTION,
        "Shards behind a URL": REMOTE,
    },
}
# fmt: on


@click.command(**COMMAND)
@with_options(*OPTIONS)
@remote_options
def main(**options: Any) -> None:
    """Measure the loader alone, the training step on ready clips and on real ones, and name the bottleneck."""
    from res3d_video.tools.bench.command import bench  # loads torch: help and wrong options do not wait for it

    bench(**options)


if __name__ == "__main__":
    main()
