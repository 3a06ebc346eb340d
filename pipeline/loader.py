"""ClipLoader: iterate batches of clips, on a GPU or a CPU, and go on exactly where a state says."""

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.graph import GraphSpec, build_graph, graph_inputs
from pipeline.plan import Plan, rank_rows
from pipeline.shard import ShardIndex
from pipeline.step_reader import LoaderError, ReadStep, StepReader

__all__ = ["Batch", "ClipLoader", "LoaderError", "LoaderSettings"]

STEPS_UNDERWAY = 4  # more than DALI prefetches; where to look for the picture that it failed on
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
class Batch:
    """One rank's share of a step.

    Attributes:
        clips: [N, 3, T, H, W] RGB, (value - mean) / std; float16 on a GPU, float32 on a CPU; channels_last_3d.
        labels: int64 [N].
        weights: float32 [N]; 1, or 0 for a clip that must not count.
        samples, starts, views: int64 [N]; row of the index, first source frame, which of the sample's clips.
        step: Of the plan, 0-based.
        num_real_global: Clips of weight 1 that the plan has for this step, over all ranks.
    """

    clips: Tensor
    labels: Tensor
    weights: Tensor
    samples: np.ndarray
    starts: np.ndarray
    views: np.ndarray
    step: int
    num_real_global: int


class ClipLoader:
    """Batches of a plan, prepared ahead in a thread of its own.

    Iterating goes on after the last batch handed out and ends with the plan: never, for a `TrainPlan`. A sample whose
    bytes fail their checksum or do not decode is replaced by the plan's next good one in training and gets weight 0 in
    evaluation; `num_replaced` counts them and `bad_samples` names them.

    Args:
        rank, world_size: This process's place; it gets rows [rank × N, (rank + 1) × N) of each global batch.
        device: "cpu", or a CUDA device, where decoding then happens too.
        settings: How it works; none of it changes what it delivers.
        mean, std: One value, or three (RGB). The paper subtracts 128 and does not scale (section 3).

        whole_strips: Decode whole strips and cut afterwards. The default does so on a GPU: nvJPEG wants whole pictures,
            while a CPU decodes just the tiles and columns of the crop in half the time.

    Raises:
        ValueError: The ranks cannot share the global batch.

    Example:
        index = open_index(Path("shards/ucf101"))
        plan = TrainPlan(index, index.samples_of("1", "train"), ClipSpec(), global_batch_size=32, seed=0)
        with ClipLoader(index, plan) as loader:
            for batch in loader:
                step(batch.clips, batch.labels)
    """

    def __init__(
        self,
        index: ShardIndex,
        plan: Plan,
        *,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        settings: LoaderSettings | None = None,
        mean: float | tuple[float, ...] = 128.0,
        std: float | tuple[float, ...] = 1.0,
        whole_strips: bool | None = None,
    ) -> None:
        self._index, self._plan = index, plan
        self.settings = settings or LoaderSettings()
        rows = rank_rows(plan.global_batch_size, rank=rank, world_size=world_size)
        self.batch_size = rows.stop - rows.start
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        whole_strips = on_gpu if whole_strips is None else whole_strips
        self._reader = StepReader(index, plan, rows=rows, whole_strips=whole_strips)
        self._graph = GraphSpec(
            batch_size=self.batch_size,
            clip=plan.spec,
            layout=index.layout,
            num_slots=self._reader.num_slots,
            whole_strips=whole_strips,
            stored_size=index.size,
            gpu=(self.device.index or 0) if on_gpu else None,
            num_threads=self.settings.num_threads,
            mean=per_channel(mean),
            std=per_channel(std),
        )
        self._step = 0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._ready: queue.Queue[Any] = queue.Queue()
        self.data_wait_s = 0.0
        self.num_replaced = 0

    @property
    def bad_samples(self) -> list[str]:
        """Keys of the samples found damaged so far."""
        return [self._index.key(sample) for sample in sorted(self._reader.bad)]

    def __iter__(self) -> Iterator[Batch]:
        num_steps = self._plan.num_steps
        while num_steps is None or self._step < num_steps:
            if self._thread is None:
                self._start()
            started = time.perf_counter()
            item = self._ready.get()
            self.data_wait_s += time.perf_counter() - started
            if isinstance(item, BaseException):
                self.close()
                raise item
            batch, done, replaced = item
            if done is not None:  # the trainer's stream waits for the copy on the loader's; the host does not
                stream = torch.cuda.current_stream(self.device)
                stream.wait_event(done)
                for tensor in (batch.clips, batch.labels, batch.weights):
                    tensor.record_stream(stream)
            self._step += 1
            self.num_replaced += replaced
            yield batch
        self.close()
        self._step = 0  # a finite plan can be iterated again

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch handed out; nothing else decides what comes next."""
        return {
            "position": self._step * self._plan.global_batch_size,
            "global_batch_size": self._plan.global_batch_size,
            "plan": self._plan.identity,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batch that `state` was taken at; the number of ranks may be another.

        Raises:
            ValueError: The state is of other data, clips or seed, or lies inside a batch of this size.
        """
        if state["plan"] != self._plan.identity:
            raise ValueError(f"loader state: it was taken from «{state['plan']}», this is «{self._plan.identity}»")
        step, rest = divmod(state["position"], self._plan.global_batch_size)
        if rest:
            raise ValueError(
                f"global_batch_size: {self._plan.global_batch_size} does not divide the {state['position']} clips "
                f"already read; choose {state['global_batch_size']} as before"
            )
        self.close()
        self._step = step

    def close(self) -> None:
        """Stop preparing; iterating again starts anew after the last batch handed out."""
        if self._thread is None:
            return
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=QUEUE_POLL_S)  # make room for a producer that waits to put
            except queue.Empty:
                continue
        self._thread.join()
        self._thread = None

    def __enter__(self) -> "ClipLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._stop = threading.Event()
        self._ready = queue.Queue(maxsize=self.settings.prefetch)
        self._thread = threading.Thread(
            target=self._produce, args=(self._step, self._stop, self._ready), name="clip-loader", daemon=True
        )
        self._thread.start()

    def _produce(self, step: int, stop: threading.Event, ready: queue.Queue) -> None:
        """The thread: decode step after step; a failed decode costs a new graph, never the run."""

        def put(item: Any) -> None:
            while not stop.is_set():
                try:
                    return ready.put(item, timeout=QUEUE_POLL_S)
                except queue.Full:
                    continue

        try:
            while not stop.is_set():
                failed = None
                try:
                    for item in self._decode_from(step):
                        put(item)
                        step += 1
                        if stop.is_set():
                            return
                    return
                except LoaderError:
                    raise  # the reader's own last word; no picture to look for
                except RuntimeError as error:  # DALI's word for anything; the pipeline is dead after it
                    failed = error
                last = step + STEPS_UNDERWAY
                if self._plan.num_steps is not None:
                    last = min(last, self._plan.num_steps)
                if not self._reader.find_undecodable(range(step, last)):
                    raise LoaderError(
                        f"step {step}: DALI failed on pictures that decode: {_last_line(failed)}"
                    ) from failed
        except BaseException as error:
            put(error)

    def _decode_from(self, step: int) -> Iterator[tuple[Batch, Any, int]]:
        """Batches from `step` on, each with the CUDA event that says it is whole, and its number of replacements."""
        underway: deque[ReadStep] = deque()
        steps = itertools.count(step) if self._plan.num_steps is None else iter(range(step, self._plan.num_steps))

        def feed() -> tuple[list[Any], ...]:
            read = self._reader.read(next(steps))  # StopIteration ends the pipeline too
            underway.append(read)
            clips, content = read.clips, self._index.content[read.clips.sample]
            return graph_inputs(
                self._graph, read.jpegs, read.located, top=clips.top, left=clips.left, flip=clips.flip, content=content
            )

        pipe = build_graph(self._graph, feed)
        stream = torch.cuda.Stream(self.device) if self._graph.gpu is not None else None
        while True:
            try:
                (output,) = pipe.run()
            except StopIteration:
                return
            yield self._batch(underway.popleft(), output, stream)

    def _batch(self, read: ReadStep, output: Any, stream: Any) -> tuple[Batch, Any, int]:
        labels = torch.from_numpy(self._index.labels[read.clips.sample].astype(np.int64))
        weights = torch.from_numpy(read.clips.weight)
        done = None
        if stream is None:
            pictures = torch.from_numpy(np.array(output.as_tensor()))  # a copy: DALI writes over its own
        else:
            with torch.cuda.stream(stream):
                pictures = torch.from_dlpack(output.as_tensor()).clone()  # a copy on the GPU: DALI writes over its own
                labels = labels.pin_memory().to(self.device, non_blocking=True)
                weights = weights.pin_memory().to(self.device, non_blocking=True)
                done = stream.record_event()
        batch = Batch(
            clips=pictures.permute(0, 4, 1, 2, 3),  # [N, T, H, W, 3] seen as [N, 3, T, H, W]
            labels=labels,
            weights=weights,
            samples=read.clips.sample,
            starts=read.clips.start * self._index.frame_step,
            views=read.clips.view,
            step=read.step,
            num_real_global=read.num_real_global,
        )
        return batch, done, read.num_replaced


def per_channel(value: float | tuple[float, ...]) -> tuple[float, ...]:
    """One value for all channels, or three.

    >>> per_channel(128.0)
    (128.0, 128.0, 128.0)
    """
    values = (float(value),) * 3 if isinstance(value, int | float) else tuple(map(float, value))
    if len(values) != 3:
        raise ValueError(f"mean and std: {len(values)} values for 3 channels; give one or three")
    return values


def _last_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next(
        (line for line in lines if line.startswith(("[", "Assert", "nvImageCodec"))),
        lines[0] if lines else "no message",
    )
