"""What the ways of one benchmark read, and our own way: planned clips out of shards."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.clip import ClipSpec
from pipeline.loader import LoaderSettings
from pipeline.plan import TrainPlan
from pipeline.shard import ShardIndex, open_index
from pipeline.step_reader import ReadWork
from tools.bench.ours import loader_clips, loader_cost, warmup_batches


@dataclass(frozen=True)
class Contest:
    """What every way reads; ways that follow the plan deliver the same clips in the same order.

    Attributes:
        samples: int64 [n], rows of the index.
        device: Where the clips are wanted: "cpu", or a CUDA device.
        loader: How our loader works.
        copies: Folder of the H.264 files, for the peers.
        num_workers: Threads or processes of a peer.
        start_step: Clips begin at multiples of so many stored frames.
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
    start_step: int = 1

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def plan(self) -> TrainPlan:
        """Random starts, crops and flips, without end."""
        index = open_index(self.data_dir)
        return TrainPlan(
            index,
            self.samples,
            self.spec,
            global_batch_size=self.batch_size,
            seed=self.seed,
            start_step=self.start_step,
        )

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
    return spec.scale(index.size)


@contextmanager
def our_loader(contest: Contest) -> Iterator[Iterator[Tensor]]:
    """Our loader: batches [N, 3, T, H, W] without end."""
    with loader_clips(contest.plan(), device=contest.device, settings=contest.loader) as batches:
        yield batches


def our_cost(contest: Contest, steps: range) -> ReadWork:
    """What our loader reads and decodes for some steps."""
    return loader_cost(contest.plan(), on_gpu=contest.on_gpu, steps=steps)


def our_warmup(contest: Contest) -> int:
    """More batches than wait ready in our loader."""
    return warmup_batches(contest.loader, codec=open_index(contest.data_dir).codec, on_gpu=contest.on_gpu)
