"""Checkpoints made on the spot."""

from pathlib import Path

import torch

from res3d_video.train.checkpoint import save_checkpoint
from res3d_video.train.config import TrainConfig, override, to_dict
from res3d_video.train.models import build_model


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
