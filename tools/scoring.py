"""What the commands that score checkpoints share: an evaluation, and the file that it becomes."""

from pathlib import Path

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.index import ShardIndex
from pipeline.loader import LoaderSettings
from train.checkpoint import load_checkpoint
from train.config import TrainConfig, from_dict
from train.evaluation.confusion import SCORES, accuracies_by_name
from train.evaluation.video_level import VideoScores, evaluate
from train.models import build_model
from train.precision import channels_last
from train.ranks import Ranks, from_torchrun, process_group
from train.terminal import progress, save_json


def score(
    state: dict,
    config: TrainConfig,
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
        batch_size: Clips of a batch of all processes; None is 16 each.
    """
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


def write_json(path: Path, scores: VideoScores, *, about: dict) -> None:
    """Everything about an evaluation: accuracies, classes, confusion matrix, a prediction for each video."""
    result = {
        **about,
        **scores.summary(),
        "class_accuracy": accuracies_by_name(scores.classes, scores.confusion),
        "confusion": scores.confusion.tolist(),  # row: class, column: predicted
        "predictions": scores.predictions(),
        "torch": torch.__version__,
    }
    save_json(path, result)


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
    config = from_dict(state["config"])
    check_classes(state["classes"], index, checkpoint=checkpoint)
    samples = index.samples_of(config.split, "test")
    scores = score(state, config, index, samples, clips=clips, num_threads=num_threads, ranks=ranks, quiet=quiet)
    about = {"checkpoint": str(checkpoint), "step": state["step"], "data": index.name, "split": config.split}
    if ranks.is_main:
        write_json(folder / SCORES, scores, about=about | {"subset": "test"})
