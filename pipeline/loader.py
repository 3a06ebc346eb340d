"""ClipLoader: iterate batches of clips, on a GPU or a CPU, and go on exactly where a state says."""

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
import torch
from torch import Tensor

from pipeline.clip import frame_indices, num_starts
from pipeline.filmstrip import ClipStrips, blank_tile, clip_strips, max_slots
from pipeline.graph import GraphSpec, build_graph, graph_inputs
from pipeline.plan import Plan, PlannedClips, crop_room, rank_rows
from pipeline.shard import ShardIndex, StripReader

MAX_REPLACEMENTS = 100  # bad samples in a row before the loader says that the data is broken
QUEUE_POLL_S = 0.2


class LoaderError(RuntimeError):
    """The loader cannot go on; the message is one line."""


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


@dataclass
class _Prepared:
    """A step ready to be decoded: its clips after replacement, the graph's inputs."""

    step: int
    clips: PlannedClips
    strips: np.ndarray  # int64 [N, S], strips of the index; -1 for a blank
    inputs: tuple[list[Any], ...]
    num_real_global: int


class ClipLoader:
    """Batches of a plan, prepared ahead in a thread of its own.

    Iterating goes on after the last batch handed out and ends with the plan: never, for a `TrainPlan`. A sample whose
    bytes fail their checksum or do not decode is replaced by the plan's next good one in training and gets weight 0 in
    evaluation; `num_replaced` counts them and `bad_samples` names them.

    Args:
        rank, world_size: This process's place; it gets rows [rank × N, (rank + 1) × N) of each global batch.
        device: "cpu", or a CUDA device, where decoding then happens too.
        num_threads: DALI's CPU threads.
        prefetch: Batches that wait ready at most.
        mean, std: One value, or three (RGB). The paper subtracts 128 and does not scale (section 3).

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
        num_threads: int = 2,
        prefetch: int = 2,
        mean: float | tuple[float, ...] = 128.0,
        std: float | tuple[float, ...] = 1.0,
    ) -> None:
        self._index, self._plan = index, plan
        self._rows = rank_rows(plan.global_batch_size, rank=rank, world_size=world_size)
        self.batch_size = self._rows.stop - self._rows.start
        self.device = torch.device(device)
        self._graph = GraphSpec(
            batch_size=self.batch_size,
            clip=plan.spec,
            layout=index.layout,
            num_slots=max_slots(plan.stored_spec, index.layout),
            stored_size=index.size,
            gpu=None if self.device.type == "cpu" else (self.device.index or 0),
            num_threads=num_threads,
            mean=per_channel(mean),
            std=per_channel(std),
        )
        self._reader = StripReader(index)
        self._blank = np.frombuffer(blank_tile(index.layout), np.uint8)
        self._bad: set[int] = set()
        self._prefetch = prefetch
        self._step = 0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._ready: queue.Queue[Any] = queue.Queue()
        self.data_wait_s = 0.0
        self.num_replaced = 0

    @property
    def bad_samples(self) -> list[str]:
        """Keys of the samples found damaged so far."""
        return [self._index.key(sample) for sample in sorted(self._bad)]

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
            if (
                done is not None
            ):  # the copy was made on the loader's stream; the trainer's waits for it, the host does not
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
        self._ready = queue.Queue(maxsize=self._prefetch)
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
                except RuntimeError as error:  # DALI's word for anything; the pipeline is dead after it
                    failed = error
                if not self._find_undecodable(step):
                    raise LoaderError(
                        f"step {step}: DALI failed on pictures that decode: {_last_line(failed)}"
                    ) from failed
        except BaseException as error:
            put(error)

    def _decode_from(self, step: int) -> Iterator[tuple[Batch, Any, int]]:
        """Batches from `step` on, each with the CUDA event that says it is whole, and its number of replacements."""
        underway: deque[_Prepared] = deque()
        steps = iter(range(step, self._plan.num_steps) if self._plan.num_steps is not None else _count_from(step))

        def feed() -> tuple[list[Any], ...]:
            underway.append(self._prepare(next(steps)))  # StopIteration ends the pipeline too
            return underway[-1].inputs

        pipe = build_graph(self._graph, feed)
        stream = torch.cuda.Stream(self.device) if self._graph.gpu is not None else None
        while True:
            try:
                (output,) = pipe.run()
            except StopIteration:
                return
            yield self._batch(underway.popleft(), output, stream)

    def _batch(self, prepared: _Prepared, output: Any, stream: Any) -> tuple[Batch, Any, int]:
        clips = prepared.clips
        labels = torch.from_numpy(self._index.labels[clips.sample].astype(np.int64))
        weights = torch.from_numpy(clips.weight)
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
            samples=clips.sample,
            starts=clips.start * self._index.frame_step,
            views=clips.view,
            step=prepared.step,
            num_real_global=prepared.num_real_global,
        )
        planned = self._plan.batch(prepared.step)[self._rows]
        replaced = int(((planned.sample != clips.sample) | (planned.weight != clips.weight)).sum())
        return batch, done, replaced

    def _prepare(self, step: int) -> _Prepared:
        """Read and check the strips of a step; put good samples in the place of bad ones."""
        planned = self._plan.batch(step)
        clips = PlannedClips(**{name: value.copy() for name, value in vars(planned[self._rows]).items()})
        located = self._locate(clips)
        strips = self._strip_numbers(clips, located)
        jpegs = [[self._blank] * len(clips) for _ in range(self._graph.num_slots)]
        for n in range(len(clips)):
            read = self._read(int(clips.sample[n]), strips[n])
            attempt = 0
            while read is None:
                attempt += 1
                self._replace(clips, n, attempt)
                one = self._locate(clips[n : n + 1])
                for name, value in vars(located).items():
                    value[n] = getattr(one, name)[0]
                if clips.weight[n] == 0:  # nothing may take its place: blank pictures, counted for nothing
                    located.strips[n], located.first_tile[n], located.last_tile[n], located.order[n] = (
                        -1,
                        0,
                        1,
                        0,
                    )
                strips[n] = self._strip_numbers(
                    clips[n : n + 1], ClipStrips(*(v[n : n + 1] for v in vars(located).values()))
                )
                read = self._read(int(clips.sample[n]), strips[n])
            for slot, jpeg in enumerate(read):
                jpegs[slot][n] = jpeg
        inputs = graph_inputs(
            self._graph,
            jpegs,
            located,
            top=clips.top,
            left=clips.left,
            flip=clips.flip,
            content=self._index.content[clips.sample],
        )
        return _Prepared(step, clips, strips, inputs, int(planned.weight.sum()))

    def _locate(self, clips: PlannedClips) -> ClipStrips:
        """Strips, tiles and order of some clips."""
        frames = frame_indices(clips.start, self._plan.stored_spec, video_frames=self._index.num_frames[clips.sample])
        return clip_strips(
            frames,
            self._index.layout,
            num_slots=self._graph.num_slots,
            whole_strips=not self._graph.crops_while_decoding,
        )

    def _strip_numbers(self, clips: PlannedClips, located: ClipStrips) -> np.ndarray:
        """Strips of the sample to strips of the index; -1 stays -1."""
        first = self._index.first_strip[clips.sample][:, None]
        return np.where(located.strips >= 0, first + located.strips, -1)

    def _read(self, sample: int, strips: np.ndarray) -> list[np.ndarray] | None:
        """A clip's pictures; None when the sample is damaged."""
        if sample in self._bad and np.any(strips >= 0):
            return None
        read = [self._blank if strip < 0 else self._reader.read(int(strip)) for strip in strips]
        if any(jpeg is None for jpeg in read):
            self._bad.add(sample)
            return None
        return read  # type: ignore[return-value]  # no None is left in it

    def _replace(self, clips: PlannedClips, n: int, attempt: int) -> None:
        """Put the plan's next sample in the place of a bad one, or take the clip's weight away."""
        if attempt > MAX_REPLACEMENTS:
            raise LoaderError(
                f"{self._index.data_dir}: {MAX_REPLACEMENTS} samples in a row are damaged; run tools/check_shards.py"
            )
        sample = self._plan.replacement(int(clips.position[n]), attempt)
        if sample is None:
            clips.weight[n] = 0
            return
        clips.sample[n] = sample
        clips.start[n] %= num_starts(self._plan.stored_spec, video_frames=self._index.num_frames[sample])
        down, sideways = crop_room(
            self._index.content[sample : sample + 1], self._plan.spec, stored_size=self._index.size
        )
        clips.top[n] %= down[0]
        clips.left[n] %= sideways[0]

    def _find_undecodable(self, step: int) -> bool:
        """Mark the samples of `step` and the steps underway whose strips do not decode; True when there are any."""
        before = len(self._bad)
        ahead = 4  # more than DALI's own prefetch
        last = step + ahead if self._plan.num_steps is None else min(step + ahead, self._plan.num_steps)
        for s in range(step, last):
            prepared = self._prepare(s)
            for sample, strips in zip(prepared.clips.sample, prepared.strips, strict=True):
                if any(not self._decodes(int(strip)) for strip in strips if strip >= 0):
                    self._bad.add(int(sample))
        return len(self._bad) > before

    def _decodes(self, strip: int) -> bool:
        jpeg, layout = self._reader.read(strip), self._index.layout
        try:
            picture = simplejpeg.decode_jpeg(jpeg)
        except ValueError:
            return False
        return picture.shape == (layout.strip_height, layout.tile_width, 3)


def per_channel(value: float | tuple[float, ...]) -> tuple[float, ...]:
    """One value for all channels, or three.

    >>> per_channel(128.0)
    (128.0, 128.0, 128.0)
    """
    values = (float(value),) * 3 if isinstance(value, int | float) else tuple(map(float, value))
    if len(values) != 3:
        raise ValueError(f"mean and std: {len(values)} values for 3 channels; give one or three")
    return values


def _count_from(step: int) -> Iterator[int]:
    while True:
        yield step
        step += 1


def _last_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next(
        (line for line in lines if line.startswith(("[", "Assert", "nvImageCodec"))),
        lines[0] if lines else "no message",
    )
