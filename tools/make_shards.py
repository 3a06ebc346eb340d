#!/usr/bin/env python3
"""Transcode a dataset of videos into WebDataset shards for the loader."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click
import numpy as np
from click.core import ParameterSource

from res3d_video.pipeline.convert.plan import OWN_SETTINGS, BuildSettings
from res3d_video.pipeline.convert.run import BuildProgress, BuildResult, TaskResult
from res3d_video.pipeline.datasets import DATASETS, DatasetError, Listing
from res3d_video.pipeline.errors import UserError, os_errors_of_the_user
from res3d_video.pipeline.index import CODECS, SUBSETS, ShardIndex, choices, open_index
from res3d_video.pipeline.remote_store import is_url, public_url
from res3d_video.pipeline.sync import staging_folder
from res3d_video.tools.machine_options import (
    LIMITS,
    MACHINES,
    limit_options,
    machine_options,
    take_limits,
    take_machines,
)
from res3d_video.tools.sync_shards import copy
from res3d_video.train.terminal import QUIET, Failed, Group, WrongUsage, print_json, progress

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


EPILOG = """\b
Examples:
  python tools/make_shards.py ucf101                          # data/ucf101 -> shards/ucf101
  python tools/make_shards.py hmdb51 --raw /data/hmdb51 --workers 16
  python tools/make_shards.py folder --raw my_videos --out shards/mine --test-fraction 0.2
  python tools/make_shards.py sports1m --codec h264           # pieces of 2 s: five to train on, ten to test
  python tools/make_shards.py ucf101 --codec h264 --out shards/ucf101-h264   # a quarter of the bytes
  python tools/make_shards.py sports1m --task 3/16            # the third of 16 tasks that share a folder
  python tools/make_shards.py sports1m --executor ray         # on the machines of a Ray cluster
\b
With --out s3://bucket/prefix or gs://… the dataset is built in --staging and then copied, dataset.json last.
A build that was interrupted goes on when the same command is run again; a finished one is left as it is.
Videos that cannot be read do not stop it: they are listed in quarantine.jsonl with a reason. manifest.jsonl of
sports1m says of every listed video whether it is there, and what became of it.
"""


@click.group(cls=Group, context_settings=WIDE, epilog=EPILOG)
def main() -> None:
    """Transcode a dataset of videos into WebDataset shards for the loader."""


@main.command(**COMMAND)
@shard_options
def ucf101(**options: Any) -> None:
    """UCF101: videos in RAW/UCF-101/<Class>/, official lists in RAW/ucfTrainTestlist/."""
    run("ucf101", **options)


@main.command(**COMMAND)
@shard_options
def hmdb51(**options: Any) -> None:
    """HMDB51: videos in RAW/<class>/, official lists in RAW/testTrainMulti_7030_splits/."""
    run("hmdb51", **options)


@main.command(**COMMAND)
@shard_options
@click.option(
    "--segment-s", type=float, default=2.0, show_default=True, help="Seconds of a segment; frames by the video's rate."
)
@click.option("--train-segments", default=BuildSettings.train_segments, show_default=True, help="Drawn at random.")
@click.option("--test-segments", default=BuildSettings.test_segments, show_default=True, help="Evenly spaced.")
def sports1m(**options: Any) -> None:
    """Sports-1M: RAW/videos/<YouTube id>.*, RAW/labels.txt, RAW/original/{train,test}_partition.txt."""
    run("sports1m", **options)


@main.command(**COMMAND)
@shard_options
@click.option("--name", help="Name of the dataset.  [default: the raw folder's]")
@click.option("--split-file", type=click.Path(path_type=Path), help="CSV: path,subset or path,split1,split2,…")
@click.option("--test-fraction", type=float, help="Of the groups, held out for testing.  [default: 0.2]")
@click.option("--split-seed", default=0, show_default=True, help="Of the drawn test groups.")
@click.option("--group-pattern", help="Regular expression on the file name; its first group names the video's group.")
@click.option("--test-groups", help="Groups to hold out, with commas between them, instead of a fraction.")
def folder(
    *,
    name: str | None,
    split_file: Path | None,
    test_fraction: float | None,
    split_seed: int,
    group_pattern: str | None,
    test_groups: str | None,
    **options: Any,
) -> None:
    """Any folder: videos in RAW/<class>/, split by a CSV or by drawn groups; or in RAW/{train,val,test}/<class>/."""
    run(
        "folder",
        **options,
        listing_options={
            "name": name,
            "split_file": split_file,
            "test_fraction": test_fraction,
            "seed": split_seed,
            "group_pattern": group_pattern,
            "test_groups": tuple(filter(None, (test_groups or "").split(","))),
        },
    )


def run(
    dataset: str,
    *,
    raw: Path | None,
    out: str | None,
    staging: Path | None,
    workers: int,
    limit: int | None,
    split: str | None,
    quiet: bool,
    as_json: bool,
    keep_aspect: bool | None,
    listing_options: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    """List, build, say what came of it."""
    refuse_options_of_other_codecs(settings["codec"])
    source = raw or Path("data") / dataset
    settings["keep_aspect"] = dataset == "folder" if keep_aspect is None else keep_aspect
    try:
        with os_errors_of_the_user(source, way_out="make it readable, or move it elsewhere"):
            listing = only_split(DATASETS[dataset](source, **(listing_options or {})), split)
        limits, machines = take_limits(settings), take_machines(settings)
        build_settings = BuildSettings(**settings)
    except UserError as error:
        elsewhere = "" if raw or os.path.isdir(source) else ", or name your folder with --raw"
        raise WrongUsage(f"{error}{elsewhere}") from None
    if not listing.records:
        raise WrongUsage(f"{source}: split {split} has no video that is there; choose another")
    url = out if out is not None and is_url(out) else None
    if url is not None and machines.are_shared:
        raise click.UsageError(
            f"--out: {public_url(url)} is no folder that tasks can share; copy it with sync_shards.py at the end"
        )
    folder = Path(out or Path("shards") / listing.name) if url is None else staging or staging_folder(url)
    if not quiet:
        for warning in listing.warnings:
            click.echo(f"warning: {warning}", err=True)
    started = time.monotonic()
    try:
        with progress(f"{listing.name} -> {folder}", unit="videos", quiet=quiet) as tell:

            def report(p: BuildProgress) -> None:
                note = progress_note(p, passed_s=time.monotonic() - started)
                tell(p.num_done, p.num_total, note, failed=p.num_failed)

            result = machines.build(
                listing, folder, build_settings, workers=workers, limit=limit, limits=limits, report=report
            )
    except OSError as error:
        where = error.filename or folder
        raise Failed(
            f"{where}: {error.strerror or error}; make room, or make it writable, and run the same command again: "
            "finished shards are kept"
        ) from None
    whole = result.whole if isinstance(result, TaskResult) else result
    index = open_index(folder) if whole and whole.num_samples and not quiet else None
    warnings = [*side_warnings(index), *shape_warnings(index)] if index else []
    if url is not None and whole and whole.num_samples:
        copy(folder, url, quiet=quiet)
    if as_json:
        print_json(asdict(result) | {"out": public_url(url or str(folder))})
    else:
        if isinstance(result, TaskResult):
            click.echo(task_line(result, folder))
        else:
            click.echo(written_line(result))
        for line in whole_lines(whole, folder, out=public_url(url or str(folder))) if whole else []:
            click.echo(line)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if whole and not whole.num_samples:
        raise Failed(f"{folder}: not one video could be read; see {folder / 'quarantine.jsonl'}")


def refuse_options_of_other_codecs(codec: str) -> None:
    """An option that was typed and would not matter is a mistake; one left at its default is not."""
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        owner = next((owner for owner, names in OWN_SETTINGS.items() if name in names - {"codec"}), codec)
        if owner != codec and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} is of --codec {owner}, not of {codec}; leave it out")


def only_split(listing: Listing, split: str | None) -> Listing:
    """The listing with just the videos that one split uses."""
    if split is None:
        return listing
    if split not in listing.split_names:
        raise DatasetError(f"{listing.name}: split {split} does not exist; choose {choices(listing.split_names)}")
    column = listing.split_names.index(split)
    return replace(
        listing,
        split_names=[split],
        records=[replace(r, subsets=(r.subsets[column],)) for r in listing.records if r.subsets[column]],
    )


MAX_REASONS = 5  # of failures that are told apart
LARGE = 3  # times the median picture: a tile that is mostly empty; wide and high videos together have less than 2


def progress_note(progress: BuildProgress, *, passed_s: float) -> str:
    """What stands beside the count of videos.

    >>> progress_note(BuildProgress(10, 90, 500, 1, num_shards=2, num_shards_total=30), passed_s=10)
    '50 frames/s, 2 of 30 shards'
    """
    if progress.stage == "probe":
        return "reading sizes"
    rate = progress.num_frames / max(passed_s, 1e-9)
    return f"{rate:,.0f} frames/s, {progress.num_shards} of {progress.num_shards_total} shards"


def written_line(result: BuildResult | TaskResult) -> str:
    """What a run did.

    >>> written_line(TaskResult(3, 1, 7, 9))
    '3 shards written, 1 kept as they were'
    """
    return f"{result.num_shards_written} shards written, {result.num_shards_kept} kept as they were"


def task_line(result: TaskResult, folder: Path) -> str:
    """What one of several tasks did.

    >>> task_line(TaskResult(3, 1, 7, 9), Path("shards/a"))
    '3 shards written, 1 kept as they were; 7 of 9 are there: shards/a'
    """
    return f"{written_line(result)}; {result.num_shards_there} of {result.num_shards} are there: {folder}"


def whole_lines(result: BuildResult, folder: Path, *, out: str) -> list[str]:
    """What a whole dataset is.

    Args:
        out: Where it lies in the end.
    """
    info = json.loads((folder / "dataset.json").read_bytes())
    num_bytes = sum(shard["num_bytes"] for shard in info["shards"])
    lines = [
        f"{result.num_samples} samples in {len(info['shards'])} shards, {num_bytes / 1e6:.1f} MB, "
        f"{num_bytes / max(info['num_frames'], 1) / 1e3:.1f} kB a frame: {out}",
    ]
    lines += [
        f"split {name}: {counts['train']} train, {counts['test']} test" for name, counts in info["splits"].items()
    ]
    if result.videos:
        counts = ", ".join(f"{count} {state}" for state, count in result.videos.items())
        lines.append(f"listed videos: {counts}; see {folder / 'manifest.jsonl'}")
    elif result.num_quarantined or result.num_missing:
        absent = f", {result.num_missing} are named in the lists but absent" if result.num_missing else ""
        lines.append(f"{result.num_quarantined} videos failed{absent}: see {folder / 'quarantine.jsonl'}")
    return lines + list(failure_lines(result.failures))


def failure_lines(failures: dict[str, int]) -> Iterator[str]:
    """Why videos failed, and how many for each reason.

    >>> list(failure_lines({"is empty": 5, "no frame can be decoded": 2}))
    ['  5 failed: is empty', '  2 failed: no frame can be decoded']
    """
    for reason, count in list(failures.items())[:MAX_REASONS]:
        yield f"  {count} failed: {reason}"
    rest = list(failures.values())[MAX_REASONS:]
    if rest:
        yield f"  {sum(rest)} failed for {len(rest)} other reasons"


def side_warnings(index: ShardIndex) -> Iterator[str]:
    """One line for each split and side in which some class that is stored has no video."""
    present = np.unique(index.labels)
    for position, split in enumerate(index.split_names):
        for side, value in SUBSETS.items():
            absent = np.setdiff1d(present, index.labels[index.subsets[:, position] == value])
            if len(absent) == len(present):
                yield f"split {split}: no {side} video"
            elif len(absent):
                first = index.classes[absent[0]]
                yield f"split {split}: {len(absent)} of {len(present)} classes have no {side} video, first {first!r}"


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
