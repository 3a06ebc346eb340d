"""Run folders written by hand: a log whose numbers a reader can check, and an evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.train.config import TrainConfig, override, to_dict
from res3d_video.train.evaluation import accuracies_by_name, confusion_matrix


def train_line(step: int, *, seconds: float = 2.0, wait_s: float = 0.0, clips: int = 20, **others: Any) -> dict:
    """A line of training that stands for so many seconds and clips."""
    speed = {"clips_per_s": clips / seconds, "data_wait_s": wait_s, "data_wait": wait_s / seconds}
    return {"event": "train", "step": step, "loss": 4.0 / step, "lr": 0.01} | speed | others


def scored_line(event: str, step: int, clip_at_1: float, **others: Any) -> dict:
    """An evaluation."""
    return {"event": event, "step": step, "clip_at_1": clip_at_1, "chance": 0.25} | others


def write_run(
    folder: Path, lines: Sequence[dict], *, data: str = "demo", about: dict | None = None, **options: Any
) -> Path:
    """config.json and metrics.jsonl; `options` are those of `override`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = override(TrainConfig(), **options)
    written = {"preset": "ucf101-search", "config": to_dict(config), "data": {"name": data, "fingerprint": "0"}}
    written |= {"world_size": 1, "device": "cpu"} | (about or {})
    (folder / "config.json").write_text(json.dumps(written))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_scores(
    folder: Path, classes: Sequence[str], videos: Sequence[tuple[str, str, str, float]], **about: Any
) -> Path:
    """scores.json of videos: key, class, predicted class and its probability; what is left is the class's."""
    place = {name: k for k, name in enumerate(classes)}
    labels, predicted = [place[video[1]] for video in videos], [place[video[2]] for video in videos]
    confusion = confusion_matrix(np.array(labels), np.array(predicted), num_classes=len(classes))
    predictions = [
        {"key": key, "source": f"{label}/{key}.avi", "label": label, "predicted": guess,
         "top5": {guess: probability} | ({label: round(1 - probability, 6)} if label != guess else {}),
         "num_clips": 10, "num_clips_right": 10 if label == guess else 0}
        for key, label, guess, probability in videos
    ]  # fmt: skip
    found = {"step": 40, "data": "demo", "subset": "test", "class_accuracy": accuracies_by_name(classes, confusion)}
    found |= {"confusion": confusion.tolist(), "predictions": predictions} | about
    (folder / "scores.json").write_text(json.dumps(found))
    return folder / "scores.json"
