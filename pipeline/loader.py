"""ClipLoader: iterates over batches of clips, on a GPU or a CPU, and resumes exactly from a state."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from res3d_video.pipeline.clip import per_channel
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.frames import SimpleEngine
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.plan import Plan, rank_rows
from res3d_video.pipeline.prefetch import DecodedBatch, Prefetcher
from res3d_video.pipeline.reader import LoaderError, ReadWork, StepReader
from res3d_video.pipeline.settings import LoaderSettings

MEAN = 128.0  # the paper subtracts it from pixels, and does not scale them (section 3)

__all__ = ["MEAN", "Batch", "ClipLoader", "LoaderError", "LoaderSettings"]


@dataclass
class Batch:
    """One rank's share of a step.

    Clips are RGB, (value - mean) / std; float16 on a GPU, float32 on a CPU; channels_last_3d. On a GPU they are in a
    buffer of the loader, valid for work queued before the next batch is taken; clone them to keep them.
    """

    clips: Tensor  # [N, 3, T, H, W]
    labels: Tensor  # int64 [N]
    weights: Tensor  # float32 [N]; 1, or 0 for a clip that must not count
    samples: np.ndarray  # int64 [N], rows of the index
    starts: np.ndarray  # int64 [N], first source frames
    views: np.ndarray  # int64 [N], which of the sample's clips
    step: int
    num_real_global: int  # clips of weight 1 in the plan for this step, over all ranks
    num_replaced: int = 0  # clips of this rank that replace those of damaged samples
    damaged: dict[int, str] = field(default_factory=dict)  # row of each damaged sample -> why
    work: ReadWork = field(default_factory=ReadWork)  # cost of reading it


class ClipLoader:
    """Batches of a plan, prepared ahead in a separate thread.

    Iteration continues after the last batch handed out and ends with the plan, for a `TrainPlan` never. A clip whose
    bytes fail their checksum, are no frames of this dataset or do not decode is replaced by one of the plan's next good
    sample in training and gets weight 0 in evaluation; `num_replaced` counts such clips and `bad_samples` names their
    samples. `work` and `data_wait_s` are totals of the batches handed out so far.

    Args:
        rank, world_size: This process gets rows [rank × N, (rank + 1) × N) of each global batch.
        device: "cpu", or a CUDA device, which then decodes, too.
        settings: How it works; nothing in them changes the batches.
        mean, std: One value, or three (RGB). The paper subtracts 128 and does not scale (section 3).
        whole_pictures: Decode whole JPEGs and crop afterwards; the default on a GPU, as nvJPEG requires. A CPU is
            faster if it decodes only the columns of the crop.

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
        mean: float | tuple[float, ...] = MEAN,
        std: float | tuple[float, ...] = 1.0,
        whole_pictures: bool | None = None,
    ) -> None:
        self._index, self._plan = index, plan
        self.settings = settings or LoaderSettings()
        groups, size = plan.canonical_groups, plan.global_batch_size
        self.rows = rows = rank_rows(size, rank=rank, world_size=world_size, canonical_groups=groups)  # of a batch
        self.batch_size = rows.stop - rows.start
        self.device = torch.device(device)
        self._reader = StepReader(index, plan, rows=rows, read_ahead=self.settings.read_ahead)
        self._gpu = (self.device.index or 0) if self.device.type == "cuda" else None
        self.engine = self.settings.chosen_engine()
        pixels: dict[str, Any] = {"mean": per_channel(mean), "std": per_channel(std)}
        self.decoder: Any
        if self.engine == "simple":
            self.decoder = SimpleEngine(plan, num_threads=self.settings.num_threads, **pixels)
        else:
            from res3d_video.pipeline.graph import DaliEngine  # training works where DALI is not installed

            whole = self._gpu is not None if whole_pictures is None else whole_pictures
            how = {"batch_size": self.batch_size, "gpu": self._gpu, "settings": self.settings}
            self.decoder = DaliEngine(plan, whole_pictures=whole, **how, **pixels)
        self._step = 0
        self._prefetcher: Prefetcher | None = None
        self.data_wait_s = 0.0
        self.num_replaced = 0
        self.work = ReadWork()

    @property
    def bad_samples(self) -> list[str]:
        """Keys of the samples found damaged so far."""
        return [self._index.key(sample) for sample in sorted(self._reader.bad)]

    def __iter__(self) -> Iterator[Batch]:
        num_steps = self._plan.num_steps
        while num_steps is None or self._step < num_steps:
            if self._prefetcher is None:
                how: dict[str, Any] = {"gpu": self._gpu, "settings": self.settings, "first_step": self._step}
                self._prefetcher = Prefetcher(self._plan, self._reader, self.decoder, **how)
            started = time.perf_counter()
            try:
                decoded = self._prefetcher.take()
            except BaseException:
                self.close()
                raise
            self.data_wait_s += time.perf_counter() - started
            self._step += 1
            self.num_replaced += decoded.read.num_replaced
            self.work += decoded.read.work
            yield self._hand_over(decoded)
        self.close()
        self._step = 0  # a finite plan can be iterated again

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch handed out, which decides all that follows."""
        return {
            "position": self._step * self._plan.global_batch_size,
            "global_batch_size": self._plan.global_batch_size,
            "plan": self._plan.identity,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the batch at which `state` was taken; the number of ranks may differ.

        Raises:
            UserError: The state is of other data, clips or seed, or lies inside a batch of this size.
        """
        if state["plan"] != self._plan.identity:
            raise UserError(f"loader state: it was taken from «{state['plan']}», this is «{self._plan.identity}»")
        step, rest = divmod(state["position"], self._plan.global_batch_size)
        if rest:
            raise UserError(
                f"global_batch_size: {self._plan.global_batch_size} does not divide the {state['position']} clips "
                f"already read; choose {state['global_batch_size']} as before"
            )
        self.close()
        self._step = step

    def close(self) -> None:
        """Stop preparing batches; iterating again resumes after the last batch handed out."""
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None

    def __enter__(self) -> "ClipLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hand_over(self, decoded: DecodedBatch) -> Batch:
        """The batch for the caller's current CUDA stream, which waits for it; the host does not wait."""
        clips = decoded.clips
        if decoded.slot is not None and self._prefetcher is not None:
            stream = torch.cuda.current_stream(self.device)
            self._prefetcher.ring.hand_out(decoded.slot, stream)
            for tensor in (decoded.clips, decoded.labels, decoded.weights):  # of the prefetcher's stream
                tensor.record_stream(stream)
        if not torch.is_tensor(clips):
            clips = torch.from_dlpack(clips)  # no copy; in the prefetcher's thread it makes 0.91 times the clips/s
        clips = clips.view(-1, self._plan.spec.num_frames, *clips.shape[-3:])  # streams into clips
        read, planned = decoded.read, decoded.read.clips
        return Batch(
            clips=clips[: self.batch_size].permute(0, 4, 1, 2, 3),  # [N, T, H, W, 3] seen as [N, 3, T, H, W]
            labels=decoded.labels,
            weights=decoded.weights,
            samples=planned.sample,
            starts=planned.start * self._index.frame_step,
            views=planned.view,
            step=read.step,
            num_real_global=read.num_real_global,
            num_replaced=read.num_replaced,
            damaged=read.damaged,
            work=read.work,
        )
