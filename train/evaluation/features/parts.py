"""Parts of a feature extraction: how a dataset is cut, the plan over some parts, the rows of one."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import Batch
from res3d_video.pipeline.plan import Plan, PlannedClips
from res3d_video.train.evaluation.features.files import Features

DTYPES = ("float16", "float32")


def cut_into_parts(index: ShardIndex, samples: np.ndarray, *, videos_per_part: int) -> list[np.ndarray]:
    """Samples of so many videos at a time, int64 [s] each; videos in the order of their names, each in one part."""
    sources = index.sources[samples]
    samples = samples[np.lexsort((samples, sources))]
    _, first = np.unique(index.sources[samples], return_index=True)
    return np.split(samples, first[videos_per_part::videos_per_part])


class FinitePlan(Plan, Protocol):
    """A plan that ends."""

    @property
    def num_steps(self) -> int:
        """Steps until then."""


class PartsPlan:
    """Plans one after another, each beginning with a batch of its own; for one loader to read them all.

    Args:
        plans: Of one index, clip and batch size.
    """

    start_multiple = 1

    def __init__(self, plans: Sequence[FinitePlan]) -> None:
        self.index, self.spec, self.stored_spec = plans[0].index, plans[0].spec, plans[0].stored_spec
        self.global_batch_size = plans[0].global_batch_size
        self._plans = plans
        self._first = np.cumsum([0, *(plan.num_steps for plan in plans)])

    @property
    def num_steps(self) -> int:
        return int(self._first[-1])

    @property
    def identity(self) -> str:
        return " + ".join(plan.identity for plan in self._plans)

    def plan_of(self, step: int) -> tuple[int, bool]:
        """Which of the plans a step belongs to, and whether it is that plan's last."""
        plan = int(np.searchsorted(self._first, step, side="right")) - 1
        return plan, step + 1 == self._first[plan + 1]

    def batch(self, step: int) -> PlannedClips:
        """The batch of a step."""
        plan, _ = self.plan_of(step)
        return self._plans[plan].batch(step - int(self._first[plan]))

    def replacement(self, clip: PlannedClips, attempt: int) -> None:
        """Nothing may stand in for a video."""
        return None


class PartFeatures:
    """Takes in the batches of one part and makes its rows.

    Args:
        samples: Rows of the index, int64 [S], those of a video together.
    """

    def __init__(self, index: ShardIndex, samples: np.ndarray, *, per_clip: bool) -> None:
        self._index, self._samples, self._per_clip = index, samples, per_clip
        sources = index.sources[samples]
        self._video_of = np.cumsum(np.concatenate([[0], sources[1:] != sources[:-1]]))  # [S], 0-based
        self._row_of = {int(sample): row for row, sample in enumerate(samples)}
        self._taken: list[tuple[int, int]] = []  # place in `samples` and first source frame, of every clip
        self._sums: dict[str, np.ndarray] = {}  # layer -> float32 [V, D]
        self._clips: dict[str, list[np.ndarray]] = {}  # layer -> float32 [n, D] of each batch

    def add(self, batch: Batch, layers: dict[str, Tensor]) -> None:
        """Count one batch: layers [N, …] of its clips; those with weight 0 are left out."""
        real = np.flatnonzero(batch.weights.cpu().numpy())  # sync
        rows = np.array([self._row_of[int(sample)] for sample in batch.samples[real]], np.int64)
        self._taken += zip(rows.tolist(), batch.starts[real].tolist(), strict=True)
        for name, values in layers.items():
            flat = values.flatten(1).float().cpu().numpy()[real]  # [n, D]; sync
            if self._per_clip:
                self._clips.setdefault(name, []).append(flat)
            else:
                empty = np.zeros((int(self._video_of[-1]) + 1, flat.shape[1]), np.float32)
                np.add.at(self._sums.setdefault(name, empty), self._video_of[rows], flat)

    def finish(self, about: dict[str, Any], *, dtype: str) -> Features:
        """The rows: videos in the order of `samples`, or clips in the order of their batches.

        Raises:
            ValueError: A feature is not finite, or too large for `dtype`.
        """
        taken = np.array(self._taken, np.int64).reshape(-1, 2)  # [n, 2]
        videos, first, num_clips = np.unique(self._video_of[taken[:, 0]], return_index=True, return_counts=True)
        unread = np.setdiff1d(self._video_of, videos)
        if self._per_clip:
            layers = {name: np.concatenate(clips) for name, clips in self._clips.items()}
            rows, num_clips = taken, np.ones(len(taken), np.int64)
        else:
            layers = {name: sums[videos] / num_clips[:, None] for name, sums in self._sums.items()}
            rows = taken[first]
        for name, values in layers.items():
            if not (np.abs(values) <= np.finfo(dtype).max).all():
                raise UserError(
                    f"{name}: a feature is {np.abs(values).max()}, which {dtype} cannot hold; "
                    "use --dtype float32, or another checkpoint if it is not a number"
                )
        samples = self._samples[rows[:, 0]]
        return Features(
            about=about,
            keys=strings(self._index.keys[samples]),
            sources=strings(self._index.sources[samples]),
            groups=strings(self._index.groups[samples]),
            labels=self._index.labels[samples].astype(np.int64),
            subsets=np.asarray(self._index.subsets[samples], np.int8),
            num_clips=num_clips.astype(np.int64),
            starts=rows[:, 1],
            unreadable=strings(self._index.sources[self._samples[np.searchsorted(self._video_of, unread)]]),
            layers={name: values.astype(dtype) for name, values in layers.items()},
        )


def strings(values: np.ndarray) -> np.ndarray:
    """Bytes, UTF-8, as str; [n]."""
    return np.array([value.decode() for value in values.tolist()], np.str_)
