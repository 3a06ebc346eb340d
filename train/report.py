"""What a run leaves for people: config.json at its start, the last lines and the JSON result at its end."""

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from res3d_video import pipeline
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import LoaderSettings
from res3d_video.pipeline.shard_writer import write_atomically
from res3d_video.train.checkpoint import data_identity
from res3d_video.train.config import TrainConfig, to_dict
from res3d_video.train.evaluation.video_level import VideoScores
from res3d_video.train.metrics import Damaged, Tally
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepOptions

MOST_NAMED = 5  # damaged samples in a line


def write_config(
    path: Path,
    config: TrainConfig,
    *,
    preset: str,
    index: ShardIndex,
    ranks: Ranks,
    loader: LoaderSettings,
    step: StepOptions,
) -> None:
    """config.json: what the run was asked to do, how, and with what."""
    on_gpu = ranks.device.type == "cuda"
    about = {
        "preset": preset,
        "config": to_dict(config),
        "data": data_identity(index) | {"classes": index.classes, "folder": str(index.data_dir.absolute())},
        "world_size": ranks.world_size,
        "device": torch.cuda.get_device_name(ranks.device) if on_gpu else "cpu",
        "loader": asdict(loader),
        "step": asdict(step),
        "versions": {
            "res3d-video": pipeline.__version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
        },
    }
    write_atomically(path, (json.dumps(about, indent=2) + "\n").encode())


def accuracy_lines(scores: VideoScores) -> list[str]:
    """Accuracies with the chance level beside them, aligned."""
    views, num_videos = scores.clips_per_video, len(scores.videos)
    lines = [
        f"clip@1      {scores.clip_at_1:6.1%}   one centre clip; chance is {scores.chance:.1%}",
        f"video@1     {scores.video_at_1:6.1%}   {views} clips each of {num_videos} videos",
    ]
    if scores.video_at_5 is not None:
        lines.append(f"video@5     {scores.video_at_5:6.1%}")
    if scores.unreadable:
        lines.append(f"unreadable  {len(scores.unreadable)} samples, left out: {named(scores.unreadable)}")
    return lines


def named(damaged: Damaged) -> str:
    """Some damaged samples, for a line.

    >>> named({"000012": {"tar": "a.tar", "reason": "it does not decode"}})
    '000012 of a.tar (it does not decode); tools/check_shards.py finds all damage'
    """
    some = [f"{key} of {about['tar']} ({about['reason']})" for key, about in list(damaged.items())[:MOST_NAMED]]
    more = [f"{len(damaged) - MOST_NAMED} more"] if len(damaged) > MOST_NAMED else []
    return f"{', '.join(some + more)}; tools/check_shards.py finds all damage"


def last_lines(out: Path, scores: VideoScores | None, *, step: int, steps: int, tally: Tally) -> list[str]:
    """How a run ended and where its files are; `scores` is None when a signal stopped it."""
    stopped = f"stopped by a signal at step {step} of {steps} and saved; the same command goes on from there"
    replaced = f"damaged     {len(tally.damaged)} samples, {tally.num_replaced} clips replaced: {named(tally.damaged)}"
    return [
        *(accuracy_lines(scores) if scores is not None else [stopped]),
        *([replaced] if tally.num_replaced else []),
        f"checkpoint  {out / 'latest.pt'}",
        f"logs        {out / 'metrics.jsonl'}, tensorboard --logdir {out / 'tensorboard'}",
    ]


def result(out: Path, scores: VideoScores | None, *, step: int, best_accuracy: float, tally: Tally) -> dict[str, Any]:
    """What --json prints."""
    return {
        "out": str(out),
        "checkpoint": str(out / "latest.pt"),
        "step": step,
        "finished": scores is not None,
        "best_clip_at_1": best_accuracy if best_accuracy >= 0 else None,
        "num_replaced": tally.num_replaced,
        "damaged": [{"key": key, **about} for key, about in tally.damaged.items()],
        **(scores.summary() if scores is not None else {}),
    }
