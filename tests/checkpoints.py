"""Small checkpoints, whole in every field."""

from typing import Any

import torch

from res3d_video.train.config import TrainConfig, override, to_dict
from res3d_video.train.models import build_model
from res3d_video.train.step import build_optimizer

CONFIG = override(TrainConfig(), model="c3d", width=1, num_frames=16, global_batch_size=4, steps=50)


def tiny_state(step: int = 1, **changes: Any) -> dict[str, Any]:
    """What `save_checkpoint` takes of C3D of width 1, which has few tensors; `changes` are fields."""
    model = build_model(CONFIG.model, num_classes=3)
    optimizer = build_optimizer(model, CONFIG.optim, fused=False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    batch = CONFIG.global_batch_size
    return {
        "step": step,
        "best_accuracy": 0.5,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "loader": {"position": step * batch, "global_batch_size": batch, "plan": "train demo"},
        "rng": torch.get_rng_state(),
        "config": to_dict(CONFIG),
        "data": {"name": "demo", "fingerprint": "0" * 16},
        "classes": ["a", "b", "c"],
    } | changes
