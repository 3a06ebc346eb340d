"""The three lanes of the benchmark in one process: loader alone, synthetic step, real step; and one round of each."""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch

from res3d_video.pipeline.loader import Batch, ClipLoader, LoaderSettings
from res3d_video.pipeline.reader import ReadWork
from res3d_video.tools.bench.machine import GpuMeter, bytes_from_disk, seconds_by_group, thread_seconds
from res3d_video.tools.bench.measure import Measurement, Order, ProcessTree, measure, settle
from res3d_video.train.metrics import OutcomeQueue
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepLoss, TrainStep

LOADER, SYNTHETIC, REAL = "loader alone", "synthetic step", "real step"
NUM_INPUTS = 3  # batches that the synthetic step repeats; with one, its clips would stay in caches
LR = 1e-3
SYNTHETIC_WARMUP = 2  # steps; this lane has no full queues to empty first


@dataclass(frozen=True)
class Round(Measurement):
    """One lane in one round.

    Attributes:
        repeat: Number of the round, 0-based.
        data_wait_s: How long the host waited for batches.
        plan_steps: Steps of the plan that were taken, as a half-open range; None if the lane takes none.
        work: What was read for the batches.
        disk_bytes: Bytes that came from the disk; None if unknown.
        thread_s: Group of threads -> CPU seconds.
        gpu: Means of NVML's readings; empty on a CPU.
        total_clips: Clips that all lanes took until the end of this round.
        own_bytes: Memory of the process at the end, without files and shared memory.
    """

    lane: str
    repeat: int
    data_wait_s: float
    plan_steps: tuple[int, int] | None
    work: ReadWork
    disk_bytes: int | None
    thread_s: dict[str, float]
    gpu: dict[str, float]
    total_clips: int
    own_bytes: int


class Lanes:
    """The lanes to measure. While a lane without the loader is measured, the loader is idle, with full queues.

    Args:
        open_loader: Makes a loader; called again by `reopen_loader`.
        step: The training step; None if there is only the loader alone.
        codec: Codec of the loader's shards.
        meter: Reads the GPU, if there is one.
    """

    def __init__(
        self,
        open_loader: Callable[[], ClipLoader],
        step: TrainStep | None,
        *,
        ranks: Ranks,
        codec: str = "filmstrip",
        meter: GpuMeter | None = None,
    ) -> None:
        self._open_loader, self.step = open_loader, step
        self._inputs: list[Batch] = []  # real clips, because tensor cores are slower on noise
        self._device, self._codec, self.meter = ranks.device, codec, meter
        self._outcomes = OutcomeQueue(ranks)
        self.loader = open_loader()
        self._batches: Iterator[Batch] = iter(self.loader)
        self._taken: list[int] = []  # steps of the plan, in this round
        self._num_steps = self._total_clips = 0  # of all rounds, warm-up included
        self.run: dict[str, Callable[[], int]] = {LOADER: self.take_batch}
        if step is not None:
            self.run |= {SYNTHETIC: self.synthetic_step, REAL: self.real_step}

    def take_batch(self) -> int:
        """Take a batch of the loader; returns its number of clips, as the two steps below."""
        return len(self._next_batch().labels)

    def synthetic_step(self) -> int:
        """A training step on one of the batches that are kept; the first call takes them from the loader."""
        inputs = self._kept()
        return self._train(inputs[self._num_steps % len(inputs)])

    def real_step(self) -> int:
        """A training step on the loader's next batch."""
        return self._train(self._next_batch())

    def losses(self, num_steps: int) -> list[float]:
        """Losses of training steps on the batches that are kept."""
        kept = self._kept()
        return [self._update(kept[number % NUM_INPUTS]).loss.item() for number in range(num_steps)]  # syncs

    def finish(self) -> None:
        """Wait until all work so far is done, also on the GPU."""
        self._outcomes.drain()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def stream(self) -> AbstractContextManager:
        """Make the step's CUDA stream the current one, as the trainer does."""
        return nullcontext() if self.step is None else self.step.on_stream()

    def reopen_loader(self) -> None:
        """Replace the loader by a new one that continues where it was, and that has no shard mapped yet."""
        self.finish()
        state = self.loader.state_dict()
        self.loader.close()
        self.loader = self._open_loader()
        self.loader.load_state_dict(state)
        self._batches = iter(self.loader)
        gc.collect()  # the old loader, and with it its mappings

    def close(self) -> None:
        """Stop the loader."""
        self.loader.close()

    def measure(self, lane: str, order: Order, *, repeat: int = 0) -> Round:
        """One round of a lane: wait until nothing else runs, take the batches that are ready, then measure."""
        self.finish()
        settle()
        self.finish()  # the loader may have queued work on the GPU until then
        ready = warmup_batches(self.loader.settings, codec=self._codec, on_gpu=self._device.type == "cuda")
        run = self.run[lane]
        with self.stream():
            for _ in range(SYNTHETIC_WARMUP if lane == SYNTHETIC else ready):
                self._total_clips += run()
            self.finish()
            self._taken.clear()
            work, waited, disk, threads = self.loader.work, self.loader.data_wait_s, bytes_from_disk(), thread_seconds()
            watch: AbstractContextManager[dict[str, float]] = self.meter.watch() if self.meter else nullcontext({})
            with watch as gpu:
                cost = measure(run, order, finish=self.finish)
            thread_s, disk_now = seconds_by_group(threads, thread_seconds()), bytes_from_disk()
        self._total_clips += cost.num_clips
        return Round(
            **vars(cost),
            lane=lane,
            repeat=repeat,
            data_wait_s=self.loader.data_wait_s - waited,
            plan_steps=(self._taken[0], self._taken[-1] + 1) if self._taken else None,
            work=self.loader.work - work,
            disk_bytes=None if disk is None or disk_now is None else disk_now - disk,
            thread_s=thread_s,
            gpu=gpu,
            total_clips=self._total_clips,
            own_bytes=ProcessTree().own_bytes(),
        )

    def _kept(self) -> list[Batch]:
        """The batches for the synthetic step."""
        while len(self._inputs) < NUM_INPUTS:
            batch = next(self._batches)
            self._inputs.append(replace(batch, clips=batch.clips.clone()))  # copy: the loader reuses its memory
        return self._inputs

    def _next_batch(self) -> Batch:
        batch = next(self._batches)
        self._taken.append(batch.step)
        return batch

    def _train(self, batch: Batch) -> int:
        """One step; passes its loss on as the trainer does, so that the host waits at the same places."""
        share = self._update(batch)
        self._num_steps += 1
        self._outcomes.push(self._num_steps, batch, loss=share.loss, losses=share.losses, stop=False)
        return len(batch.labels)

    def _update(self, batch: Batch) -> StepLoss:
        assert self.step is not None
        return self.step(batch.clips, batch.labels, batch.weights, num_real_global=batch.num_real_global, lr=LR)


def warmup_batches(settings: LoaderSettings, *, codec: str, on_gpu: bool) -> int:
    """One batch more than can be ready when a round begins: prefetched, in the thread, and in DALI's queues.

    >>> [warmup_batches(LoaderSettings(prefetch=2, queue_depth=3), codec=c, on_gpu=True) for c in ("filmstrip", "h264")]
    [7, 10]
    """
    return settings.prefetch + settings.queue_depth * settings.pipelines(codec=codec, on_gpu=on_gpu) + 2
