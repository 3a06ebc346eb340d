#!/usr/bin/env python3
"""Transcode a dataset of videos into WebDataset shards for the loader."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click
import numpy as np
from click.core import ParameterSource

from res3d_video.pipeline.convert.plan import OWN_SETTINGS, BuildSettings
from res3d_video.pipeline.convert.run import BuildResult, build_shards, make_on_ray
from res3d_video.pipeline.datasets import DATASETS
from res3d_video.pipeline.errors import UserError, os_errors_of_the_user
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.ingest.limits import Limits
from res3d_video.pipeline.remote_store import RemoteStore, is_url
from res3d_video.train.data_options import to_stderr
from res3d_video.train.terminal import (
    QUIET,
    Failed,
    Group,
    WrongUsage,
    field_options,
    print_json,
    progress,
    with_options,
)

MAX_REASONS = 5  # of failures that are told apart
LARGE = 3  # times the median picture: a tile that is mostly empty; wide and high videos together have less than 2
LIMITS = [field.name for field in fields(Limits)]
STRETCHED = ("ucf101", "hmdb51", "sports1m")  # as the paper does
SEGMENTS = ["segment_s", "train_segments", "test_segments"]
SETTINGS = [field.name for field in fields(BuildSettings) if field.name not in SEGMENTS]
WIDE = {"max_content_width": 110}
COMMAND: dict[str, Any] = {
    "context_settings": WIDE,
    "go_on": "run the same command again: finished shards are kept",
    "headings": {
        "Videos": ["raw", "table", "name", "limit", "append"],
        "Sides": ["test_fraction", "val_fraction", "group_pattern", "test_groups", "split_file", "split_seed"],
        "Segments": SEGMENTS,
        "Shards": ["out", "codec", "size", "quality", "gop_size", "crf", "fps", "drop_odd", "keep_aspect"],
        "Run": ["workers", "quiet", "as_json"],
    },
    "rare": {
        "More of the shards": ["samples_per_shard", "seed"],
        "Machines": ["ray", "task"],
        "Limits of a video": LIMITS,
    },
}


TEST_FRACTION = click.option("--test-fraction", type=float, help="Of the groups, held out for testing.  [default: 0.2]")
VAL_FRACTION = click.option(
    "--val-fraction",
    type=float,
    default=0.0,
    help="Of the other groups, for a validation side, which best.pt is chosen on.",
)
SPLIT_SEED = click.option("--split-seed", default=0, show_default=True, help="Of the drawn groups.")


def task_number(context: click.Context, option: click.Parameter, task: str | None) -> tuple[int, int] | None:
    """Number of a task, 1-based, and how many there are, of I/N."""
    if task is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", task, re.ASCII)
    if not found:
        raise WrongUsage(f"--task must be I/N, such as 1/8 for the first of eight, got {task!r}")
    number, count = map(int, found.groups())
    if not 1 <= number <= count:
        raise WrongUsage(f"--task: {task} does not exist; choose 1/{count} to {count}/{count}")
    return number, count


# fmt: off
shard_options = with_options(
    click.option("--raw", type=click.Path(path_type=Path), help="Folder of raw videos.  [default: data/NAME]"),
    click.option("--out", help="For the shards: a folder or a URL.  [default: shards/NAME]"),
    click.option("--workers", type=click.IntRange(min=1, max=1024), default=len(os.sched_getaffinity(0)),
                 show_default="all cores", help="Videos in work at once."),
    click.option("--limit", type=click.IntRange(min=1, max=10**9), help="Take only this many videos, for a try-out."),
    *field_options(BuildSettings, SETTINGS, keep_aspect=None),
    click.option("--ray", metavar="ADDRESS", help="Work on a Ray cluster: auto finds one on this machine; host:port, "
                 "or local for a new one."),
    click.option("--task", metavar="I/N", callback=task_number, help="Make only every N-th shard, from the I-th; the "
                 "last task writes the index."),
    click.option("--append", is_flag=True, help="Add videos that a finished dataset lacks as new shards; its own stay "
                 "as they are."),
    *field_options(Limits),
    QUIET,
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."),
)
# fmt: on

EPILOG = """\b
Examples:
  python tools/make_shards.py ucf101                          # data/ucf101 -> shards/ucf101
  python tools/make_shards.py hmdb51 --raw /data/hmdb51 --workers 16
  python tools/make_shards.py folder --raw my_videos --out shards/mine --test-fraction 0.2
  python tools/make_shards.py table --csv clips.csv --out shards/clips   # pieces of long videos, several labels, …
  python tools/make_shards.py sports1m --codec h264           # pieces of 2 s: five to train on, ten to test
  python tools/make_shards.py ucf101 --codec h264 --out shards/ucf101-h264   # a quarter of the bytes
  python tools/make_shards.py sports1m --task 3/16            # the third of 16 tasks that share a folder
  python tools/make_shards.py sports1m --ray auto             # on the machines of a Ray cluster

\b
With --out s3://bucket/prefix or gs://… each shard is uploaded when it is made; so are those of --task and --ray.
A build that was interrupted goes on when the same command is run again; a finished one is left as it is.
Videos that cannot be read do not stop it: they are listed in quarantine.jsonl with a reason. manifest.jsonl of
sports1m says of every listed video whether it is there, and what became of it.
"""


@click.group(cls=Group, context_settings=WIDE, epilog=EPILOG)
def main() -> None:
    """Transcode a dataset of videos into WebDataset shards for the loader."""


@main.command(**COMMAND)
@shard_options
@with_options(*field_options(BuildSettings, SEGMENTS, segment_s=2.0))
def sports1m(**options: Any) -> None:
    """Sports-1M: RAW/videos/<YouTube id>.*, RAW/labels.txt, RAW/original/{train,test}_partition.txt."""
    run("sports1m", **options)


@main.command(**COMMAND)
@shard_options
@click.option("--name", help="Name of the dataset.  [default: the raw folder's]")
@click.option("--split-file", type=click.Path(path_type=Path), help="CSV: path,subset or path,split1,split2,…")
@TEST_FRACTION
@VAL_FRACTION
@SPLIT_SEED
@click.option("--group-pattern", help="Regular expression on the file name; its first group names the video's group.")
@click.option("--test-groups", default="", help="Groups to hold out, with commas between them, instead of a fraction.")
def folder(*, split_seed: int, test_groups: str, **options: Any) -> None:
    """Any folder: videos in RAW/<class>/, split by a CSV or by drawn groups; or in RAW/{train,val,test}/<class>/."""
    names = ("name", "split_file", "test_fraction", "val_fraction", "group_pattern")
    listing = {name: options.pop(name) for name in names}
    groups = tuple(filter(None, test_groups.split(",")))
    run("folder", **options, listing_options={**listing, "seed": split_seed, "test_groups": groups})


@main.command(**COMMAND)
@shard_options
@click.option("--csv", "table", type=click.Path(path_type=Path), required=True, help="The table.")
@click.option("--name", help="Name of the dataset.  [default: the table's]")
@TEST_FRACTION
@VAL_FRACTION
@SPLIT_SEED
def table(*, table: Path, raw: Path | None, split_seed: int, **options: Any) -> None:
    """A table of videos or pieces of them: path, label or labels, start_s, end_s, subset, group, key.

    start_frame and end_frame instead of seconds are possible, split1, split2, … instead of subset, and labels with ;
    between. Paths are relative to RAW, by default the table's folder. Without subset, groups are drawn.
    """
    listing = {name: options.pop(name) for name in ("name", "test_fraction", "val_fraction")}
    run("table", raw=raw or table.parent, **options, listing_options={**listing, "table": table, "seed": split_seed})


def run(
    dataset: str,
    *,
    raw: Path | None,
    out: str | None,
    workers: int,
    limit: int | None,
    quiet: bool,
    as_json: bool,
    keep_aspect: bool | None,
    ray: str | None,
    task: tuple[int, int] | None,
    append: bool,
    listing_options: dict[str, Any] | None = None,
    **others: Any,
) -> None:
    """List, build, say what came of it."""
    refuse_options_of_other_codecs(others["codec"])
    if task is not None and ray is not None:
        raise WrongUsage("--task and --ray do not go together; leave one out")
    if append and (task is not None or limit is not None):
        raise WrongUsage("--append does not go together with --task or --limit; leave them out")
    source = raw or Path("data") / dataset
    try:
        with os_errors_of_the_user(source, way_out="make it readable, or move it elsewhere"):
            listing = DATASETS[dataset](source, **(listing_options or {}))
        limits = Limits(**{name: others.pop(name) for name in LIMITS})
        settings = BuildSettings(**others, keep_aspect=dataset not in STRETCHED if keep_aspect is None else keep_aspect)
    except UserError as error:
        elsewhere = "" if raw or os.path.isdir(source) else ", or name your folder with --raw"
        raise WrongUsage(f"{error}{elsewhere}") from None
    out = out or f"shards/{listing.name}"
    store = RemoteStore(out, say=to_stderr) if is_url(out) and not out.startswith("file://") else None
    shown = store.shown if store is not None else str(Path(out.removeprefix("file://")))
    if not quiet:
        for warning in listing.warnings:
            click.echo(f"warning: {warning}", err=True)
    try:
        scratch = nullcontext(shown) if store is None else tempfile.TemporaryDirectory(prefix="res3d-build-")
        with scratch as folder:
            with progress(f"{listing.name} -> {shown}", unit="videos", quiet=quiet) as tell:
                result = build_shards(
                    listing,
                    Path(folder),
                    settings,
                    workers=workers,
                    limit=limit,
                    limits=limits,
                    report=tell,
                    task=task,
                    append=append,
                    make=partial(make_on_ray, address=ray) if ray is not None else None,
                    store=store,
                )
            index = open_index(Path(folder)) if result.is_whole else None
    except OSError as error:
        where = error.filename or (shown if store is None else tempfile.gettempdir())
        raise Failed(
            f"{where}: {error.strerror or error}; make room, or make it writable, and run the same command again: "
            "finished shards are kept"
        ) from None
    if as_json:
        print_json(asdict(result) | {"out": shown})
    else:
        for line in report_lines(result, index, out=shown):
            click.echo(line)
    if index is not None and result.num_samples and not quiet:
        for warning in shape_warnings(index):
            click.echo(f"warning: {warning}", err=True)
    if result.is_whole and not result.num_samples:
        raise Failed(f"{shown}: none of the videos could be read; see {shown}/quarantine.jsonl")


OFFICIAL = {  # datasets without options of their own -> what their raw folder holds
    "ucf101": "UCF101: videos in RAW/UCF-101/<Class>/, official lists in RAW/ucfTrainTestlist/.",
    "hmdb51": "HMDB51: videos in RAW/<class>/, official lists in RAW/testTrainMulti_7030_splits/.",
    "kinetics": "Kinetics-400, -600, -700: lists RAW/*train*.csv, …; videos <id>_<start>_<end>.* or <id>.* anywhere "
    "below RAW.",
    "ssv2": "Something-Something V2: labels.json, train.json, validation.json and <id>.webm anywhere below RAW.",
    "diving48": "Diving48: Diving48_vocab.json, Diving48_V2_{train,test}.json and <vid_name>.mp4 anywhere below RAW.",
}
for name, text in OFFICIAL.items():
    main.command(name, help=text, **COMMAND)(shard_options(partial(run, name)))


def refuse_options_of_other_codecs(codec: str) -> None:
    """An option that was typed and would not matter is a mistake; one left at its default is not."""
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        owner = next((owner for owner, names in OWN_SETTINGS.items() if name in names - {"codec"}), codec)
        if owner != codec and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} is only for --codec {owner}; leave it out")


def report_lines(result: BuildResult, index: ShardIndex | None, *, out: str) -> Iterator[str]:
    """What a run did and, if all is there, what there is, as its index says.

    Args:
        out: Where it lies.
    """
    done = f"{result.num_shards_written} shards written, {result.num_shards_kept} kept as they were"
    if index is None:
        yield f"{done}; {result.num_shards_there} of {result.num_shards} are there: {out}"
        return
    yield done
    info = index.info
    num_bytes = sum(shard["num_bytes"] for shard in info["shards"])
    yield (
        f"{result.num_samples} samples in {len(info['shards'])} shards, {num_bytes / 1e6:.1f} MB, "
        f"{num_bytes / max(info['num_frames'], 1) / 1e3:.1f} kB a frame: {out}"
    )
    for split in index.split_names:
        yield f"split {split}: {index.sides_line(split)}"
    if result.videos:
        states = ", ".join(f"{count} {state}" for state, count in result.videos.items())
        yield f"listed videos: {states}; see {out}/manifest.jsonl"
    elif result.num_quarantined or result.num_missing:
        absent = f", {result.num_missing} are named in the lists but absent" if result.num_missing else ""
        yield f"{result.num_quarantined} videos failed{absent}: see {out}/quarantine.jsonl"
    for reason, count in islice(result.failures.items(), MAX_REASONS):
        yield f"  {count} failed: {reason}"


def shape_warnings(index: ShardIndex) -> Iterator[str]:
    """A line if a few pictures make the tiles of all too large."""
    (height, width), sizes = index.tile_size, index.content[:, 2:].astype(int)
    typical = np.median(sizes[:, 0] * sizes[:, 1])
    if height * width > LARGE * typical:
        name = index.source(int(sizes.max(axis=1).argmax()))
        yield (
            f"every frame takes {width}×{height} pixels, of which most fill {typical / (height * width):.0%}: {name} "
            "has the longest picture; move such videos away, or take --no-keep-aspect"
        )


if __name__ == "__main__":
    main()
