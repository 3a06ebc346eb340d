"""The thread that keeps batches ready: it plans, reads, has DALI decode, and survives pictures that do not."""

import itertools
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.codecs.segment import UndecodableError
from pipeline.frames import SimpleEngine
from pipeline.index import ShardIndex
from pipeline.plan import Plan, drawn_labels
from pipeline.reader import LoaderError, ReadStep, StepReader
from pipeline.settings import LoaderSettings

if TYPE_CHECKING:
    from pipeline.graph import DaliEngine

QUEUE_POLL_S = 0.2


@dataclass
class DecodedBatch:
    """A batch as it waits in the queue: N × T frames HWC as DALI's or torch's tensor, and what must live as long."""

    read: ReadStep
    clips: Any
    labels: Tensor
    weights: Tensor
    inputs: Any
    ready: torch.cuda.Event | None = None  # when labels and weights have arrived on a GPU


class Prefetcher:
    """Makes the batches of a plan from a step on, ahead of `take`, until it is closed."""

    def __init__(
        self,
        index: ShardIndex,
        plan: Plan,
        reader: StepReader,
        engine: "DaliEngine | SimpleEngine",
        *,
        gpu: int | None,
        settings: LoaderSettings,
        first_step: int,
    ) -> None:
        self._index, self._plan, self._reader = index, plan, reader
        self._engine, self._gpu, self._settings = engine, gpu, settings
        self._stop = threading.Event()
        self._is_stalled = False
        self._ready: queue.Queue[DecodedBatch | BaseException] = queue.Queue(maxsize=settings.prefetch)
        self._thread = threading.Thread(target=self._run, args=(first_step,), name="clip-loader", daemon=True)
        reader.start(first_step)
        self._thread.start()

    def take(self) -> DecodedBatch:
        """The next batch; waits for it. Raises what stopped the thread.

        Raises:
            LoaderError: It does not come in time.
        """
        patience_s = self._settings.stall_timeout_s
        while True:
            try:
                item = self._ready.get(timeout=patience_s or None)
                break
            except queue.Empty:
                where = self._reader.whereabouts()
            if where is not None:
                self._is_stalled = True
                raise LoaderError(
                    f"no batch for {patience_s:g} s: {where}; look at that disk or server, then go on with "
                    "--resume auto, or wait longer with --stall-timeout"
                )
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """End the thread, whatever it does; one that is stalled is left behind. Who waits in `take` gets an error."""
        self._stop.set()
        self._reader.stop()
        until_s = time.monotonic() + (self._settings.stall_timeout_s or math.inf)
        while self._thread.is_alive() and not self._is_stalled and time.monotonic() < until_s:
            try:
                self._ready.get(timeout=QUEUE_POLL_S)  # make room if it waits to put
            except queue.Empty:
                continue
        with suppress(queue.Full):
            self._ready.put_nowait(LoaderError("the loader was closed while a batch was waited for"))

    def _put(self, item: DecodedBatch | BaseException) -> None:
        while not self._stop.is_set():
            try:
                return self._ready.put(item, timeout=QUEUE_POLL_S)
            except queue.Full:
                continue

    def _run(self, step: int) -> None:
        """The thread: decode step after step; a failed decode costs a new graph, never the run."""
        try:
            while not self._stop.is_set():
                try:
                    for made in self._decode_from(step):
                        self._put(made)
                        step += 1
                        if self._stop.is_set():
                            return
                    return
                except LoaderError:
                    raise  # the reader's own last word; no picture to look for
                except RuntimeError as error:  # DALI's word for anything; the pipeline is dead after it
                    self._find_culprit(step, error)
        except BaseException as error:
            self._put(error)

    def _find_culprit(self, step: int, error: RuntimeError) -> None:
        """Remember the samples that DALI failed on, so that they are replaced.

        Raises:
            LoaderError: All pictures that it may have been decoding are in order.
        """
        last = step + (self._settings.queue_depth + 2) * self._engine.num_pipelines  # DALI was at most that far ahead
        if self._plan.num_steps is not None:
            last = min(last, self._plan.num_steps)
        if not self._reader.find_undecodable(range(step, last)):
            raise LoaderError(f"step {step}: DALI failed on pictures that decode: {last_line(error)}") from error

    def _decode_from(self, first: int) -> Iterator[DecodedBatch]:
        """Batches from a step on; the pipelines take turns."""
        lanes = [
            Lane(self._plan, self._reader, self._engine, first + i, self._settings)
            for i in range(self._engine.num_pipelines)
        ]
        stream = torch.cuda.Stream(self._gpu) if self._gpu is not None else None
        try:
            for lane in itertools.cycle(lanes):
                yield self._made(*lane.take(stream), stream)
        except StopIteration:
            return
        finally:
            for lane in lanes:
                lane.close()

    def _made(self, read: ReadStep, inputs: Any, clips: Any, stream: Any) -> DecodedBatch:
        """A batch with its labels and weights, which go to the GPU on the loader's stream."""
        labels = torch.from_numpy(drawn_labels(self._index, read.clips))
        made = DecodedBatch(read, clips, labels, torch.from_numpy(read.clips.weight), inputs)
        if stream is not None:
            with torch.cuda.stream(stream):
                if isinstance(clips, Tensor):
                    made.clips = clips.pin_memory().to(stream.device, non_blocking=True).half()
                made.labels = made.labels.pin_memory().to(stream.device, non_blocking=True)
                made.weights = made.weights.pin_memory().to(stream.device, non_blocking=True)
                made.ready = stream.record_event()
        return made


class Lane:
    """One graph and its share of the steps: from `first` on, every so many as the engine has graphs.

    DALI is at work from the beginning, so that the lanes of a loader work all the time, not only in their turn.
    """

    def __init__(
        self, plan: Plan, reader: StepReader, engine: "DaliEngine | SimpleEngine", first: int, settings: LoaderSettings
    ) -> None:
        self._reader, self._engine = reader, engine
        self._first, self._stride, self._ahead = first, engine.num_pipelines, settings.read_ahead
        last = plan.num_steps
        self._steps = itertools.count(first, self._stride) if last is None else iter(range(first, last, self._stride))
        self._underway: deque[tuple[ReadStep, Any]] = deque()  # with the inputs, which DALI reads in place
        self._pipe: Any = None
        if not isinstance(engine, SimpleEngine):
            self._pipe = engine.build(self._feed)
            self._pipe.schedule_run()  # the first time, as many batches as the queue is deep
        self._scheduled = True

    def take(self, stream: Any) -> tuple[ReadStep, Any, Any]:
        """The lane's next batch: what was read, the inputs made of it, its clips; StopIteration at the end.

        Args:
            stream: CUDA stream that DALI's tensor is ready on, so that the host does not wait for the GPU.
        """
        if self._pipe is None:
            clips = self._feed()
            return *self._underway.popleft(), clips
        if not self._scheduled:
            self._pipe.schedule_run()
        self._scheduled = False
        (output,) = self._pipe.outputs(stream)
        return *self._underway.popleft(), output.as_tensor()

    def close(self) -> None:
        """End the pipeline now. It knows this lane and the lane knows it, so Python would leave it to the collector,
        which may run in a process forked meanwhile; there DALI waits for threads that a fork does not copy."""
        self._pipe = None

    def _feed(self) -> Any:
        """The inputs of the lane's next step, or its clips; StopIteration ends the pipeline too."""
        step = next(self._steps)
        self._fetch_ahead(step)
        while True:
            read = self._reader.read(step)
            try:
                engine = self._engine
                inputs = engine.clips(read) if isinstance(engine, SimpleEngine) else engine.inputs(read)
            except UndecodableError as error:
                self._reader.add_undecodable(read, error.clips)
                continue  # with other samples in the place of these
            self._underway.append((read, inputs))
            return inputs

    def _fetch_ahead(self, step: int) -> None:
        """Before a step is read, ask the disk for one that is `read_ahead` later; at first, for all up to it."""
        furthest = step + -(-self._ahead // self._stride) * self._stride
        for later in range(step + self._stride if step == self._first else furthest, furthest + 1, self._stride):
            if later > step:
                self._reader.fetch(later)


def last_line(error: BaseException) -> str:
    """The line of one of DALI's long messages that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next(
        (line for line in lines if line.startswith(("[", "Assert", "nvImageCodec"))),
        lines[0] if lines else "no message",
    )
