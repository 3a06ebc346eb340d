"""The thread that keeps batches ready: it plans, reads, has DALI decode, and survives pictures that do not."""

import itertools
import queue
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.graph import GraphSpec, build_graph, graph_inputs
from pipeline.plan import Plan
from pipeline.shard import ShardIndex
from pipeline.step_reader import LoaderError, ReadStep, StepReader

QUEUE_POLL_S = 0.2


@dataclass(frozen=True)
class LoaderSettings:
    """How a loader works; nothing here changes what it delivers. `tools/bench_loader.py --autotune` finds the best.

    Attributes:
        num_threads: DALI's CPU threads.
        prefetch: Batches that wait ready at most.
        queue_depth: Batches that DALI works on at a time.
        hw_decoder_load: Share of the pictures for a GPU's JPEG engines; its cores take the rest. A CPU ignores it.
        read_ahead: Steps whose bytes the system is asked to fetch from disk before they are needed; 0 for none.
    """

    num_threads: int = 2
    prefetch: int = 2
    queue_depth: int = 2
    hw_decoder_load: float = 0.65
    read_ahead: int = 4

    def __post_init__(self) -> None:
        for name, least in (("num_threads", 1), ("prefetch", 1), ("queue_depth", 1), ("read_ahead", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is not possible; choose at least {least}")
        if not 0 <= self.hw_decoder_load <= 1:
            raise ValueError(f"hw_decoder_load: {self.hw_decoder_load} is not possible; choose 0 to 1")


@dataclass
class Made:
    """A batch as it waits in the queue: DALI's tensor [N, T, H, W, 3], and what must live as long as it is read."""

    read: ReadStep
    clips: Any
    labels: Tensor
    weights: Tensor
    inputs: Any
    ready: torch.cuda.Event | None = None  # when labels and weights have arrived on a GPU


class Producer:
    """Makes the batches of a plan from a step on, ahead of `take`, until it is closed."""

    def __init__(
        self,
        index: ShardIndex,
        plan: Plan,
        reader: StepReader,
        graph: GraphSpec,
        *,
        settings: LoaderSettings,
        first_step: int,
    ) -> None:
        self._index, self._plan, self._reader, self._graph, self._settings = index, plan, reader, graph, settings
        self._stop = threading.Event()
        self._ready: queue.Queue[Made | BaseException] = queue.Queue(maxsize=settings.prefetch)
        self._thread = threading.Thread(target=self._run, args=(first_step,), name="clip-loader", daemon=True)
        self._thread.start()

    def take(self) -> Made:
        """The next batch; waits for it. Raises what stopped the thread."""
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """End the thread, whatever it does."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=QUEUE_POLL_S)  # make room if it waits to put
            except queue.Empty:
                continue
        self._thread.join()

    def _put(self, item: Made | BaseException) -> None:
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
        last = step + self._settings.queue_depth + 2  # DALI was at most that far ahead
        if self._plan.num_steps is not None:
            last = min(last, self._plan.num_steps)
        if not self._reader.find_undecodable(range(step, last)):
            raise LoaderError(f"step {step}: DALI failed on pictures that decode: {last_line(error)}") from error

    def _decode_from(self, first: int) -> Iterator[Made]:
        """Batches from a step on."""
        underway: deque[tuple[ReadStep, Any]] = deque()  # with the inputs, which DALI reads in place
        steps = itertools.count(first) if self._plan.num_steps is None else iter(range(first, self._plan.num_steps))

        def feed() -> tuple[Any, ...]:
            step = next(steps)  # StopIteration ends the pipeline too
            self._fetch_ahead(step, first=first)
            read = self._reader.read(step)
            clips, content = read.clips, self._index.content[read.clips.sample]
            inputs = graph_inputs(
                self._graph, read.jpegs, read.located, top=clips.top, left=clips.left, flip=clips.flip, content=content
            )
            underway.append((read, inputs))
            return inputs

        pipe = build_graph(self._graph, feed)
        stream = torch.cuda.Stream(self._graph.gpu) if self._graph.gpu is not None else None
        while True:
            try:
                (output,) = pipe.run(stream)  # with a stream, the host does not wait for the GPU
            except StopIteration:
                return
            read, inputs = underway.popleft()
            labels = torch.from_numpy(self._index.labels[read.clips.sample].astype(np.int64))
            made = Made(read, output.as_tensor(), labels, torch.from_numpy(read.clips.weight), inputs)
            if stream is not None:
                with torch.cuda.stream(stream):
                    made.labels = made.labels.pin_memory().to(stream.device, non_blocking=True)
                    made.weights = made.weights.pin_memory().to(stream.device, non_blocking=True)
                    made.ready = stream.record_event()
            yield made

    def _fetch_ahead(self, step: int, *, first: int) -> None:
        """Before a step is read, ask the disk for the one that is `read_ahead` later; at first, for all up to it."""
        ahead = self._settings.read_ahead
        for later in range(step + 1 if step == first else step + max(ahead, 1), step + ahead + 1):
            self._reader.fetch(later)


def last_line(error: BaseException) -> str:
    """The line of one of DALI's long messages that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next(
        (line for line in lines if line.startswith(("[", "Assert", "nvImageCodec"))),
        lines[0] if lines else "no message",
    )
