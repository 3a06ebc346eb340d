"""The thread that keeps batches ready: it reads, decodes with DALI, and recovers from JPEGs that do not decode.

On a GPU each batch is copied into one of a few buffers that are used in turn (`Ring`), about 0.1 ms for 256 clips.
DLPack could lend DALI's own memory without a copy, but DALI 2.4 synchronizes the whole GPU when it is returned.
"""

import itertools
import math
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from res3d_video.pipeline.codecs import UndecodableError
from res3d_video.pipeline.errors import printable
from res3d_video.pipeline.frames import SimpleEngine
from res3d_video.pipeline.plan import Plan, drawn_labels
from res3d_video.pipeline.reader import LoaderError, ReadStep, StepReader
from res3d_video.pipeline.settings import LoaderSettings

if TYPE_CHECKING:
    from res3d_video.pipeline.graph import DaliEngine

QUEUE_POLL_S = 0.2


@dataclass
class Slot:
    """A buffer on a GPU: float16 [N, T, H, W, 3], or as many frames in streams; allocated for the first batch.

    Attributes:
        inputs: The inputs of the batch in the buffer, which DALI reads in place.
        written, read: CUDA events: the batch has arrived; the work that used it is done.
    """

    clips: Any = None
    inputs: Any = None
    written: Any = None
    read: Any = None


class Ring:
    """Buffers that the prefetcher's stream writes and the caller's stream reads, in turn.

    The caller owns a batch until the next one is handed out. Its buffer is overwritten only after the work that was
    queued on the caller's stream by then; the GPU waits for it, not the host.

    Args:
        num_slots: At least 2: one that the caller uses and one to write to.
    """

    def __init__(self, num_slots: int) -> None:
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for _ in range(num_slots):
            self._free.put(Slot())
        self._in_hand: Slot | None = None

    def acquire(self, stream: Any, *, timeout: float) -> Slot:
        """A buffer that `stream` may write to; `queue.Empty` if none is free in time."""
        slot = self._free.get(timeout=timeout)
        if slot.written is not None:
            slot.written.synchronize()  # sync with an old batch: until it was written, DALI reads its inputs
            slot.inputs = None
        if slot.read is not None:
            stream.wait_event(slot.read)
        return slot

    def hand_out(self, slot: Slot, stream: Any) -> None:
        """Give the caller the batch in `slot`, for work on `stream`, and take back the previous one."""
        if self._in_hand is not None:
            self._in_hand.read = stream.record_event()
            self._free.put(self._in_hand)
        self._in_hand = slot
        stream.wait_event(slot.written)


@dataclass
class DecodedBatch:
    """A batch in the queue.

    Clips are [N, T, H, W, 3], or as many frames in streams: a tensor of DALI or torch on a CPU, of a slot on a GPU.
    """

    read: ReadStep
    clips: Any
    labels: Tensor
    weights: Tensor
    slot: Slot | None = None


class Prefetcher:
    """Prepares the batches of a plan from a step on, ahead of `take`, until it is closed."""

    def __init__(
        self,
        plan: Plan,
        reader: StepReader,
        engine: "DaliEngine | SimpleEngine",
        *,
        gpu: int | None,
        settings: LoaderSettings,
        first_step: int,
    ) -> None:
        self._plan, self._reader = plan, reader
        self._engine, self._gpu, self._settings = engine, gpu, settings
        self._stop = threading.Event()
        self._is_stalled = False
        self.ring = Ring(settings.prefetch + 2)  # waiting ones, one of the caller, one to write to
        self._ready: queue.Queue[DecodedBatch | BaseException] = queue.Queue(maxsize=settings.prefetch)
        self._thread = threading.Thread(target=self._run, args=(first_step,), name="clip-loader", daemon=True)
        reader.start(first_step)
        self._thread.start()

    def take(self) -> DecodedBatch:
        """The next batch; blocks. Raises what stopped the thread, or `LoaderError` after `stall_timeout_s`."""
        timeout_s, item = self._settings.stall_timeout_s, None
        while item is None:
            with suppress(queue.Empty):
                item = self._ready.get(timeout=timeout_s or None)
            if item is None and (where := self._reader.whereabouts()):
                self._is_stalled = True
                raise LoaderError(
                    f"no batch for {timeout_s:g} s: {where}; look at that disk or server, then go on with "
                    "--resume auto, or wait longer with --stall-timeout"
                )
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """End the thread; a stalled one is abandoned. `take` raises `LoaderError` if it waits meanwhile."""
        self._stop.set()
        self._reader.stop()
        until_s = time.monotonic() + (self._settings.stall_timeout_s or math.inf)
        while self._thread.is_alive() and not self._is_stalled and time.monotonic() < until_s:
            with suppress(queue.Empty):
                self._ready.get(timeout=QUEUE_POLL_S)  # so that the thread does not block in `put`
        with suppress(queue.Full):
            self._ready.put_nowait(LoaderError("the loader was closed while a batch was waited for"))

    def _put(self, item: DecodedBatch | BaseException) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                return self._ready.put(item, timeout=QUEUE_POLL_S)

    def _run(self, step: int) -> None:
        """The thread's function: decode step after step; after a failed decode, continue with a new graph."""
        try:
            if self._gpu is not None:
                torch.cuda.set_device(self._gpu)  # a new thread begins at device 0
            while not self._stop.is_set():
                try:
                    for batch in self._decode_from(step):
                        self._put(batch)
                        del batch
                        step += 1
                        if self._stop.is_set():
                            return
                    return
                except LoaderError:
                    raise  # of the reader: no picture failed to decode
                except RuntimeError as error:  # of DALI, for any problem; the pipeline cannot be used after it
                    self._find_culprit(step, error)
        except BaseException as error:
            self._put(error)

    def _find_culprit(self, step: int, error: RuntimeError) -> None:
        """Find the clips that DALI failed on, so that they are replaced; `LoaderError` if there are none."""
        last = step + (self._settings.queue_depth + 2) * self._engine.num_pipelines  # DALI is at most that far ahead
        if self._plan.num_steps is not None:
            last = min(last, self._plan.num_steps)
        if not self._reader.find_undecodable(range(step, last)):
            reason = printable(str(error), most=500)
            raise LoaderError(f"step {step}: DALI failed on pictures that decode: {reason}") from error

    def _decode_from(self, first: int) -> Iterator[DecodedBatch]:
        """Batches from a step on; the pipelines take turns."""
        workers = [
            DaliWorker(self._plan, self._reader, self._engine, first + i, self._settings)
            for i in range(self._engine.num_pipelines)
        ]
        stream = torch.cuda.Stream(self._gpu) if self._gpu is not None else None
        try:
            for worker in itertools.cycle(workers):
                batch = self._batch(*worker.take(stream), stream)
                if batch is None:
                    return
                yield batch
                del batch  # frees its memory for the next but one
        except StopIteration:
            return
        finally:
            if stream is not None:
                with suppress(RuntimeError):  # an error of the GPU is already being raised
                    stream.synchronize()  # sync, once: DALI reads inputs until then
            for worker in workers:
                worker.close()

    def _batch(self, read: ReadStep, inputs: Any, clips: Any, stream: Any) -> DecodedBatch | None:
        """A batch with labels and weights, on a GPU copied into a buffer; None if the loader is closed meanwhile."""
        clip = read.clips
        labels, weights = torch.from_numpy(drawn_labels(self._plan.index, clip)), torch.from_numpy(clip.weight)
        if stream is None:
            return DecodedBatch(read, clips, labels, weights)
        while not self._stop.is_set():
            with suppress(queue.Empty):
                slot = self.ring.acquire(stream, timeout=QUEUE_POLL_S)
                slot.inputs = inputs
                return DecodedBatch(read, *to_gpu(slot, clips, labels, weights, stream=stream), slot)
        return None


def to_gpu(slot: Slot, clips: Any, labels: Tensor, weights: Tensor, *, stream: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Copy a batch, its clips into a slot, on the prefetcher's stream; the host does not wait."""
    with torch.cuda.stream(stream):
        if slot.clips is None:
            shape = clips.shape if isinstance(clips, Tensor) else clips.shape()
            slot.clips = torch.empty(tuple(shape), dtype=torch.float16, device=stream.device)
        if isinstance(clips, Tensor):
            slot.clips.copy_(clips.pin_memory(), non_blocking=True)
        else:
            from nvidia.dali.plugin.pytorch import feed_ndarray

            feed_ndarray(clips, slot.clips, cuda_stream=stream)
        labels = labels.pin_memory().to(stream.device, non_blocking=True)
        weights = weights.pin_memory().to(stream.device, non_blocking=True)
        slot.written = torch.cuda.Event(blocking=True)
        slot.written.record(stream)
    return slot.clips, labels, weights


class DaliWorker:
    """One graph and its share of the steps: every `num_pipelines`-th step from `first` on.

    DALI starts at once, so that all workers of a loader work at the same time, not only in turn.
    """

    def __init__(
        self, plan: Plan, reader: StepReader, engine: "DaliEngine | SimpleEngine", first: int, settings: LoaderSettings
    ) -> None:
        self._reader, self._engine = reader, engine
        last = sys.maxsize if plan.num_steps is None else plan.num_steps
        self._steps = iter(steps := range(first, last, engine.num_pipelines))
        self._underway: deque[tuple[ReadStep, Any]] = deque()  # with the inputs, which DALI reads in place
        self._pipe: Any = None
        if isinstance(engine, SimpleEngine) or not steps:
            return
        queue_depth = min(settings.queue_depth, len(steps))
        self._pipe = engine.build(queue_depth=queue_depth)
        for _ in range(queue_depth):
            self._read_next()
        self._pipe.schedule_run()  # the first call runs as many batches as the queue is deep
        self._is_due = False  # whether to feed DALI another batch before one is taken

    def take(self, stream: Any) -> tuple[ReadStep, Any, Any]:
        """The worker's next batch: what was read, DALI's inputs, and the clips, ready on `stream`.

        Raises:
            StopIteration: The plan has ended.
        """
        if self._pipe is None:
            self._read_next()
        elif self._is_due and self._read_next():
            # Not earlier, when the last batch was taken: on a CPU that gives 0.9 times the clips/s.
            self._pipe.schedule_run()
        if not self._underway:
            raise StopIteration
        read, inputs = self._underway.popleft()
        if self._pipe is None:
            return read, None, inputs
        self._is_due = True
        (output,) = self._pipe.outputs(stream)
        return read, inputs, output.as_tensor()

    def close(self) -> None:
        """Destroy the pipeline now and not when it is garbage-collected, which may happen in a forked process, where
        DALI would wait for threads that a fork does not copy."""
        self._pipe = None

    def _read_next(self) -> bool:
        """Read the worker's next step and feed it to the pipeline; False if there is none."""
        step = next(self._steps, None)
        if step is None:
            return False
        while True:
            read = self._reader.read(step)
            try:
                engine = self._engine
                inputs: Any = engine.clips(read) if isinstance(engine, SimpleEngine) else engine.inputs(read)
            except UndecodableError as error:
                self._reader.add_undecodable(read, error.clips)
                continue  # which replaces these clips
            self._underway.append((read, inputs))
            if self._pipe is not None:
                for name, samples in inputs.items():
                    self._pipe.feed_input(name, samples)
            return True
