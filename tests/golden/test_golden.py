"""What users get has not changed: digests of shards, of the first batches, and losses of a short run.

`python -m pytest tests/golden --write-golden` writes golden.json anew, for a change that is meant.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import Batch, ClipLoader
from res3d_video.pipeline.plan import EvalPlan
from res3d_video.train.config import OptimConfig
from res3d_video.train.models import ModelConfig, build_model
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepOptions, TrainStep, build_optimizer
from tests.clips import take, train_plan

GOLDEN = Path(__file__).with_name("golden.json")
PACKAGES = ("av", "simplejpeg", "nvidia-dali-cuda130", "numpy", "torch")
VERSIONS = {package: version(package) for package in PACKAGES}


def digest(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def of_batches(batches: Iterable[Batch]) -> str:
    return digest(
        np.ascontiguousarray(part).tobytes()
        for batch in batches
        for part in (batch.clips.numpy(), batch.labels.numpy(), batch.weights.numpy(), batch.samples, batch.starts)
    )


def train_batches(index: ShardIndex) -> str:
    with ClipLoader(index, train_plan(index)) as loader:
        return of_batches(take(loader, 50))


def train_batches_of_two_ranks(index: ShardIndex) -> str:
    loaders = [ClipLoader(index, train_plan(index), rank=rank, world_size=2) for rank in range(2)]
    with loaders[0], loaders[1]:
        return of_batches(
            batch for pair in zip(*(take(loader, 50) for loader in loaders), strict=True) for batch in pair
        )


def eval_batches(index: ShardIndex) -> str:
    plan = EvalPlan(index, np.arange(len(index.num_frames)), ClipSpec(), global_batch_size=12, num_views=3)
    with ClipLoader(index, plan) as loader:
        return of_batches(loader)


def losses(index: ShardIndex) -> list[float]:
    """Of 20 steps of a narrow network; two decimals, as processors round differently."""
    torch.manual_seed(0)
    model = build_model(ModelConfig("res3d10", width=8), num_classes=2)
    step = TrainStep(
        model,
        build_optimizer(model, OptimConfig(), fused=False),
        ranks=Ranks(),
        options=StepOptions(),
    )
    with ClipLoader(index, train_plan(index, global_batch_size=4)) as loader:
        found = [
            step(batch.clips, batch.labels, batch.weights, num_real_global=4, lr=0.001).loss
            for batch in take(loader, 20)
        ]
    return [round(float(loss), 2) for loss in found]


MADE: dict[str, Callable[[ShardIndex], Any]] = {
    "tars": lambda index: digest((index.data_dir / tar).read_bytes() for tar in index.tars),
    "index": lambda index: digest(path.read_bytes() for path in sorted((index.data_dir / "index").glob("*.npy"))),
    "training, 50 batches": train_batches,
    "training, 50 batches, two ranks": train_batches_of_two_ranks,
    "evaluation": eval_batches,
    "losses": losses,
}


@pytest.mark.parametrize("what", MADE)
def test_what_users_get_is_what_it_was(shards: ShardIndex, what: str, request: pytest.FixtureRequest) -> None:
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    made, codec = MADE[what](shards), shards.codec
    if request.config.getoption("--write-golden"):
        golden["versions"] = VERSIONS
        golden.setdefault(codec, {})[what] = made
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    elif golden["versions"] != VERSIONS:
        pytest.skip(f"written with {golden['versions']}, here are {VERSIONS}")
    elif what == "losses":
        assert np.allclose(made, golden[codec][what], atol=0.03)
    else:
        assert made == golden[codec][what]
