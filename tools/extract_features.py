#!/usr/bin/env python3
"""Features of videos: layers of a checkpoint's network, averaged over each video's clips, as Parquet."""

import os
import sys
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

# Threads that wait must sleep (docs/decisions/0004-threads-that-wait-sleep.md). Read by OpenMP when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import click

from res3d_video.train.data_options import DATA, Data, remote_options
from res3d_video.train.evaluation.features import DTYPES, load_features
from res3d_video.train.terminal import BATCH, CLIPS, QUIET, THREADS, Command, OutputFile

FEATURES_OUT = OutputFile(".parquet", is_folder=True)
EPILOG = """\b
Examples:
  python tools/extract_features.py --checkpoint runs/s1m/latest.pt --data shards/ucf101 --out features/ucf101.parquet
  torchrun --nproc-per-node 8 tools/extract_features.py --checkpoint runs/s1m/latest.pt --data shards/ucf101 \\
    --layers pool5 --per-clip --dtype float16 --out features/ucf101-clips.parquet

\b
Layers: res2a … res5b (blocks), res2 … res5 (last block of a stage), pool5, prob; of C3D conv1a … conv5b, pool1 …
pool5, fc6, fc7, prob. The network and the clips are those of the checkpoint; its classes may differ from the dataset's.
--out is a folder of Parquet files for pandas and DuckDB, with columns key, source, group, label, class, subset,
num_clips, start, and a list of numbers per layer. After a kill, the same command continues and keeps finished parts.
The files are the same for any number of processes.
"""


@click.command(
    cls=Command,
    go_on="run the same command again: finished parts are kept",
    context_settings={"max_content_width": 110, "show_default": True},
    epilog=EPILOG,
)
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="A .pt file of a run.")
@click.option("--data", required=True, type=DATA, help="Shards: a folder, or a URL like s3://bucket/shards.")
@click.option("--out", required=True, type=FEATURES_OUT, help="Folder to write, .parquet.")
@click.option("--layers", help="Layers, such as res5b,pool5.  [default: res5b,pool5; of C3D fc6]")
@click.option("--clips", default=10, type=CLIPS, help="Clips per video, evenly spaced, center crop.")
@click.option("--per-clip", is_flag=True, help="Write a row per clip instead of the mean of each video.")
@click.option("--dtype", default="float32", type=click.Choice(DTYPES), help="Type of the features in the files.")
@click.option("--batch-size", default=16, type=BATCH, help="Clips at a time, per process.")
@click.option("--num-threads", default=2, type=THREADS, help="Decoding threads per process.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@remote_options
@QUIET
def main(
    *,
    checkpoint: Path,
    data: Data,
    out: Path,
    layers: str | None,
    clips: int,
    per_clip: bool,
    dtype: str,
    batch_size: int,
    num_threads: int,
    device: str,
    quiet: bool,
) -> None:
    """Features of videos: layers of a checkpoint's network, averaged over each video's clips, as Parquet."""
    from res3d_video.train.checkpoint import load_checkpoint  # these load torch: help does not wait for it
    from res3d_video.train.evaluation.extraction import Extraction
    from res3d_video.train.ranks import from_torchrun

    ranks, index, state = from_torchrun(device), data.open(), load_checkpoint(checkpoint)
    if layers is None:  # what the papers report
        layers = "fc6" if state["config"]["model"]["name"] == "c3d" else "res5b,pool5"
    extraction = Extraction(
        state,
        index,
        layers=[name for name in layers.split(",") if name],
        num_clips=clips,
        per_clip=per_clip,
        dtype=dtype,
        out=out,
        device=ranks.device,
    )
    made = extraction.make(ranks, batch_size=batch_size, num_threads=num_threads, quiet=quiet)
    if not ranks.is_main:
        return
    if not made:
        click.echo(f"features {out} is there already, made in the same way")
        return
    rows = load_features(out, [])
    click.echo(f"features {out}: {len(rows)} rows of {index.name}, one a {'clip' if per_clip else 'video'}")
    if len(rows.unreadable):
        click.echo(
            f"note: {len(rows.unreadable)} videos could not be decoded and are left out; run tools/check_shards.py"
        )


if __name__ == "__main__":
    main()
