"""How a peer keeps all cores busy with a clip reader: threads of one process, or torch's DataLoader."""

import itertools
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.loader import MEAN
from tools.bench.peers.clip_readers import ClipReader
from tools.bench.peers.contest import Contest

BATCHES_AHEAD = 2  # of all threads together, and of each worker of a DataLoader: torch's default


@contextmanager
def in_threads(read: ClipReader, contest: Contest, *, decodes_on_gpu: bool = False) -> Iterator[Iterator[Tensor]]:
    """A clip a thread, two batches ahead. FFmpeg decodes and converts without the GIL.

    Args:
        decodes_on_gpu: The reader's clips are on the contest's device already.
    """
    plan, shape = contest.plan(), contest.batch_shape()

    def start(step: int) -> tuple[Tensor, list[Future[None]]]:
        clips = plan.batch(step)
        batch = torch.empty(
            shape,
            dtype=torch.uint8,
            device=contest.device if decodes_on_gpu else "cpu",
            pin_memory=contest.on_gpu and not decodes_on_gpu,
        )

        def fill(n: int) -> None:
            clip = read(contest, plan, clips, n)
            if decodes_on_gpu:
                batch[n].copy_(clip)
            else:
                batch[n].numpy()[:] = clip.numpy()  # torch would start threads of its own for it

        return batch, [pool.submit(fill, n) for n in range(len(clips))]

    def batches() -> Iterator[Tensor]:
        underway = [start(step) for step in range(BATCHES_AHEAD)]
        for step in itertools.count(BATCHES_AHEAD):
            batch, futures = underway.pop(0)
            for future in futures:
                future.result()
            underway.append(start(step))
            yield delivered(batch, contest)

    with ThreadPoolExecutor(contest.num_workers) as pool:
        yield batches()
        pool.shutdown(cancel_futures=True)


@contextmanager
def in_dataloader(read: ClipReader, contest: Contest) -> Iterator[Iterator[Tensor]]:
    """A batch a worker process; bytes cross over, for floats would take four times the memory."""
    steps = Steps()
    with batches_of(PlannedBatches(read, contest), contest, stop=steps.stop, sampler=steps) as batches:
        yield batches


@contextmanager
def batches_of(
    dataset: Dataset[Tensor], contest: Contest, *, stop: Callable[[], None], **options: Any
) -> Iterator[Iterator[Tensor]]:
    """torch's DataLoader over items that are whole batches, uint8 [N, T, H, W, 3].

    Args:
        stop: Makes the loader's iterator end soon.
        options: More of the DataLoader's.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than CPUs, on purpose
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=contest.num_workers,
            prefetch_factor=BATCHES_AHEAD,
            pin_memory=contest.on_gpu,
            **options,
        )
        received = iter(loader)
    try:
        yield (delivered(batch, contest) for batch in received)
    finally:
        stop()
        for _ in received:
            pass  # workers told to stop in the middle of a batch abort, so let them finish what they were given


class Steps(Sampler[int]):
    """0, 1, 2, … until stopped."""

    def __init__(self) -> None:
        self._stopped = False

    def stop(self) -> None:
        """The next number is not given out any more."""
        self._stopped = True

    def __iter__(self) -> Iterator[int]:
        return itertools.takewhile(lambda step: not self._stopped, itertools.count())


class PlannedBatches(Dataset[Tensor]):
    """Item `step` is a whole batch: uint8 [N, T, H, W, 3]."""

    def __init__(self, read: ClipReader, contest: Contest) -> None:
        self._read, self._contest, self._plan = read, contest, contest.plan()

    def __getitem__(self, step: int) -> Tensor:
        clips = self._plan.batch(step)
        return torch.stack([self._read(self._contest, self._plan, clips, n) for n in range(len(clips))])


def delivered(batch: Tensor, contest: Contest) -> Tensor:
    """A batch as a trainer takes it, the mean subtracted.

    Args:
        batch: uint8 [N, T, H, W, 3], pinned where the contest's device is a GPU, or on it.

    Returns:
        [N, 3, T, H, W], channels_last_3d, on the contest's device; float16 on a GPU, float32 on a CPU.
    """
    if contest.on_gpu:
        values = batch.to(contest.device, non_blocking=True).half().sub_(MEAN)
    else:  # one pass and one thread: torch's own threads would take the workers' cores while they wait
        values = torch.from_numpy(np.subtract(batch.numpy(), np.float32(MEAN), dtype=np.float32))
    return values.permute(0, 4, 1, 2, 3)
