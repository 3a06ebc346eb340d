#!/usr/bin/env python3
"""Copy a dataset of shards between any two places: folders, s3://, gs://, and from https://."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click

from res3d_video.pipeline.remote_store import public_url
from res3d_video.pipeline.sync import SyncResult, sync_dataset
from res3d_video.train.data_options import DATA, REMOTE_TIMEOUT, to_stderr
from res3d_video.train.terminal import QUIET, Command, print_json, progress

EPILOG = """\b
Examples:
  python tools/sync_shards.py shards/ucf101 s3://bucket/shards/ucf101
  python tools/sync_shards.py s3://bucket/shards/ucf101 /scratch/ucf101
  python tools/sync_shards.py gs://one/ucf101 s3://other/ucf101 --json

\b
dataset.json is written last, so nobody reads an incomplete dataset. After a kill, the same command continues; it skips
files that are there already, as checksums.json says. Credentials and endpoints come from the environment:
AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on, GOOGLE_APPLICATION_CREDENTIALS.
"""


@click.command(
    cls=Command,
    go_on="run the same command again: copied files are kept",
    context_settings={"max_content_width": 110, "show_default": True},
    epilog=EPILOG,
)
@click.argument("source", type=DATA)
@click.argument("destination")
@click.option("--workers", default=4, type=click.IntRange(1, 256), help="Files to copy at a time.")
@click.option("--remote-timeout", "timeout_s", default=180.0, type=REMOTE_TIMEOUT,
              help="Seconds that a server may not answer, or be too slow.")  # fmt: skip
@QUIET
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def main(*, source: Path | str, destination: str, quiet: bool, as_json: bool, **options: Any) -> None:
    """Copy the dataset SOURCE to DESTINATION, each a folder or a URL, and check it by its checksums."""
    result = copy(source, destination, quiet=quiet, **options)
    if as_json:
        print_json({"source": public_url(str(source)), "destination": public_url(destination)} | asdict(result))
    else:
        size_mb = result.num_bytes_copied / 1e6
        click.echo(f"{result.num_copied} files copied, {size_mb:.1f} MB; {result.num_kept} were there")


def copy(source: Path | str, destination: str, *, quiet: bool, **options: Any) -> SyncResult:
    """`sync_dataset` as a command shows it."""
    with progress(f"{public_url(str(source))} -> {public_url(destination)}", unit="files", quiet=quiet) as tell:
        return sync_dataset(source, destination, say=to_stderr, report=tell, **options)


if __name__ == "__main__":
    main()
