"""Features of THUMOS14 windows: the clip that stands for each through a network, a row of a feature file each."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import Batch
from res3d_video.pipeline.plan import PlannedClips, crop_room, stored_clip
from res3d_video.train.config import from_dict
from res3d_video.train.evaluation.features.files import Features
from res3d_video.train.evaluation.features.parted import PartedExtraction, describe_run
from res3d_video.train.evaluation.features.parts import PartFeatures
from res3d_video.train.evaluation.thumos14.segments import WINDOW_CLIP
from res3d_video.train.evaluation.thumos14.windows import WindowList
from res3d_video.train.models import check_clip


class WindowPlan:
    """The centre-cropped clips of windows of one length, in order; the last batch is padded with weight 0.

    Args:
        samples: Row of the index of each window, int64 [W].
        starts: First source frame of each, int64 [W].
        spec: Of the clips; their frames are the first of each equal part of the window.

    Raises:
        ValueError: The shards dropped frames that the clips begin with.
    """

    start_multiple = 1

    def __init__(
        self, index: ShardIndex, samples: np.ndarray, starts: np.ndarray, spec: ClipSpec, *, global_batch_size: int
    ) -> None:
        if (starts % index.frame_step).any():
            raise UserError(f"{index.name}: stores every {index.frame_step}. frame; build shards with all of them")
        self.index, self.spec, self.global_batch_size = index, spec, global_batch_size
        self.stored_spec = stored_clip(spec, frame_step=index.frame_step)
        self._samples, self._starts = samples, starts // index.frame_step
        crop_room(index.content[samples], spec, stored_size=index.size)

    @property
    def num_steps(self) -> int:
        return -(-len(self._samples) // self.global_batch_size)

    @property
    def identity(self) -> str:
        return f"windows {self.index.fingerprint} n={len(self._samples)} {self.spec}"

    def batch(self, step: int) -> PlannedClips:
        """The batch of a step; a clip's position is its window's place."""
        first = step * self.global_batch_size
        position = np.arange(first, first + self.global_batch_size, dtype=np.int64)
        real = position < len(self._samples)
        place = np.minimum(position, len(self._samples) - 1)
        sample = self._samples[place]
        down, sideways = crop_room(self.index.content[sample], self.spec, stored_size=self.index.size)
        return PlannedClips(
            position=np.where(real, position, -1),
            sample=sample,
            start=self._starts[place],
            view=np.zeros(len(position), np.int64),
            top=(down - 1) // 2,
            left=(sideways - 1) // 2,
            flip=np.zeros(len(position), bool),
            weight=real.astype(np.float32),
        )

    def replacement(self, clip: PlannedClips, attempt: int) -> None:
        """Nothing may stand in for a window."""
        return None


def samples_of_windows(index: ShardIndex, windows: WindowList) -> np.ndarray:
    """Row of the index of each window's video, found by its file name without the suffix: int64 [W].

    Raises:
        ValueError: A video is not in the shards, is there more than once, or ends before one of its windows.
    """
    names = [Path(source.decode()).stem for source in index.sources.tolist()]
    row_of = {name: row for row, name in enumerate(names)}
    listed, which = np.unique(windows.videos, return_inverse=True)
    for video in listed.tolist():
        if names.count(video) != 1:
            raise UserError(f"{index.name}: video {video} is there {names.count(video)} times; windows need it once")
    samples = np.array([row_of[video] for video in listed.tolist()], np.int64)[which]
    ends = index.num_frames[samples].astype(np.int64) * index.frame_step
    late = np.flatnonzero(windows.frames[:, 1] > ends)
    if len(late):
        key, row = windows.keys[late[0]], late[0]
        raise UserError(f"{index.name}: window {key} ends after the video's {ends[row]} frames; list windows anew")
    return samples


class WindowExtraction(PartedExtraction):
    """Features of windows: 16 frames of each, whatever the network was trained on; a part so many of one length.

    A row is a window: its key, and the video, label and side of the split that it is of. Rows come by length, then as
    the windows are listed.

    Args:
        state: Of a checkpoint.
        layers: Names as `take_layers` has them.
        out: The feature file.

    Raises:
        ValueError: There are no windows, the shards lack videos or frames of them, or the network takes other clips.
    """

    def __init__(
        self,
        state: dict[str, Any],
        index: ShardIndex,
        windows: WindowList,
        layers: Sequence[str],
        *,
        out: Path,
        device: torch.device,
        dtype: str = "float16",
        windows_per_part: int = 1024,
    ) -> None:
        if not len(windows):
            raise UserError("windows: there are none; videos of fewer than 16 frames have none")
        config = from_dict(state["config"])
        check_clip(config.model.name, num_frames=WINDOW_CLIP, crop_size=config.clip.crop_size)
        self.windows, self.samples = windows, samples_of_windows(index, windows)
        self.parts = cut_windows(windows.lengths, windows_per_part=windows_per_part)
        about = describe_run(state, index, device=device) | {
            "windows": hashlib.sha256("\n".join(windows.keys).encode()).hexdigest(),
            "clip": asdict(config.clip) | {"num_frames": WINDOW_CLIP, "frame_stride": f"window / {WINDOW_CLIP}"},
            "layers": list(layers),
            "dtype": dtype,
            "per_clip": True,
            "windows_per_part": windows_per_part,
        }
        super().__init__(state, index, about=about, num_parts=len(self.parts), out=out, device=device)

    def plan_of(self, part: int, *, batch_size: int) -> WindowPlan:
        """The clips of a part's windows."""
        rows = self.parts[part]
        stride = int(self.windows.lengths[rows[0]]) // WINDOW_CLIP
        spec = replace(self.config.clip, num_frames=WINDOW_CLIP, frame_stride=stride)
        starts = self.windows.frames[rows, 0]
        return WindowPlan(self.index, self.samples[rows], starts, spec, global_batch_size=batch_size)

    def rows_of(self, part: int) -> "WindowRows":
        """Their rows."""
        rows = self.parts[part]
        return WindowRows(self.index, self.samples[rows], self.windows.take(rows))


class WindowRows:
    """Takes in the batches of one part and makes a row of each window that could be decoded.

    Args:
        samples: Row of the index of each window, int64 [W].
        windows: All of one length.
    """

    def __init__(self, index: ShardIndex, samples: np.ndarray, windows: WindowList) -> None:
        self._clips, self._windows = PartFeatures(index, np.unique(samples), per_clip=True), windows

    def add(self, batch: Batch, layers: dict[str, Tensor]) -> None:
        """Count one batch: layers [N, …] of its clips; those with weight 0 are left out."""
        self._clips.add(batch, layers)

    def finish(self, about: dict[str, Any], *, dtype: str) -> Features:
        """The rows; the keys of windows without one are `unreadable`.

        Raises:
            ValueError: A feature is not finite, or too large for `dtype`.
        """
        made = self._clips.finish(about, dtype=dtype)
        videos = np.array([Path(source).stem for source in made.sources.tolist()], np.str_)
        frames = made.starts[:, None] + np.array([0, self._windows.lengths[0]])  # [R, 2]
        keys = WindowList(videos, frames, np.ones(len(videos))).keys
        lost = sorted({*self._windows.keys} - {*keys})
        return replace(made, keys=np.array(keys, np.str_), unreadable=np.array(lost, np.str_))


def cut_windows(lengths: np.ndarray, *, windows_per_part: int) -> list[np.ndarray]:
    """Rows of so many windows of one length at a time, int64 [w] each; shorter windows first.

    >>> [rows.tolist() for rows in cut_windows(np.array([16, 32, 16, 16]), windows_per_part=2)]
    [[0, 2], [3], [1]]
    """
    by_length = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
    return [
        rows[first : first + windows_per_part] for rows in by_length for first in range(0, len(rows), windows_per_part)
    ]
