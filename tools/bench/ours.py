"""Our loader as it is measured beside others: endless clips of a plan, and what reading them costs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pipeline.decoding import num_pipelines
from pipeline.loader import MEAN, ClipLoader, LoaderSettings
from pipeline.plan import TrainPlan
from pipeline.step_reader import ReadWork, StepReader

NAMES = {"filmstrip": "filmstrips", "h264": "h264"}  # codec of the shards -> what our lane is called


@contextmanager
def loader_clips(
    plan: TrainPlan, *, device: str | torch.device, settings: LoaderSettings
) -> Iterator[Iterator[Tensor]]:
    """The loader's batches of clips [N, 3, T, H, W], the mean subtracted, without end."""
    with ClipLoader(plan.index, plan, device=device, settings=settings, mean=MEAN) as loader:
        yield (batch.clips for batch in loader)


def loader_cost(plan: TrainPlan, *, on_gpu: bool, steps: range) -> ReadWork:
    """What the loader reads and decodes for some steps, all ranks together; tiles of strips count as frames."""
    reader = StepReader(plan.index, plan, rows=slice(0, plan.global_batch_size), whole_strips=on_gpu)
    return sum((reader.read(step).work for step in steps), ReadWork())


def warmup_batches(settings: LoaderSettings, *, codec: str, on_gpu: bool) -> int:
    """More than wait ready when a turn begins: handed over, in the thread's hand, in DALI's queues, one more.

    >>> [warmup_batches(LoaderSettings(prefetch=2, queue_depth=3), codec=c, on_gpu=True) for c in ("filmstrip", "h264")]
    [7, 25]
    """
    pipelines = num_pipelines(settings, codec=codec, on_gpu=on_gpu)
    return settings.prefetch + settings.queue_depth * pipelines + 2
