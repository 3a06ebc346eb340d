#!/usr/bin/env python3
"""Does training wait for video? Measures the loader alone and training steps; prints a table and the bottleneck."""

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
  python tools/bench_loader.py                                # the only dataset in shards/, or a small demo
  python tools/bench_loader.py --data shards/ucf101 --batch-size 64 --json bench.json --chart bench.png
  python tools/bench_loader.py --data shards/ucf101 --loader-only --vs all
  python tools/bench_loader.py --data shards/ucf101 --autotune --profile profile

\b
Three lanes are measured, in alternating rounds:
  loader alone    takes batches and does nothing with them
  synthetic step  the trainer's step on a few batches that are kept and repeated
  real step       the same step on the loader's batches, with random starts, crops and flips
Saturation is the speed of the real step divided by that of the synthetic step. After the first epoch, files are
usually in the page cache; --cold drops them before each lane that reads. Other loaders (--vs) run in processes of
their own. They read the mp4 files of h264 shards, or H.264 copies of the segments of filmstrips.
"""

# fmt: off
OPTIONS = [
    click.option("--data", type=DATA, help="Shards: a folder, or a URL like s3://bucket/shards.  [default: the only "
                 "dataset in shards/, or small demo shards]"),
    click.option("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:N."),
    click.option("--loader-only", is_flag=True, show_default=False, help="Measure no training steps."),
    click.option("--model", type=click.Choice(list(MODELS)), metavar="NAME",
                 help="Network.  [default: res3d18; on a CPU res3d10]"),
    click.option("--width", type=WIDTH, help="Width of the network.  [default: 64; on a CPU 16]"),
    click.option("--batch-size", type=BATCH, help="Clips per step.  [default: 256; on a CPU 16]"),
    click.option("--frames", default=8, type=click.IntRange(1, 1024), help="Frames per clip."),
    click.option("--frame-stride", default=2, type=STRIDE, help="Source frames from one frame of a clip to the next."),
    click.option("--crop-size", default=112, type=SIDE, help="Height and width of a clip, pixels."),
    click.option("--resize", type=SIDE, help="Height of a frame before the crop.  [default: as stored]"),
    *AUGMENT_OPTIONS,
    *EXECUTION_OPTIONS,
    click.option("--repeats", default=5, type=COUNT, help="Number of rounds."),
    click.option("--soak-minutes", default=0.0, type=Number(0, 1e5),
                 help="Measure for this many minutes, to see drift of the speed and growth of memory."),
    click.option("--seconds", type=Number(0, 1e6, min_open=True),
                 help="Seconds per lane and round, after the warm-up.  [default: 10; on a CPU 5]"),
    click.option("--batches", type=COUNT, help="Batches per lane and round, instead of --seconds."),
    click.option("--limit", type=COUNT, help="Use only this many segments.  [default: all; 256 with --vs]"),
    click.option("--snap-to-keyframe", is_flag=True, show_default=False,
                 help="Start clips of h264 shards at keyframes, like this option of the trainer."),
    click.option("--cold", is_flag=True, show_default=False,
                 help="Drop the shards from the page cache before each lane that reads them."),
    click.option("--autotune", "autotune_first", is_flag=True, show_default=False,
                 help="First find the best settings of the loader for this machine, and print them as options."),
    click.option("--profile", "profile_dir", type=click.Path(file_okay=False, path_type=Path),
                 help="Folder for traces of both training steps, and a table of their kernels."),
    click.option("--vs", default="none",
                 help="Other loaders to compare with: all, none, or a list like SPDL,torchcodec."),
    JSON_FILE,
    click.option("--chart", "chart_path", type=OutputFile(".png"), help="Draw a bar chart here."),
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
    """Measure the loader alone, and the training step on ready clips and on the loader's; name the bottleneck."""
    from res3d_video.tools.bench.command import bench  # torch is slow to import: --help does not wait for it

    bench(**options)


if __name__ == "__main__":
    main()
