#!/usr/bin/env python3
"""Score a checkpoint on videos: clip@1, video@1, video@5, every class."""

import os
import sys
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

from res3d_video.train.stopping import end_at_ctrl_c

end_at_ctrl_c(__name__)

# Threads that wait must sleep: spinning ones take the cores from decoding, and on two busy cores training falls to a
# tenth of its speed (docs/decisions/0004-threads-that-wait-sleep.md). Read by OpenMP when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


import click
import numpy as np
import torch

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import LoaderSettings
from res3d_video.train.checkpoint import load_checkpoint
from res3d_video.train.config import from_dict
from res3d_video.train.data_options import DATA, Data, remote_options
from res3d_video.train.evaluation.confusion import SCORES, accuracies_by_name, class_table
from res3d_video.train.evaluation.video_level import VideoScores, evaluate
from res3d_video.train.models import build_model
from res3d_video.train.ranks import Ranks, from_torchrun, process_group
from res3d_video.train.run_folder import accuracy_lines
from res3d_video.train.step import channels_last
from res3d_video.train.terminal import (
    BATCH,
    CLIPS,
    QUIET,
    THREADS,
    Command,
    OutputFile,
    progress,
    save_json,
    wrong_usage,
)

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
    index, state = data.open(), load_checkpoint(checkpoint)
    check_classes(state["classes"], index, checkpoint=checkpoint)
    split = split or from_dict(state["config"]).split
    with wrong_usage():
        samples = index.samples_of(split, subset)
    scores = score(
        state, index, samples, clips=clips, num_threads=num_threads, ranks=ranks, quiet=quiet, batch_size=batch_size
    )
    if not ranks.is_main:
        return
    if json_path is not None:
        about = {"checkpoint": str(checkpoint), "step": state["step"], "data": index.name, "split": split}
        save_json(json_path, about | {"subset": subset} | everything(scores))
    click.echo(f"{checkpoint} (step {state['step']}) on {index.name}, split {split}, {subset}")
    for line in accuracy_lines(scores) + class_table(scores.classes, scores.confusion):
        click.echo(line)
    if json_path is not None:
        click.echo(f"predictions {json_path}")


def score_run(folder: Path, index: ShardIndex, *, clips: int, num_threads: int, device: str, quiet: bool) -> None:
    """Score latest.pt of a run on the test side of its split, as tools/evaluate.py does; writes scores.json there.

    Args:
        device: "cpu", "cuda" or "auto".

    Raises:
        UserError: There is no checkpoint, it cannot be read, or the shards are of other classes or splits.
        OSError: The shards cannot be read, or nothing can be written.
    """
    checkpoint, ranks = folder / "latest.pt", from_torchrun(device)
    state = load_checkpoint(checkpoint)
    check_classes(state["classes"], index, checkpoint=checkpoint)
    split = from_dict(state["config"]).split
    samples = index.samples_of(split, "test")
    scores = score(state, index, samples, clips=clips, num_threads=num_threads, ranks=ranks, quiet=quiet)
    about = {"checkpoint": str(checkpoint), "step": state["step"], "data": index.name, "split": split}
    if ranks.is_main:
        save_json(folder / SCORES, about | {"subset": "test"} | everything(scores))


def check_classes(classes: list[str], index: ShardIndex, *, checkpoint: Path) -> None:
    """Refuse to score outputs that mean something else.

    Raises:
        UserError: The dataset's classes are not the checkpoint's, in the same order.
    """
    if classes != index.classes:
        raise UserError(
            f"{checkpoint}: trained on {len(classes)} classes ({', '.join(classes[:3])}, …), {index.name} "
            f"has {len(index.classes)} ({', '.join(index.classes[:3])}, …); choose shards of the same classes"
        )


def score(
    state: dict,
    index: ShardIndex,
    samples: np.ndarray,
    *,
    clips: int,
    num_threads: int,
    ranks: Ranks,
    quiet: bool,
    batch_size: int | None = None,
) -> VideoScores:
    """Build the checkpoint's network and score `samples` with it, all processes together.

    Args:
        samples: Rows of the index, int64 [S].
        batch_size: Clips of a batch of all processes; None is 16 each.
    """
    config = from_dict(state["config"])
    model = build_model(config.model, num_classes=len(index.classes))
    model.load_state_dict(state["model"])
    channels_last(model).to(ranks.device)
    quiet = quiet or not ranks.is_main
    with process_group(ranks), progress("evaluating", unit="clips", quiet=quiet) as tell:
        scores = evaluate(
            model,
            index,
            samples,
            config.clip,
            num_clips=clips,
            global_batch_size=batch_size or 16 * ranks.world_size,
            ranks=ranks,
            mean=config.mean,
            std=config.std,
            settings=LoaderSettings(num_threads=num_threads),
            on_batch=tell,
        )
    assert scores is not None  # nothing interrupts it
    return scores


def everything(scores: VideoScores) -> dict[str, Any]:
    """Of an evaluation: accuracies, classes, confusion matrix, a prediction for each video."""
    return {
        **scores.summary(),
        "class_accuracy": accuracies_by_name(scores.classes, scores.confusion),
        "confusion": scores.confusion.tolist(),  # row: class, column: predicted
        "predictions": scores.predictions(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
