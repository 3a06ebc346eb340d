"""Loader alone, synthetic step and real step in one process: each can take turns, and says what a turn cost."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from statistics import median

import torch

from res3d_video.pipeline.frames import SimpleEngine
from res3d_video.pipeline.loader import Batch, ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.pipeline.reader import ReadWork, StepReader
from res3d_video.tools.bench.gpu import GpuMeter, GpuUse
from res3d_video.tools.bench.machine import bytes_from_disk, seconds_by_group, thread_seconds
from res3d_video.tools.bench.measure import Order, ProcessTree, Turn, enough, settle
from res3d_video.train.metrics import OutcomeQueue
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepLoss, TrainStep

LOADER, SYNTHETIC, REAL = "loader alone", "synthetic step", "real step"
NUM_INPUTS = 3  # batches that the synthetic step repeats, so that none finds its own in a cache
LR = 1e-3
SYNTHETIC_WARMUP = 2  # steps; nothing waits ready that would flatter it


class Lanes:
    """What takes turns. The loader stands still, its queues full, while it is not its turn.

    Args:
        open_loader: Makes the loader; called again by `reopen_loader`.
        step: The training step; None leaves only the loader alone.
        codec: Of the loader's shards.
        meter: Of the GPU, if there is one.
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
        self._inputs: list[Batch] = []  # the loader's own first ones: tensor cores are slower on noise than on pictures
        self._device, self._codec, self._meter = ranks.device, codec, meter
        self._outcomes = OutcomeQueue(ranks)
        self.loader = open_loader()
        self._batches: Iterator[Batch] = iter(self.loader)
        self._taken: list[int] = []  # steps of the plan, in this turn
        self._num_steps = self.num_clips = 0  # of all turns, warming up included
        self.run: dict[str, Callable[[], int]] = {LOADER: self.take_batch}
        if step is not None:
            self.run |= {SYNTHETIC: self.synthetic_step, REAL: self.real_step}

    @property
    def warmup_batches(self) -> int:
        """Of the lanes that read."""
        return warmup_batches(self.loader.settings, codec=self._codec, on_gpu=self._device.type == "cuda")

    def take_batch(self) -> int:
        """The loader alone: the number of clips of a batch."""
        return len(self._next_batch().labels)

    def synthetic_step(self) -> int:
        """A training step on some of the loader's batches, kept; the first call takes them."""
        inputs = self._kept()
        return self._train(inputs[self._num_steps % len(inputs)])

    def losses(self, num_steps: int) -> list[float]:
        """Loss of each of some steps on the batches kept."""
        kept = self._kept()
        return [self._update(kept[number % NUM_INPUTS]).loss.item() for number in range(num_steps)]  # syncs

    def real_step(self) -> int:
        """A training step on the loader's next batch."""
        return self._train(self._next_batch())

    def finish(self) -> None:
        """Wait until everything asked for so far is done."""
        self._outcomes.drain()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def stream(self) -> AbstractContextManager:
        """Makes the stream of the step the current one, as the trainer does."""
        return nullcontext() if self.step is None else self.step.on_stream()

    def reopen_loader(self) -> None:
        """A new loader that goes on where the old one was; it maps no shard before its first batch is asked for."""
        self.finish()
        state = self.loader.state_dict()
        self.loader.close()
        self.loader = self._open_loader()
        self.loader.load_state_dict(state)
        self._batches = iter(self.loader)
        gc.collect()  # the old one, and with it its mappings

    def close(self) -> None:
        """Stop the loader."""
        self.loader.close()

    def take_turn(self, lane: str, order: Order, *, repeat: int) -> Turn:
        """One turn: settle, warm up, measure."""
        self.finish()
        run, busy_before = self.run[lane], settle()
        self.finish()  # the loader may have queued work on the GPU until then
        with self.stream():
            for _ in range(order.warmup_batches if lane != SYNTHETIC else SYNTHETIC_WARMUP):
                self.num_clips += run()
            self.finish()
            return self._measure(lane, run, order, repeat=repeat, busy_before=busy_before)

    def _measure(self, lane: str, run: Callable[[], int], order: Order, *, repeat: int, busy_before: float) -> Turn:
        tree, clips_before = ProcessTree(), self.num_clips
        memory_before = tree.memory(self.num_clips)
        self._taken.clear()
        num_steps = 0
        with self._watch_gpu() as samples:
            work, waited, disk, threads = self.loader.work, self.loader.data_wait_s, bytes_from_disk(), thread_seconds()
            cpu, started = tree.cpu_s(), time.perf_counter()
            while True:
                self.num_clips += run()
                num_steps += 1
                if enough(order, num_steps, time.perf_counter() - started):
                    break
            self.finish()
            wall_s, cpu_s = time.perf_counter() - started, tree.cpu_s() - cpu
            thread_s = seconds_by_group(threads, thread_seconds())
        disk_now = bytes_from_disk()
        return Turn(
            lane=lane,
            repeat=repeat,
            num_steps=num_steps,
            num_clips=self.num_clips - clips_before,
            wall_s=wall_s,
            cpu_s=cpu_s,
            data_wait_s=self.loader.data_wait_s - waited,
            plan_steps=(self._taken[0], self._taken[-1] + 1) if self._taken else None,
            work=self.loader.work - work,
            disk_bytes=None if disk is None or disk_now is None else disk_now - disk,
            thread_s=thread_s,
            gpu=GpuUse.of(samples) if self._meter else None,
            memory=(memory_before, tree.memory(self.num_clips)),
            busy_before=busy_before,
        )

    def _kept(self) -> list[Batch]:
        """The first batches, taken when they are first asked for."""
        while len(self._inputs) < NUM_INPUTS:
            batch = next(self._batches)
            self._inputs.append(replace(batch, clips=batch.clips.clone()))  # copy: the loader's memory is lent
        return self._inputs

    def _watch_gpu(self) -> AbstractContextManager[list[dict[str, float]]]:
        return nullcontext([]) if self._meter is None else self._meter.watch()

    def _next_batch(self) -> Batch:
        batch = next(self._batches)
        self._taken.append(batch.step)
        return batch

    def _train(self, batch: Batch) -> int:
        """One step, its loss handed over as the trainer does, so that the host waits where the trainer's waits."""
        share = self._update(batch)
        self._num_steps += 1
        self._outcomes.push(self._num_steps, batch, loss=share.loss, losses=share.losses, stop=False)
        return len(batch.labels)

    def _update(self, batch: Batch) -> StepLoss:
        assert self.step is not None
        return self.step(batch.clips, batch.labels, batch.weights, num_real_global=batch.num_real_global, lr=LR)


PRODUCER_STEPS = 30
NAMES = {"filmstrip": "filmstrips", "h264": "h264"}  # codec of the shards -> what our lane is called


def loader_cost(plan: TrainPlan, *, steps: range) -> ReadWork:
    """What the loader reads and decodes for some steps, all ranks together."""
    reader = StepReader(plan.index, plan, rows=slice(0, plan.global_batch_size))
    return sum((reader.read(step).work for step in steps), ReadWork())


def producer_ms(loader: ClipLoader, plan: TrainPlan) -> float:
    """CPU time of one thread for all but decoding of a batch, ms: plan, read, check, join, what DALI is fed.

    Of H.264 on a CPU, which is decoded before DALI is fed: plan, read and check alone.
    """
    reader, decoder = StepReader(plan.index, plan, rows=slice(0, plan.global_batch_size)), loader.decoder
    is_fed = not isinstance(decoder, SimpleEngine) and (plan.index.codec == "filmstrip" or loader.device.type == "cuda")
    taken_s = []
    for step in range(PRODUCER_STEPS):
        started = time.thread_time()
        reader.fetch(step + loader.settings.read_ahead)
        read = reader.read(step)
        if is_fed:
            decoder.inputs(read)
        taken_s.append(time.thread_time() - started)
    return 1000 * median(taken_s[loader.settings.read_ahead :])


def warmup_batches(settings: LoaderSettings, *, codec: str, on_gpu: bool) -> int:
    """More than wait ready when a turn begins: handed over, in the thread's hand, in DALI's queues, one more.

    >>> [warmup_batches(LoaderSettings(prefetch=2, queue_depth=3), codec=c, on_gpu=True) for c in ("filmstrip", "h264")]
    [7, 10]
    """
    return settings.prefetch + settings.queue_depth * settings.pipelines(codec=codec, on_gpu=on_gpu) + 2
