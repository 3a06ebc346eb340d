#!/usr/bin/env python3
"""Score a checkpoint on videos: clip@1, video@1, video@5, every class."""

import os
import sys
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

# Threads that wait must sleep: spinning ones take the cores from decoding, and on two busy cores training falls to a
# tenth of its speed (docs/decisions/0004-threads-that-wait-sleep.md). Read by OpenMP when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


import click

from res3d_video.train.data_options import DATA, Data, remote_options
from res3d_video.train.evaluation import class_table, precision_rows
from res3d_video.train.terminal import (
    BATCH,
    CLIPS,
    QUIET,
    THREADS,
    Command,
    OutputFile,
    save_json,
    text_table,
)

EPILOG = """\b
Examples:
  python tools/evaluate.py --checkpoint runs/tiny/latest.pt --data shards/ucf101
  torchrun --nproc-per-node 8 tools/evaluate.py --checkpoint runs/s1m/latest.pt --data shards/sports1m

\b
The network, the clips and the split are those of the checkpoint. clip@1 is the accuracy of one center clip; video@1
and video@5 are of the softmax averaged over --clips evenly spaced clips. --clips 10 --crops 3 scores 30 views per
video, three crops of each clip. Accuracies in the JSON file are 0 to 1.
"""


@click.command(cls=Command, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="A .pt file of a run.")
@click.option("--data", required=True, type=DATA, help="Shards: a folder, or a URL like s3://bucket/shards.")
@click.option("--split", help="Split of the dataset.  [default: the one trained on]")
@click.option("--subset", default="test", type=click.Choice(["test", "val", "train"]), help="Side of the split.")
@click.option("--clips", default=10, type=CLIPS, help="Clips per video.")
@click.option("--crops", type=click.IntRange(1, 100), default=1, help="Crops per clip, along the longer side.")
@click.option("--batch-size", type=BATCH, help="GLOBAL: clips at a time.  [default: 16 per process]")
@click.option("--num-threads", default=2, type=THREADS, help="Decoding threads per process.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@remote_options
@QUIET
@click.option("--json", "json_path", type=OutputFile(), help="Write scores and predictions here.")
def main(
    *,
    checkpoint: Path,
    data: Data,
    split: str | None,
    subset: str,
    clips: int,
    crops: int,
    batch_size: int | None,
    num_threads: int,
    device: str,
    quiet: bool,
    json_path: Path | None,
) -> None:
    """Score a checkpoint on videos: clip@1, video@1, video@5, every class."""
    from res3d_video.train.evaluation.video_level import score_checkpoint  # these load torch: help does not wait for it
    from res3d_video.train.ranks import from_torchrun
    from res3d_video.train.run_folder import accuracy_lines

    ranks, index = from_torchrun(device), data.open()
    scores, found = score_checkpoint(
        checkpoint, index, ranks=ranks, split=split, subset=subset, num_clips=clips, num_crops=crops,
        num_threads=num_threads, batch_size=batch_size, quiet=quiet,
    )  # fmt: skip
    if not ranks.is_main:
        return
    if json_path is not None:
        save_json(json_path, found)
    click.echo(f"{checkpoint} (step {found['step']}) on {index.name}, split {found['split']}, {subset}")
    classes = class_table(scores.classes, scores.confusion)
    if scores.class_ap is not None:  # of several labels
        rows = precision_rows(scores.class_ap, found["predictions"])
        classes = ["", *text_table(["class", "videos", "AP"], [[name, str(n), f"{ap:.1%}"] for name, n, ap in rows])]
    for line in accuracy_lines(scores) + classes:
        click.echo(line)
    if json_path is not None:
        click.echo(f"predictions {json_path}")


if __name__ == "__main__":
    main()
