"""What several tests of the benchmarks use."""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import LoaderSettings
from res3d_video.tools.bench.measure import Order
from res3d_video.tools.bench.peers import PeerConfig
from res3d_video.tools.bench.run import Settings
from res3d_video.train.models import ModelConfig


def peer_config(index: ShardIndex, files: Path, *, num_workers: int = 2, **changes: object) -> PeerConfig:
    """Batches of eight clips on a CPU, in two rounds of two; `changes` are those of `Settings`."""
    settings = Settings(
        data=index.data_dir, samples=np.arange(index.num_samples), clip=ClipSpec(), batch_size=8,
        model=ModelConfig("res3d10", 2), loader=LoaderSettings(num_threads=1), device=torch.device("cpu"),
        order=Order(2, None), repeats=2,
    )  # fmt: skip
    return PeerConfig(replace(settings, **changes), files, num_workers)  # type: ignore[arg-type]


class Clock:
    """Stands in for `time`; it passes in `sleep` alone, while the process works on so many cores, a number a sleep."""

    def __init__(self, cores: Iterable[float] = itertools.repeat(0.0)) -> None:
        self.cores, self.now_s, self.cpu_s = iter(cores), 0.0, 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.cpu_s += seconds * next(self.cores)

    def monotonic(self) -> float:
        return self.now_s

    perf_counter = monotonic
