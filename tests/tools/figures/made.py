"""Run folders and checkpoints made on the spot, and what a PNG shows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from res3d_video.train.checkpoint import save_checkpoint
from res3d_video.train.config import TrainConfig, override, to_dict
from res3d_video.train.models import build_model


def write_run(
    folder: Path,
    *,
    losses: dict[int, float | None],
    accuracies: dict[int, float] | None = None,
    data: str = "demo",
    **options: Any,
) -> Path:
    """config.json and metrics.jsonl: step -> loss, step -> clip@1; `options` are those of `override`."""
    folder.mkdir(parents=True)
    config = override(TrainConfig(), **options)
    (folder / "config.json").write_text(json.dumps({"config": to_dict(config), "data": {"name": data}}))
    lines = [{"event": "train", "step": step, "loss": loss, "lr": 0.01} for step, loss in losses.items()]
    tested = [{"event": "eval", "step": s, "clip_at_1": a, "chance": 0.25} for s, a in (accuracies or {}).items()]
    lines = sorted(lines + tested, key=lambda line: line["step"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_checkpoint(path: Path, *, model: str, width: int = 4, weight: torch.Tensor | None = None) -> Path:
    """A checkpoint of a fresh narrow network; `weight` takes the place of conv1's."""
    num_frames = {"num_frames": 1} if model.startswith("res2d") else {"num_frames": 16} if model == "c3d" else {}
    config = override(TrainConfig(), model=model, width=width, **num_frames)
    weights = build_model(config.model, num_classes=3).state_dict()
    if weight is not None:
        weights["stem.conv.weight"].copy_(weight)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        path,
        {
            "step": 1_500,
            "best_accuracy": 0.5,
            "model": weights,
            "optimizer": {},
            "loader": {},
            "rng": torch.get_rng_state(),
            "config": to_dict(config),
            "data": {"name": "demo", "fingerprint": "0"},
            "classes": ["a", "b", "c"],
        },
    )
    return path


def pixels_of(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] of a picture."""
    return np.asarray(Image.open(path).convert("RGB"))
