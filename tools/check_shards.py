#!/usr/bin/env python3
"""Verify a folder of shards: checksums, index, counts and, with --decode, every picture."""

import sys
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click

from res3d_video.pipeline.verify import verify
from res3d_video.train.data_options import DATA, Data, remote_options
from res3d_video.train.terminal import QUIET, Command, print_json, progress

EPILOG = """\b
Examples:
  python tools/check_shards.py shards/ucf101
  python tools/check_shards.py shards/ucf101 --decode --json
  python tools/check_shards.py s3://bucket/shards/ucf101     # downloads all of it, once

\b
Exit code 0: whole. 1: damaged, with a line for each fault. 2: wrong usage.
"""


@click.command(cls=Command, epilog=EPILOG)
@click.argument("data", type=DATA)
@click.option("--decode", is_flag=True, help="Also decode every frame; takes longer.")
@remote_options
@QUIET
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def main(*, data: Data, decode: bool, quiet: bool, as_json: bool) -> None:
    """Verify the shards in DATA: checksums, index against tars, class and split counts, H.264 headers and packets."""
    with progress(f"checking {data}", unit="shards", quiet=quiet) as tell:
        index, faults = verify(data.open(), decode=decode, report=tell)
    if as_json:
        print_json({"data": str(data), "num_samples": index.num_samples, "faults": faults})
    else:
        for fault in faults:
            click.echo(fault)
        for split in index.split_names:
            click.echo(f"split {split}: {index.sides_line(split)}")
        present = sum(count > 0 for count in index.info["class_counts"].values())
        click.echo(
            f"{index.num_samples} samples of {present} classes in {len(index.tars)} shards: "
            + (f"{len(faults)} faults" if faults else "whole")
        )
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
