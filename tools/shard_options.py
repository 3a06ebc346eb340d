"""The options that make_shards.py has for every dataset, and the order of its help."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.build.settings import BuildSettings
from pipeline.codecs import CODECS
from tools.limit_options import HELP as LIMITS
from tools.limit_options import limit_options
from tools.machine_options import NAMES as MACHINES
from tools.machine_options import machine_options
from train.terminal import QUIET

STAGING_HELP = "Of a URL: build here, then copy.  [default: in the user's cache folder]"

WIDE = {"max_content_width": 110}
COMMAND: dict[str, Any] = {
    "context_settings": WIDE,
    "go_on": "run the same command again: finished shards are kept",
    "headings": {
        "Videos": ["raw", "name", "split", "limit"],
        "Sides": ["test_fraction", "group_pattern", "test_groups", "split_file", "split_seed"],
        "Segments": ["segment_s", "train_segments", "test_segments"],
        "Shards": ["out", "codec", "size", "quality", "gop_size", "crf", "fps", "drop_odd", "keep_aspect"],
        "Run": ["workers", "quiet", "as_json"],
    },
    "rare": {
        "More of the shards": ["samples_per_shard", "seed", "staging"],
        "Machines": list(MACHINES),
        "Limits of a video": list(LIMITS),
    },
}


def shard_options(command: Callable) -> Callable:
    """The options that every dataset shares."""
    default = BuildSettings()
    # fmt: off
    options = [
        click.option("--raw", type=click.Path(path_type=Path), help="Folder of raw videos.  [default: data/NAME]"),
        click.option("--out", help="For the shards: a folder or a URL.  [default: shards/NAME]"),
        click.option("--staging", type=click.Path(file_okay=False, path_type=Path), help=STAGING_HELP),
        click.option("--workers", type=click.IntRange(min=1, max=1024), default=len(os.sched_getaffinity(0)),
                     show_default="all cores", help="Videos in work at once."),
        click.option("--limit", type=click.IntRange(min=1, max=10**9),
                     help="Take only this many videos, for a try-out."),
        click.option("--split", help="Store only the videos that this split uses.  [default: all]"),
        click.option("--size", default=default.size, show_default=True, help="Stored height: 64, 128, 256, …"),
        click.option("--codec", type=click.Choice(list(CODECS)), default=default.codec, show_default=True,
                     help="Eight frames a JPEG, fast to read, or H.264, small."),
        click.option("--quality", default=default.quality, show_default=True,
                     help="Of filmstrips: JPEG quality, 1 to 100."),
        click.option("--gop", "gop_size", default=default.gop_size, show_default=True,
                     help="Of H.264: frames from one keyframe to the next."),
        click.option("--crf", default=default.crf, show_default=True, help="Of H.264: x264's quality, 1 (best) to 51."),
        click.option("--drop-odd", is_flag=True, help="Store every second frame: half the bytes, even strides only."),
        click.option("--fps", type=float, help="Resample to this rate.  [default: the source's own frames]"),
        click.option("--keep-aspect/--no-keep-aspect", default=None, help="Short side = size, aspect ratio kept, "
                     "centred in one tile; or stretched to 4:3.  [default: kept by folder alone]"),
        click.option("--samples-per-shard", default=default.samples_per_shard, show_default=True),
        click.option("--seed", default=default.seed, show_default=True,
                     help="Of the order of videos, and of segments."),
        QUIET,
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."),
    ]
    # fmt: on
    command = machine_options(limit_options(command))
    for option in reversed(options):
        command = option(command)
    return command
