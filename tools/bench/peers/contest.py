"""What the ways of one benchmark read, and our own way: planned clips out of filmstrips."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.clip import ClipSpec
from pipeline.loader import MEAN, ClipLoader, LoaderSettings
from pipeline.plan import TrainPlan
from pipeline.shard import ShardIndex, open_index
from pipeline.step_reader import ReadWork, StepReader

OURS = "filmstrips"


@dataclass(frozen=True)
class Contest:
    """What every way reads; ways that follow the plan deliver the same clips in the same order.

    Attributes:
        samples: int64 [n], rows of the index.
        device: Where the clips are wanted: "cpu", or a CUDA device.
        loader: How our loader works.
        copies: Folder of the H.264 copies, for the peers.
        num_workers: Threads or processes of a peer.
    """

    data_dir: Path
    samples: np.ndarray
    spec: ClipSpec
    batch_size: int
    seed: int
    device: str
    loader: LoaderSettings
    copies: Path
    num_workers: int

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def plan(self) -> TrainPlan:
        """Random starts, crops and flips, without end."""
        index = open_index(self.data_dir)
        return TrainPlan(index, self.samples, self.spec, global_batch_size=self.batch_size, seed=self.seed)

    def batch_shape(self) -> tuple[int, ...]:
        """[N, T, H, W, 3]."""
        size = self.spec.crop_size
        return self.batch_size, self.spec.num_frames, size, size, 3

    def picture_size(self, index: ShardIndex) -> tuple[int, int]:
        """Height and width, pixels, of a whole picture, resized as the plan says."""
        scale = content_scale(self.spec, index)
        return round(index.tile_size[0] * scale), round(index.tile_size[1] * scale)


def content_scale(spec: ClipSpec, index: ShardIndex) -> float:
    """Pixels of a resized frame to one of a stored frame."""
    return 1.0 if spec.resize is None else spec.resize / index.size


@contextmanager
def filmstrips(contest: Contest) -> Iterator[Iterator[Tensor]]:
    """Our loader: batches [N, 3, T, H, W] without end."""
    plan = contest.plan()
    with ClipLoader(plan.index, plan, device=contest.device, settings=contest.loader, mean=MEAN) as loader:
        yield (batch.clips for batch in loader)


def filmstrip_cost(contest: Contest, steps: range) -> ReadWork:
    """What our loader reads and decodes for some steps, tiles counted as frames."""
    plan = contest.plan()
    reader = StepReader(plan.index, plan, rows=slice(0, contest.batch_size), whole_strips=contest.on_gpu)
    return sum((reader.read(step).work for step in steps), ReadWork())
