#!/usr/bin/env python3
"""Score a checkpoint on videos: clip@1, video@1, video@5, every class."""

import os
import sys
from pathlib import Path

if not __package__:  # started by path: look in the checkout, not in tools/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from train.stopping import end_at_ctrl_c

end_at_ctrl_c(__name__)

# Threads that wait must sleep: spinning ones take the cores from decoding, and on two busy cores training falls to a
# tenth of its speed (docs/decisions/0004-threads-that-wait-sleep.md). Read by OpenMP when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import click
import numpy as np

from pipeline.index import ShardIndex
from tools.scoring import check_classes, score, write_json
from train.bounds import BATCH, CLIPS, THREADS
from train.checkpoint import load_checkpoint
from train.config import from_dict
from train.data_options import DATA, Data, remote_options
from train.evaluation.confusion import class_table
from train.ranks import from_torchrun
from train.report import accuracy_lines
from train.terminal import QUIET, Command, OutputFile, wrong_usage

EPILOG = """\b
Examples:
  python tools/evaluate.py --checkpoint runs/tiny/latest.pt --data shards/ucf101
  torchrun --nproc-per-node 8 tools/evaluate.py --checkpoint runs/s1m/latest.pt --data shards/sports1m
\b
The network, the clips and the split are those of the checkpoint. clip@1 is of one centre clip; video@1 and
video@5 of the softmax averaged over --clips evenly spaced ones. Accuracies in the JSON file are 0 to 1.
"""


@click.command(cls=Command, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="A .pt file of a run.")
@click.option("--data", required=True, type=DATA, help="Shards: a folder, or a URL like s3://bucket/shards.")
@click.option("--split", help="Split of the dataset.  [default: the one trained on]")
@click.option("--subset", default="test", type=click.Choice(["test", "train"]), help="Side of the split.")
@click.option("--clips", default=10, type=CLIPS, help="Clips a video.")
@click.option("--batch-size", type=BATCH, help="GLOBAL: clips at a time.  [default: 16 a process]")
@click.option("--num-threads", default=2, type=THREADS, help="Decoding threads a process.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@remote_options
@QUIET
@click.option("--json", "json_path", type=OutputFile(), help="Write predictions here.")
def main(
    *,
    checkpoint: Path,
    data: Data,
    split: str | None,
    subset: str,
    clips: int,
    batch_size: int | None,
    num_threads: int,
    device: str,
    quiet: bool,
    json_path: Path | None,
) -> None:
    """Score a checkpoint on videos: clip@1, video@1, video@5, every class."""
    ranks = from_torchrun(device)
    index = data.open()
    state = load_checkpoint(checkpoint)
    config = from_dict(state["config"])
    split = split or config.split
    check_classes(state["classes"], index, checkpoint=checkpoint)
    samples = samples_to_score(index, split=split, subset=subset)
    scores = score(
        state,
        config,
        index,
        samples,
        clips=clips,
        batch_size=batch_size,
        num_threads=num_threads,
        ranks=ranks,
        quiet=quiet,
    )
    if not ranks.is_main:
        return
    if json_path is not None:
        about = {"checkpoint": str(checkpoint), "step": state["step"], "data": index.name, "split": split}
        write_json(json_path, scores, about=about | {"subset": subset})
    click.echo(f"{checkpoint} (step {state['step']}) on {index.name}, split {split}, {subset}")
    for line in accuracy_lines(scores) + class_table(scores.classes, scores.confusion):
        click.echo(line)
    if json_path is not None:
        click.echo(f"predictions {json_path}")


def samples_to_score(index: ShardIndex, *, split: str, subset: str) -> np.ndarray:
    """Rows of one side of a split; a split that does not exist is wrong usage."""
    with wrong_usage():
        return index.samples_of(split, subset)


if __name__ == "__main__":
    main()
